//! The simulated exchanges of the demo, one per venue.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::exchange::catalog;
use crate::market::{Channel, Exchange, Interval, SpellingError, Symbol, Trade};
use crate::simulator::{self, Fault, Generated, Listing, Options, Simulator, Source, TruthSummary, Venue};

use super::TIME_SCALE;

/// Symbols in two parts, and whether they are quiet: a quiet symbol has no trade for minutes, which must not raise a gap.
const SYMBOLS: [(&str, bool); 4] = [("BTC-USDT", false), ("ETH-USDT", false), ("SOL-USDT", false), ("TUSD-USDT", true)];

/// One simulated exchange.
pub struct Market {
    /// What it is.
    pub venue: Venue,
    /// The exchange, running.
    pub simulator: Simulator,
}

/// Reads an exchange that can be simulated.
pub fn venue(name: &str) -> Result<Venue, String> {
    catalog::find(name).and_then(Venue::named).ok_or_else(|| {
        let names: Vec<&str> = Venue::all().iter().map(|venue| venue.exchange().as_str()).collect();
        format!("no such exchange, only {}", names.join(", "))
    })
}

/// The symbol as the exchange spells it.
pub fn spelled(exchange: Exchange, name: &str) -> Symbol {
    match catalog::dialect(exchange).map(|dialect| dialect.symbol(name)) {
        Some(Ok(symbol)) => symbol,
        Some(Err(SpellingError::Respell(meant))) => Symbol::new(&meant),
        _ => Symbol::new(name),
    }
}

impl Market {
    /// Opens an exchange whose market waits for its first subscription.
    pub async fn open(venue: Venue, seed: u64, rate: f64) -> anyhow::Result<Self> {
        let exchange = venue.exchange();
        let listing = |(name, quiet)| Listing { symbol: spelled(exchange, name), quiet };
        let mut options = Options::at(
            venue.clone(),
            Source::Generated(Generated {
                listings: SYMBOLS.map(listing).to_vec(),
                seed,
                rate,
                time_scale: TIME_SCALE,
                opens_at_first_subscription: true,
                ..Generated::default()
            }),
        );
        options.listen.set_port(0);
        let simulator = simulator::start(options, CancellationToken::new()).await;
        Ok(Self { venue, simulator: simulator.with_context(|| format!("open the simulated {exchange}"))? })
    }

    /// How many symbols it lists.
    pub fn symbols(&self) -> usize {
        self.simulator.control.symbols().len()
    }

    /// Its name in configuration.
    pub fn exchange(&self) -> Exchange {
        self.venue.exchange()
    }

    /// The channel of its trades: aggregate ones where the venue documents no others.
    pub fn trades_channel(&self) -> Channel {
        self.venue.spec().trades_channel().unwrap_or(Channel::Trade)
    }

    /// The recorder's feed of it: trades, klines and books, as far as the venue sends them.
    pub fn feed(&self) -> String {
        let channels = [self.trades_channel(), Channel::Kline(Interval::M1), Channel::BookTicker].into_iter();
        let sent = channels.filter(|channel| self.venue.spec().channel(*channel).is_some());
        let channels: Vec<String> = sent.map(|channel| channel.to_string()).collect();
        let symbols: Vec<&str> = self.simulator.control.symbols().iter().map(Symbol::as_str).collect();
        format!(
            "[[feed]]\nexchange = \"{}\"\nsymbols = {symbols:?}\nchannels = {channels:?}\nws_url = \"{}\"\nrest_url = \"{}\"\n",
            self.exchange(),
            self.simulator.ws_url(),
            self.simulator.rest_url(),
        )
    }

    /// Injects a fault; one that concerns a symbol concerns the busiest.
    pub fn inject(&self, fault: &Fault) {
        let busiest = || self.simulator.control.symbols().first().cloned();
        self.simulator.control.inject(&match fault {
            Fault::Drop(_, count) => Fault::Drop(busiest(), *count),
            Fault::Silent(_, time) => Fault::Silent(busiest(), *time),
            other => other.clone(),
        });
    }

    /// Trades of [`Self::trades_channel`] published so far.
    pub fn published(&self) -> u64 {
        let aggregates = self.trades_channel() == Channel::AggTrade;
        let count = |symbol: &TruthSummary| if aggregates { symbol.agg_trades } else { symbol.count };
        self.simulator.control.summary().iter().map(count).sum()
    }

    /// Every published trade of that channel.
    pub fn published_trades(&self, symbol: &Symbol) -> Vec<Trade> {
        match self.trades_channel() {
            Channel::AggTrade => self.simulator.control.published_agg_trades(symbol.as_str()),
            _ => self.simulator.control.published(symbol.as_str()),
        }
    }

    /// The id of the last trade of that channel.
    pub fn last_published(&self, of: &TruthSummary) -> i64 {
        if self.trades_channel() == Channel::AggTrade { of.last_agg_trade } else { of.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_venue_that_documents_no_trades_is_recorded_by_its_aggregates() {
        let market = Market::open(venue("binance_usdm").unwrap(), 1, 400.0).await.unwrap();
        assert_eq!(market.trades_channel(), Channel::AggTrade);
        let feed = market.feed();
        assert!(feed.contains(r#"channels = ["agg_trade", "kline_1m", "book_ticker"]"#), "{feed}");
        assert!(feed.contains(r#"symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "TUSDUSDT"]"#), "{feed}");
        market.simulator.stop().await;
        let market = Market::open(venue("binance").unwrap(), 1, 400.0).await.unwrap();
        assert_eq!(market.trades_channel(), Channel::Trade);
        market.simulator.stop().await;
    }
}
