//! Fills a cold cache from history with the latest trade and klines of every symbol. It needs one query per kind, and
//! one more for the minutes of all symbols that lack an interval.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;

use crate::cache::{Cache, Update};
use crate::history::{History, KlineRow};
use crate::market::{Channel, Interval, Kline, Stream, Symbol, Timestamp, by_exchange};

/// The outcome of a preload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PreloadReport {
    /// Ticks offered to the cache.
    pub ticks: usize,
    /// Klines offered to the cache, stored and built.
    pub klines: usize,
    /// Of these, how many were built from closed 1m rows.
    pub built: usize,
    /// Intervals without a stored or built kline.
    pub absent: usize,
    /// Keys that moved forward; the others were up to date.
    pub moved: u64,
}

/// Preloads ticks and every interval of every recorded symbol.
pub async fn preload(
    history: &Arc<dyn History>,
    cache: &Arc<dyn Cache>,
    streams: &[Stream],
) -> anyhow::Result<PreloadReport> {
    let mut report = PreloadReport::default();
    for (exchange, streams) in by_exchange(streams) {
        let mut symbols: Vec<Symbol> = streams.iter().map(|stream| stream.symbol.clone()).collect();
        symbols.sort();
        symbols.dedup();
        let mut update = Update::default();
        for (channel, symbols) in tick_channels(&streams, &symbols) {
            let rows = history.latest_trades(exchange, channel, &symbols).await;
            for row in rows.context("read history's latest trades")? {
                update.ticks.push((exchange, row.symbol, row.trade));
            }
        }
        let rows = history.latest_klines(exchange, &symbols, &Interval::ALL).await.context("read history's klines")?;
        let stored: HashMap<(Symbol, Interval), KlineRow> =
            rows.into_iter().map(|row| ((row.symbol.clone(), row.kline.interval), row)).collect();
        let lacking: Vec<Vec<(Interval, Timestamp)>> = symbols.iter().map(|symbol| lacking(symbol, &stored)).collect();
        let since = lacking.iter().flatten().map(|(_, open_time)| *open_time).min();
        let mut minutes: HashMap<Symbol, Vec<Kline>> = HashMap::new();
        if let Some(since) = since {
            let some: Vec<Symbol> = symbols
                .iter()
                .zip(&lacking)
                .filter(|(_, of)| !of.is_empty())
                .map(|(symbol, _)| symbol.clone())
                .collect();
            for row in history.minute_klines(exchange, &some, since).await.context("read closed minutes")? {
                minutes.entry(row.symbol).or_default().push(row.kline);
            }
        }
        for (symbol, lacking) in symbols.iter().zip(lacking) {
            let minutes = minutes.get(symbol).map_or(&[][..], Vec::as_slice);
            let built: Vec<Kline> = lacking
                .into_iter()
                .filter_map(|(interval, open_time)| combine(interval, open_time, inside(minutes, interval, open_time)))
                .collect();
            let known = Interval::ALL.iter().filter_map(|interval| stored.get(&(symbol.clone(), *interval)));
            let known: Vec<Kline> = known.map(|row| row.kline).collect();
            report.built += built.len();
            report.absent += Interval::ALL.len() - known.len() - built.len();
            update.klines.extend(known.into_iter().chain(built).map(|kline| (exchange, symbol.clone(), kline)));
        }
        report.ticks += update.ticks.len();
        report.klines += update.klines.len();
        report.moved += cache.apply(&update).await.context("fill the cache")?;
    }
    Ok(report)
}

/// The channel that makes each symbol's tick: aggregate trades only where trades are not recorded.
pub(super) fn tick_channels(streams: &[&Stream], symbols: &[Symbol]) -> [(Channel, Vec<Symbol>); 2] {
    let has = |symbol: &Symbol, channel| streams.iter().any(|at| at.symbol == *symbol && at.channel == channel);
    let is_aggregate = |symbol: &&Symbol| has(symbol, Channel::AggTrade) && !has(symbol, Channel::Trade);
    let (aggregate, other): (Vec<&Symbol>, Vec<&Symbol>) = symbols.iter().partition(is_aggregate);
    let owned = |symbols: Vec<&Symbol>| symbols.into_iter().cloned().collect();
    [(Channel::Trade, owned(other)), (Channel::AggTrade, owned(aggregate))]
}

/// The intervals without a stored kline, each with the open time around the newest closed minute. They are built from
/// stored minutes and stay open, because only the exchange can close them.
fn lacking(symbol: &Symbol, stored: &HashMap<(Symbol, Interval), KlineRow>) -> Vec<(Interval, Timestamp)> {
    let Some(newest) = stored.get(&(symbol.clone(), Interval::M1)).map(|row| row.kline.open_time) else {
        return Vec::new();
    };
    let lacking = Interval::ALL.into_iter().filter(|interval| !stored.contains_key(&(symbol.clone(), *interval)));
    lacking
        .map(|interval| (interval, Timestamp(newest.micros().div_euclid(interval.micros()) * interval.micros())))
        .collect()
}

/// The minutes of the interval that opens at `open_time`.
fn inside(minutes: &[Kline], interval: Interval, open_time: Timestamp) -> impl Iterator<Item = Kline> {
    let end = open_time.plus_micros(interval.micros());
    minutes.iter().copied().filter(move |minute| minute.open_time >= open_time && minute.open_time < end)
}

/// Combines klines, in order of time, into one.
fn combine(interval: Interval, open_time: Timestamp, parts: impl IntoIterator<Item = Kline>) -> Option<Kline> {
    let mut parts = parts.into_iter();
    let mut whole = parts.next()?;
    for part in parts {
        whole.high = whole.high.max(part.high);
        whole.low = whole.low.min(part.low);
        whole.close = part.close;
        whole.volume += part.volume;
        whole.quote_volume += part.quote_volume;
        whole.trade_count += part.trade_count;
        if part.last_trade_id >= 0 {
            whole.last_trade_id = part.last_trade_id;
        }
        if whole.first_trade_id < 0 {
            whole.first_trade_id = part.first_trade_id;
        }
    }
    whole.interval = interval;
    whole.open_time = open_time;
    // Binance: the last millisecond of the interval.
    whole.close_time = open_time.plus_micros(interval.micros() - 1_000);
    whole.closed = false;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    fn minute(n: i64, price: i64, first: i64) -> Kline {
        let price = Decimal::from(price);
        Kline {
            interval: Interval::M1,
            open_time: Timestamp(n * 60_000_000),
            close_time: Timestamp(n * 60_000_000 + 59_999_000),
            open: price,
            high: price + Decimal::ONE,
            low: price - Decimal::ONE,
            close: price,
            volume: Decimal::TWO,
            quote_volume: price,
            trade_count: if first < 0 { 0 } else { 3 },
            first_trade_id: first,
            last_trade_id: if first < 0 { -1 } else { first + 2 },
            closed: true,
        }
    }

    #[test]
    fn an_interval_is_built_from_its_minutes() {
        let whole = combine(Interval::M5, Timestamp(0), [minute(0, 5, -1), minute(1, 9, 10), minute(2, 7, 13)]);
        let whole = whole.unwrap();
        assert_eq!((whole.open, whole.close), (Decimal::from(5), Decimal::from(7)));
        assert_eq!((whole.high, whole.low), (Decimal::from(10), Decimal::from(4)));
        assert_eq!((whole.trade_count, whole.first_trade_id, whole.last_trade_id), (6, 10, 15));
        assert_eq!((whole.volume, whole.closed), (Decimal::from(6), false));
        assert_eq!(combine(Interval::M5, Timestamp(0), []), None);
    }
}
