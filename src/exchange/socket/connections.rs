//! The present state of every socket, for the admin page, and the connect limit that the sockets share.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    /// When the last frame came, microseconds since 1970.
    pub last_frame_at: Option<i64>,
    /// Frames received since the process started.
    pub frames: u64,
    /// How often the socket was without a connection and opened a new one.
    pub reconnects: u64,
    /// Connections that were replaced while they were open.
    pub rotations: u64,
    /// Why the previous connection ended or could not be opened; empty when nothing failed.
    pub last_error: String,
}

/// A socket's own handle to its row. The counters are atomic because every batch writes them.
#[derive(Debug)]
pub(super) struct StatusHandle {
    row: Mutex<ConnectionStatus>,
    frames: AtomicU64,
    last_frame_at: AtomicI64,
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
                last_frame_at: None,
                frames: 0,
                reconnects: 0,
                rotations: 0,
                last_error: String::new(),
            }),
            frames: AtomicU64::new(0),
            last_frame_at: AtomicI64::new(0),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sockets.push(Arc::downgrade(&status));
        status
    }

    /// Counts a connection attempt. The error is the time of the next permitted attempt.
    pub(super) fn attempt(&self, exchange: Exchange, limits: &SocketLimits, now: Instant) -> Result<(), Instant> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

impl StatusHandle {
    fn snapshot(&self) -> ConnectionStatus {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner).clone();
        row.frames = self.frames.load(Ordering::Relaxed);
        row.last_frame_at = Some(self.last_frame_at.load(Ordering::Relaxed)).filter(|&at| at != 0);
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
        self.last_frame_at.store(at.micros(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_listed_while_it_lives_and_serializes() {
        let connections = Connections::default();
        let status = connections.register(Exchange::Binance);
        status.update(|row| row.state = "connected".to_owned());
        status.received(3, Timestamp(7));
        let rows = serde_json::to_value(connections.snapshot()).unwrap();
        assert_eq!((rows[0]["state"].as_str(), rows[0]["frames"].as_u64()), (Some("connected"), Some(3)));
        assert_eq!(rows[0]["last_frame_at"].as_i64(), Some(7));
        drop(status);
        assert!(connections.snapshot().is_empty());
    }
}
