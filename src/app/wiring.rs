//! The service between its start and its stop: jobs, signals, reloads, the status line.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Desk, ReloadRequest};
use crate::exchange::Feed;
use crate::exit::Failure;
use crate::history::HistoryError;
use crate::jobs::spec::Schedule;
use crate::jobs::tasks::{LogRetention, Services};
use crate::jobs::{JobsHandle, Runner, RunnerParts};
use crate::market::Stream;
use crate::signals::Request;
use crate::supervisor::Fault;
use crate::systemd;

use super::market::Market;
use super::{Groups, Launch, Service};
use super::{reload, venue};

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
/// While history is away nothing waits for it: repair and preload follow when it is back.
pub async fn begin(
    service: &Service,
    schedule: &Schedule,
    resumed: CancellationToken,
    groups: &mut Groups,
) -> Result<JobsHandle, Failure> {
    systemd::status("repairing and preloading the cache");
    systemd::extend(Duration::from_secs(60));
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
    let parts = RunnerParts { services, history: service.history.clone(), clock: service.clock.clone() };
    let (mut runner, jobs) = Runner::new(parts, schedule.clone(), Some(&service.config.data_dir));
    if resumed.is_cancelled() {
        supersede_removed(service).await.context("supersede the gaps of removed feeds")?;
        runner.run_blocking().await;
    } else {
        runner.start_up_after(resumed.clone());
        let (service, stop) = (service.clone(), groups.jobs.stop.clone());
        groups.jobs.spawn("removed feeds", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = resumed.cancelled() => {
                    if let Err(error) = supersede_removed(&service).await {
                        error!("gaps of removed feeds stay open: {error}");
                    }
                }
            }
            Ok(())
        });
    }
    // A first snapshot names what is recorded even when the process dies before its first period is over.
    match service.saver.save(false).await {
        Ok(saved) => info!("state saved: {saved}"),
        Err(error) => error!("cannot save the state: {error:#}"),
    }
    let (pulse, stop) = (service.pulses.watch("scheduler"), groups.jobs.stop.clone());
    groups.jobs.spawn("scheduler", runner.run(pulse, stop));
    for (&exchange, rest) in &service.backfill.rest {
        let (rest, service) = (rest.clone(), service.clone());
        let stop = groups.jobs.stop.clone();
        groups.jobs.spawn("clock", async move {
            venue::watch(exchange, rest, service, stop).await;
            Ok(())
        });
    }
    admin(service, jobs.clone(), groups).await?;
    Ok(jobs)
}

async fn supersede_removed(service: &Service) -> Result<(), HistoryError> {
    let recorded = service.streams.borrow().clone();
    let ended = service.backfill.supersede(|stream| recorded.contains(stream), "its feed was removed").await?;
    if ended > 0 {
        info!("gaps of feeds that were removed while the service was down are superseded");
    }
    Ok(())
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

async fn reload(service: &Service, feeds: &mut Feeds, launch: &Launch, dry_run: bool) -> Result<String, String> {
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
