//! `--from` and `--to` of `export` and `audit`: the positions of a stream that they select, and whether history covers
//! them.

use std::sync::Arc;

use anyhow::{Context, anyhow};

use crate::audit;
use crate::exit::{Failure, USAGE};
use crate::gap::Range;
use crate::history::History;
use crate::market::{DAY_US, Stream, Timestamp};

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A trade id, or a kline's open time in microseconds.
    Position(i64),
    /// A time; as an end it is exclusive.
    Time(Timestamp),
}

/// The selected positions of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// First and last position; `None` when no position is selected.
    pub range: Option<Range>,
    /// Messages: history begins too late, or ends too early.
    pub shortfalls: Vec<String>,
}

impl Bound {
    /// Parses a trade id, an RFC 3339 time or a date. An end includes the time, or the whole day.
    pub fn parse(text: &str, is_end: bool) -> Result<Self, Failure> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let Some(at) = Timestamp::parse(text) else {
            let why =
                anyhow!("`{text}` is neither a position, an RFC 3339 time such as 2026-01-31T12:00:00Z, nor a date");
            return Err(Failure::new(USAGE, why));
        };
        let is_date = !text.contains(['T', 't', ' ']);
        Ok(Self::Time(match (is_end, is_date) {
            (false, _) => at,
            (true, true) => at.plus_micros(DAY_US),
            (true, false) => at.plus_micros(1),
        }))
    }
}

/// Finds the positions. Ids stay as given. Times are cut to the extent of history, and `shortfalls` reports it.
pub async fn resolve(
    history: &Arc<dyn History>,
    stream: &Stream,
    extent: Range,
    from: Option<Bound>,
    to: Option<Bound>,
) -> Result<Selection, Failure> {
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let ceil = |position: i64| position.div_euclid(step) * step + if position.rem_euclid(step) > 0 { step } else { 0 };
    let mut shortfalls = Vec::new();
    let first = match from {
        None => extent.first,
        Some(Bound::Position(position)) => ceil(position),
        Some(Bound::Time(at)) => {
            let begins = time_of(history, stream, extent.first).await?;
            if at < begins {
                shortfalls.push(format!("history begins at {begins}, later than --from"));
            }
            match stream.channel {
                channel if channel.has_trades() => {
                    audit::first_position_at(history, stream, extent, at).await.context("find the first trade")?
                }
                _ => ceil(at.micros()).max(extent.first),
            }
        }
    };
    let last = match to {
        None => extent.last,
        Some(Bound::Position(position)) => position.div_euclid(step) * step,
        Some(Bound::Time(before)) => {
            // A kline covers its interval, a trade one instant.
            let begins = time_of(history, stream, extent.last).await?;
            let until = begins.plus_micros(if stream.channel.has_trades() { 1 } else { step });
            if until < before {
                shortfalls.push(format!("history ends at {begins}, earlier than --to"));
            }
            match stream.channel {
                channel if channel.has_trades() => {
                    audit::first_position_at(history, stream, extent, before).await.context("find the last trade")? - 1
                }
                _ => (ceil(before.micros()) - step).min(extent.last),
            }
        }
    };
    Ok(Selection { range: Range::new(first, last), shortfalls })
}

/// The time of a stored position.
async fn time_of(history: &Arc<dyn History>, stream: &Stream, position: i64) -> anyhow::Result<Timestamp> {
    if !stream.channel.has_trades() {
        return Ok(Timestamp(position));
    }
    let range = Range { first: position, last: position };
    let rows = history.trades(stream, range, 1).await.context("read a trade")?;
    Ok(rows.first().context("the trade is no longer stored")?.trade.ts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::embedded::EmbeddedHistory;
    use crate::history::{Batch, RowStore, TradeRow};
    use crate::market::{Channel, Exchange, Side, Symbol, Trade};

    const SECOND: i64 = 1_000_000;

    /// Trades 10 to 19, one per second from 2026-01-31T00:00:00Z on.
    async fn history(directory: &tempfile::TempDir) -> (Arc<dyn History>, Stream) {
        let midnight = Timestamp::parse("2026-01-31").unwrap();
        let history = EmbeddedHistory::open(&directory.path().join("history.db")).unwrap();
        let symbol = Symbol::new("BTCUSDT");
        let trades = (0..10).map(|at| TradeRow {
            exchange: Exchange::named("binance"),
            symbol: symbol.clone(),
            trade: Trade {
                id: 10 + at,
                ts: midnight.plus_micros(at * SECOND),
                price: 1.into(),
                quantity: 1.into(),
                side: Side::Buy,
                trade_ids: None,
            },
            received_at: midnight,
            is_backfilled: false,
            epoch: 0,
            version: crate::history::row_version(false),
        });
        history.insert(&Batch { trades: trades.collect(), ..Batch::default() }).await.unwrap();
        (Arc::new(history), Stream::new(Exchange::named("binance"), symbol, Channel::Trade))
    }

    async fn check(from: Option<&str>, to: Option<&str>, range: Option<(i64, i64)>, shortfalls: usize) {
        let directory = tempfile::tempdir().unwrap();
        let (history, stream) = history(&directory).await;
        let bound = |text: Option<&str>, is_end| text.map(|text| Bound::parse(text, is_end).unwrap());
        let (from, to) = (bound(from, false), bound(to, true));
        let selection = resolve(&history, &stream, Range { first: 10, last: 19 }, from, to).await.unwrap();
        assert_eq!(selection.range.map(|range| (range.first, range.last)), range);
        assert_eq!(selection.shortfalls.len(), shortfalls, "{selection:?}");
    }

    #[tokio::test]
    async fn ids_stay_as_given() {
        check(None, None, Some((10, 19)), 0).await;
        check(Some("5"), Some("25"), Some((5, 25)), 0).await;
    }

    #[tokio::test]
    async fn an_end_is_included() {
        check(Some("2026-01-31T00:00:03Z"), Some("2026-01-31T00:00:05Z"), Some((13, 15)), 0).await;
    }

    #[tokio::test]
    async fn times_between_trades_select_no_trade() {
        check(Some("2026-01-31T00:00:03.1Z"), Some("2026-01-31T00:00:03.9Z"), None, 0).await;
    }

    #[tokio::test]
    async fn a_day_that_history_does_not_cover_is_reported() {
        check(Some("2026-01-31"), Some("2026-01-31"), Some((10, 19)), 1).await;
        check(Some("2026-01-30"), Some("2026-01-31"), Some((10, 19)), 2).await;
    }

    #[test]
    fn a_word_is_a_usage_error() {
        assert_eq!(Bound::parse("yesterday", false).unwrap_err().code, USAGE);
    }
}
