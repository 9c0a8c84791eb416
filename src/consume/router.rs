//! Routes one symbol's events to its streams: each becomes a row, a latest value or a held item, and may reveal a gap.
//! No I/O, no clock.

use std::collections::HashMap;

use crate::cache::{Update, kline_is_newer};
use crate::gap::Observation;
use crate::history::{KlineRow, TradeRow};
use crate::log::Partition;
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, Trade};
use crate::writer::{Rows, Source};

use super::reorder_buffer::EXPECT_GRACE_US;
use super::stream_state::{DetectedGap, StreamState};
use crate::progress::StreamProgress;

/// Most items held of one stream: some seconds of a busy market. Beyond it the missing positions become a gap.
const HELD_MAX: usize = 8_192;

/// The streams of one symbol.
#[derive(Debug)]
pub(super) struct SymbolStreams {
    pub(super) symbol: Symbol,
    /// The log partition of its frames; all frames of a symbol are in one.
    pub(super) partition: Option<Partition>,
    pub(super) trade: Option<StreamState<Trade>>,
    pub(super) klines: HashMap<Interval, StreamState<Kline>>,
    pub(super) book: Option<(Book, StreamProgress)>,
}

/// Routes the events of one record of one symbol.
pub(super) struct StreamRouter<'a> {
    pub(super) exchange: Exchange,
    pub(super) symbol: &'a Symbol,
    pub(super) watermarks: &'a HashMap<Stream, i64>,
    pub(super) rows: &'a mut Rows,
    pub(super) update: &'a mut Update,
}

impl StreamRouter<'_> {
    /// Returns whether the stream holds items.
    pub(super) fn trade(&mut self, streams: &mut SymbolStreams, trade: Trade, source: Source, connection: i64) -> bool {
        let state = trade_state(streams, self.exchange, self.symbol, self.watermarks);
        state.record_frame(trade.ts, source.received_at, connection);
        match state.tracker.observe(trade.id) {
            Observation::InOrder => {
                state.tracker.advance(trade.id);
                state.in_order_ts = Some(trade.ts);
                self.push_trade(trade, source);
                while let Some((trade, source)) = state.tracker.release() {
                    state.in_order_ts = Some(trade.ts);
                    self.push_trade(trade, source);
                }
            }
            Observation::Behind => {
                state.progress.behind += 1;
                self.push_trade(trade, source);
            }
            Observation::Ahead => {
                let (offset, at) = (source.offset, source.received_at);
                state.tracker.hold(trade.id, (trade, source), false, offset, at);
            }
        }
        state.tracker.is_holding()
    }

    pub(super) fn kline(&mut self, streams: &mut SymbolStreams, kline: Kline, source: Source, connection: i64) -> bool {
        // f..L are the first and last trade id, n = L - f + 1 (measured on 109 of 109), so a closed kline proves which
        // trades exist. This counts only where trades are recorded.
        if kline.closed
            && kline.last_trade_id >= 0
            && let Some(trades) = &mut streams.trade
        {
            trades.expect(kline.last_trade_id, source.received_at.plus_micros(EXPECT_GRACE_US), "kline");
        }
        let state = kline_state(streams, self.exchange, self.symbol, kline.interval, self.watermarks);
        state.record_frame(kline.open_time, source.received_at, connection);
        let position = kline.open_time.micros();
        match state.tracker.observe(position) {
            Observation::InOrder => {
                if kline.closed {
                    state.tracker.advance(position);
                } else {
                    state.tracker.begin_at(position);
                }
                self.push_kline(kline, source);
                while let Some((kline, source)) = state.tracker.release() {
                    self.push_kline(kline, source);
                }
            }
            Observation::Behind => {
                state.progress.behind += 1;
                self.push_kline(kline, source);
            }
            Observation::Ahead => {
                let (offset, at) = (source.offset, source.received_at);
                state.tracker.hold(position, (kline, source), !kline.closed, offset, at);
            }
        }
        state.tracker.is_holding()
    }

    pub(super) fn book(&mut self, streams: &mut SymbolStreams, book: Book, at: Timestamp, connection: i64) -> bool {
        let (latest, progress) = streams.book.get_or_insert_with(|| (book, StreamProgress::default()));
        progress.frames += 1;
        progress.last_received = Some(at.micros());
        progress.connection = Some(connection);
        if progress.frames == 1 || book.update_id > latest.update_id {
            *latest = book;
            // One entry per symbol: a busy book would otherwise add thousands of entries a second.
            match self
                .update
                .books
                .iter_mut()
                .find(|(exchange, symbol, _)| *exchange == self.exchange && symbol == self.symbol)
            {
                Some(entry) => entry.2 = book,
                None => self.update.books.push((self.exchange, self.symbol.clone(), book)),
            }
        }
        false
    }

    /// Declares a gap wherever the grace period is over, and releases the items behind it. Returns whether items are
    /// still held.
    pub(super) fn expire(
        &mut self,
        streams: &mut SymbolStreams,
        deadline: Timestamp,
        detected: &mut Vec<DetectedGap>,
    ) -> bool {
        let mut holding = false;
        if let Some(state) = &mut streams.trade {
            let mut found: Option<DetectedGap> = None;
            loop {
                // Releases also when no gap was declared here: an expectation may have declared it.
                while let Some((trade, source)) = state.tracker.release() {
                    if let Some(found) = &mut found {
                        found.to_ts.get_or_insert(trade.ts);
                    }
                    (state.in_order_ts, state.changed) = (Some(trade.ts), true);
                    self.push_trade(trade, source);
                }
                detected.extend(found.take());
                let Some(missing) = state.tracker.expire(deadline, HELD_MAX) else { break };
                found = Some(state.found(missing, stream(self.exchange, self.symbol, Channel::Trade)));
                state.changed = true;
            }
            holding |= state.tracker.is_holding();
        }
        for (&interval, state) in &mut streams.klines {
            loop {
                while let Some((kline, source)) = state.tracker.release() {
                    state.changed = true;
                    self.push_kline(kline, source);
                }
                let Some(missing) = state.tracker.expire(deadline, HELD_MAX) else { break };
                let mut found = state.found(missing, stream(self.exchange, self.symbol, Channel::Kline(interval)));
                state.changed = true;
                found.from_ts = Some(Timestamp(missing.range.first));
                found.to_ts = Some(Timestamp(missing.next));
                detected.push(found);
            }
            holding |= state.tracker.is_holding();
        }
        holding
    }

    fn push_trade(&mut self, trade: Trade, source: Source) {
        self.rows.batch.trades.push(TradeRow {
            exchange: self.exchange,
            symbol: self.symbol.clone(),
            trade,
            received_at: source.received_at,
            is_backfilled: false,
        });
        self.rows.trade_sources.push(source);
    }

    fn push_kline(&mut self, kline: Kline, source: Source) {
        if kline.closed {
            let row = KlineRow { exchange: self.exchange, symbol: self.symbol.clone(), kline, is_backfilled: false };
            self.rows.batch.klines.push(row);
            self.rows.kline_sources.push(source);
            return;
        }
        let same = |entry: &&mut (Exchange, Symbol, Kline)| {
            entry.0 == self.exchange && entry.1 == *self.symbol && entry.2.interval == kline.interval
        };
        match self.update.klines.iter_mut().find(same) {
            // Frames of two connections arrive in either order.
            Some(entry) if !kline_is_newer(&kline, &entry.2) => {}
            Some(entry) => entry.2 = kline,
            None => self.update.klines.push((self.exchange, self.symbol.clone(), kline)),
        }
    }
}

