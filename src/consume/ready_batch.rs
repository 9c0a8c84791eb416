//! What the reorder buffer hands over to become durable.

use crate::cache::Update;
use crate::log::Offsets;
use crate::market::Stream;
use crate::progress::StreamProgress;
use crate::writer::Rows;

use super::known_rows::RepeatedRows;
use super::stream_state::DetectedGap;

/// A batch that is ready to become durable.
#[derive(Debug, Default)]
pub struct ReadyBatch {
    /// Rows and dead letters. The worker adds the ledger's rows.
    pub rows: Rows,
    /// Latest values that history does not store.
    pub update: Update,
    /// Gaps for the ledger.
    pub detected: Vec<DetectedGap>,
    /// Offsets that may be committed once the batch is durable.
    pub positions: Offsets,
    /// Progress of the streams that changed.
    pub progress: Vec<(Stream, StreamProgress)>,
    /// Streams of which a frame became a dead letter because it cannot be believed, and why.
    pub rejected: Vec<(Stream, String)>,
    /// Rows of positions that are stored already, perhaps with another content.
    pub repeated: RepeatedRows,
}
