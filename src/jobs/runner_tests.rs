//! Real tasks on embedded stores, on a paused clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::backfill;
use crate::cache::PendingUpdates;
use crate::cache::embedded::EmbeddedCache;
use crate::faults::Faults;
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::embedded::EmbeddedHistory;
use crate::history::faulty::FaultyHistory;
use crate::jobs::spec::{MissedPolicy, Overlap, Retry, TaskKind};
use crate::jobs::tasks::{LogRetention, Save};
use crate::ledger::SharedLedger;
use crate::log::embedded::{self, EmbeddedLog};
use crate::market::{Stream, Timestamp};
use crate::writer::Writer;

#[path = "alarm_tests.rs"]
mod alarm_tests;
#[path = "kill_tests.rs"]
mod kill_tests;

/// The wall clock at the start of each test: 2026-01-01.
const START: i64 = 1_767_225_600_000_000;

/// A directory with stores that outlives the schedulers of a test.
struct Fixture {
    directory: TempDir,
    history: Arc<dyn History>,
    faults: Faults,
    health: Health,
    /// Whether every requirement is unmet.
    requirements_unmet: Arc<AtomicBool>,
    recorded: Vec<Stream>,
    instance: &'static str,
}

/// A runner in its task.
struct TestScheduler {
    jobs: JobsHandle,
    stop: CancellationToken,
    done: JoinHandle<anyhow::Result<()>>,
    heartbeats: Heartbeats,
}

fn clock() -> Clock {
    let origin = Instant::now();
    Clock::from_fn(move || Timestamp(START).plus_micros(origin.elapsed().as_micros() as i64))
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let history = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        Self {
            directory,
            history,
            faults: Faults::none(),
            health: Health::default(),
            requirements_unmet: Arc::default(),
            recorded: Vec::new(),
            instance: "",
        }
    }

    fn services(&self, clock: &Clock, save: Save) -> Services {
        let log = self.directory.path().join("log.db");
        let history: Arc<dyn History> = Arc::new(FaultyHistory::new(self.history.clone(), self.faults.clone()));
        let backfill = backfill::Deps {
            rest: HashMap::new(),
            dialects: HashMap::new(),
            writer: Writer::new(history.clone(), Arc::new(PendingUpdates::default()), Health::default()),
            ledger: SharedLedger::default(),
            clock: clock.clone(),
            rows: Arc::default(),
            confirm_after: std::time::Duration::ZERO,
            answers: Arc::default(),
        };
        Services {
            log: Arc::new(EmbeddedLog::open(&log, embedded::Options::default()).unwrap()),
            log_retention: LogRetention { age: Duration::from_secs(60), bytes: 1 << 30 },
            history,
            cache: Arc::new(EmbeddedCache::new()),
            backfill,
            streams: watch::channel(self.recorded.clone()).1,
            save,
            sealed_days: None,
            clock: clock.clone(),
        }
    }

    fn runner(&self, schedule: Schedule, save: Save) -> (Runner, JobsHandle) {
        let clock = clock();
        let services = self.services(&clock, save);
        let history = services.history.clone();
        let (health, requirements_unmet) = (self.health.clone(), self.requirements_unmet.clone());
        let conditions: Conditions = Arc::new(move |_| match requirements_unmet.load(Ordering::SeqCst) {
            true => Err("it is down".to_owned()),
            false => Ok(()),
        });
        let instance = self.instance.to_owned();
        let deps = RunnerDeps { services, history, clock, health, conditions, instance };
        Runner::new(deps, schedule, Some(self.directory.path()))
    }

    fn start(&self, jobs: Vec<JobSpec>, save: Save) -> TestScheduler {
        let (runner, jobs) = self.runner(schedule(jobs), save);
        let (heartbeats, stop) = (Heartbeats::default(), CancellationToken::new());
        let done = tokio::spawn(runner.run(heartbeats.watch("scheduler"), stop.clone()));
        TestScheduler { jobs, stop, done, heartbeats }
    }

    async fn runs(&self) -> Vec<JobRun> {
        self.history.runs(None, None, 1_000).await.unwrap()
    }

    /// Waits for a run that matches; the paused clock advances while every task waits.
    async fn wait_for_run(&self, what: &str, wanted: impl Fn(&JobRun) -> bool) -> JobRun {
        for _ in 0..20_000 {
            if let Some(run) = self.runs().await.into_iter().find(|run| wanted(run)) {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:#?}", self.runs().await);
    }
}

impl TestScheduler {
    async fn end(self) {
        self.stop.cancel();
        self.done.await.unwrap().unwrap();
    }

    async fn status(&self) -> JobStatus {
        self.jobs.list().await.unwrap().remove(0)
    }
}

fn schedule(jobs: Vec<JobSpec>) -> Schedule {
    Schedule { jobs, ..Schedule::default() }
}

fn every(seconds: u64) -> JobSpec {
    JobSpec::new("job", TaskKind::StateSnapshot, When::every(Duration::from_secs(seconds)))
}

fn saves() -> Save {
    Arc::new(|| Box::pin(async { Ok("generation 7".to_owned()) }))
}

/// A task that takes this many seconds.
fn slow(seconds: u64) -> Save {
    Arc::new(move || {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok("slow".to_owned())
        })
    })
}