impl SymbolStreams {
    pub(super) fn new(symbol: Symbol) -> Self {
        Self { symbol, partition: None, trade: None, klines: HashMap::new(), book: None }
    }

    /// For each stream with held items: the partition and the lowest held offset.
    pub(super) fn held_offsets(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        let trade = self
            .trade
            .iter()
            .filter_map(|state| Some((state.tracker.first_held()?.1.partition, state.tracker.held_offset()?)));
        let klines = self
            .klines
            .values()
            .filter_map(|state| Some((state.tracker.first_held()?.1.partition, state.tracker.held_offset()?)));
        trade.chain(klines)
    }

    pub(super) fn drain_changed(&mut self, exchange: Exchange, changed: &mut Vec<(Stream, StreamProgress)>) {
        let symbol = &self.symbol;
        if let Some(state) = &mut self.trade
            && std::mem::take(&mut state.changed)
        {
            state.progress.next = state.tracker.next();
            changed.push((stream(exchange, symbol, Channel::Trade), state.progress));
        }
        for (&interval, state) in &mut self.klines {
            if std::mem::take(&mut state.changed) {
                state.progress.next = state.tracker.next();
                changed.push((stream(exchange, symbol, Channel::Kline(interval)), state.progress));
            }
        }
        if let Some((_, progress)) = &self.book {
            changed.push((stream(exchange, symbol, Channel::BookTicker), *progress));
        }
    }
}

pub(super) fn stream(exchange: Exchange, symbol: &Symbol, channel: Channel) -> Stream {
    Stream::new(exchange, symbol.clone(), channel)
}

pub(super) fn trade_state<'a>(
    streams: &'a mut SymbolStreams,
    exchange: Exchange,
    symbol: &Symbol,
    watermarks: &HashMap<Stream, i64>,
) -> &'a mut StreamState<Trade> {
    streams.trade.get_or_insert_with(|| StreamState::new(Channel::Trade, exchange, symbol, watermarks))
}

pub(super) fn kline_state<'a>(
    streams: &'a mut SymbolStreams,
    exchange: Exchange,
    symbol: &Symbol,
    interval: Interval,
    watermarks: &HashMap<Stream, i64>,
) -> &'a mut StreamState<Kline> {
    streams
        .klines
        .entry(interval)
        .or_insert_with(|| StreamState::new(Channel::Kline(interval), exchange, symbol, watermarks))
}
