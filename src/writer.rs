//! Writes rows to history and cache: the only path, for live and for backfilled rows.
//!
//! While history is down the writer retries without limit; a table or column that somebody changed, and a damaged or
//! removed file, are outages too, because frames wait in the log until a person has repaired it. It bisects a refused
//! batch down to the row and stores that row as a dead letter. A store that this program does not support is fatal.
//! Knows no backend by name.

use std::ops::Range as Span;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cache::PendingUpdates;
use crate::health::Health;
use crate::heartbeat::{BEAT_INTERVAL_MAX, Heartbeat};
use crate::history::{Batch, DeadLetter, History, HistoryError, LetterSource};
use crate::log::Partition;
use crate::market::Timestamp;
use crate::messages;
use crate::retry::Backoff;

/// First wait between two inserts; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest wait: the writer notices a store that is up again within it, and the caller's heartbeat beats at least this
/// often.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Longest insert: after it the writer retries with the same token.
const INSERT_MAX: Duration = Duration::from_secs(60);

/// The frame of a row, for its dead letter.
#[derive(Clone, Debug)]
pub struct Source {
    /// Log partition.
    pub partition: Partition,
    /// Log offset.
    pub offset: i64,
    /// When the frame arrived.
    pub received_at: Timestamp,
    /// The bytes as received.
    pub payload: Bytes,
}

impl Source {
    /// A dead letter of the frame.
    pub fn dead_letter(self, stream: &str, reason: String) -> DeadLetter {
        DeadLetter {
            id: String::new(),
            recorder: Arc::from(""),
            source: LetterSource::Log,
            partition: self.partition,
            offset: self.offset,
            received_at: self.received_at,
            stream: stream.into(),
            reason,
            payload: self.payload,
        }
    }
}

/// A batch and the source of each of its trades and klines. Rows from REST have no sources.
#[derive(Debug, Default)]
pub struct Rows {
    /// The rows.
    pub batch: Batch,
    /// Parallel to `batch.trades`, or empty.
    pub trade_sources: Vec<Source>,
    /// Parallel to `batch.klines`, or empty.
    pub kline_sources: Vec<Source>,
    /// When rows without a source arrived.
    pub received_at: Timestamp,
}

/// A row that history cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its trade id, or its kline's open time in microseconds.
    pub position: i64,
    /// Its dead letter, and why.
    pub reason: String,
}

/// Why rows were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// `stop` was cancelled while history was down; nothing is acknowledged.
    #[error("stopped while history was unavailable")]
    Stopped,
    /// History has a schema or a server that this program does not support, or refuses even a dead letter.
    #[error("{0}")]
    Fatal(String),
}

/// Writes rows durably.
#[derive(Clone)]
pub struct Writer {
    history: Arc<dyn History>,
    pending_updates: Arc<PendingUpdates>,
    health: Health,
    /// The name of this recorder in dead letters.
    recorder: Arc<str>,
}

impl Writer {
    /// A writer to these stores.
    pub fn new(history: Arc<dyn History>, pending_updates: Arc<PendingUpdates>, health: Health) -> Self {
        Self { history, pending_updates, health, recorder: Arc::from("") }
    }

    /// The same writer with the name of this recorder among several that share the history.
    pub fn with_recorder(self, instance: &str) -> Self {
        Self { recorder: Arc::from(instance), ..self }
    }

    /// The name of this recorder among several that share the history.
    pub fn recorder(&self) -> &Arc<str> {
        &self.recorder
    }

    /// The history it writes to.
    pub fn history(&self) -> &Arc<dyn History> {
        &self.history
    }

    /// The values that wait for the cache.
    pub fn pending_updates(&self) -> &Arc<PendingUpdates> {
        &self.pending_updates
    }

