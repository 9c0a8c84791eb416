//! Runs what the planner says is due, records every run, and answers those who ask.
//!
//! It sleeps until the planner's next instant. A sleeping runner cannot see a stepped clock or a resumed
//! machine; tokio-cron-scheduler wakes it once a second for these (and decides nothing: its repeated jobs do
//! not survive a stall, see the platform's notes in `lib.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::history::{History, JobRun};
use crate::market::Timestamp;
use crate::pulse::Pulse;

use super::planner::{Firing, Now, Planner};
use super::spec::{JobEvent, JobSpec, Schedule, When};
use super::tasks::{self, Report, Services};

/// Requests that may wait for the runner.
const REQUESTS_MAX: usize = 64;
/// How long a task may take to end after it was told to, before it is aborted.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// What the runner works with.
pub struct RunnerParts {
    /// What tasks act on.
    pub services: Services,
    /// Where runs are recorded.
    pub history: Arc<dyn History>,
    /// The wall clock.
    pub clock: Clock,
}

/// A job as people see it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Its task.
    pub task: String,
    /// For people.
    pub description: String,
    /// When it runs, in words.
    pub when: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// Whether somebody paused it.
    pub paused: bool,
    /// Whether it runs now.
    pub running: bool,
    /// When it runs next, RFC 3339.
    pub next_run: Option<String>,
    /// How its last run ended.
    pub last_outcome: Option<String>,
    /// What its last run said.
    pub last_summary: Option<String>,
    /// When its last run ended, RFC 3339.
    pub last_finished: Option<String>,
    /// Runs since the process began.
    pub runs: u64,
    /// Of these, how many did not succeed.
    pub failures: u64,
    /// Instants that passed without a run since the process began.
    pub missed: u64,
}

enum Request {
    List(oneshot::Sender<Vec<JobStatus>>),
    Run(String, oneshot::Sender<Result<String, String>>, Option<oneshot::Sender<JobRun>>),
    Pause(String, bool, oneshot::Sender<bool>),
    Replace(Schedule, bool, oneshot::Sender<String>),
}

/// Talks to the runner; cheap to clone.
#[derive(Clone)]
pub struct JobsHandle(mpsc::Sender<Request>);

impl JobsHandle {
    /// Every job.
    pub async fn list(&self) -> anyhow::Result<Vec<JobStatus>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::List(answer), answered).await
    }

    /// Runs a job now; returns the run's id, or why it does not run.
    pub async fn run(&self, name: &str) -> anyhow::Result<Result<String, String>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Run(name.to_owned(), answer, None), answered).await
    }

    /// Runs a job now and waits for its end; the inner error says why it does not run.
    pub async fn run_to_end(&self, name: &str) -> anyhow::Result<Result<JobRun, String>> {
        let ((answer, answered), (done, ended)) = (oneshot::channel(), oneshot::channel());
        match self.ask(Request::Run(name.to_owned(), answer, Some(done)), answered).await? {
            Ok(_run_id) => Ok(Ok(ended.await.context("the scheduler stopped during the run")?)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Pauses or resumes a job; false when there is none of this name.
    pub async fn pause(&self, name: &str, paused: bool) -> anyhow::Result<bool> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Pause(name.to_owned(), paused, answer), answered).await
    }

    /// Takes a new schedule over, or only says what it would change.
    pub async fn replace(&self, schedule: Schedule, dry_run: bool) -> anyhow::Result<String> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Replace(schedule, dry_run, answer), answered).await
    }

    async fn ask<T>(&self, request: Request, answered: oneshot::Receiver<T>) -> anyhow::Result<T> {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, self.0.send(request)).await.context("the scheduler is busy")?.ok();
        tokio::time::timeout(limit, answered)
            .await
            .context("the scheduler does not answer")?
            .context("the scheduler stopped")
    }
}

