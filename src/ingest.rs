//! socket frames -> log, and connection markers.
//!
//! Everything that arrives is in the log before anything else happens to it. While the log refuses (a
//! full disk, a broker away) this loop keeps its one batch and stops taking more: the sockets fill up, the
//! exchange cuts us, and what was missed is a gap that is found by id and repaired.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::exchange::socket::SocketEvent;
use crate::exchange::{Dialect, Route};
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::log::{Log, LogError};
use crate::market::{Frame, Origin, Stream, Timestamp};
use crate::messages;

/// How long frames may wait for company: an fsync for each would wear out the disk in a busy market.
const LINGER: Duration = Duration::from_millis(10);
/// Most frames of one append: some megabytes, and a fraction of a second of the fastest market.
const APPEND_FRAMES_MAX: usize = 8_192;
/// A broker may be away for an hour and no frame fails: the append waits, and this loop is no more wedged than
/// a quiet one. Beyond it something else is wrong.
const APPEND_MAX: Duration = Duration::from_secs(2 * 3_600);
/// Longest wait before the log is tried again.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What ingest has seen; cheap to read.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames made durable in the log.
    pub frames: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Appends.
    pub appends: AtomicU64,
    /// Appends that the log refused.
    pub refused: AtomicU64,
    /// Times a connection was opened.
    pub connects: AtomicU64,
    /// Times a connection ended.
    pub disconnects: AtomicU64,
    /// What came over the sockets, whether or not it is consumed.
    pub last_seen: LastSeen,
}

/// When streams were last heard at the socket. The consumer's board says the same later: as much later as log and
/// consumer need, and a stream that is late there is not silent.
#[derive(Debug, Default)]
pub struct LastSeen {
    streams: Mutex<HashMap<Stream, Arc<AtomicI64>>>,
    /// When the oldest frame that the log has not taken yet was received; 0 when there is none.
    oldest_pending: AtomicI64,
}

impl LastSeen {
    /// When the newest frame of a stream was received; `None` when none was.
    pub fn get(&self, stream: &Stream) -> Option<Timestamp> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let at = streams.get(stream)?.load(Ordering::Relaxed);
        (at != 0).then_some(Timestamp(at))
    }

    /// How long the log has been taking over the frames that it is given now: beyond some seconds the sockets are not
    /// read, and no silence means anything.
    pub fn append_delay(&self, now: Timestamp) -> Duration {
        match self.oldest_pending.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(u64::try_from(now.micros() - since).unwrap_or(0)),
        }
    }

    /// Where the time of a stream's newest frame is kept, microseconds since 1970.
    pub(crate) fn stamp(&self, stream: &Stream) -> Arc<AtomicI64> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry(stream.clone()).or_default().clone()
    }
}

/// Tells others that something happened to streams' connection.
#[derive(Clone, Debug)]
pub enum ConnectionEvent {
    /// These streams are subscribed, over this connection.
    Up(i64, Vec<Stream>),
    /// These streams have no connection.
    Down(i64, Vec<Stream>),
    /// The exchange refuses this stream.
    Refused(Stream, String),
}

/// What ingest works with.
pub struct Deps {
    /// Where frames go.
    pub log: Arc<dyn Log>,
    /// Tells what a frame is about.
    pub dialect: Arc<dyn Dialect>,
    /// What is degraded.
    pub health: Health,
    /// The time.
    pub clock: Clock,
    /// What was seen.
    pub counters: Arc<Counters>,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Who wants to know of connections. When it is full, news is dropped: the tail asks by itself, later.
    pub connection_events: mpsc::Sender<ConnectionEvent>,
}

/// Runs until every sender of `events` is gone and the last frame is in the log; or until `stop`: then what
/// the log did not take is lost here, and a gap.
pub async fn run(
    deps: Deps,
    mut events: mpsc::Receiver<SocketEvent>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) -> Result<(), LogError> {
    let mut keys = Keys::new(&deps);
    let mut frames = Vec::new();
    loop {
        heartbeat.beat();
        let ended = collect(&mut events, &mut frames, &mut keys, &deps).await;
        let oldest = frames.first().map_or(0, |frame| frame.received_at.micros());
        deps.counters.last_seen.oldest_pending.store(oldest, Ordering::Relaxed);
        if !frames.is_empty() && !append(&deps, std::mem::take(&mut frames), &heartbeat, &stop).await? {
            return Ok(());
        }
        if ended {
            heartbeat.retire();
            return Ok(());
        }
    }
}

/// Gathers what arrives within the linger, or waits up to a second for a first event. Returns whether it
/// was the last.
async fn collect(
    events: &mut mpsc::Receiver<SocketEvent>,
    frames: &mut Vec<Frame>,
    keys: &mut Keys,
    deps: &Deps,
) -> bool {
    match tokio::time::timeout(Duration::from_secs(1), events.recv()).await {
        Err(_elapsed) => return false,
        Ok(None) => return true,
        Ok(Some(event)) => keys.take(event, frames, deps),
    }
    let until = tokio::time::Instant::now() + LINGER;
    while frames.len() < APPEND_FRAMES_MAX {
        match tokio::time::timeout_at(until, events.recv()).await {
            Err(_elapsed) => return false,
            Ok(None) => return true,
            Ok(Some(event)) => keys.take(event, frames, deps),
        }
    }
    false
}

