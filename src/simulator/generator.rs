//! A market generated from a seed: trades, klines that agree with them, and the top of the book.
//!
//! Pure: the caller requests all events before an instant and gets them in order; the size of the steps changes
//! nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rust_decimal::Decimal;

use super::candle::Candle;
use super::random::Random;
use crate::market::{Book, Interval, Side, Symbol, Timestamp, Trade};

/// A listed symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The symbol, as the exchange spells it.
    pub symbol: Symbol,
    /// A quiet symbol has minutes between its trades.
    pub quiet: bool,
}

impl std::str::FromStr for Listing {
    type Err = String;

    /// `BTCUSDT`, or `TUSDUSDT:quiet`, in any exchange's spelling.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, quiet) = match text.split_once(':') {
            None => (text, false),
            Some((name, "quiet")) => (name, true),
            Some((_, word)) => {
                return Err(format!("unknown kind of symbol `{word}` in `{text}`, only `quiet` is known"));
            }
        };
        // Binance lists names in other scripts too, such as `币安人生USDT`; other venues write `BTC-USDT` or `btc_usdt`.
        let is_part = |part: &str| !part.is_empty() && part.chars().all(char::is_alphanumeric);
        if !name.split(['-', '/', '_']).all(is_part) {
            return Err(format!("`{name}` is not a symbol: letters and digits, as BTCUSDT, BTC-USDT or btc_usdt"));
        }
        Ok(Self { symbol: Symbol::new(name), quiet })
    }
}

/// An event of the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The exchange's event time (`E`).
    pub at: Timestamp,
    /// The index of its listing.
    pub listing: usize,
    /// The trade, kline or book.
    pub kind: EventKind,
}

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A trade.
    Trade(Trade),
    /// An aggregate trade. The market makes none: the truth joins its trades.
    AggTrade(Trade),
    /// A kline with its present or final values.
    Kline(Candle),
    /// The best bid and ask changed.
    Book(Book),
}

/// Open klines are sent every two seconds (EXCHANGES.md 3.1).
const UPDATE_EVERY_US: i64 = 2_000_000;
const MINUTE_US: i64 = Interval::M1.micros();
/// The average of [`SymbolMarket::burst_size`].
const BURST_MEAN: f64 = 0.70 + 0.25 * 5.0 + 0.045 * 34.5 + 0.005 * 140.5;
/// The fewest and the most bursts between two holes: REST settles each with some requests.
const HOLE_EVERY: (i64, i64) = (150, 450);
/// The average time between two bursts of a quiet symbol.
const QUIET_MEAN_US: f64 = 150_000_000.0;

/// A step of the schedule. The order matters: at one instant a kline closes before a trade opens the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Close,
    Burst,
    Update,
}

/// A market of several symbols.
#[derive(Debug)]
pub struct Market {
    schedule: BinaryHeap<Reverse<(i64, Step, usize)>>,
    symbols: Vec<SymbolMarket>,
}

impl Market {
    /// A market that opens at `start`, with about `rate` trades a second of its own time. The first symbol is the
    /// busiest; the second has half as many trades, the third has a third.
    pub fn new(seed: u64, listings: &[Listing], rate: f64, start: Timestamp) -> Self {
        let shares: f64 = (0..listings.len()).filter(|&at| !listings[at].quiet).map(share).sum();
        let mut market = Self { schedule: BinaryHeap::new(), symbols: Vec::new() };
        // The start is a whole millisecond, so that the relative times of a seed do not depend on the wall clock.
        let start = Timestamp::from_millis(start.millis());
        for (at, listing) in listings.iter().enumerate() {
            let pause_us = match listing.quiet {
                true => QUIET_MEAN_US,
                false => BURST_MEAN * 1_000_000.0 / (rate.max(0.001) * share(at) / shares),
            };
            let mut symbol = SymbolMarket::new(seed, listing, pause_us, start);
            let first = start.micros() + symbol.random.pause_us(pause_us.min(1_000_000.0));
            let boundary = start.micros() - start.micros().rem_euclid(MINUTE_US) + MINUTE_US;
            market.schedule.push(Reverse((first, Step::Burst, at)));
            market.schedule.push(Reverse((boundary, Step::Close, at)));
            market.schedule.push(Reverse((start.micros() + UPDATE_EVERY_US, Step::Update, at)));
            market.symbols.push(symbol);
        }
        market
    }

