//! The composition root: builds the service, starts its tasks in order and stops them in order. The only module that
//! names backends; every decision about data belongs to the modules that it connects.
//!
//! Start: lock the directory -> restore the snapshot -> open the log -> connect the exchanges (from here frames are
//! safe, whatever else is slow) -> history and cache -> consume from the committed offset -> backfill and probes of the
//! tail -> repair, preload -> scheduler -> READY. When history is down, only the consumer waits for it.
//!
//! Stop: scheduler and API -> sockets -> ingest flushes -> consume drains -> backfill -> last snapshot -> stores.

mod backends;
mod conditions;
mod events;
mod exchange_monitor;
pub mod exchange_runtime;
mod faults;
mod listing_report;
mod lost_history;
mod main_loop;
pub mod recorded;
mod recording;
mod reload;
mod reload_queue;
mod restore;
mod snapshot_saver;
mod sockets;
mod status;
mod store_watch;
pub mod stores;
mod stream_health;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::admin::{ReloadCount, ReloadRequest};
use crate::backfill;
use crate::cache::{Cache, PendingUpdates};
use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::ListingStates;
use crate::exchange::rest::Rest;
use crate::exchange::socket::Connections;
use crate::exit::{DATA, Failure, INTERNAL, USAGE};
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::History;
use crate::ingest::Counters;
use crate::jobs::spec::Schedule;
use crate::ledger::SharedLedger;
use crate::log::{Log, LogError, Offsets};
use crate::market::{Exchange, Stream, Timestamp};
use crate::messages;
use crate::progress::Progress;
use crate::signals::Request;
use crate::state::{Snapshot, StateFile};
use crate::supervisor::{self, Group, TaskFailure};
use crate::systemd;
use crate::writer::Writer;

use recorded::Recorded;
pub use reload::ConfigPaths;
use reload::Reloader;
pub use snapshot_saver::SnapshotSaver;

/// The grace period of each group in a stop, in order. Their sum stays below the unit's `TimeoutStopSec` (a test reads
/// the unit file).
pub const GRACES: [(&str, Duration); 7] = [
    ("jobs", Duration::from_secs(5)),
    ("admin", Duration::from_secs(2)),
    ("sockets", Duration::from_secs(2)),
    ("ingest", Duration::from_secs(5)),
    ("consume", Duration::from_secs(10)),
    ("backfill", Duration::from_secs(4)),
    ("cache", Duration::from_secs(3)),
];
/// The grace period of the last snapshot and of closing the stores.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// Longest time for which a start asks systemd for more time: it may migrate a large file of an older schema or read a
/// large log again.
const START_MAX: Duration = Duration::from_secs(1_800);

/// What [`run`] needs from the command line.
pub struct RunOptions {
    /// The configuration.
    pub config: Config,
    /// The schedule.
    pub schedule: Schedule,
    /// The files that a reload reads again.
    pub config_paths: ConfigPaths,
}

/// Requests to the running service.
struct Requests {
    signals: mpsc::Receiver<Request>,
    reloads: mpsc::Receiver<ReloadRequest>,
    /// A reload was requested before the start was over.
    reload_pending: bool,
}

impl Requests {
    /// Returns when a signal requests a stop, with the signal and its sender.
    async fn stop(&mut self) -> String {
        loop {
            match self.signals.recv().await {
                Some(Request::Stop(why)) => return why,
                Some(Request::Reload(_)) => self.reload_pending = true,
                None => return "the signal listener ended".to_owned(),
            }
        }
    }
}

/// The groups of tasks, in the order in which they stop.
struct Groups {
    jobs: Group,
    admin: Group,
    sockets: Group,
    ingest: Group,
    consume: Group,
    backfill: Group,
    cache: Group,
}

impl Groups {
    fn new() -> Self {
        let [jobs, admin, sockets, ingest, consume, backfill, cache] =
            GRACES.map(|(name, grace)| Group::new(name, grace));
        Self { jobs, admin, sockets, ingest, consume, backfill, cache }
    }

    async fn failure(&mut self) -> TaskFailure {
        supervisor::first_failure(&mut [
            &mut self.jobs,
            &mut self.admin,
            &mut self.sockets,
            &mut self.ingest,
            &mut self.consume,
            &mut self.backfill,
            &mut self.cache,
        ])
        .await
    }
}

