//! A repair that panics, beside repairs that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tests::{Harness, complete_exchange, stream};
use super::{Deps, repair, run_repairs};
use crate::gap::{Evidence, Gap, GapState, Range};
use crate::heartbeat::Heartbeats;
use crate::history::GapFilter;
use crate::market::Stream;

#[tokio::test]
async fn only_the_gap_whose_repair_panics_waits_and_its_row_says_why() {
    let harness = Harness::new(complete_exchange()).await;
    let (deps, stop) = (harness.deps.clone(), harness.stop.clone());
    let evidence = Evidence { by: "manual".to_owned(), ..Evidence::default() };
    let unlucky: Stream = "binance:ETHUSDT:trade".parse().unwrap();
    let bad = deps.open(&unlucky, Range { first: 1, last: 2 }, &evidence).await.unwrap().remove(0);
    let (attempts, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, counted_others) = (attempts.clone(), others.clone());
    let repair = move |deps: Deps, gap: Gap, stop: CancellationToken| {
        let (counted, counted_others, unlucky) = (counted.clone(), counted_others.clone(), unlucky.clone());
        async move {
            if gap.stream == unlucky {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("an answer that nobody expected");
            }
            counted_others.fetch_add(1, Ordering::Relaxed);
            repair::repair(&deps, gap, &stop).await
        }
    };
    let heartbeat = Heartbeats::default().watch("backfill");
    let running = tokio::spawn(run_repairs(deps.clone(), heartbeat, stop.clone(), repair));
    let repeated = async {
        while attempts.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A gap that is found now does not wait for the one that fails again and again, nor start over with it.
        let good = deps.open(&stream(), Range { first: 10, last: 20 }, &evidence).await.unwrap().remove(0);
        while deps.ledger.with(|ledger| ledger.get(&good.gap_id).is_some()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), repeated).await.expect("the other gap is filled");
    stop.cancel();
    running.await.expect("the loop itself does not panic");
    assert_eq!(others.load(Ordering::Relaxed), 1);
    let gaps = deps.history().gaps(&GapFilter::default()).await.unwrap();
    let row = gaps.into_iter().find(|gap| gap.gap_id == bad.gap_id).unwrap();
    assert_eq!((row.state, row.attempts >= 2), (GapState::Open, true), "{row:?}");
    assert!(row.reason.contains("failed by a bug: panic: an answer that nobody expected"), "{}", row.reason);
}
