//! Runs what the planner says is due, records every run, and answers those who ask.
//!
//! It sleeps until the planner's next instant. A sleeping runner cannot see a stepped clock or a resumed
//! machine; tokio-cron-scheduler wakes it once a second for these (and decides nothing: its repeated jobs do
//! not survive a stall, see the platform's notes in `lib.rs`).

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
use super::events::Events;
use super::execute::{Stops, execute, new_run};
use super::handle::{JobsHandle, Request};
use super::memory::{self, Memory, MemoryFile};
use super::planner::{Act, Afterwards, Ended, Firing, Now, Planner, Seeds, Skip};
use super::recorder::{RECORDS_MAX, Record, Recorder};
use super::report;
use super::spec::{JobEvent, JobSpec, OnStop, Requirement, Schedule, When};
use super::status::{JobStatus, Past};
use super::tasks::Services;

/// Longest time without a turn.
const TURN_MAX: Duration = Duration::from_secs(1);
/// How long READY waits for blocking jobs: one that waits for a store that is down goes on beside the service.
const BLOCKING_MAX: Duration = Duration::from_secs(10);
/// How long the records of the last runs may take at the stop.
const RECORDS_GRACE: Duration = Duration::from_secs(1);

/// What the runner works with.
pub struct RunnerParts {
    /// What tasks act on.
    pub services: Services,
    /// Where runs are recorded.
    pub history: Arc<dyn History>,
    /// The wall clock.
    pub clock: Clock,
    /// Where silent and failing jobs are told.
    pub health: Health,
    /// Tells whether what a run requires is there, or why it is not.
    pub conditions: Conditions,
}

/// Tells whether what a run requires is there, or why it is not. Asked in every turn: it answers from what is known.
pub type Conditions = Arc<dyn Fn(Requirement) -> Result<(), String> + Send + Sync>;

/// A run that goes on.
struct Running {
    run: JobRun,
    on_stop: OnStop,
    stops: Stops,
    done: Option<oneshot::Sender<JobRun>>,
}

/// Runs jobs.
pub struct Runner {
    parts: RunnerParts,
    planner: Planner,
    past: HashMap<String, Past>,
    requests: mpsc::Receiver<Request>,
    running: JoinSet<(JobRun, Option<String>)>,
    /// What each task of `running` runs.
    known: HashMap<Id, Running>,
    origin: Instant,
    records: mpsc::Sender<Record>,
    recorder: Option<Recorder>,
    recording: Option<JoinHandle<()>>,
    /// The newest runs from before this process, once history has told them.
    found: Option<oneshot::Receiver<Vec<JobRun>>>,
    /// Where the planner's memory is kept.
    memory: MemoryFile,
    alarms: Alarms,
    events: Arc<Events>,
    /// The jobs of the start are run when it is cancelled: what they act on is away until then.
    startup: Option<CancellationToken>,
}

impl Runner {
    /// A runner of this schedule, and its handle. Pauses and calendars are remembered in `directory` over restarts.
    pub fn new(parts: RunnerParts, schedule: Schedule, directory: Option<&Path>) -> (Self, JobsHandle) {
        let events = Arc::new(Events::default());
        let (handle, requests) = JobsHandle::new(events.clone());
        let (records, recorded) = mpsc::channel(RECORDS_MAX);
        let file = directory.map(|directory| directory.join(memory::FILE));
        let memory = file.as_deref().map_or_else(|| Ok(Memory::default()), Memory::load).unwrap_or_else(|error| {
            warn!("jobs forget their pauses and what they missed: {error:#}");
            Memory::default()
        });
        let now = Now { wall: parts.clock.now(), monotonic: Duration::ZERO };
        let planner = Planner::new(schedule, &memory, seeds(), now);
        let alarms = Alarms::new(parts.health.clone());
        let recorder = Recorder::new(parts.history.clone(), parts.clock.clone(), recorded);
        let runner = Self {
            parts,
            planner,
            past: HashMap::new(),
            requests,
            running: JoinSet::new(),
            known: HashMap::new(),
            origin: Instant::now(),
            records,
            recorder: Some(recorder),
            recording: None,
            found: None,
            memory: MemoryFile::new(file),
            alarms,
            events,
            startup: None,
        };
        (runner, handle)
    }

