//! The link from the market to the connections: it drops, duplicates, reorders and corrupts frames as faults demand.
//! Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use tokio::time::Instant;

use super::counters::Counters;
use super::fault::Fault;
use super::lies::socket::{Extent, Poison, SocketLie};
use super::venue::stream_name;
use crate::market::{Symbol, Timestamp, Trade};

/// A frame on its way to the connections that subscribed to its stream.
#[derive(Clone, Debug)]
pub struct OutgoingFrame {
    /// `btcusdt@trade`.
    pub stream: Arc<str>,
    /// The stream's symbol.
    pub symbol: Symbol,
    /// The trade, or the aggregate trade, and its event time; other frames have none.
    pub trade: Option<(Trade, Timestamp)>,
    /// The frame.
    pub text: Utf8Bytes,
    /// Whether a fault changed the text, so that it must be sent alone.
    pub is_changed: bool,
}

/// The first and the last id of a trade or of an aggregate.
type TradeIds = (i64, i64);

/// A fault of the next `count` trade frames.
#[derive(Clone, Debug)]
struct FrameFault {
    symbol: Option<Symbol>,
    count: u64,
}

/// How long frames wait to be reordered when too few follow.
const REORDER_WAIT: Duration = Duration::from_secs(1);

/// The faults of frames. They apply before the fan-out, so every connection loses the same frames.
#[derive(Debug, Default)]
pub struct FaultyLink {
    drop: Vec<FrameFault>,
    duplicate: Vec<FrameFault>,
    garbage: Vec<FrameFault>,
    reorder: Vec<FrameFault>,
    held_back: VecDeque<OutgoingFrame>,
    held_back_since: Option<Instant>,
    silent: Vec<(Option<Symbol>, Instant)>,
    lost_from: Vec<(Symbol, i64)>,
    holes: Vec<(FrameFault, Duration)>,
    /// Trades lost in holes since the last [`Self::take_holes`], and how long REST hides them.
    in_holes: Vec<(Symbol, TradeIds, Duration)>,
    muted: Vec<(String, Instant)>,
    poisons: Vec<ActivePoison>,
}

/// A poison and its end, by count or by time.
#[derive(Debug)]
struct ActivePoison {
    poison: Poison,
    remaining: u64,
    until: Option<Instant>,
}

impl ActivePoison {
    fn new(poison: Poison, now: Instant) -> Self {
        let (remaining, until) = match poison.extent {
            Extent::Count(count) => (count, None),
            Extent::Time(time) => (u64::MAX, Some(now + time)),
        };
        Self { poison, remaining, until }
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.remaining == 0 || self.until.is_some_and(|until| until <= now)
    }

    /// The poisoned copy of a frame that it concerns.
    fn poisoned(&self, frame: &OutgoingFrame) -> Option<OutgoingFrame> {
        let poison = &self.poison;
        if !poison.kind.includes(&frame.stream) || poison.symbol.as_ref().is_some_and(|symbol| *symbol != frame.symbol)
        {
            return None;
        }
        let text = poison.edits.apply(frame.text.as_str(), 0)?;
        Some(OutgoingFrame { text: Utf8Bytes::from(text), is_changed: true, ..frame.clone() })
    }
}

impl FaultyLink {
    /// Adds a fault of frames; `false` when the fault concerns connections or REST.
    pub fn inject(&mut self, fault: &Fault, now: Instant) -> bool {
        let remaining = |symbol: &Option<Symbol>, count: &u64| FrameFault { symbol: symbol.clone(), count: *count };
        match fault {
            Fault::Drop(symbol, count) => self.drop.push(remaining(symbol, count)),
            Fault::Duplicate(symbol, count) => self.duplicate.push(remaining(symbol, count)),
            Fault::Garbage(symbol, count) => self.garbage.push(remaining(symbol, count)),
            Fault::Reorder(symbol, count) => self.reorder.push(remaining(symbol, count)),
            Fault::Silent(symbol, time) => self.silent.push((symbol.clone(), now + *time)),
            Fault::LoseTail(symbol, from) => self.lost_from.push((symbol.clone(), *from)),
            Fault::Socket(SocketLie::Hole(symbol, count, time)) => {
                self.holes.push((remaining(&Some(symbol.clone()), count), *time));
            }
            Fault::Socket(SocketLie::Mute(symbol, channel, time)) => {
                let stream = stream_name(symbol.as_str(), *channel);
                self.muted.retain(|(muted, _)| *muted != stream);
                self.muted.push((stream, now + *time));
            }
            Fault::Socket(SocketLie::Poison(poison)) => self.poisons.push(ActivePoison::new(poison.clone(), now)),
            _ => return false,
        }
        true
    }

