//! The record of the log: bytes as received, with the time and the connection.

use std::sync::Arc;

use bytes::Bytes;

use super::Timestamp;

/// The kind of a log record.
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
    /// The partition key: `binance:BTCUSDT`, so that all channels of a symbol stay in one partition and in order.
    /// Connection markers and frames of an unknown stream carry `binance`.
    pub key: Arc<str>,
    /// When the bytes arrived, by this machine's clock.
    pub received_at: Timestamp,
    /// The connection of this recorder that received them; the number grows with every connect, across restarts.
    pub connection: i64,
    /// The kind of this record.
    pub origin: Origin,
    /// The bytes as received.
    pub payload: Bytes,
}
