//! What is missing: ranges of ids, the tracker that notices a hole, the ledger's rows and states,
//! the plan of a repair.
//!
//! Pure: no I/O, no clock, no runtime. Positions are trade ids (step 1) or kline open times in
//! microseconds (step = the interval); see [`crate::market::Channel::step`].

mod ledger;
mod range;

pub use ledger::{Evidence, Gap, GapState};
pub use range::{Range, RangeSet};
