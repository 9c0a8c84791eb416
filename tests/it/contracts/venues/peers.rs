//! Peer and dialect agree: what one writes the other reads.

use std::sync::Arc;

use proptest::prelude::*;
use rust_decimal::Decimal;
use tapekeeper::exchange::peer::{Peer, PeerEvent, PeerRefusal};
use tapekeeper::exchange::spec::{ChannelKind, KlineClose};
use tapekeeper::exchange::{AnswerErrorKind, Dialect, Event, RestReply, Route};
use tapekeeper::market::{Book, Channel, Kline, Stream, Symbol, Timestamp, Trade};

use super::venue::{decimals, klines, trades};
use super::{NOON, each_with_peer};

/// Renders an event and decodes it; `None` when the venue does not send it.
fn sent(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, channel: Channel, event: PeerEvent<'_>) -> Option<Vec<Event>> {
    let symbol = dialect.spec().example;
    let Some(frame) = peer.frame(symbol, event, Timestamp(4_100_000_000_000_000)) else {
        assert!(dialect.spec().channel(channel).is_none(), "the peer does not send {channel}");
        return None;
    };
    let stream = Stream::new(dialect.exchange(), Symbol::new(symbol), channel);
    assert_eq!(dialect.route(frame.as_bytes()), Route::Stream(dialect.stream_name(&stream).into()), "{frame}");
    let mut events = Vec::new();
    let decoded = dialect.decode(frame.as_bytes(), &mut |market| {
        assert_eq!(market.symbol, symbol, "{frame}");
        events.push(market.event);
    });
    assert_eq!(decoded, Ok(()), "{frame}");
    Some(events)
}

fn check_trades(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, trades: &[Trade]) {
    let expected: Vec<Event> = trades.iter().map(|trade| Event::Trade(*trade)).collect();
    if let Some(events) = sent(dialect, peer, Channel::Trade, PeerEvent::Trades(trades)) {
        assert_eq!(events, expected);
    }
}

/// An aggregate has the trade's id as its own number.
fn check_aggregate(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, trade: &Trade, more: i64) {
    let aggregate = Trade { trade_ids: Some((trade.id / 2, trade.id / 2 + more)), ..*trade };
    if let Some(events) = sent(dialect, peer, Channel::AggTrade, PeerEvent::AggTrade(&aggregate)) {
        assert_eq!(events, [Event::Trade(aggregate)]);
    }
}

/// What a frame need not have is left out of the comparison: trade ids and their number, the quote volume, whether it is
/// closed, the exact end.
fn check_kline(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, kline: &Kline) {
    let channel = Channel::Kline(kline.interval);
    let Some(spec) = dialect.spec().channel(channel) else { return };
    let ChannelKind::Kline { close, names_trades, .. } = spec.kind else { panic!("{spec:?}") };
    let Some(events) = sent(dialect, peer, channel, PeerEvent::Kline(kline)) else { return };
    let [Event::Kline(found)] = events.as_slice() else { panic!("{events:?}") };
    let mut expected = *kline;
    if !names_trades {
        (expected.first_trade_id, expected.last_trade_id) = (-1, -1);
        assert!([0, expected.trade_count].contains(&found.trade_count), "{found:?}");
        expected.trade_count = found.trade_count;
    }
    // A venue may send an average price, rounded, in place of the quote volume.
    let difference = (found.quote_volume - expected.quote_volume).abs();
    let rounding = (kline.volume + expected.quote_volume) * Decimal::new(1, 9);
    if found.quote_volume.is_zero() || (!names_trades && difference <= rounding) {
        expected.quote_volume = found.quote_volume;
    }
    if close == KlineClose::Successor {
        expected.closed = false;
    }
    assert!((1..=kline.interval.micros()).contains(&found.close_time.since(found.open_time)), "{found:?}");
    expected.close_time = found.close_time;
    assert_eq!(*found, expected);
}

fn check_book(dialect: &Arc<dyn Dialect>, peer: &dyn Peer, book: &Book) {
    let Some(events) = sent(dialect, peer, Channel::BookTicker, PeerEvent::Book(book)) else { return };
    let [Event::Book(found)] = events.as_slice() else { panic!("{events:?}") };
    // A venue may number its books by time.
    assert_eq!(*found, Book { update_id: found.update_id, ..*book });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_the_peer_sends_the_dialect_decodes(
        many in prop::collection::vec(trades(), 2..5),
        kline in klines(),
        [bid, bid_quantity, ask, ask_quantity] in [decimals(), decimals(), decimals(), decimals()],
        update_id in 1_i64..1_000_000_000_000,
    ) {
        each_with_peer(|dialect, peer| {
            check_trades(dialect, peer, &many[..1]);
            check_aggregate(dialect, peer, &many[0], update_id % 5);
            if peer.limits().trades_per_frame > 1 {
                check_trades(dialect, peer, &many);
            }
            check_kline(dialect, peer, &kline);
            check_book(dialect, peer, &Book { update_id, bid, bid_quantity, ask, ask_quantity });
        });
    }
}

#[test]
fn a_refusal_over_rest_is_understood() {
    each_with_peer(|dialect, peer| {
        let judge = |refusal: PeerRefusal| {
            let response = peer.refuse(refusal);
            let header = |name: &str| {
                let found = response.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone())
            };
            let reply = RestReply { status: response.status, header: &header, body: response.body.as_bytes() };
            (response.status, dialect.judge(&reply).map(|error| error.kind))
        };
        let (status, kind) = judge(PeerRefusal::UnknownSymbol);
        assert_eq!(kind, Some(AnswerErrorKind::UnknownSymbol), "HTTP {status}");
        let (status, kind) = judge(PeerRefusal::Limited(3));
        assert!(status == 429 || kind == Some(AnswerErrorKind::Limited), "HTTP {status}: {kind:?}");
        let (status, kind) = judge(PeerRefusal::Banned(NOON));
        // A venue without bans limits.
        let is_ban =
            matches!(kind, Some(AnswerErrorKind::Banned(_) | AnswerErrorKind::BannedFor(_) | AnswerErrorKind::Limited));
        assert!(matches!(status, 418 | 429) || is_ban, "HTTP {status}: {kind:?}");
        let (status, kind) = judge(PeerRefusal::Failed(503));
        assert!(status >= 500 || kind == Some(AnswerErrorKind::Unavailable), "HTTP {status}: {kind:?}");
        let (status, kind) = judge(PeerRefusal::BadParameter);
        assert!(kind.is_some() || (400..500).contains(&status), "HTTP {status}: {kind:?}");
        assert!(kind != Some(AnswerErrorKind::UnknownSymbol) && kind != Some(AnswerErrorKind::Limited));
    });
}