    /// Applies the faults to `frames` and returns the frames to send.
    pub fn pass(&mut self, frames: Vec<OutgoingFrame>, now: Instant, counters: &mut Counters) -> Vec<OutgoingFrame> {
        self.silent.retain(|(_, until)| *until > now);
        self.muted.retain(|(_, until)| *until > now);
        self.poisons.retain(|active| !active.has_ended(now));
        if self.is_idle() {
            return frames;
        }
        let mut out = Vec::with_capacity(frames.len());
        for frame in frames {
            self.pass_one(frame, now, counters, &mut out);
        }
        if self.held_back_since.is_some_and(|since| now.duration_since(since) >= REORDER_WAIT) {
            self.reorder.clear();
            self.release(counters, &mut out);
        }
        out
    }

    /// The trades that holes lost since the last call, with the time for which REST hides them.
    pub fn take_holes(&mut self) -> Vec<(Symbol, TradeIds, Duration)> {
        std::mem::take(&mut self.in_holes)
    }

    fn is_idle(&self) -> bool {
        let counted = [&self.drop, &self.duplicate, &self.garbage, &self.reorder];
        counted.iter().all(|faults| faults.is_empty())
            && self.silent.is_empty()
            && self.lost_from.is_empty()
            && self.held_back.is_empty()
            && self.holes.is_empty()
            && self.muted.is_empty()
            && self.poisons.is_empty()
    }

    /// Applies the poisons to a frame: the frame to send, and a poisoned copy to send behind it.
    fn poison(&mut self, frame: OutgoingFrame, counters: &mut Counters) -> (OutgoingFrame, Option<OutgoingFrame>) {
        let found = self.poisons.iter_mut().filter(|active| active.remaining > 0);
        for active in found {
            if let Some(poisoned) = active.poisoned(&frame) {
                active.remaining -= 1;
                counters.frames_poisoned += 1;
                return if active.poison.is_copy { (frame, Some(poisoned)) } else { (poisoned, None) };
            }
        }
        (frame, None)
    }

    fn pass_one(&mut self, frame: OutgoingFrame, now: Instant, counters: &mut Counters, out: &mut Vec<OutgoingFrame>) {
        if self.silent.iter().any(|(symbol, _)| symbol.as_ref().is_none_or(|symbol| *symbol == frame.symbol)) {
            counters.frames_silenced += 1;
            return;
        }
        if self.muted.iter().any(|(stream, _)| **stream == *frame.stream) {
            counters.frames_silenced += 1;
            return;
        }
        let Some((trade, _)) = frame.trade else {
            let (frame, copy) = self.poison(frame, counters);
            out.push(frame);
            out.extend(copy);
            return;
        };
        // An aggregate is what its trades are.
        let (first, last) = trade.trade_ids.unwrap_or((trade.id, trade.id));
        if self.lost_from.iter().any(|(symbol, from)| *symbol == frame.symbol && last >= *from) {
            counters.frames_lost_tail += 1;
            return;
        }
        if take_one(&mut self.drop, &frame.symbol) {
            counters.frames_dropped += 1;
            return;
        }
        if let Some((hole, time)) =
            self.holes.iter_mut().find(|(hole, _)| hole.symbol.as_ref().is_none_or(|symbol| *symbol == frame.symbol))
        {
            hole.count = hole.count.saturating_sub(1);
            self.in_holes.push((frame.symbol, (first, last), *time));
            self.holes.retain(|(hole, _)| hole.count > 0);
            counters.frames_in_holes += 1;
            return;
        }
        let (frame, copy) = self.poison(frame, counters);
        if take_one(&mut self.garbage, &frame.symbol) {
            counters.frames_garbage += 1;
            out.push(garbage(&frame));
        }
        if take_one(&mut self.reorder, &frame.symbol) {
            self.held_back_since.get_or_insert(now);
            self.held_back.push_back(frame);
            if self.reorder.is_empty() {
                self.release(counters, out);
            }
            return;
        }
        if take_one(&mut self.duplicate, &frame.symbol) {
            counters.frames_duplicated += 1;
            out.push(frame.clone());
        }
        out.push(frame);
        out.extend(copy);
    }

