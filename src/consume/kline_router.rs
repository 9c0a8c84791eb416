//! Routes the klines of one symbol: each becomes a row, a latest value or a held item. A closed one also proves which
//! trades exist.

use crate::cache::kline_is_newer;
use crate::gap::Observation;
use crate::history::{KlineRow, row_version};
use crate::market::{Channel, Exchange, Kline, Symbol, Timestamp, Trade};
use crate::writer::Source;

use super::inputs::DoubtfulTrades;
use super::plausible::{RepeatedKline, closed_early, is_ahead, is_long_past};
use super::reorder_buffer::EXPECT_GRACE_US;
use super::router::{DOUBT_MAX_US, StreamRouter, SymbolStreams, does_not_fit, held_bytes, kline_state, stream};
use super::stream_state::StreamState;

impl StreamRouter<'_> {
    /// Routes a kline of an exchange that does not say when a kline is final: one of a later interval closes it.
    pub(super) fn kline_closed_by_successor(
        &mut self,
        streams: &mut SymbolStreams,
        kline: Kline,
        event_time: Option<Timestamp>,
        source: Source,
        connection: i64,
    ) -> bool {
        let state = kline_state(streams, self.exchange, self.symbol, kline.interval, self.watermarks);
        // One that has not begun yet closes nothing: its time is wrong, or our clock.
        if !closed_early(kline.open_time, self.exchange_now)
            && let Some((closed, event_time, source)) =
                state.open_klines.follow(connection, &kline, event_time, &source)
        {
            self.kline(streams, closed, event_time, source, connection);
        }
        self.kline(streams, kline, event_time, source, connection)
    }

    pub(super) fn kline(
        &mut self,
        streams: &mut SymbolStreams,
        kline: Kline,
        event_time: Option<Timestamp>,
        source: Source,
        connection: i64,
    ) -> bool {
        let channel = Channel::Kline(kline.interval);
        let state = kline_state(streams, self.exchange, self.symbol, kline.interval, self.watermarks);
        state.record_frame(source.received_at, connection);
        let fault = if is_ahead(kline.open_time, self.exchange_now) {
            Some(format!("its open time {} is ahead of the exchange's clock", kline.open_time.rfc3339()))
        } else if kline.closed && closed_early(kline.close_time, self.exchange_now) {
            Some("it is closed before its end".to_owned())
        } else if kline.open_time.micros().rem_euclid(kline.interval.micros()) != 0 {
            Some(format!("its open time {} is no multiple of its interval", kline.open_time.rfc3339()))
        } else if state
            .tracker
            .next()
            .is_some_and(|next| is_long_past(next, kline.open_time.micros(), kline.interval.micros()))
        {
            Some(format!("its open time {} is long past", kline.open_time.rfc3339()))
        } else {
            self.check_trade_ids(streams.trades.get_mut(&Channel::Trade), &kline)
        };
        let state = kline_state(streams, self.exchange, self.symbol, kline.interval, self.watermarks);
        if let Some(why) = fault {
            self.reject(channel, source, &why);
            return state.is_holding();
        }
        state.record_time(kline.open_time);
        let position = kline.open_time.micros();
        match state.tracker.observe(position) {
            Observation::InOrder => {
                if kline.closed {
                    state.tracker.advance(position);
                    state.recent_klines.push(&kline, event_time);
                } else {
                    state.tracker.begin_at(position);
                }
                self.push_kline(kline, source);
                while let Some((kline, source)) = state.tracker.release() {
                    self.routed.held_bytes -= held_bytes(&source);
                    self.use_kline(state, kline, source);
                }
            }
            Observation::Behind => {
                state.progress.behind += 1;
                if kline.closed {
                    self.repeat_kline(state, kline, event_time, source);
                } else {
                    self.push_kline(kline, source);
                }
            }
            Observation::Ahead => {
                let offset = source.offset;
                self.routed.held_bytes += held_bytes(&source);
                if let Some((_, other)) = state.tracker.hold(position, (kline, source), !kline.closed, offset, self.at)
                {
                    self.routed.held_bytes -= held_bytes(&other);
                }
            }
        }
        state.is_holding()
    }

    /// Expects the trades that a closed kline names. f..L are the first and last trade id, n = L - f + 1 (measured on 109
    /// of 109), so a closed kline proves which trades exist. This counts only where trades are recorded. Returns why the
    /// kline cannot be believed.
    fn check_trade_ids(&mut self, trades: Option<&mut StreamState<Trade>>, kline: &Kline) -> Option<String> {
        let (first, last) = (kline.first_trade_id, kline.last_trade_id);
        if !self.klines_name_trades {
            return None;
        }
        if last < 0 && first < 0 {
            return None;
        }
        if last.checked_sub(first).and_then(|ids| ids.checked_add(1)) != Some(kline.trade_count) || first < 0 {
            return Some(format!("its trade ids {first} to {last} are not its {} trades", kline.trade_count));
        }
        let trades = trades?;
        if !kline.closed {
            return None;
        }
        if trades.tracker.next().is_none_or(|next| trades.pace.fits(next, last, self.at)) {
            let deadline = self.deadline(EXPECT_GRACE_US);
            trades.expect(last, deadline, "kline");
            return None;
        }
        let stream = stream(self.exchange, self.symbol, Channel::Trade);
        self.routed.questions.push(DoubtfulTrades { stream, trades: Vec::new() });
        let is_recorded = trades.in_order_ts.is_some_and(|ts| kline.close_time.since(ts).abs() < DOUBT_MAX_US * 4);
        is_recorded.then(|| does_not_fit(last, trades.tracker.next(), None))
    }

    /// Uses a kline that was held. Its event time is not known any more.
    pub(super) fn use_kline(&mut self, state: &mut StreamState<Kline>, kline: Kline, source: Source) {
        if kline.closed {
            state.recent_klines.push(&kline, None);
        }
        self.push_kline(kline, source);
    }

    /// A closed kline whose position is stored already: the one that the exchange sent later wins.
    fn repeat_kline(
        &mut self,
        state: &mut StreamState<Kline>,
        kline: Kline,
        event_time: Option<Timestamp>,
        source: Source,
    ) {
        let is_later = match state.recent_klines.judge(&kline, event_time) {
            RepeatedKline::Copy => return,
            RepeatedKline::Later => Some(true),
            RepeatedKline::Earlier => Some(false),
            RepeatedKline::Unknown => None,
        };
        if is_later == Some(true) {
            state.recent_klines.push(&kline, event_time);
        }
        self.routed.repeated.klines.push((self.kline_row(kline), source, is_later));
    }

    fn kline_row(&self, kline: Kline) -> KlineRow {
        let (exchange, symbol) = (self.exchange, self.symbol.clone());
        KlineRow { exchange, symbol, kline, is_backfilled: false, version: row_version(false) }
    }

    fn push_kline(&mut self, kline: Kline, source: Source) {
        if kline.closed {
            let row = self.kline_row(kline);
            self.routed.rows.batch.klines.push(row);
            self.routed.rows.kline_sources.push(source);
            return;
        }
        let same = |entry: &&mut (Exchange, Symbol, Kline)| {
            entry.0 == self.exchange && entry.1 == *self.symbol && entry.2.interval == kline.interval
        };
        match self.routed.update.klines.iter_mut().find(same) {
            // Frames of two connections arrive in either order.
            Some(entry) if !kline_is_newer(&kline, &entry.2) => {}
            Some(entry) => entry.2 = kline,
            None => self.routed.update.klines.push((self.exchange, self.symbol.clone(), kline)),
        }
    }
}
