//! What is stored of one UTC minute.

/// Rows of one stream whose exchange's time lies in one UTC minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinuteCount {
    /// Minutes since 1970.
    pub minute: i64,
    /// Stored positions.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
}
