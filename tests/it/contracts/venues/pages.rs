//! A walk over pages against a venue in memory fills any hole exactly.

use std::sync::Arc;

use proptest::prelude::*;
use rust_decimal::Decimal;
use tapekeeper::exchange::peer::Peer;
use tapekeeper::exchange::spec::{Reach, Refill};
use tapekeeper::exchange::{Answer, Dialect, ListingEntry, PageStart, Request, Series};
use tapekeeper::gap::Range;
use tapekeeper::market::{Channel, Interval, Kline, Side, Timestamp, Trade};

use super::venue::Venue;
use super::{NOON, each_with_peer};

/// A venue whose trades have the ids from `first` on, a second apart. Its aggregates have the numbers from `first + 7` on:
/// one trade each, so that they are at the same times.
fn venue(dialect: &Arc<dyn Dialect>, first: i64, trades: i64) -> Venue {
    let trade = |id: i64| {
        let (price, quantity) = (Decimal::new(6_123_400 + id % 100, 2), Decimal::new(1 + id % 1_000, 5));
        let side = if id % 3 == 0 { Side::Buy } else { Side::Sell };
        Trade { id, ts: NOON.plus_micros((id - first) * 1_000_000), price, quantity, side, trade_ids: None }
    };
    Venue {
        symbol: dialect.spec().example.to_owned(),
        now: NOON.plus_micros(trades * 1_000_000 + 500_000),
        trades: (first..first + trades).map(|id| (id, trade(id))).collect(),
        aggregates: (first..first + trades).map(|id| (id + OFFSET, aggregate(trade(id)))).collect(),
        klines: Vec::new(),
    }
}

/// What an aggregate's number is above its trade's id.
const OFFSET: i64 = 7;

fn aggregate(trade: Trade) -> Trade {
    Trade { id: trade.id + OFFSET, trade_ids: Some((trade.id, trade.id)), ..trade }
}

/// One page of trades from the beginning of a range, at most as long as the spec says.
fn trades_page(
    dialect: &Arc<dyn Dialect>,
    peer: &dyn Peer,
    venue: &Venue,
    channel: Channel,
    range: Range,
) -> Vec<Trade> {
    let series = Series { symbol: venue.symbol.as_str(), channel };
    // As the client does for a venue that pages by time: from just before the trade before the range.
    let after = venue.rows(channel).range(..range.first).next_back().map(|(_, trade)| trade.ts.plus_micros(-1));
    let request = Request::Trades { series, range, after: Some(PageStart::At(after.unwrap_or(Timestamp(0)))) };
    let Some(Answer::Trades(page)) = venue.ask(dialect, peer, &request) else { panic!("no page of trades") };
    assert!(page.refused.is_empty(), "{:?}", page.refused);
    assert!(page.rows.len() as i64 <= dialect.spec().rest.trades_page);
    page.rows
}

