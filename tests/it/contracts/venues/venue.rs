//! A venue in memory: rows behind a peer, which reads each request and writes each answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rust_decimal::Decimal;
use tapekeeper::exchange::peer::{Peer, PeerContent, PeerRefusal, PeerRequest, PeerResponse, PeerTrades};
use tapekeeper::exchange::{Answer, Dialect, Request, RestAnswer, RestReply};
use tapekeeper::market::{Channel, Interval, Kline, Side, Timestamp, Trade};

/// The rows of one symbol.
#[derive(Debug, Default)]
pub struct Venue {
    pub symbol: String,
    pub now: Timestamp,
    pub trades: BTreeMap<i64, Trade>,
    /// By their own numbers.
    pub aggregates: BTreeMap<i64, Trade>,
    pub klines: Vec<Kline>,
}

impl Venue {
    /// Asks as the client does, and reads the answer. The peer charges the request as the dialect says.
    pub fn ask(&self, dialect: &Arc<dyn Dialect>, peer: &dyn Peer, request: &Request<'_>) -> Option<Answer> {
        let asked = dialect.ask(request)?;
        let (read, weight, bucket) = peer.read(&asked.path).unwrap_or_else(|why| panic!("{}: {why:?}", asked.path));
        assert_eq!((weight, bucket), (asked.weight, asked.bucket), "{}", asked.path);
        let response = self.answer(peer, &read).unwrap_or_else(|why| peer.refuse(why));
        let body = response.body.as_bytes();
        let judged = dialect.judge(&RestReply { status: response.status, header: &|_| None, body });
        assert_eq!(judged, None, "{}: {}", asked.path, response.body);
        let answer = RestAnswer { body, now: self.now, latest: self.now };
        Some(dialect.answer(request, &answer).unwrap_or_else(|error| panic!("{error}: {}", response.body)))
    }

    fn answer(&self, peer: &dyn Peer, request: &PeerRequest) -> Result<PeerResponse, PeerRefusal> {
        let known = |symbol: &str| if symbol == self.symbol { Ok(()) } else { Err(PeerRefusal::UnknownSymbol) };
        Ok(match request {
            PeerRequest::Trades { symbol, channel, which, limit } => {
                known(symbol)?;
                peer.answer(request, PeerContent::Trades(&trades_of(self.rows(*channel), *which, *limit)))
            }
            PeerRequest::Klines { symbol, interval, first, last, limit, newest } => {
                known(symbol)?;
                let is_wanted = |kline: &&Kline| {
                    kline.interval == *interval
                        && first.is_none_or(|first| kline.open_time >= first)
                        && last.is_none_or(|last| kline.open_time <= last)
                };
                let klines: Vec<Kline> = self.klines.iter().filter(is_wanted).copied().collect();
                let skipped = if *newest { klines.len().saturating_sub(*limit) } else { 0 };
                let page: Vec<Kline> = klines.into_iter().skip(skipped).take(*limit).collect();
                peer.answer(request, PeerContent::Klines(&page))
            }
            PeerRequest::Time => peer.answer(request, PeerContent::Time(self.now)),
            PeerRequest::Listing(symbols) => {
                symbols.iter().try_for_each(|symbol| known(symbol))?;
                peer.answer(request, PeerContent::Listing(&[(self.symbol.clone(), true)]))
            }
        })
    }

    /// The rows of a channel of trades.
    pub fn rows(&self, channel: Channel) -> &BTreeMap<i64, Trade> {
        if channel == Channel::AggTrade { &self.aggregates } else { &self.trades }
    }
}

fn trades_of(rows: &BTreeMap<i64, Trade>, which: PeerTrades, limit: usize) -> Vec<Trade> {
    let newest = |trades: Vec<Trade>| trades[trades.len().saturating_sub(limit)..].to_vec();
    let all = rows.values();
    match which {
        PeerTrades::Newest => newest(all.copied().collect()),
        PeerTrades::Before(id) => newest(rows.range(..id).map(|(_, trade)| *trade).collect()),
        PeerTrades::From(id) => rows.range(id..).map(|(_, trade)| *trade).take(limit).collect(),
        PeerTrades::Since(at) => all.filter(|trade| trade.ts >= at).take(limit).copied().collect(),
        PeerTrades::After(at) => all.filter(|trade| trade.ts > at).take(limit).copied().collect(),
    }
}

/// Prices and quantities that an exchange may have.
pub fn decimals() -> impl Strategy<Value = Decimal> {
    (1_i64..10_i64.pow(14), 0_u32..=10).prop_map(|(mantissa, scale)| Decimal::new(mantissa, scale))
}

/// A trade at a whole millisecond, the coarsest time of a venue.
pub fn trades() -> impl Strategy<Value = Trade> {
    let id = 1_i64..4_000_000_000_000_000_000;
    (id, 1_500_000_000_000_i64..4_000_000_000_000, decimals(), decimals(), any::<bool>()).prop_map(
        |(id, ms, price, quantity, buys)| {
            let side = if buys { Side::Buy } else { Side::Sell };
            Trade { id, ts: Timestamp::from_millis(ms), price, quantity, side, trade_ids: None }
        },
    )
}

/// A kline of any interval.
pub fn klines() -> impl Strategy<Value = Kline> {
    let interval = prop::sample::select(Interval::ALL.to_vec());
    (interval, 0_i64..20_000, [decimals(), decimals(), decimals(), decimals()], decimals(), decimals(), any::<bool>())
        .prop_map(|(interval, n, [open, high, low, close], volume, quote_volume, closed)| Kline {
            interval,
            open_time: Timestamp(n * interval.micros()),
            close_time: Timestamp((n + 1) * interval.micros() - 1_000),
            open,
            high,
            low,
            close,
            volume,
            quote_volume,
            trade_count: 3,
            first_trade_id: 10,
            last_trade_id: 12,
            closed,
        })
}
