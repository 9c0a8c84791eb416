//! HTTPS_PROXY and NO_PROXY for sockets, by curl's rules; REST follows the same variables through reqwest.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

/// Most bytes of a proxy's answer to CONNECT.
const ANSWER_BYTES_MAX: usize = 8_192;

/// The rules that select a proxy for an address; cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Matcher>);

impl Proxy {
    /// Reads ALL_PROXY, HTTPS_PROXY, HTTP_PROXY and NO_PROXY (or their lower-case forms).
    pub fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    /// Uses the rules of `matcher`.
    pub fn from_matcher(matcher: Matcher) -> Self {
        Self(Arc::new(matcher))
    }

    /// Opens a TCP connection for `url` (`ws`, `wss`), through the proxy that the rules select for it, if any.
    pub(super) async fn connect(&self, url: &Uri) -> anyhow::Result<TcpStream> {
        let (http_scheme, port) = match url.scheme_str() {
            Some("wss") => ("https", 443),
            Some("ws") => ("http", 80),
            _ => bail!("{url} is neither a ws:// nor a wss:// address"),
        };
        let host = url.host().with_context(|| format!("{url} has no host"))?;
        let port = url.port_u16().unwrap_or(port);
        let target: Uri = format!("{http_scheme}://{host}:{port}/").parse().context("build the address to match")?;
        let Some(proxy) = self.0.intercept(&target) else {
            return open(host, port).await;
        };
        tunnel(&proxy, host, port).await.with_context(|| format!("through the proxy {}", proxy.uri()))
    }
}

async fn open(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    // A URL puts an IPv6 address in brackets; a socket address has none.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await.with_context(|| format!("connect to {host}:{port}"))?;
    // A pong or a SUBSCRIBE is small; Nagle's algorithm must not delay it.
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

/// Requests a tunnel to the exchange from an HTTP proxy. Reads the answer byte by byte up to its blank line, so that
/// it consumes no byte of the tunnel.
async fn tunnel(proxy: &Intercept, host: &str, port: u16) -> anyhow::Result<TcpStream> {
    let uri = proxy.uri();
    ensure!(uri.scheme_str() == Some("http"), "only http:// proxies can carry a WebSocket");
    let proxy_host = uri.host().context("the proxy's address has no host")?;
    let mut stream = open(proxy_host, uri.port_u16().unwrap_or(80)).await?;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(auth) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(auth.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.context("send CONNECT")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(answer.len() < ANSWER_BYTES_MAX, "the answer to CONNECT is longer than {ANSWER_BYTES_MAX} bytes");
        answer.push(stream.read_u8().await.context("read the answer to CONNECT")?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    let code = status.split(' ').nth(1).unwrap_or_default();
    ensure!(code.starts_with('2') && code.len() == 3, "the proxy refuses CONNECT {host}:{port}: {status}");
    Ok(stream)
}
