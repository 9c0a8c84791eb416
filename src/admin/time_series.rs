//! The last hour in samples, taken by the service itself: a page that is opened now shows what was before.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{AppState, STORE_TIMEOUT};
use crate::market::Timestamp;

/// How often a sample is taken.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Samples kept: an hour of them.
const SAMPLES_MAX: usize = 720;
/// A forecast is made from no shorter time: a file that was just made is no trend.
const FORECAST_MIN_US: i64 = 1_800_000_000;

/// A disk that our own growth fills sooner is somebody's business, seconds.
pub const FULL_SOON_S: f64 = 7.0 * 86_400.0;
/// Bytes below which the disk is nearly full, however slowly it fills.
pub const FREE_MIN: u64 = 1 << 30;

/// How things stood at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Frames that became durable in the log each second since the sample before.
    pub frames: f64,
    /// How long a frame waits in the log before it is a row, seconds; none when the log cannot tell.
    pub lag: Option<f64>,
    /// Positions that open gaps still miss.
    pub missing: i64,
    /// Bytes that are free where the stores are.
    pub free: Option<u64>,
    /// Bytes of what we keep there ourselves.
    pub kept: Option<u64>,
}

/// The samples of the last hour, oldest first.
#[derive(Default)]
pub struct TimeSeries(Mutex<VecDeque<Sample>>);

impl TimeSeries {
    /// Samples until `stop`.
    pub async fn run(&self, state: &AppState, stop: &CancellationToken) {
        let mut ticks = interval(SAMPLE_EVERY);
        // After a machine slept one sample is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (state.clock.now(), state.counters.frames.load(Relaxed));
        let sampling = async {
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let (now, frames) = (state.clock.now(), state.counters.frames.load(Relaxed));
                // By the clock and not by the tick: a busy machine is late with both.
                let seconds = now.since(before.0).max(1) as f64 / 1e6;
                let rate = frames.saturating_sub(before.1) as f64 / seconds;
                before = (now, frames);
                self.add(sample(state, now, rate).await);
            }
        };
        stop.run_until_cancelled(sampling).await;
    }

    /// Adds a sample; the oldest one goes when there is no more room.
    pub fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// How long a frame that waits with so many others waits, seconds; none before the first sample.
    pub fn lag(&self, state: &AppState, waiting: i64) -> Option<f64> {
        let frames = self.0.lock().unwrap_or_else(PoisonError::into_inner).back()?.frames;
        Some(lag(state, state.clock.now(), waiting, frames))
    }

    /// All of them, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
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

/// Positions that open gaps miss and that did not come back yet.
pub fn missing(state: &AppState) -> i64 {
    state.ledger.with(|ledger| ledger.rows().map(|gap| gap.missing()).sum())
}

/// How long a frame waits when so many wait, so many come a second, and the newest one that is a row is so old: what
/// waits, divided by what comes, but no longer than since the consumer was at work.
fn frame_lag_s(waiting: i64, frames: f64, age: f64) -> f64 {
    match waiting {
        ..=0 => 0.0,
        waiting => (waiting as f64 / frames.max(f64::MIN_POSITIVE)).min(age),
    }
}

/// Bytes that are free to us on the disk of this directory.
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

/// What becomes of the disk if it goes on as in the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Bytes a second that our own files grow by; none while the samples are too few.
    pub growth: Option<f64>,
    /// Seconds until our own growth has filled the disk.
    pub own_full_in_s: Option<f64>,
    /// Seconds until it is full by whatever fills it.
    pub any_full_in_s: Option<f64>,
}

/// Looks ahead from these samples.
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
    fn an_hour_is_kept_and_the_oldest_goes() {
        let time_series = TimeSeries::default();
        (0..=SAMPLES_MAX as i64).for_each(|second| time_series.add(sample(second, 0)));
        let samples = time_series.samples();
        assert_eq!((samples.len(), samples[0].at), (SAMPLES_MAX, Timestamp(1_000_000)));
    }

    #[test]
    fn a_frame_of_a_quiet_market_that_has_just_come_is_not_late() {
        assert_eq!(frame_lag_s(0, 100.0, 9.0), 0.0);
        assert_eq!(frame_lag_s(1, 2.0, 30.0), 0.5, "the one before it came half a minute ago");
        assert_eq!(frame_lag_s(5_000, 1_000.0, 5.2), 5.0, "the consumer stands");
        assert_eq!(frame_lag_s(7, 0.0, 8.0), 8.0, "nothing comes any more");
    }

    #[test]
    fn the_disk_is_full_when_what_is_left_is_used_as_fast() {
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
}