    /// Instead of [`Runner::run_blocking`]: the jobs of the start are run once `there` is cancelled.
    pub fn start_up_after(&mut self, there: CancellationToken) {
        self.startup = Some(there);
    }

    fn start_up(&mut self) {
        self.startup = None;
        let now = self.now();
        let mut acts = self.planner.event(JobEvent::Startup, now);
        acts.extend(self.planner.due(now));
        self.act(acts);
    }

    /// Runs the jobs of the start, and waits for those that READY waits for.
    pub async fn run_blocking(&mut self) {
        self.begin();
        self.observe();
        self.start_up();
        let until = Instant::now() + BLOCKING_MAX;
        while self.known.values().any(|running| self.is_blocking(&running.run.job)) {
            match tokio::time::timeout_at(until, self.running.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended),
                Ok(None) => return,
                Err(_elapsed) => {
                    warn!("jobs that the start waits for are not done within {} s: it goes on", BLOCKING_MAX.as_secs());
                    return;
                }
            }
        }
    }

    /// Runs until `stop`, then ends what runs.
    pub async fn run(mut self, heartbeat: Heartbeat, stop: CancellationToken) -> anyhow::Result<()> {
        self.begin();
        let poke = Arc::new(Notify::new());
        let mut sweep = sweep(poke.clone()).await?;
        while !stop.is_cancelled() {
            heartbeat.beat();
            self.turn();
            self.remember().await;
            let wait = self.planner.wait(self.now()).unwrap_or(TURN_MAX).min(TURN_MAX);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = poke.notified() => {}
                () = cancelled(self.startup.as_ref()) => self.start_up(),
                () = self.events.rung() => {}
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(request) = self.requests.recv() => self.answer(request).await,
                Some(runs) = told(&mut self.found) => self.recall(runs),
            }
        }
        if let Err(error) = sweep.shutdown().await {
            warn!("the scheduler's sweep did not end: {error}");
        }
        self.stop().await;
        heartbeat.retire();
        Ok(())
    }

    /// What happened, what is due, who is silent.
    fn turn(&mut self) {
        let now = self.now();
        self.observe();
        for event in self.events.take() {
            let acts = self.planner.event(event, now);
            self.act(acts);
        }
        let acts = self.planner.due(now);
        self.act(acts);
        self.alarms.silent(self.planner.silent(now));
    }

    /// Looks for what runs require.
    fn observe(&mut self) {
        let unmet = |requirement| Some((requirement, (self.parts.conditions)(requirement).err()?));
        let unmet = self.planner.requirements().into_iter().filter_map(unmet).collect();
        self.planner.observe(unmet);
    }

    fn begin(&mut self) {
        let Some(recorder) = self.recorder.take() else { return };
        let (found, told) = oneshot::channel();
        self.found = Some(told);
        self.recording = Some(tokio::spawn(recorder.run(found)));
    }

    fn now(&self) -> Now {
        Now { wall: self.parts.clock.now(), monotonic: self.origin.elapsed() }
    }

    fn is_blocking(&self, name: &str) -> bool {
        self.planner.spec(name).is_some_and(|spec| spec.blocking)
    }

    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Start(firing) => {
                    self.start(firing, None);
                }
                Act::Cancel(name) => {
                    for running in self.known.values().filter(|running| running.run.job == name) {
                        running.stops.cancel.cancel();
                    }
                }
                Act::Skip(skip) => self.not_run(&skip, "skipped"),
                Act::Defer(skip) => self.not_run(&skip, "deferred"),
            }
        }
    }

    /// Starts a run; returns its id.
    fn start(&mut self, firing: Firing, done: Option<oneshot::Sender<JobRun>>) -> String {
        let mut run = new_run(&firing);
        run.started_at = Some(self.parts.clock.now().micros());
        let run_id = run.run_id.clone();
        // The planner only starts what it has.
        let Some(spec) = self.planner.spec(&firing.job).cloned() else { return run_id };
        self.past.entry(firing.job).or_default().started(&run);
        self.record(run.clone(), None);
        let stops = Stops::default();
        let (services, clock) = (self.parts.services.clone(), self.parts.clock.clone());
        let running = Running { run: run.clone(), on_stop: spec.on_stop, stops: stops.clone(), done };
        let task = self.running.spawn(execute(spec, run, services, clock, stops));
        self.known.insert(task.id(), running);
        run_id
    }

    /// Nothing is skipped in silence: the runs that do not happen are recorded too, one row for a stretch of them.
    fn not_run(&mut self, skip: &Skip, outcome: &str) {
        let Skip { job, first, last, count, reason } = skip;
        let stretch = if *count > 1 { format!("{count} instants from {first} to {last}: ") } else { String::new() };
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
        run.finished_at = Some(self.parts.clock.now().micros());
        let past = self.past.entry(job.clone()).or_default();
        past.not_run(&mut run, *count);
        report::ended(&run, None);
        self.record(run, None);
    }

    fn ended(&mut self, ended: Result<(Id, (JobRun, Option<String>)), JoinError>) {
        let (id, run, summary) = match ended {
            Ok((id, (run, summary))) => (id, Some(run), summary),
            Err(error) => {
                error!("a run's own task failed: {error}");
                (error.id(), None, None)
            }
        };
        let Some(running) = self.known.remove(&id) else { return };
        let run = run.unwrap_or_else(|| JobRun {
            outcome: "failed".to_owned(),
            reason: "its own task failed".to_owned(),
            finished_at: Some(self.parts.clock.now().micros()),
            ..running.run
        });
        let now = self.now();
        let (job, outcome) = (&run.job, &run.outcome);
        let ended = match outcome.as_str() {
            "succeeded" => Ended::Succeeded,
            "cancelled" => Ended::Cancelled,
            _ => Ended::Failed,
        };
        let past = self.past.entry(job.clone()).or_default();
        past.ended(&run, summary.clone());
        let afterwards = self.planner.finished(job, ended, now);
        report::ended(&run, summary.as_deref());
        report::afterwards(job, &afterwards);
        let alert = self.planner.spec(job).is_some_and(|spec| spec.alert);
        match (ended, afterwards) {
            (Ended::Succeeded, _) => self.alarms.succeeded(job),
            (Ended::Failed, Afterwards::Nothing | Afterwards::Paused(_)) if alert => {
                self.alarms.failed(job, &run.run_id, &format!("{outcome}: {}", run.reason));
            }
            _ => {}
        }
        self.record(run, running.done);
    }

    async fn answer(&mut self, request: Request) {
        match request {
            Request::List(answer) => drop(answer.send(self.list())),
            Request::Run(name, answer, done) => {
                let started = self.planner.ask(&name, self.now()).map(|firing| self.start(firing, done));
                // Whoever asked may be gone; the run goes on.
                answer.send(started).ok();
            }
            Request::Pause(name, reason, answer) => {
                let known = self.pause(&name, reason.as_deref());
                // The answer is a promise that holds over a restart.
                self.remember().await;
                answer.send(known).ok();
            }
            Request::Replace(schedule, dry_run, answer) => {
                let now = self.now();
                let changes =
                    if dry_run { self.planner.compare(&schedule, now) } else { self.planner.replace(schedule, now) };
                self.alarms.keep(|name| self.planner.spec(name).is_some());
                answer.send(changes).ok();
            }
        }
    }

    fn pause(&mut self, name: &str, reason: Option<&str>) -> bool {
        let Some(reason) = reason else {
            let Some(acts) = self.planner.resume(name, self.now()) else { return false };
            self.act(acts);
            info!(JOB = %name, "{name} is resumed");
            return true;
        };
        let known = self.planner.pause(name, reason);
        if known {
            info!(JOB = %name, "{name} is paused: {reason}");
        }
        known
    }

    fn list(&self) -> Vec<JobStatus> {
        let now = self.now();
        let status = |spec: &JobSpec| {
            let past = self.past.get(&spec.name).cloned().unwrap_or_default();
            JobStatus::new(spec, past, &self.planner, now)
        };
        self.planner.specs().map(status).collect()
    }

    /// How each job ended in the process before.
    fn recall(&mut self, runs: Vec<JobRun>) {
        for run in runs {
            let past = self.past.entry(run.job.clone()).or_default();
            if past.last.is_none() {
                past.last = Some(run);
            }
        }
    }

    fn record(&self, run: JobRun, done: Option<oneshot::Sender<JobRun>>) {
        if let Err(error) = self.records.try_send(Record { run, done }) {
            let run = &error.into_inner().run;
            warn!(JOB = %run.job, RUN_ID = %run.run_id, "a run of {} is not recorded: history is away too long", run.job);
        }
    }

    /// Keeps what must survive a restart.
    async fn remember(&mut self) {
        self.memory.keep(self.planner.news()).await;
    }

    /// Lets runs end as their jobs say, aborts what is left, and waits for the last records.
    async fn stop(mut self) {
        let last = |spec: &&JobSpec| {
            let on = matches!(&spec.when, When::On(events) if events.contains(&JobEvent::Shutdown));
            spec.enabled && (on || spec.on_stop == OnStop::Run)
        };
        for running in self.known.values().filter(|running| running.on_stop == OnStop::Cancel) {
            running.stops.cancel.cancel();
        }
        self.observe();
        let names: Vec<String> = self.planner.specs().filter(last).map(|spec| spec.name.clone()).collect();
        for name in names.into_iter().filter(|name| self.planner.paused(name).is_none()).collect::<Vec<_>>() {
            match self.planner.ask(&name, self.now()) {
                Ok(firing) => drop(self.start(Firing { trigger: super::planner::Trigger::Event, ..firing }, None)),
                Err(reason) => {
                    let at = self.now().wall;
                    self.not_run(&Skip { job: name, first: at, last: at, count: 1, reason }, "skipped");
                }
            }
        }
        let until = Instant::now() + self.planner.options().stop_grace;
        while let Ok(Some(ended)) = tokio::time::timeout_at(until, self.running.join_next_with_id()).await {
            self.ended(ended);
        }
        for running in self.known.values() {
            running.stops.abort.cancel();
        }
        while let Some(ended) = self.running.join_next_with_id().await {
            self.ended(ended);
        }
        self.remember().await;
        let Self { records, recording, .. } = self;
        drop(records);
        if let Some(recording) = recording
            && tokio::time::timeout(RECORDS_GRACE, recording).await.is_err()
        {
            warn!("the last runs are not recorded: history is away");
        }
    }
}

/// Never, when there is nothing to wait for.
async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Never, once it was told.
async fn told(found: &mut Option<oneshot::Receiver<Vec<JobRun>>>) -> Option<Vec<JobRun>> {
    let runs = found.as_mut()?.await;
    *found = None;
    runs.ok()
}

/// The machine's own id keeps stable jitter apart between machines that run the same file.
fn seeds() -> Seeds {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machine = id.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Seeds { process: rand::random(), machine }
}

/// Pokes the runner once a second, by UTC.
async fn sweep(poke: Arc<Notify>) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("make the scheduler's sweep")?;
    let job = Job::new("* * * * * *", move |_, _| poke.notify_one()).context("make the scheduler's sweep")?;
    scheduler.add(job).await.context("add the scheduler's sweep")?;
    scheduler.start().await.context("start the scheduler's sweep")?;
    Ok(scheduler)
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
