//! Requirements, alarms, and the reports of tasks.

use rust_decimal::Decimal;

use super::*;
use crate::gap::Gap;
use crate::history::{Batch, GapFilter, KlineRow};
use crate::jobs::spec::{BackfillArgs, CommandArgs, RangeBound, Requirement, RunsKept, TaskArgs};
use crate::jobs::tasks::{self, Context, Identity};
use crate::market::{Channel, Interval, Kline};

#[tokio::test(start_paused = true)]
async fn a_run_is_deferred_while_a_requirement_is_not_met_and_starts_when_it_is() {
    let fixture = Fixture::new();
    fixture.requirements_unmet.store(true, Ordering::SeqCst);
    let mut spec = every(30);
    spec.requires = vec![Requirement::CacheConnected];
    let scheduler = fixture.start(vec![spec], saves());
    let run = fixture.wait_for_run("a deferral", |run| run.outcome == "deferred").await;
    assert_eq!((run.reason.as_str(), run.started_at), ("it requires cache.connected: it is down", None));
    let refused = scheduler.jobs.run("job").await.unwrap();
    assert_eq!(refused, Err("it requires cache.connected: it is down".to_owned()));
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(fixture.runs().await.len(), 1, "one row for all instants");
    fixture.requirements_unmet.store(false, Ordering::SeqCst);
    let done = fixture.wait_for_run("the run", |run| run.outcome == "succeeded").await;
    assert!(done.scheduled_at - run.scheduled_at == 60_000_000 && done.lateness_us() > Some(0), "{done:?}");
    let deferred = fixture.wait_for_run("its row has the count", |run| run.reason.starts_with("3 instants")).await;
    assert_eq!((deferred.run_id, deferred.outcome.as_str()), (run.run_id, "deferred"));
    let status = scheduler.status().await;
    assert_eq!((status.outcomes["deferred"], status.missed), (1, 0));
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_critical_job_that_is_silent_too_long_degrades_health_until_it_succeeds() {
    let fixture = Fixture::new();
    let mut spec = every(30);
    spec.max_silence = Some(Duration::from_secs(100));
    let scheduler = fixture.start(vec![spec], fails(5));
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(!scheduler.status().await.silent && fixture.health.degraded_parts().is_empty());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(scheduler.status().await.silent);
    assert_eq!(fixture.health.degraded_parts()["job job"], "no success for more than 100 s");
    fixture.wait_for_run("a success", |run| run.outcome == "succeeded").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = scheduler.status().await;
    assert!(!status.silent && status.last_success.is_some() && fixture.health.degraded_parts().is_empty());
    // A pause does not end the silence, and a removed job has no alarm.
    scheduler.jobs.pause("job", "a move").await.unwrap();
    tokio::time::sleep(Duration::from_secs(110)).await;
    assert!(fixture.health.degraded_parts().contains_key("job job"));
    scheduler.jobs.replace(schedule(vec![]), false).await.unwrap();
    assert!(fixture.health.degraded_parts().is_empty());
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_alert_begins_after_the_last_retry_and_ends_with_a_success() {
    let fixture = Fixture::new();
    let mut spec = every(100);
    spec.alert = true;
    spec.retry = Retry { max: 1, backoff: Duration::from_secs(10), jitter: Some(Duration::ZERO) };
    let scheduler = fixture.start(vec![spec], fails(2));
    fixture.wait_for_run("the first failure", |run| run.outcome == "failed").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fixture.health.degraded_parts().is_empty(), "it is retried");
    fixture.wait_for_run("the second failure", |run| run.outcome == "failed" && run.attempt == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.health.degraded_parts()["job job"], "its last run failed: no disk");
    fixture.wait_for_run("a success", |run| run.outcome == "succeeded").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fixture.health.degraded_parts().is_empty());
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn repeated_reports_of_an_event_start_one_run() {
    let fixture = Fixture::new();
    let on = JobSpec::new("job", TaskKind::StateSnapshot, When::On(vec![JobEvent::Gap, JobEvent::Reconnect]));
    let scheduler = fixture.start(vec![on], saves());
    scheduler.status().await;
    for _ in 0..1_000 {
        scheduler.jobs.notify(JobEvent::Gap);
    }
    let run = fixture.wait_for_run("a run", |run| run.outcome == "succeeded").await;
    assert_eq!(run.trigger, "event");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.runs().await.len(), 1);
    scheduler.jobs.notify(JobEvent::Reconnect);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.runs().await.len(), 2);
    scheduler.end().await;
}

const MINUTE: i64 = 60_000_000;

/// Adds the first and the last minute of an hour to history.
async fn with_two_klines(fixture: &mut Fixture) -> Stream {
    let stream: Stream = "binance:BTCUSDT:kline_1m".parse().unwrap();
    assert_eq!(stream.channel, Channel::Kline(Interval::M1));
    let row = |minute: i64| KlineRow {
        exchange: stream.exchange,
        symbol: stream.symbol.clone(),
        kline: Kline {
            interval: Interval::M1,
            open_time: Timestamp(START + minute * MINUTE),
            close_time: Timestamp(START + (minute + 1) * MINUTE - 1),
            open: Decimal::ONE,
            high: Decimal::ONE,
            low: Decimal::ONE,
            close: Decimal::ONE,
            volume: Decimal::ZERO,
            quote_volume: Decimal::ZERO,
            trade_count: 0,
            first_trade_id: -1,
            last_trade_id: -1,
            closed: true,
        },
        is_backfilled: false,
        version: crate::history::row_version(false),
    };
    let batch = Batch { klines: vec![row(0), row(59)], token: "two".to_owned(), ..Batch::default() };
    fixture.history.insert(&batch).await.unwrap();
    fixture.recorded = vec![stream.clone()];
    stream
}

