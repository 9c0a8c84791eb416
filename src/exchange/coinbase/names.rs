//! Coinbase's names of streams, and the requests that subscribe to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::exchange::SubscriptionChange;
use crate::exchange::spec::SocketLimits;
use crate::market::{Channel, Stream};

/// The feed's own name of a channel; `None` for one that it does not have.
const fn channel_name(channel: Channel) -> Option<&'static str> {
    match channel {
        Channel::Trade => Some("matches"),
        Channel::BookTicker => Some("ticker"),
        // 5.5: "The Exchange feed has no candle channel".
        Channel::Kline(_) | Channel::AggTrade => None,
    }
}

/// `matches:BTC-USD`.
pub(super) fn name(channel: &str, product: &str) -> String {
    format!("{channel}:{product}")
}

/// The name of a stream. Klines have no channel; such a name is only shown.
pub(super) fn of_stream(stream: &Stream) -> String {
    name(channel_name(stream.channel).unwrap_or(stream.channel.as_str()), stream.symbol.as_str())
}

/// The channel of a name.
pub(super) fn channel(name: &str) -> Option<Channel> {
    match name.split_once(':')?.0 {
        "matches" => Some(Channel::Trade),
        "ticker" => Some(Channel::BookTicker),
        _ => None,
    }
}

/// 5.3: "`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","heartbeat"]}`": a request names products and
/// channels, and means each channel of each product. So products with the same channels share a request.
pub(super) fn requests(change: SubscriptionChange, streams: &[Stream], limits: &SocketLimits) -> Vec<String> {
    let mut products: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    for stream in streams {
        if let Some(channel) = channel_name(stream.channel) {
            products.entry(stream.symbol.as_str()).or_default().push(channel);
        }
    }
    let mut groups: BTreeMap<Vec<&'static str>, Vec<&str>> = BTreeMap::new();
    for (product, mut channels) in products {
        channels.sort_unstable();
        channels.dedup();
        groups.entry(channels).or_default().push(product);
    }
    let mut requests = Vec::new();
    for (mut channels, products) in groups {
        let products_max = (limits.streams_per_request / channels.len()).max(1);
        // 5.2: "`heartbeat`, 1/s/product": a quiet product must not look like a dead connection. Another
        // channel of the product may need it, so its end is never requested.
        if change == SubscriptionChange::Subscribe {
            channels.push("heartbeat");
        }
        let mut part: Vec<&str> = Vec::new();
        for product in products {
            part.push(product);
            if part.len() > 1
                && (part.len() > products_max || request(change, &channels, &part).len() > limits.request_bytes_max)
            {
                part.pop();
                requests.push(request(change, &channels, &part));
                part = vec![product];
            }
        }
        requests.push(request(change, &channels, &part));
    }
    requests
}

fn request(change: SubscriptionChange, channels: &[&str], products: &[&str]) -> String {
    let verb = match change {
        SubscriptionChange::Subscribe => "subscribe",
        SubscriptionChange::Unsubscribe => "unsubscribe",
    };
    let request: Value = json!({ "type": verb, "product_ids": products, "channels": channels });
    request.to_string()
}
