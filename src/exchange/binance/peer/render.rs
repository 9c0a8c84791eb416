//! Renders Binance's JSON by EXCHANGES.md 1.3 to 1.8; USD-M uses what is the same there. It shares no code with the decoder, so each checks the other.

use std::fmt::Write as _;

use rust_decimal::Decimal;

use crate::exchange::peer::PeerEvent;
use crate::market::{Channel, Kline, Side, Timestamp, Trade};

/// Base and quote volume that takers bought.
pub type Taker = (Decimal, Decimal);

/// The name of a stream in requests: `btcusdt@trade`.
pub(in crate::exchange) fn stream_name(symbol: &str, channel: Channel) -> String {
    let symbol = symbol.to_lowercase();
    match channel {
        Channel::Trade => format!("{symbol}@trade"),
        Channel::AggTrade => format!("{symbol}@aggTrade"),
        Channel::Kline(interval) => format!("{symbol}@kline_{interval}"),
        Channel::BookTicker => format!("{symbol}@bookTicker"),
    }
}

/// The symbol of a stream, as it is listed; `None` for a name that is not in small letters.
pub(super) fn symbol_of(stream: &str) -> Option<String> {
    let (symbol, _) = stream.split_once('@')?;
    let listed = symbol.to_uppercase();
    (listed.to_lowercase() == symbol).then_some(listed)
}

/// The channel of a stream.
pub(super) fn channel_of(stream: &str) -> Option<Channel> {
    let (_, name) = stream.split_once('@')?;
    match name {
        "trade" => Some(Channel::Trade),
        "aggTrade" => Some(Channel::AggTrade),
        "bookTicker" => Some(Channel::BookTicker),
        _ => name.strip_prefix("kline_")?.parse().ok().map(Channel::Kline),
    }
}

/// The combined frame of an event; `taker` is of a kline.
pub(super) fn combined(symbol: &str, event: PeerEvent<'_>, taker: Taker, at: Timestamp) -> Option<String> {
    let mut text = String::with_capacity(384);
    let channel = match event {
        PeerEvent::Trades(_) => Channel::Trade,
        PeerEvent::AggTrade(_) => Channel::AggTrade,
        PeerEvent::Kline(kline) => Channel::Kline(kline.interval),
        PeerEvent::Book(_) => Channel::BookTicker,
    };
    let mut put = |arguments: std::fmt::Arguments<'_>| text.write_fmt(arguments).expect("a string takes everything");
    put(format_args!(r#"{{"stream":"{}","data":"#, stream_name(symbol, channel)));
    let at = at.millis();
    match event {
        PeerEvent::Trades(trades) => {
            // A frame has one trade.
            let [trade] = trades else { return None };
            put(format_args!(
                r#"{{"e":"trade","E":{at},"s":"{symbol}","t":{},"p":"{}","q":"{}","T":{},"m":{},"M":true}}}}"#,
                trade.id,
                trade.price,
                trade.quantity,
                trade.ts.millis(),
                trade.side == Side::Sell
            ));
        }
        // 1.4: "e E s a p q f l T m M".
        PeerEvent::AggTrade(trade) => {
            let (first, last) = trade.trade_ids?;
            put(format_args!(
                r#"{{"e":"aggTrade","E":{at},"s":"{symbol}","a":{},"p":"{}","q":"{}","f":{first},"l":{last},"T":{},"m":{},"M":true}}}}"#,
                trade.id,
                trade.price,
                trade.quantity,
                trade.ts.millis(),
                trade.side == Side::Sell
            ));
        }
        PeerEvent::Kline(kline) => {
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
                taker.0,
                taker.1
            ));
        }
        PeerEvent::Book(book) => put(format_args!(
            r#"{{"u":{},"s":"{symbol}","b":"{}","B":"{}","a":"{}","A":"{}"}}}}"#,
            book.update_id, book.bid, book.bid_quantity, book.ask, book.ask_quantity
        )),
    }
    Some(text)
}

/// What precedes the data of a combined frame.
const DATA: &str = r#","data":"#;

/// The `data` of a combined frame; another text as it is.
pub(super) fn raw(frame: &str) -> &str {
    let data = || frame.get(frame.find(DATA)? + DATA.len()..frame.len().checked_sub(1)?);
    data().unwrap_or(frame)
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

/// A row of aggTrades; `None` for a trade that is no aggregate.
pub fn aggregate_row(trade: &Trade) -> Option<String> {
    let (first, last) = trade.trade_ids?;
    Some(format!(
        r#"{{"a":{},"p":"{}","q":"{}","f":{first},"l":{last},"T":{},"m":{},"M":true}}"#,
        trade.id,
        trade.price,
        trade.quantity,
        trade.ts.millis(),
        trade.side == Side::Sell
    ))
}

/// A row of klines: twelve values, the last is unused.
pub fn kline_row(kline: &Kline, taker: Taker) -> String {
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
        taker.0,
        taker.1
    )
}

/// 1.2: "Warning: raw {"e":"serverShutdown","E":…}, combined {"stream":"!serverShutdown","data":{…}}".
pub(super) fn server_shutdown(at: Timestamp) -> String {
    format!(r#"{{"stream":"!serverShutdown","data":{{"e":"serverShutdown","E":{}}}}}"#, at.millis())
}

/// Price times quantity with eight decimals.
fn quote_quantity(trade: &Trade) -> Decimal {
    let mut quote = trade.price * trade.quantity;
    quote.rescale(8);
    quote
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trade_frame_has_the_layout_of_binance() {
        let trade = Trade {
            id: 12,
            ts: Timestamp::from_millis(1_700_000_000_000),
            price: Decimal::new(268_380_000_000, 8),
            quantity: Decimal::new(1_000, 8),
            side: Side::Sell,
            trade_ids: None,
        };
        let at = Timestamp::from_millis(1_700_000_000_001);
        let text = combined("ETHUSDT", PeerEvent::Trades(&[trade]), Taker::default(), at).unwrap();
        let expected = r#"{"e":"trade","E":1700000000001,"s":"ETHUSDT","t":12,"p":"2683.80000000","q":"0.00001000","T":1700000000000,"m":true,"M":true}"#;
        assert_eq!(text, format!(r#"{{"stream":"ethusdt@trade","data":{expected}}}"#));
        assert_eq!(raw(&text), expected);
        assert_eq!(raw(r#"{"e":"tra"#), r#"{"e":"tra"#);
    }
}
