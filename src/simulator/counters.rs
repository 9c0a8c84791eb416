//! What the simulated exchange counts for its tests.

use serde::Serialize;

/// What the faults have done so far, and which limits clients broke.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Trade frames lost by `drop`.
    pub frames_dropped: u64,
    /// Frames of any stream lost by `silent`.
    pub frames_silenced: u64,
    /// Trade frames sent twice.
    pub frames_duplicated: u64,
    /// Trade frames sent out of their order.
    pub frames_reordered: u64,
    /// Frames sent that are not JSON.
    pub frames_garbage: u64,
    /// Trade frames lost by `losetail`.
    pub frames_lost_tail: u64,
    /// Trade frames lost by `hole`.
    pub frames_in_holes: u64,
    /// Frames changed by `poison`, or sent besides the right one by `poisoncopy`.
    pub frames_poisoned: u64,
    /// Frames of streams that nobody subscribed to, sent by `foreign`.
    pub frames_foreign: u64,
    /// Frames injected as bytes.
    pub frames_injected: u64,
    /// Frames lost because their connection was stalled (counted per connection).
    pub frames_stalled: u64,
    /// WebSocket connections ended by a fault.
    pub connections_cut: u64,
    /// WebSocket connections ended because they read too slowly.
    pub connections_slow: u64,
    /// Connections reset during an outage.
    pub connections_refused: u64,
    /// Connections stalled.
    pub connections_stalled: u64,
    /// REST requests refused with a fault's status.
    pub rest_refused: u64,
    /// REST requests answered with 429, by a fault or by the weight limit.
    pub rest_rate_limited: u64,
    /// REST requests answered with 418.
    pub rest_banned: u64,
    /// REST answers that a lie replaced, or pages that it changed.
    pub rest_lies: u64,
    /// REST requests refused with a chosen Retry-After.
    pub rest_refused_until: u64,
    /// WebSocket connections refused before they were one.
    pub upgrades_refused: u64,
    /// Requests over the WebSocket with a wrong answer, or none.
    pub requests_answered_wrongly: u64,
    /// Times that a symbol's ids began again or came once more.
    pub epochs_begun: u64,
    /// Closed klines sent once more with other values.
    pub klines_corrected: u64,
    /// Announcements of `serverShutdown`.
    pub shutdowns: u64,
    /// Limits that clients broke.
    pub broken: BrokenLimits,
}

/// Limits of the venue that clients broke. A client that keeps the rules leaves all of them at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BrokenLimits {
    /// REST requests above a request limit, whether or not a fault refused them too.
    pub requests: u64,
    /// REST requests that the venue does not understand.
    pub bad_requests: u64,
    /// Connections refused because there were too many.
    pub connects: u64,
    /// Connections closed for too many messages.
    pub messages: u64,
    /// Connections closed for too many subscriptions and their ends.
    pub operations: u64,
    /// Connections closed for too many streams.
    pub streams: u64,
    /// Connections closed by the venue for what a message said.
    pub closed: u64,
    /// Connections cut because the client did not answer a ping or sent nothing itself. A fault that stalls the network
    /// of a client can be the reason.
    pub silent: u64,
    /// Connections cut because they did not subscribe in time.
    pub late: u64,
    /// Streams that the venue sends on another address only.
    pub on_wrong_socket: u64,
}

impl BrokenLimits {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.requests
            + self.bad_requests
            + self.connects
            + self.messages
            + self.operations
            + self.streams
            + self.closed
            + self.silent
            + self.late
            + self.on_wrong_socket
    }
}
