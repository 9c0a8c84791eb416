//! Starts the tasks that carry frames from the log to the stores, and the tasks that find and repair gaps.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backfill::{self, Tail, TailOptions, kline_check, questions};
use crate::cache::{self, PendingUpdates};
use crate::clock::Clock;
use crate::config::Config;
use crate::consume::{self, Probe, ReorderBuffer};
use crate::exchange::catalog;
use crate::exit::Failure;
use crate::health::Health;
use crate::history::{History, HistoryError};
use crate::log::Offsets;
use crate::market::{Stream, Timestamp};
use crate::progress::{Progress, StreamProgress};
use crate::state::Snapshot;
use crate::writer::Writer;

use super::exchange_runtime::ExchangeRuntime;
use super::restore::{self, ResumeState};
use super::snapshot_saver::SnapshotSaver;
use super::{Groups, Service, stores};

/// Most queued probes for the consumer: a fault elsewhere must not let them grow without a limit.
const PROBES_MAX: usize = 1_024;

/// The positions at which the consumer resumes; provisional while history is down.
pub(super) struct PendingResume {
    /// From history; from the snapshot while history is down.
    best_known: ResumeState,
    snapshot: Option<Snapshot>,
    streams: Vec<Stream>,
    /// Cancelled when history has answered.
    resumed: CancellationToken,
}

/// Opens history and reads the position of every stream. A history that is down does not prevent recording.
pub(super) async fn open(
    config: &Config,
    snapshot: Option<Snapshot>,
    streams: Vec<Stream>,
    clock: &Clock,
    health: &Health,
) -> Result<(Arc<dyn History>, PendingResume), Failure> {
    let (history, answer) = stores::history_even_if_down(config).await?;
    let found = match answer {
        Ok(()) => restore::resume(&history, snapshot.as_ref(), &streams, clock).await,
        Err(why) => Err(HistoryError::Unavailable(why).into()),
    };
    let resumed = CancellationToken::new();
    let best_known = match found {
        Ok(resume) => {
            resumed.cancel();
            resume
        }
        // A damaged file ends a start: nothing is recorded yet, and a person must choose what to do.
        Err(error) if restore::is_outage(&error) && !restore::is_damaged(&error) => {
            warn!("history is down: frames wait in the log until it is back: {error:#}");
            health.degraded("history", &format!("{error:#}"));
            restore::from_snapshot(snapshot.as_ref(), &streams)
        }
        Err(error) => return Err(error.into()),
    };
    Ok((history, PendingResume { best_known, snapshot, streams, resumed }))
}

impl PendingResume {
    /// The best known positions.
    pub(super) fn best_known(&self) -> &ResumeState {
        &self.best_known
    }

    /// Cancelled when history has answered.
    pub(super) fn resumed(&self) -> CancellationToken {
        self.resumed.clone()
    }

    /// Waits for a history that is down. Returns `None` when the stop comes first.
    async fn resume(
        self,
        history: &Arc<dyn History>,
        progress: &Progress,
        saver: &SnapshotSaver,
        wait: &restore::HistoryWait,
    ) -> anyhow::Result<Option<ResumeState>> {
        if self.resumed.is_cancelled() {
            return Ok(Some(self.best_known));
        }
        let found = restore::resume_when_available(history, self.snapshot.as_ref(), &self.streams, wait).await?;
        if let Some(resume) = &found {
            saver.set_identity(resume.identity.clone());
            saver.set_lost_history(resume.lost.clone());
            seed_progress(progress, resume, &Offsets::new());
            self.resumed.cancel();
        }
        Ok(found)
    }
}

/// Shows the position at which each stream resumes.
pub(super) fn seed_progress(progress: &Progress, resume: &ResumeState, committed: &Offsets) {
    let streams = resume.watermarks.iter().map(|(stream, (position, ts))| {
        let next = stream.channel.step().map(|step| position + step);
        let (last_ts, epoch) = (ts.map(Timestamp::micros), resume.ledger.epoch_of(stream));
        (stream.clone(), StreamProgress { next, last_ts, epoch, ..StreamProgress::default() })
    });
    progress.publish(streams.collect::<Vec<_>>(), committed);
}

