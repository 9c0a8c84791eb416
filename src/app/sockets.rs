//! Assigns streams to the connections of one exchange, and changes the assignment when the feeds change, or when a
//! stream needs a connection of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use anyhow::bail;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::backfill::ConnectionHandle;
use crate::clock::Clock;
use crate::exchange::socket::{Connections, Socket, SocketCommand, SocketEvent, SocketOptions};
use crate::exchange::{Dialect, Feed};
use crate::market::Stream;
use crate::supervisor::Spawner;

/// Most queued events for ingest, each of up to some hundred frames: when the queue is full the sockets stop reading.
pub const EVENTS_MAX: usize = 64;
/// Most connections for streams that a shared connection did not deliver. Further such streams share these: the
/// exchange limits the connections of an address.
const ISOLATED_MAX: usize = 8;

/// What a connection needs besides its streams.
#[derive(Clone)]
pub struct SocketDeps {
    /// The exchange's protocol.
    pub dialect: Arc<dyn Dialect>,
    /// Receives what the connections report.
    pub events: mpsc::Sender<SocketEvent>,
    /// The number of the next connection.
    pub next_connection: Arc<AtomicI64>,
    /// Every connection's state.
    pub connections: Connections,
    /// The time.
    pub clock: Clock,
    /// The group of the connections' tasks: a panic in one of them stops the process in order.
    pub group: Spawner,
}

/// Where a connection leads: one of the exchange's addresses, and the base that replaces its own. A stream that REST does
/// not return has connections of several copies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// Index into [`Spec::sockets`](crate::exchange::spec::Spec::sockets).
    socket: usize,
    ws_url: Option<String>,
    /// Below [`ChannelSpec::copies`](crate::exchange::spec::ChannelSpec::copies) of each of its streams.
    copy: usize,
}

/// The connections of one exchange.
pub struct Sockets {
    deps: SocketDeps,
    open: Vec<OpenConnection>,
    handles: watch::Sender<Vec<ConnectionHandle>>,
}

struct OpenConnection {
    address: Address,
    streams: watch::Sender<Vec<Stream>>,
    commands: mpsc::Sender<SocketCommand>,
    /// It is for streams that a shared connection did not deliver: new streams of a feed go elsewhere.
    is_isolated: bool,
}

impl OpenConnection {
    fn carries(&self, stream: &Stream) -> bool {
        self.streams.borrow().contains(stream)
    }

    fn len(&self) -> usize {
        self.streams.borrow().len()
    }
}

impl Sockets {
    /// No connections yet.
    pub fn new(deps: SocketDeps) -> Self {
        let (handles, _) = watch::channel(Vec::new());
        Self { deps, open: Vec::new(), handles }
    }

    /// The current connections.
    pub fn connection_handles(&self) -> watch::Receiver<Vec<ConnectionHandle>> {
        self.handles.subscribe()
    }

