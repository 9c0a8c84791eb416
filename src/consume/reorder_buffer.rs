//! Turns records of the log into rows, latest values, gaps and dead letters, in each stream's order. Holds items that
//! arrive early, and computes the offsets that may be committed. No I/O, no clock.

use std::collections::{BTreeSet, HashMap};

use crate::cache::Update;
use crate::exchange::{DecodedFrame, Dialect, Event, Route};
use crate::history::DeadLetter;
use crate::log::{Offsets, Partition, Record};
use crate::market::{Channel, Exchange, Frame, Origin, Stream, Symbol, Timestamp};
use crate::writer::{Rows, Source};

use super::router::{StreamRouter, SymbolStreams, kline_state, stream, trade_state};
use super::stream_state::{DetectedGap, StreamState};
use super::undecodable::Undecodable;
use crate::progress::{Outage, StreamProgress};

/// How long missing positions may still arrive before they are a gap, in microseconds: two sockets, or two frames of
/// one socket, may deliver neighbours in either order.
const REORDER_GRACE_US: i64 = 300_000;
/// How long positions that the exchange has may take to arrive before they are a gap, in microseconds.
pub const EXPECT_GRACE_US: i64 = 2_000_000;
/// How far the exchange's time must be past a kline's end before the closed kline is expected, in microseconds. Binance
/// sends it within 2 s.
const KLINE_LATE_US: i64 = 5_000_000;

/// Positions that the exchange has and that must arrive.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The stream.
    pub stream: Stream,
    /// The exchange has every position up to this one.
    pub last: i64,
    /// The source of that knowledge: `tail`, `silence` or `kline`.
    pub by: &'static str,
}

/// Decodes records, puts each stream's items in order and collects a batch. One per worker.
pub struct ReorderBuffer {
    exchanges: HashMap<Exchange, ExchangeState>,
    watermarks: HashMap<Stream, i64>,
    rows: Rows,
    bytes: usize,
    update: Update,
    detected: Vec<DetectedGap>,
    /// A stream started without a row, so its progress must be published.
    has_started: bool,
    next_offsets: Offsets,
    undecodable: Undecodable,
}

/// The symbols of one exchange.
struct ExchangeState {
    dialect: std::sync::Arc<dyn Dialect>,
    index: HashMap<Symbol, usize>,
    symbols: Vec<SymbolStreams>,
    /// The exchange's latest event time.
    time: Timestamp,
    /// Symbols with held items.
    holding: BTreeSet<usize>,
}

impl ExchangeState {
    fn index_of(&mut self, symbol: &str) -> usize {
        if let Some(&index) = self.index.get(symbol) {
            return index;
        }
        let symbol = Symbol::new(symbol);
        self.symbols.push(SymbolStreams::new(symbol.clone()));
        self.index.insert(symbol, self.symbols.len() - 1);
        self.symbols.len() - 1
    }
}

/// A batch that is ready to become durable.
#[derive(Debug, Default)]
pub struct ReadyBatch {
    /// Rows and dead letters. The worker adds the ledger's rows.
    pub rows: Rows,
    /// Latest values that history does not store.
    pub update: Update,
    /// Gaps for the ledger.
    pub detected: Vec<DetectedGap>,
    /// Offsets that may be committed once the batch is durable.
    pub positions: Offsets,
    /// Progress of the streams that changed.
    pub progress: Vec<(Stream, StreamProgress)>,
}

impl ReorderBuffer {
    /// A buffer for frames of these exchanges.
    pub fn new(dialects: impl IntoIterator<Item = std::sync::Arc<dyn Dialect>>) -> Self {
        let exchanges = dialects
            .into_iter()
            .map(|dialect| {
                let exchange = dialect.exchange();
                let (index, symbols, holding) = (HashMap::new(), Vec::new(), BTreeSet::new());
                (exchange, ExchangeState { dialect, index, symbols, time: Timestamp(0), holding })
            })
            .collect();
        Self {
            exchanges,
            watermarks: HashMap::new(),
            rows: Rows::default(),
            bytes: 0,
            update: Update::default(),
            detected: Vec::new(),
            has_started: false,
            next_offsets: Offsets::new(),
            undecodable: Undecodable::default(),
        }
    }

    /// Sets the last stored position of streams. A stream that already has frames is not changed.
    pub fn seed(&mut self, watermarks: impl IntoIterator<Item = (Stream, i64)>) {
        self.watermarks.extend(watermarks);
    }

    /// Raises the last stored position of streams; never lowers it.
    pub fn raise_watermarks(&mut self, watermarks: impl IntoIterator<Item = (Stream, i64)>) {
        for (stream, position) in watermarks {
            let known = self.watermarks.entry(stream).or_insert(position);
            *known = position.max(*known);
        }
    }

    /// Rows, dead letters and gaps that wait for the next batch.
    pub fn pending_rows(&self) -> usize {
        self.rows.batch.rows() + self.detected.len()
    }

