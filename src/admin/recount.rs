//! Coverage for the status page: counted in history, but not for every look at the page.
//!
//! A count reads every key of a stream. Ten open pages that ask each few seconds would read history all day;
//! so one count serves all who look, and counting takes at most a twentieth of the time, however large history is.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::{self, Coverage};
use crate::history::History;
use crate::market::Stream;

/// A count is not repeated sooner, however fast it is.
const AGE_MIN: Duration = Duration::from_secs(2);
/// A count that took this long is shown for twenty times as long.
const REST: u32 = 20;
/// How long a page waits for a count before it is shown without a new one.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The last count, shared by all who look.
#[derive(Default)]
pub struct Recount {
    /// Held while counting, so that there is one count at a time.
    turn: tokio::sync::Mutex<Option<Attempt>>,
    counted: std::sync::Mutex<Counted>,
}

/// What the page shows.
#[derive(Clone, Default)]
pub struct Counted {
    /// By stream; empty before the first count.
    pub coverage: Arc<Vec<Coverage>>,
    /// Why there is no newer one.
    pub problem: Option<String>,
}

struct Attempt {
    streams: Vec<Stream>,
    ended: Instant,
    took: Duration,
}

impl Recount {
    /// Coverage of these streams, at most a little old.
    pub async fn coverage(&self, history: &Arc<dyn History>, streams: Vec<Stream>) -> Counted {
        let Ok(mut last) = self.turn.try_lock() else { return self.counted() };
        if last.as_ref().is_some_and(|last| last.is_fresh(&streams)) {
            return self.counted();
        }
        let begun = Instant::now();
        let coverage = tokio::time::timeout(WAIT_MAX, audit::coverage(history, &streams)).await;
        *last = Some(Attempt { streams, ended: Instant::now(), took: begun.elapsed() });
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match coverage {
            Ok(Ok(coverage)) => *counted = Counted { coverage: Arc::new(coverage), problem: None },
            Ok(Err(error)) => counted.problem = Some(format!("history cannot be counted: {error:#}")),
            Err(_elapsed) => {
                counted.problem = Some(format!("counting history takes longer than {} s", WAIT_MAX.as_secs()));
            }
        }
        counted.clone()
    }

    fn counted(&self) -> Counted {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Attempt {
    fn is_fresh(&self, streams: &[Stream]) -> bool {
        self.streams == streams && self.ended.elapsed() < (self.took * REST).max(AGE_MIN)
    }
}
