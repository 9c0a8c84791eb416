//! The rows of a sealed day: the columns of its file, their cells, and the line of each row that its hash is made of.

use std::fmt::Write as _;

use rust_decimal::Decimal;

use crate::history::{KlineRow, TradeRow};
use crate::market::{Channel, Timestamp, plain};
use crate::parquet_file::{Cell, Kind};

/// Rows of one stream.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Of trades or aggregate trades.
    Trades(Vec<TradeRow>),
    /// Of klines.
    Klines(Vec<KlineRow>),
}

/// One row of a stream.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// A trade or an aggregate trade.
    Trade(&'a TradeRow),
    /// A kline.
    Kline(&'a KlineRow),
}

/// Columns of trades. A decimal's scale is that of the day: its place in [`Scales`].
const TRADE: [(&str, Kind); 9] = [
    ("epoch", Kind::Integer),
    ("trade_id", Kind::Integer),
    ("ts", Kind::Timestamp),
    ("received_at", Kind::Timestamp),
    ("price", Kind::Decimal(0)),
    ("quantity", Kind::Decimal(0)),
    ("side", Kind::Text),
    ("is_backfilled", Kind::Boolean),
    ("version", Kind::Integer),
];

/// Columns of aggregate trades.
const AGG_TRADE: [(&str, Kind); 11] = [
    ("epoch", Kind::Integer),
    ("agg_id", Kind::Integer),
    ("ts", Kind::Timestamp),
    ("received_at", Kind::Timestamp),
    ("price", Kind::Decimal(0)),
    ("quantity", Kind::Decimal(0)),
    ("side", Kind::Text),
    ("first_trade_id", Kind::Integer),
    ("last_trade_id", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
    ("version", Kind::Integer),
];

/// Columns of klines.
const KLINE: [(&str, Kind); 14] = [
    ("interval", Kind::Text),
    ("open_time", Kind::Timestamp),
    ("close_time", Kind::Timestamp),
    ("open", Kind::Decimal(0)),
    ("high", Kind::Decimal(0)),
    ("low", Kind::Decimal(0)),
    ("close", Kind::Decimal(0)),
    ("volume", Kind::Decimal(0)),
    ("quote_volume", Kind::Decimal(0)),
    ("trade_count", Kind::Integer),
    ("first_trade_id", Kind::Integer),
    ("last_trade_id", Kind::Integer),
    ("is_backfilled", Kind::Boolean),
    ("version", Kind::Integer),
];

/// The columns that the rows of a channel are sorted by.
pub const fn sorted_by(channel: Channel) -> &'static [&'static str] {
    match channel {
        Channel::Trade => &["epoch", "trade_id"],
        Channel::AggTrade => &["epoch", "agg_id"],
        Channel::Kline(_) | Channel::BookTicker => &["open_time"],
    }
}

/// The smallest scale of each column of decimals that holds every value exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scales([u8; 6]);

impl Scales {
    /// Of these columns, in their order.
    pub fn new(scales: [u8; 6]) -> Self {
        Self(scales)
    }

    /// Widens the columns so that they hold a row.
    pub fn widen(&mut self, row: Row<'_>) {
        let widen = |scale: &mut u8, value: Decimal| {
            // A value as sent often has zeros at its end: only one that seems to need more is normalised.
            if value.scale() > u32::from(*scale) {
                let needed = value.normalize().scale();
                *scale = (*scale).max(u8::try_from(needed).expect("a decimal has at most 28 digits behind the point"));
            }
        };
        match row {
            Row::Trade(row) => {
                widen(&mut self.0[0], row.trade.price);
                widen(&mut self.0[1], row.trade.quantity);
            }
            Row::Kline(row) => {
                let kline = &row.kline;
                let values = [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume];
                self.0.iter_mut().zip(values).for_each(|(scale, value)| widen(scale, value));
            }
        }
    }
}

/// The columns of a channel's file.
pub fn columns(channel: Channel, scales: &Scales) -> Vec<(&'static str, Kind)> {
    let columns: &[(&'static str, Kind)] = match channel {
        Channel::Trade => &TRADE,
        Channel::AggTrade => &AGG_TRADE,
        Channel::Kline(_) | Channel::BookTicker => &KLINE,
    };
    let mut next = scales.0.iter();
    let column = |(name, kind): &(&'static str, Kind)| match kind {
        Kind::Decimal(_) => (*name, Kind::Decimal(next.next().copied().unwrap_or(0))),
        kind => (*name, *kind),
    };
    columns.iter().map(column).collect()
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Trades(rows) => rows.len(),
            Self::Klines(rows) => rows.len(),
        }
    }

    /// Each of them.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Row<'_>> + '_> {
        match self {
            Self::Trades(rows) => Box::new(rows.iter().map(Row::Trade)),
            Self::Klines(rows) => Box::new(rows.iter().map(Row::Kline)),
        }
    }

    /// The position of the last one.
    pub fn last_position(&self) -> Option<i64> {
        match self {
            Self::Trades(rows) => rows.last().map(|row| Row::Trade(row).position()),
            Self::Klines(rows) => rows.last().map(|row| Row::Kline(row).position()),
        }
    }
}

