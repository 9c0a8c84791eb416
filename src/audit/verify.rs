//! Compares stored klines with the exchange's klines over REST and with the recorded trades.
//!
//! Equality is exact. A difference is reported and changes nothing: only a person can decide which side is right.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backfill::Deps;
use crate::exchange::Dialect;
use crate::gap::Range;
use crate::history::{History, KlineRow};
use crate::market::{Channel, Interval, Kline, Stream, Timestamp, Trade, plain};

use super::verify_by_time;

/// Trades read at a time.
const TRADES_MAX: usize = 20_000;
/// Klines read at a time; the exchange's page size.
const KLINES_MAX: usize = 1_000;
/// Most differences that a report lists; all are counted.
const LISTED_MAX: usize = 1_000;
/// Most differences logged per run.
const LOGGED_MAX: usize = 20;

/// One field of one kline that differs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The exchange.
    pub exchange: String,
    /// The symbol.
    pub symbol: String,
    /// `kline_1m`...
    pub channel: String,
    /// When the kline opened, RFC 3339.
    pub open_time: String,
    /// The other side of the comparison: `rest` or `trades`.
    pub against: &'static str,
    /// `open`, `high`, `low`, `close`, `volume`, `quote_volume` or `trade_count`.
    pub field: &'static str,
    /// The value in history.
    pub stored: String,
    /// The value on the other side.
    pub found: String,
}

/// The outcome of a verification.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct VerifyReport {
    /// Klines checked.
    pub klines: usize,
    /// Of these, how many the exchange returned.
    pub against_rest: usize,
    /// Of these, how many were rebuilt from their trades.
    pub against_trades: usize,
    /// How many could not be rebuilt: their trades are not recorded or incomplete, or their ids are unknown.
    pub without_trades: usize,
    /// Fields that differ.
    pub differences: usize,
    /// The first differences.
    pub listed: Vec<Difference>,
    /// Streams for which the request to the exchange failed, with the reason.
    pub unanswered: Vec<String>,
}

/// Verifies the klines of these streams that closed in `from..to` (the end of the one before `to` included).
pub async fn verify_klines(
    history: &Arc<dyn History>,
    backfill: &Deps,
    streams: &[Stream],
    (from, to): (Timestamp, Timestamp),
    cancel: &CancellationToken,
) -> anyhow::Result<VerifyReport> {
    let mut report = VerifyReport::default();
    for stream in streams {
        let Channel::Kline(interval) = stream.channel else { continue };
        let trades = Stream::new(stream.exchange, stream.symbol.clone(), Channel::Trade);
        let trades = streams.contains(&trades).then_some(trades);
        let step = interval.micros();
        let mut rest = Range::new(from.micros() - step + 1, to.micros() - step);
        while let Some(part) = rest {
            ensure!(!cancel.is_cancelled(), "cancelled after {} klines", report.klines);
            let rows = history.klines(stream, part, KLINES_MAX).await.context("read stored klines")?;
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { break };
            let span = Range { first: first.kline.open_time.micros(), last: last.kline.open_time.micros() };
            report.klines += rows.len();
            against_rest(backfill, stream, interval, &rows, span, cancel, &mut report).await;
            let names_trades = rows.iter().any(|row| row.kline.first_trade_id >= 0);
            // Elsewhere a kline's ids and count may include trades that the exchange does not publish.
            let proves = |dialect: &Arc<dyn Dialect>| dialect.spec().klines_name_trades();
            let is_proof = !names_trades || backfill.dialects.get(&stream.exchange).is_none_or(proves);
            let trades = trades.as_ref().filter(|_| is_proof);
            let by_time = match trades {
                Some(trades) if !names_trades => verify_by_time::rebuild(history, trades, &rows).await?,
                _ => BTreeMap::new(),
            };
            for row in &rows {
                ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
                against_trades(history, trades, stream, &row.kline, &by_time, &mut report).await?;
            }
            rest = Range::new(span.last + step, part.last).filter(|_| rows.len() == KLINES_MAX);
        }
    }
    Ok(report)
}

async fn against_rest(
    backfill: &Deps,
    stream: &Stream,
    interval: Interval,
    rows: &[KlineRow],
    span: Range,
    cancel: &CancellationToken,
    report: &mut VerifyReport,
) {
    let Some(rest) = backfill.rest.get(&stream.exchange) else { return };
    let page = (KLINES_MAX as i64 - 1) * interval.micros();
    let mut theirs: HashMap<Timestamp, Kline> = HashMap::new();
    let mut next = Some(span.first);
    while let Some(first) = next.filter(|first| *first <= span.last) {
        let range = Range { first, last: span.last.min(first + page) };
        match rest.klines(stream.symbol.as_str(), interval, range, cancel).await {
            Ok(page) => theirs.extend(page.rows.into_iter().map(|kline| (kline.open_time, kline))),
            Err(_stopped) if cancel.is_cancelled() => return,
            Err(error) => {
                report.unanswered.push(format!("{stream}: {error}"));
                return;
            }
        }
        next = range.last.checked_add(interval.micros());
    }
    for row in rows {
        let Some(kline) = theirs.get(&row.kline.open_time) else { continue };
        report.against_rest += 1;
        compare(stream, &row.kline, kline, "rest", report);
    }
}

