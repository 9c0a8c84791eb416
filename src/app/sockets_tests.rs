//! The connections of one exchange against a small server on loopback.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::exchange::binance::Binance;
use crate::exchange::bybit::Bybit;
use crate::market::{Channel, Exchange, Symbol, Timestamp};
use crate::supervisor::{Group, first_failure};

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

type Server = WebSocketStream<TcpStream>;

struct Harness {
    listener: TcpListener,
    sockets: Sockets,
    group: Group,
    events: mpsc::Receiver<SocketEvent>,
    /// Set: the next frame meets a bug.
    has_bug: Arc<AtomicBool>,
}

fn stream(symbol: &str) -> Stream {
    Stream::new(Exchange::named("binance"), Symbol::new(symbol), Channel::Trade)
}

impl Harness {
    async fn new() -> Self {
        Self::of(Arc::new(Binance)).await
    }

    async fn of(dialect: Arc<dyn Dialect>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (events, received) = mpsc::channel(64);
        let group = Group::new("sockets", DEADLINE);
        let has_bug = Arc::new(AtomicBool::new(false));
        let bug = has_bug.clone();
        let clock = Clock::from_fn(move || {
            assert!(!bug.load(Ordering::Relaxed), "a bug");
            Timestamp(7)
        });
        let sockets = Sockets::new(SocketDeps {
            dialect,
            events,
            next_connection: Arc::default(),
            connections: Connections::default(),
            clock,
            group: group.spawner(),
        });
        Self { listener, sockets, group, events: received, has_bug }
    }

    fn feed(&self, symbols: &[&str]) -> Vec<Feed> {
        let ws_url = Some(format!("ws://{}", self.listener.local_addr().unwrap()));
        vec![Feed {
            exchange: self.sockets.deps.dialect.exchange(),
            symbols: symbols.iter().map(|symbol| Symbol::new(symbol)).collect(),
            patterns: Vec::new(),
            exclude: Vec::new(),
            channels: vec![Channel::Trade],
            succeeds: None,
            since: crate::exchange::Since::Now,
            ws_url,
            rest_url: None,
        }]
    }

    async fn accept(&self) -> Server {
        let accepted = tokio::time::timeout(DEADLINE, self.listener.accept()).await.expect("a connection in time");
        accept_async(accepted.unwrap().0).await.unwrap()
    }
}

