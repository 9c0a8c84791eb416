//! What other modules tell the reorder buffer: the last stored positions, what must arrive, and which grace ends.

use crate::log::Partition;
use crate::market::{Stream, Timestamp, Trade};

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

/// Trades that do not fit their stream: the exchange must say what they are.
#[derive(Clone, Debug)]
pub struct DoubtfulTrades {
    /// The stream.
    pub stream: Stream,
    /// The oldest and the newest of them; empty when only the exchange's newest id is wanted.
    pub trades: Vec<Trade>,
}

/// What the exchange's REST says about a stream's numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// It continues, and the trades in doubt that REST's newest id does not explain are not trades.
    Continues {
        /// The newest id that REST serves.
        newest: i64,
    },
    /// It continues, and REST serves the trades in doubt as they arrived.
    Confirmed {
        /// The newest id that REST serves.
        newest: i64,
    },
    /// Its last ids came once more for other trades, and REST serves those.
    RolledBack {
        /// The newest id that REST serves.
        newest: i64,
    },
    /// It began again.
    Restarted {
        /// The first trade known of the new numbering.
        first: Trade,
        /// The newest id that REST serves.
        newest: i64,
        /// How REST showed it.
        reason: String,
    },
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
