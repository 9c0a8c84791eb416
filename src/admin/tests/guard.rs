//! Authorisation, concurrency limits, size limits and timeouts.

use std::io::ErrorKind::WouldBlock;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Extension, Router};
use reqwest::header::{AUTHORIZATION, HOST, ORIGIN};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Served, builder, client, document};
use crate::admin::listener::{Caller, LimitedListener};
use crate::admin::{AdminOptions, guard, server};

const RUN: &str = "/api/v1/jobs/state-snapshot/run";

async fn refused(request: reqwest::RequestBuilder) -> (u16, String) {
    let (status, answer): (u16, Value) = document(request).await;
    (status, answer["error"]["code"].as_str().unwrap_or("none").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebound_name_is_refused_everywhere() {
    let served = Served::start().await;
    for path in ["/", "/api/v1/status", "/metrics", "/healthz", "/nope"] {
        let request = served.http.get(served.url(path)).header(HOST, "rebound.example:8081");
        assert_eq!(refused(request).await, (403, "unknown_host".to_owned()), "{path}");
    }
    let request = served.http.post(served.url(RUN)).header(HOST, "rebound.example");
    assert_eq!(refused(request).await, (403, "unknown_host".to_owned()));
    let request = served.http.get(served.url("/healthz")).header(HOST, "localhost:8081");
    assert_eq!(document(request).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing() {
    let served = Served::start().await;
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let request = served.http.post(served.url(RUN)).header(name, value);
        assert_eq!(refused(request).await, (403, "cross_site".to_owned()), "{name}: {value}");
    }
    assert_eq!(served.get("/api/v1/jobs").await.1[0]["runs"], 0);
    let own = served.http.post(served.url(RUN)).header(ORIGIN, format!("http://{}", served.address));
    assert_eq!(document(own).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_change_needs_the_token_and_a_read_does_not() {
    let listen = "0.0.0.0:8081".parse().unwrap();
    let options = AdminOptions { listen, token: Some("secret".to_owned()), socket: None };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    assert_eq!(served.get("/api/v1/status").await.0, 200);
    for given in ["", "Bearer wrong!", "Bearer ", "secret", "Basic secret"] {
        let request = served.http.post(served.url(RUN)).header(AUTHORIZATION, given);
        assert_eq!(refused(request).await, (401, "token_needed".to_owned()), "{given:?}");
    }
    let request = served.http.post(served.url(RUN)).bearer_auth("secret");
    assert_eq!(document(request).await.0, 200);
    // A token does not allow a page of another site.
    let request = served.http.post(served.url(RUN)).bearer_auth("secret").header(ORIGIN, "http://evil.example");
    assert_eq!(refused(request).await, (403, "cross_site".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_nothing_changes_when_no_token_is_set() {
    let options = AdminOptions { listen: "0.0.0.0:8081".parse().unwrap(), token: None, socket: None };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    for given in ["", "Bearer ", "Bearer x"] {
        let request = served.http.post(served.url(RUN)).header(AUTHORIZATION, given);
        assert_eq!(refused(request).await, (401, "token_needed".to_owned()), "{given:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_slow_clients_does_not_keep_a_probe_out() {
    let served = Served::start().await;
    let mut crowd = Vec::new();
    for n in 0..3 * crate::admin::listener::CONNECTIONS_MAX {
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        let half: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nHost: localhost\r\n",
            _ => b"POST /do HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\na",
        };
        // A connection that made room for another one is closed already.
        slow.write_all(half).await.ok();
        crowd.push(slow);
    }
    let began = std::time::Instant::now();
    let answer = send_raw(&served, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() < server::HEAD_TIMEOUT / 2, "answered after {:?}", began.elapsed());
    let is_open = |client: &TcpStream| client.try_read(&mut [0; 512]).is_err_and(|error| error.kind() == WouldBlock);
    let open = crowd.iter().filter(|client| is_open(client)).count();
    assert!(open <= crate::admin::listener::CONNECTIONS_MAX, "{open} connections are open");
    // The newest of the crowd is still served, and an idle one ends with the service.
    let last = crowd.last_mut().unwrap();
    served.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), last.read(&mut [0])).await;
    assert!(ended.is_ok(), "an idle connection ends with the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_504_and_one_without_a_permit_is_503() {
    let none = Arc::new(guard::RequestLimits::new(0, Duration::from_millis(20)));
    let router = Router::new()
        .route("/busy", get(async || "never").layer(from_fn_with_state(none, guard::limit_concurrency)))
        .route("/slow", get(std::future::pending::<&str>))
        .layer(from_fn_with_state(Duration::from_millis(500), guard::limit_time))
        .layer(Extension(Caller::Tcp("127.0.0.1:1".parse().unwrap())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    assert_eq!(refused(client().get(format!("{base}/slow"))).await, (504, "timeout".to_owned()));
    let busy = client().get(format!("{base}/busy")).send().await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_accepted_just_before_the_stop_is_answered() {
    let mut tries = 0;
    loop {
        let served = Served::start().await;
        let mut late = TcpStream::connect(served.address).await.unwrap();
        // Connections are accepted in order: when this one is answered, the one before it has been accepted.
        assert_eq!(served.get("/healthz").await.0, 200);
        served.stop.cancel();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_millis(50), late.read_to_end(&mut answer)).await.is_ok();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        if !ended && late.write_all(request).await.is_ok() {
            let read = tokio::time::timeout(Duration::from_secs(10), late.read_to_end(&mut answer)).await;
            if read.is_ok_and(|read| read.is_ok()) && answer.starts_with(b"HTTP/1.1 200") {
                return;
            }
        }
        // A busy machine may miss the deadline: try again.
        tries += 1;
        assert!(tries < 5, "never answered: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_needs_no_token_and_accepts_any_host() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listen = "0.0.0.0:8081".parse().unwrap();
    let options = AdminOptions { listen, token: Some("secret".to_owned()), socket: Some(socket.clone()) };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    assert_eq!(refused(served.http.post(served.url(RUN))).await, (401, "token_needed".to_owned()));
    let near = builder().unix_socket(socket.as_path()).build().unwrap();
    assert_eq!(document(near.post("http://tapekeeper.example/api/v1/jobs/state-snapshot/run")).await.0, 200);
    assert_eq!(document(near.get("http://tapekeeper.example/api/v1/status")).await.0, 200);
    served.stop.cancel();
    let gone = async {
        while socket.exists() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the file is removed at the stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_the_port_does_not_lock_the_operator_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let options = AdminOptions { socket: Some(socket.clone()), ..AdminOptions::default() };
    let served = Served::with(options, &["binance:BTCUSDT:trade"]).await;
    let mut crowd = Vec::new();
    for _ in 0..=crate::admin::listener::CONNECTIONS_MAX {
        crowd.push(TcpStream::connect(served.address).await.unwrap());
    }
    let near = builder().unix_socket(socket.as_path()).build().unwrap();
    assert_eq!(document(near.get("http://near/api/v1/status")).await.0, 200);
}

/// Sends these bytes and returns everything that the service sends until the connection ends.
pub(super) async fn send_raw(served: &Served, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let limit = 4 * server::HEAD_TIMEOUT;
    let ended = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    ended.expect("the connection ends").unwrap_or_default();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_incomplete_headers_is_disconnected() {
    let served = Served::start().await;
    let began = std::time::Instant::now();
    let (nothing, half) = tokio::join!(
        send_raw(&served, b""),
        send_raw(&served, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
    );
    assert!(!nothing.contains(" 200 ") && !half.contains(" 200 "), "{nothing}{half}");
    assert!(began.elapsed() >= server::HEAD_TIMEOUT, "disconnected after {:?}", began.elapsed());
    // The same limit holds for an idle connection after a response.
    let answered = send_raw(&served, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_addresses_that_are_too_long_are_refused() {
    let served = Served::start().await;
    let head = format!("X-Long: {}", "x".repeat(server::HEAD_BYTES_MAX));
    let many = "X-Many: x\r\n".repeat(100);
    for lines in [head.as_str(), many.as_str()] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", lines.trim_end());
        let answer = send_raw(&served, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let long = format!("/api/v1/gaps?symbol={}", "X".repeat(guard::URI_BYTES_MAX));
    assert_eq!(refused(served.http.get(served.url(&long))).await, (414, "address_too_long".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_body_ends_with_the_request_timeout() {
    let read = async |body: axum::body::Bytes| body.len().to_string();
    let router = Router::new()
        .route("/read", axum::routing::post(read))
        .layer(from_fn_with_state(Duration::from_millis(300), guard::limit_time));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let server = tokio::spawn(server::serve(vec![LimitedListener::tcp(listener)], router, stop.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    let mut answer = Vec::new();
    // The connection ends, because the rest of the body could still arrive in place of another request.
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    ended.expect("the connection ends").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 504"), "{}", String::from_utf8_lossy(&answer));
    stop.cancel();
    server.await.unwrap();
}
