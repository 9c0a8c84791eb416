//! Notices a kline stream that is silent although its symbol trades. The consumer finds the klines that do not come, by the
//! exchange's time, and backfill refills them; but only a new subscription brings the stream back. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::market::{Channel, Stream};

/// How far past a kline's end it may arrive: the exchange sends it within 2 s.
const LATE: Duration = Duration::from_secs(10);
/// Time between two reports of one silence: an open kline comes every 2 s, so a step that helps shows within it.
const REPORT_INTERVAL: Duration = Duration::from_secs(20);

/// The kline streams, and since when their symbols trade without them.
#[derive(Debug, Default)]
pub(super) struct SilentKlines(HashMap<Stream, KlineSilence>);

#[derive(Debug)]
struct KlineSilence {
    /// The connection that it was subscribed on last.
    connection: Option<i64>,
    /// Receive time of the newest frame, microseconds.
    last_seen: Option<i64>,
    /// When that frame was noticed, or the stream subscribed. Monotonic.
    since: Instant,
    /// When a later trade of the symbol was noticed. Monotonic.
    traded: Option<Instant>,
    /// When the exchange was asked last for a later trade.
    asked: Option<Instant>,
    /// When the silence was reported last.
    reported: Option<Instant>,
}

impl KlineSilence {
    fn new(connection: Option<i64>, last_seen: Option<i64>, since: Instant) -> Self {
        Self { connection, last_seen, since, traded: None, asked: None, reported: None }
    }
}

/// The longest silence of a kline stream whose symbol trades: every interval with a trade ends with a frame.
fn silence_max(stream: &Stream) -> Duration {
    match stream.channel {
        Channel::Kline(interval) => Duration::from_micros(interval.micros().unsigned_abs()) + LATE,
        Channel::Trade | Channel::AggTrade | Channel::BookTicker => Duration::MAX,
    }
}

impl SilentKlines {
    /// A connection carries the stream from now on. A second subscription on the same connection does not end the silence.
    pub(super) fn subscribed(&mut self, stream: &Stream, connection: i64, last_seen: Option<i64>, now: Instant) {
        let is_new = self.0.get(stream).is_none_or(|state| state.connection != Some(connection));
        if is_new {
            self.0.insert(stream.clone(), KlineSilence::new(Some(connection), last_seen, now));
        }
    }

    /// Records the newest frame of a kline stream, and of its symbol's other streams that show trades: their receive times.
    /// Returns whether the stream is silent for too long; every [`REPORT_INTERVAL`] anew.
    pub(super) fn observe(
        &mut self,
        stream: &Stream,
        last_seen: Option<i64>,
        traded_at: Option<i64>,
        now: Instant,
    ) -> bool {
        let state = self.0.entry(stream.clone()).or_insert_with(|| KlineSilence::new(None, last_seen, now));
        if state.last_seen != last_seen {
            *state = KlineSilence::new(state.connection, last_seen, now);
        }
        if traded_at > state.last_seen {
            state.traded.get_or_insert(now);
        }
        let is_silent = state.traded.is_some_and(|traded| now.duration_since(traded) >= silence_max(stream));
        if !is_silent || state.reported.is_some_and(|reported| now.duration_since(reported) < REPORT_INTERVAL) {
            return false;
        }
        state.reported = Some(now);
        true
    }

    /// Whether the exchange must be asked if the symbol trades: the stream is silent, and no other stream shows it.
    pub(super) fn must_ask(&mut self, stream: &Stream, now: Instant) -> bool {
        let Some(state) = self.0.get_mut(stream) else { return false };
        let is_over = |since: Instant| now.duration_since(since) >= silence_max(stream);
        let must_ask = state.traded.is_none() && is_over(state.since) && state.asked.is_none_or(is_over);
        if must_ask {
            state.asked = Some(now);
        }
        must_ask
    }

