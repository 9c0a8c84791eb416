//! The facts that the page shows, and their limits. The renderer reads them once for a rendering; each part of the page only formats them.

use serde_json::Value;

use crate::admin::BEAT_MAX;
use crate::admin::background_count::CountSnapshot;
use crate::admin::status_model::StreamView;
use crate::audit::Coverage;
use crate::gap::Gap;
use crate::history::{DeadLetter, JobRun};
use crate::jobs::JobStatus;
use crate::market::{Stream, Timestamp};

use super::super::time_series::Sample;
use super::coverage_cells::TodayCounts;

/// Ledger rows read of each kind, open and newest; the API returns all of them.
pub const GAPS_MAX: usize = 30;
/// Streams whose coverage the page draws; the API returns all of them.
pub const STREAMS_MAX: usize = 40;
/// Runs that the lanes of the jobs are drawn from.
pub const RUNS_MAX: usize = 1_000;

/// Everything that the page shows, at one time.
pub struct Facts {
    /// When it was read.
    pub now: Timestamp,
    /// The status document.
    pub status: Value,
    /// Every stream.
    pub streams: Vec<StreamView>,
    /// Streams of the coverage calendar.
    pub calendar_streams: Vec<Stream>,
    /// Their coverage, for the days of the calendar.
    pub coverage: CountSnapshot<Vec<Coverage>>,
    /// Their minutes of today.
    pub today: CountSnapshot<TodayCounts>,
    /// Open gaps, or why they cannot be read.
    pub open: Result<Vec<Gap>, String>,
    /// The newest gaps, open or closed.
    pub newest: Result<Vec<Gap>, String>,
    /// The newest dead letter, if there is one and history can be read.
    pub letter: Option<DeadLetter>,
    /// The jobs.
    pub jobs: Result<Vec<JobStatus>, String>,
    /// Their newest runs.
    pub runs: Result<Vec<JobRun>, String>,
    /// Positions that are still missing in open gaps.
    pub missing: i64,
    /// Samples of the last hour.
    pub samples: Vec<Sample>,
    /// Free bytes on the disk of the stores.
    pub free: Option<u64>,
    /// Descriptions of the stores: log, history, cache.
    pub backends: [String; 3],
    /// Whether the page offers buttons: without an admin token, only a loopback listener does.
    pub may_change: bool,
}

impl Facts {
    /// The loop that makes no progress, if there is one.
    pub fn stuck_loop(&self) -> Option<&str> {
        self.status["wedged"].as_str()
    }

    /// A loop without a heartbeat for this long is stuck, seconds.
    pub fn beat_max_s(&self) -> u64 {
        BEAT_MAX.as_secs()
    }
}
