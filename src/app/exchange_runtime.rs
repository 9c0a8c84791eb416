//! Starts one exchange: its REST client, its connections, and the ingest loop that appends their frames to the log.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};

use crate::backfill::ConnectionHandle;
use crate::clock::Clock;
use crate::exchange::rest::{Rest, RestOptions, SavedDeadlines};
use crate::exchange::socket::Connections;
use crate::exchange::{Dialect, Feed, catalog};
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::ingest::{self, ConnectionEvent, Counters};
use crate::log::Log;
use crate::market::{Exchange, Stream};

use super::Groups;
use super::sockets::{EVENTS_MAX, SocketDeps, Sockets};

/// Most queued connection events for the tail.
const CONNECTION_EVENTS_MAX: usize = 256;
/// Most queued streams that need a connection of their own; the tail asks again when the queue is full.
const ISOLATIONS_MAX: usize = 64;

/// The running parts of one exchange.
pub struct ExchangeRuntime {
    /// The exchange.
    pub exchange: Exchange,
    /// Its dialect.
    pub dialect: Arc<dyn Dialect>,
    /// Its REST client.
    pub rest: Arc<Rest>,
    /// Its connections, as the tail sees them.
    pub connection_handles: watch::Receiver<Vec<ConnectionHandle>>,
    /// Takes the streams that need a connection of their own.
    pub isolations: mpsc::Sender<Stream>,
    /// Events of its connections; the tail takes the receiver once.
    pub connection_events: Option<mpsc::Receiver<ConnectionEvent>>,
}

/// What all exchanges share.
pub struct Shared {
    /// The log that takes the frames.
    pub log: Arc<dyn Log>,
    /// The number of the next connection; grows across restarts.
    pub next_connection: Arc<AtomicI64>,
    /// Every connection's state.
    pub connections: Connections,
    /// Counters of ingest.
    pub counters: Arc<Counters>,
    /// Degraded parts.
    pub health: Health,
    /// Heartbeats of the recording loops.
    pub heartbeats: Heartbeats,
    /// The time.
    pub clock: Clock,
    /// The recorded streams.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// The feeds of the current configuration, with what their patterns select.
    pub feeds: watch::Receiver<Vec<Feed>>,
}

/// The REST client of an exchange, with the base URL of its feeds.
pub fn rest(
    exchange: Exchange,
    feeds: &[Feed],
    weight_share: u32,
    clock: Clock,
    saved: Option<SavedDeadlines>,
) -> anyhow::Result<Rest> {
    let base = feeds.iter().filter(|feed| feed.exchange == exchange).find_map(|feed| feed.rest_url.clone());
    let options = RestOptions { base, share_percent: weight_share, ..RestOptions::default() };
    Rest::new(dialect(exchange)?, options, clock, saved)
}

/// The dialect of a configured exchange.
fn dialect(exchange: Exchange) -> anyhow::Result<Arc<dyn Dialect>> {
    catalog::dialect(exchange).with_context(|| format!("this program does not speak {exchange}"))
}

/// Starts an exchange: from here its frames go to the log.
pub(super) fn start(
    rest: Arc<Rest>,
    exchange: Exchange,
    shared: &Shared,
    groups: &mut Groups,
) -> anyhow::Result<ExchangeRuntime> {
    let dialect = dialect(exchange)?;
    let (events, received) = mpsc::channel(EVENTS_MAX);
    let (connection_events, received_events) = mpsc::channel(CONNECTION_EVENTS_MAX);
    let deps = ingest::Deps {
        log: shared.log.clone(),
        dialect: dialect.clone(),
        health: shared.health.clone(),
        clock: shared.clock.clone(),
        counters: shared.counters.clone(),
        streams: shared.streams.clone(),
        connection_events,
    };
    let heartbeat = shared.heartbeats.watch("ingest");
    let stop = groups.ingest.stop.clone();
    // Bounded: at a stop ingest ends by itself once every connection has ended. Before that a sender stays open, and a
    // failed append is an error.
    groups.ingest.spawn_bounded("ingest", async move { Ok(ingest::run(deps, received, heartbeat, stop).await?) });
    let mut sockets = Sockets::new(SocketDeps {
        dialect: dialect.clone(),
        events,
        next_connection: shared.next_connection.clone(),
        connections: shared.connections.clone(),
        clock: shared.clock.clone(),
        group: groups.sockets.spawner(),
    });
    let mut feeds = shared.feeds.clone();
    let first_feeds = feeds.borrow_and_update().clone();
    sockets.assign(&first_feeds);
    let connection_handles = sockets.connection_handles();
    let (isolations, received_isolations) = mpsc::channel(ISOLATIONS_MAX);
    groups.sockets.spawn("sockets", sockets.run(feeds, received_isolations));
    let connection_events = Some(received_events);
    Ok(ExchangeRuntime { exchange, dialect, rest, connection_handles, isolations, connection_events })
}