/// What the running tasks share; cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// The configuration at start.
    pub config: Arc<Config>,
    /// The recorded streams.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// What decides about them: feeds and listings.
    pub recorded: Arc<Recorded>,
    /// The admin token; a reload replaces it.
    pub token: Arc<watch::Sender<Option<String>>>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// How far each stream is consumed and durable.
    pub progress: Arc<Progress>,
    /// The gap ledger.
    pub ledger: SharedLedger,
    /// What opens and repairs gaps.
    pub backfill: backfill::Deps,
    /// Every connection's state.
    pub connections: Connections,
    /// Counters of ingest.
    pub counters: Arc<Counters>,
    /// Whether the recorded symbols trade.
    pub listings: Arc<ListingStates>,
    /// Degraded parts.
    pub health: Health,
    /// Heartbeats of the recording loops.
    pub heartbeats: Heartbeats,
    /// The time.
    pub clock: Clock,
    /// When the process started, by the wall clock of that time.
    pub startup: Timestamp,
    /// When the process started, by the monotonic clock.
    pub started: Instant,
    /// Saves snapshots.
    pub saver: Arc<SnapshotSaver>,
    /// Sends reload requests to the main loop.
    pub reloads: mpsc::Sender<ReloadRequest>,
    /// Counts the reloads by outcome.
    pub reloaded: Arc<ReloadCount>,
}

