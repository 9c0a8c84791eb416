//! Listings that grow, shrink, lie and come back, against the symbols that stay recorded.

use proptest::prelude::*;

use super::super::SymbolPattern;
use super::*;

/// The members of the pattern `*USDT`, and the time.
struct Followed {
    members: Members,
    now: Instant,
    is_over: bool,
}

impl Followed {
    fn new() -> Self {
        Self { members: Members::default(), now: Instant::now(), is_over: false }
    }

    /// A listing in which these trade; `NAME!` is paused.
    fn take(&mut self, names: &[&str], is_whole: bool, after: u64) -> Change {
        self.now += Duration::from_secs(after);
        let entries: BTreeMap<String, ListingEntry> = names
            .iter()
            .map(|name| match name.strip_suffix('!') {
                Some(name) => (name.to_owned(), ListingEntry::Paused("BREAK".to_owned())),
                None => ((*name).to_owned(), ListingEntry::Trading),
            })
            .collect();
        let pattern = SymbolPattern::new("*USDT");
        let selects = |symbol: &Symbol| pattern.matches(symbol.as_str());
        let is_over = self.is_over;
        let listing = Listing { entries: &entries, is_whole };
        self.members.take(listing, &BTreeSet::new(), selects, |_| is_over, self.now)
    }

    fn active(&self) -> Vec<&str> {
        self.members.active().iter().map(Symbol::as_str).collect()
    }
}

fn symbols(names: &[&str]) -> BTreeSet<Symbol> {
    names.iter().map(|name| Symbol::new(name)).collect()
}

#[test]
fn a_listed_symbol_joins_ends_after_a_second_answer_and_comes_back() {
    let mut followed = Followed::new();
    let change = followed.take(&["AUSDT", "BUSDT", "AB"], true, 0);
    assert_eq!((change.joined, change.ask_again), (symbols(&["AUSDT", "BUSDT"]), None));
    let change = followed.take(&["BUSDT", "AB"], true, 3_600);
    assert_eq!((change.ended, change.ask_again), (symbols(&[]), Some(ASK_AGAIN)), "one answer proves nothing");
    assert_eq!(followed.take(&["BUSDT", "AB"], true, 1).ended, symbols(&[]), "two of one moment neither");
    let change = followed.take(&["BUSDT", "AB"], true, 15);
    assert_eq!((change.ended, change.ask_again), (symbols(&["AUSDT"]), None));
    assert_eq!(followed.members.ended(), &symbols(&["AUSDT"]));
    assert_eq!(followed.take(&["BUSDT", "AB"], true, 3_600), Change::default(), "it ends once");
    let change = followed.take(&["AUSDT", "BUSDT", "AB"], true, 3_600);
    assert_eq!((change.joined, followed.active()), (symbols(&["AUSDT"]), vec!["AUSDT", "BUSDT"]));
    assert!(followed.members.ended().is_empty());
}

#[test]
fn a_symbol_that_is_absent_once_stays() {
    let mut followed = Followed::new();
    followed.take(&["AUSDT", "BUSDT", "CUSDT"], true, 0);
    followed.take(&["AUSDT", "BUSDT"], true, 3_600);
    assert_eq!(followed.take(&["AUSDT", "BUSDT", "CUSDT"], true, 15).ask_again, None);
    assert_eq!(followed.take(&["AUSDT", "BUSDT"], true, 15).ended, symbols(&[]), "the count begins again");
}

#[test]
fn a_listing_of_half_of_the_symbols_is_believed_after_an_hour() {
    let mut followed = Followed::new();
    let all = ["AUSDT", "BUSDT", "CUSDT", "DUSDT"];
    followed.take(&all, true, 0);
    let change = followed.take(&all[..2], true, 3_600);
    assert_eq!((change.ask_again, change.shrunk), (Some(ASK_AGAIN_SHRUNK), Some(2)));
    for _ in 0..11 {
        assert_eq!(followed.take(&all[..2], true, 300).ended, symbols(&[]));
    }
    assert_eq!(followed.active(), all);
    assert_eq!(followed.take(&all[..2], true, 300).ended, symbols(&["CUSDT", "DUSDT"]));
    assert_eq!(followed.take(&all[..2], true, 300).shrunk, None);
}

