//! Feeds, snapshots, listings and reloads against the streams that are recorded.

use super::*;
use crate::exchange::binance::Binance;
use crate::exchange::{ListingEntry, Since, SymbolPattern};
use crate::market::Channel;

fn feed(symbols: &[&str]) -> Feed {
    let (patterns, exact): (Vec<&str>, Vec<&str>) = symbols.iter().partition(|text| SymbolPattern::is_pattern(text));
    Feed {
        exchange: Exchange::named("binance"),
        symbols: exact.into_iter().map(Symbol::new).collect(),
        patterns: patterns.into_iter().map(SymbolPattern::new).collect(),
        exclude: vec![SymbolPattern::new("*DOWN*")],
        channels: vec![Channel::Trade],
        since: Since::Now,
        succeeds: None,
        ws_url: None,
        rest_url: None,
    }
}

fn listed(recorded: &Recorded, names: &[&str], now: Instant) -> Change {
    let entries = names.iter().map(|name| ((*name).to_owned(), ListingEntry::Trading)).collect();
    recorded.take(&Binance, Listing { entries: &entries, is_whole: true }, |_| false, now)
}

fn streams(recorded: &Recorded) -> String {
    let names: Vec<String> = recorded.streams.borrow().iter().map(|stream| stream.symbol.to_string()).collect();
    names.join(" ")
}

fn subscribed(recorded: &Recorded) -> String {
    let names: Vec<String> =
        recorded.feeds.borrow().iter().flat_map(Feed::streams).map(|stream| stream.symbol.to_string()).collect();
    names.join(" ")
}

fn later(now: Instant, seconds: u64) -> Instant {
    now + std::time::Duration::from_secs(seconds)
}

#[test]
fn a_listing_adds_and_an_ended_symbol_stays_known_without_a_subscription() {
    let (recorded, now) = (Recorded::new(vec![feed(&["BTCUSDT", "ETH*"])], None), Instant::now());
    assert_eq!((streams(&recorded), subscribed(&recorded)), ("BTCUSDT".to_owned(), "BTCUSDT".to_owned()));
    let mut feeds = recorded.feeds();
    listed(&recorded, &["BTCUSDT", "ETHDOWNUSDT", "ETHUSDT", "ETHBTC", "eth!"], now);
    assert_eq!(streams(&recorded), "BTCUSDT ETHBTC ETHUSDT");
    assert!(feeds.has_changed().unwrap());
    feeds.mark_unchanged();
    listed(&recorded, &["BTCUSDT", "ETHUSDT", "ETHBTC"], later(now, 3_600));
    assert!(!feeds.has_changed().unwrap(), "nothing is new");
    listed(&recorded, &["BTCUSDT", "ETHUSDT"], later(now, 7_200));
    let change = listed(&recorded, &["BTCUSDT", "ETHUSDT"], later(now, 7_220));
    assert!(recorded.is_absent(Exchange::named("binance"), &Symbol::new("ETHBTC"), &change, later(now, 7_220)));
    assert_eq!(streams(&recorded), "BTCUSDT ETHUSDT ETHBTC");
    assert_eq!(subscribed(&recorded), "BTCUSDT ETHUSDT");
    listed(&recorded, &["BTCUSDT", "ETHUSDT", "ETHBTC"], later(now, 10_800));
    assert_eq!(subscribed(&recorded), "BTCUSDT ETHBTC ETHUSDT", "it came back");
}

#[test]
fn a_restart_records_what_the_snapshot_names_before_any_listing() {
    let snapshot = Snapshot {
        active_subscriptions: ["ETHUSDT", "ETHOLD", "SOLUSDT"].map(|name| format!("binance:{name}:trade")).to_vec(),
        ended: BTreeSet::from(["binance:ETHOLD".to_owned(), "nonsense".to_owned(), "nowhere:X".to_owned()]),
        ..Snapshot::default()
    };
    let recorded = Recorded::new(vec![feed(&["BTCUSDT", "ETH*"])], Some(&snapshot));
    assert_eq!(subscribed(&recorded), "BTCUSDT ETHUSDT");
    assert_eq!(streams(&recorded), "BTCUSDT ETHUSDT ETHOLD");
    let ended = restore_ended(Some(&snapshot), Timestamp(0)).all_ended();
    assert_eq!(ended, BTreeSet::from([(Exchange::named("binance"), Symbol::new("ETHOLD"))]));
}

#[test]
fn a_reload_keeps_what_the_new_patterns_select_and_removes_the_rest() {
    let (recorded, now) = (Recorded::new(vec![feed(&["BTCUSDT", "ETH*"])], None), Instant::now());
    listed(&recorded, &["BTCUSDT", "ETHUSDT", "ETHBTC", "SOLBTC"], now);
    let plan = recorded.plan(&[feed(&["*BTC", "BTC*"])]);
    let removed: Vec<&str> = plan.removed.iter().map(|stream| stream.symbol.as_str()).collect();
    assert_eq!((plan.added, removed), (0, vec!["ETHUSDT"]));
    assert_eq!(streams(&recorded), "BTCUSDT ETHBTC ETHUSDT", "a plan changes nothing");
    let mut configured = recorded.configured();
    configured.mark_unchanged();
    recorded.configure(plan);
    assert!(configured.has_changed().unwrap(), "the monitor reads the listing again");
    assert_eq!(subscribed(&recorded), "BTCUSDT ETHBTC");
    listed(&recorded, &["BTCUSDT", "ETHUSDT", "ETHBTC", "SOLBTC"], now);
    assert_eq!(subscribed(&recorded), "BTCUSDT ETHBTC SOLBTC");
    assert_eq!(recorded.plan(&[feed(&["ETHUSDT"])]).removed.len(), 3);
}

#[test]
fn patterns_without_a_match_are_named() {
    let names = ["ETHUSDT", "ETHDOWNUSDT"];
    assert_eq!(idle_patterns(&feed(&["ETH*", "*DOWN*", "X*"]), names.into_iter()), ["*DOWN*", "X*"]);
    let symbols = (0..12).map(|n| Symbol::new(&format!("S{n:02}"))).collect();
    assert!(named(&symbols).ends_with("S09 and 2 more"));
}
