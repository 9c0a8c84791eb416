//! Compares, recounts and repairs: cache against history, history against the exchange's numbering.
//!
//! It decides nothing by tolerance and rolls nothing back. Jobs, API and command line all come here.

mod absent;
mod consistency;
mod coverage;
mod preload;
mod repair;
mod seen;
mod sweep;
mod verify;
mod window;

pub use absent::{Absent, absent, never_existed};
pub use consistency::{ConsistencyReport, Issue, Kind, check};
pub use coverage::{Coverage, CoverageState, Day, coverage};
pub use preload::{PreloadReport, preload};
pub use repair::{RepairReport, repair};
pub use seen::{KlineSeen, Seen, TickSeen};
pub use sweep::{SweepReport, sweep};
pub use verify::{Difference, VerifyReport, verify_klines};
pub use window::after;

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
