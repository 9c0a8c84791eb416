//! Serves HTTP/1 on the listeners, with limits for headers and for idle connections.
//!
//! At the stop it accepts nothing more, and [`DRAIN_TIME`] later it shuts the connections down: a connection that was
//! accepted just before still gets its response. When systemd holds the listener, later clients wait for the next
//! process.

use std::convert::Infallible;
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
use super::slots::{RequestBody, ResponseBody};

/// How long an accepted connection may take to send its request when the service stops; a local client sends at once.
pub const DRAIN_TIME: Duration = Duration::from_millis(250);
/// Longest time for the headers of a request, and longest idle time between two requests.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of a request's headers and address. A browser's cookies for other services on this host fit.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header lines of a request; a browser sends about fifteen.
const HEADERS_MAX: usize = 64;

/// Serves until `stop`, then finishes the last requests.
pub async fn serve(mut listeners: Vec<LimitedListener>, router: Router, stop: CancellationToken) {
    // A panic in a handler ends its connection and is logged; the recording path does not depend on it.
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

/// The next connection of any listener; the first listener wins when several have one.
async fn accept_any(listeners: &mut [LimitedListener]) -> (Connection, Caller) {
    if listeners.is_empty() {
        return std::future::pending().await;
    }
    // Dropping the other accepts loses no connection.
    select_all(listeners.iter_mut().map(|listener| Box::pin(listener.accept()))).await.0
}

/// Logs a handler's panic; it ends only its own connection.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!("an API request ended in a panic: {error}");
    }
}

/// Serves the requests of one connection until either side closes it.
async fn serve_connection(connection: Connection, caller: Caller, router: Router, closing: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let slot = connection.slot();
    let serving = slot.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let slot = serving.clone();
        let answer = router.call(request.map(|body| RequestBody::new(body, slot.clone())));
        async move { Ok::<_, Infallible>(answer.await?.map(|body| ResponseBody::new(body, slot))) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(4 * HEAD_BYTES_MAX);
    let mut http_connection = pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = http_connection.as_mut() => ended,
        () = slot.close.cancelled() => {
            debug!("closed a connection of the API that owed its request for longest: another one needs its place");
            return;
        }
        () = closing.cancelled() => {
            http_connection.as_mut().graceful_shutdown();
            http_connection.await
        }
    };
    if let Err(error) = ended {
        debug!("a connection of the API ended: {error}");
    }
}
