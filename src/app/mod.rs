//! The composition root: what runs, in which order it starts and in which it stops.
//!
//! Start: lock the directory -> restore the snapshot -> open the log -> connect the exchange (from here frames
//! are safe, whatever else is slow) -> history and cache -> repair, preload -> consume from the committed
//! offset -> backfill and the tail's questions -> scheduler -> READY.
//! Stop: scheduler and API -> sockets -> ingest flushes -> consume drains -> backfill -> last snapshot -> stores.

mod conditions;
mod events;
pub mod market;
mod reload;
mod restore;
mod saver;
mod sockets;
pub mod stores;
mod wiring;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{error, info, warn};

use crate::admin::ReloadRequest;
use crate::backfill::{self, Tail, TailOptions};
use crate::cache::{self, Cache, Latest};
use crate::clock::Clock;
use crate::config::Config;
use crate::consume::{self, Board, SharedLedger, Sorter, Standing};
use crate::exchange::rest::Rest;
use crate::exchange::socket::Connections;
use crate::exit::Failure;
use crate::health::Health;
use crate::history::History;
use crate::ingest::Counters;
use crate::jobs::spec::Schedule;
use crate::log::{Log, Positions};
use crate::market::{Exchange, Stream, Timestamp};
use crate::pulse::Pulses;
use crate::signals::Request;
use crate::state::{Snapshot, StateFile};
use crate::supervisor::{self, Fault, Group};
use crate::systemd;
use crate::writer::Writer;

pub use reload::Sources;
pub use saver::Saver;

/// How long each part of a stop may take, in order; their sum stays below the unit's `TimeoutStopSec`
/// (a test reads the unit to prove it).
pub const GRACES: [(&str, Duration); 7] = [
    ("jobs", Duration::from_secs(5)),
    ("admin", Duration::from_secs(2)),
    ("sockets", Duration::from_secs(2)),
    ("ingest", Duration::from_secs(5)),
    ("consume", Duration::from_secs(10)),
    ("backfill", Duration::from_secs(4)),
    ("cache", Duration::from_secs(3)),
];
/// How long the last snapshot and the closing of the stores may take.
pub const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// A fault elsewhere must not leave the consumer's questions without a limit.
const QUESTIONS_MAX: usize = 1_024;

/// What to run.
pub struct Launch {
    /// The configuration.
    pub config: Config,
    /// The schedule.
    pub schedule: Schedule,
    /// Where both came from, for a reload.
    pub sources: Sources,
    /// What signals ask for.
    pub signals: mpsc::Receiver<Request>,
}

