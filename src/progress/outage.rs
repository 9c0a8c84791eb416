//! Streams of which no frame can be decoded.

use crate::log::Partition;
use crate::market::{Exchange, Stream, Timestamp};

/// Every frame of a stream, or of a whole exchange, is undecodable for some time. The frames are dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The exchange.
    pub exchange: Exchange,
    /// The stream; `None` when no frame of the exchange can be decoded.
    pub stream: Option<Stream>,
    /// When the first of these frames arrived.
    pub since: Timestamp,
    /// How many frames.
    pub frames: u64,
    /// Why the newest one cannot be decoded.
    pub reason: String,
    /// Log partition of the newest one.
    pub partition: Partition,
    /// Log offset of the newest one.
    pub offset: i64,
}

impl Outage {
    /// The part of health: the stream, or the exchange.
    pub fn part(&self) -> String {
        match &self.stream {
            Some(stream) => stream.to_string(),
            None => self.exchange.to_string(),
        }
    }

    /// What happens, for people.
    pub fn describe(&self) -> String {
        format!("no frame can be decoded since {}: {}", self.since, self.reason)
    }
}
