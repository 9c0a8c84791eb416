//! The socket against small servers on loopback, including misbehaving ones.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::exchange::binance::Binance;
use crate::market::{Channel, Exchange, Symbol};

#[path = "rotation_tests.rs"]
mod rotation;

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    events: mpsc::Receiver<SocketEvent>,
    commands: mpsc::Sender<SocketCommand>,
    streams: watch::Sender<Vec<Stream>>,
    connections: Connections,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn quick() -> SocketOptions {
    SocketOptions {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        refused_wait: Duration::from_millis(30),
        proxy: Proxy::from_matcher(Matcher::builder().build()),
        ..SocketOptions::default()
    }
}

fn start(base: String, options: SocketOptions, streams: Vec<Stream>, capacity: usize) -> Running {
    start_as(Arc::new(Binance), base, options, streams, capacity)
}

fn start_as(
    dialect: Arc<dyn Dialect>,
    base: String,
    options: SocketOptions,
    streams: Vec<Stream>,
    capacity: usize,
) -> Running {
    let (events, received) = mpsc::channel(capacity);
    let (commands, command_receiver) = mpsc::channel(8);
    let (streams, wanted) = watch::channel(streams);
    let (connections, stop) = (Connections::default(), CancellationToken::new());
    let socket = Socket {
        dialect,
        options: SocketOptions { url_base: Some(base), ..options },
        clock: Clock::system(),
        next_connection: Arc::new(AtomicI64::new(7)),
        connections: connections.clone(),
        events,
        commands: command_receiver,
        streams: wanted,
        stop: stop.clone(),
    };
    Running { events: received, commands, streams, connections, stop, task: tokio::spawn(socket.run()) }
}

impl Running {
    async fn next(&mut self) -> SocketEvent {
        tokio::time::timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("the socket runs")
    }

    /// Payloads up to the next other event, and that event.
    async fn next_but_frames(&mut self) -> (Vec<Bytes>, SocketEvent) {
        let mut payloads = Vec::new();
        loop {
            match self.next().await {
                SocketEvent::Frames { frames, .. } => payloads.extend(frames.into_iter().map(|(_, payload)| payload)),
                other => return (payloads, other),
            }
        }
    }

    async fn connected(&mut self) -> (i64, Vec<Stream>) {
        match self.next_but_frames().await.1 {
            SocketEvent::Connected { connection, streams } => (connection, streams),
            other => panic!("{other:?} instead of Connected"),
        }
    }

    async fn disconnected(&mut self) -> (i64, String) {
        match self.next_but_frames().await.1 {
            SocketEvent::Disconnected { connection, reason, .. } => (connection, reason),
            other => panic!("{other:?} instead of Disconnected"),
        }
    }

