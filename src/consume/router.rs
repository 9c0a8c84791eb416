//! Routes one symbol's events to its streams: each becomes a row, a latest value or a held item, and may reveal a gap.
//! No I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::cache::Update;
use crate::gap::Observation;
use crate::history::{EpochRow, TradeRow, VERSION_LATE, row_version};
use crate::log::Partition;
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, Trade};
use crate::writer::{Rows, Source};

use super::inputs::{DoubtfulTrades, Numbering, Watermark};
use super::known_rows::RepeatedRows;
use super::plausible::{BookNumbering, LateTrade, is_ahead};
use super::reorder_buffer::EXPECT_GRACE_US;
use super::stream_state::{Deadline, DetectedGap, StreamState};
use crate::progress::StreamProgress;

/// Most items held of one stream: some seconds of a busy market. Beyond it the missing positions become a gap.
const HELD_MAX: usize = 8_192;
/// How long items that do not fit their stream wait for the exchange's word, in microseconds.
pub(super) const DOUBT_MAX_US: i64 = 30_000_000;
/// Items that do not fit the stream but follow each other confirm each other when the exchange says nothing.
const CONFIRMED_BY: u32 = 16;
/// Bytes that a held item takes beside its frame.
const ITEM_BYTES: usize = 256;

/// The streams of one symbol.
#[derive(Debug)]
pub(super) struct SymbolStreams {
    pub(super) symbol: Symbol,
    /// The log partition of its frames; all frames of a symbol are in one.
    pub(super) partition: Option<Partition>,
    /// The trades and the aggregate trades.
    pub(super) trades: BTreeMap<Channel, StreamState<Trade>>,
    pub(super) klines: HashMap<Interval, StreamState<Kline>>,
    pub(super) book: Option<(Book, StreamProgress, BookNumbering)>,
}

/// What the router changes beside the streams.
#[derive(Debug, Default)]
pub(super) struct Routed {
    pub(super) rows: Rows,
    pub(super) update: Update,
    /// Streams of which a frame became a dead letter, and why.
    pub(super) rejected: Vec<(Stream, String)>,
    /// What the exchange must say.
    pub(super) questions: Vec<DoubtfulTrades>,
    /// Rows of positions that are stored already, perhaps with another content.
    pub(super) repeated: RepeatedRows,
    /// Bytes of all held frames.
    pub(super) held_bytes: usize,
}

/// Routes the events of one record of one symbol.
pub(super) struct StreamRouter<'a> {
    pub(super) exchange: Exchange,
    pub(super) symbol: &'a Symbol,
    /// Whether the exchange's klines prove which trades exist.
    pub(super) klines_name_trades: bool,
    pub(super) watermarks: &'a HashMap<Stream, Watermark>,
    pub(super) epochs: &'a mut HashMap<Stream, Vec<EpochRow>>,
    pub(super) routed: &'a mut Routed,
    /// The time of the symbol's partition.
    pub(super) at: Timestamp,
    pub(super) monotonic: Duration,
    /// Our best knowledge of the exchange's clock.
    pub(super) exchange_now: Option<Timestamp>,
}

