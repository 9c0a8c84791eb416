//! Rebuilds klines that do not name their trades, from the trades within their time. It reads the trades once, however
//! many klines they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;

use super::verify::add_trade;
use super::window::first_position_at;
use crate::gap::Range;
use crate::history::{History, KlineRow};
use crate::market::{Kline, Stream, Timestamp};

/// Trades read at a time.
const TRADES_MAX: usize = 20_000;
/// Trades may be numbered in another order than they happened, by so much: the reading ends that much later.
const DISORDER_US: i64 = 1_000_000;

/// The klines of `rows` (ascending, of one length) as their trades make them, by open time. One is left out when history
/// may lack a trade of it: at a hole in the ids, and where the stored trades begin or end.
pub(super) async fn rebuild(
    history: &Arc<dyn History>,
    trades: &Stream,
    rows: &[KlineRow],
) -> anyhow::Result<BTreeMap<Timestamp, Kline>> {
    let mut rebuilt: BTreeMap<Timestamp, Option<Kline>> = BTreeMap::new();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(BTreeMap::new()) };
    let extent = history.extent(trades).await.context("find the first and last trade")?;
    let Some(extent) = extent else { return Ok(BTreeMap::new()) };
    let step = first.kline.interval.micros();
    let end = last.kline.open_time.plus_micros(step);
    let stored: BTreeMap<Timestamp, &Kline> = rows.iter().map(|row| (row.kline.open_time, &row.kline)).collect();
    let open_of = |at: Timestamp| Timestamp(at.micros().div_euclid(step) * step);
    let mut unsure: BTreeSet<Timestamp> = BTreeSet::new();
    // One trade earlier, so that a hole before the first kline's first trade shows.
    let begin = first_position_at(history, trades, extent, first.kline.open_time).await.context("find the trades")?;
    let mut before: Option<(i64, Timestamp)> = None;
    let mut rest = Range::new((begin - 1).max(extent.first), extent.last);
    let mut reached = Timestamp(i64::MIN);
    while let Some(part) = rest.filter(|_| reached < end.plus_micros(DISORDER_US)) {
        let page = history.trades(trades, part, TRADES_MAX).await.context("read the trades")?;
        for row in &page {
            let (id, ts) = (row.trade.id, row.trade.ts);
            let open = open_of(ts);
            match before {
                Some((before, _)) if before + 1 == id => {}
                // The missing trades may belong to any kline from here to there.
                Some((_, before_ts)) => unsure.extend(stored.range(open_of(before_ts)..=open).map(|(at, _)| *at)),
                // Trades of this kline may be older than all that are stored.
                None => unsure.extend(stored.range(..=open).map(|(at, _)| *at).filter(|_| id == extent.first)),
            }
            if let Some(kline) = stored.get(&open) {
                add_trade(rebuilt.entry(open).or_default(), &row.trade, kline);
            }
            before = Some((id, ts));
            reached = reached.max(ts);
        }
        rest = page.last().and_then(|row| Range::new(row.trade.id + 1, extent.last));
    }
    // Later trades of these klines may not be stored yet.
    if reached < end.plus_micros(DISORDER_US) {
        let sure = open_of(reached.plus_micros(-DISORDER_US));
        unsure.extend(stored.range(sure..).map(|(at, _)| *at));
    }
    let sure = rebuilt.into_iter().filter(|(at, _)| !unsure.contains(at));
    Ok(sure.filter_map(|(at, kline)| Some((at, kline?))).collect())
}
