//! Opening, merging, claiming and closing gaps.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::gap::Evidence;

fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

fn found(first: i64, last: i64, by: &str) -> Gap {
    let evidence = Evidence { by: by.to_owned(), ..Evidence::default() };
    Gap::open(stream(), Range { first, last }, evidence, Timestamp(1))
}

fn open(ledger: &mut Ledger, first: i64, last: i64) -> Vec<(i64, i64)> {
    let opened = ledger.open(&found(first, last, "neighbour"), &[]);
    opened.rows.iter().map(|gap| (gap.range.first, gap.range.last)).collect()
}

#[test]
fn only_unknown_positions_open_a_row_and_adjacent_rows_are_merged() {
    let mut ledger = Ledger::default();
    assert_eq!(open(&mut ledger, 10, 20), [(10, 20)]);
    assert_eq!(open(&mut ledger, 10, 20), []);
    assert_eq!(open(&mut ledger, 12, 13), []);
    assert_eq!(open(&mut ledger, 30, 40), [(30, 40)]);
    let opened = ledger.open(&found(21, 29, "tail"), &[]);
    let [row] = &opened.rows[..] else { panic!("{opened:?}") };
    assert_eq!((row.range, row.attempts), (Range { first: 10, last: 40 }, 0));
    assert_eq!(opened.superseded.len(), 2);
    for gap in &opened.superseded {
        assert_eq!((gap.state, gap.closed_at), (GapState::Superseded, Some(Timestamp(1))));
        assert!(gap.reason.contains(&row.gap_id) && row.evidence.replaces.contains(&gap.gap_id));
    }
    assert_eq!(ledger.open_count(), (1, 31));
}

#[test]
fn a_requested_gap_or_one_under_repair_is_not_merged() {
    let mut ledger = Ledger::default();
    open(&mut ledger, 10, 20);
    let opened = ledger.open(&found(1, 15, "since"), &[]);
    assert_eq!((opened.rows[0].range, opened.superseded.len()), (Range { first: 1, last: 9 }, 0));
    let live = ledger.rows().find(|gap| gap.range.first == 10).unwrap().gap_id.clone();
    assert!(ledger.claim(&live) && !ledger.claim(&live), "one repair at a time");
    assert_eq!(open(&mut ledger, 18, 25), [(21, 25)]);
    ledger.unclaim(&live);
    assert_eq!(open(&mut ledger, 26, 26), [(10, 26)]);
    assert_eq!(ledger.open_count(), (2, 26));
}

#[test]
fn a_merged_row_keeps_the_outer_evidence_and_the_first_detection_time() {
    let mut ledger = Ledger::default();
    let mut low = found(10, 20, "neighbour");
    (low.evidence.previous, low.evidence.next, low.from_ts) = (Some(9), Some(21), Some(Timestamp(5)));
    ledger.open(&low, &[]);
    let mut high = found(21, 30, "tail");
    (high.evidence.previous, high.evidence.next, high.to_ts) = (Some(20), Some(31), Some(Timestamp(6)));
    high.detected_at = Timestamp(9);
    let row = ledger.open(&high, &[]).rows.remove(0);
    assert_eq!((row.evidence.previous, row.evidence.next), (Some(9), Some(31)));
    assert_eq!((row.from_ts, row.to_ts, row.detected_at), (Some(Timestamp(5)), Some(Timestamp(6)), Timestamp(1)));
}

proptest! {
    #[test]
    fn open_rows_are_what_is_missing_and_never_overlap(
        findings in prop::collection::vec((0_i64..60, 0_i64..12, 0_usize..3, 0_usize..4), 1..40),
    ) {
        let mut ledger = Ledger::default();
        let (mut model, mut settled) = (BTreeSet::new(), BTreeSet::new());
        for (first, len, by, then) in findings {
            let by = ["neighbour", "tail", "since"][by];
            let opened = ledger.open(&found(first, first + len, by), &[]);
            model.extend((first..=first + len).filter(|id| !settled.contains(id)));
            if let Some(mut gap) = opened.rows.into_iter().next() {
                let ids = gap.range.first..=gap.range.last;
                match then {
                    0 => assert!(ledger.claim(&gap.gap_id)),
                    1 => {
                        gap.advance(GapState::Filled, "", Timestamp(2));
                        model.retain(|id| !ids.contains(id));
                    }
                    2 => {
                        gap.advance(GapState::NeverExisted, "", Timestamp(2));
                        model.retain(|id| !ids.contains(id));
                        settled.extend(ids);
                    }
                    _ => ledger.unclaim_all(),
                }
                ledger.update(&gap);
            }
            let rows: Vec<i64> = ledger.rows().flat_map(|gap| gap.range.first..=gap.range.last).collect();
            let ids: BTreeSet<i64> = rows.iter().copied().collect();
            prop_assert_eq!(rows.len(), ids.len(), "rows overlap");
            prop_assert_eq!(&ids, &model);
        }
    }
}

#[test]
fn a_filled_range_can_open_again_but_a_settled_one_cannot() {
    let mut ledger = Ledger::default();
    for (state, again) in [(GapState::Filled, vec![(1, 3)]), (GapState::NeverExisted, vec![])] {
        let mut gap = ledger.open(&found(1, 3, "neighbour"), &[]).rows.pop().unwrap();
        assert!(gap.advance(state, "", Timestamp(2)));
        ledger.update(&gap);
        assert_eq!(ledger.open_count().0, 0);
        assert_eq!(open(&mut ledger, 1, 3), again);
        let rows: Vec<Gap> = ledger.rows().cloned().collect();
        for mut gap in rows {
            gap.advance(GapState::Filled, "", Timestamp(3));
            ledger.update(&gap);
        }
    }
    assert_eq!(
        ledger.totals(),
        Totals { found: 3, filled: 2, closed_otherwise: 1, never_existed: 1, ..Totals::default() }
    );
    assert_eq!(ledger.repair_times().count(), 2);
}

#[test]
fn removing_a_feed_supersedes_its_gaps() {
    let mut ledger = Ledger::default();
    open(&mut ledger, 1, 3);
    let changed = ledger.supersede(|_| false, "feed removed", Timestamp(5));
    assert_eq!(changed.len(), 1);
    assert_eq!((changed[0].state, changed[0].closed_at), (GapState::Superseded, Some(Timestamp(5))));
    assert_eq!(ledger.open_count(), (1, 3), "until the rows are durable");
    ledger.update(&changed[0]);
    assert_eq!(ledger.open_count(), (0, 0));
}

#[test]
fn a_numbering_that_begins_supersedes_the_gaps_of_the_ended_one_and_forgets_its_verdicts() {
    let mut ledger = Ledger::default();
    let mut settled = ledger.open(&found(10, 20, "neighbour"), &[]).rows.pop().unwrap();
    settled.advance(GapState::NeverExisted, "", Timestamp(2));
    ledger.update(&settled);
    open(&mut ledger, 30, 40);
    let ended = ledger.begin_epoch(&stream(), 1, Timestamp(5));
    assert_eq!((ended.len(), ended[0].state, ledger.open_count().0), (1, GapState::Superseded, 0));
    let again = ledger.open(&found(10, 20, "neighbour"), &[]).rows.pop().unwrap();
    assert_eq!((again.range, again.epoch), (Range { first: 10, last: 20 }, 1), "another numbering, another verdict");
    // The same after a restart.
    let mut restored = Ledger::default();
    restored.set_epochs([(stream(), 1)]);
    restored.load([settled]);
    assert!(restored.would_open(&found(10, 20, "neighbour")));
}