impl StreamRouter<'_> {
    /// Returns whether the stream holds items.
    pub(super) fn trade(&mut self, streams: &mut SymbolStreams, trade: Trade, source: Source, connection: i64) -> bool {
        let state = trade_state(streams, self.exchange, trade.channel(), self.watermarks, self.epochs);
        state.record_frame(source.received_at, connection);
        if is_ahead(trade.ts, self.exchange_now) {
            let why = format!("its time {} is ahead of the exchange's clock", trade.ts.rfc3339());
            self.reject(state.channel, source, &why);
        } else {
            self.place(state, trade, source);
        }
        state.is_holding()
    }

    /// The numbering in which a trade of an ended one lies.
    fn ended_epoch(&self, trade: &Trade) -> i64 {
        let epochs = self.epochs.get(&stream(self.exchange, self.symbol, trade.channel()));
        let began = epochs.into_iter().flatten().rev().find(|epoch| trade.ts >= epoch.began_at);
        began.map_or(0, |epoch| epoch.epoch)
    }

    /// Uses a trade, holds it, or asks the exchange what it is.
    fn place(&mut self, state: &mut StreamState<Trade>, trade: Trade, source: Source) {
        if state.is_of_ended(trade.id, trade.ts) {
            state.progress.behind += 1;
            let row = TradeRow { version: VERSION_LATE, ..self.trade_row(trade, self.ended_epoch(&trade), &source) };
            self.routed.rows.batch.trades.push(row);
            return self.routed.rows.trade_sources.push(source);
        }
        let next = state.tracker.next();
        match state.tracker.observe(trade.id) {
            Observation::InOrder if state.pace.fits(trade.id, trade.id, self.at) => self.accept(state, trade, source),
            Observation::InOrder => {
                self.reject(state.channel, source, &format!("its id {} is no trade id", trade.id));
            }
            Observation::Behind => {
                state.progress.behind += 1;
                match state.recent.judge(&trade, state.in_order_ts) {
                    LateTrade::Copy => {}
                    LateTrade::Ordinary => self.repeat_trade(state, trade, source),
                    LateTrade::OtherContent | LateTrade::Restarted => self.doubt(state, trade, source),
                }
            }
            Observation::Ahead if state.pace.fits(next.unwrap_or_default(), trade.id, self.at) => {
                let offset = source.offset;
                self.routed.held_bytes += held_bytes(&source);
                if let Some((_, other)) = state.tracker.hold(trade.id, (trade, source), false, offset, self.at) {
                    self.routed.held_bytes -= held_bytes(&other);
                }
            }
            Observation::Ahead => self.doubt(state, trade, source),
        }
    }

    /// A trade whose id may be stored already: history says whether it is a copy.
    fn repeat_trade(&mut self, state: &StreamState<Trade>, trade: Trade, source: Source) {
        let row = self.trade_row(trade, state.epoch, &source);
        self.routed.repeated.trades.push((row, source));
    }

    /// Uses a trade that is in order, and those that were held for it.
    fn accept(&mut self, state: &mut StreamState<Trade>, trade: Trade, source: Source) {
        state.tracker.advance(trade.id);
        self.use_trade(state, trade, source);
        self.release(state, &mut None);
    }

    fn release(&mut self, state: &mut StreamState<Trade>, found: &mut Option<DetectedGap>) {
        while let Some((trade, source)) = state.tracker.release() {
            self.routed.held_bytes -= held_bytes(&source);
            if let Some(found) = found {
                found.to_ts.get_or_insert(trade.ts);
            }
            state.changed = true;
            self.use_trade(state, trade, source);
        }
    }

    fn use_trade(&mut self, state: &mut StreamState<Trade>, trade: Trade, source: Source) {
        state.in_order_ts = state.in_order_ts.max(Some(trade.ts));
        state.record_time(trade.ts);
        state.pace.advance(trade.id, self.at);
        state.recent.push(&trade);
        if state.ended.is_some_and(|ended| ended.next.is_none()) {
            // The frames that an earlier process had not committed are over.
            state.ended = None;
        }
        self.push_trade(trade, state.epoch, source);
    }

    /// Keeps a trade that does not fit until the exchange has said what it is.
    fn doubt(&mut self, state: &mut StreamState<Trade>, trade: Trade, source: Source) {
        let oldest = state.doubtful.first().map(|(oldest, _)| *oldest);
        let trades = oldest.into_iter().chain([trade]).collect();
        self.routed
            .questions
            .push(DoubtfulTrades { stream: stream(self.exchange, self.symbol, state.channel), trades });
        let next = state.tracker.next();
        if state.is_unanswered {
            let is_ahead = next.is_none_or(|next| trade.id > next);
            if is_ahead && state.pace.observe_doubtful(trade.id, source.received_at) >= CONFIRMED_BY {
                // The exchange still says nothing, but its trades follow each other.
                state.pace.confirm(trade.id);
                return self.place(state, trade, source);
            }
            return self.reject(state.channel, source, &does_not_fit(trade.id, next, None));
        }
        state.doubtful_since.get_or_insert((self.at, self.monotonic));
        self.routed.held_bytes += held_bytes(&source);
        state.doubtful.push((trade, source));
    }

    /// Decides about the trades in doubt after the exchange has said what they are.
    pub(super) fn answer(&mut self, streams: &mut SymbolStreams, channel: Channel, numbering: &Numbering) -> bool {
        let state = trade_state(streams, self.exchange, channel, self.watermarks, self.epochs);
        let (newest, is_real) = match numbering {
            Numbering::Continues { newest } => (*newest, false),
            Numbering::Confirmed { newest } | Numbering::RolledBack { newest } => (*newest, true),
            Numbering::Restarted { first, newest, reason } => {
                self.begin_epoch(state, first, reason);
                (*newest, false)
            }
        };
        // The exchange's REST may lag behind what the trades in doubt show, as far as their own pace explains.
        for (trade, source) in &state.doubtful {
            state.pace.observe_doubtful(trade.id, source.received_at);
        }
        state.pace.confirm(newest);
        state.is_unanswered = false;
        if state.tracker.next().is_none() && state.pace.fits(newest, newest, self.at) {
            state.tracker.begin_at(newest + 1);
            state.changed = true;
        }
        self.decide(state, Some(newest), is_real);
        if state.tracker.next().is_some_and(|next| newest >= next && state.pace.fits(next, newest, self.at)) {
            let deadline = self.deadline(EXPECT_GRACE_US);
            state.expect(newest, deadline, "tail");
        }
        state.is_holding()
    }

    /// Begins a new numbering at its first trade. What waited for the ended one is used as it is.
    fn begin_epoch(&mut self, state: &mut StreamState<Trade>, first: &Trade, reason: &str) {
        let ended = state.epoch;
        for (trade, source) in state.begin_epoch(first.id, first.ts) {
            self.routed.held_bytes -= held_bytes(&source);
            self.push_trade(trade, ended, source);
        }
        let row = EpochRow {
            exchange: self.exchange,
            symbol: self.symbol.clone(),
            channel: state.channel,
            epoch: state.epoch,
            first_id: first.id,
            began_at: first.ts,
            reason: reason.to_owned(),
        };
        self.epochs.entry(row.stream()).or_default().push(row.clone());
        self.routed.rows.batch.epochs.push(row);
    }

    /// Uses each trade in doubt that fits now, and sets the others aside. `is_real` means that the exchange serves them.
    fn decide(&mut self, state: &mut StreamState<Trade>, newest: Option<i64>, is_real: bool) {
        state.doubtful_since = None;
        for (trade, source) in std::mem::take(&mut state.doubtful) {
            self.routed.held_bytes -= held_bytes(&source);
            let next = state.tracker.next();
            let is_behind = state.tracker.observe(trade.id) == Observation::Behind;
            if is_behind && !state.is_of_ended(trade.id, trade.ts) {
                // Its position is stored: the two contents are a conflict, which the exchange decides.
                let is_other = state.recent.judge(&trade, state.in_order_ts) == LateTrade::OtherContent;
                if is_real || is_other {
                    self.repeat_trade(state, trade, source);
                } else {
                    self.reject(state.channel, source, &does_not_fit(trade.id, next, newest));
                }
            } else if state.pace.fits(next.unwrap_or(trade.id), trade.id, self.at) {
                self.place(state, trade, source);
            } else {
                self.reject(state.channel, source, &does_not_fit(trade.id, next, newest));
            }
        }
    }

    /// Ends a doubt that the exchange does not answer: many trades that follow each other confirm each other.
    fn end_doubt(&mut self, state: &mut StreamState<Trade>, is_over: bool) {
        if state.doubtful.is_empty() || !(is_over || state.doubtful.len() > HELD_MAX) {
            return;
        }
        let ids: Vec<i64> = state.doubtful.iter().map(|(trade, _)| trade.id).collect();
        let follow = 1 + ids.windows(2).filter(|pair| (1..=1_000).contains(&pair[1].saturating_sub(pair[0]))).count();
        if follow >= CONFIRMED_BY as usize && follow * 10 >= ids.len() * 9 {
            state.pace.confirm(ids[ids.len() - 1]);
        } else {
            state.is_unanswered = true;
        }
        self.decide(state, None, false);
    }

    pub(super) fn deadline(&self, grace_us: i64) -> Deadline {
        let grace = Duration::from_micros(u64::try_from(grace_us).unwrap_or(0));
        Deadline { partition: self.at.plus_micros(grace_us), monotonic: self.monotonic + grace }
    }

    /// Stores a frame as a dead letter because it cannot be believed.
    pub(super) fn reject(&mut self, channel: Channel, source: Source, why: &str) {
        let stream = stream(self.exchange, self.symbol, channel);
        let reason = format!("not believed: {why}");
        self.routed.rows.batch.dead_letters.push(source.dead_letter(&stream.to_string(), reason.clone()));
        self.routed.rejected.push((stream, reason));
    }

    pub(super) fn book(&mut self, streams: &mut SymbolStreams, book: Book, source: Source, connection: i64) -> bool {
        let first = (book, StreamProgress::default(), BookNumbering::default());
        let (latest, progress, numbering) = streams.book.get_or_insert(first);
        progress.frames += 1;
        progress.last_received = Some(source.received_at.micros());
        progress.connection = Some(connection);
        let accepted = match progress.frames {
            1 => Some(book.update_id >= 0 && book.update_id < i64::MAX / 2),
            _ => numbering.accepts(latest.update_id, book.update_id),
        };
        match accepted {
            Some(true) => {}
            Some(false) => {
                let why = format!("its update id {} does not follow {}", book.update_id, latest.update_id);
                if progress.frames == 1 {
                    // The next frame is the first one.
                    streams.book = None;
                }
                self.reject(Channel::BookTicker, source, &why);
                return false;
            }
            None => return false,
        }
        *latest = book;
        // One entry per symbol: a busy book would otherwise add thousands of entries a second.
        let books = &mut self.routed.update.books;
        match books.iter_mut().find(|(exchange, symbol, _)| *exchange == self.exchange && symbol == self.symbol) {
            Some(entry) => entry.2 = book,
            None => books.push((self.exchange, self.symbol.clone(), book)),
        }
        false
    }

    /// Declares a gap wherever the grace period is over, and releases the items behind it. With `force` every grace
    /// period is over. Returns whether items are still held.
    pub(super) fn expire(
        &mut self,
        streams: &mut SymbolStreams,
        deadline: Timestamp,
        detected: &mut Vec<DetectedGap>,
    ) -> bool {
        let mut holding = false;
        for state in streams.trades.values_mut() {
            let since = state.doubtful_since;
            let is_over = since.is_some_and(|(since, _)| deadline.since(since) > DOUBT_MAX_US);
            self.end_doubt(state, is_over);
            let mut found: Option<DetectedGap> = None;
            loop {
                // Releases also when no gap was declared here: an expectation may have declared it.
                self.release(state, &mut found);
                detected.extend(found.take());
                let Some(missing) = state.tracker.expire(deadline, HELD_MAX) else { break };
                found = Some(state.found(missing, stream(self.exchange, self.symbol, state.channel)));
                state.changed = true;
            }
            holding |= state.is_holding();
        }
        for (&interval, state) in &mut streams.klines {
            loop {
                while let Some((kline, source)) = state.tracker.release() {
                    self.routed.held_bytes -= held_bytes(&source);
                    state.changed = true;
                    self.use_kline(state, kline, source);
                }
                let Some(missing) = state.tracker.expire(deadline, HELD_MAX) else { break };
                let mut found = state.found(missing, stream(self.exchange, self.symbol, Channel::Kline(interval)));
                state.changed = true;
                found.from_ts = Some(Timestamp(missing.range.first));
                found.to_ts = Some(Timestamp(missing.next));
                detected.push(found);
            }
            holding |= state.is_holding();
        }
        holding
    }

    fn trade_row(&self, trade: Trade, epoch: i64, source: &Source) -> TradeRow {
        TradeRow {
            exchange: self.exchange,
            symbol: self.symbol.clone(),
            trade,
            received_at: source.received_at,
            is_backfilled: false,
            epoch,
            version: row_version(false),
        }
    }

    fn push_trade(&mut self, trade: Trade, epoch: i64, source: Source) {
        self.routed.rows.batch.trades.push(self.trade_row(trade, epoch, &source));
        self.routed.rows.trade_sources.push(source);
    }
}

