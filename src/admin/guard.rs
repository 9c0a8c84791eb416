//! Middleware that limits and authorises requests: timeouts, concurrency, Host and Origin checks, the admin token.
//!
//! It must not know what an endpoint does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::AppState;
use super::listener::Caller;
use super::response::ApiError;

/// Longest time for a request; the coverage of all streams is the slowest.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends a request that takes too long.
pub async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let message = format!("the request took longer than {} s", limit.as_secs_f64());
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message).into_response()
        }
    }
}

/// Most TCP requests in progress: each may hold a reader of a store, and recording comes first.
pub const CONCURRENT_REQUESTS_MAX: usize = 32;
/// Most requests in progress through the unix socket. They have a limit of their own, so that the operator never waits
/// for TCP clients.
const UNIX_REQUESTS_MAX: usize = 8;
/// Longest wait for a permit.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The permits for requests in progress.
pub struct RequestLimits {
    tcp: Semaphore,
    unix: Semaphore,
    wait: Duration,
}

impl RequestLimits {
    /// Allows `tcp` requests over TCP; further ones wait for `wait`.
    pub fn new(tcp: usize, wait: Duration) -> Self {
        Self { tcp: Semaphore::new(tcp), unix: Semaphore::new(UNIX_REQUESTS_MAX), wait }
    }
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self::new(CONCURRENT_REQUESTS_MAX, QUEUE_WAIT_MAX)
    }
}

/// Lets [`CONCURRENT_REQUESTS_MAX`] requests run at a time. Others wait for [`QUEUE_WAIT_MAX`], then get 503 with
/// Retry-After.
pub async fn limit_concurrency(
    State(limits): State<Arc<RequestLimits>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let permits = if caller == Caller::Unix { &limits.unix } else { &limits.tcp };
    match tokio::time::timeout(limits.wait, permits.acquire()).await {
        Ok(Ok(_permit)) => next.run(request).await,
        Ok(Err(_)) | Err(_) => {
            let message = "too many requests are in progress: try again later";
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
            ([(header::RETRY_AFTER, "5")], error).into_response()
        }
    }
}

/// Longest path and query of a request.
pub const URI_BYTES_MAX: usize = 4 << 10;

/// Refuses addresses that are longer than any valid request.
pub async fn limit_uri_length(request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    if length <= URI_BYTES_MAX {
        return next.run(request).await;
    }
    let message = format!("the address is longer than {URI_BYTES_MAX} bytes");
    ApiError::new(StatusCode::URI_TOO_LONG, "address_too_long", message).into_response()
}

/// Refuses a Host header that does not name this service. A page elsewhere can point its own name at this address (DNS
/// rebinding); its requests then carry that name.
pub async fn check_host(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A token identifies the caller, whatever the name. No page can reach a unix socket.
    if caller == Caller::Unix || is_own_host(host) || is_token(bearer(request.headers()), &state) {
        return next.run(request).await;
    }
    let message = format!("`{host}` is not a name of this service: use its IP address, or send the admin token");
    ApiError::new(StatusCode::FORBIDDEN, "unknown_host", message).into_response()
}

/// Allows a change only when no page of another site sends it, and only through the unix socket, from loopback or with
/// the token.
pub async fn authorize_change(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if let Some(error) = cross_site_error(headers) {
        return error.into_response();
    }
    if is_trusted(&state, caller, bearer(headers)) {
        return next.run(request).await;
    }
    let message = "this needs the admin token: Authorization: Bearer ...";
    ApiError::new(StatusCode::UNAUTHORIZED, "token_needed", message).into_response()
}

/// The error for a request that a page of another site sends; none for any other request.
pub fn cross_site_error(headers: &HeaderMap) -> Option<ApiError> {
    let message = "a page of another site must not change anything here";
    is_cross_site(headers).then(|| ApiError::new(StatusCode::FORBIDDEN, "cross_site", message))
}

/// Whether the caller may change something: through the unix socket, from loopback, or with the token that a header or
/// a form has `given`.
pub fn is_trusted(state: &AppState, caller: Caller, given: &str) -> bool {
    let is_local = match caller {
        Caller::Unix => true,
        Caller::Tcp(peer) => state.options.listen.ip().is_loopback() && peer.ip().is_loopback(),
    };
    is_local || is_token(given, state)
}

fn bearer(headers: &HeaderMap) -> &str {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.strip_prefix("Bearer ").unwrap_or_default()
}

fn is_token(given: &str, state: &AppState) -> bool {
    let token = state.token.borrow();
    let Some(token) = token.as_deref() else { return false };
    // Compares every byte, so that the time does not reveal how many bytes match.
    given.len() == token.len() && given.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn is_own_host(host: &str) -> bool {
    let name = match host.parse::<SocketAddr>() {
        Ok(_) => return true,
        Err(_) => {
            host.rsplit_once(':').map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { host })
        }
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Browsers send the origin of a request. curl does not, and it is not a page.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let Some(origin) = text("origin") else { return false };
    let host = text("host").unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, of)| of != host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_names_of_this_service() {
        for known in ["127.0.0.1:8081", "[::1]:8081", "localhost:8081", "localhost", "10.0.0.7"] {
            assert!(is_own_host(known), "{known}");
        }
        for foreign in ["evil.example:8081", "127.0.0.1.evil.example", "localhost.evil.example:80"] {
            assert!(!is_own_host(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_foreign() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            headers
        };
        assert!(!is_cross_site(&headers(&[("host", "127.0.0.1:8081")])));
        assert!(!is_cross_site(&headers(&[("host", "127.0.0.1:8081"), ("origin", "http://127.0.0.1:8081")])));
        assert!(is_cross_site(&headers(&[("host", "127.0.0.1:8081"), ("origin", "http://evil.example")])));
        assert!(is_cross_site(&headers(&[("host", "127.0.0.1:8081"), ("origin", "null")])));
        assert!(is_cross_site(&headers(&[("host", "127.0.0.1:8081"), ("sec-fetch-site", "cross-site")])));
    }
}
