//! The contract of the exchange port: `src/exchange/dialect.rs`, `spec.rs` and `peer.rs`. Every venue of the catalog runs
//! it. A venue brings no code here: its fixtures are in `tests/fixtures/<venue>/`, its own side is its peer. A venue
//! without a peer runs the checks that need none.

mod fixtures;
mod pages;
mod peers;
mod text;
mod venue;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use tapekeeper::exchange::peer::Peer;
use tapekeeper::exchange::spec::{ChannelKind, ChannelSpec, Heartbeat};
use tapekeeper::exchange::{
    Dialect, PageStart, Request, RestAnswer, RestReply, Route, Series, SubscriptionAnswer, SubscriptionChange, catalog,
};
use tapekeeper::gap::Range;
use tapekeeper::market::{Channel, Interval, SpellingError, Stream, Symbol, Timestamp};

use super::NOON;

/// Runs a check on every venue, and prints its name.
fn each(check: impl Fn(&dyn Dialect)) {
    for dialect in catalog::dialects() {
        eprintln!("venue: {}", dialect.exchange());
        check(&**dialect);
    }
}

/// Runs a check on every venue that has a peer.
fn each_with_peer(check: impl Fn(&Arc<dyn Dialect>, &dyn Peer)) {
    for dialect in catalog::dialects() {
        match dialect.peer() {
            Some(peer) => {
                eprintln!("venue: {}", dialect.exchange());
                check(dialect, &*peer);
            }
            None => eprintln!("SKIPPED: {} has no peer", dialect.exchange()),
        }
    }
}

/// The channels that a venue sends.
fn channels(spec: &ChannelSpec) -> Vec<Channel> {
    match spec.kind {
        ChannelKind::Trade => vec![Channel::Trade],
        ChannelKind::AggTrade => vec![Channel::AggTrade],
        ChannelKind::Kline { intervals, .. } => intervals.iter().copied().map(Channel::Kline).collect(),
        ChannelKind::BookTicker => vec![Channel::BookTicker],
    }
}

/// Streams of one address, of symbols that the venue may have.
fn streams(dialect: &dyn Dialect, socket: usize, count: usize) -> Vec<Stream> {
    let spec = dialect.spec();
    let of_socket: Vec<Channel> =
        spec.channels.iter().filter(|channel| channel.socket == socket).flat_map(channels).collect();
    let stream = |n: usize| {
        let symbol = spelled(|text| dialect.symbol(text), &format!("A{n}{}", spec.example));
        Stream::new(dialect.exchange(), symbol, of_socket[n % of_socket.len()])
    };
    (0..count).map(stream).collect()
}

/// The symbol of a text, which may need the venue's spelling: a venue may write small letters.
pub fn spelled(read: impl Fn(&str) -> Result<Symbol, SpellingError>, text: &str) -> Symbol {
    let symbol = match read(text) {
        Err(SpellingError::Respell(meant)) => read(&meant),
        other => other,
    };
    symbol.unwrap_or_else(|why| panic!("{text} is no symbol of the venue: {why:?}"))
}

#[test]
fn a_venue_may_write_symbols_in_small_letters() {
    let read = |text: &str| match text.to_lowercase() {
        small if small == text => Ok(Symbol::new(text)),
        small => Err(SpellingError::Respell(small)),
    };
    assert_eq!(spelled(read, "A7btc_usd").as_str(), "a7btc_usd");
    assert_eq!(spelled(Symbol::from_spelling, "A7BTCUSDT").as_str(), "A7BTCUSDT");
}

fn named(streams: &[Stream]) -> BTreeSet<(String, Channel)> {
    streams.iter().map(|stream| (stream.symbol.to_string(), stream.channel)).collect()
}

