//! The columns of an export, with the same names in every format.
//!
//! A time has two columns: RFC 3339, and `_us`, microseconds since 1970. Text has no time type that programs agree on,
//! and one query should work for every format.

use std::fmt::Write as _;

use rust_decimal::Decimal;

use crate::history::{KlineRow, TradeRow};
use crate::market::{Channel, Timestamp, plain};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text with few distinct values.
    Text,
    /// An id, a count, or microseconds.
    Integer,
    /// A time, in microseconds since 1970 UTC.
    Timestamp,
    /// An exact decimal.
    Decimal,
    /// True or false.
    Boolean,
}

/// Names and types, in order.
pub type Columns = &'static [(&'static str, Kind)];

/// Columns of a trade.
pub const TRADE: Columns = &[
    ("exchange", Kind::Text),
    ("symbol", Kind::Text),
    ("trade_id", Kind::Integer),
    ("ts", Kind::Timestamp),
    ("ts_us", Kind::Integer),
    ("price", Kind::Decimal),
    ("quantity", Kind::Decimal),
    ("side", Kind::Text),
    ("received_at", Kind::Timestamp),
    ("received_at_us", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
    ("epoch", Kind::Integer),
];

/// Columns of an aggregate trade.
pub const AGG_TRADE: Columns = &[
    ("exchange", Kind::Text),
    ("symbol", Kind::Text),
    ("agg_id", Kind::Integer),
    ("first_trade_id", Kind::Integer),
    ("last_trade_id", Kind::Integer),
    ("ts", Kind::Timestamp),
    ("ts_us", Kind::Integer),
    ("price", Kind::Decimal),
    ("quantity", Kind::Decimal),
    ("side", Kind::Text),
    ("received_at", Kind::Timestamp),
    ("received_at_us", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
    ("epoch", Kind::Integer),
];

/// Columns of a kline.
pub const KLINE: Columns = &[
    ("exchange", Kind::Text),
    ("symbol", Kind::Text),
    ("interval", Kind::Text),
    ("open_time", Kind::Timestamp),
    ("open_time_us", Kind::Integer),
    ("close_time", Kind::Timestamp),
    ("close_time_us", Kind::Integer),
    ("open", Kind::Decimal),
    ("high", Kind::Decimal),
    ("low", Kind::Decimal),
    ("close", Kind::Decimal),
    ("volume", Kind::Decimal),
    ("quote_volume", Kind::Decimal),
    ("trade_count", Kind::Integer),
    ("first_trade_id", Kind::Integer),
    ("last_trade_id", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
];

/// One value of a row.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// Of [`Kind::Text`].
    Text(&'a str),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Timestamp`].
    Timestamp(Timestamp),
    /// Of [`Kind::Decimal`].
    Decimal(Decimal),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
}

impl Cell<'_> {
    /// Appends the value as text, decimals and integers exactly as stored.
    pub fn push_to(&self, text: &mut String) {
        match *self {
            Self::Text(word) => text.push_str(word),
            Self::Timestamp(at) => text.push_str(&format_timestamp(at)),
            Self::Decimal(value) => text.push_str(&plain(value)),
            Self::Integer(value) => write!(text, "{value}").expect("a String accepts every write"),
            Self::Boolean(value) => text.push_str(if value { "true" } else { "false" }),
        }
    }
}

/// RFC 3339 with microseconds, or the bare number when the year is out of range.
fn format_timestamp(at: Timestamp) -> String {
    match at.to_chrono() {
        Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        None => at.micros().to_string(),
    }
}

/// The columns of a channel of history.
pub fn of(channel: Channel) -> Columns {
    match channel {
        Channel::Trade => TRADE,
        Channel::AggTrade => AGG_TRADE,
        Channel::Kline(_) | Channel::BookTicker => KLINE,
    }
}

/// A trade, in the order of [`TRADE`].
pub fn trade(row: &TradeRow) -> [Cell<'_>; TRADE.len()] {
    let trade = &row.trade;
    [
        Cell::Text(row.exchange.as_str()),
        Cell::Text(row.symbol.as_str()),
        Cell::Integer(trade.id),
        Cell::Timestamp(trade.ts),
        Cell::Integer(trade.ts.micros()),
        Cell::Decimal(trade.price),
        Cell::Decimal(trade.quantity),
        Cell::Text(trade.side.as_str()),
        Cell::Timestamp(row.received_at),
        Cell::Integer(row.received_at.micros()),
        Cell::Boolean(row.is_backfilled),
        Cell::Integer(row.epoch),
    ]
}

/// An aggregate trade of trades `first` to `last`, in the order of [`AGG_TRADE`].
pub fn agg_trade(row: &TradeRow, (first, last): (i64, i64)) -> [Cell<'_>; AGG_TRADE.len()] {
    let [exchange, symbol, id, ts, ts_us, price, quantity, side, received_at, received_at_us, backfilled, epoch] =
        trade(row);
    let (first, last) = (Cell::Integer(first), Cell::Integer(last));
    [
        exchange,
        symbol,
        id,
        first,
        last,
        ts,
        ts_us,
        price,
        quantity,
        side,
        received_at,
        received_at_us,
        backfilled,
        epoch,
    ]
}

/// A kline, in the order of [`KLINE`].
pub fn kline(row: &KlineRow) -> [Cell<'_>; KLINE.len()] {
    let kline = &row.kline;
    [
        Cell::Text(row.exchange.as_str()),
        Cell::Text(row.symbol.as_str()),
        Cell::Text(kline.interval.as_str()),
        Cell::Timestamp(kline.open_time),
        Cell::Integer(kline.open_time.micros()),
        Cell::Timestamp(kline.close_time),
        Cell::Integer(kline.close_time.micros()),
        Cell::Decimal(kline.open),
        Cell::Decimal(kline.high),
        Cell::Decimal(kline.low),
        Cell::Decimal(kline.close),
        Cell::Decimal(kline.volume),
        Cell::Decimal(kline.quote_volume),
        Cell::Integer(kline.trade_count),
        Cell::Integer(kline.first_trade_id),
        Cell::Integer(kline.last_trade_id),
        Cell::Boolean(row.is_backfilled),
    ]
}
