//! Renders Binance's JSON by EXCHANGES.md 3.1. It shares no code with the decoder, so each checks the other. Pure.

use std::fmt::Write as _;

use super::candle::{Candle, quote_quantity};
use super::generator::{Event, EventKind};
use crate::market::{Channel, Side, Timestamp, Trade};

/// The name of a stream in requests: `btcusdt@trade`.
pub fn stream_name(symbol: &str, channel: Channel) -> String {
    let symbol = symbol.to_lowercase();
    match channel {
        Channel::Trade => format!("{symbol}@trade"),
        Channel::Kline(interval) => format!("{symbol}@kline_{interval}"),
        Channel::BookTicker => format!("{symbol}@bookTicker"),
    }
}

/// The combined frame of an event, and the index of the raw `data` in it.
pub fn combined(stream: &str, symbol: &str, event: &Event) -> (String, usize) {
    let mut text = String::with_capacity(384);
    let mut put = |arguments: std::fmt::Arguments<'_>| text.write_fmt(arguments).expect("a string takes everything");
    put(format_args!(r#"{{"stream":"{stream}","data":"#));
    let at = event.at.millis();
    match &event.kind {
        EventKind::Trade(trade) => put(format_args!(
            r#"{{"e":"trade","E":{at},"s":"{symbol}","t":{},"p":"{}","q":"{}","T":{},"m":{},"M":true}}}}"#,
            trade.id,
            trade.price,
            trade.quantity,
            trade.ts.millis(),
            trade.side == Side::Sell
        )),
        EventKind::Kline(candle) => {
            let kline = &candle.kline;
            put(format_args!(
                r#"{{"e":"kline","E":{at},"s":"{symbol}","k":{{"t":{},"T":{},"s":"{symbol}","i":"{}","f":{},"L":{},"#,
                kline.open_time.millis(),
                kline.close_time.millis(),
                kline.interval,
                kline.first_trade_id,
                kline.last_trade_id
            ));
            put(format_args!(
                r#""o":"{}","c":"{}","h":"{}","l":"{}","v":"{}","n":{},"x":{},"q":"{}","V":"{}","Q":"{}","B":"0"}}}}}}"#,
                kline.open,
                kline.close,
                kline.high,
                kline.low,
                kline.volume,
                kline.trade_count,
                kline.closed,
                kline.quote_volume,
                candle.taker_base,
                candle.taker_quote
            ));
        }
        EventKind::Book(book) => put(format_args!(
            r#"{{"u":{},"s":"{symbol}","b":"{}","B":"{}","a":"{}","A":"{}"}}}}"#,
            book.update_id, book.bid, book.bid_quantity, book.ask, book.ask_quantity
        )),
    }
    (text, data_start(stream))
}

/// The index of `data` in a combined frame of this stream.
pub fn data_start(stream: &str) -> usize {
    r#"{"stream":"","data":"#.len() + stream.len()
}

/// A row of historicalTrades or trades.
pub fn trade_row(trade: &Trade) -> String {
    format!(
        r#"{{"id":{},"price":"{}","qty":"{}","quoteQty":"{}","time":{},"isBuyerMaker":{},"isBestMatch":true}}"#,
        trade.id,
        trade.price,
        trade.quantity,
        quote_quantity(trade),
        trade.ts.millis(),
        trade.side == Side::Sell
    )
}

/// A row of aggTrades that sums up `trades`; `None` without a trade.
pub fn agg_row(id: i64, trades: &[Trade]) -> Option<String> {
    let (first, last) = (trades.first()?, trades.last()?);
    let quantity: rust_decimal::Decimal = trades.iter().map(|trade| trade.quantity).sum();
    Some(format!(
        r#"{{"a":{id},"p":"{}","q":"{quantity}","f":{},"l":{},"T":{},"m":{},"M":true}}"#,
        first.price,
        first.id,
        last.id,
        first.ts.millis(),
        first.side == Side::Sell
    ))
}

/// A row of klines: twelve values, the last is unused.
pub fn kline_row(candle: &Candle) -> String {
    let kline = &candle.kline;
    format!(
        r#"[{},"{}","{}","{}","{}","{}",{},"{}",{},"{}","{}","0"]"#,
        kline.open_time.millis(),
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.close_time.millis(),
        kline.quote_volume,
        kline.trade_count,
        candle.taker_base,
        candle.taker_quote
    )
}

/// The announcement that connections will be closed, raw or combined.
pub fn server_shutdown(at: Timestamp, combined: bool) -> String {
    let raw = format!(r#"{{"e":"serverShutdown","E":{}}}"#, at.millis());
    if combined { format!(r#"{{"stream":"!serverShutdown","data":{raw}}}"#) } else { raw }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    #[test]
    fn a_trade_frame_has_the_layout_of_binance() {
        let trade = Trade {
            id: 12,
            ts: Timestamp::from_millis(1_700_000_000_000),
            price: Decimal::new(268_380_000_000, 8),
            quantity: Decimal::new(1_000, 8),
            side: Side::Sell,
        };
        let event = Event { at: Timestamp::from_millis(1_700_000_000_001), listing: 0, kind: EventKind::Trade(trade) };
        let (text, start) = combined("ethusdt@trade", "ETHUSDT", &event);
        let raw = r#"{"e":"trade","E":1700000000001,"s":"ETHUSDT","t":12,"p":"2683.80000000","q":"0.00001000","T":1700000000000,"m":true,"M":true}"#;
        assert_eq!(text, format!(r#"{{"stream":"ethusdt@trade","data":{raw}}}"#));
        assert_eq!(&text[start..text.len() - 1], raw);
    }

    #[test]
    fn every_frame_is_json() {
        let listing = "BTCUSDT".parse().unwrap();
        let start = Timestamp(1_700_000_000_000_000);
        let events =
            super::super::generator::Market::new(1, &[listing], 20.0, start).advance(start.plus_micros(70_000_000));
        for event in &events {
            let stream = stream_name("BTCUSDT", Channel::Trade);
            let (text, at) = combined(&stream, "BTCUSDT", event);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let raw: serde_json::Value = serde_json::from_str(&text[at..text.len() - 1]).unwrap();
            assert_eq!(value["data"], raw);
        }
    }
}
