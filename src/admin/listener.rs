//! Listeners that limit their connections, and connections that time out when the client does not read.
//!
//! Every connection costs a file descriptor, and the recorder needs descriptors for exchanges and stores. When all are in
//! use, a new connection takes the place of the one that has owed its request for the longest time: a crowd of slow
//! clients does not keep a probe out. Only when every connection has a request in progress does a new one wait. The
//! unix socket has connections of its own: a crowd on TCP does not lock the operator out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tracing::debug;

use super::slots::{Slot, Slots};
use super::socket::AdminSocket;

/// Most open TCP connections: ten open pages and a scraper need a tenth of them.
pub const CONNECTIONS_MAX: usize = 128;
/// Most open connections through the unix socket: a command opens one.
const UNIX_CONNECTIONS_MAX: usize = 16;
/// Longest time that a write may stall: a client that reads nothing would hold its permit for ever.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Where a request comes from, in every request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Through the unix socket: the file's permissions authorise the caller.
    Unix,
    /// Over TCP, from this address.
    Tcp(SocketAddr),
}

/// A listener that accepts a limited number of connections.
pub struct LimitedListener {
    listener: Socket,
    permits: Arc<Semaphore>,
    /// The accepted connection that has no permit yet.
    pending: Option<Pending>,
    slots: Slots,
}

struct Pending {
    stream: Stream,
    caller: Caller,
    /// Another connection was closed for it.
    has_replaced: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(AdminSocket),
}

impl LimitedListener {
    /// On a TCP port.
    pub fn tcp(listener: TcpListener) -> Self {
        Self::new(Socket::Tcp(listener), CONNECTIONS_MAX)
    }

    /// On the unix socket.
    pub fn unix(socket: AdminSocket) -> Self {
        Self::new(Socket::Unix(socket), UNIX_CONNECTIONS_MAX)
    }

    fn new(listener: Socket, connections: usize) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(connections)), pending: None, slots: Slots::default() }
    }

    /// Accepts the next connection, and waits until there is room for it. Dropping the future loses no connection.
    pub async fn accept(&mut self) -> (Connection, Caller) {
        if self.pending.is_none() {
            let (stream, caller) = self.accept_any().await;
            self.pending = Some(Pending { stream, caller, has_replaced: false });
        }
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_full) => {
                if let Some(pending) = self.pending.as_mut().filter(|pending| !pending.has_replaced) {
                    pending.has_replaced = self.slots.close_longest_waiting();
                }
                self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        let Pending { stream, caller, .. } = self.pending.take().expect("set above and taken only here");
        (Connection { stream, write_deadline: None, slot: self.slots.add(), _permit: permit }, caller)
    }

    /// Axum's accept waits and tries again when descriptors run out.
    async fn accept_any(&mut self) -> (Stream, Caller) {
        match &mut self.listener {
            Socket::Tcp(listener) => {
                let (stream, peer) = Listener::accept(listener).await;
                // A response is written at once: there is nothing to batch it with.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!("cannot set TCP_NODELAY: {error}");
                }
                (Stream::Tcp(stream), Caller::Tcp(peer))
            }
            Socket::Unix(socket) => (Stream::Unix(Listener::accept(&mut socket.listener).await.0), Caller::Unix),
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that returns its permit when it ends, and that ends when the client does not read.
pub struct Connection {
    stream: Stream,
    /// Runs while the buffers of both sides are full.
    write_deadline: Option<Pin<Box<Sleep>>>,
    slot: Arc<Slot>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Its place among the connections of the listener.
    pub fn slot(&self) -> Arc<Slot> {
        self.slot.clone()
    }

    /// The result of a write, or an error when it has stalled for [`WRITE_STALL_MAX`].
    fn or_write_timeout<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.write_deadline = None;
            return wrote;
        }
        let write_deadline = self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        ready!(write_deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.or_write_timeout(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.or_write_timeout(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_times_out() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let slot = Slots::default().add();
        let mut connection = Connection { stream: Stream::Unix(ours), write_deadline: None, slot, _permit: permit };
        let began = tokio::time::Instant::now();
        let error = connection.write_all(&vec![0; 8 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), WRITE_STALL_MAX.as_secs());
    }
}
