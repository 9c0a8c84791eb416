//! The last hour in samples, taken by the service itself: a page that is opened now shows what was before.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin::{Desk, view};
use crate::market::Timestamp;

/// How often a sample is taken.
pub const EVERY: Duration = Duration::from_secs(5);
/// Samples kept: an hour of them.
const SAMPLES_MAX: usize = 720;
/// A rate of free space is told from no shorter time: a file that was just made is no trend.
const FORECAST_MIN_US: i64 = 600_000_000;

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
}

/// The samples of the last hour, oldest first.
#[derive(Default)]
pub struct Trend(Mutex<VecDeque<Sample>>);

impl Trend {
    /// Samples until `stop`.
    pub async fn run(&self, desk: &Desk, stop: &CancellationToken) {
        let mut ticks = interval(EVERY);
        // After a machine slept one sample is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (desk.clock.now(), desk.counters.frames.load(Relaxed));
        let sampling = async {
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let (now, frames) = (desk.clock.now(), desk.counters.frames.load(Relaxed));
                // By the clock and not by the tick: a busy machine is late with both.
                let seconds = now.since(before.0).max(1) as f64 / 1e6;
                let rate = frames.saturating_sub(before.1) as f64 / seconds;
                before = (now, frames);
                self.add(sample(desk, now, rate).await);
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

    /// All of them, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

async fn sample(desk: &Desk, at: Timestamp, frames: f64) -> Sample {
    let usage = view::soon(desk.log.usage()).await.ok();
    let lag = usage.map(|usage| {
        let age = desk.board.last_received().map_or(0.0, |newest| at.since(newest).max(0) as f64 / 1e6);
        wait(usage.lag(), frames, age)
    });
    Sample { at, frames, lag, missing: missing(desk), free: free_bytes(&desk.data_dir) }
}

/// Positions that open gaps miss and that did not come back yet.
pub fn missing(desk: &Desk) -> i64 {
    desk.ledger.with(|ledger| ledger.rows().map(|gap| (gap.len() - gap.filled).max(0)).sum())
}

/// How long a frame waits when so many wait, so many come a second, and the newest one that is a row is so old: what
/// waits, divided by what comes, but no longer than since the consumer was at work.
fn wait(waiting: i64, frames: f64, age: f64) -> f64 {
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

/// Seconds until the disk is full, if it goes on as in these samples; none while they are too few, or when it does not
/// fill.
pub fn full_in(samples: &[Sample]) -> Option<f64> {
    let known = |sample: &&Sample| sample.free.is_some();
    let (first, last) = (samples.iter().find(known)?, samples.iter().rev().find(known)?);
    let took = last.at.since(first.at);
    let used = first.free?.checked_sub(last.free?).filter(|used| *used > 0)?;
    (took >= FORECAST_MIN_US).then(|| last.free.unwrap_or_default() as f64 / used as f64 * took as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64, free: u64) -> Sample {
        Sample { at: Timestamp(seconds * 1_000_000), frames: 1.0, lag: Some(0.0), missing: 0, free: Some(free) }
    }

    #[test]
    fn an_hour_is_kept_and_the_oldest_goes() {
        let trend = Trend::default();
        (0..=SAMPLES_MAX as i64).for_each(|second| trend.add(sample(second, 0)));
        let samples = trend.samples();
        assert_eq!((samples.len(), samples[0].at), (SAMPLES_MAX, Timestamp(1_000_000)));
    }

    #[test]
    fn a_frame_of_a_quiet_market_that_has_just_come_is_not_late() {
        assert_eq!(wait(0, 100.0, 9.0), 0.0);
        assert_eq!(wait(1, 2.0, 30.0), 0.5, "the one before it came half a minute ago");
        assert_eq!(wait(5_000, 1_000.0, 5.2), 5.0, "the consumer stands");
        assert_eq!(wait(7, 0.0, 8.0), 8.0, "nothing comes any more");
    }

    #[test]
    fn the_disk_is_full_when_what_is_left_is_used_as_fast() {
        assert_eq!(full_in(&[sample(0, 1_000), sample(1_000, 900)]), Some(9_000.0));
        assert_eq!(full_in(&[sample(0, 1_000), sample(599, 900)]), None, "too short");
        assert_eq!(full_in(&[sample(0, 900), sample(1_000, 1_000)]), None, "it empties");
        assert_eq!(full_in(&[sample(0, 900), sample(1_000, 900)]), None, "it stays");
        assert_eq!(full_in(&[]), None);
    }
}
