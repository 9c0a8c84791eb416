//! Compares cache with history: exact equality on the same id, at a common watermark, without a tolerance.
//!
//! The cache is read first, then history by the cache's ids, so rows that arrive meanwhile are no difference. A row
//! that history lacks is looked up again after a grace period. To find what the cache lacks, it is compared with
//! history's newest rows from before the cache was read, because the cache is written after history.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cache::{Cache, Update, kline_is_newer, tick_is_newer};
use crate::gap::Range;
use crate::history::{History, KlineRow, TradeRow};
use crate::market::{Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, by_exchange};

use super::latest_row::LatestRow;
use super::preload::tick_channels;

/// Symbols of one query.
const BATCH_MAX: usize = 500;
/// How long a row may be on its way from the log to history before it counts as missing.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// Most lookups of a row that history lacks.
const LOOKUPS_MAX: usize = 4;

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssueKind {
    /// The cache has a row that history lacks.
    MissingInHistory,
    /// History has rows, the cache has none or an older one.
    MissingInCache,
    /// The same id with another time.
    TimestampMismatch,
    /// The same id with another price, quantity or side.
    PriceMismatch,
    /// Neither has a row.
    NoData,
}

/// One difference.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Issue {
    /// The exchange.
    pub exchange: String,
    /// The symbol.
    pub symbol: String,
    /// `trade` or `kline_1m`...
    pub channel: String,
    /// What is wrong.
    pub kind: IssueKind,
    /// The cache's row.
    pub cache: Option<LatestRow>,
    /// History's row.
    pub history: Option<LatestRow>,
    #[serde(skip)]
    pub(super) stream: Stream,
    /// Moves the cache's key forward when history has a newer row.
    #[serde(skip)]
    pub(super) forward: Update,
    /// The positions that history lacks.
    #[serde(skip)]
    pub(super) missing: Option<Range>,
    /// The cached trade or closed kline that history lacks.
    #[serde(skip)]
    pub(super) cached: Update,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub struct ConsistencyReport {
    /// Keys compared.
    pub checked: usize,
    /// Differences.
    pub issues: Vec<Issue>,
}

/// Compares cache and history for these streams.
pub async fn check(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    streams: &[Stream],
) -> anyhow::Result<ConsistencyReport> {
    let mut report = ConsistencyReport::default();
    for (exchange, streams) in by_exchange(streams) {
        for (channel, trades) in tick_channels(&streams, &of(&streams, Channel::has_trades)) {
            for symbols in trades.chunks(BATCH_MAX) {
                report.checked += symbols.len();
                report.issues.append(&mut check_trades(history, cache, (exchange, channel), symbols).await?);
            }
        }
        let klines: Vec<(Symbol, Interval)> = streams
            .iter()
            .filter_map(|stream| match stream.channel {
                Channel::Kline(interval) => Some((stream.symbol.clone(), interval)),
                _ => None,
            })
            .collect();
        for keys in klines.chunks(BATCH_MAX) {
            report.checked += keys.len();
            report.issues.append(&mut check_klines(history, cache, exchange, keys).await?);
        }
    }
    Ok(report)
}

fn of(streams: &[&Stream], wanted: impl Fn(Channel) -> bool) -> Vec<Symbol> {
    let mine = streams.iter().filter(|stream| wanted(stream.channel));
    let symbols: BTreeSet<Symbol> = mine.map(|stream| stream.symbol.clone()).collect();
    symbols.into_iter().collect()
}

