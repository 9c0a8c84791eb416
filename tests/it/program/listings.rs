//! Feeds with patterns: symbols that the exchange lists, ceases to list and lists again while the recorder runs.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tapekeeper::market::Exchange;
use tapekeeper::simulator::{Generated, Listing, Options, Simulator, Source, Venue};

use super::app::{TestApp, WAIT_MAX, seed, wait_for};
use super::simulated_exchange::start;
use super::truth::HistoryFile;

/// An exchange with patterns over it, and the recorder.
struct Market {
    exchange: Exchange,
    separator: &'static str,
    simulator: Simulator,
    app: TestApp,
}

impl Market {
    async fn new(exchange: &'static str, separator: &'static str) -> Self {
        let exchange = Exchange::named(exchange);
        let symbols = ["BTC", "ETH", "SOL", "XRP"].map(|base| format!("{base}{separator}USDT"));
        let options = Options::at(
            Venue::named(exchange).unwrap(),
            Source::Generated(Generated {
                listings: symbols.iter().map(|symbol| symbol.parse::<Listing>().unwrap()).collect(),
                seed: seed(),
                rate: 60.0,
                opens_at_first_subscription: true,
                ..Generated::default()
            }),
        );
        let simulator = start(options).await;
        let mut market = Self { exchange, separator, simulator, app: TestApp::new("") };
        market.inject("delist", "SOL");
        let feeds = market.feeds("");
        market.app.configure(&feeds);
        market.app.start().await;
        market
    }

    fn symbol(&self, base: &str) -> String {
        format!("{base}{}USDT", self.separator)
    }

    /// Everything against USDT except ETH, which a feed of its own names, and one more pattern.
    fn feeds(&self, pattern: &str) -> String {
        let Self { exchange, separator, simulator, .. } = self;
        let feed = |symbols: &str, more: &str| {
            format!(
                "[[feed]]\nexchange = \"{exchange}\"\nsymbols = [{symbols}]\nchannels = [\"trade\"]\n{more}\nws_url = \"{}\"\n\
                 rest_url = \"{}\"\n\n",
                simulator.ws_url(),
                simulator.rest_url()
            )
        };
        let more = if pattern.is_empty() { String::new() } else { format!(", \"{pattern}\"") };
        feed(&format!("\"*USDT\"{more}"), "exclude = [\"ETH*\"]")
            + &feed(&format!("\"ETH{separator}USDT\""), &format!("succeeds = \"OM{separator}USDT\""))
    }

    fn inject(&self, fault: &str, base: &str) {
        self.simulator.control.inject(&format!("{fault}:{}", self.symbol(base)).parse().unwrap());
    }

    fn count(&self, base: &str) -> i64 {
        let symbol = self.symbol(base);
        HistoryFile::open(&self.app).number(&format!("SELECT count(*) FROM trades WHERE symbol = '{symbol}'"))
    }

    async fn records_more(&self, base: &str) {
        let before = self.count(base);
        let more = async || (self.count(base) > before).then_some(());
        wait_for(&format!("{base} is recorded at {}", self.exchange), WAIT_MAX, more).await;
    }

    /// The exchange's listing is read again.
    async fn reload(&self) {
        assert_eq!(self.app.post("/api/v1/reload").await.0, 200);
    }

    async fn stream(&self, base: &str) -> Option<Value> {
        let (streams, symbol) = (self.app.get("/api/v1/streams").await, self.symbol(base));
        streams.as_array().unwrap().iter().find(|stream| stream["symbol"] == symbol.as_str()).cloned()
    }

    async fn has_ended(&self, base: &str) -> Value {
        let ended = async || self.stream(base).await.filter(|stream| stream["state"] == "ended");
        let stream = wait_for(&format!("{base} has ended at {}", self.exchange), WAIT_MAX, ended).await;
        assert!(stream["last"].is_i64(), "its last id is known: {stream}");
        stream
    }

    /// What has ended is no alarm.
    async fn is_well(&self) {
        let well = async || {
            let health = self.app.get("/healthz").await;
            let states = self.app.get("/api/v1/status").await["streams"]["states"].clone();
            let is_well = health["status"] == "ok" && states["stalled"].is_null() && states["refused"].is_null();
            is_well.then_some(())
        };
        wait_for("health is ok and no stream is stalled", WAIT_MAX, well).await;
    }