impl Row<'_> {
    /// The trade id, or the open time in microseconds.
    pub fn position(self) -> i64 {
        match self {
            Self::Trade(row) => row.trade.id,
            Self::Kline(row) => row.kline.open_time.micros(),
        }
    }

    /// The exchange's time: of a kline its open time.
    pub fn ts(self) -> Timestamp {
        match self {
            Self::Trade(row) => row.trade.ts,
            Self::Kline(row) => row.kline.open_time,
        }
    }

    /// The numbering that its position belongs to.
    pub fn epoch(self) -> i64 {
        match self {
            Self::Trade(row) => row.epoch,
            Self::Kline(_) => 0,
        }
    }

    /// Whether backfill fetched it.
    pub fn is_backfilled(self) -> bool {
        match self {
            Self::Trade(row) => row.is_backfilled,
            Self::Kline(row) => row.is_backfilled,
        }
    }

    /// Passes its cells to `take`, in the order of its channel's columns.
    pub fn cells<T>(self, take: impl FnOnce(&[Cell<'_>]) -> T) -> T {
        match self {
            Self::Trade(row) => {
                let trade = &row.trade;
                let [epoch, id, ts, received_at] = [
                    Cell::Integer(row.epoch),
                    Cell::Integer(trade.id),
                    Cell::Timestamp(trade.ts),
                    Cell::Timestamp(row.received_at),
                ];
                let (price, quantity) = (Cell::Decimal(trade.price), Cell::Decimal(trade.quantity));
                let (side, backfilled) = (Cell::Text(trade.side.as_str()), Cell::Boolean(row.is_backfilled));
                let version = Cell::Integer(row.version);
                match trade.trade_ids {
                    None => take(&[epoch, id, ts, received_at, price, quantity, side, backfilled, version]),
                    Some((first, last)) => {
                        let (first, last) = (Cell::Integer(first), Cell::Integer(last));
                        take(&[epoch, id, ts, received_at, price, quantity, side, first, last, backfilled, version])
                    }
                }
            }
            Self::Kline(row) => {
                let kline = &row.kline;
                take(&[
                    Cell::Text(kline.interval.as_str()),
                    Cell::Timestamp(kline.open_time),
                    Cell::Timestamp(kline.close_time),
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
                    Cell::Integer(row.version),
                ])
            }
        }
    }

    /// Replaces `line` with the row's content: what two recorders agree on.
    pub fn write_line(self, line: &mut String) {
        line.clear();
        let written = match self {
            Self::Trade(row) => {
                let trade = &row.trade;
                write!(line, "{}|{}|{}|{}|", row.exchange, row.symbol, row.epoch, trade.id)
                    .and_then(|()| match trade.trade_ids {
                        Some((first, last)) => write!(line, "{first}|{last}|"),
                        None => Ok(()),
                    })
                    .and_then(|()| {
                        let (price, quantity) = (plain(trade.price), plain(trade.quantity));
                        write!(line, "{}|{price}|{quantity}|{}", trade.ts.micros(), trade.side)
                    })
            }
            Self::Kline(row) => {
                let kline = &row.kline;
                write!(
                    line,
                    "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
                    row.exchange,
                    row.symbol,
                    kline.interval,
                    kline.open_time.micros(),
                    plain(kline.open),
                    plain(kline.high),
                    plain(kline.low),
                    plain(kline.close),
                    plain(kline.volume),
                    plain(kline.quote_volume),
                    kline.trade_count,
                    kline.first_trade_id,
                    kline.last_trade_id,
                )
            }
        };
        written.expect("a String accepts every write");
    }
}