async fn check_trades(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    (exchange, channel): (Exchange, Channel),
    symbols: &[Symbol],
) -> anyhow::Result<Vec<Issue>> {
    let latest = latest_trades(history, (exchange, channel), symbols).await?;
    tokio::time::sleep(IN_FLIGHT).await;
    let cached = cache.ticks(exchange, symbols).await.context("read the cache's ticks")?;
    let mut keys: Vec<(Symbol, i64)> =
        symbols.iter().zip(&cached).filter_map(|(symbol, tick)| Some((symbol.clone(), tick.as_ref()?.id))).collect();
    let mut stored: HashMap<Symbol, TradeRow> = HashMap::new();
    for lookup in 0..LOOKUPS_MAX {
        let rows = history.trades_by_id(exchange, channel, &keys).await.context("read history's trades")?;
        stored.extend(rows.into_iter().map(|row| (row.symbol.clone(), row)));
        keys.retain(|(symbol, _)| !stored.contains_key(symbol));
        if keys.is_empty() || lookup + 1 == LOOKUPS_MAX {
            break;
        }
        tokio::time::sleep(IN_FLIGHT).await;
    }
    let lacking: Vec<Symbol> = keys.into_iter().map(|(symbol, _)| symbol).collect();
    let newest = match lacking.is_empty() {
        true => HashMap::new(),
        false => latest_trades(history, (exchange, channel), &lacking).await?,
    };
    let mut issues = Vec::new();
    for (symbol, tick) in symbols.iter().zip(cached) {
        let (latest, row) = (latest.get(symbol), stored.get(symbol));
        let newer = latest.filter(|latest| tick.as_ref().is_none_or(|tick| tick_is_newer(&latest.trade, tick)));
        let kind = match (&tick, row) {
            (None, _) if latest.is_none() => IssueKind::NoData,
            (None, _) => IssueKind::MissingInCache,
            // A higher id that is older belongs to a numbering that ended.
            (Some(tick), None) if newer.is_some_and(|latest| latest.trade.id < tick.id) => IssueKind::MissingInCache,
            (Some(_), None) => IssueKind::MissingInHistory,
            (Some(tick), Some(row)) if tick.ts != row.trade.ts => IssueKind::TimestampMismatch,
            (Some(tick), Some(row)) if *tick != row.trade => IssueKind::PriceMismatch,
            _ if newer.is_some() => IssueKind::MissingInCache,
            _ => continue,
        };
        let shown = if kind == IssueKind::MissingInCache { latest } else { row.or(latest) };
        let before = newest.get(symbol).map(|row| row.trade.id);
        issues.push(Issue {
            exchange: exchange.to_string(),
            symbol: symbol.to_string(),
            channel: channel.to_string(),
            kind,
            cache: tick.as_ref().map(LatestRow::tick),
            history: shown.map(|row| LatestRow::tick(&row.trade)),
            stream: Stream::new(exchange, symbol.clone(), channel),
            forward: Update {
                ticks: newer.map(|row| (exchange, symbol.clone(), row.trade)).into_iter().collect(),
                ..Update::default()
            },
            missing: tick.filter(|_| kind == IssueKind::MissingInHistory).map(|tick| up_to(tick.id, before, 1)),
            cached: Update {
                ticks: tick
                    .filter(|_| kind == IssueKind::MissingInHistory)
                    .map(|tick| (exchange, symbol.clone(), tick))
                    .into_iter()
                    .collect(),
                ..Update::default()
            },
        });
    }
    Ok(issues)
}

async fn latest_trades(
    history: &Arc<dyn History>,
    (exchange, channel): (Exchange, Channel),
    symbols: &[Symbol],
) -> anyhow::Result<HashMap<Symbol, TradeRow>> {
    let rows = history.latest_trades(exchange, channel, symbols).await.context("read history's latest trades")?;
    Ok(rows.into_iter().map(|row| (row.symbol.clone(), row)).collect())
}

/// The missing positions up to and including `position`: those after history's newest row, or only `position` when
/// history has a newer row.
fn up_to(position: i64, newest: Option<i64>, step: i64) -> Range {
    let first = newest.filter(|newest| *newest < position).map_or(position, |newest| newest + step);
    Range { first: first.min(position), last: position }
}

type KlineRows = HashMap<(Symbol, Interval), KlineRow>;

fn by_key(rows: Vec<KlineRow>) -> KlineRows {
    rows.into_iter().map(|row| ((row.symbol.clone(), row.kline.interval), row)).collect()
}

async fn latest_klines(
    history: &Arc<dyn History>,
    exchange: Exchange,
    keys: &[(Symbol, Interval)],
) -> anyhow::Result<KlineRows> {
    let mut symbols: Vec<Symbol> = keys.iter().map(|(symbol, _)| symbol.clone()).collect();
    symbols.sort();
    symbols.dedup();
    let rows = history.latest_klines(exchange, &symbols, &Interval::ALL).await.context("read history's klines")?;
    Ok(by_key(rows))
}

