//! Appends the sockets' frames and connection markers to the log.
//!
//! Every frame is in the log before anything else happens to it; ingest does not decode. It drops only frames of streams
//! that nobody recorded here asked for; a frame of an unknown shape goes to the log. While the log refuses (a full
//! disk, a broker that is down) this loop keeps its one batch and reads no more: the sockets fill up, the exchange
//! disconnects, and the tracker later finds the missing ids as a gap.

mod deliveries;
mod subscriptions;
mod unrequested;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::exchange::socket::SocketEvent;
use crate::exchange::{Dialect, Route};
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::log::{Log, LogError};
use crate::market::{Exchange, Frame, Origin, Stream, Timestamp};
use crate::messages;
use crate::progress::LastSeen;
use crate::retry::Backoff;

use deliveries::Deliveries;
pub use subscriptions::Subscriptions;
pub use unrequested::Unrequested;
use unrequested::{Dropper, with_small_symbol};

/// How long a batch collects frames: one fsync per frame would wear out the disk in a busy market.
const LINGER: Duration = Duration::from_millis(10);
/// Most frames of one append: some megabytes, and a fraction of a second of the fastest market.
const APPEND_FRAMES_MAX: usize = 8_192;
/// Bytes at which an append takes no further frame: frames of megabytes must not fill the memory.
const APPEND_BYTES_MAX: usize = 8 << 20;
/// Longest append: a broker may be down for an hour without losing a frame, so an append that waits is not a stuck
/// loop. Beyond this limit something else is wrong.
const APPEND_MAX: Duration = Duration::from_secs(2 * 3_600);
/// First delay between two append attempts; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest delay between two append attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What ingest has counted; cheap to read.
#[derive(Debug, Default)]
pub struct Counters {
    exchanges: Mutex<BTreeMap<Exchange, Arc<ExchangeCounters>>>,
    /// Frames of streams that this recorder did not subscribe to: dropped.
    pub unrequested: Unrequested,
    /// The streams that connections carry, and those that the exchange refuses.
    pub subscriptions: Subscriptions,
    /// When each stream's newest frame arrived, consumed or not.
    pub last_seen: LastSeen,
}

/// What ingest has counted of one exchange.
#[derive(Debug, Default)]
pub struct ExchangeCounters {
    /// Frames made durable in the log.
    pub frames: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Appends that the log refused.
    pub refused: AtomicU64,
    /// Times a connection was opened.
    pub connects: AtomicU64,
    /// Times a connection ended.
    pub disconnects: AtomicU64,
    /// When the oldest frame of the append in progress was received; 0 when there is none.
    oldest_pending: AtomicI64,
}

impl Counters {
    /// The counters of one exchange.
    pub fn of(&self, exchange: Exchange) -> Arc<ExchangeCounters> {
        self.lock().entry(exchange).or_default().clone()
    }

    /// The counters of each exchange.
    pub fn exchanges(&self) -> BTreeMap<Exchange, Arc<ExchangeCounters>> {
        self.lock().clone()
    }

    /// The sum of one counter over all exchanges.
    pub fn total(&self, counter: impl Fn(&ExchangeCounters) -> &AtomicU64) -> u64 {
        self.lock().values().map(|counters| counter(counters).load(Ordering::Relaxed)).sum()
    }

