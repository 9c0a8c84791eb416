//! Compares a manifest's lists of ranges with the positions that its file lacks: every one of them is in exactly one
//! list.

use std::path::Path;

use super::super::{Manifest, names};
use super::Verified;
use super::file::{POSITION_MAX, Totals};
use crate::gap::Range;
use crate::market::Channel;

/// Most differences named of each list.
const NAMED_MAX: usize = 5;

/// Adds every difference between the lists and the file.
pub fn compare(path: &Path, manifest: &Manifest, totals: &Totals, verified: &mut Verified) {
    let Some(channel) = names::channel(&manifest.channel) else { return };
    let step = channel.step().unwrap_or(1);
    let file = totals.epochs.last().and_then(|epoch| Range::new(epoch.first, epoch.last));
    let mut absent = totals.absent.clone();
    let unrecoverable: Vec<(i64, i64)> =
        manifest.unrecoverable.iter().map(|(first, last, _)| (*first, *last)).collect();
    let all = [
        ("never_existed", &manifest.never_existed),
        ("unconfirmed", &manifest.unconfirmed),
        ("unrecoverable", &unrecoverable),
        ("missing", &manifest.missing),
        ("other_day", &manifest.other_day),
    ];
    for (field, list) in all {
        let mut before = None;
        for (first, last) in list.iter().copied() {
            let is_range = first <= last && -POSITION_MAX <= first && last <= POSITION_MAX;
            if !is_range || before.is_some_and(|before| first <= before) {
                verified.differ(path, field, format!("{first}..{last} is no range, or not in order"));
                break;
            }
            before = Some(last);
            // What is next to midnight lies outside of the file's positions.
            let Some(inner) = file.and_then(|file| file.intersect(Range { first, last })) else { continue };
            if !absent.covers(inner) || (inner.first - first) % step != 0 {
                let span = channel.span(first, last);
                verified.differ(
                    path,
                    field,
                    format!("{span} is listed, but the file has a row of it, or another list has it"),
                );
                break;
            }
            absent.remove(inner);
        }
    }
    let unlisted: Vec<String> = absent.iter().take(NAMED_MAX).map(|range| span(channel, range)).collect();
    if !unlisted.is_empty() {
        let words = format!("the file has no row of {}, and no list has it", unlisted.join(", "));
        verified.differ(path, "missing", words);
    }
}

fn span(channel: Channel, range: Range) -> String {
    channel.span(range.first, range.last)
}
