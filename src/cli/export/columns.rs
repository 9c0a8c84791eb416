//! The columns of an export: the same, under the same names, in every form.
//!
//! An instant is in two columns, itself and `_us`, microseconds since 1970: text has no type that programs agree on, and
//! a query should not have to know which form it reads.

use rust_decimal::Decimal;

use crate::history::{KlineRow, TradeRow};
use crate::market::{Channel, Timestamp};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of a few words.
    Word,
    /// An id, a count, or microseconds.
    Number,
    /// An instant.
    Instant,
    /// An exact decimal.
    Decimal,
    /// True or false.
    Flag,
}

/// Names and kinds, in order.
pub type Columns = &'static [(&'static str, Kind)];

/// Columns of a trade.
pub const TRADE: Columns = &[
    ("exchange", Kind::Word),
    ("symbol", Kind::Word),
    ("trade_id", Kind::Number),
    ("ts", Kind::Instant),
    ("ts_us", Kind::Number),
    ("price", Kind::Decimal),
    ("quantity", Kind::Decimal),
    ("side", Kind::Word),
    ("received_at", Kind::Instant),
    ("received_at_us", Kind::Number),
    ("is_backfilled", Kind::Flag),
];

/// Columns of a kline.
pub const KLINE: Columns = &[
    ("exchange", Kind::Word),
    ("symbol", Kind::Word),
    ("interval", Kind::Word),
    ("open_time", Kind::Instant),
    ("open_time_us", Kind::Number),
    ("close_time", Kind::Instant),
    ("close_time_us", Kind::Number),
    ("open", Kind::Decimal),
    ("high", Kind::Decimal),
    ("low", Kind::Decimal),
    ("close", Kind::Decimal),
    ("volume", Kind::Decimal),
    ("quote_volume", Kind::Decimal),
    ("trade_count", Kind::Number),
    ("first_trade_id", Kind::Number),
    ("last_trade_id", Kind::Number),
    ("is_backfilled", Kind::Flag),
];

/// One value of a row.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// Of [`Kind::Word`].
    Word(&'a str),
    /// Of [`Kind::Number`].
    Number(i64),
    /// Of [`Kind::Instant`].
    Instant(Timestamp),
    /// Of [`Kind::Decimal`].
    Decimal(Decimal),
    /// Of [`Kind::Flag`].
    Flag(bool),
}

/// The columns of a channel that history keeps.
pub fn of(channel: Channel) -> Columns {
    if channel == Channel::Trade { TRADE } else { KLINE }
}

/// A trade, in the order of [`TRADE`].
pub fn trade(row: &TradeRow) -> [Cell<'_>; TRADE.len()] {
    let trade = &row.trade;
    [
        Cell::Word(row.exchange.as_str()),
        Cell::Word(row.symbol.as_str()),
        Cell::Number(trade.id),
        Cell::Instant(trade.ts),
        Cell::Number(trade.ts.micros()),
        Cell::Decimal(trade.price),
        Cell::Decimal(trade.quantity),
        Cell::Word(trade.side.as_str()),
        Cell::Instant(row.received_at),
        Cell::Number(row.received_at.micros()),
        Cell::Flag(row.is_backfilled),
    ]
}

/// A kline, in the order of [`KLINE`].
pub fn kline(row: &KlineRow) -> [Cell<'_>; KLINE.len()] {
    let kline = &row.kline;
    [
        Cell::Word(row.exchange.as_str()),
        Cell::Word(row.symbol.as_str()),
        Cell::Word(kline.interval.as_str()),
        Cell::Instant(kline.open_time),
        Cell::Number(kline.open_time.micros()),
        Cell::Instant(kline.close_time),
        Cell::Number(kline.close_time.micros()),
        Cell::Decimal(kline.open),
        Cell::Decimal(kline.high),
        Cell::Decimal(kline.low),
        Cell::Decimal(kline.close),
        Cell::Decimal(kline.volume),
        Cell::Decimal(kline.quote_volume),
        Cell::Number(kline.trade_count),
        Cell::Number(kline.first_trade_id),
        Cell::Number(kline.last_trade_id),
        Cell::Flag(row.is_backfilled),
    ]
}