    /// All events before the millisecond of `until`, in order. It returns whole milliseconds only, so that trades of
    /// one millisecond are never split.
    pub fn advance(&mut self, until: Timestamp) -> Vec<Event> {
        let until_us = until.millis() * 1_000;
        let mut events = Vec::new();
        while let Some(&Reverse((at_us, step, listing))) = self.schedule.peek() {
            if at_us >= until_us {
                break;
            }
            self.schedule.pop();
            let symbol = &mut self.symbols[listing];
            let at = Timestamp::from_millis(Timestamp(at_us).millis());
            let next_us = match step {
                Step::Close => {
                    symbol.close(at, listing, &mut events);
                    at_us + MINUTE_US
                }
                Step::Burst => {
                    symbol.burst(at, listing, &mut events);
                    at_us + symbol.random.pause_us(symbol.pause_us)
                }
                Step::Update => {
                    let klines = symbol.klines;
                    events.extend(klines.map(|candle| Event { at, listing, kind: EventKind::Kline(candle) }));
                    at_us + UPDATE_EVERY_US
                }
            };
            self.schedule.push(Reverse((next_us, step, listing)));
        }
        events
    }
}

impl Market {
    /// The same market, whose exchange sometimes takes an id for no trade: such ids never exist.
    pub fn with_holes(mut self) -> Self {
        for symbol in &mut self.symbols {
            symbol.bursts_to_hole = Some(symbol.random.between(HOLE_EVERY.0, HOLE_EVERY.1));
        }
        self
    }

    /// The listing's ids continue from `next_id`, a tenth above the price, so that the trades differ from earlier ones
    /// with the same ids. Its open klines begin again with `kept`, the trades that remain.
    pub fn restart(&mut self, listing: usize, next_id: i64, at: Timestamp, kept: &[Trade]) {
        let symbol = &mut self.symbols[listing];
        symbol.next_id = next_id;
        symbol.price += (symbol.price / 10 / symbol.tick).max(1) * symbol.tick;
        for candle in &mut symbol.klines {
            let previous = candle.kline.open;
            *candle = Candle::open(candle.kline.interval, at, previous);
            let begin = kept.partition_point(|trade| trade.ts < candle.kline.open_time);
            kept[begin..].iter().for_each(|trade| candle.add(trade));
        }
    }
}

fn share(at: usize) -> f64 {
    1.0 / (at as f64 + 1.0)
}

/// One symbol's state. Prices are whole ticks and quantities whole steps, in units of 1e-8.
#[derive(Debug)]
struct SymbolMarket {
    random: Random,
    pause_us: f64,
    next_id: i64,
    /// Bursts until the next skipped ids; `None` when none are skipped.
    bursts_to_hole: Option<i64>,
    update_id: i64,
    price: i64,
    tick: i64,
    step: i64,
    klines: [Candle; 6],
}

impl SymbolMarket {
    fn new(seed: u64, listing: &Listing, pause_us: f64, start: Timestamp) -> Self {
        // A symbol's trades do not depend on which other symbols are listed.
        let name = listing.symbol.as_str();
        let mixed = name.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let mut random = Random::new(mixed);
        // Tick times step has at most eight decimals, so quote volumes are exact.
        let (price, tick, step) = match name {
            _ if name.starts_with("BTC") => (6_123_456_000_000, 1_000_000, 1_000),
            _ if name.starts_with("ETH") => (268_380_000_000, 1_000_000, 10_000),
            _ if listing.quiet => (99_980_000, 10_000, 10_000_000),
            _ => (random.between(100, 20_000) * 1_000_000, 1_000_000, 100_000),
        };
        let next_id = 1_000_000_000 + random.between(0, 3_000_000_000);
        let update_id = 30_000_000_000 + random.between(0, 5_000_000_000);
        let klines = Interval::ALL.map(|interval| Candle::open(interval, start, Decimal::new(price, 8)));
        Self { random, pause_us, next_id, bursts_to_hole: None, update_id, price, tick, step, klines }
    }

