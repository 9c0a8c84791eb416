//! The last hour as samples. The service takes them itself, so that a page that opens now shows the past hour.
//!
//! It must not know the status document or the page: both read it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{AppState, CLOCK_SET_US, STORE_TIMEOUT};
use crate::market::Timestamp;

/// How often a sample is taken.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples kept: an hour of them.
const SAMPLES_MAX: usize = 720;
/// Shortest time that a forecast is made from: a file that was just created is not a trend.
const FORECAST_MIN_US: i64 = 1_800_000_000;

/// When our own growth fills the disk sooner than this, the status warns, seconds.
pub const FULL_SOON_S: f64 = 7.0 * 86_400.0;
/// Below this many free bytes the disk is nearly full, however slowly it fills.
pub const FREE_MIN: u64 = 1 << 30;

/// The recorder's state at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// Frames per second that became durable in the log since the previous sample.
    pub frames: f64,
    /// How long a frame waits in the log before it is a row, seconds; none when the log does not answer.
    pub lag: Option<f64>,
    /// Missing positions in open gaps.
    pub missing: i64,
    /// Free bytes on the disk of the data directory.
    pub free: Option<u64>,
    /// Bytes of our own files in that directory.
    pub kept: Option<u64>,
}

/// The samples of the last hour, oldest first.
#[derive(Default)]
pub struct TimeSeries(Mutex<VecDeque<Sample>>);

impl TimeSeries {
    /// Takes samples until `stop`.
    pub async fn run(&self, state: &AppState, stop: &CancellationToken) {
        let mut ticks = interval(SAMPLE_EVERY);
        // One sample is enough after the machine was suspended.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (state.clock.now(), Instant::now(), state.counters.total(|counters| &counters.frames));
        let sampling = async {
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let (now, at) = (state.clock.now(), Instant::now());
                let frames = state.counters.total(|counters| &counters.frames);
                // The rate uses the clock, not the interval: on a busy machine the tick is late.
                let elapsed = at.duration_since(before.1);
                let rate = frames.saturating_sub(before.2) as f64 / elapsed.as_secs_f64().max(1e-6);
                if was_set(now.since(before.0), elapsed) {
                    self.clear();
                }
                before = (now, at, frames);
                self.add(sample(state, now, rate).await);
            }
        };
        stop.run_until_cancelled(sampling).await;
    }

    /// Forgets the samples: the wall clock was set, so the times between them and new ones mean nothing.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds a sample and drops the oldest one when the hour is full.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// How long a frame waits in the log when `waiting` frames wait, seconds; none before the first sample.
    pub fn lag(&self, state: &AppState, waiting: i64) -> Option<f64> {
        let frames = self.0.lock().unwrap_or_else(PoisonError::into_inner).back()?.frames;
        Some(lag(state, state.clock.now(), waiting, frames))
    }

    /// All samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Whether the wall clock was set between two samples: it moved by `wall_us`, and the monotonic clock by `elapsed`.
fn was_set(wall_us: i64, elapsed: Duration) -> bool {
    let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
    wall_us.saturating_sub(elapsed_us).saturating_abs() >= CLOCK_SET_US
}

async fn sample(state: &AppState, at: Timestamp, frames: f64) -> Sample {
    let usage = timeout(STORE_TIMEOUT, state.log.usage()).await;
    let lag = usage.ok().and_then(Result::ok).map(|usage| lag(state, at, usage.lag(), frames));
    let (free, kept) = (free_bytes(&state.data_dir), kept_bytes(&state.data_dir));
    Sample { at, frames, lag, missing: missing(state), free, kept }
}

fn lag(state: &AppState, at: Timestamp, waiting: i64, frames: f64) -> f64 {
    let age = state.progress.last_received().map_or(0.0, |newest| at.since(newest).max(0) as f64 / 1e6);
    frame_lag_s(waiting, frames, age)
}

/// Positions in open gaps that are still missing.
pub fn missing(state: &AppState) -> i64 {
    state.ledger.with(|ledger| ledger.rows().map(|gap| gap.missing()).sum())
}

/// How long a frame waits, seconds: the waiting frames divided by the frames per second, but at most `age`, the seconds
/// since the newest consumed frame arrived.
fn frame_lag_s(waiting: i64, frames: f64, age: f64) -> f64 {
    match waiting {
        ..=0 => 0.0,
        waiting => (waiting as f64 / frames.max(f64::MIN_POSITIVE)).min(age),
    }
}

