//! Compares cache with history and history with the exchange's numbering, recounts and repairs.
//!
//! It uses no tolerance and never moves a value back. Jobs, API and command line use this module. It knows none of
//! them.

mod consistency;
mod coverage;
mod latest_row;
mod missing;
mod preload;
mod proof;
mod repair;
mod sweep;
mod verify;
mod verify_by_time;
mod window;

pub use consistency::{ConsistencyReport, Issue, IssueKind, check};
pub use coverage::{Coverage, CoverageState, Day, coverage};
pub use latest_row::{LatestKline, LatestRow, LatestTick};
pub use missing::{MissingPositions, missing_positions, never_existed};
pub use preload::{PreloadReport, preload};
pub use proof::{NEIGHBOURS_MIN, is_proven};
pub use repair::{RepairReport, repair};
pub use sweep::{SweepReport, SweepScope, sweep};
pub use verify::{Difference, VerifyReport, verify_klines};
pub use window::first_position_at;

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