impl SymbolStreams {
    pub(super) fn new(symbol: Symbol) -> Self {
        Self { symbol, partition: None, trades: BTreeMap::new(), klines: HashMap::new(), book: None }
    }

    /// For each stream with held items: the partition and the lowest held offset.
    pub(super) fn held_offsets(&self) -> impl Iterator<Item = (Partition, i64)> + '_ {
        let trades = self.trades.values().filter_map(StreamState::held_offset);
        trades.chain(self.klines.values().filter_map(StreamState::held_offset))
    }

    /// The bytes of all held items.
    pub(super) fn held_bytes(&self) -> usize {
        let trades = self.trades.values().flat_map(|state| {
            let held = state.tracker.held().map(|(_, source)| held_bytes(source));
            held.chain(state.doubtful.iter().map(|(_, source)| held_bytes(source)))
        });
        let klines = self.klines.values().flat_map(|state| state.tracker.held().map(|(_, source)| held_bytes(source)));
        trades.chain(klines).sum()
    }

    /// How many items are held.
    pub(super) fn held_count(&self) -> usize {
        let trades = self.trades.values().map(|state| state.tracker.held_count() + state.doubtful.len());
        trades.chain(self.klines.values().map(|state| state.tracker.held_count())).sum()
    }

    pub(super) fn drain_changed(&mut self, exchange: Exchange, changed: &mut Vec<(Stream, StreamProgress)>) {
        let symbol = &self.symbol;
        for (&channel, state) in &mut self.trades {
            if std::mem::take(&mut state.changed) {
                state.progress.next = state.tracker.next();
                state.progress.epoch = state.epoch;
                changed.push((stream(exchange, symbol, channel), state.progress));
            }
        }
        for (&interval, state) in &mut self.klines {
            if std::mem::take(&mut state.changed) {
                state.progress.next = state.tracker.next();
                changed.push((stream(exchange, symbol, Channel::Kline(interval)), state.progress));
            }
        }
        if let Some((_, progress, _)) = &self.book {
            changed.push((stream(exchange, symbol, Channel::BookTicker), *progress));
        }
    }
}

