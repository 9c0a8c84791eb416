//! The one place that reads the wall clock; also the monotonic clock for waits, which no jump of the wall clock
//! changes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::market::Timestamp;

/// Reads the time; cheap to clone.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        let now = || {
            #[expect(clippy::disallowed_methods, reason = "only this module reads the wall clock")]
            let now = SystemTime::now();
            // A clock before 1970 means a machine without a clock battery: its rows carry the time 0.
            Timestamp(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64))
        };
        let began = Instant::now();
        Self { now: Arc::new(now), monotonic: Arc::new(move || began.elapsed()) }
    }

    /// Any other wall clock, for tests and simulations. The monotonic clock follows it, and stands still while it runs
    /// backwards.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let now = Arc::new(now);
        let began = now();
        let same = now.clone();
        let monotonic = move || Duration::from_micros(u64::try_from(same().since(began)).unwrap_or(0));
        Self { now, monotonic: Arc::new(monotonic) }
    }

    /// Any two clocks, for tests of a wall clock that jumps.
    pub fn from_fns(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        monotonic: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), monotonic: Arc::new(monotonic) }
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// The time since some fixed instant, by the monotonic clock. Deadlines use it.
    pub fn monotonic(&self) -> Duration {
        (self.monotonic)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
