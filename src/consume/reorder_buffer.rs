//! Turns records of the log into rows, latest values, gaps and dead letters, in each stream's order. Holds items that
//! arrive early, and computes the offsets that may be committed. No I/O, no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::spec::KlineClose;
use crate::exchange::{Dialect, Event, MarketEvent};
use crate::history::EpochRow;
use crate::log::{Offsets, Partition, Record};
use crate::market::{Channel, Exchange, Origin, Stream, Timestamp};
use crate::writer::Source;

use super::exchange_state::ExchangeState;
use super::inputs::{DoubtfulTrades, Expectation, Force, Numbering, Watermark};
use super::partition_time::{Moment, PartitionTime, time_at};
use super::ready_batch::ReadyBatch;
use super::router::{Routed, StreamRouter, SymbolStreams, kline_state, stream, trade_state};
use super::stream_state::{Deadline, DetectedGap, StreamState};
use super::undecodable::{Undecodable, stream_of};
use crate::progress::Outage;

/// How long missing positions may still arrive before they are a gap, in microseconds: two sockets, or two frames of
/// one socket, may deliver neighbours in either order.
const REORDER_GRACE_US: i64 = 300_000;
/// How long positions that the exchange has may take to arrive before they are a gap, in microseconds.
pub const EXPECT_GRACE_US: i64 = 2_000_000;
/// How far the exchange's time must be past a kline's end before the closed kline is expected, in microseconds. Binance
/// sends it within 2 s.
const KLINE_LATE_US: i64 = 5_000_000;

/// Most bytes of held frames, of all streams together.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Wait before an expectation from a backlog is given up, at most, in microseconds.
const BACKLOG_MAX_US: i64 = 30 * 86_400 * 1_000_000;

/// Decodes records, puts each stream's items in order and collects a batch. One per worker.
pub struct ReorderBuffer {
    exchanges: HashMap<Exchange, ExchangeState>,
    watermarks: HashMap<Stream, Watermark>,
    /// The numberings of each stream that began after another one, ascending.
    epochs: HashMap<Stream, Vec<EpochRow>>,
    routed: Routed,
    bytes: usize,
    detected: Vec<DetectedGap>,
    /// A stream started without a row, so its progress must be published.
    has_started: bool,
    next_offsets: Offsets,
    times: HashMap<Partition, PartitionTime>,
    /// The monotonic clock at the last decision.
    monotonic: Duration,
    undecodable: Undecodable,
    /// The name of this recorder in dead letters.
    recorder: Arc<str>,
}

impl ReorderBuffer {
    /// A buffer for frames of these exchanges.
    pub fn new(dialects: impl IntoIterator<Item = Arc<dyn Dialect>>) -> Self {
        let exchanges = dialects.into_iter().map(|dialect| (dialect.exchange(), ExchangeState::new(dialect))).collect();
        Self {
            exchanges,
            watermarks: HashMap::new(),
            epochs: HashMap::new(),
            routed: Routed::default(),
            bytes: 0,
            detected: Vec::new(),
            has_started: false,
            next_offsets: Offsets::new(),
            times: HashMap::new(),
            monotonic: Duration::ZERO,
            undecodable: Undecodable::default(),
            recorder: Arc::from(""),
        }
    }

    /// The same buffer with the name of this recorder among several that share the history.
    pub fn with_recorder(self, instance: &str) -> Self {
        Self { recorder: Arc::from(instance), ..self }
    }

    /// Sets the monotonic clock: records that are pushed from now on are consumed at this time.
    pub fn set_monotonic(&mut self, monotonic: Duration) {
        self.monotonic = monotonic;
    }

    /// Sets an exchange's clock: its difference to ours in microseconds, and the time by our clock.
    pub fn set_clock(&mut self, exchange: Exchange, offset_us: Option<i64>, wall: Timestamp) {
        if let Some(state) = self.exchanges.get_mut(&exchange) {
            state.clock = offset_us.map(|offset| (offset, wall));
        }
    }

    /// Sets the last stored position of streams. A stream that already has frames is not changed.
    pub fn seed(&mut self, watermarks: impl IntoIterator<Item = (Stream, Watermark)>) {
        self.watermarks.extend(watermarks);
    }

    /// Sets the numberings that began after another one. A stream that already has frames is not changed.
    pub fn seed_epochs(&mut self, epochs: Vec<EpochRow>) {
        self.epochs.clear();
        for epoch in epochs {
            self.epochs.entry(epoch.stream()).or_default().push(epoch);
        }
    }

