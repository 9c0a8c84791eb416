//! The rules for clients; a venue's own are the defaults.

use std::time::Duration;

use super::lies::EVER;
use super::venue::Venue;
use crate::exchange::peer::PeerLimits;
use crate::exchange::spec::Bucket;

/// The exchange's rules for clients; the defaults are Binance's real ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The interval between ping frames.
    pub ping_every: Duration,
    /// A connection that does not answer a ping within this time is cut.
    pub pong_within: Duration,
    /// A connection whose client sends nothing for this time is cut.
    pub silence_max: Duration,
    /// A connection without a subscription is cut at this age.
    pub subscribe_within: Duration,
    /// A connection ends at this age.
    pub lifetime: Duration,
    /// Most connections in `connects_window`.
    pub connects_max: usize,
    /// See `connects_max`.
    pub connects_window: Duration,
    /// Most messages of a client in `inbound_window`.
    pub inbound_max: usize,
    /// See `inbound_max`.
    pub inbound_window: Duration,
    /// Most subscriptions and their ends on one connection in `operations_window`.
    pub operations_max: usize,
    /// See `operations_max`.
    pub operations_window: Duration,
    /// Most streams of a connection.
    pub streams_max: usize,
    /// Most trades of a frame.
    pub trades_per_frame: usize,
    /// The request limits of REST.
    pub buckets: Vec<Bucket>,
    /// A page of trades that begins at a row of this age or at an older one is refused.
    pub trades_kept: Duration,
    /// How long a ban lasts.
    pub ban: Duration,
    /// How many refusals in a window a client may ignore before the ban.
    pub refusals_max: u32,
    /// How far REST's database lags behind.
    pub lag: Duration,
    /// A connection with more queued bytes than this is cut as too slow.
    pub queue_bytes_max: usize,
    /// A REST request whose first line has more bytes than this is answered with 400.
    pub request_line_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&Venue::binance())
    }
}

impl Limits {
    /// The venue's own rules.
    pub fn of(venue: &Venue) -> Self {
        let PeerLimits {
            pings,
            silence_max,
            subscribe_within,
            messages,
            operations,
            connects,
            streams,
            lifetime,
            trades_per_frame,
            buckets,
            trades_kept,
            ban,
        } = venue.peer().limits();
        let (ping_every, pong_within) = pings.unwrap_or((EVER, EVER));
        let (connects_max, connects_window) = connects.unwrap_or((usize::MAX, Duration::ZERO));
        let (inbound_max, inbound_window) = messages.unwrap_or((usize::MAX, Duration::ZERO));
        let (operations_max, operations_window) = operations.unwrap_or((usize::MAX, Duration::ZERO));
        let (refusals_max, ban) = ban.unwrap_or((u32::MAX, Duration::ZERO));
        Self {
            ping_every,
            pong_within,
            silence_max: silence_max.unwrap_or(EVER),
            subscribe_within: subscribe_within.unwrap_or(EVER),
            lifetime: lifetime.unwrap_or(EVER),
            connects_max,
            connects_window,
            inbound_max,
            inbound_window,
            operations_max,
            operations_window,
            streams_max: streams,
            trades_per_frame: trades_per_frame.max(1),
            buckets: buckets.to_vec(),
            trades_kept: trades_kept.unwrap_or(EVER),
            ban,
            refusals_max,
            lag: Duration::ZERO,
            queue_bytes_max: 16 * 1_024 * 1_024,
            request_line_bytes_max: 8 * 1_024,
        }
    }
}
