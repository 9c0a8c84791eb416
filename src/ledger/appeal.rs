//! Replaces closed rows whose positions are asked for again.

use crate::gap::{Gap, GapState, RangeSet};
use crate::market::Timestamp;

/// Supersedes the parts of closed rows that `opened` asks for again. The other parts keep their state in rows of their
/// own.
pub(super) fn appeal(verdicts: &[Gap], opened: &[Gap], now: Timestamp) -> Vec<Gap> {
    let mut changed = Vec::new();
    for verdict in verdicts {
        let step = verdict.stream.channel.step().unwrap_or(1);
        let mut kept = RangeSet::new(step);
        kept.insert(verdict.range);
        let asking: Vec<&Gap> = opened.iter().filter(|gap| kept.remove(gap.range)).collect();
        let Some(first) = asking.first() else { continue };
        changed.extend(kept.iter().map(|range| verdict.closed_part(range, verdict.state, &verdict.reason, now)));
        let mut verdict = verdict.clone();
        verdict.advance(
            GapState::Superseded,
            &format!("asked again by {}; it was {}", first.gap_id, verdict.state),
            now,
        );
        changed.push(verdict);
    }
    changed
}
