//! Sealed days: a finished UTC day of a stream as a Parquet file, with a manifest that states what is in it, what was
//! refilled, what never existed and what is lost.
//!
//! [`Sealer`] reads a day from history twice, in bounded memory: the first pass counts it, finds the scale of each
//! column and the hash of its rows; the second writes the file. A revision is created only if it is absent and never
//! changes: first the file, then its manifest, and `current.json` last. [`verify`] recomputes everything from the files
//! alone. Where they are is behind [`Place`]. Jobs and command line use this module; it knows none of them.

mod changed;
mod count;
mod current;
mod day;
mod directory;
mod kline_check;
mod ledger_lists;
mod logical_hash;
mod manifest;
mod names;
mod pass;
mod place;
mod plan;
mod rows;
mod sealer;
mod statement;
mod stream_view;
mod verify;

pub use day::Day;
pub use directory::Directory;
pub use logical_hash::LogicalHash;
pub use manifest::{FilledBy, KlineCheck, Manifest, OlderEpoch};
pub use place::{Content, Created, IsUnfinished, Lock, Place, Spool, SpoolWriter};
pub use plan::Selection;
pub use sealer::{Event, Outcome, SealedDay, Sealer, Summary};
pub use statement::DayReader;
pub use verify::{Difference, Verified, Watch, quiet_panics, verify};

/// Rows of a row group: the file of a day reads in about a second per group, in little memory.
const GROUP_ROWS: usize = 122_880;
/// Most ranges in the lists of a manifest. A day that misses more of them is no day that anybody can use.
const RANGES_MAX: usize = 1_000_000;

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod seal_tests;
