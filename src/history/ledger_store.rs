//! The part of history that says what is missing and what is in doubt: gaps, epochs, conflicts.

use async_trait::async_trait;

use super::{ConflictRow, EpochRow, GapFilter, HistoryError};
use crate::gap::Gap;

/// Gaps, epochs and conflicts. [`crate::ledger`] is the only caller that writes gaps on their own.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// Stores gaps alone; they are durable when this returns `Ok` (promise 1). A store keeps the highest version of each,
    /// so the caller repeats it in any order. Gaps that live rows reveal go with these rows: [`super::RowStore::insert`].
    async fn insert_gaps(&self, gaps: &[Gap], token: &str) -> Result<(), HistoryError>;

    /// The gaps that `filter` selects, newest first by detection.
    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError>;

    /// Every numbering of every symbol that began after another one, ascending by epoch within a symbol.
    async fn epochs(&self) -> Result<Vec<EpochRow>, HistoryError>;

    /// The conflicts that are not decided yet, or all, newest first, at most `limit`.
    async fn conflicts(&self, pending_only: bool, limit: usize) -> Result<Vec<ConflictRow>, HistoryError>;
}
