//! The service between start and stop: the jobs, the API, signals, reloads, and the status line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, AdminSocket, AppState, Listeners};
use crate::exit::Failure;
use crate::history::HistoryError;
use crate::jobs::spec::Schedule;
use crate::jobs::tasks::{LogRetention, Services};
use crate::jobs::{JobsHandle, Runner, RunnerDeps};
use crate::messages;
use crate::retry::Backoff;
use crate::signals::Request;
use crate::supervisor::TaskFailure;
use crate::systemd;

use super::reload::Reloader;
use super::reload_queue::ReloadQueue;
use super::status::{self, status_line};
use super::{Groups, Requests, Service};
use super::{backends, conditions, events, exchange_monitor, lost_history, store_watch, stores};

/// First delay between two attempts to store that the gaps of removed feeds ended; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest such delay.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Repairs and preloads, runs the jobs that READY waits for, and starts the scheduler and the API.
/// While history is down the start does not wait for it: repair and preload run when it is back.
pub async fn start(
    service: &Service,
    schedule: &Schedule,
    resumed: CancellationToken,
    groups: &mut Groups,
) -> Result<JobsHandle, Failure> {
    systemd::status("repairing and preloading the cache");
    let saver = service.saver.clone();
    let watch = lost_history::watch(service.clone(), resumed.clone(), groups.jobs.stop.clone());
    groups.jobs.spawn_bounded("lost history", watch);
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
        sealed_days: match &service.config.seal.to {
            Some(to) => Some(stores::sealed_days(&service.config, Some(to))?),
            None => None,
        },
        clock: service.clock.clone(),
    };
    let deps = RunnerDeps {
        services,
        history: service.history.clone(),
        clock: service.clock.clone(),
        health: service.health.clone(),
        conditions: conditions::check(service),
        instance: service.config.instance.clone(),
    };
    let (mut runner, jobs) = Runner::new(deps, schedule.clone(), Some(&service.config.data_dir));
    if resumed.is_cancelled() {
        // The task below tries again.
        if let Err(error) = supersede_removed(service).await {
            warn!("cannot supersede the gaps of removed feeds yet: {error}");
        }
        runner.run_blocking().await;
    } else {
        runner.run_startup_jobs_after(resumed.clone());
    }
    groups.jobs.spawn("removed feeds", watch_removed(service.clone(), resumed, groups.jobs.stop.clone()));
    // The first snapshot names the recorded streams even when the process dies before the first scheduled one.
    match service.saver.save(false).await {
        Ok(saved) => info!("state saved: {saved}"),
        Err(error) => error!("cannot save the state: {error:#}"),
    }
    let (heartbeat, stop) = (service.heartbeats.watch("scheduler"), groups.jobs.stop.clone());
    groups.jobs.spawn("scheduler", runner.run(heartbeat, stop));
    let events = events::watch(service.clone(), jobs.clone(), groups.jobs.stop.clone());
    groups.jobs.spawn("events", events);
    groups.jobs.spawn("store watch", store_watch::run(service.clone(), groups.jobs.stop.clone()));
    for (&exchange, rest) in &service.backfill.rest {
        let (rest, service) = (rest.clone(), service.clone());
        let stop = groups.jobs.stop.clone();
        groups.jobs.spawn("clock", async move {
            exchange_monitor::watch(exchange, rest, service, stop).await;
            Ok(())
        });
    }
    admin(service, jobs.clone(), groups).await?;
    Ok(jobs)
}