    async fn state_says(&self, part: &str) {
        let says = async {
            while !self.connections.snapshot().iter().any(|row| row.state.contains(part)) {
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(DEADLINE, says).await;
        assert!(found.is_ok(), "{:?} does not say {part:?}", self.connections.snapshot());
    }

    async fn stopped(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("it stops").expect("it does not panic");
    }
}

type Server = WebSocketStream<TcpStream>;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("ws://{}", listener.local_addr().unwrap());
    (listener, base)
}

async fn accept_tcp(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(DEADLINE, listener.accept()).await.expect("a connection in time").unwrap().0
}

async fn accept(listener: &TcpListener) -> Server {
    accept_async(accept_tcp(listener).await).await.unwrap()
}

/// The next request as JSON, and its text.
async fn request(server: &mut Server) -> (serde_json::Value, String) {
    loop {
        let message = tokio::time::timeout(DEADLINE, server.next()).await.expect("a request in time");
        if let Message::Text(text) = message.unwrap().unwrap() {
            return (serde_json::from_str(text.as_str()).unwrap(), text.to_string());
        }
    }
}

/// Reads one request, acknowledges it, and returns the streams in it.
async fn acknowledge(server: &mut Server) -> Vec<String> {
    let (request, _) = request(server).await;
    server.send(Message::text(format!(r#"{{"result":null,"id":{}}}"#, request["id"]))).await.unwrap();
    request["params"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn stream(symbol: &str) -> Stream {
    Stream::new(Exchange::named("binance"), Symbol::new(symbol), Channel::Trade)
}

fn trade(n: usize) -> String {
    format!(
        r#"{{"stream":"aaa@trade","data":{{"e":"trade","E":1,"s":"AAA","t":{n},"p":"1","q":"1","T":1,"m":true,"M":true}}}}"#
    )
}

#[tokio::test]
async fn frames_and_answers_are_delivered_byte_for_byte_in_order() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA"), stream("BBB")], 64);
    let mut server = accept(&listener).await;
    assert_eq!(acknowledge(&mut server).await, ["aaa@trade", "bbb@trade"]);
    assert_eq!(running.connected().await, (7, vec![stream("AAA"), stream("BBB")]));
    let sent = [trade(1), "not json \u{1F980}".to_owned(), " {\"x\" :1}\n".to_owned(), String::new()];
    for text in &sent {
        server.feed(Message::text(text.clone())).await.unwrap();
    }
    server.flush().await.unwrap();
    server.close(None).await.unwrap();
    let (payloads, end) = running.next_but_frames().await;
    assert_eq!(payloads, sent.map(Bytes::from));
    assert!(matches!(end, SocketEvent::Disconnected { connection: 7, .. }), "{end:?}");
    running.stopped().await;
}

#[tokio::test]
async fn a_pong_echoes_its_ping() {
    let (listener, base) = listen().await;
    let running = start(base, quick(), vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    server.send(Message::Ping(Bytes::from_static(b"1723161255612"))).await.unwrap();
    let pong = loop {
        if let Message::Pong(payload) = server.next().await.unwrap().unwrap() {
            break payload;
        }
    };
    assert_eq!(pong, "1723161255612");
    running.stopped().await;
}

#[tokio::test]
async fn subscriptions_are_sent_in_paced_requests_under_the_size_limit() {
    let (listener, base) = listen().await;
    let streams: Vec<Stream> = (0..500).map(|n| stream(&format!("SYMBOL{n:03}USDT"))).collect();
    let mut running = start(base, quick(), streams.clone(), 64);
    let mut server = accept(&listener).await;
    let (mut times, mut names) = (Vec::new(), BTreeSet::new());
    while names.len() < streams.len() {
        let (request, text) = request(&mut server).await;
        times.push(Instant::now());
        assert!(text.len() < 4_096);
        names.extend(request["params"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
        server.send(Message::text(format!(r#"{{"result":null,"id":{}}}"#, request["id"]))).await.unwrap();
    }
    assert_eq!(running.connected().await.1.len(), 500);
    // One interval less than lies between them: the first request may arrive late.
    let spread = times[times.len() - 1] - times[0];
    assert!(times.len() >= 4 && spread >= Duration::from_millis(250) * (times.len() as u32 - 2), "{spread:?}");
    running.stopped().await;
}

#[tokio::test]
async fn a_close_frame_is_reported_with_its_reason_and_the_socket_reconnects() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    for connection in 7..10 {
        let mut server = accept(&listener).await;
        acknowledge(&mut server).await;
        assert_eq!(running.connected().await, (connection, vec![stream("AAA")]));
        server.close(Some(CloseFrame { code: 3001.into(), reason: "illegal request".into() })).await.unwrap();
        let (ended, reason) = running.disconnected().await;
        assert_eq!(ended, connection);
        assert!(reason.contains("3001") && reason.contains("illegal request"), "{reason}");
    }
    assert_eq!(running.connections.snapshot()[0].reconnects, 2);
    running.stopped().await;
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_frame_keeps_the_frames_before_it() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    acknowledge(&mut server).await;
    running.connected().await;
    server.send(Message::text(trade(1))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { .. }));
    let mut tcp = server.into_inner();
    // The first three bytes of a text frame of 126 bytes.
    tcp.write_all(b"\x81\x7e\x00\x7eabc").await.unwrap();
    tcp.set_zero_linger().unwrap();
    drop(tcp);
    assert_eq!(running.disconnected().await.0, 7);
    acknowledge(&mut accept(&listener).await).await;
    assert_eq!(running.connected().await.0, 8);
    running.stopped().await;
}

#[tokio::test]
async fn a_clean_end_of_the_tcp_stream_is_a_disconnect() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut tcp = accept(&listener).await.into_inner();
    tcp.shutdown().await.unwrap();
    assert_eq!(running.disconnected().await.0, 7);
    acknowledge(&mut accept(&listener).await).await;
    assert_eq!(running.connected().await.0, 8);
    running.stopped().await;
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let (listener, base) = listen().await;
    let options = SocketOptions { silence_max: Some(Duration::from_millis(100)), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let _silent = accept(&listener).await;
    let (_, reason) = running.disconnected().await;
    assert!(reason.contains("nothing came"), "{reason}");
    let _next = accept(&listener).await;
    running.stopped().await;
}

#[tokio::test]
async fn pings_keep_a_connection_alive() {
    let (listener, base) = listen().await;
    let options = SocketOptions { silence_max: Some(Duration::from_secs(1)), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    acknowledge(&mut server).await;
    running.connected().await;
    for _ in 0..15 {
        server.send(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
        // The server sees the pong only while it reads.
        assert!(tokio::time::timeout(DEADLINE, server.next()).await.is_ok());
        tokio::time::timeout(Duration::from_millis(100), server.next()).await.expect_err("one pong for each ping");
    }
    server.send(Message::text(trade(1))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { connection: 7, .. }));
    running.stopped().await;
}

#[tokio::test]
async fn a_refused_stream_is_reported_and_the_others_stay_subscribed() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA"), stream("BAD"), stream("CCC")], 64);
    let mut server = accept(&listener).await;
    let serving = tokio::spawn(async move {
        loop {
            let (request, text) = request(&mut server).await;
            let answer = if text.contains("bad@trade") {
                format!(r#"{{"code":-1121,"msg":"Invalid symbol.","id":{}}}"#, request["id"])
            } else {
                format!(r#"{{"result":null,"id":{}}}"#, request["id"])
            };
            server.send(Message::text(answer)).await.unwrap();
        }
    });
    let (mut refused, mut kept) = (Vec::new(), BTreeSet::new());
    while refused.is_empty() || kept.len() < 2 {
        match running.next_but_frames().await.1 {
            SocketEvent::Refused { stream, reason, .. } => refused.push((stream, reason)),
            SocketEvent::Connected { streams, .. } => kept.extend(streams),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, [(stream("BAD"), "-1121: Invalid symbol.".to_owned())]);
    assert_eq!(kept, BTreeSet::from([stream("AAA"), stream("CCC")]));
    serving.abort();
    running.stopped().await;
}

#[tokio::test]
async fn a_refused_stream_is_requested_again_until_the_exchange_accepts_it() {
    let (listener, base) = listen().await;
    let options = SocketOptions { refusal_wait: Duration::from_millis(20), ..quick() };
    let mut running = start(base, options, vec![stream("AAA"), stream("BAD")], 64);
    let mut server = accept(&listener).await;
    let serving = tokio::spawn(async move {
        let mut refused_alone = 0;
        loop {
            let (request, _) = request(&mut server).await;
            let names = request["params"].to_string();
            let is_refused = names.contains("bad@trade") && refused_alone < 3;
            refused_alone += u32::from(names == r#"["bad@trade"]"#);
            let answer = match is_refused {
                true => format!(r#"{{"code":-1121,"msg":"Invalid symbol.","id":{}}}"#, request["id"]),
                false => format!(r#"{{"result":null,"id":{}}}"#, request["id"]),
            };
            server.send(Message::text(answer)).await.unwrap();
        }
    });
    let (mut refusals, mut accepted) = (0, Vec::new());
    while !accepted.contains(&stream("BAD")) {
        match running.next_but_frames().await.1 {
            SocketEvent::Refused { stream: refused, .. } => {
                assert_eq!(refused, stream("BAD"));
                refusals += 1;
            }
            SocketEvent::Connected { connection: 7, streams } => accepted.extend(streams),
            other => panic!("{other:?}: the connection of the other stream stays"),
        }
    }
    assert_eq!((refusals, accepted), (3, vec![stream("AAA"), stream("BAD")]));
    serving.abort();
    running.stopped().await;
}

#[tokio::test]
async fn an_acknowledgement_without_our_number_acknowledges_nothing() {
    let (listener, base) = listen().await;
    let options = SocketOptions { answer_timeout: Duration::from_millis(200), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    let (asked, _) = request(&mut server).await;
    for id in ["null", r#""abc""#, "99999999"] {
        server.send(Message::text(format!(r#"{{"result":null,"id":{id}}}"#))).await.unwrap();
    }
    let began = Instant::now();
    // It still records once the time for an answer is over.
    assert_eq!(running.connected().await, (7, vec![stream("AAA")]));
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    // The late answer changes nothing.
    server.send(Message::text(format!(r#"{{"result":null,"id":{}}}"#, asked["id"]))).await.unwrap();
    server.send(Message::text(trade(1))).await.unwrap();
    let (payloads, _end) = {
        server.close(None).await.unwrap();
        running.next_but_frames().await
    };
    assert_eq!(payloads.last().map(|payload| &payload[..]), Some(trade(1).as_bytes()));
    running.stopped().await;
}

#[tokio::test]
async fn commands_change_the_open_connection() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    acknowledge(&mut server).await;
    running.connected().await;
    running.streams.send_replace(vec![stream("BBB")]);
    assert_eq!(acknowledge(&mut server).await, ["aaa@trade"]);
    assert_eq!(acknowledge(&mut server).await, ["bbb@trade"]);
    assert_eq!(running.connected().await, (7, vec![stream("BBB")]));
    running.commands.send(SocketCommand::Resubscribe(vec![stream("BBB"), stream("CCC")])).await.unwrap();
    assert!(request(&mut server).await.1.contains("UNSUBSCRIBE"));
    assert_eq!(acknowledge(&mut server).await, ["bbb@trade"]);
    assert_eq!(running.connected().await, (7, vec![stream("BBB")]));
    running.commands.send(SocketCommand::Reconnect("the tail is missing".to_owned())).await.unwrap();
    assert_eq!(running.disconnected().await, (7, "the tail is missing".to_owned()));
    assert_eq!(acknowledge(&mut accept(&listener).await).await, ["bbb@trade"]);
    running.streams.send_replace(Vec::new());
    running.state_says("idle").await;
    running.streams.send_replace(vec![stream("DDD")]);
    assert_eq!(acknowledge(&mut accept(&listener).await).await, ["ddd@trade"]);
    running.stopped().await;
}

#[tokio::test]
async fn an_unanswered_request_counts_as_accepted_after_the_timeout() {
    let (listener, base) = listen().await;
    let options = SocketOptions { answer_timeout: Duration::from_millis(50), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut server = accept(&listener).await;
    request(&mut server).await;
    assert_eq!(running.connected().await, (7, vec![stream("AAA")]));
    running.stopped().await;
}

#[tokio::test]
async fn a_geo_block_is_reported_in_plain_words_and_the_socket_retries() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut tcp = accept_tcp(&listener).await;
    read_head(&mut tcp).await;
    tcp.write_all(b"HTTP/1.1 451 Unavailable For Legal Reasons\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    running.state_says("geo-block): use a server in a permitted region or set ws_url").await;
    acknowledge(&mut accept(&listener).await).await;
    running.connected().await;
    running.stopped().await;
}

async fn read_head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(DEADLINE, tcp.read_u8()).await.expect("a request in time").unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn through(proxy: SocketAddr) -> SocketOptions {
    let matcher = Matcher::builder().all(format!("http://user:secret@{proxy}")).build();
    SocketOptions { proxy: Proxy::from_matcher(matcher), ..quick() }
}

#[tokio::test]
async fn the_socket_requests_a_tunnel_from_its_proxy() {
    let (listener, base) = listen().await;
    let (proxy, _) = listen().await;
    let mut running = start(base, through(proxy.local_addr().unwrap()), vec![stream("AAA")], 64);
    let mut inner = accept_tcp(&proxy).await;
    inner.set_nodelay(true).unwrap();
    let head = read_head(&mut inner).await;
    let target = listener.local_addr().unwrap();
    assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"), "{head}");
    inner.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let tunnel = tokio::spawn(async move {
        let mut outer = TcpStream::connect(target).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut inner, &mut outer).await);
    });
    acknowledge(&mut accept(&listener).await).await;
    running.connected().await;
    running.stopped().await;
    tokio::time::timeout(DEADLINE, tunnel).await.expect("the tunnel ends").unwrap();
}

#[tokio::test]
async fn a_proxys_refusal_is_reported_with_its_address_and_status() {
    let (proxy, _) = listen().await;
    let options = through(proxy.local_addr().unwrap());
    let running = start("ws://stream.example:9443".to_owned(), options, vec![stream("AAA")], 64);
    let mut tcp = accept_tcp(&proxy).await;
    read_head(&mut tcp).await;
    tcp.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
    running.state_says("through the proxy http://").await;
    running.state_says("CONNECT stream.example:9443: HTTP/1.1 407").await;
    running.stopped().await;
}

#[test]
fn streams_are_split_in_order() {
    let streams: Vec<Stream> = (0..5).map(|n| stream(&format!("S{n}"))).collect();
    let groups = split(&streams, 2);
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(groups.concat(), streams);
}

#[path = "flood_tests.rs"]
mod flood_tests;

#[path = "heartbeat_tests.rs"]
mod heartbeat_tests;
