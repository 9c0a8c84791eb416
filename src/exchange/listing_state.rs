//! Whether the recorded symbols trade: from the exchange's listing, and from the frames that arrive. Pure.
//!
//! A symbol that is not listed yet, paused, delisted or renamed is a state of its streams, not a fault. The listing is
//! read only now and then, so a frame that arrives after the listing was read ends such a state too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::market::{Exchange, Symbol, Timestamp};

/// How long after the listing was read a frame still does not prove that the symbol trades, microseconds: the last
/// frames before a pause arrive late.
const LATE_FRAME_US: i64 = 5_000_000;

/// Whether a symbol trades.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TradingState {
    /// The exchange lists it as trading, or frames of it arrive.
    Trading,
    /// It is not listed (yet), or its trading is paused; with the reason.
    NotTrading(String),
    /// It was listed and is not any more: delisted or renamed; with the reason.
    Ended(String),
}

impl TradingState {
    /// Why the symbol does not trade; `None` while it does.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Trading => None,
            Self::NotTrading(why) | Self::Ended(why) => Some(why),
        }
    }
}

/// What a listing says of one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListingEntry {
    /// It is listed and trades.
    Trading,
    /// It is listed and does not trade; with the exchange's own word for its state.
    Paused(String),
    /// It is not listed.
    Unlisted,
}

/// The newest listing of the recorded symbols.
#[derive(Debug, Default)]
pub struct ListingStates(Mutex<HashMap<(Exchange, Symbol), SymbolListing>>);

#[derive(Clone, Debug)]
struct SymbolListing {
    entry: ListingEntry,
    /// When the listing was read.
    read_at: Timestamp,
    /// An earlier listing named the symbol, or frames of it arrived before.
    was_listed: bool,
    /// Why the symbol has ended although the exchange still lists it.
    over: Option<String>,
}

impl SymbolListing {
    fn has_ended(&self) -> bool {
        self.over.is_some() || (self.entry == ListingEntry::Unlisted && self.was_listed)
    }
}

impl ListingStates {
    /// Takes what a listing that was read at `now` says of a symbol; `was_seen`: frames or rows of it were recorded.
    pub fn listed(&self, exchange: Exchange, symbol: Symbol, entry: ListingEntry, was_seen: bool, now: Timestamp) {
        let mut symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (exchange, symbol);
        let was_listed =
            was_seen || entry != ListingEntry::Unlisted || symbols.get(&key).is_some_and(|before| before.was_listed);
        symbols.insert(key, SymbolListing { entry, read_at: now, was_listed, over: None });
    }

    /// Takes that a symbol has ended, with the reason, although a listing that was read at `now` still has it in this state.
    pub fn ended(&self, exchange: Exchange, symbol: Symbol, entry: ListingEntry, why: String, now: Timestamp) {
        let mut symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = SymbolListing { entry, read_at: now, was_listed: true, over: Some(why) };
        symbols.insert((exchange, symbol), listing);
    }

    /// Every symbol that has ended, as the newest listing says.
    pub fn all_ended(&self) -> BTreeSet<(Exchange, Symbol)> {
        let symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        symbols.iter().filter(|(_, listing)| listing.has_ended()).map(|(key, _)| key.clone()).collect()
    }

