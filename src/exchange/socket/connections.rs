//! The present state of every socket, for the admin page, and the connect limit that the sockets share.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::pace::ConnectLimit;
use crate::exchange::SocketLimits;
use crate::market::{Exchange, Timestamp};

/// All sockets of the process; cheap to clone. Sockets of one exchange share its limit on connection
/// attempts through it, because the exchange counts by address.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    sockets: Vec<Weak<StatusHandle>>,
    attempts: Vec<(Exchange, ConnectLimit)>,
    deferrals: Vec<(Exchange, Arc<Notify>, Option<Deferral>)>,
}

/// The exchange limits or bans the connections of this address for a time.
#[derive(Clone, Debug)]
struct Deferral {
    /// Monotonic: setting the wall clock neither ends nor extends it.
    until: Instant,
    why: String,
}

/// The present state of one socket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct ConnectionStatus {
    /// The exchange.
    pub exchange: &'static str,
    /// The number of the present or last connection; `None` before the first one.
    pub connection: Option<i64>,
    /// `connecting`, `subscribing`, `connected`, `waiting: ...` with the reason, `idle`, `stopped`.
    pub state: String,
    /// Streams it carries.
    pub streams: usize,
    /// When the present connection was opened, microseconds since 1970; `None` while there is none.
    pub connected_since: Option<i64>,
    /// Seconds since the present connection was opened, by the monotonic clock; `None` while there is none.
    pub connected_s: Option<u64>,
    /// When the last frame came, microseconds since 1970.
    pub last_frame_at: Option<i64>,
    /// Seconds since the last frame came, by the monotonic clock; `None` before the first one.
    pub last_frame_s: Option<u64>,
    /// Frames received since the process started.
    pub frames: u64,
    /// How often the socket was without a connection and opened a new one.
    pub reconnects: u64,
    /// Connections that were replaced while they were open.
    pub rotations: u64,
    /// Why the previous connection ended or could not be opened; empty when nothing failed.
    pub last_error: String,
    /// When the present connection was opened.
    #[serde(skip)]
    pub(super) opened: Option<Instant>,
}

/// A socket's own handle to its row. The counters are atomic because every batch writes them.
#[derive(Debug)]
pub(super) struct StatusHandle {
    row: Mutex<ConnectionStatus>,
    registered: Instant,
    frames: AtomicU64,
    last_frame_at: AtomicI64,
    /// When the last frame came, in milliseconds since `registered`.
    last_frame_ms: AtomicU64,
}

impl Connections {
    /// Every live socket, in the order they were started.
    pub fn snapshot(&self) -> Vec<ConnectionStatus> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.sockets.retain(|status| status.strong_count() > 0);
        shared.sockets.iter().filter_map(Weak::upgrade).map(|status| status.snapshot()).collect()
    }

    /// Adds a row for a new socket; it disappears when the handle is dropped.
    pub(super) fn register(&self, exchange: Exchange) -> Arc<StatusHandle> {
        let status = Arc::new(StatusHandle {
            row: Mutex::new(ConnectionStatus {
                exchange: exchange.as_str(),
                connection: None,
                state: "idle".to_owned(),
                streams: 0,
                connected_since: None,
                connected_s: None,
                last_frame_at: None,
                last_frame_s: None,
                frames: 0,
                reconnects: 0,
                rotations: 0,
                last_error: String::new(),
                opened: None,
            }),
            registered: Instant::now(),
            frames: AtomicU64::new(0),
            last_frame_at: AtomicI64::new(0),
            last_frame_ms: AtomicU64::new(0),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sockets.push(Arc::downgrade(&status));
        status
    }

    /// Opens no connection to `exchange` for this time: the exchange limits or bans this address, which all sockets share.
    /// A shorter wait never replaces a longer one.
    pub fn defer(&self, exchange: Exchange, wait: Duration, why: &str) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (moved, deferral) = shared.deferral(exchange);
        let now = Instant::now();
        let until = now.checked_add(wait).unwrap_or(now);
        if deferral.as_ref().is_none_or(|known| known.until < until) {
            *deferral = Some(Deferral { until, why: why.to_owned() });
            moved.notify_one();
        }
    }

    /// For how long the exchange still limits or bans the connections of this address.
    pub fn deferred_for(&self, exchange: Exchange) -> Option<Duration> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, deferral) = shared.deferral(exchange);
        let left = deferral.as_ref()?.until.saturating_duration_since(Instant::now());
        Some(left).filter(|left| !left.is_zero())
    }

    /// Waits until such a limit begins or is extended; one caller per exchange.
    pub async fn deferral_moved(&self, exchange: Exchange) {
        let moved = self.0.lock().unwrap_or_else(PoisonError::into_inner).deferral(exchange).0.clone();
        moved.notified().await;
    }

    /// Why no connection may be opened now.
    pub(super) fn deferral_reason(&self, exchange: Exchange, now: Instant) -> Option<String> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, deferral) = shared.deferral(exchange);
        deferral.as_ref().filter(|known| now < known.until).map(|known| known.why.clone())
    }

    /// Counts a connection attempt. The error is the time of the next permitted attempt.
    pub(super) fn attempt(&self, exchange: Exchange, limits: &SocketLimits, now: Instant) -> Result<(), Instant> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (_, Some(Deferral { until, .. })) = shared.deferral(exchange)
            && now < *until
        {
            return Err(*until);
        }
        let index = match shared.attempts.iter().position(|(known, _)| *known == exchange) {
            Some(index) => index,
            None => {
                shared.attempts.push((exchange, ConnectLimit::default()));
                shared.attempts.len() - 1
            }
        };
        shared.attempts[index].1.attempt(limits.connects_max, limits.connects_window, now)
    }
}