    /// Stores all rows durably, with retries, then offers them to the cache. Returns the rows that history cannot hold;
    /// their dead letters are stored.
    pub async fn write(
        &self,
        rows: &Rows,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<Vec<RefusedRow>, WriteError> {
        let mut refused = Vec::new();
        if let Err(refusal) = self.insert_with_retry(&rows.batch, heartbeat, stop).await? {
            warn!(rows = rows.batch.rows(), error = %refusal, "history refuses a batch, bisecting it to find the rows: {refusal}");
            refused = self.bisect(rows, heartbeat, stop).await?;
        }
        self.pending_updates.offer_rows(&rows.batch);
        Ok(refused)
    }

    /// Inserts until the batch is durable or history refuses its data (inner error). Other errors are fatal.
    async fn insert_with_retry(
        &self,
        batch: &Batch,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<Result<(), String>, WriteError> {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut failed = false;
        loop {
            let insert = tokio::time::timeout(INSERT_MAX, self.history.insert(batch));
            let inserted = heartbeat.beat_while(INSERT_MAX + BEAT_INTERVAL_MAX, insert).await;
            let late = || HistoryError::Unavailable(format!("no answer within {} s", INSERT_MAX.as_secs()));
            match inserted.unwrap_or_else(|_elapsed| Err(late())) {
                Ok(()) => {
                    if failed {
                        self.health.restored("history");
                    }
                    return Ok(Ok(()));
                }
                Err(HistoryError::Data(why)) => return Ok(Err(why)),
                Err(HistoryError::Schema(why)) => return Err(WriteError::Fatal(why)),
                Err(outage @ (HistoryError::Unavailable(_) | HistoryError::Damaged(_))) => {
                    let why = outage.into_reason();
                    if !failed {
                        warn!(
                            MESSAGE_ID = messages::HISTORY_UNAVAILABLE,
                            error = %why,
                            "history does not accept rows, they wait until it does: {why}"
                        );
                    }
                    failed = true;
                    self.health.degraded("history", &why);
                }
            }
            if !backoff.wait(stop).await {
                return Err(WriteError::Stopped);
            }
        }
    }

    /// Finds the refused rows and stores all others.
    async fn bisect(
        &self,
        rows: &Rows,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<Vec<RefusedRow>, WriteError> {
        let rest = Batch {
            gaps: rows.batch.gaps.clone(),
            dead_letters: rows.batch.dead_letters.clone(),
            token: format!("{}:rest", rows.batch.token),
            ..Batch::default()
        };
        if let Err(why) = self.insert_with_retry(&rest, heartbeat, stop).await? {
            return Err(WriteError::Fatal(format!("history refuses ledger rows: {why}")));
        }
        let mut refused = Vec::new();
        for (kind, len) in [(RowKind::Trades, rows.batch.trades.len()), (RowKind::Klines, rows.batch.klines.len())] {
            let mut todo = vec![Span { start: 0, end: len }];
            while let Some(span) = todo.pop() {
                if span.is_empty() {
                    continue;
                }
                let Err(why) = self.insert_with_retry(&kind.part(rows, &span), heartbeat, stop).await? else {
                    continue;
                };
                if span.len() == 1 {
                    let letter = kind.letter(rows, span.start, why, &self.recorder);
                    let reason = format!("dead letter {}: {}", letter.id, letter.reason);
                    refused.push(RefusedRow { position: kind.position(rows, span.start), reason });
                    self.dead_letter(letter, heartbeat, stop).await?;
                    continue;
                }
                let middle = span.start + span.len() / 2;
                todo.push(middle..span.end);
                todo.push(span.start..middle);
            }
        }
        Ok(refused)
    }

    async fn dead_letter(
        &self,
        letter: DeadLetter,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<(), WriteError> {
        let token = format!("letter:{}", letter.id);
        let batch = Batch { dead_letters: vec![letter], token, ..Batch::default() };
        match self.insert_with_retry(&batch, heartbeat, stop).await? {
            Ok(()) => Ok(()),
            Err(why) => Err(WriteError::Fatal(format!("history refuses a dead letter: {why}"))),
        }
    }
}

/// Which of a batch's lists is bisected.
#[derive(Clone, Copy)]
enum RowKind {
    Trades,
    Klines,
}

impl RowKind {
    fn part(self, rows: &Rows, span: &Span<usize>) -> Batch {
        let batch = &rows.batch;
        // The kind is part of the token: the same span of trades and of klines names different rows.
        match self {
            Self::Trades => Batch {
                trades: batch.trades[span.clone()].to_vec(),
                token: format!("{}:t{}-{}", batch.token, span.start, span.end),
                ..Batch::default()
            },
            Self::Klines => Batch {
                klines: batch.klines[span.clone()].to_vec(),
                token: format!("{}:k{}-{}", batch.token, span.start, span.end),
                ..Batch::default()
            },
        }
    }

    fn position(self, rows: &Rows, index: usize) -> i64 {
        match self {
            Self::Trades => rows.batch.trades[index].trade.id,
            Self::Klines => rows.batch.klines[index].kline.open_time.micros(),
        }
    }

    fn letter(self, rows: &Rows, index: usize, why: String, recorder: &Arc<str>) -> DeadLetter {
        let (sources, stream, text) = match self {
            Self::Trades => {
                let row = &rows.batch.trades[index];
                (&rows.trade_sources, format!("{}:{}:trade", row.exchange, row.symbol), format!("{:?}", row.trade))
            }
            Self::Klines => {
                let row = &rows.batch.klines[index];
                let stream = format!("{}:{}:kline_{}", row.exchange, row.symbol, row.kline.interval);
                (&rows.kline_sources, stream, format!("{:?}", row.kline))
            }
        };
        let reason = format!("history refuses the row: {why}");
        let mut letter = match sources.get(index).cloned() {
            Some(source) => source.dead_letter(&stream, reason),
            None => DeadLetter::of_rest(&stream, reason, Bytes::from(text), rows.received_at),
        };
        letter.identify(recorder);
        letter
    }
}
