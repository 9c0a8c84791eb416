//! Starts the runs that the planner says are due, records every run, and serves the requests of the handle.
//!
//! It sleeps until the planner's next instant. A sleeping runner cannot see that the clock was stepped or the machine
//! resumed, so tokio-cron-scheduler wakes it once a second. That crate decides nothing here: its repeated jobs do not
//! survive a stall (see the platform's notes in `lib.rs`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::history::{History, JobRun};

use super::alarms::Alarms;
use super::calendar::COUNT_MAX;
use super::events::Events;
use super::execute::{StopTokens, execute, new_run};
use super::handle::{JobsHandle, Request};
use super::planner::{Action, Firing, FollowUp, Now, Planner, RunOutcome, Seeds, Skipped};
use super::recorder::{RECORDS_MAX, Record, Recorder};
use super::report;
use super::scheduler_state::{self, SchedulerState, StateFile};
use super::spec::{JobEvent, JobSpec, OnStop, Requirement, Schedule, When};
use super::status::{JobStatus, RunStats};
use super::tasks::Services;

/// Longest time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(1);
/// How long READY waits for blocking jobs: a job that waits for a store that is down continues after READY.
const BLOCKING_MAX: Duration = Duration::from_secs(10);
/// How long the stop waits for the records of the last runs.
const RECORDS_GRACE: Duration = Duration::from_secs(1);

/// The dependencies of the runner.
pub struct RunnerDeps {
    /// The services that tasks use.
    pub services: Services,
    /// The store of the run history.
    pub history: Arc<dyn History>,
    /// The wall clock.
    pub clock: Clock,
    /// Shows silent and failing jobs as degraded parts.
    pub health: Health,
    /// Checks requirements.
    pub conditions: Conditions,
    /// The name of this recorder among several that share the history; the rows of its runs have it.
    pub instance: String,
}

/// Checks whether a requirement is met; the error says why not. Every tick calls it, so it must not block.
pub type Conditions = Arc<dyn Fn(Requirement) -> Result<(), String> + Send + Sync>;

/// A run in progress.
struct ActiveRun {
    run: JobRun,
    on_stop: OnStop,
    stop_tokens: StopTokens,
    done: Option<oneshot::Sender<JobRun>>,
}

/// Runs jobs.
pub struct Runner {
    deps: RunnerDeps,
    planner: Planner,
    stats: HashMap<String, RunStats>,
    requests: mpsc::Receiver<Request>,
    tasks: JoinSet<(JobRun, Option<String>)>,
    /// The run of each task in `tasks`.
    active: HashMap<Id, ActiveRun>,
    origin: Instant,
    records: mpsc::Sender<Record>,
    recorder: Option<Recorder>,
    recorder_task: Option<JoinHandle<()>>,
    /// Receives the newest runs from before this process.
    previous_runs: Option<oneshot::Receiver<Vec<JobRun>>>,
    /// Saves the planner's state.
    state_file: StateFile,
    alarms: Alarms,
    events: Arc<Events>,
    /// The startup jobs run when this is cancelled: the stores they need are down until then.
    startup: Option<CancellationToken>,
}

impl Runner {
    /// Makes a runner of this schedule, and its handle. The state across restarts is saved in `directory`.
    pub fn new(deps: RunnerDeps, schedule: Schedule, directory: Option<&Path>) -> (Self, JobsHandle) {
        let events = Arc::new(Events::default());
        let (handle, requests) = JobsHandle::new(events.clone());
        let (records, recorded) = mpsc::channel(RECORDS_MAX);
        let file = directory.map(|directory| directory.join(scheduler_state::FILE));
        let state = file.as_deref().map_or_else(|| Ok(SchedulerState::default()), SchedulerState::load).unwrap_or_else(
            |error| {
                warn!("cannot read the jobs' state, pauses and missed instants are lost: {error:#}");
                SchedulerState::default()
            },
        );
        let now = Now { wall: deps.clock.now(), monotonic: Duration::ZERO };
        let planner = Planner::new(schedule, &state, seeds(), now);
        let alarms = Alarms::new(deps.health.clone());
        let recorder = Recorder::new(deps.history.clone(), deps.clock.clone(), deps.instance.clone(), recorded);
        let runner = Self {
            deps,
            planner,
            stats: HashMap::new(),
            requests,
            tasks: JoinSet::new(),
            active: HashMap::new(),
            origin: Instant::now(),
            records,
            recorder: Some(recorder),
            recorder_task: None,
            previous_runs: None,
            state_file: StateFile::new(file),
            alarms,
            events,
            startup: None,
        };
        (runner, handle)
    }