    /// Whether a symbol trades, when its newest frame arrived at `newest`. Without a listing it does: no symbol is called
    /// paused without evidence.
    pub fn state(&self, exchange: Exchange, symbol: &Symbol, newest: Option<Timestamp>) -> TradingState {
        let symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listing) = symbols.get(&(exchange, symbol.clone())) else { return TradingState::Trading };
        if newest.is_some_and(|newest| newest.since(listing.read_at) > LATE_FRAME_US) {
            return TradingState::Trading;
        }
        if let Some(why) = &listing.over {
            return TradingState::Ended(why.clone());
        }
        match &listing.entry {
            ListingEntry::Trading => TradingState::Trading,
            ListingEntry::Paused(status) => {
                TradingState::NotTrading(format!("{exchange} has paused {symbol}: its status is {status}"))
            }
            ListingEntry::Unlisted if listing.was_listed => {
                TradingState::Ended(format!("{exchange} no longer lists {symbol}: it was delisted or renamed"))
            }
            ListingEntry::Unlisted => TradingState::NotTrading(format!(
                "{exchange} does not list {symbol} (yet): it is recorded from its first trade on"
            )),
        }
    }

    /// Whether the exchange's listing says that a symbol trades.
    pub fn is_listed_as_trading(&self, exchange: Exchange, symbol: &Symbol) -> bool {
        let symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        symbols.get(&(exchange, symbol.clone())).is_some_and(|listing| listing.entry == ListingEntry::Trading)
    }

    /// Forgets the symbols that are not recorded any more.
    pub fn retain(&self, is_recorded: impl Fn(Exchange, &Symbol) -> bool) {
        let mut symbols = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        symbols.retain(|(exchange, symbol), _| is_recorded(*exchange, symbol));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[derive(Default)]
    struct Listings(ListingStates);

    impl Listings {
        fn says(&self, entry: ListingEntry, at: i64) {
            self.0.listed(Exchange::named("binance"), Symbol::new("NEWUSDT"), entry, false, Timestamp(at * SECOND));
        }

        /// The state when the newest frame arrived at this second.
        fn state(&self, newest: Option<i64>) -> TradingState {
            self.0.state(Exchange::named("binance"), &Symbol::new("NEWUSDT"), newest.map(|at| Timestamp(at * SECOND)))
        }

        fn check(&self, newest: Option<i64>, part: &str) {
            let state = self.state(newest);
            assert!(state.reason().is_some_and(|why| why.contains(part)), "{state:?} does not say {part:?}");
        }
    }

    #[test]
    fn not_listed_yet_ends_with_the_first_frame_or_with_the_listing() {
        let listings = Listings::default();
        assert_eq!(listings.state(None), TradingState::Trading, "no answer yet");
        listings.says(ListingEntry::Unlisted, 10);
        assert!(matches!(listings.state(None), TradingState::NotTrading(_)));
        listings.check(None, "does not list NEWUSDT (yet)");
        assert_eq!(listings.state(Some(20)), TradingState::Trading);
        listings.says(ListingEntry::Trading, 20);
        assert_eq!(listings.state(None), TradingState::Trading);
    }

    #[test]
    fn a_symbol_that_was_listed_ends_and_comes_back() {
        let listings = Listings::default();
        listings.says(ListingEntry::Trading, 10);
        listings.says(ListingEntry::Unlisted, 20);
        assert!(matches!(listings.state(Some(19)), TradingState::Ended(_)));
        listings.check(Some(22), "delisted or renamed");
        assert_eq!(listings.state(Some(30)), TradingState::Trading, "a frame proves more than the listing");
        listings.says(ListingEntry::Unlisted, 40);
        listings.check(Some(30), "delisted or renamed");
    }

    #[test]
    fn rows_in_history_prove_that_a_symbol_was_listed() {
        let listings = Listings::default();
        let symbol = Symbol::new("NEWUSDT");
        listings.0.listed(Exchange::named("binance"), symbol, ListingEntry::Unlisted, true, Timestamp(0));
        assert!(matches!(listings.state(None), TradingState::Ended(_)));
    }

    #[test]
    fn a_pause_names_the_status() {
        let listings = Listings::default();
        listings.says(ListingEntry::Paused("BREAK".to_owned()), 10);
        assert!(matches!(listings.state(None), TradingState::NotTrading(_)));
        listings.check(None, "its status is BREAK");
        assert!(!listings.0.is_listed_as_trading(Exchange::named("binance"), &Symbol::new("NEWUSDT")));
        listings.says(ListingEntry::Trading, 20);
        assert!(listings.0.is_listed_as_trading(Exchange::named("binance"), &Symbol::new("NEWUSDT")));
    }

    #[test]
    fn a_pause_that_is_over_is_an_end_until_the_exchange_or_a_frame_says_otherwise() {
        let listings = Listings::default();
        let (exchange, symbol) = (Exchange::named("binance"), Symbol::new("NEWUSDT"));
        let over = |at: i64| {
            let entry = ListingEntry::Paused("BREAK".to_owned());
            let at = Timestamp(at * SECOND);
            listings.0.ended(exchange, symbol.clone(), entry, "its last trade is 25 h old".to_owned(), at);
        };
        over(10);
        assert!(matches!(listings.state(Some(9)), TradingState::Ended(_)));
        listings.check(Some(9), "25 h old");
        assert_eq!(listings.0.all_ended(), BTreeSet::from([(exchange, symbol.clone())]));
        assert_eq!(listings.state(Some(30)), TradingState::Trading);
        listings.says(ListingEntry::Trading, 40);
        assert_eq!((listings.state(None), listings.0.all_ended()), (TradingState::Trading, BTreeSet::new()));
    }

    #[test]
    fn a_symbol_that_is_not_recorded_any_more_is_forgotten() {
        let listings = Listings::default();
        listings.says(ListingEntry::Unlisted, 10);
        listings.0.retain(|_, symbol| symbol.as_str() != "NEWUSDT");
        assert_eq!(listings.state(None), TradingState::Trading);
    }
}