/// A task that fails this many times and then succeeds.
fn fails(times: usize) -> Save {
    let calls = Arc::new(AtomicUsize::new(0));
    Arc::new(move || {
        let calls = calls.clone();
        Box::pin(async move {
            match calls.fetch_add(1, Ordering::SeqCst) {
                call if call < times => anyhow::bail!("no disk"),
                _ => Ok("saved".to_owned()),
            }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_run_is_recorded_from_its_start_to_its_end() {
    let fixture = Fixture::new();
    let scheduler = fixture.start(vec![every(30)], saves());
    let run = fixture.wait_for_run("a run", |run| run.outcome == "succeeded").await;
    assert_eq!((run.trigger.as_str(), run.attempt), ("schedule", 1));
    assert_eq!(run.scheduled_at, START + 30_000_000);
    assert!(run.started_at >= Some(run.scheduled_at) && run.finished_at >= run.started_at, "{run:?}");
    let status = scheduler.status().await;
    assert_eq!(status.last_summary.as_deref(), Some("generation 7"));
    assert_eq!((status.last_lateness_ms, status.runs >= 1), (Some(0), true));
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_run_and_the_next_run_starts() {
    let fixture = Fixture::new();
    let save: Save = Arc::new(|| Box::pin(async { panic!("a bug") }));
    let scheduler = fixture.start(vec![every(30)], save);
    let run = fixture.wait_for_run("a failed run", |run| run.outcome == "failed").await;
    assert_eq!(run.reason, "panic: a bug");
    fixture.wait_for_run("another one", |next| next.outcome == "failed" && next.run_id != run.run_id).await;
    assert_eq!(scheduler.status().await.last_outcome.as_deref(), Some("failed"));
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_too_long_is_timed_out() {
    let fixture = Fixture::new();
    let mut spec = every(300);
    spec.timeout = Duration::from_secs(5);
    let scheduler = fixture.start(vec![spec], slow(100));
    let run = fixture.wait_for_run("a late run", |run| run.outcome == "timed_out").await;
    assert_eq!(run.reason, "not done within 5 s");
    assert_eq!(run.finished_at.unwrap() - run.started_at.unwrap(), 7_000_000, "it gets 2 s to end");
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_retried() {
    let fixture = Fixture::new();
    let mut spec = every(600);
    spec.retry = Retry { max: 3, backoff: Duration::from_secs(10), jitter: None };
    let scheduler = fixture.start(vec![spec], fails(2));
    let run = fixture.wait_for_run("the third attempt", |run| run.outcome == "succeeded").await;
    assert_eq!((run.attempt, run.trigger.as_str()), (3, "retry"));
    assert_eq!(run.scheduled_at, START + 600_000_000, "a retry keeps its scheduled time");
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_overlapping_run_is_recorded_as_skipped_or_replaces() {
    let fixture = Fixture::new();
    let scheduler = fixture.start(vec![every(10)], slow(35));
    let run = fixture.wait_for_run("a skipped run", |run| run.outcome == "skipped").await;
    assert_eq!((run.reason.as_str(), run.started_at), ("its last run has not ended", None));
    scheduler.end().await;
    let fixture = Fixture::new();
    let mut spec = every(10);
    spec.overlap = Overlap::Replace;
    let scheduler = fixture.start(vec![spec], slow(35));
    let first = fixture.wait_for_run("a replaced run", |run| run.outcome == "cancelled").await;
    let second = |run: &JobRun| run.outcome == "running" && run.scheduled_at > first.scheduled_at;
    fixture.wait_for_run("its successor", second).await;
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_manual_run_waits_for_its_end_and_does_not_overlap() {
    let fixture = Fixture::new();
    let scheduler = fixture.start(vec![every(3_600)], slow(5));
    let jobs = scheduler.jobs.clone();
    let first = tokio::spawn(async move { jobs.run_to_end("job").await.unwrap().unwrap() });
    fixture.wait_for_run("a run", |run| run.outcome == "running").await;
    assert_eq!(scheduler.jobs.run("job").await.unwrap(), Err("its last run has not ended".to_owned()));
    assert_eq!(scheduler.jobs.run("other").await.unwrap(), Err("there is no job `other`".to_owned()));
    let run = first.await.unwrap();
    assert_eq!((run.outcome.as_str(), run.trigger.as_str()), ("succeeded", "manual"));
    assert!(fixture.runs().await.contains(&run), "the run is in history when the wait ends");
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_survives_a_restart_and_a_resume_reports_the_missed_instants() {
    let fixture = Fixture::new();
    let scheduler = fixture.start(vec![every(30)], saves());
    assert!(scheduler.jobs.pause("job", "a move").await.unwrap());
    scheduler.end().await;
    let scheduler = fixture.start(vec![every(30)], saves());
    tokio::time::sleep(Duration::from_secs(100)).await;
    let status = scheduler.status().await;
    assert_eq!((status.paused_reason.as_deref(), status.next_run), (Some("a move"), None));
    assert_eq!(fixture.runs().await, []);
    assert!(scheduler.jobs.resume("job").await.unwrap());
    let run = fixture.wait_for_run("the missed instants", |run| run.outcome == "skipped").await;
    assert!(run.reason.starts_with("3 instants from ") && run.reason.ends_with(": paused: a move"), "{}", run.reason);
    fixture.wait_for_run("a run after the pause", |run| run.outcome == "succeeded").await;
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_recorder_closes_only_its_own_interrupted_runs() {
    let fixture = Fixture { instance: "north", ..Fixture::new() };
    let firing = Firing {
        job: "job".to_owned(),
        trigger: crate::jobs::planner::Trigger::Schedule,
        scheduled_at: Timestamp(START - 5_000_000),
        attempt: 1,
        window: None,
    };
    let [mine, other] = ["north", "south"].map(|recorder| {
        let run = new_run(&firing);
        JobRun { started_at: Some(run.scheduled_at), recorder: recorder.to_owned(), ..run }
    });
    for run in [&mine, &other] {
        fixture.history.put_run(run).await.unwrap();
    }
    let scheduler = fixture.start(vec![every(3_600)], saves());
    let is_mine = |run: &JobRun| run.run_id == mine.run_id && run.outcome == "failed";
    fixture.wait_for_run("the run is closed", is_mine).await;
    let run = scheduler.jobs.run_to_end("job").await.unwrap().unwrap();
    assert_eq!(run.recorder, "north", "new runs name their recorder");
    assert!(fixture.runs().await.contains(&other), "the other recorder may still execute it");
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_earlier_process_is_failed_and_is_the_last_run() {
    let fixture = Fixture::new();
    let firing = Firing {
        job: "job".to_owned(),
        trigger: crate::jobs::planner::Trigger::Schedule,
        scheduled_at: Timestamp(START - 5_000_000),
        attempt: 1,
        window: None,
    };
    let mut left = new_run(&firing);
    left.started_at = Some(left.scheduled_at);
    fixture.history.put_run(&left).await.unwrap();
    fixture.faults.set_outage(true);
    let scheduler = fixture.start(vec![every(3_600)], saves());
    tokio::time::sleep(Duration::from_secs(20)).await;
    fixture.faults.set_outage(false);
    let run =
        fixture.wait_for_run("the run is closed", |run| run.run_id == left.run_id && run.outcome == "failed").await;
    assert_eq!(run.reason, "the process ended during the run");
    while scheduler.status().await.last_outcome.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(scheduler.status().await.last_outcome.as_deref(), Some("failed"));
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_down_delays_no_run_and_gets_every_record_later() {
    let fixture = Fixture::new();
    fixture.faults.set_outage(true);
    let scheduler = fixture.start(vec![every(10)], saves());
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(scheduler.status().await.runs, 6);
    let beats = scheduler.heartbeats.statuses()[0].count;
    assert!(beats >= 60, "{beats} beats in 65 s");
    fixture.faults.set_outage(false);
    for n in 1..=6 {
        let at = START + n * 10_000_000;
        fixture.wait_for_run("a record", |run| run.scheduled_at == at && run.outcome == "succeeded").await;
    }
    scheduler.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_blocking_jobs_up_to_a_limit() {
    for (takes, waits) in [(3, 3), (60, 10)] {
        let fixture = Fixture::new();
        let mut spec = JobSpec::new("job", TaskKind::StateSnapshot, When::On(vec![JobEvent::Startup]));
        spec.blocking = true;
        let (mut runner, jobs) = fixture.runner(schedule(vec![spec]), slow(takes));
        let began = Instant::now();
        runner.run_blocking().await;
        assert_eq!(began.elapsed().as_secs(), waits);
        let stop = CancellationToken::new();
        let done = tokio::spawn(runner.run(Heartbeats::default().watch("scheduler"), stop.clone()));
        let run = fixture.wait_for_run("it ends later", |run| run.outcome == "succeeded").await;
        assert_eq!(run.trigger, "event");
        drop(jobs);
        stop.cancel();
        done.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn runs_end_within_the_grace_when_the_service_stops() {
    for (on_stop, takes, outcome) in
        [(OnStop::Wait, 1, "succeeded"), (OnStop::Wait, 60, "cancelled"), (OnStop::Cancel, 60, "cancelled")]
    {
        let fixture = Fixture::new();
        let mut spec = every(10);
        spec.on_stop = on_stop;
        let scheduler = fixture.start(vec![spec], slow(takes));
        fixture.wait_for_run("a run", |run| run.outcome == "running").await;
        let began = Instant::now();
        scheduler.end().await;
        assert!(began.elapsed() <= Duration::from_millis(2_100), "{on_stop:?}: {:?}", began.elapsed());
        assert_eq!(fixture.runs().await[0].outcome, outcome, "{on_stop:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_with_on_stop_run_runs_once_more_at_the_stop() {
    let fixture = Fixture::new();
    let mut spec = every(3_600);
    spec.on_stop = OnStop::Run;
    let scheduler = fixture.start(vec![spec], saves());
    scheduler.status().await;
    scheduler.end().await;
    let runs = fixture.runs().await;
    assert_eq!((runs[0].outcome.as_str(), runs[0].trigger.as_str()), ("succeeded", "event"));
}

#[tokio::test(start_paused = true)]
async fn a_calendar_runs_an_instant_missed_while_the_service_was_down() {
    let fixture = Fixture::new();
    let cron = || {
        let when = When::Cron { text: "0 * * * *".to_owned(), timezone: chrono_tz::Tz::UTC };
        let mut spec = JobSpec::new("job", TaskKind::StateSnapshot, when);
        spec.missed.policy = MissedPolicy::RunOnce;
        spec
    };
    let mut state = SchedulerState::default();
    let last = crate::jobs::scheduler_state::JobState { last: Some(START - 3 * 3_600_000_000), ..Default::default() };
    state.jobs.insert("job".to_owned(), last);
    state.save(&fixture.directory.path().join(scheduler_state::FILE)).unwrap();
    let scheduler = fixture.start(vec![cron()], saves());
    let run = fixture.wait_for_run("the catch-up", |run| run.outcome == "succeeded").await;
    assert_eq!(run.scheduled_at, START);
    let skipped = fixture.wait_for_run("the skipped ones", |run| run.outcome == "skipped").await;
    let stretch = "2 instants from 2025-12-31T22:00:00.000Z to 2025-12-31T23:00:00.000Z: missed: the service was down";
    assert!(skipped.reason.starts_with(stretch), "{}", skipped.reason);
    scheduler.end().await;
    let again = fixture.start(vec![cron()], saves());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(again.status().await.runs, 0, "an instant runs or is skipped only once");
    again.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_returns_the_changes_and_a_removed_job_still_ends_its_run() {
    let fixture = Fixture::new();
    let scheduler = fixture.start(vec![every(10)], slow(5));
    fixture.wait_for_run("a run", |run| run.outcome == "running").await;
    let changes = scheduler.jobs.replace(schedule(vec![]), true).await.unwrap();
    assert_eq!(changes.to_string(), "jobs added: none, changed: none, removed: job");
    assert_eq!(scheduler.jobs.list().await.unwrap().len(), 1, "a dry run changes nothing");
    scheduler.jobs.replace(schedule(vec![]), false).await.unwrap();
    assert_eq!(scheduler.jobs.list().await.unwrap().len(), 0);
    fixture.wait_for_run("its end", |run| run.outcome == "succeeded").await;
    scheduler.end().await;
}
