//! Patterns, listings and exclusions against the streams that they must make.

use proptest::prelude::*;

use super::super::{Since, SymbolPattern};
use super::*;

fn binance() -> Exchange {
    Exchange::named("binance")
}

fn feed(symbols: &[&str], exclude: &[&str], channels: &[Channel]) -> Feed {
    let (patterns, exact): (Vec<&str>, Vec<&str>) = symbols.iter().partition(|text| SymbolPattern::is_pattern(text));
    Feed {
        exchange: binance(),
        symbols: exact.into_iter().map(Symbol::new).collect(),
        patterns: patterns.into_iter().map(SymbolPattern::new).collect(),
        exclude: exclude.iter().map(|text| SymbolPattern::new(text)).collect(),
        channels: channels.to_vec(),
        since: Since::Now,
        succeeds: None,
        ws_url: None,
        rest_url: None,
    }
}

fn selected(names: &[&str]) -> BTreeMap<Exchange, BTreeSet<Symbol>> {
    BTreeMap::from([(binance(), names.iter().map(|name| Symbol::new(name)).collect())])
}

fn streams(feeds: &[Feed], names: &[&str], max: usize) -> Vec<String> {
    let selection = Selection::new(feeds, &selected(names), max);
    selection.streams().iter().map(|stream| format!("{}:{}", stream.symbol, stream.channel)).collect()
}

const LISTED: [&str; 4] = ["BTCUSDT", "ETHBTC", "ETHDOWNUSDT", "ETHUSDT"];

#[test]
fn a_pattern_selects_of_the_listing_and_leaves_out_what_is_excluded() {
    let one = |feed: Feed| streams(&[feed], &LISTED, STREAMS_MAX);
    let trade = [Channel::Trade];
    assert_eq!(one(feed(&["ETH*"], &[], &trade)), ["ETHBTC:trade", "ETHDOWNUSDT:trade", "ETHUSDT:trade"]);
    assert_eq!(one(feed(&["ETH*"], &["*DOWN*", "ETHBTC"], &trade)), ["ETHUSDT:trade"]);
    assert_eq!(one(feed(&["BTCUSDT", "BTC*"], &[], &trade)), ["BTCUSDT:trade"], "once");
    assert_eq!(one(feed(&["XRPUSDT", "ETHB*"], &["X*"], &trade)), ["XRPUSDT:trade", "ETHBTC:trade"], "exact ones stay");
    assert_eq!(streams(&[feed(&["ETH*"], &[], &trade)], &[], STREAMS_MAX), [""; 0], "no listing yet");
}

#[test]
fn feeds_that_overlap_record_each_stream_once() {
    let both = [Channel::Trade, Channel::BookTicker];
    let feeds = [feed(&["*USDT"], &["ETHD*"], &both), feed(&["ETH*", "BTCUSDT"], &[], &[Channel::Trade])];
    let found = streams(&feeds, &LISTED, STREAMS_MAX);
    assert_eq!(
        found,
        [
            "ETHUSDT:trade",
            "ETHUSDT:book_ticker",
            "BTCUSDT:book_ticker",
            "BTCUSDT:trade",
            "ETHBTC:trade",
            "ETHDOWNUSDT:trade",
        ]
    );
}

#[test]
fn the_limit_leaves_out_the_last_and_never_an_exact_symbol() {
    let feeds = [feed(&["*"], &[], &[Channel::Trade]), feed(&["XRPUSDT"], &[], &[Channel::Trade])];
    let selection = Selection::new(&feeds, &selected(&LISTED), 3);
    let names: Vec<&str> = selection.feeds.iter().flat_map(|feed| &feed.symbols).map(Symbol::as_str).collect();
    assert_eq!(names, ["BTCUSDT", "ETHBTC", "XRPUSDT"]);
    assert_eq!(selection.left_out, BTreeMap::from([(binance(), 2)]));
    assert_eq!(streams(&feeds, &LISTED, 0), ["XRPUSDT:trade"]);
}

fn texts(of: &'static str, most: usize) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(of, 0..most)
}

fn any_feed() -> impl Strategy<Value = Feed> {
    let channels = proptest::sample::subsequence(vec![Channel::Trade, Channel::BookTicker], 1..=2);
    (texts("[AB*]{1,3}", 4), texts("[AB*]{1,3}", 3), channels).prop_map(|(symbols, exclude, channels)| {
        let [symbols, exclude] = [&symbols, &exclude].map(|of| of.iter().map(String::as_str).collect::<Vec<&str>>());
        feed(&symbols, &exclude, &channels)
    })
}

proptest! {
    /// Every stream comes once; a stream is there exactly when a feed names it or selects it.
    #[test]
    fn a_selection_is_what_its_feeds_say(feeds in proptest::collection::vec(any_feed(), 1..4), names in texts("[AB]{1,4}", 8)) {
        // The configuration refuses a stream that two feeds name exactly.
        let mut seen = HashSet::new();
        prop_assume!(feeds.iter().flat_map(Feed::streams).all(|stream| seen.insert(stream)));
        let listed: BTreeSet<Symbol> = names.iter().map(|name| Symbol::new(name)).collect();
        let selection = Selection::new(&feeds, &BTreeMap::from([(binance(), listed.clone())]), STREAMS_MAX);
        let found = selection.streams();
        let distinct: BTreeSet<Stream> = found.iter().cloned().collect();
        prop_assert_eq!(found.len(), distinct.len());
        let mut expected: BTreeSet<Stream> = feeds.iter().flat_map(Feed::streams).collect();
        for feed in &feeds {
            for symbol in listed.iter().filter(|symbol| feed.selects(symbol.as_str())) {
                expected.extend(feed.channels.iter().map(|channel| Stream::new(binance(), symbol.clone(), *channel)));
            }
        }
        prop_assert_eq!(distinct, expected);
    }

    /// No stream more than the limit, exact ones apart.
    #[test]
    fn a_selection_keeps_its_limit(feeds in proptest::collection::vec(any_feed(), 1..4), names in texts("[AB]{1,4}", 8), max in 0_usize..6) {
        let listed: BTreeSet<Symbol> = names.iter().map(|name| Symbol::new(name)).collect();
        let exact: BTreeSet<Stream> = feeds.iter().flat_map(Feed::streams).collect();
        let selection = Selection::new(&feeds, &BTreeMap::from([(binance(), listed)]), max);
        let all: BTreeSet<Stream> = selection.streams().into_iter().collect();
        prop_assert!(all.len() <= max.max(exact.len()));
        prop_assert!(exact.is_subset(&all));
    }
}
