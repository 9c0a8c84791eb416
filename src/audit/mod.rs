//! Compares, recounts and repairs: cache against history, history against the exchange's numbering.
//!
//! It decides nothing by tolerance and rolls nothing back. Jobs, API and command line all come here.

mod consistency;
mod coverage;
mod latest_row;
mod missing;
mod preload;
mod repair;
mod sweep;
mod verify;
mod window;

pub use consistency::{ConsistencyReport, Issue, IssueKind, check};
pub use coverage::{Coverage, CoverageState, Day, coverage};
pub use latest_row::{LatestKline, LatestRow, LatestTick};
pub use missing::{MissingPositions, missing_positions, never_existed};
pub use preload::{PreloadReport, preload};
pub use repair::{RepairReport, repair};
pub use sweep::{SweepReport, sweep};
pub use verify::{Difference, VerifyReport, verify_klines};
pub use window::first_position_at;

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