/// The groups of tasks, in the order they are stopped.
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

    async fn fault(&mut self) -> Fault {
        supervisor::fault(&mut [
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

/// What the running parts share; cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// The configuration it was started with.
    pub config: Arc<Config>,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// Where every stream stands.
    pub board: Arc<Board>,
    /// The gaps.
    pub ledger: SharedLedger,
    /// How gaps are opened and repaired.
    pub backfill: backfill::Parts,
    /// Every connection's state.
    pub connections: Connections,
    /// What ingest has seen.
    pub counters: Arc<Counters>,
    /// What is degraded.
    pub health: Health,
    /// The spine's pulses.
    pub pulses: Pulses,
    /// The time.
    pub clock: Clock,
    /// When the process started.
    pub startup: Timestamp,
    /// Saves the snapshot.
    pub saver: Arc<Saver>,
    /// Asks for a reload.
    pub reloads: mpsc::Sender<ReloadRequest>,
}

/// Runs the service until it is told to stop or a spine task fails.
pub async fn run(mut launch: Launch) -> Result<(), Failure> {
    let clock = Clock::system();
    let (health, pulses) = (Health::default(), Pulses::default());
    let _lock = stores::claim(&launch.config.data_dir).await?;
    if let Some(interval) = systemd::watchdog_interval() {
        // Not in a group: it must outlive every other task, and ends with the process.
        tokio::spawn(systemd::feed_watchdog(pulses.clone(), interval));
    }
    systemd::status("restoring the state");
    let mut groups = Groups::new();
    let (reloads, mut reload_requests) = mpsc::channel(4);
    let started = start(&launch, &clock, &health, &pulses, &mut groups, reloads).await;
    let (service, mut feeds) = match started {
        Ok(started) => started,
        Err(failure) => {
            // What was logged so far stays in the log; nothing was acknowledged.
            groups.sockets.stop().await;
            groups.ingest.stop().await;
            return Err(failure);
        }
    };
    let fault = wiring::watch(&service, &mut feeds, &mut launch, &mut reload_requests, &mut groups).await;
    let reason = match &fault {
        Some(fault) => format!("{} failed: {}", fault.task, fault.reason),
        None => "stopping as asked".to_owned(),
    };
    systemd::stopping(&reason);
    health.set_stopping();
    let drained = stop(groups, feeds, &service).await;
    match fault {
        Some(fault) => Err(anyhow!("{} failed: {}", fault.task, fault.reason).into()),
        None if !drained => {
            warn!("stopped before everything was acknowledged: it stays in the log and is consumed at the next start");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Brings everything up, in order.
async fn start(
    launch: &Launch,
    clock: &Clock,
    health: &Health,
    pulses: &Pulses,
    groups: &mut Groups,
    reloads: mpsc::Sender<ReloadRequest>,
) -> Result<(Service, wiring::Feeds), Failure> {
    let config = &launch.config;
    let streams: Vec<Stream> = config.feeds.iter().flat_map(|feed| feed.streams()).collect();
    let (streams_sender, streams_watch) = watch::channel(streams.clone());
    let file = StateFile::new(&config.data_dir);
    let cache = stores::cache(config)?;
    let snapshot = restore::snapshot(&file, Some(&cache), &config.instance).await;
    let log = stores::log(config).await?;
    let shared = shared(log.clone(), &streams_watch, clock, health, pulses);
    let exchanges: BTreeSet<Exchange> = config.feeds.iter().map(|feed| feed.exchange).collect();
    let rest = rest_clients(config, &exchanges, clock, snapshot.as_ref())?;
    let mut markets = Vec::new();
    for exchange in exchanges {
        let client = rest[&exchange].clone();
        markets.push(market::start(client, exchange, config, &shared, groups).await);
    }
    systemd::status("connected, opening the stores");
    let history = stores::history(config).await?;
    let resume = restore::resume(&history, snapshot.as_ref(), &streams, clock).await?;
    let board = Arc::new(Board::default());
    seed_board(&board, &resume, log.usage().await.context("read the log's positions")?.committed);
    let latest = Arc::new(Latest::default());
    let ledger = SharedLedger::new(resume.ledger);
    let writer = Writer::new(history.clone(), latest.clone(), health.clone());
    let backfill = backfill::Parts {
        rest: rest.clone(),
        dialects: markets.iter().map(|market| (market.exchange, market.dialect.clone())).collect(),
        writer: writer.clone(),
        ledger: ledger.clone(),
        clock: clock.clone(),
        rows: Arc::default(),
    };
    let saver = Arc::new(Saver {
        file,
        cache: cache.clone(),
        instance: config.instance.clone(),
        board: board.clone(),
        streams: streams_watch.clone(),
        rest,
        identity: resume.identity,
        startup: clock.now(),
        clock: clock.clone(),
        generation: Mutex::new(snapshot.as_ref().map_or(0, |snapshot| snapshot.generation)),
    });
    let service = Service {
        config: Arc::new(config.clone()),
        streams: streams_watch,
        log,
        history,
        cache,
        board,
        ledger,
        backfill,
        connections: shared.connections.clone(),
        counters: shared.counters.clone(),
        health: health.clone(),
        pulses: pulses.clone(),
        clock: clock.clone(),
        startup: saver.startup,
        saver,
        reloads,
    };
    let watermarks = resume.watermarks.into_iter().map(|(stream, (position, _))| (stream, position)).collect();
    flow(&service, &mut markets, writer, latest, watermarks, groups);
    let jobs = wiring::begin(&service, &launch.schedule, groups).await?;
    Ok((service, wiring::Feeds { markets, streams: streams_sender, feeds: config.feeds.clone(), jobs }))
}

fn shared(
    log: Arc<dyn Log>,
    streams: &watch::Receiver<Vec<Stream>>,
    clock: &Clock,
    health: &Health,
    pulses: &Pulses,
) -> market::Shared {
    market::Shared {
        log,
        // Milliseconds grow across restarts, and no recorder connects a thousand times a second.
        next_connection: Arc::new(AtomicI64::new(clock.now().millis())),
        connections: Connections::default(),
        counters: Arc::new(Counters::default()),
        health: health.clone(),
        pulses: pulses.clone(),
        clock: clock.clone(),
        streams: streams.clone(),
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
        let ban = snapshot.and_then(|snapshot| snapshot.ban_until.get(exchange.as_str()));
        let ban = ban.map(|until| Timestamp::from_millis(*until));
        let client = market::rest(exchange, &config.feeds, config.backfill.weight_share, clock.clone(), ban)
            .context("set up the REST client")?;
        clients.insert(exchange, Arc::new(client));
    }
    Ok(clients)
}

fn seed_board(board: &Board, resume: &restore::Resume, committed: Positions) {
    let standings = resume.watermarks.iter().map(|(stream, (position, ts))| {
        let next = stream.channel.step().map(|step| position + step);
        (stream.clone(), Standing { next, last_ts: ts.map(Timestamp::micros), ..Standing::default() })
    });
    board.publish(standings.collect::<Vec<_>>(), &committed);
}

/// Starts what carries frames from the log to the stores, and what repairs.
fn flow(
    service: &Service,
    markets: &mut [market::Market],
    writer: Writer,
    latest: Arc<Latest>,
    watermarks: HashMap<Stream, i64>,
    groups: &mut Groups,
) {
    let mut sorter = Sorter::new(markets.iter().map(|market| market.dialect.clone()));
    sorter.seed(watermarks);
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let parts = consume::Parts {
        log: service.log.clone(),
        writer,
        ledger: service.ledger.clone(),
        board: service.board.clone(),
        health: service.health.clone(),
        clock: service.clock.clone(),
    };
    let (pulse, drain) = (service.pulses.watch("consume"), groups.consume.stop.clone());
    // Its own stop is the group's abort after the grace: what is not durable by then stays uncommitted.
    let never = tokio_util::sync::CancellationToken::new();
    let batches = stores::batches(&service.config);
    groups
        .consume
        .spawn("consume", async move { Ok(consume::run(parts, sorter, asked, batches, pulse, drain, never).await?) });
    let carrier = cache::carry(
        service.cache.clone(),
        latest,
        service.health.clone(),
        service.pulses.watch("cache"),
        groups.cache.stop.clone(),
    );
    groups.cache.spawn("cache", async move {
        carrier.await;
        Ok(())
    });
    let repair =
        backfill::run(service.backfill.clone(), service.pulses.watch("backfill"), groups.backfill.stop.clone());
    groups.backfill.spawn("backfill", async move {
        repair.await;
        Ok(())
    });
    let since = backfill::since::run(
        service.backfill.clone(),
        service.board.clone(),
        service.config.feeds.clone(),
        service.pulses.watch("since"),
        groups.backfill.stop.clone(),
    );
    groups.backfill.spawn("since", async move {
        since.await;
        Ok(())
    });
    for market in markets {
        let Some(news) = market.news.take() else { continue };
        let tail = Tail {
            rest: market.rest.clone(),
            exchange: market.exchange,
            board: service.board.clone(),
            questions: questions.clone(),
            carriers: market.sockets.carriers(),
            streams: service.streams.clone(),
            health: service.health.clone(),
            clock: service.clock.clone(),
            options: TailOptions::default(),
        };
        let (pulse, stop) = (service.pulses.watch("tail"), groups.backfill.stop.clone());
        groups.backfill.spawn("tail", async move {
            tail.run(news, pulse, stop).await;
            Ok(())
        });
    }
}

/// Takes everything down, in order; returns whether every frame was acknowledged.
async fn stop(groups: Groups, feeds: wiring::Feeds, service: &Service) -> bool {
    let Groups { jobs, admin, sockets, ingest, consume, backfill, cache } = groups;
    systemd::extend(GRACES.iter().map(|(_, grace)| *grace).sum::<Duration>() + CLOSE_GRACE);
    jobs.stop().await;
    admin.stop().await;
    sockets.stop.cancel();
    let ended = async {
        for market in feeds.markets {
            if let Err(error) = market.sockets.ended().await {
                error!("{error:#}");
            }
        }
    };
    if tokio::time::timeout(GRACES[2].1, ended).await.is_err() {
        warn!("the sockets did not close in time");
    }
    sockets.stop().await;
    let flushed = ingest.stop().await;
    let drained = consume.stop().await;
    backfill.stop().await;
    cache.stop().await;
    match tokio::time::timeout(CLOSE_GRACE, close(service)).await {
        Ok(Ok(saved)) => info!("stopped in order, state saved: {saved}"),
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