    /// Most bursts are one trade, a few sweep the book: a capture has 219 trades in one millisecond.
    fn burst_size(&mut self) -> i64 {
        match self.random.between(0, 999) {
            0..=699 => 1,
            700..=949 => self.random.between(2, 8),
            950..=994 => self.random.between(9, 60),
            _ => self.random.between(61, 220),
        }
    }

    fn burst(&mut self, at: Timestamp, listing: usize, events: &mut Vec<Event>) {
        let side = if self.random.chance(50) { Side::Buy } else { Side::Sell };
        let direction = if side == Side::Buy { self.tick } else { -self.tick };
        self.price = (self.price + self.random.between(-2, 2) * self.tick).max(10 * self.tick);
        let mut quantity = self.step;
        // A market without holes draws nothing here, so its seeds stay the same.
        if let Some(bursts) = &mut self.bursts_to_hole {
            *bursts -= 1;
            if *bursts <= 0 {
                *bursts = self.random.between(HOLE_EVERY.0, HOLE_EVERY.1);
                self.next_id += self.random.between(1, 3);
            }
        }
        for _ in 0..self.burst_size() {
            if self.random.chance(25) {
                self.price = (self.price + direction).max(10 * self.tick);
            }
            // Real trades repeat: 15.5 % have the same time, price and quantity as another trade.
            if !self.random.chance(20) {
                quantity = self.step * self.random.between(1, 900);
            }
            let trade = Trade {
                id: self.next_id,
                ts: at,
                price: Decimal::new(self.price, 8),
                quantity: Decimal::new(quantity, 8),
                side,
                trade_ids: None,
            };
            self.next_id += 1;
            for candle in &mut self.klines {
                candle.add(&trade);
            }
            events.push(Event { at: at.plus_micros(1_000), listing, kind: EventKind::Trade(trade) });
        }
        self.update_id += self.random.between(1, 9);
        let book = Book {
            update_id: self.update_id,
            bid: Decimal::new(self.price - self.tick, 8),
            bid_quantity: Decimal::new(self.step * self.random.between(1, 9_000), 8),
            ask: Decimal::new(self.price, 8),
            ask_quantity: Decimal::new(self.step * self.random.between(1, 9_000), 8),
        };
        events.push(Event { at, listing, kind: EventKind::Book(book) });
    }