    fn release(&mut self, counters: &mut Counters, out: &mut Vec<OutgoingFrame>) {
        self.held_back_since = None;
        counters.frames_reordered += self.held_back.len() as u64;
        out.extend(self.held_back.drain(..).rev());
    }
}

/// Counts down the first fault that applies to this symbol; `false` when none does.
fn take_one(faults: &mut Vec<FrameFault>, symbol: &Symbol) -> bool {
    faults.retain(|fault| fault.count > 0);
    let Some(fault) = faults.iter_mut().find(|fault| fault.symbol.as_ref().is_none_or(|wanted| wanted == symbol))
    else {
        return false;
    };
    fault.count -= 1;
    faults.retain(|fault| fault.count > 0);
    true
}

/// The first half of a frame: valid UTF-8, as a text frame must be, but not JSON.
fn garbage(frame: &OutgoingFrame) -> OutgoingFrame {
    let half = frame.text.as_str().get(..frame.text.len() / 2).unwrap_or("{");
    // The raw form drops the last byte, so append one.
    OutgoingFrame { text: Utf8Bytes::from(format!("{half} ")), is_changed: true, ..frame.clone() }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::market::Side;

    fn frame(symbol: &str, id: Option<i64>) -> OutgoingFrame {
        let stream = if id.is_some() { "x@trade" } else { "x@kline_1m" };
        let text = format!(r#"{{"t":{}}}"#, id.unwrap_or_default());
        let (price, quantity, side) = (Decimal::ONE, Decimal::ONE, Side::Buy);
        let trade = id.map(|id| Trade { id, ts: Timestamp(0), price, quantity, side, trade_ids: None });
        OutgoingFrame {
            stream: Arc::from(stream),
            symbol: Symbol::new(symbol),
            trade: trade.map(|trade| (trade, Timestamp(0))),
            text: Utf8Bytes::from(text),
            is_changed: false,
        }
    }

    fn ids(frames: &[OutgoingFrame]) -> Vec<i64> {
        frames.iter().filter_map(|frame| frame.trade.map(|(trade, _)| trade.id)).collect()
    }

    fn passed(fault: &str, symbols: &[(&str, i64)]) -> (Vec<i64>, Counters) {
        let mut link = FaultyLink::default();
        let mut counters = Counters::default();
        let now = Instant::now();
        assert!(link.inject(&fault.parse().unwrap(), now));
        let frames = symbols.iter().map(|(symbol, id)| frame(symbol, Some(*id))).collect();
        let out = link.pass(frames, now, &mut counters);
        (ids(&out), counters)
    }

    #[test]
    fn the_next_frames_are_dropped_and_no_more() {
        let (ids, counters) = passed("drop:B:2", &[("A", 1), ("B", 2), ("B", 3), ("B", 4)]);
        assert_eq!(ids, [1, 4]);
        assert_eq!(counters.frames_dropped, 2);
    }

    #[test]
    fn a_duplicate_comes_twice() {
        assert_eq!(passed("duplicate:1", &[("A", 1), ("A", 2)]).0, [1, 1, 2]);
    }

    #[test]
    fn a_reordered_run_comes_backwards() {
        let (ids, counters) = passed("reorder:A:3", &[("A", 1), ("B", 9), ("A", 2), ("A", 3), ("A", 4)]);
        assert_eq!(ids, [9, 3, 2, 1, 4]);
        assert_eq!(counters.frames_reordered, 3);
    }

    #[test]
    fn frames_to_reorder_wait_for_a_second_at_most() {
        let mut link = FaultyLink::default();
        let mut counters = Counters::default();
        let now = Instant::now();
        link.inject(&"reorder:5".parse().unwrap(), now);
        assert!(link.pass(vec![frame("A", Some(1)), frame("A", Some(2))], now, &mut counters).is_empty());
        assert_eq!(ids(&link.pass(Vec::new(), now + REORDER_WAIT, &mut counters)), [2, 1]);
    }

    #[test]
    fn a_lost_tail_never_reaches_a_connection() {
        assert_eq!(passed("losetail:A:2", &[("A", 1), ("A", 2), ("B", 2), ("A", 3)]).0, [1, 2]);
    }

    #[test]
    fn a_hole_loses_the_next_trades_and_names_them() {
        let mut link = FaultyLink::default();
        let mut counters = Counters::default();
        let now = Instant::now();
        link.inject(&"hole:A:2:5s".parse().unwrap(), now);
        let frames = [("A", 1), ("B", 1), ("A", 2), ("A", 3)].map(|(symbol, id)| frame(symbol, Some(id)));
        assert_eq!(ids(&link.pass(frames.to_vec(), now, &mut counters)), [1, 3]);
        let lost: Vec<i64> = link.take_holes().iter().map(|(_, (first, _), _)| *first).collect();
        assert_eq!((lost, counters.frames_in_holes, link.take_holes().len()), (vec![1, 2], 2, 0));
    }

    /// The texts that a link with this fault sends for two trades and a kline.
    fn texts(fault: &str) -> Vec<String> {
        let mut link = FaultyLink::default();
        let now = Instant::now();
        link.inject(&fault.parse().unwrap(), now);
        let frames = vec![frame("A", Some(1)), frame("A", None), frame("A", Some(2))];
        let out = link.pass(frames, now, &mut Counters::default());
        out.iter().map(|frame| frame.text.to_string()).collect()
    }

    #[test]
    fn the_next_frame_of_a_kind_is_poisoned() {
        assert_eq!(texts("poison:A:trade.t=max:1"), [r#"{"t":9223372036854775807}"#, r#"{"t":0}"#, r#"{"t":2}"#]);
        assert_eq!(texts("poison:A:kline.t=7:1"), [r#"{"t":1}"#, r#"{"t":7}"#, r#"{"t":2}"#]);
        assert_eq!(texts("poison:any.t=5:1m"), [r#"{"t":5}"#; 3]);
        assert_eq!(texts("poison:B:any.t=5:1m"), [r#"{"t":1}"#, r#"{"t":0}"#, r#"{"t":2}"#]);
    }

    #[test]
    fn a_poisoned_copy_follows_the_right_frame() {
        let expected = [r#"{"t":1}"#, r#"{"t":1000000000001}"#, r#"{"t":0}"#, r#"{"t":2}"#];
        assert_eq!(texts("poisoncopy:A:trade.t=+1000000000000:1"), expected);
    }

    #[test]
    fn a_muted_stream_is_silent_and_the_others_of_its_symbol_are_not() {
        let mut link = FaultyLink::default();
        let now = Instant::now();
        link.inject(&"mute:X:trade:1s".parse().unwrap(), now);
        let frames = || vec![frame("A", Some(1)), frame("A", None)];
        let passed = |link: &mut FaultyLink, now| link.pass(frames(), now, &mut Counters::default()).len();
        assert_eq!((passed(&mut link, now), passed(&mut link, now + Duration::from_secs(1))), (1, 2));
    }

    #[test]
    fn garbage_is_not_json_and_loses_nothing() {
        let mut link = FaultyLink::default();
        let mut counters = Counters::default();
        link.inject(&"garbage:1".parse().unwrap(), Instant::now());
        let out = link.pass(vec![frame("A", Some(1)), frame("A", Some(2))], Instant::now(), &mut counters);
        assert_eq!(out.len(), 3);
        assert!(serde_json::from_str::<serde_json::Value>(&out[0].text).is_err());
        assert!(serde_json::from_str::<serde_json::Value>(&out[1].text).is_ok());
    }

    #[test]
    fn silence_affects_every_stream_of_the_symbol_and_ends() {
        let mut link = FaultyLink::default();
        let mut counters = Counters::default();
        let now = Instant::now();
        link.inject(&"silent:A:1s".parse().unwrap(), now);
        let out = link.pass(vec![frame("A", Some(1)), frame("A", None), frame("B", Some(5))], now, &mut counters);
        assert_eq!(ids(&out), [5]);
        assert_eq!(counters.frames_silenced, 2);
        let out = link.pass(vec![frame("A", Some(2))], now + Duration::from_secs(1), &mut counters);
        assert_eq!(ids(&out), [2]);
    }
}