    /// How long the append in progress of an exchange's frames has taken. Beyond some seconds its sockets are not read,
    /// so a silent stream proves nothing.
    pub fn append_delay(&self, exchange: Exchange, now: Timestamp) -> Duration {
        match self.of(exchange).oldest_pending.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(u64::try_from(now.micros() - since).unwrap_or(0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Exchange, Arc<ExchangeCounters>>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of a connection and the streams on it.
#[derive(Clone, Debug)]
pub enum ConnectionEvent {
    /// These streams are subscribed on this connection.
    Up(i64, Vec<Stream>),
    /// This connection ended; these streams are no longer on it.
    Down(i64, Vec<Stream>),
    /// This connection does not deliver these streams, and another one with the same streams does.
    Silent(i64, Vec<Stream>),
}

/// Ingest's dependencies.
pub struct Deps {
    /// The log that frames are appended to.
    pub log: Arc<dyn Log>,
    /// Finds the stream of a frame.
    pub dialect: Arc<dyn Dialect>,
    /// Receives what is degraded.
    pub health: Health,
    /// Reads the time.
    pub clock: Clock,
    /// Receives the counts.
    pub counters: Arc<Counters>,
    /// The streams that are recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Receives connection events. When it is full, events are dropped: the tail checks silent streams anyway, later.
    pub connection_events: mpsc::Sender<ConnectionEvent>,
}

/// Runs until every sender of `events` is dropped and the last frame is in the log, or until `stop`. After `stop`,
/// frames that the log refused are lost and become a gap.
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
        keys.compare_deliveries(&deps);
        let oldest = frames.first().map_or(0, |frame| frame.received_at.micros());
        keys.counters.oldest_pending.store(oldest, Ordering::Relaxed);
        if !frames.is_empty() && !append(&deps, &keys.counters, std::mem::take(&mut frames), &heartbeat, &stop).await? {
            return Ok(());
        }
        if ended {
            heartbeat.retire();
            return Ok(());
        }
    }
}

/// Waits up to a second for a first event, then collects for the linger time. Returns whether the channel is closed.
async fn collect(
    events: &mut mpsc::Receiver<SocketEvent>,
    frames: &mut Vec<Frame>,
    keys: &mut Keys,
    deps: &Deps,
) -> bool {
    let mut bytes = 0;
    match tokio::time::timeout(Duration::from_secs(1), events.recv()).await {
        Err(_elapsed) => return false,
        Ok(None) => return true,
        Ok(Some(event)) => bytes += keys.take(event, frames, deps),
    }
    let until = tokio::time::Instant::now() + LINGER;
    while frames.len() < APPEND_FRAMES_MAX && bytes < APPEND_BYTES_MAX {
        match tokio::time::timeout_at(until, events.recv()).await {
            Err(_elapsed) => return false,
            Ok(None) => return true,
            Ok(Some(event)) => bytes += keys.take(event, frames, deps),
        }
    }
    false
}

/// Appends and retries until the log accepts the frames; `false` when `stop` was cancelled first.
async fn append(
    deps: &Deps,
    counters: &ExchangeCounters,
    frames: Vec<Frame>,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<bool, LogError> {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut failed = false;
    let (count, bytes) = (frames.len() as u64, frames.iter().map(|frame| frame.payload.len() as u64).sum());
    loop {
        heartbeat.beat();
        // A frame is some reference counts and a time: a clone of the batch is cheap.
        match heartbeat.beat_while(APPEND_MAX, deps.log.append(frames.clone())).await {
            Ok(()) => {
                counters.frames.fetch_add(count, Ordering::Relaxed);
                counters.bytes.fetch_add(bytes, Ordering::Relaxed);
                if failed {
                    deps.health.restored("ingest");
                    info!("the log accepts frames again");
                }
                return Ok(true);
            }
            Err(error @ (LogError::Fatal(_) | LogError::Damaged(_))) => return Err(error),
            Err(LogError::Unavailable(why)) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                if !failed {
                    warn!(
                        MESSAGE_ID = messages::LOG_REFUSES,
                        error = %why,
                        "the log refuses frames, reading no more frames until it accepts them: {why}"
                    );
                }
                failed = true;
                deps.health.degraded("ingest", &format!("the log refuses frames: {why}"));
            }
        }
        if !backoff.wait(stop).await {
            return Ok(false);
        }
    }
}

/// What ingest knows of a stream.
struct KnownStream {
    /// Its log key.
    key: Arc<str>,
    last_seen: Arc<AtomicI64>,
    /// The stream itself and its connections, where it must be on several.
    deliveries: Option<(Stream, Deliveries)>,
}

/// Finds the log key of a frame: exchange and symbol, so that all channels of a symbol keep their order.
struct Keys {
    dialect: Arc<dyn Dialect>,
    by_stream: HashMap<Box<str>, KnownStream>,
    /// When the deliveries of several connections are compared next.
    compared_at: Instant,
    dropper: Dropper,
    /// The key of markers and of frames without a stream.
    exchange: Arc<str>,
    streams: watch::Receiver<Vec<Stream>>,
    counters: Arc<ExchangeCounters>,
}

impl Keys {
    fn new(deps: &Deps) -> Self {
        let (dialect, streams) = (deps.dialect.clone(), deps.streams.clone());
        let exchange = Arc::from(dialect.exchange().as_str());
        let (dropper, counters) = (Dropper::new(dialect.exchange()), deps.counters.of(dialect.exchange()));
        let compared_at = Instant::now() + deliveries::PERIOD;
        let mut keys = Self { dialect, by_stream: HashMap::new(), compared_at, dropper, exchange, streams, counters };
        keys.refresh(&deps.counters);
        keys
    }

    /// Takes the streams that are recorded now.
    fn refresh(&mut self, counters: &Counters) {
        let streams = self.streams.borrow_and_update().clone();
        let mut former = std::mem::take(&mut self.by_stream);
        for stream in streams.iter().filter(|stream| stream.exchange == self.dialect.exchange()) {
            let name: Box<str> = self.dialect.stream_name(stream).into();
            let known = former.remove(&name).and_then(|known| known.deliveries);
            let is_copied = self.dialect.spec().channel(stream.channel).is_some_and(|channel| channel.copies() > 1);
            let deliveries = known.or_else(|| is_copied.then(|| (stream.clone(), Deliveries::default())));
            let (key, last_seen) = (Arc::from(stream.log_key()), counters.last_seen.stamp(stream));
            self.by_stream.insert(name, KnownStream { key, last_seen, deliveries });
        }
        self.dropper.set_former(former.into_keys());
        let mine = self.dialect.exchange();
        let recorded: HashSet<&Stream> = streams.iter().collect();
        counters.subscriptions.retain(|stream| stream.exchange != mine || recorded.contains(stream));
    }

    /// The connections of a stream that must be on several.
    fn deliveries(&mut self, stream: &Stream) -> Option<&mut Deliveries> {
        let known = self.by_stream.get_mut(self.dialect.stream_name(stream).as_str())?;
        known.deliveries.as_mut().map(|(_, deliveries)| deliveries)
    }

    /// Reports the connections that do not deliver what others with the same streams do, once per period.
    fn compare_deliveries(&mut self, deps: &Deps) {
        if Instant::now() < self.compared_at {
            return;
        }
        self.compared_at = Instant::now() + deliveries::PERIOD;
        let mut undelivered: BTreeMap<i64, Vec<Stream>> = BTreeMap::new();
        let mut silent = 0;
        for (stream, deliveries) in self.by_stream.values_mut().filter_map(|known| known.deliveries.as_mut()) {
            if let Some(connection) = deliveries.end_period() {
                undelivered.entry(connection).or_default().push(stream.clone());
            }
            silent += usize::from(deliveries.silent() > 0);
        }
        let part = format!("{} connections", self.exchange);
        if silent > 0 {
            deps.health.degraded(&part, &format!("{silent} streams come on only one of their connections"));
        } else {
            deps.health.restored(&part);
        }
        for (connection, streams) in undelivered {
            warn!(
                "connection {connection} does not deliver {} streams that another one delivers, the first is {}",
                streams.len(),
                streams[0]
            );
            send_event(deps, ConnectionEvent::Silent(connection, streams));
        }
    }

    /// Adds the event's frames and markers; returns their bytes.
    fn take(&mut self, event: SocketEvent, frames: &mut Vec<Frame>, deps: &Deps) -> usize {
        let before = frames.len();
        match event {
            SocketEvent::Frames { connection, frames: arrived } => {
                if self.streams.has_changed().unwrap_or(false) {
                    self.refresh(&deps.counters);
                }
                frames.reserve(arrived.len());
                for (received_at, payload) in arrived {
                    if let Some(key) = self.key(connection, &payload, received_at, &deps.counters) {
                        frames.push(Frame { key, received_at, connection, origin: Origin::Socket, payload });
                    }
                }
            }
            SocketEvent::Connected { connection, streams } => {
                self.counters.connects.fetch_add(1, Ordering::Relaxed);
                info!("connection {connection} carries {} streams", streams.len());
                deps.counters.subscriptions.accepted(connection, &streams, deps.clock.now());
                for stream in &streams {
                    self.deliveries(stream).into_iter().for_each(|deliveries| deliveries.accepted(connection));
                }
                frames.push(self.marker(connection, Origin::Connected, &streams, "", deps.clock.now()));
                send_event(deps, ConnectionEvent::Up(connection, streams));
            }
            SocketEvent::Disconnected { connection, streams, reason } => {
                self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
                self.end(connection, deps);
                info!("connection {connection} ended: {reason}");
                frames.push(self.marker(connection, Origin::Disconnected, &streams, &reason, deps.clock.now()));
                send_event(deps, ConnectionEvent::Down(connection, streams));
            }
            SocketEvent::Replaced { connection, by, streams } => {
                self.end(connection, deps);
                let reason = format!("replaced by connection {by}");
                frames.push(self.marker(connection, Origin::Disconnected, &streams, &reason, deps.clock.now()));
            }
            SocketEvent::Refused { connection, stream, reason } => {
                // The socket requests it again and again.
                if deps.counters.subscriptions.refuse(connection, stream.clone(), reason.clone()) {
                    let (exchange, symbol) = (&stream.exchange, &stream.symbol);
                    warn!(EXCHANGE = %exchange, SYMBOL = %symbol, "the exchange refuses {stream}: {reason}");
                }
            }
        }
        frames[before..].iter().map(|frame| frame.payload.len()).sum()
    }

    /// Forgets a connection that ended.
    fn end(&mut self, connection: i64, deps: &Deps) {
        deps.counters.subscriptions.ended(connection);
        for (_, deliveries) in self.by_stream.values_mut().filter_map(|known| known.deliveries.as_mut()) {
            deliveries.ended(connection);
        }
    }

    /// The log key of a frame; `None` for a frame of a stream that is not recorded.
    fn key(
        &mut self,
        connection: i64,
        payload: &[u8],
        received_at: Timestamp,
        counters: &Counters,
    ) -> Option<Arc<str>> {
        let name = match self.dialect.route(payload) {
            Route::Stream(name) => name,
            Route::Heartbeat => return None,
            Route::Answer(_) | Route::Shutdown | Route::Other => return Some(self.exchange.clone()),
        };
        let known = match self.by_stream.contains_key(&*name) {
            true => self.by_stream.get_mut(&*name),
            // An exchange may write a symbol in another case than we do: that is no reason to drop its frames.
            false => with_small_symbol(&name).and_then(|small| self.by_stream.get_mut(small.as_str())),
        };
        let Some(known) = known else {
            self.dropper.count(&name, payload.len(), &counters.unrequested);
            return None;
        };
        known.last_seen.fetch_max(received_at.micros(), Ordering::Relaxed);
        if let Some((_, deliveries)) = &mut known.deliveries {
            deliveries.count(connection);
        }
        Some(known.key.clone())
    }

    fn marker(&self, connection: i64, origin: Origin, streams: &[Stream], reason: &str, now: Timestamp) -> Frame {
        let streams: Vec<String> = streams.iter().map(Stream::to_string).collect();
        let payload = serde_json::json!({ "streams": streams, "reason": reason }).to_string();
        Frame { key: self.exchange.clone(), received_at: now, connection, origin, payload: Bytes::from(payload) }
    }
}

fn send_event(deps: &Deps, event: ConnectionEvent) {
    if deps.connection_events.try_send(event).is_err() {
        tracing::debug!("dropped a connection event: its channel is full, the tail checks later");
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
