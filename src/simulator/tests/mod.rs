//! The simulated exchange, tested by a client over a real WebSocket and real HTTP on loopback.

mod aggregates;
mod faults;
mod numbering;
mod rest;
mod rest_lies;
mod shell;
mod socket;
mod socket_lies;
mod venue;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::*;

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A busy market of two symbols that opens with the first subscription.
fn options() -> Options {
    let listings = ["BTCUSDT", "ETHUSDT"].map(|name| name.parse().unwrap()).to_vec();
    Options::new(Source::Generated(Generated {
        listings,
        seed: 42,
        rate: 2_000.0,
        opens_at_first_subscription: true,
        ..Generated::default()
    }))
}

async fn started(options: Options) -> Simulator {
    start(options, CancellationToken::new()).await.unwrap()
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(simulator: &Simulator, path: &str) -> Self {
        let url = format!("{}{path}", simulator.ws_url());
        Self(timeout(DEADLINE, tokio_tungstenite::connect_async(url)).await.unwrap().unwrap().0)
    }

    /// Connects, subscribes and reads the answer.
    async fn subscribed(simulator: &Simulator, streams: &[&str]) -> Self {
        let mut client = Self::connect(simulator, "/stream").await;
        let answer = client.ask(json!({"method": "SUBSCRIBE", "params": streams, "id": 1})).await;
        assert_eq!(answer, json!({"result": null, "id": 1}));
        client
    }

    async fn send(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    async fn message(&mut self) -> Option<Result<Message, Error>> {
        timeout(DEADLINE, self.0.next()).await.expect("a message in time")
    }

    /// The next text frame.
    async fn text(&mut self) -> String {
        loop {
            if let Message::Text(text) = self.message().await.unwrap().unwrap() {
                return text.to_string();
            }
        }
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// Sends a request and reads its answer; skips market data.
    async fn ask(&mut self, request: Value) -> Value {
        self.send(request.to_string()).await;
        loop {
            let value = self.json().await;
            if value.get("id").is_some() {
                return value;
            }
        }
    }

    /// The next trade's id.
    async fn trade(&mut self) -> i64 {
        loop {
            let value = self.json().await;
            if value["data"]["e"] == "trade" {
                return value["data"]["t"].as_i64().unwrap();
            }
        }
    }

    async fn trade_of(&mut self, symbol: &str) -> i64 {
        loop {
            let value = self.json().await;
            if value["data"]["s"] == symbol {
                return value["data"]["t"].as_i64().unwrap();
            }
        }
    }

    async fn trades(&mut self, count: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.trade().await);
        }
        ids
    }

    /// Reads to the end: the close code, or `None` when the connection was reset.
    async fn end(&mut self) -> Option<u16> {
        let mut code = None;
        loop {
            match self.message().await {
                Some(Ok(Message::Close(frame))) => code = frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return code,
            }
        }
    }
}

async fn get(simulator: &Simulator, path: &str) -> (u16, reqwest::header::HeaderMap, Value) {
    // Another test may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
    let response = client.get(format!("{}{path}", simulator.rest_url())).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn inject(simulator: &Simulator, fault: &str) {
    simulator.control.inject(&fault.parse().unwrap());
}

/// A market that has halted after an hour, so that pages do not change while the test reads them.
async fn halted(change: impl FnOnce(&mut Options)) -> Simulator {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.rate = 5.0;
    generated.history = Duration::from_secs(3_600);
    generated.opens_at_first_subscription = false;
    change(&mut options);
    let simulator = started(options).await;
    simulator.control.opened().cancelled().await;
    simulator.stop_publishing().await;
    simulator
}

fn ids(rows: &Value, field: &str) -> Vec<i64> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_i64().unwrap()).collect()
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// The jumps in a sequence of ids: pairs of neighbours that do not follow each other.
fn jumps(ids: &[i64]) -> Vec<(i64, i64)> {
    ids.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| (pair[0], pair[1])).collect()
}
