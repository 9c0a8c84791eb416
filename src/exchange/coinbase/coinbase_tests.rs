//! Coinbase's dialect against messages as documented and as recorded.

use std::collections::BTreeMap;

use super::*;
use crate::exchange::spec::OnSubscribe;
use crate::exchange::{AnswerErrorKind, Event, ListingEntry, SubscriptionAnswer};
use crate::gap::Range;
use crate::market::{Side, Timestamp, Trade};

const MATCH: &str = r#"{"type":"match","trade_id":280232,"maker_order_id":"2a0da34e","taker_order_id":"3c82abaa","side":"sell","size":"985","price":"0.00001305","product_id":"SKL-BTC","sequence":177100030,"time":"2021-04-17T16:43:37.089723Z"}"#;
const AT: Timestamp = Timestamp(1_618_677_817_089_723);

fn decode(text: &str) -> Result<Vec<(String, Option<Timestamp>, Event)>, DecodeError> {
    let mut events = Vec::new();
    Coinbase.decode(text.as_bytes(), &mut |market| {
        events.push((market.symbol.into_owned(), market.event_time, market.event));
    })?;
    Ok(events)
}

fn trade(text: &str) -> (Option<Timestamp>, Trade) {
    match decode(text).unwrap().as_slice() {
        [(_, event_time, Event::Trade(trade))] => (*event_time, *trade),
        other => panic!("{other:?}"),
    }
}

fn stream(symbol: &str, channel: Channel) -> Stream {
    Stream::new(SPEC.exchange, Symbol::new(symbol), channel)
}

fn answer(request: &Request<'_>, body: &str) -> Answer {
    let now = Timestamp(4_000_000_000_000_000);
    Coinbase.answer(request, &RestAnswer { body: body.as_bytes(), now, latest: now }).unwrap()
}

fn page(range: Range, body: &str) -> (Vec<Trade>, Vec<Option<i64>>) {
    match answer(&Request::Trades { series: "BTC-USD".into(), range, after: None }, body) {
        Answer::Trades(page) => (page.rows, page.refused.iter().map(|row| row.position).collect()),
        other => panic!("{other:?}"),
    }
}

fn row(id: i64) -> String {
    format!(
        r#"{{"trade_id":{id},"side":"sell","size":"985","price":"0.00001305","time":"2021-04-17T16:43:37.089723Z"}}"#
    )
}

#[test]
fn the_makers_side_is_inverted_on_the_socket_and_over_rest_alike() {
    let (event_time, live) = trade(MATCH);
    assert_eq!((live.id, live.ts, live.side, event_time), (280_232, AT, Side::Buy, Some(AT)));
    assert_eq!((live.price.to_string().as_str(), live.quantity.to_string().as_str()), ("0.00001305", "985"));
    let (rows, _) = page(Range { first: 280_232, last: 280_232 }, &format!("[{}]", row(280_232)));
    assert_eq!(rows, [live], "both describe the same trade");
    assert_eq!(trade(&MATCH.replace("sell", "buy")).1.side, Side::Sell);
    assert!(decode(&MATCH.replace("sell", "maker")).is_err());
}

#[test]
fn the_last_match_is_a_trade_from_before() {
    let (event_time, last) = trade(&MATCH.replace("\"match\"", "\"last_match\""));
    assert_eq!((event_time, last), (None, trade(MATCH).1), "its time is not now");
    assert_eq!(SPEC.channel(Channel::Trade).unwrap().on_subscribe, OnSubscribe::Overlap(1));
}

#[test]
fn a_trade_with_a_time_in_the_year_1_gets_no_invented_time() {
    for unset in ["0001-01-01T00:00:00.000000Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"] {
        let error = decode(&MATCH.replace("2021-04-17T16:43:37.089723Z", unset)).unwrap_err();
        assert_eq!(error.why, format!("time {unset:?} is no time of a trade"));
        let (rows, refused) = page(
            Range { first: 1, last: 280_232 },
            &format!("[{}]", row(280_232).replace("2021-04-17T16:43:37.089723Z", unset)),
        );
        assert_eq!((rows, refused), (vec![], vec![Some(280_232)]), "REST serves it: it is refused, not absent");
    }
}