/// Fills a hole, page after page, and checks that it is exact.
fn fill(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, venue: &Venue, channel: Channel, hole: Range) {
    let (mut filled, mut next) = (Vec::new(), Some(hole));
    while let Some(range) = next {
        let page = trades_page(dialect, peer, venue, channel, range);
        if dialect.spec().channel(channel).is_some_and(|spec| spec.refill == Refill::ById) {
            assert_eq!(page.first().map(|trade| trade.id), Some(range.first), "a page begins where it was asked to");
        }
        let rows: Vec<Trade> = page.into_iter().filter(|trade| range.contains(trade.id)).collect();
        assert_eq!(rows.first().map(|trade| trade.id), Some(range.first), "the walk does not advance");
        next = Range::new(rows[rows.len() - 1].id + 1, hole.last);
        filled.extend(rows);
    }
    let expected: Vec<Trade> = venue.rows(channel).range(hole.first..=hole.last).map(|(_, trade)| *trade).collect();
    assert_eq!(filled, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_walk_fills_any_hole_exactly(first in 1_i64..1_000_000_000, count in 1_i64..2_500, from in 0_i64..2_500, length in 0_i64..2_500) {
        each_with_peer(|dialect, peer| {
            let venue = venue(dialect, first, count);
            let start = first + from % count;
            for channel in Channel::TRADES {
                let offset = if channel == Channel::AggTrade { OFFSET } else { 0 };
                let start = start + offset;
                let hole = Range { first: start, last: (start + length).min(first + offset + count - 1) };
                match dialect.spec().channel(channel).map(|spec| spec.refill) {
                    Some(Refill::ById | Refill::ByTime) => fill(dialect, peer, &venue, channel, hole),
                    // Only what is still among the newest comes back.
                    Some(Refill::Recent(rows)) => {
                        let served = first + offset + (count - i64::from(rows)).max(0);
                        let page = trades_page(dialect, peer, &venue, channel, hole);
                        let expected = venue.rows(channel).range(hole.first.max(served)..).map(|(_, trade)| *trade);
                        assert_eq!(page, expected.collect::<Vec<_>>());
                    }
                    Some(Refill::Never) => {
                        let series = Series { symbol: &venue.symbol, channel };
                        let request = Request::Trades { series, range: hole, after: None };
                        assert_eq!(dialect.ask(&request), None, "it claims to return nothing");
                    }
                    None => {}
                }
            }
        });
    }

    #[test]
    fn a_walk_over_klines_fills_any_hole_exactly(interval in prop::sample::select(Interval::ALL.to_vec()), count in 1_i64..2_500, from in 0_i64..2_500, length in 0_i64..2_500) {
        each_with_peer(|dialect, peer| {
            let Some(spec) = dialect.spec().channel(Channel::Kline(interval)) else { return };
            let step = interval.micros();
            let first = NOON.micros().div_euclid(step) * step;
            let mut venue = venue(dialect, 1, 1);
            venue.klines = (0..count).map(|n| kline(interval, first + n * step)).collect();
            venue.now = Timestamp(first + count * step);
            let start = from % count;
            let hole = Range { first: first + start * step, last: first + (start + length).min(count - 1) * step };
            // What is older than the newest rows that the venue serves does not come back.
            let served = match spec.reach {
                Reach::Rows(rows) => first + (count - i64::from(rows)).max(0) * step,
                Reach::All | Reach::For(_) => first,
            };
            let hole = Range::new(hole.first.max(served), hole.last).filter(|_| spec.refill == Refill::ByTime);
            if let Some(hole) = hole {
                fill_klines(dialect, peer, &venue, interval, hole);
            }
        });
    }
}

fn kline(interval: Interval, at: i64) -> Kline {
    let price = Decimal::new(at.rem_euclid(1_000_003) + 1, 3);
    Kline {
        interval,
        open_time: Timestamp(at),
        close_time: Timestamp(at + interval.micros() - 1_000),
        open: price,
        high: price,
        low: price,
        close: price,
        volume: price,
        quote_volume: price,
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: true,
    }
}

fn fill_klines(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, venue: &Venue, interval: Interval, hole: Range) {
    let (symbol, step) = (venue.symbol.as_str(), interval.micros());
    let (mut filled, mut next) = (Vec::new(), Some(hole));
    while let Some(range) = next {
        let request = Request::Klines { symbol, interval, range };
        let Some(Answer::Klines(page)) = venue.ask(dialect, peer, &request) else { panic!("no page of klines") };
        assert!(page.refused.is_empty(), "{:?}", page.refused);
        assert!(page.rows.len() as i64 <= dialect.spec().rest.klines_page);
        let rows = page.rows.into_iter().filter(|kline| range.contains(kline.open_time.micros()));
        let before = filled.len();
        filled.extend(rows.map(|kline| (kline.open_time.micros(), kline.close, kline.closed)));
        assert!(filled.len() > before, "the walk does not advance");
        next = Range::new(filled[filled.len() - 1].0 + step, hole.last);
    }
    let held = venue.klines.iter().filter(|kline| hole.contains(kline.open_time.micros()));
    // The last one may not be over on every clock.
    let expected: Vec<_> = held.map(|kline| (kline.open_time.micros(), kline.close, true)).collect();
    assert_eq!(filled, expected);
}

#[test]
fn the_newest_trade_the_clock_and_the_listing_are_read() {
    each_with_peer(|dialect, peer| {
        let venue = venue(dialect, 1_000, 700);
        let symbol = venue.symbol.as_str();
        let sent = Channel::TRADES.into_iter().filter(|channel| dialect.spec().channel(*channel).is_some());
        for channel in sent {
            let (series, offset) = (Series { symbol, channel }, if channel == Channel::AggTrade { OFFSET } else { 0 });
            let newest = venue.rows(channel).values().next_back().map(|trade| (trade.id, trade.ts));
            for request in [Request::Newest { series }, Request::NewestFallback { series }] {
                if let Some(answer) = venue.ask(dialect, peer, &request) {
                    assert_eq!(answer, Answer::Newest(newest), "{channel}");
                }
            }
            let at = NOON.plus_micros(300_400_000);
            if let Some(answer) = venue.ask(dialect, peer, &Request::TradeAt { series, at }) {
                assert_eq!(answer, Answer::TradeAt(Some(1_301 + offset)), "{channel}");
            }
        }
        let Some(Answer::Time(time)) = venue.ask(dialect, peer, &Request::Time) else { panic!("no clock") };
        assert!(time.since(venue.now).abs() <= 1_000_000, "{time}");
        for symbols in [&[][..], &[symbol.to_owned()]] {
            let answer = venue.ask(dialect, peer, &Request::Listing { symbols });
            let Some(Answer::Listing(info)) = answer else { continue };
            assert_eq!(info.symbols, [(symbol.to_owned(), ListingEntry::Trading)]);
            assert!(info.unreadable.is_empty(), "{:?}", info.unreadable);
        }
    });
}
