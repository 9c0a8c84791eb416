//! The WebSocket loop: one implementation for every exchange, one ordered reader per socket.
//!
//! It keeps a connection open, subscribes within the exchange's limits and sends the bytes exactly as received to
//! its event channel, in batches of everything that was ready at once. It knows nothing about trades: a [`Dialect`]
//! decides what to send and what an answer is. When the receiver of its events is slow, it stops reading
//! (back-pressure); it never drops a frame, and every wait also selects on `stop`.
//!
//! `session` owns exactly one open connection and `connect` opens one. `rotation` starts a second session before the
//! exchange ends the first, and ends the first when the second has delivered what the first had delivered.

mod connect;
mod connections;
mod overlap;
mod pace;
mod refusals;
mod rotation;
mod session;
mod subscriptions;

pub use connections::{ConnectionStatus, Connections};

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connect::{ConnectError, Retry, WebSocket};
use self::connections::StatusHandle;
use self::refusals::Refusals;
use self::session::SessionEnd;
use super::{Dialect, Proxy};
use crate::clock::Clock;
use crate::market::{Stream, Timestamp};
use crate::retry::Backoff;

/// How long a stopping socket waits until the channel takes its last event.
const LAST_EVENT_WAIT: Duration = Duration::from_secs(1);

/// The longest wait between two connections that this process keeps.
const WAIT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// How a socket behaves.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Which of the exchange's addresses: an index into [`Spec::sockets`](super::spec::Spec::sockets).
    pub address: usize,
    /// Which of several sockets with the same streams this is: 0, or up to [`Spec::copies`](super::spec::Spec::copies).
    pub copy: usize,
    /// Replaces the exchange's own base (`wss://host:port`, no path).
    pub url_base: Option<String>,
    /// Replaces the dialect's [`lifetime`](super::SocketLimits::lifetime).
    pub lifetime: Option<Duration>,
    /// How long a rotation keeps both connections open while streams are silent.
    pub overlap_max: Duration,
    /// Replaces the dialect's [`silence_max`](super::SocketLimits::silence_max).
    pub silence_max: Option<Duration>,
    /// The first wait after a connection was lost.
    pub backoff_min: Duration,
    /// The longest wait between two attempts. Short, because backfill must fetch every second that is missing.
    /// `ConnectLimit` keeps all sockets together under the exchange's limit on attempts.
    pub backoff_max: Duration,
    /// The wait after a refusal that lasts (403, 451).
    pub refused_wait: Duration,
    /// Most time for TCP, TLS and upgrade together.
    pub connect_timeout: Duration,
    /// Most time for the answer to a SUBSCRIBE.
    pub answer_timeout: Duration,
    /// The first wait before a refused stream is requested again; it doubles with every refusal, up to an hour.
    pub refusal_wait: Duration,
    /// Selects the proxy to connect through.
    pub proxy: Proxy,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            address: 0,
            copy: 0,
            url_base: None,
            lifetime: None,
            overlap_max: Duration::from_secs(30),
            silence_max: None,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
            refused_wait: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            refusal_wait: Duration::from_secs(10),
            proxy: Proxy::from_env(),
        }
    }
}

/// What a socket reports.
#[derive(Debug)]
pub enum SocketEvent {
    /// The exchange acknowledged every SUBSCRIBE for these streams, or the time for an answer passed. Comes again for
    /// the same connection with the streams that a [`SocketCommand`] added or resubscribed.
    Connected {
        /// The connection's number.
        connection: i64,
        /// Streams that the connection delivers from about now on. Some of their frames may have come earlier.
        streams: Vec<Stream>,
    },
    /// Everything that was ready at once, in order, including the answers to our requests.
    Frames {
        /// The connection's number.
        connection: i64,
        /// The receive time and the bytes exactly as received.
        frames: Vec<(Timestamp, Bytes)>,
    },
    /// The connection ended. Comes for every connection that was opened, even if it was never `Connected`.
    Disconnected {
        /// The connection's number.
        connection: i64,
        /// The streams of the socket.
        streams: Vec<Stream>,
        /// In words.
        reason: String,
    },
    /// We ended the connection: another one carries its streams and has delivered what this one had delivered.
    Replaced {
        /// The connection's number.
        connection: i64,
        /// The number of the connection that replaces it.
        by: i64,
        /// The streams.
        streams: Vec<Stream>,
    },
    /// The exchange refuses a stream; the others continue. The socket requests it again, after growing pauses;
    /// [`SocketEvent::Connected`] names it when the exchange accepts it.
    Refused {
        /// The connection's number.
        connection: i64,
        /// The refused stream.
        stream: Stream,
        /// The exchange's own words.
        reason: String,
    },
}

impl SocketEvent {
    /// Bytes of its frames.
    fn bytes(&self) -> usize {
        match self {
            Self::Frames { frames, .. } => frames.iter().map(|(_, payload)| payload.len()).sum(),
            _ => 0,
        }
    }
}

/// A command to a socket. Send it with `try_send`, or from a task that does not receive the events: a socket that
/// waits for its event channel reads no commands.
#[derive(Clone, Debug)]
pub enum SocketCommand {
    /// Unsubscribe from these streams of the open connection and subscribe to them again.
    Resubscribe(Vec<Stream>),
    /// Close this connection for this reason and open another one.
    Reconnect(String),
    /// Open another connection, and close the present one when that has taken over, if the present one has this number.
    Rotate(i64),
}