impl Shared {
    fn deferral(&mut self, exchange: Exchange) -> (&Arc<Notify>, &mut Option<Deferral>) {
        let index = match self.deferrals.iter().position(|(known, ..)| *known == exchange) {
            Some(index) => index,
            None => {
                self.deferrals.push((exchange, Arc::default(), None));
                self.deferrals.len() - 1
            }
        };
        let (_, moved, deferral) = &mut self.deferrals[index];
        (moved, deferral)
    }
}

impl StatusHandle {
    fn snapshot(&self) -> ConnectionStatus {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner).clone();
        row.frames = self.frames.load(Ordering::Relaxed);
        row.last_frame_at = Some(self.last_frame_at.load(Ordering::Relaxed)).filter(|&at| at != 0);
        let last_frame = self.registered + Duration::from_millis(self.last_frame_ms.load(Ordering::Relaxed));
        row.last_frame_s = row.last_frame_at.map(|_| last_frame.elapsed().as_secs());
        row.connected_s = row.opened.map(|opened| opened.elapsed().as_secs());
        row
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut ConnectionStatus)) {
        update(&mut self.row.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Continues the counters of the connection that this one succeeds.
    pub(super) fn take_over_from(&self, other: &Self, replaced: bool) {
        let before = other.snapshot();
        self.frames.fetch_add(before.frames, Ordering::Relaxed);
        self.update(|row| {
            row.reconnects = before.reconnects + u64::from(!replaced);
            row.rotations = before.rotations + u64::from(replaced);
            row.last_error = if replaced { String::new() } else { before.last_error };
        });
    }

    pub(super) fn received(&self, frames: usize, at: Timestamp) {
        self.frames.fetch_add(frames as u64, Ordering::Relaxed);
        let since_registered = u64::try_from(self.registered.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_frame_ms.store(since_registered, Ordering::Relaxed);
        self.last_frame_at.store(at.micros(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Dialect as _;

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_connection_and_of_its_last_frame_are_monotonic() {
        let connections = Connections::default();
        let status = connections.register(Exchange::named("binance"));
        let ages = || {
            let row = connections.snapshot().remove(0);
            (row.connected_s, row.last_frame_s)
        };
        assert_eq!(ages(), (None, None));
        tokio::time::advance(Duration::from_secs(3)).await;
        // The wall clock says 2100.
        status.update(|row| (row.connected_since, row.opened) = (Some(4_102_444_800_000_000), Some(Instant::now())));
        tokio::time::advance(Duration::from_secs(5)).await;
        status.received(1, Timestamp(4_102_444_800_000_000));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(ages(), (Some(7), Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_the_address_holds_back_every_socket_of_the_exchange_and_is_announced() {
        let (connections, limits) = (Connections::default(), crate::exchange::binance::Binance.spec().limits);
        let attempt = || connections.attempt(Exchange::named("binance"), &limits, Instant::now());
        let began = Instant::now();
        assert_eq!((attempt(), connections.deferred_for(Exchange::named("binance"))), (Ok(()), None));
        connections.defer(Exchange::named("binance"), Duration::from_secs(600), "HTTP 418");
        connections.defer(Exchange::named("binance"), Duration::from_secs(5), "HTTP 429");
        connections.deferral_moved(Exchange::named("binance")).await;
        assert_eq!(attempt(), Err(began + Duration::from_secs(600)));
        assert_eq!(
            connections.deferral_reason(Exchange::named("binance"), Instant::now()).as_deref(),
            Some("HTTP 418")
        );
        tokio::time::advance(Duration::from_secs(599)).await;
        assert_eq!(connections.deferred_for(Exchange::named("binance")), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((attempt(), connections.deferred_for(Exchange::named("binance"))), (Ok(()), None));
    }

    #[test]
    fn a_socket_is_listed_while_it_lives_and_serializes() {
        let connections = Connections::default();
        let status = connections.register(Exchange::named("binance"));
        status.update(|row| row.state = "connected".to_owned());
        status.received(3, Timestamp(7));
        let rows = serde_json::to_value(connections.snapshot()).unwrap();
        assert_eq!((rows[0]["state"].as_str(), rows[0]["frames"].as_u64()), (Some("connected"), Some(3)));
        assert_eq!(rows[0]["last_frame_at"].as_i64(), Some(7));
        drop(status);
        assert!(connections.snapshot().is_empty());
    }
}