/// Bytes on the disk of this directory that are free for this user.
pub fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes of the files in this directory.
pub fn kept_bytes(directory: &Path) -> Option<u64> {
    let files = std::fs::read_dir(directory).ok()?;
    Some(
        files
            .flatten()
            .filter_map(|file| file.metadata().ok())
            .filter(|file| file.is_file())
            .map(|file| file.len())
            .sum(),
    )
}

/// When the disk is full if it fills as fast as in the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Growth of our own files, bytes per second; none while there are too few samples.
    pub growth: Option<f64>,
    /// Seconds until our own growth fills the disk.
    pub own_full_in_s: Option<f64>,
    /// Seconds until the disk is full, whoever fills it.
    pub any_full_in_s: Option<f64>,
}

/// The forecast from these samples.
pub fn forecast(samples: &[Sample]) -> Forecast {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Forecast::default() };
    let took = last.at.since(first.at);
    if took < FORECAST_MIN_US {
        return Forecast::default();
    }
    let rate = |from: Option<u64>, to: Option<u64>| Some((to? as f64 - from? as f64) / (took as f64 / 1e6));
    let until_full = |rate: f64| last.free.filter(|_| rate > 0.0).map(|free| free as f64 / rate);
    let growth = rate(first.kept, last.kept);
    let any_full_in_s = rate(last.free, first.free).and_then(until_full);
    Forecast { growth, own_full_in_s: growth.and_then(until_full), any_full_in_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64, free: u64) -> Sample {
        Sample {
            at: Timestamp(seconds * 1_000_000),
            frames: 1.0,
            lag: Some(0.0),
            missing: 0,
            free: Some(free),
            kept: None,
        }
    }

    #[test]
    fn a_full_hour_drops_the_oldest_sample() {
        let time_series = TimeSeries::default();
        (0..=SAMPLES_MAX as i64).for_each(|second| time_series.add(sample(second, 0)));
        let samples = time_series.samples();
        assert_eq!((samples.len(), samples[0].at), (SAMPLES_MAX, Timestamp(1_000_000)));
    }

    #[test]
    fn a_new_frame_of_a_quiet_market_is_not_late() {
        assert_eq!(frame_lag_s(0, 100.0, 9.0), 0.0);
        assert_eq!(frame_lag_s(1, 2.0, 30.0), 0.5, "the frame before it arrived half a minute ago");
        assert_eq!(frame_lag_s(5_000, 1_000.0, 5.2), 5.0, "the consumer is stuck");
        assert_eq!(frame_lag_s(7, 0.0, 8.0), 8.0, "no frame arrives");
    }

    #[test]
    fn the_forecast_divides_the_free_bytes_by_the_growth() {
        let of = |samples: &[(i64, u64, u64)]| {
            let sample = |(at, free, kept): &(i64, u64, u64)| Sample { kept: Some(*kept), ..sample(*at, *free) };
            forecast(&samples.iter().map(sample).collect::<Vec<_>>())
        };
        let growing = of(&[(0, 10_000, 500), (2_000, 9_000, 700)]);
        assert_eq!(
            growing,
            Forecast { growth: Some(0.1), own_full_in_s: Some(90_000.0), any_full_in_s: Some(18_000.0) }
        );
        let idle = of(&[(0, 10_000, 700), (2_000, 10_000, 500)]);
        assert_eq!(idle, Forecast { growth: Some(-0.1), own_full_in_s: None, any_full_in_s: None });
        assert_eq!(of(&[(0, 10_000, 500), (1_799, 9_000, 700)]), Forecast::default(), "too short");
        assert_eq!(of(&[]), Forecast::default());
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "12345").unwrap();
        assert_eq!(kept_bytes(directory.path()), Some(5));
    }

    #[test]
    fn a_clock_that_was_set_is_noticed_and_a_late_tick_is_not() {
        let (tick, second) = (Duration::from_secs(5), 1_000_000);
        assert!(!was_set(5 * second, tick) && !was_set(7 * second, tick));
        assert!(!was_set(3_600 * second, Duration::from_secs(3_600)), "the service was stopped for an hour");
        assert!(was_set(-3_600 * second, tick) && was_set(86_400 * 365 * second, tick));
        assert!(was_set(i64::MIN, tick) && was_set(i64::MAX, tick));
    }
}
