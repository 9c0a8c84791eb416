//! The columns of an export, with the same names in every format.
//!
//! A time has two columns: RFC 3339, and `_us`, microseconds since 1970. Text has no time type that programs agree on,
//! and one query should work for every format.

use crate::history::{KlineRow, TradeRow};
use crate::market::Channel;
use crate::parquet_file::{Cell, Columns, Kind};

/// Prices and quantities of every range fit the same type, so that files of several ranges can be read together.
const DECIMAL: Kind = Kind::Decimal(18);

/// Columns of a trade.
pub const TRADE: Columns = &[
    ("exchange", Kind::Text),
    ("symbol", Kind::Text),
    ("trade_id", Kind::Integer),
    ("ts", Kind::Timestamp),
    ("ts_us", Kind::Integer),
    ("price", DECIMAL),
    ("quantity", DECIMAL),
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
    ("price", DECIMAL),
    ("quantity", DECIMAL),
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
    ("open", DECIMAL),
    ("high", DECIMAL),
    ("low", DECIMAL),
    ("close", DECIMAL),
    ("volume", DECIMAL),
    ("quote_volume", DECIMAL),
    ("trade_count", Kind::Integer),
    ("first_trade_id", Kind::Integer),
    ("last_trade_id", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
];

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
