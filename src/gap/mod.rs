//! What is missing: ranges of positions, the tracker that finds a gap, the gap's row and its states, the plan of a
//! repair.
//!
//! Pure: no I/O, no clock, no runtime. Positions are trade ids (step 1) or kline open times in
//! microseconds (step = the interval); see [`crate::market::Channel::step`].

mod doubt;
mod plan;
mod range;
mod row;
mod tracker;

pub use doubt::{Answer, Doubt};
pub use plan::{
    ABSENT_ATTEMPTS, Absence, Neighbours, Page, classify_absence, next_page, repair_order, retry_after, served_until,
};
pub use range::{Range, RangeSet};
pub use row::{Evidence, Gap, GapState};
pub use tracker::{MissingRange, Observation, Tracker};
