//! What other modules tell the reorder buffer: the last stored positions, what must arrive, and which grace ends.

use crate::log::Partition;
use crate::market::{Stream, Timestamp};

/// Positions that the exchange has and that must arrive.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The stream.
    pub stream: Stream,
    /// The exchange has every position up to this one.
    pub last: i64,
    /// The source of that knowledge: `tail`, `silence` or `kline`.
    pub by: &'static str,
}

/// The last stored position of a stream, and its exchange time when known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The position.
    pub position: i64,
    /// Its time.
    pub ts: Option<Timestamp>,
}

/// Which held items lose their grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force<'a> {
    /// None: each grace period runs.
    None,
    /// Those of these partitions, which another recorder consumes from now on.
    Partitions(&'a [Partition]),
    /// All, at a stop.
    All,
}