#[test]
fn a_listing_that_lost_other_symbols_proves_nothing_of_ours_either() {
    let mut followed = Followed::new();
    let others: Vec<String> = (0..10).map(|n| format!("OTHER{n}")).collect();
    let mut names: Vec<&str> = others.iter().map(String::as_str).collect();
    names.extend(["AUSDT", "BUSDT"]);
    followed.take(&names, true, 0);
    for _ in 0..5 {
        assert_eq!(followed.take(&["BUSDT"], true, 60).ended, symbols(&[]));
    }
    assert_eq!(followed.active(), ["AUSDT", "BUSDT"]);
}

#[test]
fn a_listing_with_an_unreadable_element_removes_nothing() {
    let mut followed = Followed::new();
    followed.take(&["AUSDT", "BUSDT", "CUSDT"], true, 0);
    for _ in 0..20 {
        let change = followed.take(&["AUSDT", "BUSDT"], false, 600);
        assert_eq!((change.ended, change.ask_again), (symbols(&[]), None));
    }
}

#[test]
fn a_pause_is_no_end_until_it_is_over() {
    let mut followed = Followed::new();
    followed.take(&["AUSDT", "BUSDT!"], true, 0);
    assert_eq!(followed.active(), ["AUSDT"], "what does not trade does not join");
    for _ in 0..3 {
        assert_eq!(followed.take(&["AUSDT!", "BUSDT!"], true, 3_600), Change::default());
    }
    followed.is_over = true;
    assert_eq!(followed.take(&["AUSDT!", "BUSDT!"], true, 3_600).ended, symbols(&["AUSDT"]));
    assert_eq!(followed.take(&["AUSDT", "BUSDT!"], true, 3_600).joined, symbols(&["AUSDT"]));
}

#[test]
fn members_of_an_earlier_process_are_known_before_any_listing() {
    let mut followed = Followed::new();
    followed.members.restore(Symbol::new("AUSDT"), false);
    followed.members.restore(Symbol::new("OLDUSDT"), true);
    assert_eq!(followed.active(), ["AUSDT"]);
    assert_eq!(followed.take(&["AUSDT"], true, 0), Change::default());
    assert_eq!(followed.members.ended(), &symbols(&["OLDUSDT"]));
    followed.members.retain(|symbol| symbol.as_str() != "OLDUSDT");
    assert!(followed.members.ended().is_empty());
}

proptest! {
    /// Whatever listings say, no symbol is forgotten, none is both, and what the newest one lists as trading is recorded.
    #[test]
    fn no_symbol_is_forgotten(answers in proptest::collection::vec((proptest::collection::btree_set("[A-D]USDT!?", 0..5), any::<bool>(), 0_u64..4_000), 1..12)) {
        let mut followed = Followed::new();
        let mut seen = BTreeSet::new();
        for (names, is_whole, after) in answers {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            followed.take(&names, is_whole, after);
            // A name that is paused and trades is one entry: the later in order, the paused one.
            let trading: BTreeSet<Symbol> = names.iter().filter(|name| !name.ends_with('!'))
                .filter(|name| !names.contains(&format!("{name}!").as_str())).map(|name| Symbol::new(name)).collect();
            seen.extend(trading.iter().cloned());
            prop_assert!(trading.is_subset(followed.members.active()));
            prop_assert!(followed.members.active().is_disjoint(followed.members.ended()));
            let known: BTreeSet<Symbol> = followed.members.active().union(followed.members.ended()).cloned().collect();
            prop_assert_eq!(&known, &seen);
        }
    }
}