/// The bytes that a held item takes.
pub(super) fn held_bytes(source: &Source) -> usize {
    source.payload.len() + ITEM_BYTES
}

pub(super) fn does_not_fit(id: i64, next: Option<i64>, newest: Option<i64>) -> String {
    let expected = next.map_or_else(String::new, |next| format!(", and {next} was expected"));
    match newest {
        Some(newest) => format!("it names trade {id}{expected}, but the exchange's newest is {newest}"),
        None => format!("it names trade {id}{expected}, and the exchange has not confirmed it"),
    }
}

pub(super) fn stream(exchange: Exchange, symbol: &Symbol, channel: Channel) -> Stream {
    Stream::new(exchange, symbol.clone(), channel)
}

pub(super) fn trade_state<'a>(
    streams: &'a mut SymbolStreams,
    exchange: Exchange,
    channel: Channel,
    watermarks: &HashMap<Stream, Watermark>,
    epochs: &HashMap<Stream, Vec<EpochRow>>,
) -> &'a mut StreamState<Trade> {
    let SymbolStreams { symbol, trades, .. } = streams;
    trades.entry(channel).or_insert_with(|| {
        let mut state = StreamState::new(channel, exchange, symbol, watermarks);
        state.continue_epoch(epochs.get(&stream(exchange, symbol, channel)).map_or(&[], Vec::as_slice));
        state
    })
}

pub(super) fn kline_state<'a>(
    streams: &'a mut SymbolStreams,
    exchange: Exchange,
    symbol: &Symbol,
    interval: Interval,
    watermarks: &HashMap<Stream, Watermark>,
) -> &'a mut StreamState<Kline> {
    streams
        .klines
        .entry(interval)
        .or_insert_with(|| StreamState::new(Channel::Kline(interval), exchange, symbol, watermarks))
}
