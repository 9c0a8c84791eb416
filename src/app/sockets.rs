//! Assigns streams to the connections of one exchange, and changes the assignment when the feeds change.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::backfill::ConnectionHandle;
use crate::clock::Clock;
use crate::exchange::socket::{Connections, Socket, SocketCommand, SocketEvent, SocketOptions};
use crate::exchange::{Dialect, Feed};
use crate::market::Stream;

/// Most queued events for ingest, each of up to some hundred frames: when the queue is full the sockets stop reading.
pub const EVENTS_MAX: usize = 64;

/// The connections of one exchange.
pub struct Sockets {
    dialect: Arc<dyn Dialect>,
    open: Vec<OpenConnection>,
    events: mpsc::Sender<SocketEvent>,
    next_connection: Arc<AtomicI64>,
    connections: Connections,
    handles: watch::Sender<Vec<ConnectionHandle>>,
    clock: Clock,
    stop: CancellationToken,
}

struct OpenConnection {
    ws_url: Option<String>,
    streams: Vec<Stream>,
    commands: mpsc::Sender<SocketCommand>,
    task: tokio::task::JoinHandle<()>,
}

impl Sockets {
    /// No connections yet; they send to `events`.
    pub fn new(
        dialect: Arc<dyn Dialect>,
        events: mpsc::Sender<SocketEvent>,
        next_connection: Arc<AtomicI64>,
        connections: Connections,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let (handles, _) = watch::channel(Vec::new());
        Self { dialect, open: Vec::new(), events, next_connection, connections, handles, clock, stop }
    }

    /// The current connections.
    pub fn connection_handles(&self) -> watch::Receiver<Vec<ConnectionHandle>> {
        self.handles.subscribe()
    }

    /// Makes the connections subscribe to exactly the streams of `feeds`. Streams that stay are not touched; new
    /// streams go to a connection with free capacity, else to a new one.
    pub async fn assign(&mut self, feeds: &[Feed]) {
        let mut wanted: Vec<(Option<String>, Stream)> = Vec::new();
        for feed in feeds.iter().filter(|feed| feed.exchange == self.dialect.exchange()) {
            wanted.extend(feed.streams().into_iter().map(|stream| (feed.ws_url.clone(), stream)));
        }
        let capacity = self.dialect.limits().streams_per_connection;
        for open in &mut self.open {
            let before = open.streams.len();
            open.streams.retain(|stream| wanted.iter().any(|(url, want)| *url == open.ws_url && want == stream));
            let mut changed = open.streams.len() != before;
            wanted.retain(|(url, stream)| *url != open.ws_url || !open.streams.contains(stream));
            let mut added = 0;
            wanted.retain(|(url, stream)| {
                let fits = *url == open.ws_url && open.streams.len() < capacity;
                if fits {
                    open.streams.push(stream.clone());
                    added += 1;
                }
                !fits
            });
            changed |= added > 0;
            if changed && open.commands.send(SocketCommand::SetStreams(open.streams.clone())).await.is_err() {
                warn!("a connection has ended and cannot subscribe to its new streams");
            }
        }
        while let Some((ws_url, _)) = wanted.first().cloned() {
            let (mine, rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(url, _)| *url == ws_url);
            wanted = rest;
            let streams: Vec<Stream> = mine.into_iter().map(|(_, stream)| stream).collect();
            for part in streams.chunks(capacity) {
                self.connect(ws_url.clone(), part.to_vec());
            }
        }
        let handle =
            |open: &OpenConnection| ConnectionHandle { streams: open.streams.clone(), commands: open.commands.clone() };
        self.handles.send_replace(self.open.iter().map(handle).collect());
    }

    fn connect(&mut self, ws_url: Option<String>, streams: Vec<Stream>) {
        let (commands, received) = mpsc::channel(16);
        let options = SocketOptions { url_base: ws_url.clone(), ..SocketOptions::default() };
        let socket = Socket {
            dialect: self.dialect.clone(),
            options,
            clock: self.clock.clone(),
            next_connection: self.next_connection.clone(),
            connections: self.connections.clone(),
            events: self.events.clone(),
            commands: received,
            stop: self.stop.clone(),
        };
        let task = tokio::spawn(socket.run(streams.clone()));
        self.open.push(OpenConnection { ws_url, streams, commands, task });
    }

    /// Waits until every connection has ended; `stop` must have been cancelled.
    pub async fn join(self) -> anyhow::Result<()> {
        drop(self.events);
        for open in self.open {
            if let Err(error) = open.task.await {
                anyhow::bail!("a connection's task ended in a panic: {error}");
            }
        }
        Ok(())
    }
}