    fn close(&mut self, at: Timestamp, listing: usize, events: &mut Vec<Event>) {
        for candle in &mut self.klines {
            if at.micros().rem_euclid(candle.kline.interval.micros()) != 0 {
                continue;
            }
            candle.kline.closed = true;
            events.push(Event { at, listing, kind: EventKind::Kline(*candle) });
            *candle = Candle::open(candle.kline.interval, at, candle.kline.close);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp(1_723_161_254_123_000);

    fn listings() -> Vec<Listing> {
        ["BTCUSDT", "ETHUSDT", "TUSDUSDT:quiet"].iter().map(|text| text.parse().unwrap()).collect()
    }

    fn after(seconds: i64) -> Timestamp {
        START.plus_micros(seconds * 1_000_000)
    }

    fn trades(events: &[Event], listing: usize) -> Vec<Trade> {
        let own = events.iter().filter(|event| event.listing == listing);
        own.filter_map(|event| if let EventKind::Trade(trade) = event.kind { Some(trade) } else { None }).collect()
    }

    #[test]
    fn a_listing_has_the_spelling_of_any_exchange() {
        for name in ["BTCUSDT", "BTC-USDT", "BTC/USD", "btc_usd", "币安人生USDT"] {
            assert_eq!(name.parse(), Ok(Listing { symbol: Symbol::new(name), quiet: false }));
        }
        for wrong in ["", "BTC-", "btcusdt@trade", "BTCUSDT:loud", "BTC USDT"] {
            assert!(wrong.parse::<Listing>().is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn ids_are_contiguous_and_times_never_go_back() {
        let events = Market::new(3, &listings(), 200.0, START).advance(after(600));
        for listing in 0..3 {
            let trades = trades(&events, listing);
            assert!(!trades.is_empty(), "listing {listing} never traded");
            assert!(trades.windows(2).all(|pair| pair[1].id == pair[0].id + 1 && pair[1].ts >= pair[0].ts));
        }
    }

    #[test]
    fn a_market_with_holes_skips_some_ids_and_repeats_for_a_seed() {
        let market = || Market::new(3, &listings(), 200.0, START).with_holes().advance(after(600));
        let events = market();
        for listing in 0..2 {
            let trades = trades(&events, listing);
            let steps: Vec<i64> = trades.windows(2).map(|pair| pair[1].id - pair[0].id).collect();
            let skips = steps.iter().filter(|step| **step > 1).count();
            assert!(steps.iter().all(|step| (1..=4).contains(step)), "listing {listing}");
            assert!((1..=trades.len() / 100).contains(&skips), "{skips} of {}", trades.len());
        }
        assert_eq!(events, market());
    }

    #[test]
    fn closed_klines_are_exactly_their_trades() {
        let events = Market::new(5, &listings(), 50.0, START).advance(after(1_900));
        let mut closed = 0;
        for event in &events {
            let EventKind::Kline(candle) = event.kind else { continue };
            if !candle.kline.closed {
                continue;
            }
            let (from, to) = (candle.kline.open_time, candle.kline.close_time.plus_micros(1_000));
            let mut again = Candle::open(candle.kline.interval, from, candle.kline.open);
            trades(&events, event.listing)
                .iter()
                .filter(|trade| trade.ts >= from && trade.ts < to)
                .for_each(|trade| again.add(trade));
            again.kline.closed = true;
            assert_eq!(candle, again);
            closed += 1;
        }
        assert!(closed > 90, "only {closed} closed");
    }

    #[test]
    fn a_quiet_symbol_has_minutes_and_klines_without_a_trade() {
        let events = Market::new(1, &listings(), 10.0, START).advance(after(3_600));
        let quiet = trades(&events, 2);
        assert!(quiet.windows(2).any(|pair| pair[1].ts.since(pair[0].ts) > 180_000_000));
        let empty = events.iter().filter(|event| match event.kind {
            EventKind::Kline(candle) => {
                candle.kline.closed && candle.kline.trade_count == 0 && candle.kline.first_trade_id == -1
            }
            _ => false,
        });
        assert!(empty.count() > 5);
    }

    #[test]
    fn the_rate_is_about_as_configured() {
        let events = Market::new(9, &listings(), 500.0, START).advance(after(60));
        let trades = events.iter().filter(|event| matches!(event.kind, EventKind::Trade(_))).count();
        assert!((24_000..36_000).contains(&trades), "{trades} trades in 60 s at 500/s");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_size_of_the_steps_changes_nothing(seed in any::<u64>(), steps in prop::collection::vec(1_i64..900, 1..60)) {
            let mut stepped = Market::new(seed, &listings(), 100.0, START);
            let mut events = Vec::new();
            let mut at = START;
            for step in steps {
                at = at.plus_micros(step * 1_000 + 7);
                events.extend(stepped.advance(at));
            }
            prop_assert_eq!(events, Market::new(seed, &listings(), 100.0, START).advance(at));
        }

        #[test]
        fn a_seed_gives_the_same_trades_at_any_hour(seed in any::<u64>(), shift_ms in 0_i64..100_000_000) {
            let one = trades(&Market::new(seed, &listings(), 80.0, START).advance(after(5)), 0);
            let later = START.plus_micros(shift_ms * 1_000);
            let two = trades(&Market::new(seed, &listings(), 80.0, later).advance(later.plus_micros(5_000_000)), 0);
            prop_assert_eq!(one.len(), two.len());
            for (one, two) in one.iter().zip(&two) {
                prop_assert_eq!((one.id, one.price, one.quantity, one.side), (two.id, two.price, two.quantity, two.side));
                prop_assert_eq!(one.ts.since(START), two.ts.since(later));
            }
        }
    }
}