/// Supersedes the gaps of feeds that are no longer recorded: those removed while the service was down, and after every
/// reload those that it removed. Repeats while history is down.
async fn watch_removed(service: Service, resumed: CancellationToken, stop: CancellationToken) -> anyhow::Result<()> {
    let mut streams = service.streams.clone();
    let watching = async {
        resumed.cancelled().await;
        loop {
            streams.mark_unchanged();
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            while let Err(error) = supersede_removed(&service).await {
                warn!("cannot supersede the gaps of removed feeds, trying again: {error}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            if streams.changed().await.is_err() {
                // The main loop is gone, and with it the process.
                return std::future::pending::<()>().await;
            }
        }
    };
    stop.run_until_cancelled(watching).await;
    Ok(())
}

async fn supersede_removed(service: &Service) -> Result<(), HistoryError> {
    let recorded = service.streams.borrow().clone();
    let ended = service.backfill.supersede(|stream| recorded.contains(stream), "its feed was removed").await?;
    if ended > 0 {
        info!("superseded {ended} gaps of feeds that were removed");
    }
    Ok(())
}

/// Serves the API and the status page. An address that is in use does not prevent recording.
async fn admin(service: &Service, jobs: JobsHandle, groups: &mut Groups) -> Result<(), Failure> {
    let options = service.config.admin.clone();
    if !options.listen.ip().is_loopback() {
        let exposed = format!("the API listens beyond this machine, on {}", options.listen);
        if options.token.is_some() {
            info!("{exposed}: changes that come that way need the bearer token");
        } else {
            warn!(
                "{exposed}, and no token is set: changes that come that way are refused; set admin-token to allow them"
            );
        }
    }
    let listeners = listeners(service).await;
    if listeners.tcp.is_none() && listeners.unix.is_none() {
        return Ok(());
    }
    let app_state = AppState {
        instance: service.config.instance.clone(),
        streams: service.streams.clone(),
        feeds: service.recorded.configured(),
        log: service.log.clone(),
        history: service.history.clone(),
        cache: service.cache.clone(),
        progress: service.progress.clone(),
        ledger: service.ledger.clone(),
        backfill: service.backfill.clone(),
        connections: service.connections.clone(),
        counters: service.counters.clone(),
        listings: service.listings.clone(),
        health: service.health.clone(),
        heartbeats: service.heartbeats.clone(),
        clock: service.clock.clone(),
        startup: service.startup,
        started: service.started,
        jobs,
        reloads: service.reloads.clone(),
        reload_count: service.reloaded.clone(),
        data_dir: service.config.data_dir.clone(),
        time_series: Arc::default(),
        backends: backends::descriptions(&service.config, groups),
        token: service.token.subscribe(),
        options,
    };
    let stop = groups.admin.stop.clone();
    groups.admin.spawn("admin", admin::serve(listeners, app_state, stop));
    Ok(())
}

/// The TCP listener and the unix socket, as far as they can be opened.
async fn listeners(service: &Service) -> Listeners {
    let options = &service.config.admin;
    let (mut listeners, mut problems) = (Listeners::default(), Vec::new());
    match listen(options.listen).await {
        Ok(listener) => {
            info!("status page at http://{}/", listener.local_addr().unwrap_or(options.listen));
            listeners.tcp = Some(listener);
        }
        Err(error) => problems.push(format!("cannot listen on {}: {error}", options.listen)),
    }
    if let Some(path) = &options.socket {
        match AdminSocket::bind(path) {
            Ok(socket) => {
                info!("local commands use the socket {}", path.display());
                listeners.unix = Some(socket);
            }
            Err(error) => {
                problems.push(format!("cannot open the socket {} for local commands: {error:#}", path.display()))
            }
        }
    }
    if !problems.is_empty() {
        let why = problems.join("; ");
        error!("{why}: fix it and restart the service");
        service.health.degraded("admin", &why);
    }
    listeners
}

/// The listener that systemd passes to this process, else a new one.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let Some(inherited) = systemd::listener()? else { return Ok(TcpListener::bind(address).await?) };
    let inherited = TcpListener::from_std(inherited).context("take over the listener from systemd")?;
    match inherited.local_addr() {
        Ok(at) if at != address => {
            warn!("systemd listens on {at}, but [admin] listen is {address}: commands will use {address}");
        }
        _ => {}
    }
    Ok(inherited)
}

/// Sends READY, then serves until a signal requests a stop (`None`) or a task fails. Every wait of this loop is for its
/// next event: a reload and the status line run beside it, so that a stop never waits for them.
pub async fn run(
    service: &Service,
    reloader: &Reloader,
    requests: &mut Requests,
    groups: &mut Groups,
) -> Option<TaskFailure> {
    service.health.set_ready();
    let line = status_line(service, &reloader.jobs).await;
    systemd::ready(&line);
    info!(MESSAGE_ID = messages::STARTED, "ready: {line}");
    groups.jobs.spawn("status", status::publish(service.clone(), reloader.jobs.clone(), groups.jobs.stop.clone()));
    let reloader = reloader.clone();
    let mut reloads = ReloadQueue::new(move |dry_run| Box::pin(reloader.clone().reload(dry_run)));
    if requests.reload_pending {
        reloads.request(false, None);
    }
    loop {
        tokio::select! {
            failure = groups.failure() => {
                error!(MESSAGE_ID = messages::RECORDING_TASK_FAILED, "{} failed: {}", failure.task, failure.reason);
                return Some(failure);
            }
            signal = requests.signals.recv() => match signal {
                Some(Request::Stop(why)) => {
                    info!(MESSAGE_ID = messages::STOPPING, "stopping: {why}");
                    return None;
                }
                Some(Request::Reload(why)) => {
                    info!("reloading: {why}");
                    // The sender of a signal gets no answer; the log has the reason.
                    reloads.request(false, None);
                }
                // Without its thread no signal stops or reloads the service any more.
                None => {
                    let reason = "the thread that waits for signals has ended".to_owned();
                    return Some(TaskFailure { task: "signals".to_owned(), reason });
                }
            },
            Some(request) = requests.reloads.recv() => reloads.request(request.dry_run, Some(request.answer)),
            () = reloads.advance() => {}
        }
    }
}
