//! Kraken's dialect against messages as documented and as recorded.

use super::*;
use crate::exchange::captures;
use crate::exchange::peer::PeerEvent;
use crate::exchange::{AnswerErrorKind, Event, ListingEntry, PageStart, SubscriptionAnswer};
use crate::gap::Range;
use crate::market::{Side, Timestamp, Trade};

const TRADES: &str = r#"{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,"ord_type":"limit","trade_id":10218208,"timestamp":"2023-10-06T17:35:55.440295Z"},{"symbol":"BTC/USD","side":"sell","price":105910.50,"qty":1.2e-7,"ord_type":"market","trade_id":10218209,"timestamp":"2023-10-06T17:35:56.123456Z"}]}"#;
const OHLC: &str = r#"{"channel":"ohlc","type":"update","data":[{"symbol":"BTC/USD","interval":1,"interval_begin":"2023-10-04T16:25:00.000000000Z","open":106038.2,"high":106044.3,"low":106038.1,"close":106040.1,"volume":30927.68066226,"vwap":106039.6,"trades":12}]}"#;
const FIRST: Timestamp = Timestamp(1_696_613_755_440_295);

type Content = (Vec<(String, Option<Timestamp>, Event)>, Result<(), DecodeError>);

fn decode(text: &str) -> Content {
    let mut events = Vec::new();
    let decoded = Kraken.decode(text.as_bytes(), &mut |market| {
        events.push((market.symbol.into_owned(), market.event_time, market.event));
    });
    (events, decoded)
}

