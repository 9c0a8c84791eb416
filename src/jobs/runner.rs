//! Runs what the planner says is due, records every run, and answers those who ask.
//!
//! It sleeps until the planner's next instant. A sleeping runner cannot see a stepped clock or a resumed
//! machine; tokio-cron-scheduler wakes it once a second for these (and decides nothing: its repeated jobs do
//! not survive a stall, see the platform's notes in `lib.rs`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
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
use crate::history::{History, JobRun};
use crate::market::Timestamp;
use crate::pulse::Pulse;

use super::execute::{Stops, execute};
use super::handle::{JobsHandle, Request};
use super::memory::{self, Memory};
use super::planner::{Act, Changes, Ended, Firing, Now, Planner, Seeds, Skip};
use super::recorder::{RECORDS_MAX, Record, Recorder};
use super::report;
use super::spec::{JobEvent, JobSpec, OnStop, Schedule, When};
use super::status::{JobStatus, Past, words};
use super::tasks::Services;

/// Longest time without a turn.
const TURN_MAX: Duration = Duration::from_secs(1);
/// How long READY waits for blocking jobs: one that waits for a store that is down goes on beside the service.
const BLOCKING_MAX: Duration = Duration::from_secs(10);
/// How long a turn waits for the state file; a slower disk is waited for in the next one.
const SAVE_MAX: Duration = Duration::from_secs(1);
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
}

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
    file: Option<PathBuf>,
    unsaved: Option<Memory>,
    saving: Option<JoinHandle<anyhow::Result<()>>>,
    /// The jobs of the start are run when it is cancelled: what they act on is away until then.
    startup: Option<CancellationToken>,
}

impl Runner {
    /// A runner of this schedule, and its handle. Pauses and calendars are remembered in `directory` over restarts.
    pub fn new(parts: RunnerParts, schedule: Schedule, directory: Option<&Path>) -> (Self, JobsHandle) {
        let (handle, requests) = JobsHandle::new();
        let (records, recorded) = mpsc::channel(RECORDS_MAX);
        let file = directory.map(|directory| directory.join(memory::FILE));
        let memory = file.as_deref().map_or_else(|| Ok(Memory::default()), Memory::load).unwrap_or_else(|error| {
            warn!("jobs forget their pauses and what they missed: {error:#}");
            Memory::default()
        });
        let now = Now { wall: parts.clock.now(), monotonic: Duration::ZERO };
        let planner = Planner::new(schedule, &memory, seeds(), now);
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
            file,
            unsaved: None,
            saving: None,
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
    pub async fn run(mut self, pulse: Pulse, stop: CancellationToken) -> anyhow::Result<()> {
        self.begin();
        let poke = Arc::new(Notify::new());
        let mut sweep = sweep(poke.clone()).await?;
        while !stop.is_cancelled() {
            pulse.beat();
            let now = self.now();
            let acts = self.planner.due(now);
            self.act(acts);
            self.remember().await;
            let wait = self.planner.wait(self.now()).unwrap_or(TURN_MAX).min(TURN_MAX);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                () = poke.notified() => {}
                () = cancelled(self.startup.as_ref()) => self.start_up(),
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(request) = self.requests.recv() => self.answer(request).await,
                Some(runs) = told(&mut self.found) => self.recall(runs),
            }
        }
        if let Err(error) = sweep.shutdown().await {
            warn!("the scheduler's sweep did not end: {error}");
        }
        self.stop().await;
        pulse.retire();
        Ok(())
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
                Act::Skip(skip) => self.skip(&skip),
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
        let past = self.past.entry(firing.job).or_default();
        past.running = true;
        past.runs += 1;
        self.record(run.clone(), None);
        let stops = Stops::default();
        let (services, clock) = (self.parts.services.clone(), self.parts.clock.clone());
        let running = Running { run: run.clone(), on_stop: spec.on_stop, stops: stops.clone(), done };
        let task = self.running.spawn(execute(spec, run, services, clock, stops));
        self.known.insert(task.id(), running);
        run_id
    }