    /// Instead of [`Runner::run_blocking`]: the startup jobs run once `ready` is cancelled.
    pub fn run_startup_jobs_after(&mut self, ready: CancellationToken) {
        self.startup = Some(ready);
    }

    fn run_startup_jobs(&mut self) {
        self.startup = None;
        let now = self.now();
        let mut actions = self.planner.event(JobEvent::Startup, now);
        actions.extend(self.planner.due(now));
        self.apply(actions);
    }

    /// Starts the startup jobs, and waits for the blocking ones.
    pub async fn run_blocking(&mut self) {
        self.start_recorder();
        self.check_requirements();
        self.run_startup_jobs();
        let until = Instant::now() + BLOCKING_MAX;
        while self.active.values().any(|active_run| self.is_blocking(&active_run.run.job)) {
            match tokio::time::timeout_at(until, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => self.run_ended(ended),
                Ok(None) => return,
                Err(_elapsed) => {
                    warn!("blocking jobs are not done within {} s: the start continues", BLOCKING_MAX.as_secs());
                    return;
                }
            }
        }
    }

    /// Runs until `stop`, then ends the runs in progress.
    pub async fn run(mut self, heartbeat: Heartbeat, stop: CancellationToken) -> anyhow::Result<()> {
        self.start_recorder();
        let wake = Arc::new(Notify::new());
        let mut ticker = start_ticker(wake.clone()).await?;
        while !stop.is_cancelled() {
            heartbeat.beat();
            self.tick();
            self.save_state().await;
            let wait = self.planner.wait(self.now()).unwrap_or(TICK_MAX).min(TICK_MAX);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = wake.notified() => {}
                () = cancelled(self.startup.as_ref()) => self.run_startup_jobs(),
                () = self.events.notified() => {}
                Some(ended) = self.tasks.join_next_with_id() => self.run_ended(ended),
                Some(request) = self.requests.recv() => self.handle(request).await,
                Some(runs) = received(&mut self.previous_runs) => self.restore_last_runs(runs),
            }
        }
        if let Err(error) = ticker.shutdown().await {
            warn!("cannot stop the scheduler's ticker: {error}");
        }
        self.stop().await;
        heartbeat.retire();
        Ok(())
    }

    /// Handles the events, the due jobs and the silent jobs.
    fn tick(&mut self) {
        let now = self.now();
        self.check_requirements();
        for event in self.events.take() {
            let actions = self.planner.event(event, now);
            self.apply(actions);
        }
        let actions = self.planner.due(now);
        self.apply(actions);
        self.alarms.set_silent(self.planner.silent_jobs(now));
    }

    /// Checks the requirements of all jobs.
    fn check_requirements(&mut self) {
        let unmet = |requirement| Some((requirement, (self.deps.conditions)(requirement).err()?));
        let unmet = self.planner.requirements().into_iter().filter_map(unmet).collect();
        self.planner.set_unmet(unmet);
    }

    fn start_recorder(&mut self) {
        let Some(recorder) = self.recorder.take() else { return };
        let (sender, receiver) = oneshot::channel();
        self.previous_runs = Some(receiver);
        // Outside the supervisor's groups: a panic here costs rows of the run history and no market data, and `record`
        // reports every row that it costs.
        self.recorder_task = Some(tokio::spawn(recorder.run(sender)));
    }

    fn now(&self) -> Now {
        Now { wall: self.deps.clock.now(), monotonic: self.origin.elapsed() }
    }

    fn is_blocking(&self, name: &str) -> bool {
        self.planner.spec(name).is_some_and(|spec| spec.blocking)
    }

    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start(firing) => {
                    self.start(firing, None);
                }
                Action::Cancel(name) => {
                    for active_run in self.active.values().filter(|active_run| active_run.run.job == name) {
                        active_run.stop_tokens.cancel.cancel();
                    }
                }
                Action::Skip(skipped) => self.not_run(&skipped, "skipped"),
                Action::Defer(skipped) => self.not_run(&skipped, "deferred"),
            }
        }
    }

    /// Starts a run; returns its id.
    fn start(&mut self, firing: Firing, done: Option<oneshot::Sender<JobRun>>) -> String {
        let mut run = new_run(&firing);
        run.started_at = Some(self.deps.clock.now().micros());
        let run_id = run.run_id.clone();
        // The planner only starts jobs that it has.
        let Some(spec) = self.planner.spec(&firing.job).cloned() else { return run_id };
        self.stats.entry(firing.job).or_default().started(&run);
        self.record(run.clone(), None);
        let stop_tokens = StopTokens::default();
        let (services, clock) = (self.deps.services.clone(), self.deps.clock.clone());
        let active_run = ActiveRun { run: run.clone(), on_stop: spec.on_stop, stop_tokens: stop_tokens.clone(), done };
        let task = self.tasks.spawn(execute(spec, run, services, clock, stop_tokens));
        self.active.insert(task.id(), active_run);
        run_id
    }

    /// Records instants that do not run: one row for each series.
    fn not_run(&mut self, skipped: &Skipped, outcome: &str) {
        let Skipped { job, first, last, count, reason } = skipped;
        // From `COUNT_MAX` on the planner counts no further; one of the instants may run.
        let at_least = if count.saturating_add(1) >= COUNT_MAX { "at least " } else { "" };
        let stretch =
            if *count > 1 { format!("{at_least}{count} instants from {first} to {last}: ") } else { String::new() };
        let firing = Firing {
            job: job.clone(),
            trigger: super::planner::Trigger::Schedule,
            scheduled_at: *first,
            attempt: 1,
            window: None,
        };
        let mut run = new_run(&firing);
        run.outcome = outcome.to_owned();
        run.reason = format!("{stretch}{reason}");
        run.finished_at = Some(self.deps.clock.now().micros());
        let stats = self.stats.entry(job.clone()).or_default();
        stats.not_run(&mut run, *count);
        report::ended(&run, None);
        self.record(run, None);
    }

    fn run_ended(&mut self, ended: Result<(Id, (JobRun, Option<String>)), JoinError>) {
        let (id, run, summary) = match ended {
            Ok((id, (run, summary))) => (id, Some(run), summary),
            Err(error) => {
                error!("the task that executes a run failed: {error}");
                (error.id(), None, None)
            }
        };
        let Some(active_run) = self.active.remove(&id) else { return };
        let run = run.unwrap_or_else(|| JobRun {
            outcome: "failed".to_owned(),
            reason: "the task that executes it failed".to_owned(),
            finished_at: Some(self.deps.clock.now().micros()),
            ..active_run.run
        });
        let now = self.now();
        let (job, outcome) = (&run.job, &run.outcome);
        let ended = match outcome.as_str() {
            "succeeded" => RunOutcome::Succeeded,
            "cancelled" => RunOutcome::Cancelled,
            _ => RunOutcome::Failed,
        };
        let stats = self.stats.entry(job.clone()).or_default();
        stats.ended(&run, summary.clone());
        let follow_up = self.planner.finished(job, ended, now);
        report::ended(&run, summary.as_deref());
        report::follow_up(job, &follow_up);
        let alert = self.planner.spec(job).is_some_and(|spec| spec.alert);
        match (ended, follow_up) {
            (RunOutcome::Succeeded, _) => self.alarms.succeeded(job),
            (RunOutcome::Failed, FollowUp::Nothing | FollowUp::Paused(_)) if alert => {
                self.alarms.failed(job, &run.run_id, &format!("{outcome}: {}", run.reason));
            }
            _ => {}
        }
        self.record(run, active_run.done);
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::List(reply) => drop(reply.send(self.list())),
            Request::Run(name, reply, done) => {
                let started = self.planner.start_now(&name, self.now()).map(|firing| self.start(firing, done));
                // The caller may have gone; the run continues.
                reply.send(started).ok();
            }
            Request::Pause(name, reason, reply) => {
                let exists = self.pause(&name, reason.as_deref());
                // Save first: the reply promises that the pause survives a restart.
                self.save_state().await;
                reply.send(exists).ok();
            }
            Request::Replace(schedule, dry_run, reply) => {
                let now = self.now();
                let changes =
                    if dry_run { self.planner.compare(&schedule, now) } else { self.planner.replace(schedule, now) };
                self.alarms.retain(|name| self.planner.spec(name).is_some());
                reply.send(changes).ok();
            }
        }
    }

    fn pause(&mut self, name: &str, reason: Option<&str>) -> bool {
        let Some(reason) = reason else {
            let Some(actions) = self.planner.resume(name, self.now()) else { return false };
            self.apply(actions);
            info!(JOB = %name, "{name} is resumed");
            return true;
        };
        let exists = self.planner.pause(name, reason);
        if exists {
            info!(JOB = %name, "{name} is paused: {reason}");
        }
        exists
    }

    fn list(&self) -> Vec<JobStatus> {
        let now = self.now();
        let status = |spec: &JobSpec| {
            let stats = self.stats.get(&spec.name).cloned().unwrap_or_default();
            JobStatus::new(spec, stats, &self.planner, now)
        };
        self.planner.specs().map(status).collect()
    }

    /// Shows the last run of each job from before this process.
    fn restore_last_runs(&mut self, runs: Vec<JobRun>) {
        for run in runs {
            let stats = self.stats.entry(run.job.clone()).or_default();
            if stats.last.is_none() {
                stats.last = Some(run);
            }
        }
    }

    fn record(&self, run: JobRun, done: Option<oneshot::Sender<JobRun>>) {
        if let Err(error) = self.records.try_send(Record { run, done }) {
            let run = &error.into_inner().run;
            warn!(JOB = %run.job, RUN_ID = %run.run_id, "cannot record a run of {}: history is down too long", run.job);
        }
    }

    /// Saves the state that must survive a restart.
    async fn save_state(&mut self) {
        self.state_file.save(self.planner.take_changed_state()).await;
    }

    /// Ends the runs by their `on_stop` policies, aborts the rest, and waits for the last records.
    async fn stop(mut self) {
        let last = |spec: &&JobSpec| {
            let on = matches!(&spec.when, When::On(events) if events.contains(&JobEvent::Shutdown));
            spec.enabled && (on || spec.on_stop == OnStop::Run)
        };
        for active_run in self.active.values().filter(|active_run| active_run.on_stop == OnStop::Cancel) {
            active_run.stop_tokens.cancel.cancel();
        }
        self.check_requirements();
        let names: Vec<String> = self.planner.specs().filter(last).map(|spec| spec.name.clone()).collect();
        for name in names.into_iter().filter(|name| self.planner.paused(name).is_none()).collect::<Vec<_>>() {
            match self.planner.start_now(&name, self.now()) {
                Ok(firing) => drop(self.start(Firing { trigger: super::planner::Trigger::Event, ..firing }, None)),
                Err(reason) => {
                    let at = self.now().wall;
                    self.not_run(&Skipped { job: name, first: at, last: at, count: 1, reason }, "skipped");
                }
            }
        }
        let until = Instant::now() + self.planner.options().stop_grace;
        while let Ok(Some(ended)) = tokio::time::timeout_at(until, self.tasks.join_next_with_id()).await {
            self.run_ended(ended);
        }
        for active_run in self.active.values() {
            active_run.stop_tokens.abort.cancel();
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.run_ended(ended);
        }
        self.save_state().await;
        let Self { records, recorder_task, .. } = self;
        drop(records);
        if let Some(recorder_task) = recorder_task
            && tokio::time::timeout(RECORDS_GRACE, recorder_task).await.is_err()
        {
            warn!("the last runs are not recorded: history is down");
        }
    }
}

/// Waits for a cancellation; never returns without a token.
async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Waits for the runs; `None` once they were received.
async fn received(runs: &mut Option<oneshot::Receiver<Vec<JobRun>>>) -> Option<Vec<JobRun>> {
    let received = runs.as_mut()?.await;
    *runs = None;
    received.ok()
}

/// The machine's own id keeps stable jitter apart between machines that run the same file.
fn seeds() -> Seeds {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machine = id.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Seeds { process: rand::random(), machine }
}

/// Wakes the runner once a second.
async fn start_ticker(wake: Arc<Notify>) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("create the scheduler's ticker")?;
    let job = Job::new("* * * * * *", move |_, _| wake.notify_one()).context("create the scheduler's ticker")?;
    scheduler.add(job).await.context("add the scheduler's ticker")?;
    scheduler.start().await.context("start the scheduler's ticker")?;
    Ok(scheduler)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
