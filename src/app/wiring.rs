//! The service between its start and its stop: jobs, signals, reloads, the status line.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Desk, ReloadRequest, Reloaded};
use crate::exchange::Feed;
use crate::exchange::rest::{Rest, RestError};
use crate::exit::Failure;
use crate::jobs::spec::Schedule;
use crate::jobs::tasks::{LogRetention, Services};
use crate::jobs::{JobsHandle, Runner, RunnerParts};
use crate::market::{Exchange, Stream};
use crate::signals::Request;
use crate::supervisor::Fault;
use crate::systemd;

use super::market::Market;
use super::{Groups, Launch, Service};
use super::{conditions, events, reload};

/// How often the status line is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A stream counts as receiving when a frame came within this time.
const RECEIVING_US: i64 = 60_000_000;

/// What a reload may change.
pub struct Feeds {
    /// The exchanges at work.
    pub markets: Vec<Market>,
    /// Tells everybody what is recorded.
    pub streams: watch::Sender<Vec<Stream>>,
    /// The feeds of now.
    pub feeds: Vec<Feed>,
    /// The schedule.
    pub jobs: JobsHandle,
}

/// Repairs and preloads, runs the jobs that READY waits for, and starts the scheduler.
pub async fn begin(service: &Service, schedule: &Schedule, groups: &mut Groups) -> Result<JobsHandle, Failure> {
    systemd::status("repairing and preloading the cache");
    systemd::extend(Duration::from_secs(60));
    let recorded = service.streams.borrow().clone();
    let ended = service.backfill.supersede(|stream| recorded.contains(stream), "its feed was removed").await;
    if ended.context("supersede the gaps of removed feeds")? > 0 {
        info!("gaps of feeds that were removed while the service was down are superseded");
    }
    let saver = service.saver.clone();
    let services = Services {
        log: service.log.clone(),
        log_retention: LogRetention { age: service.config.log.retention, bytes: service.config.log.retention_bytes },
        history: service.history.clone(),
        cache: service.cache.clone(),
        backfill: service.backfill.clone(),
        streams: service.streams.clone(),
        save: Arc::new(move || {
            let saver = saver.clone();
            Box::pin(async move { saver.save(false).await })
        }),
        clock: service.clock.clone(),
    };
    let parts = RunnerParts {
        services,
        history: service.history.clone(),
        clock: service.clock.clone(),
        health: service.health.clone(),
        conditions: conditions::of(service),
    };
    let (mut runner, jobs) = Runner::new(parts, schedule.clone(), Some(&service.config.data_dir));
    runner.run_blocking().await;
    // A first snapshot names what is recorded even when the process dies before its first period is over.
    match service.saver.save(false).await {
        Ok(saved) => info!("state saved: {saved}"),
        Err(error) => error!("cannot save the state: {error:#}"),
    }
    let (pulse, stop) = (service.pulses.watch("scheduler"), groups.jobs.stop.clone());
    groups.jobs.spawn("scheduler", runner.run(pulse, stop));
    let events = events::watch(service.clone(), jobs.clone(), groups.jobs.stop.clone());
    groups.jobs.spawn("events", events);
    for (&exchange, rest) in &service.backfill.rest {
        let (rest, service) = (rest.clone(), service.clone());
        let stop = groups.jobs.stop.clone();
        groups.jobs.spawn("clock", async move {
            measure_clock(exchange, rest, service, stop).await;
            Ok(())
        });
    }
    admin(service, jobs.clone(), groups).await?;
    Ok(jobs)
}

/// Serves the API and the status page; an address that is taken is no reason not to record.
async fn admin(service: &Service, jobs: JobsHandle, groups: &mut Groups) -> Result<(), Failure> {
    let options = service.config.admin.clone();
    if !options.listen.ip().is_loopback() {
        let words = if options.token.is_some() { "with" } else { "refused: set admin-token to allow them, with" };
        warn!("the API listens beyond this machine, on {}: changes {words} the bearer token only", options.listen);
    }
    let listener = match tokio::net::TcpListener::bind(options.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let why = format!("cannot listen on {}: {error}", options.listen);
            error!("{why}: there is no API and no status page until it is free and the service is restarted");
            service.health.degraded("admin", &why);
            return Ok(());
        }
    };
    info!("status page at http://{}/", listener.local_addr().unwrap_or(options.listen));
    let desk = Desk {
        instance: service.config.instance.clone(),
        streams: service.streams.clone(),
        log: service.log.clone(),
        history: service.history.clone(),
        cache: service.cache.clone(),
        board: service.board.clone(),
        ledger: service.ledger.clone(),
        backfill: service.backfill.clone(),
        connections: service.connections.clone(),
        counters: service.counters.clone(),
        health: service.health.clone(),
        pulses: service.pulses.clone(),
        clock: service.clock.clone(),
        startup: service.startup,
        jobs,
        reloads: service.reloads.clone(),
        options,
    };
    let stop = groups.admin.stop.clone();
    groups.admin.spawn("admin", admin::serve(listener, desk, stop));
    Ok(())
}