    /// The exchange's newest trade happened at `traded_at`, by our clock.
    pub(super) fn traded(&mut self, stream: &Stream, traded_at: i64, now: Instant) {
        if let Some(state) = self.0.get_mut(stream)
            && Some(traded_at) > state.last_seen
        {
            state.traded.get_or_insert(now);
        }
    }

    /// Forgets the streams that are no longer recorded.
    pub(super) fn retain(&mut self, recorded: impl Fn(&Stream) -> bool) {
        self.0.retain(|stream, _| recorded(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(channel: &str) -> Stream {
        format!("binance:BTCUSDT:{channel}").parse().unwrap()
    }

    /// The seconds, of `seconds`, in which the stream is reported as silent. `frames` and `trades` are the seconds in which a
    /// frame of it and a trade of its symbol arrive.
    fn silent(channel: &str, frames: &[i64], trades: &[i64], seconds: i64) -> Vec<i64> {
        let (mut klines, stream, began) = (SilentKlines::default(), stream(channel), Instant::now());
        let newest = |arrivals: &[i64], at| arrivals.iter().filter(|second| **second <= at).max().copied();
        (0..seconds)
            .filter(|&at| {
                let now = began + Duration::from_secs(at.unsigned_abs());
                klines.observe(&stream, newest(frames, at), newest(trades, at), now)
            })
            .collect()
    }

    #[test]
    fn a_kline_stream_is_silent_when_a_whole_interval_with_trades_brings_no_frame() {
        let every_second: Vec<i64> = (0..400).collect();
        assert_eq!(silent("kline_1m", &[0], &every_second, 140), [71, 91, 111, 131]);
        assert_eq!(silent("kline_5m", &[0], &every_second, 315), [311]);
        assert_eq!(silent("kline_1m", &[], &every_second, 72), [70], "not one frame came");
        assert!(silent("kline_1m", &[0, 60, 120, 180], &every_second, 245).is_empty(), "one frame a minute");
    }

    #[test]
    fn a_quiet_market_explains_the_silence() {
        assert!(silent("kline_1m", &[10], &[1, 9], 10_000).is_empty());
        assert!(silent("kline_1m", &[], &[], 10_000).is_empty());
        // One trade after 1,000 s, and the kline of it.
        assert!(silent("kline_1m", &[10, 1_050], &[1_000], 5_000).is_empty());
    }

    #[test]
    fn without_another_stream_of_the_symbol_the_exchange_is_asked_once_an_interval() {
        let (mut klines, stream, began) = (SilentKlines::default(), stream("kline_1m"), Instant::now());
        klines.subscribed(&stream, 1, Some(5), began);
        let at = |second: u64| began + Duration::from_secs(second);
        let asked: Vec<u64> = (0..300).filter(|&second| klines.must_ask(&stream, at(second))).collect();
        assert_eq!(asked, [70, 140, 210, 280]);
        klines.traded(&stream, 5, at(300));
        assert!(!klines.observe(&stream, Some(5), None, at(400)), "that trade is older than the last frame");
        klines.traded(&stream, 6, at(400));
        assert!(!klines.must_ask(&stream, at(500)), "the answer is known");
        assert!(!klines.observe(&stream, Some(5), None, at(469)));
        assert!(klines.observe(&stream, Some(5), None, at(470)));
    }

    #[test]
    fn a_new_connection_ends_the_silence_and_a_new_subscription_does_not() {
        let (mut klines, stream, began) = (SilentKlines::default(), stream("kline_1m"), Instant::now());
        let at = |second: u64| began + Duration::from_secs(second);
        klines.subscribed(&stream, 1, None, began);
        assert!(!klines.observe(&stream, None, Some(1), began));
        assert!(klines.observe(&stream, None, Some(1), at(70)));
        klines.subscribed(&stream, 1, None, at(71));
        assert!(klines.observe(&stream, None, Some(1), at(90)));
        klines.subscribed(&stream, 2, None, at(91));
        assert!(!klines.observe(&stream, None, Some(1), at(110)));
        assert!(klines.observe(&stream, None, Some(1), at(180)));
    }
}
