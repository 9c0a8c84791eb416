//! A Kafka, a ClickHouse and a Redis for one test, and their contents as another program reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;
use tapekeeper::simulator::Simulator;
use tokio::time::Instant;

use super::super::app::{TestApp, WAIT_MAX};
use super::super::truth::{TradeTruth, assert_same};
use super::proxy::Proxy;
use crate::servers::clickhouse::Clickhouse;
use crate::servers::kafka::Kafka;
use crate::servers::redis::Redis;

/// The three servers.
pub struct Stores {
    pub kafka: Kafka,
    pub clickhouse: Clickhouse,
    pub redis: Redis,
    /// Between the recorder and ClickHouse.
    pub proxy: Proxy,
    http: reqwest::Client,
}

impl Stores {
    /// Starts all three; `None` when one is not available here.
    pub async fn start() -> Option<Self> {
        let start = || Some((Kafka::start()?, Clickhouse::start()?, Redis::start()?));
        let (kafka, clickhouse, redis) = tokio::task::spawn_blocking(start).await.unwrap()?;
        let proxy = Proxy::start(clickhouse.server.port).await;
        let http = reqwest::Client::builder().no_proxy().timeout(WAIT_MAX);
        let http = http.tls_backend_preconfigured((*tapekeeper::exchange::tls_config()).clone()).build().unwrap();
        Some(Self { kafka, clickhouse, redis, proxy, http })
    }

    /// The tables of the configuration that follow the feeds.
    pub fn tables(&self) -> String {
        format!(
            "[log]\nbackend = \"kafka\"\n[log.kafka]\nbrokers = \"127.0.0.1:{}\"\npartitions = 3\n\
             session_timeout = \"6s\"\n\
             [history]\nbackend = \"clickhouse\"\n[history.clickhouse]\nurl = \"http://127.0.0.1:{}\"\n\
             [cache]\nbackend = \"redis\"\n[cache.redis]\nurl = \"redis://127.0.0.1:{}\"\n",
            self.kafka.server.port, self.proxy.port, self.redis.server.port
        )
    }

    /// A recorder on them, not started yet. `instance` names it in the group.
    pub fn recorder(&self, instance: &str, feeds: &str) -> TestApp {
        let app = TestApp::new("");
        app.configure(&format!("instance = {instance:?}\n\n{feeds}{}", self.tables()));
        app
    }

    /// Restarts a server; blocks the thread until it answers.
    pub fn restart(server: &crate::servers::Server) {
        tokio::task::block_in_place(|| server.restart());
    }

    /// The answer of ClickHouse, without the recorder's code or the proxy; empty while it is down.
    pub async fn query(&self, sql: &str) -> String {
        let url = format!("http://127.0.0.1:{}/?database=tapekeeper", self.clickhouse.server.port);
        match self.http.post(url).body(sql.to_owned()).send().await {
            Ok(answer) if answer.status().is_success() => answer.text().await.unwrap(),
            Ok(answer) => {
                eprintln!("ClickHouse to {sql}: {}", answer.text().await.unwrap_or_default());
                String::new()
            }
            Err(error) => {
                eprintln!("ClickHouse is down: {error}");
                String::new()
            }
        }
    }

    /// One number; -1 while ClickHouse is down.
    pub async fn number(&self, sql: &str) -> i64 {
        self.query(sql).await.trim().parse().unwrap_or(-1)
    }

    /// Every trade of a symbol, ordered by id.
    pub async fn trades(&self, symbol: &str) -> Vec<TradeTruth> {
        let rows = self
            .query(&format!(
                "SELECT trade_id, toUnixTimestamp64Micro(ts), toString(price), toString(quantity), side FROM trades FINAL
                 WHERE exchange = 'binance' AND symbol = '{symbol}' ORDER BY trade_id"
            ))
            .await;
        let trade = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let decimal = |text: &str| Decimal::from_str_exact(text).unwrap();
            TradeTruth {
                id: fields[0].parse().unwrap(),
                ts: fields[1].parse().unwrap(),
                price: decimal(fields[2]),
                quantity: decimal(fields[3]),
                side: fields[4].to_owned(),
            }
        };
        rows.lines().map(trade).collect()
    }

    /// The number of open gaps; -1 while ClickHouse is down.
    pub async fn open_gaps(&self) -> i64 {
        self.number("SELECT count() FROM gaps FINAL WHERE closed_at IS NULL").await
    }

    /// Every gap as text, for messages.
    pub async fn gaps(&self) -> String {
        self.query("SELECT symbol, channel, first_missing, last_missing, state, reason, evidence FROM gaps FINAL ORDER BY gap_id")
            .await
    }

    /// The latest trade in Redis.
    pub async fn tick(&self, symbol: &str) -> BTreeMap<String, String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.redis.server.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let key = format!("tick:{{binance:{symbol}}}");
        redis::cmd("HGETALL").arg(key).query_async(&mut connection).await.unwrap()
    }

    /// Waits until history has every published trade once, no gap is open and the cache has every symbol's last trade.
    pub async fn assert_complete(&self, simulator: &Simulator, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let published: usize = simulator.control.summary().iter().map(|symbol| symbol.count as usize).sum();
            let whole = self.number("SELECT count() FROM trades FINAL").await == published as i64;
            if (whole && self.open_gaps().await == 0) || Instant::now() > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for symbol in simulator.control.symbols() {
            let published = simulator.control.published(symbol.as_str());
            let published: Vec<TradeTruth> = published.iter().map(Into::into).collect();
            assert_same(symbol.as_str(), &self.trades(symbol.as_str()).await, &published);
            let last = published.last().unwrap();
            loop {
                let tick = self.tick(symbol.as_str()).await;
                if tick.get("trade_id") == Some(&last.id.to_string()) {
                    assert_eq!(tick["ts"], last.ts.to_string());
                    assert_eq!(tick["price"], last.price.normalize().to_string());
                    assert_eq!(tick["quantity"], last.quantity.normalize().to_string());
                    assert_eq!(tick["side"], last.side);
                    break;
                }
                assert!(Instant::now() < until + WAIT_MAX, "{symbol}: {} is not in Redis, but {tick:?}", last.id);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        assert_eq!(self.open_gaps().await, 0, "a gap is open:\n{}", self.gaps().await);
    }
}