    /// Every trade from the first stored one on is stored.
    async fn is_complete(&self, base: &str) {
        let symbol = self.symbol(base);
        let complete = async || {
            let stored: BTreeSet<i64> =
                HistoryFile::open(&self.app).trades(&symbol).iter().map(|trade| trade.id).collect();
            let first = *stored.first()?;
            let published = self.simulator.control.published(&symbol);
            published.iter().filter(|trade| trade.id >= first).all(|trade| stored.contains(&trade.id)).then_some(())
        };
        wait_for(&format!("{symbol} is complete"), WAIT_MAX, complete).await;
    }
}

async fn follow_listing(exchange: &'static str, separator: &'static str) {
    let mut market = Market::new(exchange, separator).await;
    for base in ["BTC", "ETH", "XRP"] {
        market.records_more(base).await;
    }
    assert_eq!(market.stream("SOL").await, None, "it is not listed");
    let streams = market.app.get("/api/v1/streams").await;
    assert_eq!(streams.as_array().map(Vec::len), Some(3), "no stream twice: {streams}");

    market.inject("list", "SOL");
    market.reload().await;
    market.records_more("SOL").await;

    market.inject("delist", "XRP");
    market.reload().await;
    let last = market.has_ended("XRP").await["last"].clone();
    market.is_well().await;
    market.records_more("BTC").await;

    // A restart knows it before the exchange answers, and offline commands without the exchange.
    market.app.stop_cleanly().await;
    let audit = market.app.command(&["audit", "--symbol", &market.symbol("XRP")]).await;
    assert_eq!(audit.code, Some(0), "{audit:?}");
    assert_eq!(market.app.command(&["check"]).await.code, Some(0));
    market.simulator.control.inject(&"rest:503:3s".parse().unwrap());
    market.app.start().await;
    market.records_more("SOL").await;
    assert_eq!(market.has_ended("XRP").await["last"], last);
    tokio::time::sleep(Duration::from_secs(3)).await;
    market.is_well().await;

    market.inject("list", "XRP");
    market.reload().await;
    market.records_more("XRP").await;
    let receiving = async || market.stream("XRP").await.filter(|stream| stream["state"] == "receiving");
    wait_for("it is recorded again", WAIT_MAX, receiving).await;
    market.is_well().await;
    market.simulator.stop_publishing().await;
    for base in ["BTC", "ETH", "SOL", "XRP"] {
        market.is_complete(base).await;
    }

    let coverage = market.app.get("/api/v1/coverage").await;
    for row in coverage.as_array().unwrap() {
        let is_eth = row["symbol"] == market.symbol("ETH").as_str();
        let expected = if is_eth { Value::from(market.symbol("OM")) } else { Value::Null };
        assert_eq!(row["succeeds"], expected, "{row}");
    }
    let coverage = market.app.command(&["coverage"]).await;
    assert!(coverage.out.contains(&format!("succeeds {}", market.symbol("OM"))), "{coverage:?}");
    market.app.stop_cleanly().await;
    market.simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_follow_the_listing_and_an_ended_symbol_is_no_alarm() {
    // Together, because most of the time is spent waiting.
    tokio::join!(follow_listing("binance", ""), follow_listing("okx", "-"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_asks_the_exchange_what_patterns_match() {
    let mut market = Market::new("binance", "").await;
    let check = market.app.command(&["check", "--connect"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.out.contains("1 streams and those of 1 pattern"), "{check:?}");
    assert!(check.out.contains("*USDT: 2 symbols: BTCUSDT, XRPUSDT"), "{check:?}");
    market.app.configure(&market.feeds("SOL*"));
    let check = market.app.command(&["check", "--connect", "--format", "json"]).await;
    assert_eq!(check.code, Some(78), "{check:?}");
    assert!(check.out.contains("\"error\":\"matches no symbol that trades\""), "{check:?}");
    assert_eq!(market.app.command(&["check"]).await.code, Some(0), "offline it needs no listing");
    market.simulator.control.inject(&"rest:503:60s".parse().unwrap());
    let check = market.app.command(&["check", "--connect"]).await;
    assert_eq!(check.code, Some(69), "{check:?}");
    market.app.stop_cleanly().await;
    market.simulator.stop().await;
}