/// Reads one request, acknowledges it, and returns its method and its streams.
async fn acknowledge(server: &mut Server) -> (String, Vec<String>) {
    loop {
        let message = tokio::time::timeout(DEADLINE, server.next()).await.expect("a request in time");
        if let Message::Text(text) = message.unwrap().unwrap() {
            let request: serde_json::Value = serde_json::from_str(text.as_str()).unwrap();
            server.send(Message::text(format!(r#"{{"result":null,"id":{}}}"#, request["id"]))).await.unwrap();
            let names = request["params"].as_array().unwrap().iter();
            let names = names.map(|name| name.as_str().unwrap().to_owned()).collect();
            return (request["method"].as_str().unwrap().to_owned(), names);
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_connections_task_is_a_failure_of_its_group() {
    let mut harness = Harness::new().await;
    let feeds = harness.feed(&["AAA"]);
    harness.sockets.assign(&feeds);
    let mut server = harness.accept().await;
    acknowledge(&mut server).await;
    assert!(matches!(harness.events.recv().await, Some(SocketEvent::Frames { .. })), "the acknowledgement");
    harness.has_bug.store(true, Ordering::Relaxed);
    server.send(Message::text("a frame")).await.unwrap();
    let failure = tokio::time::timeout(DEADLINE, first_failure(&mut [&mut harness.group])).await.unwrap();
    assert_eq!((failure.task.as_str(), failure.reason.as_str()), ("socket", "panic: a bug"));
}

#[tokio::test]
async fn an_isolated_stream_moves_to_its_own_connection_and_the_others_stay() {
    let mut harness = Harness::new().await;
    let feeds = harness.feed(&["AAA", "BBB"]);
    harness.sockets.assign(&feeds);
    let mut shared = harness.accept().await;
    acknowledge(&mut shared).await;
    harness.sockets.isolate(&stream("BBB"));
    let mut own = harness.accept().await;
    assert_eq!(acknowledge(&mut own).await, ("SUBSCRIBE".to_owned(), vec!["bbb@trade".to_owned()]));
    assert_eq!(acknowledge(&mut shared).await, ("UNSUBSCRIBE".to_owned(), vec!["bbb@trade".to_owned()]));
    let carried: Vec<Vec<Stream>> =
        harness.sockets.connection_handles().borrow().iter().map(|handle| handle.streams.clone()).collect();
    assert_eq!(carried, [vec![stream("AAA")], vec![stream("BBB")]]);
    // It is alone already, and a new stream of the feed goes to the shared connection.
    harness.sockets.isolate(&stream("BBB"));
    let feeds = harness.feed(&["AAA", "BBB", "CCC"]);
    harness.sockets.assign(&feeds);
    assert_eq!(acknowledge(&mut shared).await, ("SUBSCRIBE".to_owned(), vec!["ccc@trade".to_owned()]));
    assert_eq!(harness.sockets.open.len(), 2);
    assert!(harness.group.stop().await);
}

#[tokio::test]
async fn isolated_streams_beyond_the_limit_of_connections_share_them() {
    let mut harness = Harness::new().await;
    let names: Vec<String> = (0..2 * ISOLATED_MAX).map(|n| format!("S{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let feeds = harness.feed(&names);
    harness.sockets.assign(&feeds);
    for name in &names[1..] {
        harness.sockets.isolate(&stream(name));
    }
    let carried: Vec<usize> = harness.sockets.open.iter().map(OpenConnection::len).collect();
    assert_eq!(carried, [vec![1], vec![2; ISOLATED_MAX - 1], vec![1]].concat());
    assert!(harness.group.stop().await);
}

#[tokio::test]
async fn streams_that_rest_does_not_return_are_on_two_connections() {
    let mut harness = Harness::of(Arc::new(Bybit)).await;
    let mut feeds = harness.feed(&["AAA", "BBB"]);
    feeds[0].channels.push(Channel::BookTicker);
    harness.sockets.assign(&feeds);
    let carried = |harness: &Harness| -> Vec<(usize, Vec<String>)> {
        let handles = harness.sockets.connection_handles().borrow().clone();
        let name = |stream: &Stream| format!("{}:{}", stream.symbol, stream.channel);
        handles.iter().map(|handle| (handle.copy, handle.streams.iter().map(name).collect())).collect()
    };
    let all = ["AAA:trade", "AAA:book_ticker", "BBB:trade", "BBB:book_ticker"].map(str::to_owned).to_vec();
    let trades = ["AAA:trade", "BBB:trade"].map(str::to_owned).to_vec();
    let mut first = carried(&harness);
    first[0].1.sort_by_key(|name| all.iter().position(|known| known == name));
    assert_eq!(first, [(0, all), (1, trades)], "a book is not returned either, and only its newest state counts");
    // A stream that needs a connection of its own leaves one of them, and stays on the other.
    harness.sockets.isolate(&Stream::new(Exchange::named("bybit"), Symbol::new("BBB"), Channel::Trade));
    let on =
        |copy: usize| carried(&harness).into_iter().filter(move |(of, _)| *of == copy).map(|(_, names)| names.len());
    assert_eq!((on(0).collect::<Vec<_>>(), on(1).collect::<Vec<_>>()), (vec![3, 1], vec![2]));
    // A feed that ends leaves neither of them.
    let feeds = harness.feed(&["AAA"]);
    harness.sockets.assign(&feeds);
    let left: Vec<(usize, Vec<String>)> =
        carried(&harness).into_iter().filter(|(_, names)| !names.is_empty()).collect();
    assert_eq!(left, [(0, vec!["AAA:trade".to_owned()]), (1, vec!["AAA:trade".to_owned()])]);
    assert!(harness.group.stop().await);
}