/// Runs the service until a signal requests a stop or a task fails.
pub async fn run(run_options: RunOptions, signals: mpsc::Receiver<Request>) -> Result<(), Failure> {
    let clock = Clock::system();
    let faults_text = std::env::var("TAPEKEEPER_FAULTS").ok();
    let heartbeats = faults::heartbeats(faults_text.as_deref()).map_err(|error| Failure::new(USAGE, error))?;
    let health = Health::default();
    let _lock = stores::lock_data_dir(&run_options.config.data_dir).await?;
    let state = &run_options.config.data_dir;
    if let Some(stuck_loop) = systemd::take_stuck_loop(state) {
        error!(
            MESSAGE_ID = messages::WATCHDOG_RESTARTED, LOOP = %stuck_loop.name,
            "restarted by the watchdog: {stuck_loop}"
        );
        heartbeats.remember_stuck_loop(stuck_loop);
    }
    if let Some(interval) = systemd::watchdog_interval() {
        // Not in a group: the watchdog must outlive every task and ends with the process.
        systemd::feed_watchdog(heartbeats.clone(), interval, state)?;
    }
    let before =
        heartbeats.previous_stuck_loop().map(|stuck_loop| format!("restarted by the watchdog: {stuck_loop}; "));
    systemd::status(&format!("{}restoring the state", before.unwrap_or_default()));
    let mut groups = Groups::new();
    let (reloads, reload_requests) = mpsc::channel(4);
    let mut requests = Requests { signals, reloads: reload_requests, reload_pending: false };
    let started = start(&run_options, &clock, &health, &heartbeats, &mut groups, reloads);
    let started = tokio::select! {
        started = systemd::extend_timeout_while(START_MAX, started) => started.map(Some),
        // A stop during the start drops it: it would ask systemd for more time, and the stop would wait for it.
        why = requests.stop() => {
            info!(MESSAGE_ID = messages::STOPPING, "stopping before the start is over: {why}");
            systemd::stopping("stopping before the start is over");
            Ok(None)
        }
    };
    let (service, reloader) = match started {
        Ok(Some(started)) => started,
        unstarted => {
            // Appended frames stay in the log; nothing is acknowledged yet.
            groups.sockets.stop().await;
            groups.ingest.stop().await;
            systemd::barrier().await;
            return unstarted.map(|_nothing| ());
        }
    };
    let failure = main_loop::run(&service, &reloader, &mut requests, &mut groups).await;
    let reason = match &failure {
        Some(failure) => format!("{} failed: {}", failure.task, failure.reason),
        None => "stopping on request".to_owned(),
    };
    systemd::stopping(&reason);
    health.set_stopping();
    let longest = GRACES.iter().map(|(_, grace)| *grace).sum::<Duration>() + CLOSE_GRACE;
    let drained = systemd::extend_timeout_while(longest, stop(groups, &service)).await;
    systemd::barrier().await;
    match failure {
        Some(failure) => {
            // With a damaged log a restart would end in the same way: the unit does not restart after this code.
            let is_damaged = matches!(service.log.trouble(), Some(LogError::Damaged(_)));
            let why = anyhow!("{} failed: {}", failure.task, failure.reason);
            Err(Failure::new(if is_damaged { DATA } else { INTERNAL }, why))
        }
        None if !drained => {
            warn!("stopped before every frame was acknowledged: the next start consumes the rest from the log");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Starts everything, in order.
async fn start(
    run_options: &RunOptions,
    clock: &Clock,
    health: &Health,
    heartbeats: &Heartbeats,
    groups: &mut Groups,
    reloads: mpsc::Sender<ReloadRequest>,
) -> Result<(Service, Reloader), Failure> {
    let config = &run_options.config;
    let (file, cache) = (StateFile::new(&config.data_dir), stores::cache(config)?);
    let snapshot = restore::snapshot(&file, Some(&cache), &config.instance).await;
    let (recorded, listings) = recorded::restore(&config.feeds, snapshot.as_ref(), clock.now());
    let streams = recorded.streams().borrow().clone();
    let log = stores::log(config).await?;
    let (recording_starts, snapshot) = restore::recording_starts(&file, snapshot, &streams, clock);
    let shared = shared(log.clone(), &recorded, clock, health, heartbeats);
    let exchanges: BTreeSet<Exchange> = config.feeds.iter().map(|feed| feed.exchange).collect();
    let rest = rest_clients(config, &exchanges, clock, snapshot.as_ref())?;
    let mut runtimes = Vec::new();
    for exchange in exchanges {
        restore::defer_connections(&shared.connections, snapshot.as_ref(), exchange, clock);
        runtimes.push(exchange_runtime::start(rest[&exchange].clone(), exchange, &shared, groups)?);
    }
    systemd::status("connected, opening the stores");
    let committed = committed(&log, config, snapshot.as_ref(), health).await?;
    let generation = snapshot.as_ref().map_or(0, |snapshot| snapshot.generation);
    let (history, pending_resume) = recording::open(config, snapshot, streams, clock, health).await?;
    let (progress, pending_updates) = (Arc::<Progress>::default(), Arc::new(PendingUpdates::of(recorded.streams())));
    recording::seed_progress(&progress, pending_resume.best_known(), &committed);
    let writer = Writer::new(history.clone(), pending_updates.clone(), health.clone()).with_recorder(&config.instance);
    let backfill = backfill_deps(config, &rest, &runtimes, writer.clone(), clock);
    let saver = Arc::new(SnapshotSaver {
        file,
        cache: cache.clone(),
        instance: config.instance.clone(),
        progress: progress.clone(),
        streams: recorded.streams(),
        listings: listings.clone(),
        log: stores::log_name(config),
        rest,
        connections: shared.connections.clone(),
        recording_starts: Arc::new(recording_starts),
        identity: std::sync::Mutex::new(pending_resume.best_known().identity.clone()),
        lost_history: std::sync::Mutex::new(pending_resume.best_known().lost.clone()),
        startup: clock.now(),
        clock: clock.clone(),
        generation: Mutex::new(generation),
    });
    let service = Service {
        config: Arc::new(config.clone()),
        streams: recorded.streams(),
        recorded,
        token: Arc::new(watch::Sender::new(config.admin.token.clone())),
        log,
        history,
        cache,
        progress,
        ledger: backfill.ledger.clone(),
        backfill,
        connections: shared.connections.clone(),
        counters: shared.counters.clone(),
        listings,
        health: health.clone(),
        heartbeats: heartbeats.clone(),
        clock: clock.clone(),
        startup: saver.startup,
        started: Instant::now(),
        saver,
        reloads,
        reloaded: Arc::default(),
    };
    let resumed = pending_resume.resumed();
    recording::start(&service, &mut runtimes, writer, pending_updates, pending_resume, groups);
    let jobs = main_loop::start(&service, &run_options.schedule, resumed, groups).await?;
    let reloader = reloader(run_options, service.clone(), jobs, &runtimes);
    Ok((service, reloader))
}

fn reloader(
    run_options: &RunOptions,
    service: Service,
    jobs: crate::jobs::JobsHandle,
    runtimes: &[exchange_runtime::ExchangeRuntime],
) -> Reloader {
    let exchanges = runtimes.iter().map(|runtime| runtime.exchange).collect();
    Reloader { service, jobs, exchanges, paths: run_options.config_paths.clone() }
}

fn backfill_deps(
    config: &Config,
    rest: &HashMap<Exchange, Arc<Rest>>,
    runtimes: &[exchange_runtime::ExchangeRuntime],
    writer: Writer,
    clock: &Clock,
) -> backfill::Deps {
    backfill::Deps {
        rest: rest.clone(),
        dialects: runtimes.iter().map(|runtime| (runtime.exchange, runtime.dialect.clone())).collect(),
        writer,
        ledger: SharedLedger::default(),
        clock: clock.clone(),
        rows: Arc::default(),
        confirm_after: config.backfill.confirm_after,
        answers: Arc::default(),
    }
}

/// The committed offsets; those of the snapshot while the log does not answer.
async fn committed(
    log: &Arc<dyn Log>,
    config: &Config,
    snapshot: Option<&Snapshot>,
    health: &Health,
) -> Result<Offsets, Failure> {
    match log.usage().await {
        Ok(usage) => Ok(usage.committed),
        Err(LogError::Unavailable(why)) => {
            health.degraded("log", &why);
            let name = stores::log_name(config);
            let saved = snapshot.filter(|snapshot| snapshot.log.as_ref() == Some(&name));
            let saved = saved.map(|snapshot| &snapshot.consumer_offsets).into_iter().flatten();
            Ok(saved.filter_map(|(partition, next)| Some((partition.parse().ok()?, *next))).collect())
        }
        Err(error) => Err(anyhow!(error).context("read the log's positions").into()),
    }
}

fn shared(
    log: Arc<dyn Log>,
    recorded: &Recorded,
    clock: &Clock,
    health: &Health,
    heartbeats: &Heartbeats,
) -> exchange_runtime::Shared {
    exchange_runtime::Shared {
        log,
        // Milliseconds since 1970 grow across restarts, and a recorder opens fewer than a thousand connections a
        // second.
        next_connection: Arc::new(AtomicI64::new(clock.now().millis())),
        connections: Connections::default(),
        counters: Arc::new(Counters::default()),
        health: health.clone(),
        heartbeats: heartbeats.clone(),
        clock: clock.clone(),
        streams: recorded.streams(),
        feeds: recorded.feeds(),
    }
}

fn rest_clients(
    config: &Config,
    exchanges: &BTreeSet<Exchange>,
    clock: &Clock,
    snapshot: Option<&Snapshot>,
) -> Result<HashMap<Exchange, Arc<Rest>>, Failure> {
    let mut clients = HashMap::new();
    for &exchange in exchanges {
        let saved = snapshot.map(|snapshot| restore::deadlines(snapshot, exchange));
        let client =
            exchange_runtime::rest(exchange, &config.feeds, config.backfill.weight_share, clock.clone(), saved)
                .context("set up the REST client")?;
        clients.insert(exchange, Arc::new(client));
    }
    Ok(clients)
}

/// Stops everything, in order; returns whether every frame is acknowledged.
async fn stop(groups: Groups, service: &Service) -> bool {
    let Groups { jobs, admin, sockets, ingest, consume, backfill, cache } = groups;
    jobs.stop().await;
    admin.stop().await;
    sockets.stop().await;
    let flushed = ingest.stop().await;
    let drained = consume.stop().await;
    backfill.stop().await;
    cache.stop().await;
    match tokio::time::timeout(CLOSE_GRACE, close(service)).await {
        Ok(Ok(saved)) => info!(MESSAGE_ID = messages::STOPPED, "stopped in order, state saved: {saved}"),
        Ok(Err(error)) => error!("{error:#}"),
        Err(_elapsed) => error!("the stores did not close within {} s", CLOSE_GRACE.as_secs()),
    }
    flushed && drained
}

async fn close(service: &Service) -> anyhow::Result<String> {
    let saved = service.saver.save(true).await?;
    service.history.close().await.context("close the history")?;
    service.log.close().await.context("close the log")?;
    Ok(saved)
}
