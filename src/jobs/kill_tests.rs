//! The run history after a SIGKILL at any byte of a write.

use std::fs;

use super::*;
use crate::history::RunStore;

/// Runs to write; each twice, at its start and at its end.
const RUNS: usize = 24;
/// Cuts in addition to those at the edges of a page.
const CUTS: usize = 120;

fn run_of(n: usize) -> JobRun {
    let firing = Firing {
        job: format!("job-{}", n % 3),
        trigger: crate::jobs::planner::Trigger::Schedule,
        scheduled_at: Timestamp(START + n as i64 * 1_000_000),
        attempt: 1,
        window: None,
    };
    let mut run = new_run(&firing);
    run.started_at = Some(run.scheduled_at);
    run
}

fn ended(run: &JobRun) -> JobRun {
    let report = serde_json::json!({ "said": "x".repeat(700) }).to_string();
    let outcome = "succeeded".to_owned();
    JobRun { outcome, finished_at: Some(run.scheduled_at + 1_000), report, ..run.clone() }
}

#[tokio::test]
async fn the_run_history_is_readable_after_a_kill_at_any_byte() {
    let fixture = Fixture::new();
    let runs: Vec<JobRun> = (0..RUNS).map(run_of).collect();
    for run in &runs {
        fixture.history.put_run(run).await.unwrap();
        fixture.history.put_run(&ended(run)).await.unwrap();
    }
    // The store is still open: a kill leaves these files, with the last write cut.
    let directory = fixture.directory.path();
    let (file, log) =
        (fs::read(directory.join("history.db")).unwrap(), fs::read(directory.join("history.db-wal")).unwrap());
    assert!(log.len() > 100_000, "the runs are in the write-ahead log: {} bytes", log.len());
    let mut cuts: Vec<usize> = (0..CUTS).map(|n| n * log.len() / CUTS + n % 13).collect();
    let frame = 24 + 4_096;
    let edges = (0..log.len() / frame).step_by(7).map(|n| 32 + n * frame);
    cuts.extend(edges.flat_map(|edge| [edge - 1, edge, edge + 1]));
    cuts.push(log.len());
    cuts.sort_unstable();
    let mut most = 0;
    for cut in cuts {
        let killed = TempDir::new().unwrap();
        fs::write(killed.path().join("history.db"), &file).unwrap();
        fs::write(killed.path().join("history.db-wal"), &log[..cut.min(log.len())]).unwrap();
        let history = EmbeddedHistory::open(&killed.path().join("history.db")).unwrap();
        let mut found = history.runs(None, None, 1_000).await.unwrap();
        found.reverse();
        // The runs are a prefix of the written ones; the last one may lack its end.
        for (at, run) in found.iter().enumerate() {
            let whole = *run == ended(&runs[at]);
            assert!(whole || (*run == runs[at] && at + 1 == found.len()), "cut at {cut}: {run:?}");
        }
        assert!(found.len() >= most, "cut at {cut}: a longer log holds at least as much");
        most = found.len();
        history.close().await.unwrap();
    }
    assert_eq!(most, RUNS);
}
