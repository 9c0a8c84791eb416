//! The ways of gap rows to a history that fails.

use super::*;
use crate::backfill::run_repairs;
use crate::backfill::tests::{Harness, complete_exchange, stream};
use crate::cache::PendingUpdates;
use crate::faults::{Fault, Faults};
use crate::gap::GapState;
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::GapFilter;
use crate::history::faulty::FaultyHistory;
use crate::ledger::Ledger;
use crate::market::Timestamp;

/// Backfill with a history that fails as the faults say.
async fn faulty() -> (Harness, Deps, Faults) {
    let harness = Harness::new(complete_exchange()).await;
    let faults = Faults::none();
    let history = Arc::new(FaultyHistory::new(harness.deps.history().clone(), faults.clone()));
    let writer = Writer::new(history, Arc::new(PendingUpdates::default()), Health::default());
    let deps = Deps { writer, ..harness.deps.clone() };
    (harness, deps, faults)
}

fn evidence(by: &str) -> Evidence {
    Evidence { by: by.to_owned(), ..Evidence::default() }
}

/// The ranges and states in history, ascending.
async fn stored(deps: &Deps) -> Vec<(i64, i64, GapState)> {
    let rows = deps.history().gaps(&GapFilter::default()).await.unwrap();
    let mut rows: Vec<_> = rows.iter().map(|gap| (gap.range.first, gap.range.last, gap.state)).collect();
    rows.sort_by_key(|row| (row.0, row.1));
    rows
}

#[tokio::test]
async fn gaps_that_history_could_not_supersede_stay_open_and_the_next_attempt_closes_them() {
    let (_harness, deps, faults) = faulty().await;
    deps.open(&stream(), Range { first: 1, last: 3 }, &evidence("manual")).await.unwrap();
    faults.script([Fault::Fail]);
    deps.supersede(|_| false, "feed removed").await.unwrap_err();
    assert_eq!(deps.ledger.with(|ledger| ledger.open_count()), (1, 3));
    assert_eq!(deps.supersede(|_| false, "feed removed").await.unwrap(), 1);
    assert_eq!(deps.ledger.with(|ledger| ledger.open_count()), (0, 0));
    assert_eq!(stored(&deps).await, [(1, 3, GapState::Superseded)]);
}

#[tokio::test]
async fn a_gap_that_history_did_not_accept_is_durable_when_the_next_call_for_its_range_succeeds() {
    let (_harness, deps, faults) = faulty().await;
    let range = Range { first: 10, last: 20 };
    deps.open(&stream(), range, &evidence("sweep")).await.unwrap();
    for fault in [Fault::Fail, Fault::LoseAnswer, Fault::Tear] {
        faults.script([fault]);
        // Merges with the stored row: both rows must become durable.
        let wider = Range { first: 10, last: deps.ledger.with(|ledger| ledger.open_count().1) + 10 };
        deps.open(&stream(), wider, &evidence("sweep")).await.unwrap_err();
        assert!(deps.ledger.with(|ledger| ledger.unstored_count()) > 0);
        // Memory knows the range, so nothing opens. A caller that gets no error relies on a durable row.
        assert!(deps.open(&stream(), wider, &evidence("sweep")).await.unwrap().is_empty());
        assert_eq!(deps.ledger.with(|ledger| ledger.unstored_count()), 0);
        let open: Vec<_> = stored(&deps).await.into_iter().filter(|row| row.2 == GapState::Open).collect();
        assert_eq!(open, [(wider.first, wider.last, GapState::Open)], "{fault:?}");
    }
}

