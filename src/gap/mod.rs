//! What is missing: ranges of ids, the tracker that notices a hole, the ledger's rows and states,
//! the plan of a repair.
//!
//! Pure: no I/O, no clock, no runtime. Positions are trade ids (step 1) or kline open times in
//! microseconds (step = the interval); see [`crate::market::Channel::step`].

mod ledger;
mod plan;
mod range;
mod row;
mod tracker;

pub use ledger::{Ledger, Opened, Totals};
pub use plan::{ABSENT_ATTEMPTS, Absence, Around, Page, absence, next_page, repair_order, retry_at, served_until};
pub use range::{Range, RangeSet};
pub use row::{Evidence, Gap, GapState};
pub use tracker::{Hole, Observation, Tracker};
