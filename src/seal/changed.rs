//! Whether the gap ledger changed what a sealed day states. Pure.

use crate::gap::{Gap, GapState, Range};
use crate::market::{Channel, Timestamp};

use super::{Day, Manifest};

/// A row of the ledger that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The numbering of its positions.
    pub epoch: i64,
    /// Its positions.
    pub range: Range,
    /// When it changed last, by our clock.
    pub at: Timestamp,
}

impl Change {
    /// The last change of a gap; `None` for one that other rows replaced: these changed then.
    pub fn of(gap: &Gap) -> Option<Self> {
        let times = [Some(gap.detected_at), gap.closed_at, gap.filled_at];
        let at = times.into_iter().flatten().max()?;
        (gap.state != GapState::Superseded).then_some(Self { epoch: gap.epoch, range: gap.range, at })
    }
}

/// What a sealed day covers, and when its rows were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRange {
    /// The numbering of its counts.
    pub epoch: i64,
    /// The positions that its rows and lists cover, with a neighbour on each side; `None` for an empty statement.
    pub range: Option<Range>,
    /// When its rows were read.
    pub sealed_at: Timestamp,
    /// A row after the day settles it.
    pub open_end: bool,
}

impl SealedRange {
    /// Of a manifest.
    pub fn of(manifest: &Manifest, channel: Channel, day: Day) -> Option<Self> {
        let step = channel.step()?;
        let lists = [&manifest.never_existed, &manifest.unconfirmed, &manifest.missing];
        let positions = lists.into_iter().flatten().flat_map(|(first, last)| [*first, *last]);
        let positions = positions.chain(manifest.unrecoverable.iter().flat_map(|(first, last, _)| [*first, *last]));
        let positions: Vec<i64> = positions.chain(manifest.first).chain(manifest.last).collect();
        let covered = positions.iter().min().zip(positions.iter().max());
        let range = match channel {
            Channel::Kline(_) => Range::new(day.start().micros(), day.end().micros() - step),
            _ => covered.and_then(|(first, last)| Range::new(first.saturating_sub(step), last.saturating_add(step))),
        };
        let sealed_at = Timestamp::parse(&manifest.sealed_at)?;
        Some(Self { epoch: manifest.epoch, range, sealed_at, open_end: manifest.open_end })
    }

    /// Whether one of these changes may have changed what the day states.
    pub fn is_changed(&self, changes: &[Change]) -> bool {
        let of_day = |change: &Change| {
            change.epoch == self.epoch && self.range.is_some_and(|range| change.range.intersect(range).is_some())
        };
        self.open_end || changes.iter().any(|change| change.at >= self.sealed_at && of_day(change))
    }
}
