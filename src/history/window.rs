//! The stored rows of a stream within a window of time.

use crate::gap::Range;

/// The rows of one stream whose exchange time lies within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowCount {
    /// From the position after the last row before the window, or from the first row of the stream, to the last row
    /// within the window. So every missing range lies in exactly one of two adjoining windows.
    pub range: Range,
    /// The number of stored positions in that range, at most: where positions do not increase with time, rows outside
    /// the window may not be counted.
    pub present: i64,
}
