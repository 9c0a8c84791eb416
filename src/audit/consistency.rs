//! Cache against history: exact equality on the same id, at a common watermark, never a tolerance.
//!
//! The cache is read first and history afterwards, by the cache's own ids: so rows that arrive meanwhile
//! are no difference, and a cache that is ahead by rows in flight is asked again after a grace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::cache::{Cache, Update, tick_is_newer};
use crate::history::{History, KlineRow, TradeRow};
use crate::market::{Channel, Exchange, Interval, Kline, Stream, Symbol, Tick, plain};

/// Symbols of one query.
const BATCH_MAX: usize = 500;
/// How long rows may be on their way from the log to history before they are missing there.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// How often what is missing in history is looked up again.
const LOOKS: usize = 4;

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The cache names a row that history does not have.
    MissingInHistory,
    /// History has rows, the cache has none or an older one.
    MissingInCache,
    /// The same id with another time.
    TimestampMismatch,
    /// The same id with another price, quantity or side.
    PriceMismatch,
    /// Neither has anything.
    NoData,
}

/// One difference.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Issue {
    /// Whose.
    pub exchange: String,
    /// Which symbol.
    pub symbol: String,
    /// `trade` or `kline_1m`...
    pub channel: String,
    /// What is wrong.
    pub kind: Kind,
    /// What the cache says.
    pub cache: Option<Value>,
    /// What history says.
    pub history: Option<Value>,
    #[serde(skip)]
    pub(super) stream: Stream,
    #[serde(skip)]
    pub(super) trade: Option<TradeRow>,
    #[serde(skip)]
    pub(super) kline: Option<KlineRow>,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, serde::Serialize)]
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
    for exchange in Exchange::ALL {
        let trades: Vec<Symbol> = of(streams, exchange, |channel| channel == Channel::Trade);
        for symbols in trades.chunks(BATCH_MAX) {
            report.checked += symbols.len();
            report.issues.append(&mut ticks(history, cache, exchange, symbols).await?);
        }
        let klines: Vec<(Symbol, Interval)> = streams
            .iter()
            .filter(|stream| stream.exchange == exchange)
            .filter_map(|stream| match stream.channel {
                Channel::Kline(interval) => Some((stream.symbol.clone(), interval)),
                _ => None,
            })
            .collect();
        for keys in klines.chunks(BATCH_MAX) {
            report.checked += keys.len();
            report.issues.append(&mut candles(history, cache, exchange, keys).await?);
        }
    }
    Ok(report)
}

fn of(streams: &[Stream], exchange: Exchange, wanted: impl Fn(Channel) -> bool) -> Vec<Symbol> {
    let mine = streams.iter().filter(|stream| stream.exchange == exchange && wanted(stream.channel));
    mine.map(|stream| stream.symbol.clone()).collect()
}

async fn ticks(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    exchange: Exchange,
    symbols: &[Symbol],
) -> anyhow::Result<Vec<Issue>> {
    // History's newest first: the cache is written after history, so it may lag behind what is read later.
    let latest = history.latest_trades(exchange, symbols).await.context("read history's latest trades")?;
    let latest: HashMap<Symbol, TradeRow> = latest.into_iter().map(|row| (row.symbol.clone(), row)).collect();
    tokio::time::sleep(IN_FLIGHT).await;
    let cached = cache.ticks(exchange, symbols).await.context("read the cache's ticks")?;
    let mut keys: Vec<(Symbol, i64)> =
        symbols.iter().zip(&cached).filter_map(|(symbol, tick)| Some((symbol.clone(), tick.as_ref()?.id))).collect();
    let mut stored: HashMap<Symbol, TradeRow> = HashMap::new();
    for look in 0..LOOKS {
        let rows = history.trades_by_id(exchange, &keys).await.context("read history's trades")?;
        stored.extend(rows.into_iter().map(|row| (row.symbol.clone(), row)));
        keys.retain(|(symbol, _)| !stored.contains_key(symbol));
        if keys.is_empty() || look + 1 == LOOKS {
            break;
        }
        tokio::time::sleep(IN_FLIGHT).await;
    }
    let mut issues = Vec::new();
    for (symbol, tick) in symbols.iter().zip(cached) {
        let latest = latest.get(symbol);
        let row = stored.get(symbol);
        let kind = match (&tick, latest, row) {
            (None, None, _) => Kind::NoData,
            (None, Some(_), _) => Kind::MissingInCache,
            (Some(_), _, None) => Kind::MissingInHistory,
            (Some(tick), _, Some(row)) if tick.ts != row.trade.ts => Kind::TimestampMismatch,
            (Some(tick), _, Some(row)) if *tick != row.trade => Kind::PriceMismatch,
            (Some(tick), Some(latest), _) if tick_is_newer(&latest.trade, tick) => Kind::MissingInCache,
            _ => continue,
        };
        let shown = if kind == Kind::MissingInCache { latest } else { row.or(latest) };
        issues.push(Issue {
            exchange: exchange.to_string(),
            symbol: symbol.to_string(),
            channel: Channel::Trade.to_string(),
            kind,
            cache: tick.as_ref().map(tick_json),
            history: shown.map(|row| tick_json(&row.trade)),
            stream: Stream::new(exchange, symbol.clone(), Channel::Trade),
            trade: shown.cloned(),
            kline: None,
        });
    }
    Ok(issues)
}

