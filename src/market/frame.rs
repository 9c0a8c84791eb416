//! What the log holds: bytes as received, with when and where they came from.

use std::sync::Arc;

use bytes::Bytes;

use super::Timestamp;

/// What a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A frame from the exchange; the payload is its bytes, untouched.
    Socket,
    /// The connection was opened and its subscriptions acknowledged; the payload is JSON.
    Connected,
    /// The connection ended; the payload is JSON with the reason.
    Disconnected,
}

impl Origin {
    /// A stable number for storage.
    pub const fn code(self) -> i64 {
        match self {
            Self::Socket => 0,
            Self::Connected => 1,
            Self::Disconnected => 2,
        }
    }

    /// The origin with this number.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Socket),
            1 => Some(Self::Connected),
            2 => Some(Self::Disconnected),
            _ => None,
        }
    }
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What keeps order: `binance:BTCUSDT`, so that all channels of a symbol stay in one
    /// partition. Markers and frames of no known stream carry `binance`.
    pub key: Arc<str>,
    /// When the bytes arrived, by our clock.
    pub received_at: Timestamp,
    /// Which connection of this recorder they came over; grows with every connect, across restarts.
    pub connection: i64,
    /// What this record is.
    pub origin: Origin,
    /// The bytes as received.
    pub payload: Bytes,
}