    /// Bytes of the frames consumed since the last batch.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write and nothing to commit.
    pub fn is_idle(&self) -> bool {
        self.bytes == 0 && self.pending_rows() == 0 && self.update.is_empty() && !self.has_started
    }

    /// The next offset to consume of each partition, durable or not.
    pub fn next_offsets(&self) -> &Offsets {
        &self.next_offsets
    }

    /// Streams of which no frame can be decoded.
    pub fn outages(&self) -> Vec<Outage> {
        self.undecodable.outages()
    }

    /// Forgets the outages of streams that are not recorded any more.
    pub fn retain_outages(&mut self, streams: &[Stream]) {
        self.undecodable.retain(streams);
    }

    /// Drops a partition that is no longer assigned: its offset, its held items and its streams' state.
    pub fn forget(&mut self, partition: Partition) {
        self.next_offsets.remove(&partition);
        self.undecodable.forget(partition);
        for exchange_state in self.exchanges.values_mut() {
            for (index, streams) in exchange_state.symbols.iter_mut().enumerate() {
                if streams.partition == Some(partition) {
                    *streams = SymbolStreams::new(streams.symbol.clone());
                    exchange_state.holding.remove(&index);
                }
            }
        }
    }

    /// Consumes one record.
    pub fn push(&mut self, record: Record) {
        self.next_offsets.insert(record.partition, record.offset + 1);
        self.bytes += record.frame.payload.len() + 64;
        if record.frame.origin != Origin::Socket {
            return;
        }
        let source = Source {
            partition: record.partition,
            offset: record.offset,
            received_at: record.frame.received_at,
            payload: record.frame.payload.clone(),
        };
        let exchange = record.frame.key.split(':').next().and_then(|name| name.parse::<Exchange>().ok());
        let Some(exchange_state) = exchange.and_then(|exchange| self.exchanges.get_mut(&exchange)) else {
            self.dead_letter(source, &record.frame.key, "no dialect for the log's key".to_owned());
            return;
        };
        let decoded = match exchange_state.dialect.decode(&record.frame.payload) {
            Ok(DecodedFrame::Ignored) => return,
            Ok(DecodedFrame::Market { symbol, event_time, event }) => (symbol, event_time, event),
            Err(error) => {
                let stream = stream_of(exchange_state.dialect.as_ref(), &record.frame);
                let (exchange, reason) = (exchange_state.dialect.exchange(), error.to_string());
                let name = stream.as_ref().map_or_else(|| record.frame.key.to_string(), Stream::to_string);
                self.undecodable.failed(exchange, stream, &source, &reason);
                self.dead_letter(source, &name, reason);
                return;
            }
        };
        let (symbol, event_time, event) = decoded;
        if let Some(time) = event_time {
            exchange_state.time = exchange_state.time.max(time);
        }
        let exchange = exchange_state.dialect.exchange();
        let index = exchange_state.index_of(&symbol);
        let streams = &mut exchange_state.symbols[index];
        streams.partition = Some(record.partition);
        let mut router = StreamRouter {
            exchange,
            symbol: &streams.symbol.clone(),
            watermarks: &self.watermarks,
            rows: &mut self.rows,
            update: &mut self.update,
        };
        let channel = match event {
            Event::Trade(_) => Channel::Trade,
            Event::Kline(kline) => Channel::Kline(kline.interval),
            Event::Book(_) => Channel::BookTicker,
        };
        self.undecodable.decoded(exchange, router.symbol, channel);
        let connection = record.frame.connection;
        let holding = match event {
            Event::Trade(trade) => router.trade(streams, trade, source, connection),
            Event::Kline(kline) => router.kline(streams, kline, source, connection),
            Event::Book(book) => router.book(streams, book, source.received_at, connection),
        };
        if holding {
            exchange_state.holding.insert(index);
        }
    }

    /// Whether items are held, or positions are expected that have not arrived.
    pub fn is_waiting(&self) -> bool {
        self.exchanges.values().any(|exchange_state| {
            let expecting = |streams: &SymbolStreams| {
                streams.trade.as_ref().is_some_and(StreamState::is_expecting)
                    || streams.klines.values().any(StreamState::is_expecting)
            };
            !exchange_state.holding.is_empty() || exchange_state.symbols.iter().any(expecting)
        })
    }

    /// Declares a gap wherever a grace period is over: missing positions before held items, and expected positions that
    /// did not arrive. Call it only at the log's end, with the clock's time: in a backlog the missing frames may lie
    /// ahead, unread. `force` ends the grace of held items at once (at a stop, or when a partition is revoked).
    pub fn declare_gaps(&mut self, now: Timestamp, force: bool) {
        let deadline = if force { Timestamp(i64::MAX) } else { now.plus_micros(-REORDER_GRACE_US) };
        // First, because a gap that an expectation declares may release held items.
        self.check_expectations(now);
        self.expire_held(deadline);
    }

    /// Declares a gap where too many items are held, also in the middle of a backlog.
    pub fn declare_gaps_over_limit(&mut self) {
        self.expire_held(Timestamp(i64::MIN));
    }