async fn candles(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    exchange: Exchange,
    keys: &[(Symbol, Interval)],
) -> anyhow::Result<Vec<Issue>> {
    let mut symbols: Vec<Symbol> = keys.iter().map(|(symbol, _)| symbol.clone()).collect();
    symbols.sort();
    symbols.dedup();
    let latest = history.latest_klines(exchange, &symbols, &Interval::ALL).await.context("read history's klines")?;
    let latest: HashMap<(Symbol, Interval), KlineRow> =
        latest.into_iter().map(|row| ((row.symbol.clone(), row.kline.interval), row)).collect();
    tokio::time::sleep(IN_FLIGHT).await;
    let cached = cache.klines(exchange, keys).await.context("read the cache's klines")?;
    let mut issues = Vec::new();
    for ((symbol, interval), kline) in keys.iter().zip(cached) {
        let row = latest.get(&(symbol.clone(), *interval));
        let kind = match (&kline, row) {
            (None, None) => Kind::NoData,
            (None, Some(_)) => Kind::MissingInCache,
            // An open kline is in no history yet; its closed predecessor was replaced by it.
            (Some(kline), _) if !kline.closed => continue,
            (Some(_), None) => Kind::MissingInHistory,
            (Some(kline), Some(row)) if row.kline.open_time > kline.open_time => Kind::MissingInCache,
            (Some(kline), Some(row)) if row.kline.open_time < kline.open_time => {
                let wanted = [(symbol.clone(), *interval, kline.open_time)];
                let found = history.klines_by_time(exchange, &wanted).await.context("read history's klines")?;
                if found.iter().any(|row| same_values(&row.kline, kline)) {
                    continue;
                }
                if found.is_empty() { Kind::MissingInHistory } else { Kind::PriceMismatch }
            }
            (Some(kline), Some(row)) if !same_values(&row.kline, kline) => Kind::PriceMismatch,
            _ => continue,
        };
        let channel = Channel::Kline(*interval);
        issues.push(Issue {
            exchange: exchange.to_string(),
            symbol: symbol.to_string(),
            channel: channel.to_string(),
            kind,
            cache: kline.as_ref().map(kline_json),
            history: row.map(|row| kline_json(&row.kline)),
            stream: Stream::new(exchange, symbol.clone(), channel),
            trade: None,
            kline: row.cloned(),
        });
    }
    Ok(issues)
}

/// Trade ids are left out: klines over REST come without them, and the numbers are what people use.
fn same_values(a: &Kline, b: &Kline) -> bool {
    (a.open, a.high, a.low, a.close, a.volume, a.quote_volume, a.trade_count)
        == (b.open, b.high, b.low, b.close, b.volume, b.quote_volume, b.trade_count)
}

/// Moves the cache forward from what history has; for the repair.
pub(super) fn forward(issue: &Issue) -> Update {
    let mut update = Update::default();
    let (exchange, symbol) = (issue.stream.exchange, issue.stream.symbol.clone());
    if let Some(row) = &issue.trade {
        update.ticks.push((exchange, symbol, row.trade));
    } else if let Some(row) = &issue.kline {
        update.klines.push((exchange, symbol, row.kline));
    }
    update
}

fn tick_json(tick: &Tick) -> Value {
    json!({
        "trade_id": tick.id,
        "ts": tick.ts.micros(),
        "price": plain(tick.price),
        "quantity": plain(tick.quantity),
        "side": tick.side.as_str(),
    })
}

fn kline_json(kline: &Kline) -> Value {
    json!({
        "open_time": kline.open_time.micros(),
        "open": plain(kline.open),
        "high": plain(kline.high),
        "low": plain(kline.low),
        "close": plain(kline.close),
        "volume": plain(kline.volume),
        "trade_count": kline.trade_count,
        "closed": kline.closed,
    })
}
