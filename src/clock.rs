//! The one place that reads the wall clock.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::market::Timestamp;

/// Reads the time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| {
            #[expect(clippy::disallowed_methods, reason = "only this module reads the wall clock")]
            let now = SystemTime::now();
            // A clock before 1970 means a machine without a clock battery: its rows carry the time 0.
            Timestamp(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64))
        }))
    }

    /// Any other source, for tests and simulations.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
