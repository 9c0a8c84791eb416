//! Selects gaps, and reads them page by page: a ledger of years does not fit into memory.

use super::{HistoryError, LedgerStore};
use crate::gap::{Gap, GapState, Range};
use crate::market::{Stream, Symbol, Timestamp};

/// Gaps per page.
const PAGE: usize = 1_000;

/// Selects gaps.
#[derive(Clone, Debug, Default)]
pub struct GapFilter {
    /// Only open gaps.
    pub open_only: bool,
    /// Only gaps of each symbol's newest epoch, or of the one that [`super::History::at_epoch`] asks for.
    pub of_read_epoch: bool,
    /// Only gaps of this symbol.
    pub symbol: Option<Symbol>,
    /// Only gaps of this stream.
    pub stream: Option<Stream>,
    /// Only gaps that overlap this range.
    pub range: Option<Range>,
    /// Only gaps in one of these states; of any state when it is empty.
    pub states: Vec<GapState>,
    /// Only gaps that are listed after this one: its detection time and id.
    pub after: Option<(Timestamp, String)>,
    /// The largest number of gaps; 0 means all.
    pub limit: usize,
}

impl GapFilter {
    /// The gaps that say what is missing: those that are not closed, and those that closed without their rows. Most rows
    /// of a ledger are neither. Of trades the epoch that is read.
    pub fn unfilled() -> Self {
        let is_unfilled = |state: &GapState| !state.is_closed() || state.is_verdict();
        Self { states: GapState::ALL.into_iter().filter(is_unfilled).collect(), of_read_epoch: true, ..Self::default() }
    }

    /// The gaps that closed without their rows. Of trades the epoch that is read.
    pub fn verdicts() -> Self {
        Self {
            states: GapState::ALL.into_iter().filter(|state| state.is_verdict()).collect(),
            of_read_epoch: true,
            ..Self::default()
        }
    }
}

/// The pages of the gaps that a filter selects, newest first.
#[derive(Debug)]
pub struct GapPages {
    filter: GapFilter,
    is_at_end: bool,
}

impl GapPages {
    /// The pages of what `filter` selects; its limit does not apply.
    pub fn new(filter: GapFilter) -> Self {
        Self { filter: GapFilter { limit: PAGE, ..filter }, is_at_end: false }
    }

    /// The next page; `None` after the last one.
    pub async fn next(&mut self, history: &dyn LedgerStore) -> Result<Option<Vec<Gap>>, HistoryError> {
        if self.is_at_end {
            return Ok(None);
        }
        let page = history.gaps(&self.filter).await?;
        self.is_at_end = page.len() < PAGE;
        if let Some(last) = page.last() {
            self.filter.after = Some((last.detected_at, last.gap_id.clone()));
        }
        Ok((!page.is_empty()).then_some(page))
    }
}

/// Passes every gap that `filter` selects to `visit`, newest first, and holds one page of them in memory.
pub async fn each_gap(
    history: &dyn LedgerStore,
    filter: GapFilter,
    mut visit: impl FnMut(Gap),
) -> Result<(), HistoryError> {
    let mut pages = GapPages::new(filter);
    while let Some(page) = pages.next(history).await? {
        page.into_iter().for_each(&mut visit);
    }
    Ok(())
}