/// Starts the consumer, the cache's writer, and the repair tasks.
pub(super) fn start(
    service: &Service,
    runtimes: &mut [ExchangeRuntime],
    writer: Writer,
    pending_updates: Arc<PendingUpdates>,
    pending_resume: PendingResume,
    groups: &mut Groups,
) {
    // Every dialect: the log may hold frames that other recorders appended, or this one with another configuration.
    let mut buffer = ReorderBuffer::new(catalog::dialects().iter().cloned()).with_recorder(&service.config.instance);
    let (probes, received_probes) = mpsc::channel(PROBES_MAX);
    let (assigned, assigned_streams) = watch::channel(Vec::new());
    let doubts = consume::Doubts::default();
    let deps = consume::Deps {
        log: service.log.clone(),
        writer,
        ledger: service.ledger.clone(),
        progress: service.progress.clone(),
        health: service.health.clone(),
        clock: service.clock.clone(),
        rest: service.backfill.rest.clone(),
        doubts: doubts.clone(),
        streams: service.streams.clone(),
        assigned,
    };
    let wait = restore::HistoryWait {
        clock: service.clock.clone(),
        health: service.health.clone(),
        heartbeat: service.heartbeats.watch("consume"),
        stop: groups.consume.stop.clone(),
    };
    // The group's abort after the grace period is the consumer's hard stop: rows that are not durable by then stay
    // uncommitted.
    let never = CancellationToken::new();
    let batches = stores::batch_options(&service.config);
    let (progress, saver, history) = (service.progress.clone(), service.saver.clone(), service.history.clone());
    groups.consume.spawn("consume", async move {
        let Some(resume) = pending_resume.resume(&history, &progress, &saver, &wait).await? else { return Ok(()) };
        let watermark = |(stream, (position, ts))| (stream, consume::Watermark { position, ts });
        buffer.seed(resume.watermarks.into_iter().map(watermark));
        buffer.seed_epochs(resume.epochs);
        deps.ledger.with(|ledger| ledger.absorb(resume.ledger));
        deps.ledger.gap_opened.notify_one();
        let restore::HistoryWait { heartbeat, stop: drain, .. } = wait;
        Ok(consume::run(deps, buffer, received_probes, batches, heartbeat, drain, never).await?)
    });
    let cache_writer = cache::run_write_behind(
        service.cache.clone(),
        pending_updates,
        service.health.clone(),
        service.heartbeats.watch("cache"),
        groups.cache.stop.clone(),
    );
    groups.cache.spawn("cache", async move {
        cache_writer.await;
        Ok(())
    });
    repair(service, runtimes, (&probes, &doubts), &assigned_streams, groups);
}

/// Starts the tasks that find gaps which no frame reveals, and the task that repairs gaps.
fn repair(
    service: &Service,
    runtimes: &mut [ExchangeRuntime],
    (probes, doubts): (&mpsc::Sender<Probe>, &consume::Doubts),
    assigned: &watch::Receiver<Vec<Stream>>,
    groups: &mut Groups,
) {
    let repair =
        backfill::run(service.backfill.clone(), service.heartbeats.watch("backfill"), groups.backfill.stop.clone());
    groups.backfill.spawn("backfill", async move {
        repair.await;
        Ok(())
    });
    let since = backfill::since::run(
        service.backfill.clone(),
        service.progress.clone(),
        service.recorded.feeds(),
        service.saver.recording_starts.clone(),
        service.heartbeats.watch("since"),
        groups.backfill.stop.clone(),
    );
    groups.backfill.spawn("since", async move {
        since.await;
        Ok(())
    });
    let decisions = backfill::conflicts::run(
        service.backfill.clone(),
        doubts.clone(),
        service.heartbeats.watch("conflicts"),
        groups.backfill.stop.clone(),
    );
    groups.backfill.spawn("conflicts", async move {
        decisions.await;
        Ok(())
    });
    for runtime in runtimes {
        let Some(events) = runtime.connection_events.take() else { continue };
        let tail = Tail {
            rest: runtime.rest.clone(),
            exchange: runtime.exchange,
            progress: service.progress.clone(),
            probes: probes.clone(),
            connections: runtime.connection_handles.clone(),
            isolations: runtime.isolations.clone(),
            counters: service.counters.clone(),
            streams: assigned.clone(),
            recording_starts: service.saver.recording_starts.clone(),
            health: service.health.clone(),
            clock: service.clock.clone(),
            options: TailOptions::default(),
        };
        let (heartbeat, stop) = (service.heartbeats.watch("questions"), groups.backfill.stop.clone());
        let sources = (runtime.rest.clone(), service.history.clone());
        let answers = questions::run(sources, runtime.exchange, doubts.clone(), probes.clone(), heartbeat, stop);
        groups.backfill.spawn("questions", async move {
            answers.await;
            Ok(())
        });
        if kline_check::is_needed(&service.backfill, runtime.exchange) {
            let (heartbeat, stop) = (service.heartbeats.watch("kline-check"), groups.backfill.stop.clone());
            let streams = assigned.clone();
            let streams = move || streams.borrow().clone();
            let check = kline_check::run(service.backfill.clone(), runtime.exchange, streams, heartbeat, stop);
            groups.backfill.spawn("kline-check", async move {
                check.await;
                Ok(())
            });
        }
        let (heartbeat, stop) = (service.heartbeats.watch("tail"), groups.backfill.stop.clone());
        groups.backfill.spawn("tail", async move {
            tail.run(events, heartbeat, stop).await;
            Ok(())
        });
    }
}