/// Appends, however long it takes; false when told to stop meanwhile.
async fn append(
    deps: &Deps,
    frames: Vec<Frame>,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<bool, LogError> {
    let mut wait = Duration::from_millis(50);
    let mut failed = false;
    let (count, bytes) = (frames.len() as u64, frames.iter().map(|frame| frame.payload.len() as u64).sum());
    loop {
        heartbeat.beat();
        // A frame is some reference counts and a time: cloning the batch is cheaper than getting it back on errors.
        match heartbeat.beat_while(APPEND_MAX, deps.log.append(frames.clone())).await {
            Ok(()) => {
                deps.counters.frames.fetch_add(count, Ordering::Relaxed);
                deps.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
                deps.counters.appends.fetch_add(1, Ordering::Relaxed);
                if failed {
                    deps.health.restored("ingest");
                    info!("the log takes frames again");
                }
                return Ok(true);
            }
            Err(LogError::Fatal(why)) => return Err(LogError::Fatal(why)),
            Err(LogError::Unavailable(why)) => {
                deps.counters.refused.fetch_add(1, Ordering::Relaxed);
                if !failed {
                    warn!(
                        MESSAGE_ID = messages::LOG_REFUSES,
                        error = %why,
                        "the log refuses frames, nothing is read until it takes them: {why}"
                    );
                }
                failed = true;
                deps.health.degraded("ingest", &format!("the log refuses frames: {why}"));
            }
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(wait.mul_f64(jitter)) => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Finds the log's key of a frame: exchange and symbol, so that all channels of a symbol keep their order.
struct Keys {
    dialect: Arc<dyn Dialect>,
    by_stream: HashMap<Box<str>, (Arc<str>, Arc<AtomicI64>)>,
    /// For markers and frames of no known stream.
    exchange: Arc<str>,
    streams: watch::Receiver<Vec<Stream>>,
}

impl Keys {
    fn new(deps: &Deps) -> Self {
        let (dialect, streams) = (deps.dialect.clone(), deps.streams.clone());
        let exchange = Arc::from(dialect.exchange().as_str());
        let mut keys = Self { dialect, by_stream: HashMap::new(), exchange, streams };
        keys.refresh(&deps.counters.last_seen);
        keys
    }

    /// Takes over the streams of now.
    fn refresh(&mut self, last_seen: &LastSeen) {
        let streams = self.streams.borrow_and_update().clone();
        for stream in streams.iter().filter(|stream| stream.exchange == self.dialect.exchange()) {
            let known = (Arc::from(stream.log_key()), last_seen.stamp(stream));
            self.by_stream.insert(self.dialect.stream_name(stream).into(), known);
        }
    }

    fn take(&mut self, event: SocketEvent, frames: &mut Vec<Frame>, deps: &Deps) {
        match event {
            SocketEvent::Frames { connection, frames: arrived } => {
                if self.streams.has_changed().unwrap_or(false) {
                    self.refresh(&deps.counters.last_seen);
                }
                frames.reserve(arrived.len());
                for (received_at, payload) in arrived {
                    let key = self.key(&payload, received_at);
                    frames.push(Frame { key, received_at, connection, origin: Origin::Socket, payload });
                }
            }
            SocketEvent::Connected { connection, streams } => {
                deps.counters.connects.fetch_add(1, Ordering::Relaxed);
                info!("connection {connection} carries {} streams", streams.len());
                frames.push(self.marker(connection, Origin::Connected, &streams, "", deps.clock.now()));
                send_event(deps, ConnectionEvent::Up(connection, streams));
            }
            SocketEvent::Disconnected { connection, streams, reason } => {
                deps.counters.disconnects.fetch_add(1, Ordering::Relaxed);
                info!("connection {connection} ended: {reason}");
                frames.push(self.marker(connection, Origin::Disconnected, &streams, &reason, deps.clock.now()));
                send_event(deps, ConnectionEvent::Down(connection, streams));
            }
            SocketEvent::Replaced { connection, by, streams } => {
                let reason = format!("replaced by connection {by}");
                frames.push(self.marker(connection, Origin::Disconnected, &streams, &reason, deps.clock.now()));
            }
            SocketEvent::Refused { stream, reason } => {
                warn!(EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol, "the exchange refuses {stream}: {reason}");
                send_event(deps, ConnectionEvent::Refused(stream, reason));
            }
        }
    }

    fn key(&self, payload: &[u8], received_at: Timestamp) -> Arc<str> {
        let known = match self.dialect.route(payload) {
            Route::Stream(name) => self.by_stream.get(name),
            _ => None,
        };
        let Some((key, last_seen)) = known else { return self.exchange.clone() };
        last_seen.fetch_max(received_at.micros(), Ordering::Relaxed);
        key.clone()
    }

    fn marker(&self, connection: i64, origin: Origin, streams: &[Stream], reason: &str, now: Timestamp) -> Frame {
        let streams: Vec<String> = streams.iter().map(Stream::to_string).collect();
        let payload = serde_json::json!({ "streams": streams, "reason": reason }).to_string();
        Frame { key: self.exchange.clone(), received_at: now, connection, origin, payload: Bytes::from(payload) }
    }
}

fn send_event(deps: &Deps, event: ConnectionEvent) {
    if deps.connection_events.try_send(event).is_err() {
        tracing::debug!("news of a connection was dropped, the tail asks by itself");
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
