//! Serves HTTP on the listeners there are: few connections, short heads, no waiting for who sends nothing.
//!
//! At the stop nothing more is accepted, and [`DRAIN_TIME`] later the connections are ended: one that was accepted
//! just before gets its request answered. When systemd holds the listener, whoever comes later waits for the next process.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use futures_util::future::select_all;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::listener::{Caller, Connection, LimitedListener};

/// How long a connection may take to send its request when the service stops: on one machine that is immediate.
pub const DRAIN_TIME: Duration = Duration::from_millis(250);
/// How long a request's head may take, and how long a connection may be idle between two requests.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest head of a request, its address included: a browser's cookies for other services on this host fit.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header lines of a request; a browser sends about fifteen.
const HEADERS_MAX: usize = 64;

/// Serves until `stop`, and then the last requests.
pub async fn serve(mut listeners: Vec<LimitedListener>, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let closing = CancellationToken::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            (connection, caller) = accept_any(&mut listeners) => {
                connections.spawn(serve_connection(connection, caller, router.clone(), closing.clone()));
            }
            Some(ended) = connections.join_next() => log_panic(ended),
        }
    }
    drop(listeners);
    tokio::time::sleep(DRAIN_TIME).await;
    closing.cancel();
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

/// The next connection of any listener; the first listener's when several have one.
async fn accept_any(listeners: &mut [LimitedListener]) -> (Connection, Caller) {
    if listeners.is_empty() {
        return std::future::pending().await;
    }
    // An accept that is not taken has taken nothing.
    select_all(listeners.iter_mut().map(|listener| Box::pin(listener.accept()))).await.0
}

/// A handler that panics ends its connection, and nothing else.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!("an API request ended in a panic: {error}");
    }
}

/// Answers one connection's requests until either side ends it.
async fn serve_connection(connection: Connection, caller: Caller, router: Router, closing: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(4 * HEAD_BYTES_MAX);
    let mut http_connection = pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = http_connection.as_mut() => ended,
        () = closing.cancelled() => {
            http_connection.as_mut().graceful_shutdown();
            http_connection.await
        }
    };
    if let Err(error) = ended {
        debug!("a connection of the API ended: {error}");
    }
}