/// What is known of a job's runs.
#[derive(Clone, Debug, Default)]
struct Past {
    running: bool,
    last: Option<JobRun>,
    summary: Option<String>,
    runs: u64,
    failures: u64,
    missed: u64,
}

/// Runs jobs.
pub struct Runner {
    parts: RunnerParts,
    planner: Planner,
    past: HashMap<String, Past>,
    requests: mpsc::Receiver<Request>,
    running: JoinSet<(JobRun, Option<String>)>,
    waiting: HashMap<String, oneshot::Sender<JobRun>>,
    origin: Instant,
    cancel: CancellationToken,
}

impl Runner {
    /// A runner of this schedule, and its handle.
    pub fn new(parts: RunnerParts, schedule: Schedule) -> (Self, JobsHandle) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let origin = Instant::now();
        let now = Now { wall: parts.clock.now(), monotonic: Duration::ZERO };
        let planner = Planner::new(schedule, now);
        let runner = Self {
            parts,
            planner,
            past: HashMap::new(),
            requests,
            running: JoinSet::new(),
            waiting: HashMap::new(),
            origin,
            cancel: CancellationToken::new(),
        };
        (runner, JobsHandle(sender))
    }

    /// Runs the jobs that READY waits for, one after the other.
    pub async fn run_blocking(&mut self) {
        self.close_interrupted().await;
        let startup = |spec: &JobSpec| matches!(&spec.when, When::On(events) if events.contains(&JobEvent::Startup));
        let specs: Vec<JobSpec> = self.planner.specs().filter(|spec| spec.enabled && startup(spec)).cloned().collect();
        for spec in specs {
            let firing = Firing { job: spec.name.clone(), scheduled_at: self.parts.clock.now(), missed: 0 };
            if self.start(&spec, firing, "event").await.is_ok() && spec.blocking {
                while let Some(ended) = self.running.join_next().await {
                    self.ended(ended).await;
                }
            }
        }
    }

    /// Runs until `stop`, then waits for what runs.
    pub async fn run(mut self, pulse: Pulse, stop: CancellationToken) -> anyhow::Result<()> {
        let poke = Arc::new(Notify::new());
        let mut sweep = sweep(poke.clone()).await?;
        while !stop.is_cancelled() {
            pulse.beat();
            let now = self.now();
            for firing in self.planner.due(now) {
                self.fire(firing).await;
            }
            let wait = self.planner.wait(self.now()).unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = poke.notified() => {}
                Some(ended) = self.running.join_next() => self.ended(ended).await,
                Some(request) = self.requests.recv() => self.answer(request).await,
            }
        }
        if let Err(error) = sweep.shutdown().await {
            warn!("the scheduler's sweep did not end: {error}");
        }
        self.cancel.cancel();
        while let Some(ended) = self.running.join_next().await {
            self.ended(ended).await;
        }
        pulse.retire();
        Ok(())
    }

    fn now(&self) -> Now {
        Now { wall: self.parts.clock.now(), monotonic: self.origin.elapsed() }
    }

    async fn fire(&mut self, firing: Firing) {
        let Some(spec) = self.planner.spec(&firing.job).cloned() else { return };
        if firing.missed > 0 {
            warn!(JOB = %spec.name, "{} instants of {} passed without a run", firing.missed, spec.name);
            self.past.entry(spec.name.clone()).or_default().missed += firing.missed;
        }
        if let Err(reason) = self.start(&spec, firing.clone(), "schedule").await {
            // Nothing is skipped in silence: the run that did not happen is recorded too.
            let mut run = self.new_run(&spec, &firing, "schedule");
            run.outcome = "skipped".to_owned();
            run.reason = reason;
            run.finished_at = Some(self.parts.clock.now().micros());
            self.record(&run).await;
            self.past.entry(spec.name).or_default().last = Some(run);
        }
    }

    /// Starts a run; returns its id, or why it does not start.
    async fn start(&mut self, spec: &JobSpec, firing: Firing, trigger: &str) -> Result<String, String> {
        let past = self.past.entry(spec.name.clone()).or_default();
        if past.running {
            return Err("its last run has not ended".to_owned());
        }
        past.running = true;
        past.runs += 1;
        let mut run = self.new_run(spec, &firing, trigger);
        run.started_at = Some(self.parts.clock.now().micros());
        self.record(&run).await;
        let (services, spec, run_id) = (self.parts.services.clone(), spec.clone(), run.run_id.clone());
        let (clock, cancel) = (self.parts.clock.clone(), self.cancel.clone());
        self.running.spawn(async move { execute(spec, run, services, clock, cancel).await });
        Ok(run_id)
    }

    fn new_run(&self, spec: &JobSpec, firing: &Firing, trigger: &str) -> JobRun {
        JobRun {
            run_id: uuid::Uuid::now_v7().to_string(),
            job: spec.name.clone(),
            trigger: trigger.to_owned(),
            scheduled_at: firing.scheduled_at.micros(),
            started_at: None,
            finished_at: None,
            attempt: 1,
            outcome: "running".to_owned(),
            reason: String::new(),
            window: None,
            report: String::new(),
        }
    }

    async fn ended(&mut self, ended: Result<(JobRun, Option<String>), tokio::task::JoinError>) {
        let (run, summary) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                error!("a run's own task failed: {error}");
                return;
            }
        };
        self.record(&run).await;
        let past = self.past.entry(run.job.clone()).or_default();
        past.running = false;
        past.summary = summary.clone();
        let (job, run_id, outcome) = (&run.job, &run.run_id, &run.outcome);
        if outcome == "succeeded" {
            info!(JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome, "{job}: {}", summary.unwrap_or_default());
        } else {
            past.failures += 1;
            error!(JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome, "{job} {outcome}: {}", run.reason);
        }
        past.last = Some(run.clone());
        if let Some(waiting) = self.waiting.remove(run_id) {
            // Whoever waited may be gone; the run is recorded either way.
            waiting.send(run).ok();
        }
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::List(answer) => drop(answer.send(self.list())),
            Request::Run(name, answer, done) => {
                let Some(spec) = self.planner.spec(&name).cloned() else {
                    answer.send(Err(format!("there is no job `{name}`"))).ok();
                    return;
                };
                let firing = Firing { job: name, scheduled_at: self.parts.clock.now(), missed: 0 };
                let started = self.start(&spec, firing, "manual").await;
                if let (Ok(run_id), Some(done)) = (&started, done) {
                    self.waiting.insert(run_id.clone(), done);
                }
                answer.send(started).ok();
            }
            Request::Pause(name, paused, answer) => {
                let now = self.now();
                let known = self.planner.pause(&name, paused, now);
                if known {
                    info!(JOB = %name, "{name} is {}", if paused { "paused" } else { "resumed" });
                }
                answer.send(known).ok();
            }
            Request::Replace(schedule, dry_run, answer) => {
                let now = self.now();
                let changes =
                    if dry_run { self.planner.compare(&schedule) } else { self.planner.replace(schedule, now) };
                let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let said = format!(
                    "jobs added: {}, changed: {}, removed: {}",
                    names(&changes.added),
                    names(&changes.changed),
                    names(&changes.removed)
                );
                answer.send(said).ok();
            }
        }
    }

    fn list(&self) -> Vec<JobStatus> {
        let now = self.now();
        let status = |spec: &JobSpec| {
            let past = self.past.get(&spec.name).cloned().unwrap_or_default();
            let finished = past.last.as_ref().and_then(|run| run.finished_at);
            JobStatus {
                name: spec.name.clone(),
                task: spec.task.as_str().to_owned(),
                description: spec.description.clone(),
                when: words(&spec.when),
                enabled: spec.enabled,
                paused: self.planner.is_paused(&spec.name),
                running: past.running,
                next_run: self.planner.next(&spec.name, now).map(Timestamp::rfc3339),
                last_outcome: past.last.as_ref().map(|run| run.outcome.clone()),
                last_summary: past.summary,
                last_finished: finished.map(|at| Timestamp(at).rfc3339()),
                runs: past.runs,
                failures: past.failures,
                missed: past.missed,
            }
        };
        self.planner.specs().map(status).collect()
    }

    async fn record(&self, run: &JobRun) {
        let recorded = tokio::time::timeout(Duration::from_secs(5), self.parts.history.put_run(run)).await;
        match recorded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(JOB = %run.job, RUN_ID = %run.run_id, "cannot record the run: {error}"),
            Err(_elapsed) => warn!(JOB = %run.job, RUN_ID = %run.run_id, "cannot record the run: history is busy"),
        }
    }

    /// Runs that a dead process left behind did not end well.
    async fn close_interrupted(&self) {
        let Ok(runs) = self.parts.history.runs(None, 1_000).await else { return };
        for mut run in runs.into_iter().filter(|run| run.outcome == "running") {
            run.outcome = "failed".to_owned();
            run.reason = "the process ended during the run".to_owned();
            run.finished_at = Some(self.parts.clock.now().micros());
            self.record(&run).await;
        }
    }
}