    /// Nothing is skipped in silence: the runs that do not happen are recorded too, one row for a stretch of them.
    fn skip(&mut self, skip: &Skip) {
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
        run.outcome = "skipped".to_owned();
        run.reason = format!("{stretch}{reason}");
        run.finished_at = Some(self.parts.clock.now().micros());
        report::ended(&run, None);
        let past = self.past.entry(job.clone()).or_default();
        past.missed += count;
        past.last = Some(run.clone());
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
        past.running = false;
        past.summary = summary.clone();
        past.last = Some(run.clone());
        if ended == Ended::Failed {
            past.failures += 1;
        }
        report::ended(&run, summary.as_deref());
        report::afterwards(&run.job, &self.planner.finished(&run.job, ended, now));
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
                    if dry_run { self.planner.compare(&schedule) } else { self.planner.replace(schedule, now) };
                answer.send(said(&changes)).ok();
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
            let paused_reason = self.planner.paused(&spec.name).map(str::to_owned);
            JobStatus {
                name: spec.name.clone(),
                task: spec.task.as_str().to_owned(),
                description: spec.description.clone(),
                when: words(&spec.when),
                enabled: spec.enabled,
                paused: paused_reason.is_some(),
                paused_reason,
                running: past.running,
                next_run: self.planner.next(&spec.name, now).map(Timestamp::rfc3339),
                last_outcome: past.last.as_ref().map(|run| run.outcome.clone()),
                last_finished: past.last.as_ref().and_then(|run| run.finished_at).map(|at| Timestamp(at).rfc3339()),
                last_lateness_ms: past.lateness_ms(),
                last_summary: past.summary,
                runs: past.runs,
                failures: past.failures,
                missed: past.missed,
            }
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
        if let Some(memory) = self.planner.news() {
            self.unsaved = Some(memory);
        }
        let Some(file) = &self.file else { return };
        // One write at a time: two would tear the new file.
        if let Some(saving) = &mut self.saving {
            match tokio::time::timeout(SAVE_MAX, saving).await {
                Ok(saved) => self.saving = report_saved(saved),
                Err(_elapsed) => return,
            }
        }
        let Some(memory) = self.unsaved.take() else { return };
        let file = file.clone();
        let mut saving = tokio::task::spawn_blocking(move || memory.save(&file));
        self.saving = match tokio::time::timeout(SAVE_MAX, &mut saving).await {
            Ok(saved) => report_saved(saved),
            Err(_elapsed) => Some(saving),
        };
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
        let names: Vec<String> = self.planner.specs().filter(last).map(|spec| spec.name.clone()).collect();
        for name in names.into_iter().filter(|name| self.planner.paused(name).is_none()).collect::<Vec<_>>() {
            match self.planner.ask(&name, self.now()) {
                Ok(firing) => drop(self.start(Firing { trigger: super::planner::Trigger::Event, ..firing }, None)),
                Err(why) => warn!(JOB = %name, "{name} does not run at the stop: {why}"),
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

fn report_saved(saved: Result<anyhow::Result<()>, JoinError>) -> Option<JoinHandle<anyhow::Result<()>>> {
    match saved {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("a restart will not know what is paused and what was run: {error:#}"),
        Err(error) => warn!("a restart will not know what is paused and what was run: {error}"),
    }
    None
}

fn new_run(firing: &Firing) -> JobRun {
    JobRun {
        run_id: uuid::Uuid::now_v7().to_string(),
        job: firing.job.clone(),
        trigger: firing.trigger.as_str().to_owned(),
        scheduled_at: firing.scheduled_at.micros(),
        started_at: None,
        finished_at: None,
        attempt: i64::from(firing.attempt),
        outcome: "running".to_owned(),
        reason: String::new(),
        window: firing.window.map(|(from, to)| (from.micros(), to.micros())),
        report: String::new(),
    }
}

fn said(changes: &Changes) -> String {
    let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let Changes { added, changed, removed } = changes;
    format!("jobs added: {}, changed: {}, removed: {}", names(added), names(changed), names(removed))
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