async fn against_trades(
    history: &Arc<dyn History>,
    trades: Option<&Stream>,
    stream: &Stream,
    kline: &Kline,
    by_time: &BTreeMap<Timestamp, Kline>,
    report: &mut VerifyReport,
) -> anyhow::Result<()> {
    if kline.volume.is_zero() {
        // "No trades: n=0, o=h=l=c=previous close": there are no trades to rebuild it from.
        return Ok(());
    }
    let range = Range::new(kline.first_trade_id, kline.last_trade_id).filter(|range| range.first >= 0);
    let rebuilt = match (trades, range) {
        (Some(trades), Some(range)) => rebuild(history, trades, range, kline).await?,
        _ => by_time.get(&kline.open_time).map(|rebuilt| comparable(*rebuilt, kline)),
    };
    match rebuilt {
        Some(rebuilt) => {
            report.against_trades += 1;
            compare(stream, kline, &rebuilt, "trades", report);
        }
        None => report.without_trades += 1,
    }
    Ok(())
}

/// Rebuilds the kline from its trades; `None` when one of them is not stored.
async fn rebuild(
    history: &Arc<dyn History>,
    trades: &Stream,
    range: Range,
    kline: &Kline,
) -> anyhow::Result<Option<Kline>> {
    let counted = history.count(trades, range).await.context("count a kline's trades")?;
    if counted.present != range.len(1) {
        return Ok(None);
    }
    let mut rebuilt: Option<Kline> = None;
    let mut rest = Some(range);
    while let Some(part) = rest {
        let rows = history.trades(trades, part, TRADES_MAX).await.context("read a kline's trades")?;
        for row in &rows {
            add_trade(&mut rebuilt, &row.trade, kline);
        }
        rest = rows.last().and_then(|row| Range::new(row.trade.id + 1, range.last));
    }
    Ok(rebuilt.map(|rebuilt| comparable(rebuilt, kline)))
}

/// A rebuilt kline as it can be compared: trades do not contain the quote volume, and not every exchange counts the trades
/// of a kline.
const fn comparable(mut rebuilt: Kline, kline: &Kline) -> Kline {
    rebuilt.quote_volume = kline.quote_volume;
    if kline.trade_count == 0 {
        rebuilt.trade_count = 0;
    }
    rebuilt
}

pub(super) fn add_trade(rebuilt: &mut Option<Kline>, trade: &Trade, like: &Kline) {
    let first = Kline {
        open: trade.price,
        high: trade.price,
        low: trade.price,
        volume: Decimal::ZERO,
        trade_count: 0,
        ..*like
    };
    let rebuilt = rebuilt.get_or_insert(first);
    rebuilt.high = rebuilt.high.max(trade.price);
    rebuilt.low = rebuilt.low.min(trade.price);
    rebuilt.close = trade.price;
    rebuilt.volume += trade.quantity;
    rebuilt.trade_count += 1;
}

fn compare(stream: &Stream, stored: &Kline, found: &Kline, against: &'static str, report: &mut VerifyReport) {
    let numbers = |kline: &Kline| {
        [
            ("open", plain(kline.open)),
            ("high", plain(kline.high)),
            ("low", plain(kline.low)),
            ("close", plain(kline.close)),
            ("volume", plain(kline.volume)),
            ("quote_volume", plain(kline.quote_volume)),
            ("trade_count", kline.trade_count.to_string()),
        ]
    };
    for ((field, stored_number), (_, found)) in numbers(stored).into_iter().zip(numbers(found)) {
        if stored_number == found {
            continue;
        }
        report.differences += 1;
        let open_time = stored.open_time.rfc3339();
        if report.differences <= LOGGED_MAX {
            warn!(
                EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol,
                "the kline of {stream} at {open_time} differs from {against}: {field} is stored as {stored_number}, \
                 found {found}"
            );
        }
        if report.listed.len() < LISTED_MAX {
            report.listed.push(Difference {
                exchange: stream.exchange.to_string(),
                symbol: stream.symbol.to_string(),
                channel: stream.channel.to_string(),
                open_time,
                against,
                field,
                stored: stored_number,
                found,
            });
        }
    }
}