/// Runs a task with its limits; a panic is a failed run.
async fn execute(
    spec: JobSpec,
    mut run: JobRun,
    services: Services,
    clock: Clock,
    cancel: CancellationToken,
) -> (JobRun, Option<String>) {
    let (task, args) = (spec.task, spec.args);
    let mut work = tokio::spawn(async move { tasks::run(task, args, &services).await });
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        () = tokio::time::sleep(spec.timeout) => None,
        () = cancel.cancelled() => tokio::time::timeout(ABORT_GRACE, &mut work).await.ok(),
    };
    let (outcome, reason, report) = match ended {
        Some(Ok(Ok(report))) => ("succeeded", String::new(), Some(report)),
        Some(Ok(Err(error))) => ("failed", format!("{error:#}"), None),
        Some(Err(error)) => ("failed", format!("panic: {error}"), None),
        None if cancel.is_cancelled() => ("cancelled", "the service stops".to_owned(), None),
        None => ("timed_out", format!("not done within {} s", spec.timeout.as_secs_f64()), None),
    };
    work.abort();
    run.outcome = outcome.to_owned();
    run.reason = reason;
    run.finished_at = Some(clock.now().micros());
    let summary = report.as_ref().map(|report: &Report| report.summary.clone());
    run.report = report.map_or(String::new(), |report| report.data.to_string());
    (run, summary)
}