    /// Raises the last stored position of streams; never lowers it.
    pub fn raise_watermarks(&mut self, watermarks: impl IntoIterator<Item = (Stream, Watermark)>) {
        for (stream, watermark) in watermarks {
            let known = self.watermarks.entry(stream).or_insert(watermark);
            // A numbering that began again has lower positions of a later time.
            if watermark.position > known.position || watermark.ts > known.ts {
                *known = watermark;
            }
        }
    }

    /// Rows, dead letters and gaps that wait for the next batch.
    pub fn pending_rows(&self) -> usize {
        self.routed.rows.batch.rows() + self.routed.repeated.len() + self.detected.len()
    }

    /// Bytes of the frames consumed since the last batch.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write and nothing to commit.
    pub fn is_idle(&self) -> bool {
        self.bytes == 0 && self.pending_rows() == 0 && self.routed.update.is_empty() && !self.has_started
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
        self.times.remove(&partition);
        self.undecodable.forget(partition);
        for exchange_state in self.exchanges.values_mut() {
            for (index, streams) in exchange_state.symbols.iter_mut().enumerate() {
                if streams.partition == Some(partition) {
                    self.routed.held_bytes = self.routed.held_bytes.saturating_sub(streams.held_bytes());
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
        let received_at = record.frame.received_at;
        let at = self.times.entry(record.partition).or_default().record(received_at, self.monotonic);
        if record.frame.origin != Origin::Socket {
            return;
        }
        let source = Source {
            partition: record.partition,
            offset: record.offset,
            received_at,
            payload: record.frame.payload.clone(),
        };
        let name = record.frame.key.split(':').next().unwrap_or_default();
        let Some(exchange_state) = self.exchanges.get_mut(name) else {
            self.dead_letter(source, &record.frame.key, "no dialect for the log's key".to_owned());
            return;
        };
        let (dialect, connection) = (exchange_state.dialect.clone(), record.frame.connection);
        let exchange = dialect.exchange();
        let mut sink = |market: MarketEvent<'_>| self.route(exchange, market, &source, at, connection);
        if let Err(error) = dialect.decode(&record.frame.payload, &mut sink) {
            let (stream, reason) = (stream_of(dialect.as_ref(), &record.frame), error.to_string());
            let name = stream.as_ref().map_or_else(|| record.frame.key.to_string(), Stream::to_string);
            self.undecodable.failed(exchange, stream, &source, &reason);
            self.dead_letter(source, &name, reason);
        }
    }

    /// Adds one event of a frame.
    fn route(&mut self, exchange: Exchange, market: MarketEvent<'_>, source: &Source, at: Timestamp, connection: i64) {
        let Some(exchange_state) = self.exchanges.get_mut(&exchange) else { return };
        let MarketEvent { symbol, event_time, event } = market;
        let received_at = source.received_at;
        // A frame of a backlog is older than now; one that a machine without a clock battery received may look older yet.
        let measured = exchange_state.clock.map(|(offset, wall)| wall.max(received_at).plus_micros(offset));
        if let Some(time) = event_time {
            exchange_state.time.observe(time, measured, received_at);
        }
        // Without a measured clock nothing says which times are wrong.
        let exchange_now = measured.map(|measured| exchange_state.time.at_most(measured, received_at));
        let index = exchange_state.index_of(&symbol);
        let streams = &mut exchange_state.symbols[index];
        streams.partition = Some(source.partition);
        let mut router = StreamRouter {
            exchange,
            symbol: &streams.symbol.clone(),
            klines_name_trades: exchange_state.klines_name_trades,
            watermarks: &self.watermarks,
            epochs: &mut self.epochs,
            routed: &mut self.routed,
            at,
            monotonic: self.monotonic,
            exchange_now,
        };
        self.undecodable.decoded(exchange, router.symbol, event.position().0);
        let source = source.clone();
        let holding = match event {
            Event::Trade(trade) => router.trade(streams, trade, source, connection),
            Event::Kline(kline) if exchange_state.close == KlineClose::Successor => {
                router.kline_closed_by_successor(streams, kline, event_time, source, connection)
            }
            Event::Kline(kline) => router.kline(streams, kline, event_time, source, connection),
            Event::Book(book) => router.book(streams, book, source, connection),
        };
        if holding {
            exchange_state.holding.insert(index);
        }
        if self.routed.held_bytes > HELD_BYTES_MAX {
            self.declare_largest();
        }
    }

    /// Whether items are held, or positions are expected that have not arrived.
    pub fn is_waiting(&self) -> bool {
        self.exchanges.values().any(|exchange_state| {
            let expecting = |streams: &SymbolStreams| {
                streams.trades.values().any(StreamState::is_expecting)
                    || streams.klines.values().any(StreamState::is_expecting)
            };
            !exchange_state.holding.is_empty() || exchange_state.symbols.iter().any(expecting)
        })
    }

    /// Declares a gap wherever a grace period is over: missing positions before held items, and expected positions that
    /// did not arrive. Grace periods run by each partition's own receive times, so a hole in a backlog ends as soon as
    /// the records after it say so.
    pub fn declare_gaps(&mut self, moment: &Moment, force: Force<'_>) {
        self.monotonic = moment.monotonic;
        // First, because a gap that an expectation declares may release held items.
        self.check_expectations(moment);
        for (&exchange, exchange_state) in &mut self.exchanges {
            for index in std::mem::take(&mut exchange_state.holding) {
                let streams = &mut exchange_state.symbols[index];
                let partition = streams.partition.unwrap_or_default();
                let at = time_at(&self.times, Some(partition), moment);
                let is_forced = match force {
                    Force::None => false,
                    Force::Partitions(leaving) => leaving.contains(&partition),
                    Force::All => true,
                };
                let deadline = if is_forced { Timestamp(i64::MAX) } else { at.plus_micros(-REORDER_GRACE_US) };
                let mut router = StreamRouter {
                    exchange,
                    symbol: &streams.symbol.clone(),
                    klines_name_trades: exchange_state.klines_name_trades,
                    watermarks: &self.watermarks,
                    epochs: &mut self.epochs,
                    routed: &mut self.routed,
                    at,
                    monotonic: moment.monotonic,
                    exchange_now: None,
                };
                if router.expire(streams, deadline, &mut self.detected) {
                    exchange_state.holding.insert(index);
                }
            }
        }
    }

    /// Declares the gap of the symbol that holds the most items: all streams together hold too much.
    fn declare_largest(&mut self) {
        let symbols = self.exchanges.iter().flat_map(|(exchange, state)| {
            state.holding.iter().map(|index| (*exchange, *index, state.symbols[*index].held_count()))
        });
        let Some((exchange, index, _)) = symbols.max_by_key(|(_, _, count)| *count) else { return };
        let Some(exchange_state) = self.exchanges.get_mut(&exchange) else { return };
        let streams = &mut exchange_state.symbols[index];
        let partition = streams.partition.unwrap_or_default();
        let moment = Moment { monotonic: self.monotonic, ..Moment::default() };
        let mut router = StreamRouter {
            exchange,
            symbol: &streams.symbol.clone(),
            klines_name_trades: exchange_state.klines_name_trades,
            watermarks: &self.watermarks,
            epochs: &mut self.epochs,
            routed: &mut self.routed,
            at: time_at(&self.times, Some(partition), &moment),
            monotonic: self.monotonic,
            exchange_now: None,
        };
        if !router.expire(streams, Timestamp(i64::MAX), &mut self.detected) {
            exchange_state.holding.remove(&index);
        }
    }

    /// Expects positions; those that do not arrive within the grace period become a gap.
    pub fn expect(&mut self, expectation: &Expectation, moment: &Moment) {
        let stream = &expectation.stream;
        let Some(exchange_state) = self.exchanges.get_mut(&stream.exchange) else { return };
        let index = exchange_state.index_of(stream.symbol.as_str());
        let streams = &mut exchange_state.symbols[index];
        let symbol = streams.symbol.clone();
        let streams_partition = streams.partition;
        let deadline = match streams.partition.and_then(|partition| Some((partition, self.times.get(&partition)?))) {
            // In a backlog the positions lie ahead: the partition must first reach the present.
            Some((partition, time)) => {
                let behind = time.last_received().map_or(0, |last| moment.wall.since(last).clamp(0, BACKLOG_MAX_US));
                let behind = if moment.at_end.contains(&partition) { 0 } else { behind };
                time.at(partition, moment).plus_micros(behind + EXPECT_GRACE_US)
            }
            // Without a record of the stream only the monotonic clock decides.
            None => Timestamp(i64::MAX),
        };
        let grace = Duration::from_micros(EXPECT_GRACE_US.unsigned_abs());
        let deadline = Deadline { partition: deadline, monotonic: moment.monotonic + grace };
        match stream.channel {
            Channel::Trade | Channel::AggTrade => {
                let state = trade_state(streams, stream.exchange, stream.channel, &self.watermarks, &self.epochs);
                let at = time_at(&self.times, streams_partition, moment);
                if state.tracker.next().is_some_and(|next| !state.pace.fits(next, expectation.last, at)) {
                    // One answer of REST is no proof either: ask once more.
                    return self.routed.questions.push(DoubtfulTrades { stream: stream.clone(), trades: Vec::new() });
                }
                state.expect(expectation.last, deadline, expectation.by);
            }
            Channel::Kline(interval) => {
                let state = kline_state(streams, stream.exchange, &symbol, interval, &self.watermarks);
                state.expect(expectation.last, deadline, expectation.by);
            }
            Channel::BookTicker => {}
        }
    }

    /// Decides about frames that do not fit a stream, now that the exchange has said what they are. A stream without any
    /// frame starts behind its newest position.
    pub fn answer(&mut self, stream: &Stream, numbering: &Numbering, moment: &Moment) {
        let Some(exchange_state) = self.exchanges.get_mut(&stream.exchange) else { return };
        let index = exchange_state.index_of(stream.symbol.as_str());
        let streams = &mut exchange_state.symbols[index];
        let partition = streams.partition.unwrap_or_default();
        let mut router = StreamRouter {
            exchange: stream.exchange,
            symbol: &streams.symbol.clone(),
            klines_name_trades: exchange_state.klines_name_trades,
            watermarks: &self.watermarks,
            epochs: &mut self.epochs,
            routed: &mut self.routed,
            at: time_at(&self.times, Some(partition), moment),
            monotonic: moment.monotonic,
            exchange_now: None,
        };
        if router.answer(streams, stream.channel, numbering) {
            exchange_state.holding.insert(index);
        } else {
            exchange_state.holding.remove(&index);
        }
        self.has_started = true;
    }

    /// Takes the questions that the exchange must answer.
    pub fn take_doubtful(&mut self) -> Vec<DoubtfulTrades> {
        std::mem::take(&mut self.routed.questions)
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
        let mut rows = std::mem::take(&mut self.routed.rows);
        rows.batch.token = positions.iter().map(|(partition, next)| format!("{partition}:{next};")).collect();
        for letter in &mut rows.batch.dead_letters {
            letter.identify(&self.recorder);
        }
        ReadyBatch {
            rows,
            update: std::mem::take(&mut self.routed.update),
            detected: std::mem::take(&mut self.detected),
            positions,
            progress,
            rejected: std::mem::take(&mut self.routed.rejected),
            repeated: std::mem::take(&mut self.routed.repeated),
        }
    }

    fn check_expectations(&mut self, moment: &Moment) {
        for (&exchange, exchange_state) in &mut self.exchanges {
            let time = exchange_state.time.known().unwrap_or(Timestamp(0));
            for streams in &mut exchange_state.symbols {
                let symbol = &streams.symbol;
                let partition = streams.partition;
                let now = partition
                    .and_then(|partition| Some(self.times.get(&partition)?.at(partition, moment)))
                    .unwrap_or(Timestamp(i64::MIN));
                // Without a record of the symbol, every partition must be read to its end.
                let is_at_end =
                    partition.map_or(!moment.at_end.is_empty(), |partition| moment.at_end.contains(&partition));
                let now = (now, is_at_end.then_some(moment.monotonic));
                for (&channel, state) in &mut streams.trades {
                    state.check_expected(now, &mut self.detected, || stream(exchange, symbol, channel));
                }
                for (&interval, state) in &mut streams.klines {
                    if let Some(next) = state.tracker.next()
                        && !state.is_expecting()
                        && time.micros() > next.saturating_add(interval.micros() + KLINE_LATE_US)
                    {
                        let grace = Duration::from_micros(EXPECT_GRACE_US.unsigned_abs());
                        let deadline = Deadline {
                            partition: now.0.plus_micros(EXPECT_GRACE_US),
                            monotonic: moment.monotonic + grace,
                        };
                        state.expect(next, deadline, "tail");
                    }
                    state
                        .check_expected(now, &mut self.detected, || stream(exchange, symbol, Channel::Kline(interval)));
                }
            }
        }
    }

    fn dead_letter(&mut self, source: Source, stream: &str, reason: String) {
        self.routed.rows.batch.dead_letters.push(source.dead_letter(stream, reason));
    }
}

#[cfg(test)]
#[path = "reorder_buffer_tests.rs"]
mod tests;