    fn expire_held(&mut self, deadline: Timestamp) {
        for (&exchange, exchange_state) in &mut self.exchanges {
            for index in std::mem::take(&mut exchange_state.holding) {
                let streams = &mut exchange_state.symbols[index];
                let mut router = StreamRouter {
                    exchange,
                    symbol: &streams.symbol.clone(),
                    watermarks: &self.watermarks,
                    rows: &mut self.rows,
                    update: &mut self.update,
                };
                if router.expire(streams, deadline, &mut self.detected) {
                    exchange_state.holding.insert(index);
                }
            }
        }
    }

    /// Expects positions; those that do not arrive within the grace period become a gap.
    pub fn expect(&mut self, expectation: &Expectation, now: Timestamp) {
        let stream = &expectation.stream;
        let Some(exchange_state) = self.exchanges.get_mut(&stream.exchange) else { return };
        let index = exchange_state.index_of(stream.symbol.as_str());
        let streams = &mut exchange_state.symbols[index];
        let symbol = streams.symbol.clone();
        let deadline = now.plus_micros(EXPECT_GRACE_US);
        match stream.channel {
            Channel::Trade => {
                let state = trade_state(streams, stream.exchange, &symbol, &self.watermarks);
                state.expect(expectation.last, deadline, expectation.by);
            }
            Channel::Kline(interval) => {
                let state = kline_state(streams, stream.exchange, &symbol, interval, &self.watermarks);
                state.expect(expectation.last, deadline, expectation.by);
            }
            Channel::BookTicker => {}
        }
    }

    /// Starts a stream at `position` if no frame of it has arrived.
    pub fn begin(&mut self, stream: &Stream, position: i64) {
        let Some(exchange_state) = self.exchanges.get_mut(&stream.exchange) else { return };
        let index = exchange_state.index_of(stream.symbol.as_str());
        let streams = &mut exchange_state.symbols[index];
        let symbol = streams.symbol.clone();
        if stream.channel == Channel::Trade {
            let state = trade_state(streams, stream.exchange, &symbol, &self.watermarks);
            state.tracker.begin_at(position);
            state.changed = true;
            self.has_started = true;
        }
    }

    /// Takes the batch that is ready. Held items stay, and their offsets stay uncommitted.
    pub fn take_ready(&mut self) -> ReadyBatch {
        let mut positions = self.next_offsets.clone();
        let mut progress = Vec::new();
        for (&exchange, exchange_state) in &mut self.exchanges {
            // A held item keeps every later offset of its partition uncommitted.
            for &index in &exchange_state.holding {
                for (partition, offset) in exchange_state.symbols[index].held_offsets() {
                    positions.entry(partition).and_modify(|next| *next = (*next).min(offset));
                }
            }
            for streams in &mut exchange_state.symbols {
                streams.drain_changed(exchange, &mut progress);
            }
        }
        self.bytes = 0;
        self.has_started = false;
        let mut rows = std::mem::take(&mut self.rows);
        rows.batch.token = positions.iter().map(|(partition, next)| format!("{partition}:{next};")).collect();
        ReadyBatch {
            rows,
            update: std::mem::take(&mut self.update),
            detected: std::mem::take(&mut self.detected),
            positions,
            progress,
        }
    }

    fn check_expectations(&mut self, now: Timestamp) {
        for (&exchange, exchange_state) in &mut self.exchanges {
            let time = exchange_state.time;
            for streams in &mut exchange_state.symbols {
                let symbol = &streams.symbol;
                if let Some(state) = &mut streams.trade {
                    state.check_expected(now, &mut self.detected, || stream(exchange, symbol, Channel::Trade));
                }
                for (&interval, state) in &mut streams.klines {
                    if let Some(next) = state.tracker.next()
                        && !state.is_expecting()
                        && time.micros() > next + interval.micros() + KLINE_LATE_US
                    {
                        state.expect(next, now.plus_micros(EXPECT_GRACE_US), "tail");
                    }
                    state
                        .check_expected(now, &mut self.detected, || stream(exchange, symbol, Channel::Kline(interval)));
                }
            }
        }
    }

    fn dead_letter(&mut self, source: Source, stream: &str, reason: String) {
        self.rows.batch.dead_letters.push(DeadLetter {
            partition: source.partition,
            offset: source.offset,
            received_at: source.received_at,
            stream: stream.into(),
            reason,
            payload: source.payload,
        });
    }
}

/// The stream of a frame that cannot be decoded: its symbol is in the key, its channel in the exchange's name of it.
fn stream_of(dialect: &dyn Dialect, frame: &Frame) -> Option<Stream> {
    let (_, symbol) = frame.key.split_once(':')?;
    let Route::Stream(name) = dialect.route(&frame.payload) else { return None };
    Some(Stream::new(dialect.exchange(), Symbol::new(symbol), dialect.channel(&name)?))
}

#[cfg(test)]
#[path = "reorder_buffer_tests.rs"]
mod tests;