fn trades(text: &str) -> Vec<Trade> {
    let (events, decoded) = decode(text);
    assert_eq!(decoded, Ok(()), "{text}");
    let trade = |event| match event {
        Event::Trade(trade) => trade,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(|(_, _, event)| trade(event)).collect()
}

fn stream(symbol: &str, channel: Channel) -> Stream {
    Stream::new(SPEC.exchange, Symbol::new(symbol), channel)
}

fn answer(request: &Request<'_>, body: &str) -> Result<Answer, DecodeError> {
    let now = Timestamp(4_000_000_000_000_000);
    Kraken.answer(request, &RestAnswer { body: body.as_bytes(), now, latest: now })
}

fn path(request: &Request<'_>) -> String {
    let asked = Kraken.ask(request).unwrap();
    assert_eq!((asked.weight, asked.bucket), (1, 0));
    asked.path
}

#[test]
fn every_trade_of_a_message_is_decoded_exactly() {
    let (events, decoded) = decode(TRADES);
    assert_eq!((decoded, events.len()), (Ok(()), 2));
    assert_eq!((events[0].0.as_str(), events[0].1), ("BTC/USD", Some(FIRST)));
    let found = trades(TRADES);
    assert_eq!((found[0].id, found[0].side, found[0].price.to_string().as_str()), (10_218_208, Side::Buy, "105944.20"));
    assert_eq!(
        (found[1].id, found[1].side, found[1].quantity.to_string().as_str()),
        (10_218_209, Side::Sell, "0.00000012")
    );
    assert_eq!(Kraken.route(TRADES.as_bytes()), Route::Stream("trade:BTC/USD".into()));
}

#[test]
fn a_snapshot_is_an_overlap_whose_times_are_not_now() {
    let snapshot = TRADES.replace("update", "snapshot");
    let (events, _) = decode(&snapshot);
    assert!(events.iter().all(|(_, event_time, _)| event_time.is_none()));
    assert_eq!(trades(&snapshot), trades(TRADES));
    assert_eq!(SPEC.channel(Channel::Trade).unwrap().on_subscribe, OnSubscribe::Overlap(50));
}

#[test]
fn a_bad_element_costs_itself_only() {
    for (from, to) in [
        ("105944.20", "\"1,5\""),
        ("105944.20", "NaN"),
        ("\"buy\"", "\"up\""),
        ("10218208", "-3"),
        ("10218208", "null"),
        ("2023-10-06T17:35:55.440295Z", "2023"),
        ("\"symbol\":\"BTC/USD\",\"side\":\"buy\"", "\"side\":\"buy\""),
    ] {
        let text = TRADES.replacen(from, to, 1);
        let (events, decoded) = decode(&text);
        assert!(decoded.is_err() && events.len() == 1, "{text}");
        assert_eq!(Kraken.route(text.as_bytes()), Route::Stream("trade:BTC/USD".into()), "{text}");
    }
}

#[test]
fn members_are_read_by_name() {
    let other = r#"{"new":[{}],"data":[{"timestamp":"2023-10-06T17:35:55.440295Z","new":1,"trade_id":10218208,"qty":0.00027625,"price":105944.20,"side":"buy","symbol":"BTC\/USD"}],"type":"update","channel":"trade"}"#;
    assert_eq!(trades(other), trades(TRADES)[..1]);
    assert_eq!(Kraken.route(other.as_bytes()), Route::Stream("trade:BTC/USD".into()));
}

#[test]
fn a_kline_is_open_and_its_quote_volume_is_exact() {
    let (events, decoded) = decode(OHLC);
    let [(_, None, Event::Kline(kline))] = events.as_slice() else { panic!("{events:?} {decoded:?}") };
    assert_eq!((kline.interval, kline.closed, kline.trade_count), (Interval::M1, false, 12));
    assert_eq!(kline.open_time, Timestamp(1_696_436_700_000_000));
    assert_eq!(kline.close_time.since(kline.open_time), 59_999_999);
    assert_eq!(kline.quote_volume, kline.volume * "106039.6".parse::<rust_decimal::Decimal>().unwrap());
    assert_eq!(Kraken.route(OHLC.as_bytes()), Route::Stream("ohlc-1:BTC/USD".into()));
    let other = OHLC.replace("\"interval\":1,", "\"interval\":30,");
    assert_eq!(decode(&other), (vec![], Ok(())), "an interval that is not recorded");
    assert_eq!(Kraken.route(other.as_bytes()), Route::Stream("ohlc-30:BTC/USD".into()));
    assert!(decode(&OHLC.replace(":25:00", ":25:30")).1.is_err(), "no start of an interval");
}

#[test]
fn a_ticker_is_a_book_that_its_time_orders() {
    let ticker = r#"{"channel":"ticker","type":"update","data":[{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,"ask":0.10036,"ask_qty":1361.44813783,"last":0.10035,"volume":997038.98383185,"vwap":0.10148,"low":0.09979,"high":0.10285,"change":-0.00017,"change_pct":-0.17,"timestamp":"2023-10-06T17:35:55.440295Z"}]}"#;
    let (events, _) = decode(ticker);
    let [(_, Some(_), Event::Book(book))] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((book.update_id, book.bid_quantity.to_string().as_str()), (FIRST.micros() / 10, "740.0"));
    assert_eq!(Kraken.route(ticker.as_bytes()), Route::Stream("ticker:ALGO/USD".into()));
    assert!(decode(&ticker.replace("timestamp", "time")).1.is_err(), "without a time nothing orders it");
}

#[test]
fn signs_of_life_are_heartbeats() {
    let status = r#"{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2","connection_id":806193442143087786}]}"#;
    let pong = r#"{"method":"pong","req_id":0,"time_in":"2023-09-25T09:05:00.123456Z","time_out":"2023-09-25T09:05:00.123500Z"}"#;
    for text in [status, pong, r#"{"channel":"heartbeat"}"#] {
        assert_eq!(Kraken.route(text.as_bytes()), Route::Heartbeat, "{text}");
        assert_eq!(decode(text), (vec![], Ok(())), "{text}");
    }
    assert_eq!(Kraken.route(status.replace("online", "maintenance").as_bytes()), Route::Other);
}

#[test]
fn an_answer_names_request_and_stream() {
    let answer = |text: &str| match Kraken.route(text.as_bytes()) {
        Route::Answer(SubscriptionAnswer { id, streams, error }) => {
            (id, streams.into_iter().map(|name| name.into_owned()).collect::<Vec<_>>(), error)
        }
        other => panic!("{other:?}"),
    };
    let ack = r#"{"method":"subscribe","result":{"channel":"ohlc","interval":5,"symbol":"BTC/USD","snapshot":false,"warnings":["x"]},"success":true,"time_in":"2023-09-25T09:04:31.742599Z","req_id":3}"#;
    assert_eq!(answer(ack), (Some(3), vec!["ohlc-5:BTC/USD".to_owned()], None));
    let refused = r#"{"error":"Currency pair not supported FOO/USD","method":"subscribe","req_id":4,"success":false,"symbol":"FOO/USD"}"#;
    let (id, streams, error) = answer(refused);
    assert_eq!((id, error.as_deref()), (Some(4), Some("Currency pair not supported FOO/USD")));
    assert!(streams.contains(&"trade:FOO/USD".to_owned()) && streams.contains(&"ohlc-1440:FOO/USD".to_owned()));
    let often = r#"{"error":"Exceeded msg rate","method":"subscribe","req_id":5,"success":false}"#;
    assert_eq!(answer(often), (Some(5), vec![], Some("Exceeded msg rate".to_owned())));
    for text in [ack, refused, often] {
        assert_eq!(decode(text), (vec![], Ok(())));
    }
    // What it accepts is not said: it acknowledges nothing.
    let bare = r#"{"method":"subscribe","result":{"channel":"instrument"},"success":true,"req_id":3}"#;
    assert_eq!(Kraken.route(bare.as_bytes()), Route::Other);
}

#[test]
fn a_request_has_one_channel() {
    let streams = [
        stream("BTC/USD", Channel::Trade),
        stream("ETH/USD", Channel::Trade),
        stream("BTC/USD", Channel::Kline(Interval::H4)),
        stream("BTC/USD", Channel::BookTicker),
    ];
    assert_eq!(
        Kraken.subscribe(SubscriptionChange::Subscribe, &streams, 7),
        [
            r#"{"method":"subscribe","params":{"channel":"trade","snapshot":true,"symbol":["BTC/USD","ETH/USD"]},"req_id":7}"#,
            r#"{"method":"subscribe","params":{"channel":"ohlc","interval":240,"snapshot":false,"symbol":["BTC/USD"]},"req_id":8}"#,
            r#"{"method":"subscribe","params":{"channel":"ticker","event_trigger":"bbo","snapshot":true,"symbol":["BTC/USD"]},"req_id":9}"#,
        ]
    );
    assert_eq!(
        Kraken.subscribe(SubscriptionChange::Unsubscribe, &streams[..1], 7),
        [r#"{"method":"unsubscribe","params":{"channel":"trade","symbol":["BTC/USD"]},"req_id":7}"#]
    );
}

#[test]
fn a_symbol_has_the_name_that_the_socket_knows() {
    let respelled = |text: &str| Err(SpellingError::Respell(text.to_owned()));
    assert!(Kraken.symbol("BTC/USD").is_ok() && Kraken.symbol("TBTC/EUR").is_ok());
    assert_eq!(Kraken.symbol("XBT/USD"), respelled("BTC/USD"));
    assert_eq!(Kraken.symbol("btc-usd"), respelled("BTC/USD"));
    assert_eq!(names::to_rest("BTC/USD"), "XBTUSD");
    assert_eq!(names::to_rest("DOGE/BTC"), "XDGXBT");
    assert_eq!(names::from_rest("XDG/XBT").as_deref(), Some("DOGE/BTC"));
}

#[test]
fn requests_are_as_documented() {
    let range = Range { first: 1_696_436_700_000_000, last: 1_696_436_760_000_000 };
    let symbol = "BTC/USD";
    let after = |after| path(&Request::Trades { series: symbol.into(), range, after });
    assert_eq!(after(Some(PageStart::At(FIRST))), "/0/public/Trades?pair=XBTUSD&since=1696613755440294000&count=1000");
    assert_eq!(after(None), "/0/public/Trades?pair=XBTUSD&since=0&count=1000");
    assert_eq!(after(Some(PageStart::At(Timestamp(-5)))), "/0/public/Trades?pair=XBTUSD&since=0&count=1000");
    let end = "1762820035982277754";
    let with_all_of_it = after(Some(PageStart::With(end)));
    assert_eq!(with_all_of_it, "/0/public/Trades?pair=XBTUSD&since=1762820035982277753&count=1000");
    assert_eq!(after(Some(PageStart::Behind(end))), format!("/0/public/Trades?pair=XBTUSD&since={end}&count=1000"));
    assert_eq!(
        path(&Request::TradeAt { series: symbol.into(), at: FIRST }),
        "/0/public/Trades?pair=XBTUSD&since=1696613755440294999&count=1000"
    );
    assert_eq!(path(&Request::Newest { series: symbol.into() }), "/0/public/Trades?pair=XBTUSD");
    let klines = Request::Klines { symbol, interval: Interval::M1, range };
    assert_eq!(path(&klines), "/0/public/OHLC?pair=XBTUSD&interval=1&since=1696436699");
}

#[test]
fn trades_over_rest_are_exact() {
    let body = r#"{"error":[],"result":{"XXBTZUSD":[["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952],["30243.30000","0.00376960",1688669598.9999999,"s","l","",61044953]],"last":"1688671969993150842"}}"#;
    let range = Range { first: 61_044_952, last: 61_044_953 };
    let request = Request::Trades { series: "BTC/USD".into(), range, after: None };
    let Ok(Answer::Trades(page)) = answer(&request, body) else { panic!("no page") };
    let seen: Vec<_> = page.rows.iter().map(|trade| (trade.id, trade.ts.micros(), trade.side)).collect();
    assert_eq!(seen, [(61_044_952, 1_688_669_597_827_736, Side::Buy), (61_044_953, 1_688_669_598_999_999, Side::Sell)]);
    assert_eq!(page.rows[1].quantity.to_string(), "0.00376960");
    let newest = Some((61_044_953, Timestamp(1_688_669_598_999_999)));
    assert_eq!(answer(&Request::Newest { series: "BTC/USD".into() }, body), Ok(Answer::Newest(newest)));
    let at = |at| answer(&Request::TradeAt { series: "BTC/USD".into(), at: Timestamp(at) }, body);
    assert_eq!(at(1_688_669_597_827_737), Ok(Answer::TradeAt(Some(61_044_953))));
    assert_eq!(at(1_688_669_599_000_000), Ok(Answer::TradeAt(None)));
    let bad = body.replace("0.34507674", "x");
    let Ok(Answer::Trades(page)) = answer(&request, &bad) else { panic!("no page") };
    assert_eq!((page.rows.len(), page.refused[0].position), (1, Some(61_044_952)));
    for no_page in
        [r#"{"error":[]}"#, r#"{"error":[],"result":{"last":"0"}}"#, r#"{"error":[],"result":{"A":[],"B":[]}}"#, "[]"]
    {
        assert!(answer(&request, no_page).is_err(), "{no_page}");
    }
    let empty = r#"{"error":[],"result":{"XXBTZUSD":[],"last":"0"}}"#;
    assert_eq!(answer(&Request::Newest { series: "BTC/USD".into() }, empty), Ok(Answer::Newest(None)));
}

#[test]
fn klines_over_rest_are_closed_up_to_last() {
    let body = r#"{"error":[],"result":{"XXBTZUSD":[[1688671200,"30306.1","30306.2","30305.7","30305.7","30306.1","3.39243896",23],[1688671260,"30304.5","30304.5","30300.0","30300.0","30300.0","0.00000000",0],[1688671320,"1","1","1","1","1","1",1],["x"],[1688671440,"?"]],"last":1688671260}}"#;
    let range = Range { first: 1_688_671_200_000_000, last: 1_688_671_320_000_000 };
    let request = Request::Klines { symbol: "BTC/USD", interval: Interval::M1, range };
    let Ok(Answer::Klines(page)) = answer(&request, body) else { panic!("no page") };
    assert_eq!(page.rows.iter().map(|kline| kline.closed).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(page.rows[0].quote_volume.to_string(), "102811.594365656");
    assert!(page.rows[1].volume.is_zero() && page.rows[1].quote_volume.is_zero());
    let refused: Vec<_> = page.refused.iter().map(|row| row.position).collect();
    assert_eq!(refused, [Some(1_688_671_380_000_000), Some(1_688_671_440_000_000)]);
    // The exchange's clock says that the second one is not over.
    let now = Timestamp(1_688_671_319_000_000);
    let early = Kraken.answer(&request, &RestAnswer { body: body.as_bytes(), now, latest: Timestamp(i64::MAX) });
    let Ok(Answer::Klines(page)) = early else { panic!("no page") };
    assert_eq!(page.rows.iter().map(|kline| kline.closed).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn the_clock_and_the_listing_are_read() {
    let time = r#"{"error":[],"result":{"unixtime":1762820224,"rfc1123":"Tue, 11 Nov 25 00:17:04 +0000"}}"#;
    assert_eq!(answer(&Request::Time, time), Ok(Answer::Time(Timestamp(1_762_820_224_000_000))));
    let pairs = r#"{"error":[],"result":{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT\/USD","status":"online"},"XDGUSD":{"wsname":"XDG/USD","status":"cancel_only"},"DARK.d":{"altname":"DARK.d"},"ETHUSD":{"wsname":"ETH/USD"},"OLD":{"wsname":"OLD/USD","status":"delisted"}}}"#;
    let Ok(Answer::Listing(info)) = answer(&Request::Listing { symbols: &[] }, pairs) else { panic!("no listing") };
    let expected = [
        ("BTC/USD", ListingEntry::Trading),
        ("DOGE/USD", ListingEntry::Paused("cancel_only".to_owned())),
        ("ETH/USD", ListingEntry::Trading),
        ("OLD/USD", ListingEntry::Unlisted),
    ];
    assert_eq!(info.symbols, expected.map(|(symbol, entry)| (symbol.to_owned(), entry)));
    assert!(info.unreadable.is_empty());
}

#[test]
fn an_error_comes_with_http_200() {
    let judge = |error: &str| {
        let body = format!(r#"{{"error":["WGeneral:Slow","{error}"]}}"#);
        let reply = RestReply { status: 200, header: &|_| None, body: body.as_bytes() };
        Kraken.judge(&reply).map(|error| error.kind)
    };
    assert_eq!(judge("EAPI:Rate limit exceeded"), Some(AnswerErrorKind::Limited));
    assert_eq!(judge("EService: Throttled: 1688671969"), Some(AnswerErrorKind::Limited));
    assert_eq!(judge("EQuery:Unknown asset pair"), Some(AnswerErrorKind::UnknownSymbol));
    assert_eq!(judge("EService:Unavailable"), Some(AnswerErrorKind::Unavailable));
    assert_eq!(judge("EGeneral:Invalid arguments"), Some(AnswerErrorKind::Other));
    assert_eq!(judge("WGeneral:Old"), None);
    let data = RestReply { status: 200, header: &|_| None, body: br#"{"error":[],"result":{}}"# };
    assert_eq!(Kraken.judge(&data), None);
}

#[test]
fn what_the_peer_sends_is_read() {
    let (peer, rows) = (Kraken.peer().unwrap(), trades(TRADES));
    let frame = peer.frame("BTC/USD", PeerEvent::Trades(&rows), FIRST).unwrap();
    assert_eq!(trades(&frame), rows);
    let snapshot = peer.snapshot("BTC/USD", Channel::Trade, &rows, FIRST).unwrap();
    assert_eq!((trades(&snapshot), decode(&snapshot).0[0].1), (rows, None));
    let pong = peer.receive(r#"{"method":"ping","req_id":0}"#, &|_| true, FIRST);
    assert_eq!(Kraken.route(pong.messages[0].as_bytes()), Route::Heartbeat);
}

/// The old protocol, for robustness: nothing panics, and nothing is an event.
#[test]
fn no_message_of_the_old_protocol_is_a_row() {
    for name in ["kraken/KRAKEN.ws.48.0", "kraken/KRAKEN.ws.49.0", "kraken/KRAKEN.ws.50.0"] {
        let Some(bytes) = captures::read(name) else { return };
        let mut messages = 0;
        for line in String::from_utf8_lossy(&bytes).lines() {
            let Some((_, text)) = line.split_once(": ") else { continue };
            messages += 1;
            assert_eq!(decode(text).0, vec![], "{text}");
            assert!(matches!(Kraken.route(text.as_bytes()), Route::Other), "{text}");
        }
        assert!(messages > 40, "{name}");
    }
}

#[test]
fn recorded_and_documented_messages_decode() {
    for (name, events) in [
        ("ws_trade_update", 2),
        ("ws_ohlc_update", 1),
        ("ws_book_snapshot", 0),
        ("ws_book_update", 0),
        ("ws_pong", 0),
        ("ws_subscribe_response", 0),
    ] {
        let Some(bytes) = captures::read(&format!("kraken/nautilus/{name}.json")) else { return };
        let (found, decoded) = decode(&String::from_utf8(bytes).unwrap());
        assert_eq!((found.len(), decoded), (events, Ok(())), "{name}");
    }
    let Some(bytes) = captures::read("kraken/kraken_book.jsonl") else { return };
    for line in String::from_utf8(bytes).unwrap().lines() {
        assert_eq!(decode(line), (vec![], Ok(())), "{line}");
    }
}

/// The first JSON document of a file: a recorder may have put its time before it, and other documents behind.
fn document(text: &str) -> &str {
    let document = &text[text.find('{').unwrap()..];
    if text.starts_with('{') { document } else { document.lines().next().unwrap() }
}

#[test]
fn recorded_listings_and_times_are_read() {
    for name in ["kraken/KRAKEN.0", "kraken/nautilus/http_asset_pairs.json"] {
        let Some(bytes) = captures::read(name) else { return };
        let text = String::from_utf8(bytes).unwrap();
        let Ok(Answer::Listing(info)) = answer(&Request::Listing { symbols: &[] }, document(&text)) else {
            panic!("{name}")
        };
        assert!(!info.symbols.is_empty() && info.unreadable.is_empty(), "{name}: {:?}", info.unreadable);
        for (symbol, _) in &info.symbols {
            assert!(Kraken.symbol(symbol).is_ok(), "{symbol}");
        }
    }
    let Some(bytes) = captures::read("kraken/nautilus/http_server_time.json") else { return };
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(answer(&Request::Time, &text), Ok(Answer::Time(Timestamp(1_762_820_224_000_000))));
}