/// One socket: everything it needs to run.
pub struct Socket {
    /// The exchange's protocol.
    pub dialect: Arc<dyn Dialect>,
    /// How it behaves.
    pub options: SocketOptions,
    /// Stamps the frames.
    pub clock: Clock,
    /// The next connection's number, shared by all sockets.
    pub next_connection: Arc<AtomicI64>,
    /// Shows the socket's state and holds the connect limit that all sockets share.
    pub connections: Connections,
    /// Bounded: when it is full, the socket stops reading.
    pub events: mpsc::Sender<SocketEvent>,
    /// See [`SocketCommand`].
    pub commands: mpsc::Receiver<SocketCommand>,
    /// The streams to carry. After a change the open connection subscribes to the new ones and unsubscribes from the
    /// others. The newest list counts, and whoever changes it never waits for this socket.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Ends the socket.
    pub stop: CancellationToken,
}

/// Distributes streams over as few connections as the exchange allows.
pub fn split(streams: &[Stream], streams_per_connection: usize) -> Vec<Vec<Stream>> {
    streams.chunks(streams_per_connection.max(1)).map(<[Stream]>::to_vec).collect()
}

impl Socket {
    /// Keeps its streams connected until `stop`, or until the receiver of the events is dropped.
    pub async fn run(mut self) {
        let mut streams = self.streams.borrow_and_update().clone();
        let refusals = Refusals::default();
        let mut status = self.connections.register(self.dialect.exchange());
        let mut backoff = Backoff::new(self.options.backoff_min, self.options.backoff_max);
        let mut wait = Duration::ZERO;
        loop {
            if !self.pause(wait, &mut streams, &status).await {
                return;
            }
            status.update(|row| "connecting".clone_into(&mut row.state));
            let connected = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                connected = self.connect() => connected,
            };
            wait = match connected {
                Ok(socket) => match self.serve(socket, &mut streams, &refusals, &mut status).await {
                    Some(end) => after_session(&end, &mut backoff),
                    None => return,
                },
                Err(error) => self.after_failure(&error, &mut backoff, &status),
            };
        }
    }

    /// Waits for `wait`, then until there are streams to carry, then for the exchange's limit on connection attempts.
    /// Handles commands meanwhile. `false`: stop.
    async fn pause(&mut self, wait: Duration, streams: &mut Vec<Stream>, status: &StatusHandle) -> bool {
        // A wait that the clock cannot hold is one of centuries: a year is as long.
        let mut until = Instant::now().checked_add(wait).unwrap_or_else(|| Instant::now() + WAIT_MAX);
        loop {
            let idle = streams.is_empty();
            if idle {
                status.update(|row| "idle".clone_into(&mut row.state));
            } else if until <= Instant::now() {
                match self.connections.attempt(self.dialect.exchange(), &self.dialect.spec().limits, Instant::now()) {
                    Ok(()) => return true,
                    Err(later) => until = later,
                }
                // Another socket, or an earlier process, was refused.
                if let Some(why) = self.connections.deferral_reason(self.dialect.exchange(), Instant::now()) {
                    status.update(|row| {
                        row.state = format!("waiting: {why}");
                        row.last_error = why;
                    });
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                () = self.events.closed() => return false,
                Ok(()) = self.streams.changed() => streams.clone_from(&self.streams.borrow_and_update()),
                // There is no connection that it could change.
                Some(_command) = self.commands.recv() => {}
                () = tokio::time::sleep_until(until), if !idle => {}
            }
        }
    }

    fn connect(&self) -> BoxFuture<'static, Result<WebSocket, ConnectError>> {
        let address = &self.dialect.spec().sockets[self.options.address];
        let base = self.options.url_base.as_deref().unwrap_or(address.base);
        let url = format!("{}{}", base.trim_end_matches('/'), address.path);
        let (limit, proxy) = (self.options.connect_timeout, self.options.proxy.clone());
        let clock = self.clock.clone();
        Box::pin(async move {
            match tokio::time::timeout(limit, connect::connect(&url, &proxy, &clock)).await {
                Ok(connected) => connected,
                Err(_) => {
                    let text = format!("open a WebSocket to {url}: no answer within {} s", limit.as_secs_f32());
                    Err(ConnectError { text, retry: Retry::Backoff })
                }
            }
        })
    }

    fn after_failure(&self, error: &ConnectError, backoff: &mut Backoff, status: &StatusHandle) -> Duration {
        let wait = match error.retry {
            Retry::Backoff => backoff.next_delay(),
            Retry::Slowly => self.options.refused_wait,
            Retry::After(wait) => wait,
        };
        let exchange = self.dialect.exchange();
        if let Retry::After(wait) = error.retry {
            // It concerns the address, and outlives this process.
            self.connections.defer(exchange, wait, &error.text);
        }
        let wait_ms = wait.as_millis();
        tracing::warn!(%exchange, wait_ms, error = error.text, "no connection to {exchange}: {}", error.text);
        status.update(|row| {
            row.last_error.clone_from(&error.text);
            row.state = format!("waiting: {}", error.text);
        });
        wait
    }
}

/// How long to wait after a connection ended. A connection that delivered data resets the back-off.
fn after_session(end: &SessionEnd, backoff: &mut Backoff) -> Duration {
    if end.delivered {
        backoff.reset();
        if end.reconnect_now {
            return Duration::ZERO;
        }
    }
    backoff.next_delay()
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