/// Pokes the runner once a second, by UTC.
async fn sweep(poke: Arc<Notify>) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("make the scheduler's sweep")?;
    let job = Job::new("* * * * * *", move |_, _| poke.notify_one()).context("make the scheduler's sweep")?;
    scheduler.add(job).await.context("add the scheduler's sweep")?;
    scheduler.start().await.context("start the scheduler's sweep")?;
    Ok(scheduler)
}

fn words(when: &When) -> String {
    match when {
        When::Every(period) => format!("every {}", humane(*period)),
        When::Cron { text, timezone } => match super::planner::parse_cron(text) {
            Ok(cron) => format!("{} ({timezone})", cron.describe()),
            Err(_) => text.clone(),
        },
        When::On(events) => {
            let names = JobEvent::ALL.iter().filter(|(_, event)| events.contains(event)).map(|(name, _)| *name);
            format!("on {}", names.collect::<Vec<_>>().join(", "))
        }
    }
}

fn humane(period: Duration) -> String {
    let seconds = period.as_secs_f64();
    if seconds >= 3_600.0 && seconds % 3_600.0 == 0.0 {
        format!("{} h", seconds / 3_600.0)
    } else if seconds >= 60.0 && seconds % 60.0 == 0.0 {
        format!("{} min", seconds / 60.0)
    } else {
        format!("{seconds} s")
    }
}
