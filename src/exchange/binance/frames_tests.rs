//! Frames from the exchange's documents, from captures, and random ones.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::exchange::Dialect as _;
use crate::exchange::binance::Binance;
use crate::exchange::captures;
use crate::market::{Interval, Side, Timestamp, parse_decimal};

const TRADE_FRAME: &str = r#"{"stream":"ethusdt@trade","data":{"e":"trade","E":1723161255612,"s":"ETHUSDT","t":1520538925,"p":"2683.80000000","q":"0.00200000","T":1723161255611,"m":true,"M":true}}"#;
const KLINE_FRAME: &str = r#"{"stream":"nknusdt@kline_1m","data":{"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,"s":"NKNUSDT","i":"1m","f":19862761,"L":19862790,"o":"0.35270000","c":"0.35280000","h":"0.35290000","l":"0.35220000","v":"25877.00000000","n":30,"x":false,"q":"9116.04600000","V":"58.00000000","Q":"20.46240000","B":"0"}}}"#;
const BOOK_FRAME: &str = r#"{"stream":"xemusdt@bookTicker","data":{"u":542937457,"s":"XEMUSDT","b":"0.04100000","B":"485240.00000000","a":"0.04110000","A":"44994.00000000"}}"#;

fn data(frame: &str) -> &str {
    frame.split_once(r#""data":"#).unwrap().1.strip_suffix('}').unwrap()
}

fn expected_trade() -> Trade {
    Trade {
        id: 1_520_538_925,
        ts: Timestamp(1_723_161_255_611_000),
        price: parse_decimal("2683.8").unwrap(),
        quantity: parse_decimal("0.002").unwrap(),
        side: Side::Sell,
        trade_ids: None,
    }
}

fn check_trade(frame: &str) {
    let expected = MarketEvent {
        symbol: "ETHUSDT".into(),
        event_time: Some(Timestamp(1_723_161_255_612_000)),
        event: Event::Trade(expected_trade()),
    };
    assert_eq!(decode(frame.as_bytes()), Ok(Some(expected)), "{frame}");
}

fn check_error(frame: &str, part: &str) {
    let error = decode(frame.as_bytes()).expect_err(frame);
    assert!(error.to_string().contains(part), "{error} does not say {part:?}");
}

#[test]
fn a_trade_decodes_the_same_in_every_wrapping() {
    check_trade(TRADE_FRAME);
    check_trade(&format!(" {TRADE_FRAME}\n"));
    check_trade(data(TRADE_FRAME));
    check_trade(&format!(r#"{{"data":{},"stream":"ethusdt@trade"}}"#, data(TRADE_FRAME)));
    check_trade(&format!(r#"{{"stream":"ethusdt@trade","data":{},"more":[1]}}"#, data(TRADE_FRAME)));
    check_trade(&TRADE_FRAME.replace(r#""t":"#, r#""b":88,"a":50,"new":{"x":[null]},"t":"#));
}

#[test]
fn a_symbol_of_another_script_decodes_also_when_it_is_escaped() {
    let plain = TRADE_FRAME.replace("ethusdt", "币安人生usdt").replace("ETHUSDT", "币安人生USDT");
    let escaped = TRADE_FRAME
        .replace("ethusdt", r"\u5e01\u5b89\u4eba\u751fusdt")
        .replace("ETHUSDT", r"\u5e01\u5b89\u4eba\u751fUSDT");
    let half = TRADE_FRAME.replace("ethusdt", "币安人生usdt").replace("ETHUSDT", r"\u5e01\u5b89\u4eba\u751fUSDT");
    for frame in [plain, escaped, half] {
        let Ok(Some(MarketEvent { symbol, .. })) = decode(frame.as_bytes()) else { panic!("{frame}") };
        assert_eq!(symbol, "币安人生USDT");
        assert_eq!(route(frame.as_bytes()), Route::Stream("币安人生usdt@trade".into()), "{frame}");
    }
    check_error(&TRADE_FRAME.replace("ETHUSDT", "币安人生USDT"), "its stream says");
}

#[test]
fn a_reason_is_short_however_long_the_frame_is() {
    let frame = TRADE_FRAME.replace(r#""e":"trade""#, &format!(r#""e":"{}""#, "币".repeat(1 << 20)));
    let error = Binance.decode(frame.as_bytes(), &mut |_| {}).unwrap_err();
    assert!(error.why.len() < 1_000 && error.why.contains("its stream says"), "{} bytes", error.why.len());
}

#[test]
fn a_negative_trade_id_is_an_error() {
    check_error(&TRADE_FRAME.replace(r#""t":1520538925"#, r#""t":-5"#), "t -5 is not a trade's id");
}

#[test]
fn the_taker_buys_when_the_buyer_is_not_the_maker() {
    let frame = TRADE_FRAME.replace(r#""m":true"#, r#""m":false"#);
    let Ok(Some(MarketEvent { event: Event::Trade(trade), .. })) = decode(frame.as_bytes()) else { panic!("a trade") };
    assert_eq!(trade.side, Side::Buy);
}

#[test]
fn every_field_of_a_kline_is_decoded() {
    for frame in [KLINE_FRAME, data(KLINE_FRAME)] {
        let Ok(Some(MarketEvent { symbol, event_time, event: Event::Kline(kline) })) = decode(frame.as_bytes()) else {
            panic!("a kline")
        };
        assert_eq!((&*symbol, event_time), ("NKNUSDT", Some(Timestamp::from_millis(1_633_998_523_963))));
        let text = |value: Decimal| crate::market::plain(value);
        assert_eq!(
            [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume].map(text),
            ["0.3527", "0.3529", "0.3522", "0.3528", "25877", "9116.046"]
        );
        assert_eq!((kline.interval, kline.closed), (Interval::M1, false));
        assert_eq!((kline.trade_count, kline.first_trade_id, kline.last_trade_id), (30, 19_862_761, 19_862_790));
        assert_eq!(kline.open_time, Timestamp::from_millis(1_633_998_480_000));
        assert_eq!(kline.close_time, Timestamp::from_millis(1_633_998_539_999));
    }
}

#[test]
fn a_book_ticker_has_no_event_time() {
    for frame in [BOOK_FRAME, data(BOOK_FRAME)] {
        let Ok(Some(MarketEvent { symbol, event_time: None, event: Event::Book(book) })) = decode(frame.as_bytes())
        else {
            panic!("a book")
        };
        assert_eq!(symbol, "XEMUSDT");
        assert_eq!(book.update_id, 542_937_457);
        assert_eq!((book.bid, book.ask), (parse_decimal("0.041").unwrap(), parse_decimal("0.0411").unwrap()));
        assert_eq!(book.bid_quantity, parse_decimal("485240").unwrap());
        assert_eq!(book.ask_quantity, parse_decimal("44994").unwrap());
    }
}

#[test]
fn frames_without_market_data_of_our_channels_are_ignored() {
    for frame in [
        r#"{"result":null,"id":1}"#,
        r#"{"id":"a","result":["btcusdt@trade"]}"#,
        r#"{"code":2,"msg":"Invalid request","id":1}"#,
        r#"{"error":{"code":2,"msg":"Invalid request"},"id":null}"#,
        r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}"#,
        r#"{"e":"serverShutdown","E":1}"#,
        r#"{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate"}}"#,
        r#"{"stream":"btcusdt@kline_3m","data":{"e":"kline","k":{}}}"#,
        r#"{"stream":"btcusdt@kline_1d@+08:00","data":{"e":"kline","k":{}}}"#,
        r#"{"stream":"!ticker@arr","data":[]}"#,
        r#"{"e":"24hrTicker","s":"BTCUSDT"}"#,
    ] {
        assert_eq!(decode(frame.as_bytes()), Ok(None), "{frame}");
    }
}

#[test]
fn an_error_names_what_is_wrong() {
    check_error("", "EOF");
    check_error("[]", "cannot decode frame");
    check_error("{}", "neither");
    check_error(r#"{"stream":"a@trade"}"#, "only one");
    check_error(&TRADE_FRAME.replace(r#""p":"2683.80000000","#, ""), "missing field `p`");
    check_error(&TRADE_FRAME.replace("2683.80000000", "abc"), r#"p "abc" is not an exact decimal"#);
    check_error(&TRADE_FRAME.replace(r#""2683.80000000""#, "2683.8"), "invalid type");
    check_error(&TRADE_FRAME.replace("1723161255611", "9223372036854775807"), "not a time");
    check_error(&TRADE_FRAME.replace(r#""t":1520538925"#, r#""t":"1520538925""#), "invalid type");
    check_error(&TRADE_FRAME.replace("ETHUSDT", "BTCUSDT"), "its stream says");
    check_error(&TRADE_FRAME.replace(r#""e":"trade""#, r#""e":"aggTrade""#), "its stream says");
    check_error(&KLINE_FRAME.replace(r#""i":"1m""#, r#""i":"5m""#), "its stream says 1m");
    check_error(&TRADE_FRAME[..TRADE_FRAME.len() - 1], "EOF");
    check_error(r#"{"stream":"btcusdt@depth","data":{"e":}"#, "cannot decode");
    assert!(decode(b"{\"stream\":\"a@trade\",\"data\":{\"e\":\"\xff\"}}").is_err());
}

#[test]
fn routing_distinguishes_streams_answers_and_the_shutdown() {
    let answer = |id, error: Option<&str>| {
        Route::Answer(SubscriptionAnswer { id, streams: Vec::new(), error: error.map(str::to_owned) })
    };
    let stream = |name: &'static str| Route::Stream(Cow::Borrowed(name));
    let check = |payload: &'static str, expected| assert_eq!(route(payload.as_bytes()), expected, "{payload}");
    check(TRADE_FRAME, stream("ethusdt@trade"));
    check(r#"{"data":{},"stream":"ethusdt@trade"}"#, stream("ethusdt@trade"));
    check(r#"{"result":null,"id":7}"#, answer(Some(7), None));
    check(r#"{"code":-1121,"msg":"Invalid symbol.","id":7}"#, answer(Some(7), Some("-1121: Invalid symbol.")));
    check(r#"{"error":{"code":2,"msg":"x"},"id":"8"}"#, answer(Some(8), Some(r#"{"code":2,"msg":"x"}"#)));
    check(r#"{"code":2,"msg":"x","id":null}"#, answer(None, Some("2: x")));
    check(r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}"#, Route::Shutdown);
    check(r#"{"e":"serverShutdown","E":1}"#, Route::Shutdown);
    check(data(TRADE_FRAME), stream("ethusdt@trade"));
    check(data(KLINE_FRAME), stream("nknusdt@kline_1m"));
    check(data(BOOK_FRAME), stream("xemusdt@bookTicker"));
    check(r#"{"e":"aggTrade","s":"BTCUSDT"}"#, stream("btcusdt@aggTrade"));
    check(r#"{"e":"kline","s":"BTCUSDT"}"#, Route::Other);
    check(r#"{"stream":"\u5e01usdt@trade","data":{}}"#, stream("币usdt@trade"));
    check("garbage", Route::Other);
    check(r#"{"stream":""#, Route::Other);
}

/// JSON of each line of a capture: `time {...}` or `time: {...}`.
fn frames(name: &str) -> Vec<String> {
    let Some(bytes) = captures::read(name) else { return Vec::new() };
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| Some(line.get(line.find('{')?..)?.to_owned())).collect()
}

#[test]
fn every_trade_of_the_capture_is_decoded_exactly_and_the_ids_are_contiguous() {
    let mut ids = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let frames = frames("binance/ethusdt_20240808.gz");
    for frame in &frames {
        let Route::Stream(name) = route(frame.as_bytes()) else { continue };
        *counts.entry(name.clone().into_owned()).or_default() += 1;
        match decode(frame.as_bytes()).unwrap() {
            Some(MarketEvent { symbol, event_time, event }) => {
                assert_eq!(symbol, "ETHUSDT");
                let sent: serde_json::Value = serde_json::from_str(frame).unwrap();
                let sent = &sent["data"];
                match event {
                    Event::Trade(trade) => {
                        ids.push(trade.id);
                        assert_eq!(trade.price.to_string(), sent["p"].as_str().unwrap());
                        assert_eq!(trade.quantity.to_string(), sent["q"].as_str().unwrap());
                        assert_eq!(trade.ts.millis(), sent["T"].as_i64().unwrap());
                        assert!(event_time.unwrap() >= trade.ts);
                    }
                    Event::Book(book) => assert_eq!(book.bid.to_string(), sent["b"].as_str().unwrap()),
                    Event::Kline(_) => panic!("the capture has no klines"),
                }
            }
            None => assert!(name.contains("@depth"), "{frame}"),
        }
    }
    if frames.is_empty() {
        return;
    }
    assert_eq!(ids.len(), 6_106);
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(counts.get("ethusdt@bookTicker"), Some(&24_077));
}

#[test]
fn every_frame_of_the_other_captures_is_decoded() {
    let mut closed_without_trades = 0;
    let mut klines = 0;
    let mut books = 0;
    let mut any = false;
    let mut aggregates: BTreeMap<(&str, String), (i64, i64)> = BTreeMap::new();
    for name in ["binance/BINANCE.ws.1.0", "binance/BINANCE_TR.ws.1.0", "binance/BINANCE_US.ws.1.0"] {
        for frame in frames(name) {
            any = true;
            let Route::Stream(stream) = route(frame.as_bytes()) else { panic!("{frame}") };
            match decode(frame.as_bytes()).unwrap() {
                Some(MarketEvent { event: Event::Kline(kline), .. }) => {
                    klines += 1;
                    if kline.trade_count == 0 {
                        assert_eq!((kline.first_trade_id, kline.last_trade_id), (-1, -1));
                        assert_eq!((kline.open, kline.high), (kline.close, kline.low));
                        closed_without_trades += usize::from(kline.closed);
                    } else {
                        assert_eq!(kline.trade_count, kline.last_trade_id - kline.first_trade_id + 1);
                    }
                }
                Some(MarketEvent { event: Event::Book(_), .. }) => books += 1,
                Some(MarketEvent { event: Event::Trade(trade), .. }) => {
                    // 1.4: "`f/l` contiguous, `a` contiguous".
                    let (first, last) = trade.trade_ids.expect("these captures have no raw trades");
                    if let Some((id, end)) = aggregates.insert((name, stream.into_owned()), (trade.id, last)) {
                        assert_eq!((trade.id, first), (id + 1, end + 1), "{frame}");
                    }
                }
                None => assert!(stream.contains("@depth"), "{frame}"),
            }
        }
    }
    if any {
        assert!(klines > 0 && books > 0 && closed_without_trades > 0, "{klines} {books} {closed_without_trades}");
        assert!(aggregates.len() > 1, "{aggregates:?}");
    }
}

proptest! {
    #[test]
    fn a_written_trade_decodes_to_the_same_trade(
        id in 0..=i64::MAX, ms in -9_000_000_000_000_000_i64..9_000_000_000_000_000,
        price in any::<i64>(), quantity in any::<i64>(), scale in 0_u32..=18, maker in any::<bool>(),
    ) {
        let (price, quantity) = (Decimal::new(price, scale), Decimal::new(quantity, scale));
        let frame = format!(
            r#"{{"stream":"btcusdt@trade","data":{{"e":"trade","E":{ms},"s":"BTCUSDT","t":{id},"p":"{price}","q":"{quantity}","T":{ms},"m":{maker},"M":true}}}}"#
        );
        let side = if maker { Side::Sell } else { Side::Buy };
        let ts = Timestamp::from_millis(ms);
        let event = Event::Trade(Trade { id, ts, price, quantity, side, trade_ids: None });
        prop_assert_eq!(decode(frame.as_bytes()), Ok(Some(MarketEvent { symbol: "BTCUSDT".into(), event_time: Some(ts), event })));
    }

    #[test]
    fn broken_frames_are_errors_and_never_a_panic(
        which in 0_usize..3, cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = [TRADE_FRAME, KLINE_FRAME, BOOK_FRAME][which].as_bytes().to_vec();
        for (at, byte) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let whole = bytes.len();
        bytes.truncate(cut.index(whole + 1));
        let routed = route(&bytes);
        let decoded = decode(&bytes);
        if flips.is_empty() {
            prop_assert_eq!(decoded.is_ok(), bytes.len() == whole);
        }
        drop((routed, decoded));
    }
}
