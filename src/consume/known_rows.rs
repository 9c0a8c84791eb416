//! Rows of positions that are stored already: a copy changes nothing, and another content is a conflict. History says
//! which it is, because the consumer remembers only the newest rows.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::history::{
    ConflictRow, History, HistoryError, KlineRow, RowStore, TradeRow, Verdict, kline_content, same_kline, trade_content,
};
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Timestamp};
use crate::messages;
use crate::retry::Backoff;
use crate::writer::{Rows, Source};

use super::ReadyBatch;

/// Longest read of the stored rows before it is tried again.
const READ_MAX: Duration = Duration::from_secs(30);
/// First and longest wait between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Rows of positions below their stream's next one.
#[derive(Debug, Default)]
pub struct RepeatedRows {
    /// Trades.
    pub trades: Vec<(TradeRow, Source)>,
    /// Closed klines; with whether the exchange sent it later than the other content, where that is known.
    pub klines: Vec<(KlineRow, Source, Option<bool>)>,
}

impl RepeatedRows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.trades.len() + self.klines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Adds to the batch what history lacks, and a conflict for each position that it has with another content. Returns
/// `false` when `stop` was cancelled first.
pub async fn settle(
    history: &Arc<dyn History>,
    health: &Health,
    ready: &mut ReadyBatch,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<bool, HistoryError> {
    if ready.repeated.is_empty() {
        return Ok(true);
    }
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failed = false;
    let stored = loop {
        let read = tokio::time::timeout(READ_MAX, StoredRows::read(&**history, &ready.repeated));
        let why = match heartbeat.beat_while(READ_MAX * 2, read).await {
            Ok(Ok(stored)) => break stored,
            Ok(Err(error @ HistoryError::Schema(_))) => return Err(error),
            Ok(Err(error)) => error.into_reason(),
            Err(_elapsed) => format!("no answer within {} s", READ_MAX.as_secs()),
        };
        failed = true;
        health.degraded("history", &why);
        if !backoff.wait(stop).await {
            return Ok(false);
        }
    };
    if failed {
        health.restored("history");
    }
    stored.compare(ready);
    Ok(true)
}

/// What history has at the repeated positions.
#[derive(Debug, Default)]
struct StoredRows {
    trades: HashMap<(Stream, i64), TradeRow>,
    klines: HashMap<(Exchange, Symbol, Interval, Timestamp), KlineRow>,
}

fn trade_key(row: &TradeRow) -> (Stream, i64) {
    (row.stream(), row.trade.id)
}

fn kline_key(row: &KlineRow) -> (Exchange, Symbol, Interval, Timestamp) {
    (row.exchange, row.symbol.clone(), row.kline.interval, row.kline.open_time)
}

fn by_key<K: Eq + Hash, R>(rows: Vec<R>, key: impl Fn(&R) -> K) -> impl Iterator<Item = (K, R)> {
    rows.into_iter().map(move |row| (key(&row), row))
}

impl StoredRows {
    async fn read(history: &dyn RowStore, repeated: &RepeatedRows) -> Result<Self, HistoryError> {
        let mut stored = Self::default();
        let trades = repeated.trades.iter().map(|(row, _)| row.exchange);
        let exchanges: BTreeSet<Exchange> =
            trades.chain(repeated.klines.iter().map(|(row, ..)| row.exchange)).collect();
        for exchange in exchanges {
            for channel in Channel::TRADES {
                let is_of = |row: &TradeRow| row.exchange == exchange && row.trade.channel() == channel;
                let of = repeated.trades.iter().filter(|(row, _)| is_of(row));
                let keys: Vec<_> = of.map(|(row, _)| (row.symbol.clone(), row.trade.id)).collect();
                if !keys.is_empty() {
                    stored.trades.extend(by_key(history.trades_by_id(exchange, channel, &keys).await?, trade_key));
                }
            }
            let of = repeated.klines.iter().filter(|(row, ..)| row.exchange == exchange);
            let keys: Vec<_> =
                of.map(|(row, ..)| (row.symbol.clone(), row.kline.interval, row.kline.open_time)).collect();
            if !keys.is_empty() {
                stored.klines.extend(by_key(history.klines_by_time(exchange, &keys).await?, kline_key));
            }
        }
        Ok(stored)
    }

    fn compare(mut self, ready: &mut ReadyBatch) {
        let repeated = std::mem::take(&mut ready.repeated);
        // The first content may be in the same batch.
        for row in &ready.rows.batch.trades {
            self.trades.entry(trade_key(row)).or_insert_with(|| row.clone());
        }
        for row in &ready.rows.batch.klines {
            self.klines.entry(kline_key(row)).or_insert_with(|| row.clone());
        }
        for (row, source) in repeated.trades {
            // A row of another numbering is another trade.
            let known = self.trades.get(&trade_key(&row)).filter(|known| known.epoch == row.epoch);
            let Some(known) = known else {
                self.trades.insert(trade_key(&row), row.clone());
                add_trade(&mut ready.rows, row, source);
                continue;
            };
            if known.trade != row.trade && !is_decoded_anew(row.version, known.version) {
                let contents = (trade_content(&known.trade), trade_content(&row.trade));
                let key = (row.stream(), row.epoch, row.trade.id);
                add_conflict(ready, key, contents, source.received_at, Verdict::Pending);
            } else if row.version > known.version {
                add_trade(&mut ready.rows, row, source);
            }
        }
        for (mut row, source, is_later) in repeated.klines {
            let Some(known) = self.klines.get(&kline_key(&row)) else {
                self.klines.insert(kline_key(&row), row.clone());
                add_kline(&mut ready.rows, row, source);
                continue;
            };
            if same_kline(&known.kline, &row.kline) || is_decoded_anew(row.version, known.version) {
                if row.version > known.version {
                    add_kline(&mut ready.rows, row, source);
                }
                continue;
            }
            let contents = (kline_content(&known.kline), kline_content(&row.kline));
            let verdict = match is_later {
                Some(true) => Verdict::Arrived,
                Some(false) => Verdict::Stored,
                None => Verdict::Pending,
            };
            let channel = Channel::Kline(row.kline.interval);
            let key = (Stream::new(row.exchange, row.symbol.clone(), channel), 0, row.kline.open_time.micros());
            add_conflict(ready, key, contents, source.received_at, verdict);
            if verdict == Verdict::Arrived {
                row.version = row.version.max(known.version) + 2;
                self.klines.insert(kline_key(&row), row.clone());
                add_kline(&mut ready.rows, row, source);
            }
        }
    }
}

/// Whether a newer decoder made this row: its result wins, and the older one was a fault of ours.
fn is_decoded_anew(version: i64, known: i64) -> bool {
    version / 2 > known / 2
}

fn add_trade(rows: &mut Rows, row: TradeRow, source: Source) {
    rows.batch.trades.push(row);
    rows.trade_sources.push(source);
}

fn add_kline(rows: &mut Rows, row: KlineRow, source: Source) {
    rows.batch.klines.push(row);
    rows.kline_sources.push(source);
}

fn add_conflict(
    ready: &mut ReadyBatch,
    (stream, epoch, position): (Stream, i64, i64),
    (stored, arrived): (String, String),
    at: Timestamp,
    verdict: Verdict,
) {
    warn!(
        MESSAGE_ID = messages::CONFLICT,
        EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol,
        "{stream} has two contents at {}, {}: stored {stored}, arrived {arrived}",
        stream.channel.span(position, position), verdict.as_str()
    );
    ready
        .rejected
        .push((stream.clone(), format!("another content of {} arrived", stream.channel.span(position, position))));
    ready.rows.batch.conflicts.push(ConflictRow { stream, epoch, position, stored, arrived, at, verdict });
}

#[cfg(test)]
#[path = "known_rows_tests.rs"]
mod tests;
