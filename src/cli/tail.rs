//! `tail`: prints trades as history receives them, of one symbol or of all.
//!
//! It reads history, not the service, so every printed trade is durable. When it skips ids it reports them; it does not
//! print them later, when backfill has fetched them.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;

use crate::app::{recorded, stores};
use crate::config::Config;
use crate::exit::{Failure, IO, USAGE};
use crate::gap::Range;
use crate::history::{History, TradeRow};
use crate::market::{Channel, Stream, Symbol, by_exchange, plain};

use super::export::{columns, jsonl};
use super::output::Format;

/// Time between two queries for new trades; one query covers all symbols.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Trades per query and symbol.
const PAGE: usize = 5_000;

/// Arguments of `tail`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Needs no service; ends when it is interrupted. `--format json` prints objects as `export` does.\n\n\
    Examples:\n  tapekeeper tail --symbol BTCUSDT\n  tapekeeper tail -n 0 --format json | jq .price"
)]
pub struct Args {
    /// Only this symbol
    #[arg(long)]
    symbol: Option<String>,
    /// Number of stored trades per symbol to begin with
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(0..=5_000))]
    lines: i64,
}

/// Prints until it is interrupted.
pub async fn run(args: Args, config: &Config, format: Format) -> Result<u8, Failure> {
    let mut streams: Vec<Stream> = recorded::known_streams(config);
    streams.retain(|stream| {
        stream.channel.has_trades() && args.symbol.as_ref().is_none_or(|symbol| stream.symbol.as_str() == symbol)
    });
    if streams.is_empty() {
        return Err(Failure::new(USAGE, anyhow!("no configured stream of trades matches --symbol")));
    }
    let history = stores::history_to_read(config).await?;
    let colours = format == Format::Human && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut tail = Tail { history, format, colours, last: HashMap::new() };
    for stream in &streams {
        // A stream without rows begins at its first trade.
        if let Some(extent) = tail.history.extent(stream).await.context("find the last trades")? {
            tail.last.insert(stream.clone(), (extent.last - args.lines).max(extent.first - 1));
        }
    }
    loop {
        let is_behind = tail.poll(&streams).await?;
        if !is_behind {
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

struct Tail {
    history: Arc<dyn History>,
    format: Format,
    colours: bool,
    /// The highest printed id.
    last: HashMap<Stream, i64>,
}

impl Tail {
    /// Prints new trades; returns whether there are more.
    async fn poll(&mut self, streams: &[Stream]) -> Result<bool, Failure> {
        let mut newest: HashMap<Stream, i64> = HashMap::new();
        for (exchange, streams) in by_exchange(streams) {
            for channel in Channel::TRADES {
                let of_channel = streams.iter().filter(|stream| stream.channel == channel);
                let symbols: Vec<Symbol> = of_channel.map(|stream| stream.symbol.clone()).collect();
                let latest = self.history.latest_trades(exchange, channel, &symbols).await;
                let latest = latest.context("read the latest trades")?;
                newest.extend(latest.into_iter().map(|row| (row.stream(), row.trade.id)));
            }
        }
        let mut rows = Vec::new();
        let mut is_behind = false;
        for stream in streams {
            let Some(&newest) = newest.get(stream) else { continue };
            let first = self.last.get(stream).map_or(0, |last| last + 1);
            let Some(range) = Range::new(first, newest) else { continue };
            let mut fresh = self.history.trades(stream, range, PAGE).await.context("read trades")?;
            is_behind |= fresh.len() == PAGE;
            self.report_skipped(stream, &fresh);
            rows.append(&mut fresh);
        }
        // Symbols are read one after the other, but their trades interleave.
        rows.sort_by_key(|row| row.trade.ts);
        self.print(&rows).context("print trades").map_err(|error| Failure::new(IO, error))?;
        Ok(is_behind)
    }

    /// Reports skipped ids, and moves the last printed id forward.
    fn report_skipped(&mut self, stream: &Stream, rows: &[TradeRow]) {
        for row in rows {
            if let Some(last) = self.last.insert(stream.clone(), row.trade.id)
                && last + 1 < row.trade.id
            {
                eprintln!("{stream}: {}..{} is missing in history", last + 1, row.trade.id - 1);
            }
        }
    }

    fn print(&self, rows: &[TradeRow]) -> io::Result<()> {
        let mut lines = String::new();
        for row in rows {
            match self.format {
                Format::Json => match row.trade.trade_ids {
                    None => jsonl::push_row(&mut lines, columns::TRADE, &columns::trade(row)),
                    Some(ids) => jsonl::push_row(&mut lines, columns::AGG_TRADE, &columns::agg_trade(row, ids)),
                },
                Format::Human => {
                    lines.push_str(&format_trade(row, self.colours));
                    lines.push('\n');
                }
            }
        }
        let mut out = io::stdout().lock();
        out.write_all(lines.as_bytes())?;
        out.flush()
    }
}

/// `10:48:00.123 BTCUSDT      buy           0.5 at     42000.1  id 7`.
fn format_trade(row: &TradeRow, colours: bool) -> String {
    let trade = &row.trade;
    let at = trade.ts.rfc3339();
    let at = at.get(11..23).unwrap_or(&at);
    let side = format!("{:<4}", trade.side.as_str());
    let side = match (colours, trade.side.as_str()) {
        (false, _) => side,
        (true, "buy") => format!("\x1b[32m{side}\x1b[0m"),
        (true, _) => format!("\x1b[31m{side}\x1b[0m"),
    };
    let (price, quantity) = (plain(trade.price), plain(trade.quantity));
    let backfilled = if row.is_backfilled { " backfilled" } else { "" };
    let symbol = row.symbol.as_str();
    let kind = if trade.trade_ids.is_some() { "agg id" } else { "id" };
    format!("{at} {symbol:<12} {side} {quantity:>14} at {price:>12}  {kind} {}{backfilled}", trade.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Exchange, Side, Timestamp, Trade};

    #[test]
    fn a_trade_is_one_line() {
        let mut row = TradeRow {
            exchange: Exchange::named("binance"),
            symbol: Symbol::new("BTCUSDT"),
            trade: Trade {
                id: 7,
                ts: Timestamp(1_795_517_280_123_000),
                price: "42000.10".parse().unwrap(),
                quantity: "0.5".parse().unwrap(),
                side: Side::Buy,
                trade_ids: None,
            },
            received_at: Timestamp(0),
            is_backfilled: false,
            epoch: 0,
            version: crate::history::row_version(false),
        };
        assert_eq!(format_trade(&row, false), "10:48:00.123 BTCUSDT      buy             0.5 at      42000.1  id 7");
        row.is_backfilled = true;
        let text = format_trade(&row, true);
        assert!(text.contains("\x1b[32mbuy \x1b[0m") && text.ends_with("id 7 backfilled"), "{text:?}");
    }
}
