//! Binance's names of streams, and the requests that subscribe to them.

use std::fmt::Write as _;

use crate::market::{Channel, Stream, small_letters};

/// `btcusdt@trade`: "symbol lowercase".
pub(in crate::exchange) fn name(stream: &Stream) -> String {
    let mut name: String = small_letters(stream.symbol.as_str()).collect();
    let written = match stream.channel {
        Channel::Trade => write!(name, "@trade"),
        Channel::AggTrade => write!(name, "@aggTrade"),
        Channel::Kline(interval) => write!(name, "@kline_{interval}"),
        Channel::BookTicker => write!(name, "@bookTicker"),
    };
    written.expect("writing to a String cannot fail");
    name
}

/// The channel of a name. `kline_1d@+08:00` has other days than ours, and no interval has such a name.
pub(in crate::exchange) fn channel(name: &str) -> Option<Channel> {
    let (_, channel) = name.split_once('@')?;
    match channel {
        "trade" => Some(Channel::Trade),
        "aggTrade" => Some(Channel::AggTrade),
        "bookTicker" => Some(Channel::BookTicker),
        _ => channel.strip_prefix("kline_")?.parse().ok().map(Channel::Kline),
    }
}

/// Requests of at most `bytes_max` bytes each, numbered from `first_id`. Each holds as many streams as fit, because
/// each request counts against the 5 messages a second.
pub(in crate::exchange) fn requests(method: &str, streams: &[Stream], first_id: u64, bytes_max: usize) -> Vec<String> {
    let mut requests = Vec::new();
    let mut params = String::new();
    for stream in streams {
        let quoted = serde_json::Value::from(name(stream)).to_string();
        let grown = request(method, &params, u64::MAX).len() + 1 + quoted.len();
        if !params.is_empty() && grown > bytes_max {
            requests.push(request(method, &params, first_id + requests.len() as u64));
            params.clear();
        }
        if !params.is_empty() {
            params.push(',');
        }
        params.push_str(&quoted);
    }
    if !params.is_empty() {
        requests.push(request(method, &params, first_id + requests.len() as u64));
    }
    requests
}

fn request(method: &str, params: &str, id: u64) -> String {
    format!(r#"{{"method":"{method}","params":[{params}],"id":{id}}}"#)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{Exchange, Interval, Symbol};

    fn stream(symbol: &str, channel: Channel) -> Stream {
        Stream::new(Exchange::named("binance"), Symbol::new(symbol), channel)
    }

    #[test]
    fn names_are_lower_case() {
        assert_eq!(name(&stream("BTCUSDT", Channel::Trade)), "btcusdt@trade");
        assert_eq!(name(&stream("ETHBTC", Channel::Kline(Interval::M1))), "ethbtc@kline_1m");
        assert_eq!(name(&stream("ETHBTC", Channel::BookTicker)), "ethbtc@bookTicker");
        assert_eq!(name(&stream("币安人生USDT", Channel::Trade)), "币安人生usdt@trade");
    }

    #[test]
    fn a_name_tells_its_channel() {
        for known in Channel::ALL {
            assert_eq!(channel(&name(&stream("币安人生USDT", known))), Some(known));
        }
        for other in ["btcusdt@depth@100ms", "btcusdt@kline_3m", "btcusdt@kline_1d@+08:00", "!ticker@arr", "btcusdt"] {
            assert_eq!(channel(other), None, "{other}");
        }
    }

    #[test]
    fn a_request_is_as_documented() {
        assert_eq!(
            requests("SUBSCRIBE", &[stream("BTCUSDT", Channel::Trade)], 1, 4_095),
            [r#"{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}"#]
        );
        assert!(requests("SUBSCRIBE", &[], 1, 4_095).is_empty());
    }

    proptest! {
        #[test]
        fn every_stream_is_requested_once_in_requests_under_the_limit(count in 0_usize..400, first_id in 1_u64..1_000_000) {
            let streams: Vec<Stream> = (0..count).map(|n| stream(&format!("SYM{n}USDT"), Channel::Trade)).collect();
            let mut requested = Vec::new();
            for (index, text) in requests("SUBSCRIBE", &streams, first_id, 4_095).iter().enumerate() {
                prop_assert!(text.len() <= 4_095);
                let request: serde_json::Value = serde_json::from_str(text).unwrap();
                prop_assert_eq!(request["id"].as_u64(), Some(first_id + index as u64));
                requested.extend(request["params"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()));
            }
            prop_assert_eq!(requested, streams.iter().map(name).collect::<Vec<_>>());
        }
    }
}