#[test]
fn what_the_spec_claims_holds() {
    each(|dialect| {
        let spec = dialect.spec();
        assert!(dialect.symbol(spec.example).is_ok(), "the example is no symbol");
        assert!(!spec.sockets.is_empty() && !spec.channels.is_empty() && !spec.rest.buckets.is_empty());
        assert!(spec.rest.trades_page > 0 && spec.rest.klines_page > 0);
        assert!(spec.limits.streams_per_request <= spec.limits.streams_per_connection);
        for channel in spec.channels {
            assert!(channel.socket < spec.sockets.len(), "{channel:?}");
            for channel in channels(channel) {
                let stream = Stream::new(dialect.exchange(), Symbol::new(spec.example), channel);
                assert_eq!(dialect.channel(&dialect.stream_name(&stream)), Some(channel));
            }
        }
        for request in requests(spec.example) {
            let Some(asked) = dialect.ask(&request) else { continue };
            assert!(asked.path.starts_with('/') && asked.path.is_ascii(), "{}", asked.path);
            assert!(asked.bucket < spec.rest.buckets.len(), "{}", asked.path);
        }
    });
}

/// One request of each kind, those of trades for each of their channels.
fn requests(symbol: &str) -> Vec<Request<'_>> {
    let range = Range { first: 1_000, last: 1_999 };
    let minute = Interval::M1.micros();
    let klines = Range { first: NOON.micros(), last: NOON.micros() + 10 * minute };
    let mut requests = vec![
        Request::Klines { symbol, interval: Interval::M1, range: klines },
        Request::Time,
        Request::Listing { symbols: &[] },
    ];
    for channel in Channel::TRADES {
        let series = Series { symbol, channel };
        requests.extend([
            Request::Trades { series, range, after: Some(PageStart::At(NOON)) },
            Request::Newest { series },
            Request::NewestFallback { series },
            Request::TradeAt { series, at: NOON },
        ]);
    }
    requests
}

#[test]
fn every_stream_is_requested_once_within_the_limits() {
    each(|dialect| {
        let spec = dialect.spec();
        for socket in 0..spec.sockets.len() {
            for count in [0, 1, 2, 9, 10, 11, 99, 100, 101, 400, 2_000] {
                check_requests(dialect, &streams(dialect, socket, count));
            }
        }
    });
}

fn check_requests(dialect: &dyn Dialect, streams: &[Stream]) {
    let limits = &dialect.spec().limits;
    for change in [SubscriptionChange::Subscribe, SubscriptionChange::Unsubscribe] {
        let requests = dialect.subscribe(change, streams, 7);
        let mut requested = Vec::new();
        for (request, id) in requests.iter().zip(7_u64..) {
            assert!(request.len() <= limits.request_bytes_max, "{} bytes: {request:.200}", request.len());
            let Some(peer) = dialect.peer() else { continue };
            let reply = peer.receive(request, &|_| true, NOON);
            assert_eq!(reply.close, None, "{request:.200}");
            let (taken, others) = match change {
                SubscriptionChange::Subscribe => (reply.subscribed, reply.unsubscribed),
                SubscriptionChange::Unsubscribe => (reply.unsubscribed, reply.subscribed),
            };
            assert!(others.is_empty() && taken.len() <= limits.streams_per_request, "{request:.200}");
            // The end of a subscription may be acknowledged by a list of what remains.
            if change == SubscriptionChange::Subscribe {
                check_acknowledgement(dialect, &reply.messages, id, &taken);
            }
            requested.extend(taken);
        }
        if dialect.peer().is_some() {
            assert_eq!(requested.len(), streams.len());
            assert_eq!(requested.into_iter().collect::<BTreeSet<_>>(), named(streams));
        }
    }
}

fn answers<'a>(dialect: &dyn Dialect, messages: &'a [String]) -> Vec<SubscriptionAnswer<'a>> {
    let answer = |message: &'a String| match dialect.route(message.as_bytes()) {
        Route::Answer(answer) => {
            let mut events = 0;
            assert_eq!(dialect.decode(message.as_bytes(), &mut |_| events += 1), Ok(()), "{message}");
            assert_eq!(events, 0, "{message}");
            Some(answer)
        }
        _ => None,
    };
    messages.iter().filter_map(answer).collect()
}

/// The answers say which request or which streams they accept.
fn check_acknowledgement(dialect: &dyn Dialect, messages: &[String], id: u64, taken: &[(String, Channel)]) {
    let answers = answers(dialect, messages);
    let name = |(symbol, channel): &(String, Channel)| {
        dialect.stream_name(&Stream::new(dialect.exchange(), Symbol::new(symbol), *channel))
    };
    assert!(answers.iter().all(|answer| answer.error.is_none()), "{answers:?}");
    if answers.iter().any(|answer| answer.id == Some(id) && answer.streams.is_empty()) {
        return;
    }
    let named: BTreeSet<&str> = answers.iter().flat_map(|answer| &answer.streams).map(|name| &**name).collect();
    for stream in taken {
        assert!(named.contains(name(stream).as_str()), "no answer names {stream:?}: {answers:?}");
    }
}

