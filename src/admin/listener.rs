//! A listener that keeps its connections few, and ends before they do.
//!
//! Every connection costs a file descriptor, and the recorder needs its own for sockets and stores: whoever
//! opens connections without end waits in the kernel's queue, and recording goes on.
//!
//! At the stop it accepts nothing more, and [`LAST_REQUESTS`] later the connections are ended: one that was accepted just
//! before gets its request answered. When systemd holds the listener, whoever comes later waits for the next process.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most connections at a time: ten open pages and a scraper need a tenth of it.
pub const CONNECTIONS_MAX: usize = 128;

/// How long a connection may take to send its request when the service stops: on one machine that is immediate.
pub const LAST_REQUESTS: Duration = Duration::from_millis(250);

/// Accepts while fewer than [`CONNECTIONS_MAX`] are open.
pub struct FewConnections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl FewConnections {
    /// Limits this listener; it accepts until `stop`.
    pub fn new(listener: TcpListener, stop: CancellationToken) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), stop }
    }
}

impl Listener for FewConnections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (places, listener) = (self.places.clone(), &mut self.listener);
        let accepted = async move {
            let place = places.acquire_owned().await.expect("the semaphore is never closed");
            // Axum's own accept for a TcpListener waits and tries again when descriptors run out.
            let (stream, peer) = Listener::accept(listener).await;
            (Connection { stream, _place: place }, peer)
        };
        tokio::select! {
            biased;
            // Axum ends its loop by itself, a moment later.
            () = self.stop.cancelled() => std::future::pending().await,
            accepted = accepted => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its place back when it ends.
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
