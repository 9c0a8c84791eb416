//! Opens one connection: TCP (through a proxy), TLS, upgrade. An error says in plain words why it failed.

use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::USER_AGENT;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, http};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::clock::Clock;
use crate::exchange::retry_after::requested_wait;
use crate::exchange::{Proxy, refused_address, tls};
use crate::market::Timestamp;

pub(super) type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Most bytes of one message; a combined frame of any stream we know is below 100 KiB.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Bytes to read from the system at once: some 500 frames of a busy second.
const READ_BYTES: usize = 128 << 10;
/// The wait after a 429 without Retry-After.
const LIMITED_WAIT: Duration = Duration::from_secs(60);
/// The wait after a 418 without Retry-After: the shortest ban, "2 min ... 3 days".
const BANNED_WAIT: Duration = Duration::from_secs(120);

/// Why the connection was not opened.
#[derive(Debug)]
pub(super) struct ConnectError {
    pub(super) text: String,
    pub(super) retry: Retry,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// After the back-off.
    Backoff,
    /// After [`refused_wait`](super::SocketOptions::refused_wait): the refusal lasts.
    Slowly,
    /// After the wait that the exchange requires.
    After(Duration),
}

/// Opens a WebSocket to `url`. It has no timeout of its own: the caller sets the time limit.
pub(super) async fn connect(url: &str, proxy: &Proxy, clock: &Clock) -> Result<WebSocket, ConnectError> {
    let failed = |error: anyhow::Error| ConnectError { text: format!("{error:#}"), retry: Retry::Backoff };
    let mut request = url.into_client_request().with_context(|| format!("read the address {url}")).map_err(failed)?;
    request
        .headers_mut()
        .insert(USER_AGENT, HeaderValue::from_static(concat!("tapekeeper/", env!("CARGO_PKG_VERSION"))));
    let stream = proxy.connect(request.uri()).await.map_err(failed)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let connector = Connector::Rustls(tls::client_config());
    match client_async_tls_with_config(request, stream, Some(config), Some(connector)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(refusal(&response, clock.now())),
        Err(error) => Err(ConnectError { text: format!("open a WebSocket to {url}: {error}"), retry: Retry::Backoff }),
    }
}

fn refusal(response: &Response, now: Timestamp) -> ConnectError {
    let status = response.status().as_u16();
    let requested_wait = requested_wait(response.headers(), now);
    match status {
        // "403 = WAF"; 451 = a geo-block.
        403 | 451 => ConnectError { text: refused_address(status, "ws_url"), retry: Retry::Slowly },
        // "429 -> Retry-After seconds; ignoring it -> 418 ban 2 min ... 3 days".
        429 => {
            let wait = requested_wait.unwrap_or(LIMITED_WAIT);
            let text = format!("the exchange limits us (HTTP 429): waiting {} s", wait.as_secs());
            ConnectError { text, retry: Retry::After(wait) }
        }
        418 => {
            let wait = requested_wait.unwrap_or(BANNED_WAIT);
            let text = format!("the exchange has banned this address (HTTP 418) for {} s", wait.as_secs());
            ConnectError { text, retry: Retry::After(wait) }
        }
        _ => {
            let words = http::StatusCode::canonical_reason(&response.status()).unwrap_or("no reason given");
            let text = format!("the exchange refuses to open a WebSocket (HTTP {status} {words})");
            ConnectError { text, retry: Retry::Backoff }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::header::RETRY_AFTER;

    use super::*;
    use crate::exchange::retry_after::WAIT_MAX;

    fn check(status: u16, retry_after: Option<&str>, retry: Retry, part: &str) {
        let mut response = http::Response::builder().status(status);
        if let Some(seconds) = retry_after {
            response = response.header(RETRY_AFTER, seconds);
        }
        // 1994-11-06T08:49:37Z.
        let error = refusal(&response.body(None).unwrap(), Timestamp(784_111_777_000_000));
        assert_eq!(error.retry, retry, "{status}");
        assert!(error.text.contains(part), "{} does not say {part:?}", error.text);
    }

    #[test]
    fn a_refusal_names_its_reason_and_sets_the_wait() {
        check(451, None, Retry::Slowly, "geo-block): use a server in a permitted region or set ws_url");
        check(403, None, Retry::Slowly, "HTTP 403");
        check(429, Some("7"), Retry::After(Duration::from_secs(7)), "7 s");
        check(418, Some("259200"), Retry::After(Duration::from_secs(259_200)), "banned");
        check(418, None, Retry::After(BANNED_WAIT), "banned");
        check(429, Some("soon"), Retry::After(LIMITED_WAIT), "limits");
        check(429, Some("-1"), Retry::After(LIMITED_WAIT), "limits");
        check(429, Some("Sun, 06 Nov 1994 08:59:37 GMT"), Retry::After(Duration::from_secs(600)), "600 s");
        for endless in
            ["18446744073709551615", "99999999999999999999", "1000000000000", "Fri, 01 Jan 2100 00:00:00 GMT"]
        {
            check(429, Some(endless), Retry::After(WAIT_MAX), "345600 s");
            check(418, Some(endless), Retry::After(WAIT_MAX), "345600 s");
        }
        check(503, None, Retry::Backoff, "503");
    }
}
