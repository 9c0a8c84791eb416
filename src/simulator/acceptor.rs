//! The listening socket, and connections that end with a TCP reset when a fault cuts them. Knows no protocol.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::locked;

/// The time until which connections are refused; the acceptor and every connection share it.
#[derive(Debug, Default)]
pub struct Outage {
    until: Mutex<Option<Instant>>,
    refused: std::sync::atomic::AtomicU64,
}

impl Outage {
    /// Refuses connections and requests until `until`.
    pub fn begin(&self, until: Instant) {
        *locked(&self.until) = Some(until);
    }

    /// Whether connections are refused now.
    pub fn is_active(&self) -> bool {
        locked(&self.until).is_some_and(|until| until > Instant::now())
    }

    /// Connections refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Accepts connections, and resets those that come during an outage.
#[derive(Debug)]
pub struct Acceptor {
    /// The listening socket.
    pub listener: TcpListener,
    /// Refuses connections while it is active.
    pub outage: Arc<Outage>,
}

/// The pause after a failed accept: usually the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl Listener for Acceptor {
    type Io = ResettableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ResettableStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let reset = Arc::new(AtomicBool::new(false));
                    let connection = ResettableStream { stream, reset, outage: self.outage.clone() };
                    if self.outage.is_active() {
                        self.outage.refused.fetch_add(1, Ordering::Relaxed);
                        connection.reset.store(true, Ordering::Relaxed);
                        continue;
                    }
                    // We flush frames in batches; Nagle's algorithm would delay them by another 40 ms.
                    if let Err(error) = connection.stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    return (connection, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A TCP stream that can end with a reset.
#[derive(Debug)]
pub struct ResettableStream {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
    outage: Arc<Outage>,
}

impl Drop for ResettableStream {
    fn drop(&mut self) {
        if !self.reset.load(Ordering::Relaxed) {
            return;
        }
        // With zero linger the kernel drops unsent bytes and sends a reset.
        if let Err(error) = self.stream.set_zero_linger() {
            tracing::debug!(%error, "cannot reset the connection, closing it");
        }
    }
}

impl AsyncRead for ResettableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() && self.outage.is_active() {
            // A kept-alive REST connection ends at its next request, as on a dead network.
            self.reset.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        polled
    }
}

impl AsyncWrite for ResettableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A handler's access to its connection: it can make the connection end with a reset.
#[derive(Clone, Debug)]
pub struct ResetHandle {
    reset: Arc<AtomicBool>,
}

impl ResetHandle {
    /// Makes the connection end with a reset instead of an orderly close.
    pub fn reset_at_end(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Acceptor>> for ResetHandle {
    fn connect_info(stream: IncomingStream<'_, Acceptor>) -> Self {
        Self { reset: stream.io().reset.clone() }
    }
}
