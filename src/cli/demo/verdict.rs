//! Compares the trades that the exchanges published with history, one by one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::app::stores;
use crate::config;
use crate::exit::Failure;
use crate::gap::Range;
use crate::history::{History, TradeRow};
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Trade};
use crate::simulator::Simulator;

use super::super::output::{Format, print_line};
use super::market::Market;

/// Rows per query.
const PAGE: usize = 50_000;

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    published: u64,
    recorded: u64,
    missing: u64,
    /// Rows whose id another row has, too.
    duplicates: u64,
    /// Rows that differ from the published trade, or that were never published.
    wrong: u64,
    klines_missing: u64,
    backfilled: u64,
    gaps_found: u64,
    gaps_closed: u64,
    gaps_open: u64,
    dead_letters: u64,
    /// Limits of the exchanges that the recorder broke.
    limits_broken: u64,
}

/// Compares; the recorder must have stopped.
pub async fn compare(markets: &[Market], config: &Path, gaps: &[Value]) -> Result<Verdict, Failure> {
    let loaded = config::load_all(Some(config), None, &|_| None);
    let loaded = loaded.map_err(|problems| Failure::new(crate::exit::CONFIGURATION, problems))?;
    let history = stores::history(&loaded.config).await?;
    let open = gaps.iter().filter(|gap| gap["closed_at"].is_null()).count() as u64;
    let mut verdict = Verdict {
        gaps_found: gaps.len() as u64,
        gaps_open: open,
        gaps_closed: gaps.len() as u64 - open,
        ..Verdict::default()
    };
    for market in markets {
        let (exchange, simulator) = (market.exchange(), &market.simulator);
        for symbol in simulator.control.symbols() {
            trades(market, &history, symbol, &mut verdict).await?;
            klines(exchange, simulator, &history, symbol, &mut verdict).await?;
        }
        verdict.limits_broken += simulator.control.counters().broken.total();
    }
    verdict.dead_letters = history.dead_letter_count(None).await.map_err(anyhow::Error::from)?;
    history.close().await.map_err(anyhow::Error::from)?;
    Ok(verdict)
}

async fn trades(
    market: &Market,
    history: &Arc<dyn History>,
    symbol: &Symbol,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let mut expected: HashMap<i64, Trade> =
        market.published_trades(symbol).into_iter().map(|trade| (trade.id, trade)).collect();
    verdict.published += expected.len() as u64;
    let stream = Stream::new(market.exchange(), symbol.clone(), market.trades_channel());
    let mut from = 0;
    let mut previous = None;
    loop {
        let rows: Vec<TradeRow> = history.trades(&stream, Range { first: from, last: i64::MAX }, PAGE).await?;
        let Some(last) = rows.last().map(|row| row.trade.id) else { break };
        for row in &rows {
            verdict.recorded += 1;
            verdict.backfilled += u64::from(row.is_backfilled);
            verdict.duplicates += u64::from(previous == Some(row.trade.id));
            previous = Some(row.trade.id);
            if expected.remove(&row.trade.id) != Some(row.trade) {
                verdict.wrong += 1;
            }
        }
        from = last + 1;
    }
    verdict.missing += expected.len() as u64;
    Ok(())
}

/// Counts closed klines from the first recorded one on: the recorder started within the minute before.
async fn klines(
    exchange: Exchange,
    simulator: &Simulator,
    history: &Arc<dyn History>,
    symbol: &Symbol,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let stream = Stream::new(exchange, symbol.clone(), Channel::Kline(Interval::M1));
    let published = simulator.control.published_klines(symbol.as_str(), Interval::M1);
    let Some(extent) = history.extent(&stream).await? else { return Ok(()) };
    let expected = published.iter().filter(|kline| extent.contains(kline.open_time.micros())).count() as i64;
    let counted = history.count(&stream, extent).await?;
    verdict.klines_missing += u64::try_from(expected - counted.present).unwrap_or(0);
    Ok(())
}

impl Verdict {
    /// Whether no row is missing, duplicated or wrong, and no gap or dead letter is left.
    pub fn is_good(&self) -> bool {
        self.published > 0
            && self.missing + self.duplicates + self.wrong + self.klines_missing == 0
            && self.gaps_open + self.dead_letters + self.limits_broken == 0
    }

    /// For people, or as one line of JSON.
    pub fn print(&self, format: Format) {
        if format == Format::Json {
            print_line!(
                "{}",
                json!({
                    "published": self.published, "recorded": self.recorded, "missing": self.missing,
                    "duplicates": self.duplicates, "wrong": self.wrong, "klines_missing": self.klines_missing,
                    "backfilled": self.backfilled, "gaps_found": self.gaps_found, "gaps_closed": self.gaps_closed,
                    "gaps_open": self.gaps_open, "dead_letters": self.dead_letters,
                    "limits_broken": self.limits_broken, "good": self.is_good(),
                })
            );
            return;
        }
        print_line!("");
        print_line!("published              {:>8} trades", self.published);
        print_line!("history holds          {:>8}, {} of them backfilled over REST", self.recorded, self.backfilled);
        print_line!("missing                {:>8} trades, {} klines", self.missing, self.klines_missing);
        print_line!("duplicates             {:>8}", self.duplicates);
        print_line!("not as published       {:>8}", self.wrong);
        print_line!(
            "gaps                   {:>8} found, {} closed, {} open",
            self.gaps_found,
            self.gaps_closed,
            self.gaps_open
        );
        print_line!("dead letters           {:>8}", self.dead_letters);
        print_line!("limits broken          {:>8}", self.limits_broken);
        print_line!("{}", if self.is_good() { "complete: no trade is missing or duplicated" } else { "NOT complete" });
    }
}
