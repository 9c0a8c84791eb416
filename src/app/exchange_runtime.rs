//! One exchange at work: its REST client, its connections, the loop that logs what they bring.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::binance::Binance;
use crate::exchange::rest::{Rest, RestOptions};
use crate::exchange::socket::Connections;
use crate::exchange::{Dialect, Feed};
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::ingest::{self, ConnectionEvent, Counters};
use crate::log::Log;
use crate::market::{Exchange, Stream, Timestamp};

use super::Groups;
use super::sockets::{EVENTS_MAX, Sockets};

/// News of connections that may wait for the tail.
const CONNECTION_EVENTS_MAX: usize = 256;

/// One exchange at work.
pub struct ExchangeRuntime {
    /// Whose.
    pub exchange: Exchange,
    /// Its language.
    pub dialect: Arc<dyn Dialect>,
    /// Its REST client.
    pub rest: Arc<Rest>,
    /// Its connections.
    pub sockets: Sockets,
    /// What they bring, to be handed to the tail once.
    pub connection_events: Option<mpsc::Receiver<ConnectionEvent>>,
}

/// What every exchange shares.
pub struct Shared {
    /// Where frames go.
    pub log: Arc<dyn Log>,
    /// Numbers connections, growing across restarts.
    pub next_connection: Arc<AtomicI64>,
    /// Every connection's state.
    pub connections: Connections,
    /// What ingest has seen.
    pub counters: Arc<Counters>,
    /// What is degraded.
    pub health: Health,
    /// The spine's heartbeats.
    pub heartbeats: Heartbeats,
    /// The time.
    pub clock: Clock,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
}

/// The language of an exchange.
pub fn dialect(exchange: Exchange) -> Arc<dyn Dialect> {
    match exchange {
        Exchange::Binance => Arc::new(Binance),
    }
}

/// The REST client of an exchange, with the base its feeds name.
pub fn rest(
    exchange: Exchange,
    feeds: &[Feed],
    weight_share: u32,
    clock: Clock,
    banned_until: Option<Timestamp>,
) -> anyhow::Result<Rest> {
    let base = feeds.iter().filter(|feed| feed.exchange == exchange).find_map(|feed| feed.rest_url.clone());
    let options = RestOptions { base, share_percent: weight_share, ..RestOptions::default() };
    Rest::new(dialect(exchange), options, clock, banned_until)
}

/// Starts an exchange: from here on its frames are safe in the log.
pub(super) async fn start(
    rest: Arc<Rest>,
    exchange: Exchange,
    config: &Config,
    shared: &Shared,
    groups: &mut Groups,
) -> ExchangeRuntime {
    let dialect = dialect(exchange);
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
    groups.ingest.spawn("ingest", async move { Ok(ingest::run(deps, received, heartbeat, stop).await?) });
    let mut sockets = Sockets::new(
        dialect.clone(),
        events,
        shared.next_connection.clone(),
        shared.connections.clone(),
        shared.clock.clone(),
        groups.sockets.stop.clone(),
    );
    sockets.assign(&config.feeds).await;
    ExchangeRuntime { exchange, dialect, rest, sockets, connection_events: Some(received_events) }
}
