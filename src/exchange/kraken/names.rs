//! Kraken's names of streams and pairs, and the requests that subscribe.

use std::collections::BTreeMap;

use serde_json::json;

use crate::exchange::SubscriptionChange;
use crate::exchange::spec::SocketLimits;
use crate::market::{Channel, Interval, Stream};

/// Assets that REST (and the old protocol) name otherwise than the socket's v2: there, here.
const RENAMED: [(&str, &str); 2] = [("XBT", "BTC"), ("XDG", "DOGE")];

/// 6.5: "intervals 1 5 15 30 60 240 1440 10080 21600": minutes.
pub(super) const fn minutes(interval: Interval) -> i64 {
    interval.micros() / 60_000_000
}

/// The interval of this many minutes; `None` for one that we do not record.
pub(super) fn interval(text: &str) -> Option<Interval> {
    let wanted: i64 = text.parse().ok()?;
    Interval::ALL.into_iter().find(|interval| minutes(*interval) == wanted)
}

/// `trade:BTC/USD`, `ohlc-1:BTC/USD`: a channel of klines has its interval in its name.
pub(super) fn of_stream(stream: &Stream) -> String {
    name(stream.channel, stream.symbol.as_str())
}

/// The name of a channel of a symbol.
pub(super) fn name(channel: Channel, symbol: &str) -> String {
    match channel {
        Channel::Trade => format!("trade:{symbol}"),
        Channel::Kline(interval) => format!("ohlc-{}:{symbol}", minutes(interval)),
        Channel::BookTicker => format!("ticker:{symbol}"),
        // The venue has no such channel: the name is only shown.
        Channel::AggTrade => format!("agg_trade:{symbol}"),
    }
}

/// The channel by its name in messages.
pub(super) fn channel_of(name: &str, minutes: Option<&str>) -> Option<Channel> {
    match name {
        "trade" => Some(Channel::Trade),
        "ticker" => Some(Channel::BookTicker),
        "ohlc" => interval(minutes?).map(Channel::Kline),
        _ => None,
    }
}

/// The channel of a stream's name.
pub(super) fn channel(name: &str) -> Option<Channel> {
    let (channel, _) = name.split_once(':')?;
    match channel.split_once('-') {
        Some((channel, minutes)) => channel_of(channel, Some(minutes)),
        None => channel_of(channel, None),
    }
}

/// 6.3: "`{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD"],"snapshot":true},"req_id":1}`": a request
/// has one channel, of any number of symbols.
pub(super) fn requests(
    change: SubscriptionChange,
    streams: &[Stream],
    first_id: u64,
    limits: &SocketLimits,
) -> Vec<String> {
    let mut groups: BTreeMap<Channel, Vec<&str>> = BTreeMap::new();
    for stream in streams {
        groups.entry(stream.channel).or_default().push(stream.symbol.as_str());
    }
    let mut requests = Vec::new();
    let next_id = |requests: &Vec<String>| first_id + requests.len() as u64;
    for (channel, symbols) in groups {
        let mut part: Vec<&str> = Vec::new();
        for symbol in symbols {
            part.push(symbol);
            let is_full = part.len() > limits.streams_per_request
                || request(change, channel, &part, u64::MAX).len() > limits.request_bytes_max;
            if part.len() > 1 && is_full {
                part.pop();
                requests.push(request(change, channel, &part, next_id(&requests)));
                part = vec![symbol];
            }
        }
        requests.push(request(change, channel, &part, next_id(&requests)));
    }
    requests
}

fn request(change: SubscriptionChange, channel: Channel, symbols: &[&str], id: u64) -> String {
    let mut params = match channel {
        Channel::Trade | Channel::AggTrade => json!({ "channel": "trade" }),
        Channel::Kline(interval) => json!({ "channel": "ohlc", "interval": minutes(interval) }),
        // The ticker's page: "bbo: on a change in the best-bid-offer price levels. trades: on every trade".
        Channel::BookTicker => json!({ "channel": "ticker", "event_trigger": "bbo" }),
    };
    params["symbol"] = json!(symbols);
    let method = match change {
        SubscriptionChange::Unsubscribe => "unsubscribe",
        SubscriptionChange::Subscribe => {
            // 6.4: "Always send it; true = the last 50 trades, a free overlap". Old klines come from REST, with a count
            // that is final.
            params["snapshot"] = json!(!matches!(channel, Channel::Kline(_)));
            "subscribe"
        }
    };
    json!({ "method": method, "params": params, "req_id": id }).to_string()
}

/// The symbol of a pair as REST spells it with a slash (`XBT/USD`); `None` when it is not two parts.
pub(super) fn from_rest(pair: &str) -> Option<String> {
    let (base, quote) = pair.split_once('/')?;
    let here = |asset: &str| {
        RENAMED.iter().find(|(there, _)| *there == asset).map_or(asset.to_owned(), |(_, here)| (*here).to_owned())
    };
    Some(format!("{}/{}", here(base), here(quote)))
}

/// 6.7: "pair=XBTUSD": the name of the pair in requests over REST.
pub(super) fn to_rest(symbol: &str) -> String {
    let there = |asset: &str| {
        RENAMED.iter().find(|(_, here)| *here == asset).map_or(asset.to_owned(), |(there, _)| (*there).to_owned())
    };
    symbol.split('/').map(there).collect()
}