#[tokio::test]
async fn a_backfill_opens_gaps_for_its_range_and_adjoining_windows_leave_no_gap_between_them() {
    let mut fixture = Fixture::new();
    let stream = with_two_klines(&mut fixture).await;
    let services = fixture.services(&clock(), saves());
    let at = |minute: i64| Timestamp(START + minute * MINUTE);
    let ran = async |from: Option<RangeBound>, to: Option<RangeBound>, window: Option<(Timestamp, Timestamp)>| {
        let args =
            TaskArgs { backfill: Some(BackfillArgs { stream: stream.clone(), from, to }), ..TaskArgs::default() };
        let run = Identity { job: "job".to_owned(), run_id: "0192".to_owned(), window };
        let context = Context { services: services.clone(), args, run, cancel: CancellationToken::new() };
        tasks::run(TaskKind::Backfill, &context).await.unwrap().data
    };
    let report = ran(Some(RangeBound::At(at(50))), Some(RangeBound::At(at(55))), None).await;
    assert_eq!((&report["missing"], &report["gaps_opened"]), (&5.into(), &1.into()), "{report}");
    // A window that begins within a kline does not cover it: the window before does.
    let half = at(20).plus_micros(MINUTE / 2);
    for window in [(at(0), half), (half, at(40)), (at(40), at(600))] {
        ran(None, None, Some(window)).await;
    }
    let nothing = ran(Some(RangeBound::At(at(100))), None, None).await;
    assert_eq!(nothing["gaps_opened"], 0, "rows that do not exist yet are no gap");
    let gaps = fixture.history.gaps(&GapFilter { open_only: true, ..GapFilter::default() }).await.unwrap();
    let minutes = |gap: &Gap| ((gap.range.first - START) / MINUTE, (gap.range.last - START) / MINUTE);
    let mut gaps: Vec<(i64, i64)> = gaps.iter().map(minutes).collect();
    gaps.sort_unstable();
    // Adjoining ranges are one gap.
    assert_eq!(gaps, [(1, 58)]);
}

#[tokio::test]
async fn retention_keeps_the_runs_within_its_limits() {
    let fixture = Fixture::new();
    for (job, runs) in [("busy", 9_i64), ("quiet", 2)] {
        for number in 0..runs {
            let run = JobRun {
                run_id: format!("{job}-{number}"),
                job: job.to_owned(),
                trigger: "schedule".to_owned(),
                scheduled_at: START - number * MINUTE,
                started_at: None,
                finished_at: None,
                attempt: 1,
                outcome: "succeeded".to_owned(),
                reason: String::new(),
                window: None,
                report: "{}".to_owned(),
                recorder: String::new(),
            };
            fixture.history.put_run(&run).await.unwrap();
        }
    }
    let services = fixture.services(&clock(), saves());
    let ran = async |age: Option<Duration>, per_job: Option<u32>| -> Vec<String> {
        let args = TaskArgs { runs: RunsKept { age, per_job }, ..TaskArgs::default() };
        let run = Identity { job: "job".to_owned(), run_id: "0192".to_owned(), window: None };
        let context = Context { services: services.clone(), args, run, cancel: CancellationToken::new() };
        tasks::run(TaskKind::Retention, &context).await.unwrap();
        fixture.runs().await.into_iter().map(|run| run.run_id).collect()
    };
    assert_eq!(ran(None, None).await.len(), 11);
    assert_eq!(ran(None, Some(3)).await, ["quiet-0", "busy-0", "quiet-1", "busy-1", "busy-2"]);
    let minute_and_a_half = Some(Duration::from_secs(90));
    assert_eq!(ran(minute_and_a_half, Some(3)).await, ["quiet-0", "busy-0", "quiet-1", "busy-1"]);
    assert_eq!(ran(minute_and_a_half, Some(1)).await, ["quiet-0", "busy-0"]);
}

#[tokio::test]
async fn a_program_that_fails_is_a_failed_run_with_its_report() {
    let fixture = Fixture::new();
    let mut spec = JobSpec::new("job", TaskKind::Command, When::every(Duration::from_secs(3_600)));
    let argv = ["sh", "-c", "echo no space >&2; exit 7"].map(str::to_owned).to_vec();
    spec.args.command = Some(CommandArgs { argv, environment: Vec::new(), working_directory: None });
    let mut endless = JobSpec { name: "endless".to_owned(), timeout: Duration::from_millis(200), ..spec.clone() };
    let argv = ["sleep", "1000"].map(str::to_owned).to_vec();
    endless.args.command = Some(CommandArgs { argv, environment: Vec::new(), working_directory: None });
    let scheduler = fixture.start(vec![spec, endless], saves());
    let run = scheduler.jobs.run_to_end("job").await.unwrap().unwrap();
    assert_eq!((run.outcome.as_str(), run.reason.as_str()), ("failed", "exit status: 7: no space"));
    let report: serde_json::Value = serde_json::from_str(&run.report).unwrap();
    assert_eq!((&report["exit_code"], &report["last_line"]), (&serde_json::json!(7), &serde_json::json!("no space")));
    let run = scheduler.jobs.run_to_end("endless").await.unwrap().unwrap();
    assert_eq!(run.outcome, "timed_out", "{run:?}");
    assert!(run.reason.starts_with("not done within 0.2 s: it was cancelled: signal: 15"), "{run:?}");
    scheduler.end().await;
}
