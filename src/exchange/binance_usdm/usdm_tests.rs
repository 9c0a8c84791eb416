//! USD-M's dialect against recorded frames and answers, and what no fixture can show.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::exchange::{AnswerErrorKind, ListingEntry, captures};
use crate::gap::Range;
use crate::market::{Timestamp, Trade};

/// No time is later.
const ALWAYS: Timestamp = Timestamp(i64::MAX);

/// The frames of a capture: what follows the receive time of each line.
fn frames(name: &str) -> Vec<String> {
    let Some(bytes) = captures::read(name) else { return Vec::new() };
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| Some(line.get(line.find('{')?..)?.to_owned())).collect()
}

fn decoded(frame: &str) -> Option<MarketEvent<'_>> {
    let mut events = Vec::new();
    BinanceUsdm.decode(frame.as_bytes(), &mut |event| events.push(event)).unwrap_or_else(|error| {
        panic!("{error}: {frame:.300}");
    });
    assert!(events.len() <= 1);
    events.pop()
}

#[test]
fn every_trade_of_the_capture_is_decoded_exactly_and_the_ids_are_contiguous() {
    let (mut ids, mut books) = (Vec::new(), 0);
    let frames = frames("binance_usdm/btcusdt_20240808.gz");
    for frame in &frames {
        // Between the frames is one REST answer.
        let Route::Stream(name) = BinanceUsdm.route(frame.as_bytes()) else { continue };
        match decoded(frame) {
            Some(MarketEvent { symbol, event_time, event: Event::Trade(trade) }) => {
                let sent: Value = serde_json::from_str(frame).unwrap();
                let sent = &sent["data"];
                assert_eq!((&*symbol, trade.trade_ids), ("BTCUSDT", None));
                assert_eq!(trade.price.to_string(), sent["p"].as_str().unwrap());
                assert_eq!(trade.quantity.to_string(), sent["q"].as_str().unwrap());
                assert_eq!(trade.ts.millis(), sent["T"].as_i64().unwrap());
                assert!(event_time.unwrap() >= trade.ts);
                ids.push(trade.id);
            }
            Some(MarketEvent { event_time, event: Event::Book(_), .. }) => {
                assert!(event_time.is_some());
                books += 1;
            }
            Some(other) => panic!("{other:?}"),
            None => assert!(name.contains("@depth"), "{frame}"),
        }
    }
    if frames.is_empty() {
        return;
    }
    assert_eq!((ids.len(), books, ids[0], ids[ids.len() - 1]), (21_313, 66_089, 5_266_583_935, 5_266_605_247));
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn aggregates_of_the_capture_are_contiguous() {
    let mut aggregates: BTreeMap<String, Vec<Trade>> = BTreeMap::new();
    let (mut klines, frames) = (0, frames("binance_usdm/BINANCE_FUTURES.ws.1.0"));
    for frame in &frames {
        match decoded(frame) {
            Some(MarketEvent { symbol, event: Event::Trade(trade), .. }) => {
                aggregates.entry(symbol.into_owned()).or_default().push(trade);
            }
            Some(MarketEvent { event: Event::Kline(kline), .. }) => {
                assert_eq!((kline.first_trade_id, kline.last_trade_id), (-1, -1));
                klines += 1;
            }
            _ => {}
        }
    }
    if frames.is_empty() {
        return;
    }
    let count: usize = aggregates.values().map(Vec::len).sum();
    assert_eq!((aggregates.len(), count, klines), (4, 91, 67));
    for trades in aggregates.values() {
        assert!(trades.iter().all(|trade| trade.channel() == Channel::AggTrade));
        assert!(trades.windows(2).all(|pair| pair[1].id == pair[0].id + 1));
        let ids = |trade: &Trade| trade.trade_ids.unwrap();
        assert!(trades.windows(2).all(|pair| ids(&pair[1]).0 == ids(&pair[0]).1 + 1));
    }
}

/// Recorded answers of a route with their query strings.
fn recordings(route: &str) -> Vec<(String, String)> {
    let Some(bytes) = captures::read("binance_usdm/fapi_rest_recordings.json") else { return Vec::new() };
    let all: Value = serde_json::from_slice(&bytes).unwrap();
    let answers = all["routes"][route].as_array().unwrap();
    answers.iter().map(|one| (one["queryString"].as_str().unwrap().to_owned(), one["data"].to_string())).collect()
}

fn answer(request: Request<'_>, body: &str) -> Answer {
    let answer = RestAnswer { body: body.as_bytes(), now: ALWAYS, latest: ALWAYS };
    BinanceUsdm.answer(&request, &answer).unwrap_or_else(|error| panic!("{error}: {body:.300}"))
}

const RANGE: Range = Range { first: 0, last: 0 };

fn aggregates(symbol: &str) -> Series<'_> {
    Series { symbol, channel: Channel::AggTrade }
}