#[test]
fn a_refused_stream_is_understood() {
    each_with_peer(|dialect, peer| {
        for socket in 0..dialect.spec().sockets.len() {
            let streams = streams(&**dialect, socket, 3);
            let bad = &streams[1];
            for request in dialect.subscribe(SubscriptionChange::Subscribe, std::slice::from_ref(bad), 7) {
                let reply = peer.receive(&request, &|_| false, NOON);
                let answers = answers(&**dialect, &reply.messages);
                let name = dialect.stream_name(bad);
                let is_refusal = |answer: &SubscriptionAnswer<'_>| {
                    answer.error.is_some()
                        && (answer.id == Some(7)
                            || answer.streams.iter().any(|known| *known == name)
                            // An error that names nothing means the oldest request.
                            || (answer.id.is_none() && answer.streams.is_empty()))
                };
                assert!(reply.subscribed.is_empty() && answers.iter().any(is_refusal), "{:?}", reply.messages);
            }
            // Among good streams: the bad one is named, or all of its request is refused and will be divided.
            for request in dialect.subscribe(SubscriptionChange::Subscribe, &streams, 7) {
                let reply = peer.receive(&request, &|symbol| symbol != bad.symbol.as_str(), NOON);
                assert!(!reply.subscribed.contains(&(bad.symbol.to_string(), bad.channel)));
                // A venue may write symbols in small letters.
                let has_bad = request.to_uppercase().contains(&bad.symbol.as_str().to_uppercase());
                let is_refused = answers(&**dialect, &reply.messages).iter().any(|answer| answer.error.is_some());
                assert_eq!(has_bad, is_refused, "{:?}", reply.messages);
            }
        }
    });
}

#[test]
fn a_connection_is_kept_open() {
    each_with_peer(|dialect, peer| {
        for socket in dialect.spec().sockets {
            let Heartbeat::Client { message, every } = socket.heartbeat else { continue };
            assert!(every < dialect.spec().limits.silence_max);
            let reply = peer.receive(message, &|_| true, NOON);
            assert!(!reply.messages.is_empty() && reply.close.is_none());
            for message in &reply.messages {
                assert_eq!(dialect.route(message.as_bytes()), Route::Heartbeat, "{message}");
                assert_eq!(dialect.decode(message.as_bytes(), &mut |_| panic!("an event")), Ok(()), "{message}");
            }
        }
        for message in peer.heartbeat(NOON).iter().chain(&peer.greeting(NOON)) {
            let route = dialect.route(message.as_bytes());
            assert!(matches!(route, Route::Heartbeat | Route::Other), "{message}");
            assert_eq!(dialect.decode(message.as_bytes(), &mut |_| panic!("an event")), Ok(()), "{message}");
        }
        assert!(peer.receive("{", &|_| true, NOON).subscribed.is_empty());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}:,\"a-e0-9 .-]{0,60}") {
        for dialect in catalog::dialects() {
            odd_bytes(&**dialect, &bytes);
            odd_bytes(&**dialect, text.as_bytes());
        }
    }
}

/// Nothing panics, and what is no frame brings no event.
fn odd_bytes(dialect: &dyn Dialect, bytes: &[u8]) {
    let _route = dialect.route(bytes);
    let _decoded = dialect.decode(bytes, &mut |event| panic!("{event:?}"));
    let _judged = dialect.judge(&RestReply { status: 200, header: &|_| None, body: bytes });
    for request in requests(dialect.spec().example) {
        let answer = RestAnswer { body: bytes, now: NOON, latest: Timestamp(NOON.micros() * 2) };
        let _answered = dialect.answer(&request, &answer);
    }
    if let Some(peer) = dialect.peer() {
        let text = String::from_utf8_lossy(bytes);
        let _reply = peer.receive(&text, &|_| true, NOON);
        let _read = peer.read(&text);
    }
}