async fn check_klines(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    exchange: Exchange,
    keys: &[(Symbol, Interval)],
) -> anyhow::Result<Vec<Issue>> {
    let latest = latest_klines(history, exchange, keys).await?;
    tokio::time::sleep(IN_FLIGHT).await;
    let cached = cache.klines(exchange, keys).await.context("read the cache's klines")?;
    // History stores no open kline.
    let closed = keys.iter().zip(&cached).filter_map(|(key, kline)| Some((key, kline.as_ref()?)));
    let closed = closed.filter(|(_, kline)| kline.closed);
    let mut pending: Vec<(Symbol, Interval, Timestamp)> =
        closed.map(|((symbol, interval), kline)| (symbol.clone(), *interval, kline.open_time)).collect();
    let mut stored = KlineRows::new();
    for lookup in 0..LOOKUPS_MAX {
        stored.extend(by_key(history.klines_by_time(exchange, &pending).await.context("read history's klines")?));
        pending.retain(|(symbol, interval, _)| !stored.contains_key(&(symbol.clone(), *interval)));
        if pending.is_empty() || lookup + 1 == LOOKUPS_MAX {
            break;
        }
        tokio::time::sleep(IN_FLIGHT).await;
    }
    let newest = if pending.is_empty() { KlineRows::new() } else { latest_klines(history, exchange, keys).await? };
    let mut issues = Vec::new();
    for (key, kline) in keys.iter().zip(cached) {
        let (latest, row) = (latest.get(key), stored.get(key));
        let newer = latest.filter(|latest| kline.as_ref().is_none_or(|kline| kline_is_newer(&latest.kline, kline)));
        let kind = match (&kline, row) {
            (None, _) if latest.is_none() => IssueKind::NoData,
            (None, _) => IssueKind::MissingInCache,
            (Some(kline), None) if kline.closed => IssueKind::MissingInHistory,
            (Some(kline), Some(row)) if !same_values(&row.kline, kline) => IssueKind::PriceMismatch,
            _ if newer.is_some() => IssueKind::MissingInCache,
            _ => continue,
        };
        issues.push(kline_issue(
            exchange,
            key,
            kind,
            kline,
            HistoryRows { latest, newer, row, newest: newest.get(key) },
        ));
    }
    Ok(issues)
}

/// History's rows for a kline's key.
struct HistoryRows<'a> {
    latest: Option<&'a KlineRow>,
    newer: Option<&'a KlineRow>,
    row: Option<&'a KlineRow>,
    newest: Option<&'a KlineRow>,
}

fn kline_issue(
    exchange: Exchange,
    (symbol, interval): &(Symbol, Interval),
    kind: IssueKind,
    kline: Option<Kline>,
    found: HistoryRows<'_>,
) -> Issue {
    let channel = Channel::Kline(*interval);
    let before = found.newest.map(|row| row.kline.open_time.micros());
    let shown = if kind == IssueKind::MissingInCache { found.latest } else { found.row.or(found.latest) };
    Issue {
        exchange: exchange.to_string(),
        symbol: symbol.to_string(),
        channel: channel.to_string(),
        kind,
        cache: kline.as_ref().map(LatestRow::kline),
        history: shown.map(|row| LatestRow::kline(&row.kline)),
        stream: Stream::new(exchange, symbol.clone(), channel),
        forward: Update {
            klines: found.newer.map(|row| (exchange, symbol.clone(), row.kline)).into_iter().collect(),
            ..Update::default()
        },
        missing: kline
            .filter(|_| kind == IssueKind::MissingInHistory)
            .map(|kline| up_to(kline.open_time.micros(), before, interval.micros())),
        cached: Update {
            klines: kline
                .filter(|_| kind == IssueKind::MissingInHistory)
                .map(|kline| (exchange, symbol.clone(), kline))
                .into_iter()
                .collect(),
            ..Update::default()
        },
    }
}

/// Trade ids are not compared, because klines over REST lack them.
fn same_values(a: &Kline, b: &Kline) -> bool {
    (a.open, a.high, a.low, a.close, a.volume, a.quote_volume, a.trade_count)
        == (b.open, b.high, b.low, b.close, b.volume, b.quote_volume, b.trade_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_begins_after_the_newest_row_or_is_one_row() {
        assert_eq!(up_to(20, Some(15), 1), Range { first: 16, last: 20 });
        assert_eq!(up_to(20, Some(25), 1), Range { first: 20, last: 20 });
        assert_eq!(up_to(20, None, 1), Range { first: 20, last: 20 });
        assert_eq!(up_to(180, Some(60), 60), Range { first: 120, last: 180 });
    }
}