#[test]
fn recorded_aggregates_are_read() {
    let mut most = 0;
    let recordings = recordings("/fapi/v1/aggTrades");
    for (query, body) in &recordings {
        let rows: Vec<Value> = serde_json::from_str(body).unwrap();
        let series = aggregates("LTCUSDT");
        let Answer::Trades(page) = answer(Request::Trades { series, range: RANGE, after: None }, body) else {
            panic!("{query}")
        };
        assert_eq!((page.rows.len(), page.refused.len()), (rows.len(), 0), "{query}");
        assert!(page.rows.windows(2).all(|pair| pair[1].id == pair[0].id + 1), "{query}");
        for (trade, row) in page.rows.iter().zip(&rows) {
            assert_eq!(Some(trade.price.to_string().as_str()), row["p"].as_str());
            assert_eq!(Some(trade.quantity.to_string().as_str()), row["q"].as_str());
            assert_eq!(trade.trade_ids, Some((row["f"].as_i64().unwrap(), row["l"].as_i64().unwrap())));
        }
        let newest = page.rows.last().map(|trade| (trade.id, trade.ts));
        assert_eq!(answer(Request::Newest { series }, body), Answer::Newest(newest));
        let first = page.rows.first().map(|trade| trade.id);
        assert_eq!(answer(Request::TradeAt { series, at: ALWAYS }, body), Answer::TradeAt(first));
        most = most.max(rows.len());
    }
    assert!(recordings.is_empty() || most == 500, "{most}");
}

#[test]
fn recorded_klines_are_read() {
    for (query, body) in recordings("/fapi/v1/klines") {
        let rows: Vec<Vec<Value>> = serde_json::from_str(&body).unwrap();
        let [open, close] = [0, 6].map(|column| rows[0][column].as_i64().unwrap());
        let length = (close - open + 1) * 1_000;
        // Some are of months.
        let Some(interval) = Interval::ALL.into_iter().find(|interval| interval.micros() == length) else { continue };
        let Answer::Klines(page) = answer(Request::Klines { symbol: "A", interval, range: RANGE }, &body) else {
            panic!("{query}")
        };
        assert_eq!((page.rows.len(), page.refused.len()), (rows.len(), 0), "{query}");
    }
}

#[test]
fn recorded_answers_of_today_are_read() {
    let read = |name: &str| {
        captures::read(&format!("binance_usdm/polyoxide/{name}.json")).map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let Some(body) = read("rest_exchange_info") else { return };
    let Answer::Listing(info) = answer(Request::Listing { symbols: &[] }, &body) else { panic!("{body}") };
    assert_eq!((info.weight_per_minute, info.unreadable.len()), (Some(2_400), 0));
    let state = |name: &str| info.symbols.iter().find(|(symbol, _)| symbol == name).map(|(_, state)| state.clone());
    assert_eq!(state("OMGUSDT"), Some(ListingEntry::Paused("SETTLING".to_owned())));
    for name in ["BTCUSDT", "币安人生USDT", "BTCUSDT_261225"] {
        assert_eq!(state(name), Some(ListingEntry::Trading), "{name}");
        assert_eq!(BinanceUsdm.symbol(name), Ok(Symbol::new(name)));
    }
    let body = read("rest_agg_trades").unwrap();
    let request = Request::Trades { series: aggregates("BTCUSDT"), range: RANGE, after: None };
    let Answer::Trades(page) = answer(request, &body) else { panic!("{body}") };
    assert_eq!(page.rows.iter().map(|trade| trade.id - 3_477_883_836).collect::<Vec<_>>(), [0, 1, 2]);
    let body = read("rest_klines").unwrap();
    let request = Request::Klines { symbol: "BTCUSDT", interval: Interval::M1, range: RANGE };
    let Answer::Klines(page) = answer(request, &body) else { panic!("{body}") };
    assert_eq!(page.rows.iter().map(|kline| kline.trade_count).collect::<Vec<_>>(), [3_885, 2_301]);
    let body = read("rest_time").unwrap();
    assert_eq!(answer(Request::Time, &body), Answer::Time(Timestamp::from_millis(1_791_383_675_683)));
}

#[test]
fn each_channel_has_its_address() {
    let path = |channel| SPEC.sockets[SPEC.channel(channel).unwrap().socket].path;
    assert_eq!(path(Channel::AggTrade), "/market/stream");
    assert_eq!(path(Channel::Kline(Interval::M1)), "/market/stream");
    assert_eq!(path(Channel::Trade), "/public/stream");
    assert_eq!(path(Channel::BookTicker), "/public/stream");
}

#[test]
fn a_request_has_at_most_200_streams() {
    let streams: Vec<Stream> =
        (0..450).map(|n| Stream::new(SPEC.exchange, Symbol::new(&format!("A{n}")), Channel::Trade)).collect();
    let requests = BinanceUsdm.subscribe(SubscriptionChange::Subscribe, &streams, 7);
    let counted: Vec<(u64, usize)> = requests
        .iter()
        .map(|request| serde_json::from_str::<Value>(request).unwrap())
        .map(|request| (request["id"].as_u64().unwrap(), request["params"].as_array().unwrap().len()))
        .collect();
    assert_eq!(counted, [(7, 200), (8, 200), (9, 50)]);
}

#[test]
fn a_page_that_is_too_old_says_so() {
    let body = br#"{"code":-4166,"msg":"Search window is restricted to recent 2 days only."}"#;
    let judged = BinanceUsdm.judge(&RestReply { status: 400, header: &|_| None, body }).unwrap();
    assert_eq!((judged.kind, judged.code.as_str()), (AnswerErrorKind::TooOld, "-4166"));
}