#[tokio::test]
async fn the_repair_loop_stores_a_gap_that_its_finder_could_not_store_or_did_not_wait_for() {
    let (harness, deps, faults) = faulty().await;
    faults.set_outage(true);
    deps.open(&stream(), Range { first: 10, last: 20 }, &evidence("sweep")).await.unwrap_err();
    faults.set_outage(false);
    faults.script([Fault::Delay(Duration::from_secs(3_600)), Fault::Fail, Fault::Fail]);
    let (stream, sweep) = (stream(), evidence("sweep"));
    let mut waiting = Box::pin(deps.open(&stream, Range { first: 40, last: 50 }, &sweep));
    while deps.ledger.with(|ledger| ledger.open_count().0) < 2 {
        tokio::select! {
            biased;
            opened = &mut waiting => panic!("{opened:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(waiting);
    // A row must become durable also when no repair changes it.
    let never = |_: Deps, _: Gap, _: tokio_util::sync::CancellationToken| std::future::pending::<Duration>();
    let heartbeat = Heartbeats::default().watch("backfill");
    let running = tokio::spawn(run_repairs(deps.clone(), heartbeat, harness.stop.clone(), never));
    let all_stored = async {
        while deps.ledger.with(|ledger| ledger.unstored_count()) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_stored).await.expect("both rows are stored");
    harness.stop.cancel();
    running.await.unwrap();
    assert_eq!(stored(&deps).await, [(10, 20, GapState::Open), (40, 50, GapState::Open)]);
}

#[tokio::test]
async fn rows_that_live_frames_reveal_take_an_unstored_row_of_their_range_with_them() {
    let (_harness, deps, faults) = faulty().await;
    faults.script([Fault::Fail]);
    deps.open(&stream(), Range { first: 10, last: 20 }, &evidence("sweep")).await.unwrap_err();
    let found = Gap::open(stream(), Range { first: 12, last: 14 }, evidence("neighbour"), Timestamp(1));
    let rows = deps.ledger.open_with_rows(&found);
    assert_eq!(rows.iter().map(|row| row.range).collect::<Vec<_>>(), [Range { first: 10, last: 20 }]);
    deps.ledger.batch_stored(&rows);
    assert_eq!(deps.ledger.with(|ledger| ledger.unstored_count()), 0);
}

#[tokio::test]
async fn an_appeal_that_history_did_not_accept_is_stored_whole_by_the_next_one() {
    let (_harness, deps, faults) = faulty().await;
    let mut gap = deps.open(&stream(), Range { first: 10, last: 20 }, &evidence("sweep")).await.unwrap().remove(0);
    gap.advance(GapState::NeverExisted, "no such trades", Timestamp(9));
    deps.record(&gap, &[]).await.unwrap();
    let part = Range { first: 12, last: 14 };
    faults.script([Fault::Fail]);
    deps.open(&stream(), part, &evidence("manual")).await.unwrap_err();
    assert!(deps.open(&stream(), part, &evidence("manual")).await.unwrap().is_empty());
    let expected = [
        (10, 11, GapState::NeverExisted),
        (10, 20, GapState::Superseded),
        (12, 14, GapState::Open),
        (15, 20, GapState::NeverExisted),
    ];
    assert_eq!(stored(&deps).await, expected);
}

#[tokio::test]
async fn verdicts_beyond_the_bound_of_memory_are_looked_up_in_history() {
    let (_harness, deps, _) = faulty().await;
    let verdict = |id: i64| {
        let mut gap = Gap::open(stream(), Range { first: id, last: id }, evidence("sweep"), Timestamp(id));
        gap.advance(GapState::NeverExisted, "no such trade", Timestamp(id));
        gap
    };
    let verdicts: Vec<Gap> = (0..10_000).map(|n| verdict(2 * n + 1)).collect();
    deps.history().insert_gaps(&verdicts, "verdicts").await.unwrap();
    deps.ledger.with(|ledger| ledger.load(verdicts));
    let whole = Range { first: 1, last: 20_000 };
    assert!(deps.ledger.with(|ledger| ledger.forgotten(&stream(), whole)).is_some(), "the test exceeds the bound");
    for id in [1, 3, 9_999, 19_999] {
        let range = Range { first: id, last: id };
        assert!(deps.open(&stream(), range, &evidence("sweep")).await.unwrap().is_empty(), "{id}");
        assert!(deps.ledger.is_settled(&**deps.history(), &stream(), id).await.unwrap(), "{id}");
        assert!(!deps.ledger.is_settled(&**deps.history(), &stream(), id + 1).await.unwrap(), "{id}");
    }
    let opened = deps.open(&stream(), Range { first: 1, last: 4 }, &evidence("sweep")).await.unwrap();
    assert_eq!(opened.iter().map(|gap| (gap.range.first, gap.range.last)).collect::<Vec<_>>(), [(2, 2), (4, 4)]);
    let opened = deps.open(&stream(), Range { first: 7, last: 7 }, &evidence("manual")).await.unwrap();
    assert_eq!(opened.len(), 1, "an appeal asks again also for what memory has forgotten");
    // Another numbering has settled nothing.
    let mut other = Ledger::default();
    other.set_epochs([(stream(), 1)]);
    deps.ledger.with(|ledger| *ledger = other);
    assert!(!deps.ledger.is_settled(&**deps.history(), &stream(), 1).await.unwrap());
}
