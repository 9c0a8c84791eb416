//! The number of stored rows of one UTC minute.

/// The rows of one stream whose exchange time lies in one UTC minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinuteCount {
    /// The minute, in minutes since 1970 UTC.
    pub minute: i64,
    /// The number of stored positions.
    pub present: i64,
    /// The number of those that came over REST.
    pub backfilled: i64,
}