    /// Follows the feeds, and gives streams a connection of their own, until the group stops.
    pub async fn run(
        mut self,
        mut feeds: watch::Receiver<Vec<Feed>>,
        mut isolations: mpsc::Receiver<Stream>,
    ) -> anyhow::Result<()> {
        let stop = self.deps.group.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = feeds.changed() => {
                    let changed = feeds.borrow_and_update().clone();
                    self.assign(&changed);
                }
                Some(stream) = isolations.recv() => self.isolate(&stream),
            }
        }
    }

    /// Makes the connections subscribe to exactly the streams of `feeds`. Streams that stay are not touched; new
    /// streams go to a connection with free capacity, else to a new one. A channel with several copies has its streams on
    /// as many connections, so that the cut of one of them loses nothing.
    pub fn assign(&mut self, feeds: &[Feed]) {
        let spec = self.deps.dialect.spec();
        let mut wanted: Vec<(Address, Stream)> = Vec::new();
        for feed in feeds.iter().filter(|feed| feed.exchange == spec.exchange) {
            // The configuration names only channels that the exchange sends.
            for stream in feed.streams() {
                let Some(channel) = spec.channel(stream.channel) else { continue };
                let address = |copy| Address { socket: channel.socket, ws_url: feed.ws_url.clone(), copy };
                wanted.extend((0..channel.copies()).map(|copy| (address(copy), stream.clone())));
            }
        }
        for open in &self.open {
            let stays: BTreeSet<&Stream> =
                wanted.iter().filter(|(address, _)| *address == open.address).map(|(_, stream)| stream).collect();
            open.streams.send_if_modified(|streams| {
                let before = streams.len();
                streams.retain(|stream| stays.contains(stream));
                streams.len() != before
            });
            wanted.retain(|(address, stream)| *address != open.address || !open.carries(stream));
        }
        let capacity = self.deps.dialect.spec().limits.streams_per_connection;
        for open in self.open.iter().filter(|open| !open.is_isolated) {
            let free = capacity.saturating_sub(open.len());
            let added: Vec<Stream> = wanted
                .iter()
                .filter(|(address, _)| *address == open.address)
                .map(|(_, stream)| stream.clone())
                .take(free)
                .collect();
            if !added.is_empty() {
                wanted.retain(|(address, stream)| *address != open.address || !added.contains(stream));
                open.streams.send_modify(|streams| streams.extend(added));
            }
        }
        while let Some((first, _)) = wanted.first().cloned() {
            let (mine, rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(address, _)| *address == first);
            wanted = rest;
            let streams: Vec<Stream> = mine.into_iter().map(|(_, stream)| stream).collect();
            for part in streams.chunks(capacity) {
                self.connect(first.clone(), part.to_vec(), false);
            }
        }
        self.publish();
    }

    /// Moves a stream from the connection that it shares to one of its own.
    fn isolate(&mut self, stream: &Stream) {
        let Some(from) = self.open.iter().find(|open| open.carries(stream) && !open.is_isolated && open.len() > 1)
        else {
            return;
        };
        let address = from.address.clone();
        from.streams.send_modify(|streams| streams.retain(|other| other != stream));
        let capacity = self.deps.dialect.spec().limits.streams_per_connection;
        let isolated = || self.open.iter().filter(|open| open.is_isolated && open.address == address);
        let may_connect = self.open.iter().filter(|open| open.is_isolated).count() < ISOLATED_MAX;
        let emptiest = isolated().min_by_key(|open| open.len());
        match emptiest.filter(|open| open.len() == 0 || (!may_connect && open.len() < capacity)) {
            Some(open) => open.streams.send_modify(|streams| streams.push(stream.clone())),
            None => self.connect(address, vec![stream.clone()], true),
        }
        self.publish();
    }

    fn publish(&self) {
        let handle = |open: &OpenConnection| ConnectionHandle {
            streams: open.streams.borrow().clone(),
            copy: open.address.copy,
            commands: open.commands.clone(),
        };
        self.handles.send_replace(self.open.iter().map(handle).collect());
    }

    fn connect(&mut self, address: Address, streams: Vec<Stream>, is_isolated: bool) {
        let (commands, received) = mpsc::channel(16);
        let (streams, wanted) = watch::channel(streams);
        let SocketDeps { dialect, events, next_connection, connections, clock, group } = self.deps.clone();
        let stop = group.stop.clone();
        let socket = Socket {
            dialect,
            options: SocketOptions {
                address: address.socket,
                copy: address.copy,
                url_base: address.ws_url.clone(),
                ..SocketOptions::default()
            },
            clock,
            next_connection,
            connections,
            events,
            commands: received,
            streams: wanted,
            stop: stop.clone(),
        };
        group.spawn("socket", async move {
            socket.run().await;
            if !stop.is_cancelled() {
                bail!("a connection's task ended: ingest takes no more frames");
            }
            Ok(())
        });
        if is_isolated {
            warn!("opening a connection for a stream that the shared one does not deliver");
        }
        self.open.push(OpenConnection { address, streams, commands, is_isolated });
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