#[test]
fn members_are_read_by_name_and_unknown_ones_are_tolerated() {
    let other = r#" { "new":{"a":[1]}, "time":"2021-04-17T16:43:37.089723Z","product_id":"SKL-BTC","price":"0.00001305",
        "size":"985", "side":"sell","trade_id":"280232","type":"match" } "#;
    assert_eq!(decode(other), decode(MATCH));
    assert_eq!(Coinbase.route(other.as_bytes()), Coinbase.route(MATCH.as_bytes()));
}

#[test]
fn a_malformed_frame_is_an_error() {
    for (from, to) in [
        ("280232", "-1"),
        ("280232", "28.5"),
        ("280232", "99999999999999999999"),
        ("\"985\"", "\"9,85\""),
        ("\"985\"", "null"),
        ("\"0.00001305\"", "\"\""),
        ("2021-04-17T16:43:37.089723Z", "yesterday"),
        ("\"product_id\"", "\"product\""),
        ("\"type\"", "\"kind\""),
        ("}", ""),
    ] {
        assert!(decode(&MATCH.replacen(from, to, 1)).is_err(), "{from} {to}");
    }
    for text in ["", "[]", "null", "7", "<html>", "{}"] {
        assert!(decode(text).is_err(), "{text}");
        assert_eq!(Coinbase.route(text.as_bytes()), Route::Other, "{text}");
    }
}

#[test]
fn a_heartbeat_is_a_sign_of_life() {
    let beat = r#"{"type":"heartbeat","sequence":90,"last_trade_id":0,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}"#;
    assert_eq!(Coinbase.route(beat.as_bytes()), Route::Heartbeat);
    assert_eq!(decode(beat), Ok(vec![]));
}

#[test]
fn an_acknowledgement_lists_the_streams_and_an_error_the_oldest_request() {
    let ack = r#"{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD","ETH-USD"]},{"name":"heartbeat","product_ids":["BTC-USD"]},{"name":"ticker","product_ids":["BTC-USD"]}]}"#;
    let streams = ["matches:BTC-USD", "matches:ETH-USD", "ticker:BTC-USD"];
    let expected = SubscriptionAnswer { id: None, streams: streams.map(Into::into).to_vec(), error: None };
    assert_eq!(Coinbase.route(ack.as_bytes()), Route::Answer(expected));
    let refused = r#"{"type":"error","message":"Failed to subscribe","reason":"FOO-BAR is not a valid product"}"#;
    let error = Some("Failed to subscribe: FOO-BAR is not a valid product".to_owned());
    assert_eq!(
        Coinbase.route(refused.as_bytes()),
        Route::Answer(SubscriptionAnswer { id: None, streams: vec![], error })
    );
    assert_eq!((decode(ack), decode(refused)), (Ok(vec![]), Ok(vec![])));
}