/// Learns the exchange's limits once and its clock's offset every few minutes; neither ever rejects data.
async fn measure_clock(exchange: Exchange, rest: Arc<Rest>, service: Service, stop: CancellationToken) {
    let mut wait = Duration::from_secs(1);
    let mut learnt = false;
    while !stop.is_cancelled() {
        match rest.measure_clock(&stop).await {
            Ok(offset) => {
                tracing::debug!("the clock of {exchange} is {} ms ahead of ours", offset / 1_000);
                service.health.restored("rest");
                wait = Duration::from_secs(300);
            }
            Err(error) => {
                service.health.degraded("rest", &error.to_string());
                wait = (wait * 2).min(Duration::from_secs(60));
            }
        }
        if !learnt {
            learnt = learn(exchange, &rest, &service, &stop).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Asks for limits and for the recorded symbols; returns whether there is nothing more to learn.
async fn learn(exchange: Exchange, rest: &Rest, service: &Service, stop: &CancellationToken) -> bool {
    let streams = service.streams.borrow().clone();
    let symbols: BTreeSet<String> =
        streams.iter().filter(|stream| stream.exchange == exchange).map(|stream| stream.symbol.to_string()).collect();
    let symbols: Vec<String> = symbols.into_iter().collect();
    match rest.info(&symbols, stop).await {
        Ok(info) => {
            for (symbol, trades) in info.symbols.iter().filter(|(symbol, _)| symbols.contains(symbol)) {
                if !trades {
                    warn!(EXCHANGE = %exchange, SYMBOL = %symbol, "{symbol} is listed but does not trade now");
                }
            }
            true
        }
        Err(RestError::UnknownSymbol { text }) => {
            warn!(EXCHANGE = %exchange, "{exchange} does not know one of the symbols: {text}");
            service.health.degraded("symbols", &format!("{exchange} does not know one of the symbols: {text}"));
            true
        }
        Err(_later) => false,
    }
}

/// Says READY and serves until told to stop (`None`) or until a spine task fails.
pub async fn watch(
    service: &Service,
    feeds: &mut Feeds,
    launch: &mut Launch,
    reloads: &mut mpsc::Receiver<ReloadRequest>,
    groups: &mut Groups,
) -> Option<Fault> {
    service.health.set_ready();
    systemd::ready(&status_line(service));
    info!("ready: {}", status_line(service));
    let mut ticks = tokio::time::interval(STATUS_EVERY);
    let mut bans = service.saver.bans();
    loop {
        tokio::select! {
            fault = groups.fault() => {
                error!("{} failed: {}", fault.task, fault.reason);
                return Some(fault);
            }
            signal = launch.signals.recv() => match signal {
                Some(Request::Stop(why)) => {
                    info!("stopping: {why}");
                    return None;
                }
                Some(Request::Reload(why)) => {
                    info!("reloading: {why}");
                    if let Err(why) = reload(service, feeds, launch, false).await {
                        error!("the reload changed nothing:\n{why}");
                    }
                }
                None => return None,
            },
            Some(request) = reloads.recv() => {
                let outcome = reload(service, feeds, launch, request.dry_run).await;
                if request.answer.send(outcome).is_err() {
                    warn!("whoever asked for the reload is gone");
                }
            }
            _ = ticks.tick() => {
                systemd::status(&status_line(service));
                // A ban must survive a crash too: asking again during it makes it longer.
                let now = service.saver.bans();
                if now != bans {
                    bans = now;
                    if let Err(error) = service.saver.save(false).await {
                        error!("cannot save the exchange's ban: {error:#}");
                    }
                }
            }
        }
    }
}

async fn reload(service: &Service, feeds: &mut Feeds, launch: &Launch, dry_run: bool) -> Result<Reloaded, String> {
    let (config, schedule) = launch.sources.load()?;
    if dry_run {
        return reload::apply(service, feeds, &config, &schedule, true).await.map_err(|error| format!("{error:#}"));
    }
    systemd::reloading();
    let applied = reload::apply(service, feeds, &config, &schedule, false).await;
    systemd::ready(&status_line(service));
    applied.map_err(|error| format!("{error:#}"))
}

/// `14/14 streams, lag 0.3 s, 0 gaps`, and what is degraded.
pub fn status_line(service: &Service) -> String {
    let streams = service.streams.borrow().clone();
    let now = service.clock.now();
    let received = |stream: &Stream| service.board.standing(stream).last_received;
    let receiving = streams.iter().filter(|stream| received(stream).is_some_and(|at| now.micros() - at < RECEIVING_US));
    let (gaps, missing) = service.ledger.with(|ledger| ledger.open_count());
    let mut line = format!("{}/{} streams", receiving.count(), streams.len());
    if let Some(last) = service.board.last_received() {
        line.push_str(&format!(", last frame {:.1} s ago", now.since(last).max(0) as f64 / 1e6));
    }
    line.push_str(&format!(", {gaps} gaps"));
    if missing > 0 {
        line.push_str(&format!(" ({missing} missing)"));
    }
    for (part, why) in service.health.parts() {
        line.push_str(&format!("; {part}: {why}"));
    }
    line
}