#[test]
fn a_ticker_with_sizes_is_a_book() {
    let ticker = r#"{"type":"ticker","sequence":333938798,"product_id":"BAND-GBP","price":"14.7775","best_bid":"14.7550","best_bid_size":"3.5","best_ask":"14.8060","best_ask_size":"12.77","side":"buy","time":"2021-04-17T16:43:30.244075Z","trade_id":881613,"last_size":"0.04"}"#;
    let events = decode(ticker).unwrap();
    let [(symbol, Some(_), Event::Book(book))] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((symbol.as_str(), book.update_id, book.bid.to_string().as_str()), ("BAND-GBP", 333_938_798, "14.7550"));
    assert_eq!((book.bid_quantity.to_string().as_str(), book.ask_quantity.to_string().as_str()), ("3.5", "12.77"));
    assert_eq!(Coinbase.route(ticker.as_bytes()), Route::Stream("ticker:BAND-GBP".into()));
    let bare = ticker.replace(r#""best_bid_size":"3.5","#, "").replace(r#""best_ask_size":"12.77","#, "");
    assert_eq!(decode(&bare), Ok(vec![]), "as recorded in 2021");
    assert!(decode(&ticker.replace(r#""best_bid_size":"3.5","#, "")).is_err());
}

#[test]
fn a_request_subscribes_to_trades_and_their_heartbeat() {
    let streams = [stream("BTC-USD", Channel::Trade), stream("ETH-USD", Channel::Trade)];
    let requests = Coinbase.subscribe(SubscriptionChange::Subscribe, &streams, 7);
    assert_eq!(
        requests,
        [r#"{"channels":["matches","heartbeat"],"product_ids":["BTC-USD","ETH-USD"],"type":"subscribe"}"#]
    );
    let mixed = [stream("BTC-USD", Channel::Trade), stream("BTC-USD", Channel::BookTicker), streams[1].clone()];
    let requests = Coinbase.subscribe(SubscriptionChange::Unsubscribe, &mixed, 7);
    assert_eq!(
        requests,
        [
            r#"{"channels":["matches"],"product_ids":["ETH-USD"],"type":"unsubscribe"}"#,
            r#"{"channels":["matches","ticker"],"product_ids":["BTC-USD"],"type":"unsubscribe"}"#,
        ]
    );
}

#[test]
fn a_page_begins_where_it_was_asked_to_although_some_ids_never_existed() {
    let range = Range { first: 10, last: 2_000 };
    let asked = Coinbase.ask(&Request::Trades { series: "BTC-USD".into(), range, after: None }).unwrap();
    assert_eq!(
        asked,
        RestRequest { path: "/products/BTC-USD/trades?limit=1000&after=1010".to_owned(), weight: 1, bucket: 0 }
    );
    // 11 never existed, so a page of the same length also has 9.
    let rows: Vec<String> = [13, 12, 10, 9, 8].map(row).to_vec();
    let (rows, refused) = page(range, &format!("[{}]", rows.join(",")));
    assert_eq!((rows.iter().map(|trade| trade.id).collect::<Vec<_>>(), refused), (vec![10, 12, 13], vec![]));
}

#[test]
fn an_unreadable_row_costs_itself_and_has_the_place_that_its_neighbours_leave() {
    let body = format!(r#"[{},{{"trade_id":"?"}},{},{{"trade_id":10,"side":"up"}}]"#, row(13), row(11));
    let (rows, refused) = page(Range { first: 10, last: 13 }, &body);
    assert_eq!((rows.len(), refused), (2, vec![Some(12), Some(10)]));
}

#[test]
fn the_newest_trade_the_clock_and_the_listing_are_read() {
    let newest = Request::Newest { series: "BTC-USD".into() };
    assert_eq!(answer(&newest, &format!("[{}]", row(7))), Answer::Newest(Some((7, AT))));
    assert_eq!(answer(&newest, "[]"), Answer::Newest(None));
    let time = |body| answer(&Request::Time, body);
    let expected = Answer::Time(Timestamp(1_420_674_445_201_000));
    assert_eq!(time(r#"{"iso":"2015-01-07T23:47:25.201Z","epoch":1420674445.201}"#), expected);
    assert_eq!(time(r#"{"epoch":1420674445.201}"#), expected);
    let body = r#"[{"id":"BTC-USD","status":"online","trading_disabled":false},{"id":"ETH-USD","status":"online","cancel_only":true},
        {"id":"OLD-USD","status":"delisted","trading_disabled":true},{"id":"X-USD","status":"offline"}]"#;
    let Answer::Listing(info) = answer(&Request::Listing { symbols: &[] }, body) else { panic!("no listing") };
    let paused = |why: &str| ListingEntry::Paused(why.to_owned());
    let expected = [ListingEntry::Trading, paused("cancel_only"), ListingEntry::Unlisted, paused("offline")];
    assert_eq!(info.symbols.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), expected);
    let wanted = ["BTC-USD".to_owned(), "NO-USD".to_owned()];
    let Answer::Listing(info) = answer(&Request::Listing { symbols: &wanted }, body) else { panic!("no listing") };
    let expected = [("BTC-USD".to_owned(), ListingEntry::Trading), ("NO-USD".to_owned(), ListingEntry::Unlisted)];
    assert_eq!(info.symbols, expected);
    assert_eq!(Coinbase.ask(&Request::TradeAt { series: "BTC-USD".into(), at: AT }), None);
}

#[test]
fn a_refusal_is_judged_by_status_and_words() {
    let judge = |status, body: &str| {
        let reply = RestReply { status, header: &|_| None, body: body.as_bytes() };
        Coinbase.judge(&reply).map(|error| error.kind)
    };
    assert_eq!(judge(404, r#"{"message":"NotFound"}"#), Some(AnswerErrorKind::UnknownSymbol));
    assert_eq!(judge(404, r#"{"message":"Route not found"}"#), Some(AnswerErrorKind::Other));
    assert_eq!(judge(429, r#"{"message":"Public rate limit exceeded"}"#), Some(AnswerErrorKind::Limited));
    assert_eq!(judge(503, r#"{"message":"Service unavailable"}"#), Some(AnswerErrorKind::Unavailable));
    assert_eq!(judge(404, "<html>"), None);
    assert_eq!(judge(200, r#"{"iso":"2015-01-07T23:47:25.201Z"}"#), None);
    assert_eq!(judge(200, "[]"), None);
}

#[test]
fn what_the_peer_sends_is_read() {
    let peer = Coinbase.peer().unwrap();
    let trade = trade(MATCH).1;
    let snapshot = peer.snapshot("SKL-BTC", Channel::Trade, &[trade], AT).unwrap();
    assert_eq!(decode(&snapshot).unwrap(), [("SKL-BTC".to_owned(), None, Event::Trade(trade))]);
    let frame = peer.frame("SKL-BTC", crate::exchange::peer::PeerEvent::Trades(&[trade]), AT).unwrap();
    assert_eq!(decode(&frame), decode(MATCH));
    assert_eq!(Coinbase.route(peer.heartbeat(AT).unwrap().as_bytes()), Route::Heartbeat);
}

/// 5.4: "97 of 97 steps, 10 products, 107 messages, 2021-04-17".
#[test]
fn the_recorded_messages_decode() {
    let Some(bytes) = crate::exchange::captures::read("coinbase/COINBASE.ws.28.0") else { return };
    let (mut messages, mut kinds, mut last) = (0, BTreeMap::<String, (usize, usize)>::new(), BTreeMap::new());
    for line in String::from_utf8(bytes).unwrap().lines() {
        let Some((_, text)) = line.split_once(": ").filter(|_| !line.starts_with("wss")) else { continue };
        messages += 1;
        let events = decode(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let kind = serde_json::from_str::<serde_json::Value>(text).unwrap()["type"].as_str().unwrap().to_owned();
        let count = kinds.entry(kind).or_default();
        (count.0, count.1) = (count.0 + 1, count.1 + events.len());
        for (symbol, _, event) in events {
            let Event::Trade(trade) = event else { panic!("{event:?}") };
            if let Some(before) = last.insert(symbol, trade.id) {
                assert_eq!(trade.id, before + 1);
            }
        }
    }
    let expected = [
        ("l2update", (9_719, 0)),
        ("last_match", (10, 10)),
        ("match", (97, 97)),
        ("snapshot", (10, 0)),
        ("subscriptions", (3, 0)),
        ("ticker", (107, 0)),
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected.map(|(kind, count)| (kind.to_owned(), count)));
    assert_eq!((messages, last.len()), (9_946, 10));
}

#[test]
fn the_recorded_listing_is_read() {
    let Some(bytes) = crate::exchange::captures::read("coinbase/COINBASE.0") else { return };
    let text = String::from_utf8(bytes).unwrap();
    let listing = text.lines().next().unwrap();
    let body = &listing[listing.find('[').unwrap()..];
    let Answer::Listing(info) = answer(&Request::Listing { symbols: &[] }, body) else { panic!("no listing") };
    assert!(info.symbols.len() > 100 && info.unreadable.is_empty(), "{:?}", info.unreadable);
    assert!(info.symbols.iter().all(|(symbol, _)| Coinbase.symbol(symbol).is_ok()));
}
