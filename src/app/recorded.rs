//! What the service records: the feeds as configured, with the symbols that their patterns select of the exchanges'
//! listings. The one place that changes the recorded streams while the service runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Config;
use crate::exchange::{Change, Dialect, Feed, Listing, ListingStates, Members, STREAMS_MAX, Selection, catalog};
use crate::market::{Exchange, Stream, Symbol, Timestamp};
use crate::state::{Snapshot, StateFile};

/// Most symbols that one line of the log names.
const NAMED_MAX: usize = 10;

/// The recorded streams, and the feeds that the connections follow.
#[derive(Debug)]
pub struct Recorded {
    state: Mutex<State>,
    /// Every recorded stream, ended ones too.
    streams: watch::Sender<Vec<Stream>>,
    /// The feeds with the symbols to subscribe to.
    feeds: watch::Sender<Vec<Feed>>,
    /// The feeds as configured.
    configured: watch::Sender<Vec<Feed>>,
}

#[derive(Debug, Default)]
struct State {
    configured: Vec<Feed>,
    members: BTreeMap<Exchange, Members>,
    /// For each exchange how many streams the limit left out when it was last reported.
    left_out: BTreeMap<Exchange, usize>,
    /// The patterns that selected nothing when they were last reported.
    idle: BTreeMap<Exchange, BTreeSet<String>>,
    /// The exchanges whose last listing was too short to be believed.
    shrunk: BTreeSet<Exchange>,
}

/// What a change of the configuration would record.
pub struct Plan {
    feeds: Vec<Feed>,
    members: BTreeMap<Exchange, Members>,
    /// Streams that are recorded afterwards and not now.
    pub added: usize,
    /// Streams that are recorded now and not afterwards.
    pub removed: Vec<Stream>,
}

impl Recorded {
    /// What these feeds record. Until an exchange has answered, its patterns select what the snapshot says that an earlier
    /// process recorded: a restart must not wait for REST.
    pub fn new(feeds: Vec<Feed>, snapshot: Option<&Snapshot>) -> Self {
        let members = snapshot.map(|snapshot| restored(&feeds, snapshot)).unwrap_or_default();
        let state = State { configured: feeds.clone(), members, ..State::default() };
        let (selection, streams) = state.selection();
        Self {
            state: Mutex::new(state),
            streams: watch::Sender::new(streams),
            feeds: watch::Sender::new(selection.feeds),
            configured: watch::Sender::new(feeds),
        }
    }

    /// Every recorded stream, those of ended symbols too.
    pub fn streams(&self) -> watch::Receiver<Vec<Stream>> {
        self.streams.subscribe()
    }

    /// The feeds with every symbol to subscribe to.
    pub fn feeds(&self) -> watch::Receiver<Vec<Feed>> {
        self.feeds.subscribe()
    }

    /// The feeds as configured.
    pub fn configured(&self) -> watch::Receiver<Vec<Feed>> {
        self.configured.subscribe()
    }

    /// What other feeds would change. A symbol that is recorded and that a pattern of the new feeds selects stays.
    pub fn plan(&self, feeds: &[Feed]) -> Plan {
        let state = self.lock();
        let mut members = state.members.clone();
        for (exchange, symbol) in exact(&state.configured) {
            if selects(feeds, exchange, &symbol) {
                members.entry(exchange).or_default().restore(symbol, false);
            }
        }
        for (exchange, members) in &mut members {
            members.retain(|symbol| selects(feeds, *exchange, symbol));
        }
        drop(state);
        let changed = State { configured: feeds.to_vec(), members, ..State::default() };
        let (before, after) = (self.streams.borrow().clone(), changed.selection().1);
        let [known, kept] = [&before, &after].map(|streams| streams.iter().collect::<BTreeSet<&Stream>>());
        Plan {
            added: after.iter().filter(|stream| !known.contains(stream)).count(),
            removed: before.iter().filter(|stream| !kept.contains(stream)).cloned().collect(),
            feeds: changed.configured,
            members: changed.members,
        }
    }

    /// Applies the changes of a plan. The connections, the consumer, the tail and the monitors of the listings follow.
    pub fn configure(&self, plan: Plan) {
        let mut state = self.lock();
        // A listing may have answered since the plan was made.
        let mut members = plan.members;
        for (exchange, now) in &state.members {
            let planned = members.entry(*exchange).or_default();
            let selected = |symbol: &&Symbol| selects(&plan.feeds, *exchange, symbol);
            now.active().iter().filter(selected).for_each(|symbol| planned.restore(symbol.clone(), false));
            now.ended().iter().filter(selected).for_each(|symbol| planned.restore(symbol.clone(), true));
        }
        state.members = members;
        state.configured = plan.feeds.clone();
        self.publish(&mut state);
        drop(state);
        self.configured.send_replace(plan.feeds);
    }

    /// Takes an answer of an exchange: records what its patterns select now. `is_over`: see [`Members::take`].
    pub fn take(
        &self,
        dialect: &dyn Dialect,
        listing: Listing<'_>,
        is_over: impl Fn(&Symbol) -> bool,
        now: Instant,
    ) -> Change {
        let exchange = dialect.exchange();
        let mut state = self.lock();
        let State { configured, members, .. } = &mut *state;
        let members = members.entry(exchange).or_default();
        // A name that the exchange's own spelling does not allow would not survive the state file.
        let selected =
            |symbol: &Symbol| selects(configured, exchange, symbol) && dialect.symbol(symbol.as_str()).is_ok();
        let change = members.take(listing, &exact_of(configured, exchange), selected, is_over, now);
        if !(change.joined.is_empty() && change.ended.is_empty()) {
            self.publish(&mut state);
        }
        state.warn(exchange, &change);
        drop(state);
        report(exchange, &change);
        change
    }

    /// Whether the exchange has ceased to list a symbol, as far as its answers prove it.
    pub fn is_absent(&self, exchange: Exchange, symbol: &Symbol, change: &Change, now: Instant) -> bool {
        let state = self.lock();
        state.members.get(&exchange).is_some_and(|members| members.is_absent(symbol, now, change.shrunk.is_some()))
    }

    /// Publishes the streams before the feeds: ingest drops the frames of streams that are not in the list, and the
    /// connections follow the feeds.
    fn publish(&self, state: &mut State) {
        let (selection, streams) = state.selection();
        for (exchange, count) in &selection.left_out {
            if state.left_out.get(exchange) != Some(count) {
                warn!(
                    EXCHANGE = %exchange,
                    "the patterns of {exchange} select too much: {count} streams are not recorded, {STREAMS_MAX} are the \
                     most; name fewer symbols or exclude some"
                );
            }
        }
        state.left_out.clone_from(&selection.left_out);
        self.streams.send_if_modified(|known| changed(known, streams));
        self.feeds.send_if_modified(|known| changed(known, selection.feeds));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Warns about what is odd in an answer, once.
    fn warn(&mut self, exchange: Exchange, change: &Change) {
        let active = self.members.get(&exchange).map(Members::active);
        let names = active.into_iter().flatten().map(Symbol::as_str);
        let feeds = self.configured.iter().filter(|feed| feed.exchange == exchange);
        let idle: BTreeSet<String> = feeds.flat_map(|feed| idle_patterns(feed, names.clone())).collect();
        for pattern in idle.difference(self.idle.entry(exchange).or_default()) {
            warn!(EXCHANGE = %exchange, "`{pattern}` matches no symbol that trades at {exchange}: nothing is recorded for it");
        }
        self.idle.insert(exchange, idle);
        match change.shrunk {
            Some(count) if self.shrunk.insert(exchange) => warn!(
                EXCHANGE = %exchange,
                "the listing of {exchange} lacks {count} symbols at once, which is rather a fault than their end: they stay \
                 recorded until the exchange has said so for an hour"
            ),
            Some(_) => {}
            None => drop(self.shrunk.remove(&exchange)),
        }
    }

    /// What to subscribe to, and every stream. Streams of ended symbols are the first that a limit leaves out.
    fn selection(&self) -> (Selection, Vec<Stream>) {
        let of = |select: &dyn Fn(&Members) -> BTreeSet<Symbol>| -> BTreeMap<Exchange, BTreeSet<Symbol>> {
            self.members.iter().map(|(exchange, members)| (*exchange, select(members))).collect()
        };
        let active = Selection::new(&self.configured, &of(&|members| members.active().clone()), STREAMS_MAX);
        let mut streams = active.streams();
        let ended = Selection::new(&self.configured, &of(&|members| members.ended().clone()), STREAMS_MAX);
        let known: BTreeSet<Stream> = streams.iter().cloned().collect();
        streams.extend(ended.streams().into_iter().filter(|stream| !known.contains(stream)));
        (active, streams)
    }
}

/// The streams of a configuration without a service: the exact ones, and those that the service in its data directory
/// recorded last for its patterns. Asks no exchange.
pub fn known_streams(config: &Config) -> Vec<Stream> {
    let has_patterns = config.feeds.iter().any(|feed| !feed.patterns.is_empty());
    let snapshot = has_patterns.then(|| StateFile::new(&config.data_dir).load().0).flatten();
    Recorded::new(config.feeds.clone(), snapshot.as_ref()).streams.borrow().clone()
}

/// What these feeds record, and the symbols that had ended: they cause no alarm before the exchange has answered.
pub fn restore(feeds: &[Feed], snapshot: Option<&Snapshot>, now: Timestamp) -> (Arc<Recorded>, Arc<ListingStates>) {
    (Arc::new(Recorded::new(feeds.to_vec(), snapshot)), restore_ended(snapshot, now))
}

fn restore_ended(snapshot: Option<&Snapshot>, now: Timestamp) -> Arc<ListingStates> {
    let listings = ListingStates::default();
    for (exchange, symbol) in snapshot.iter().flat_map(|snapshot| &snapshot.ended).filter_map(|name| parse(name)) {
        listings.listed(exchange, symbol, crate::exchange::ListingEntry::Unlisted, true, now);
    }
    Arc::new(listings)
}

/// The patterns of a feed that select none of these names.
pub fn idle_patterns<'a>(feed: &Feed, names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let selected = |pattern: &&crate::exchange::SymbolPattern| {
        names.clone().any(|name| pattern.matches(name) && feed.selects(name))
    };
    feed.patterns.iter().filter(|pattern| !selected(pattern)).map(ToString::to_string).collect()
}

fn restored(feeds: &[Feed], snapshot: &Snapshot) -> BTreeMap<Exchange, Members> {
    let ended: BTreeSet<(Exchange, Symbol)> = snapshot.ended.iter().filter_map(|name| parse(name)).collect();
    let mut members: BTreeMap<Exchange, Members> = BTreeMap::new();
    for stream in snapshot.active_subscriptions.iter().filter_map(|name| name.parse::<Stream>().ok()) {
        if selects(feeds, stream.exchange, &stream.symbol) {
            let has_ended = ended.contains(&(stream.exchange, stream.symbol.clone()));
            members.entry(stream.exchange).or_default().restore(stream.symbol, has_ended);
        }
    }
    members
}

/// Reads `binance:BTCUSDT`.
fn parse(name: &str) -> Option<(Exchange, Symbol)> {
    let (exchange, symbol) = name.split_once(':')?;
    Some((catalog::find(exchange)?, Symbol::new(symbol)))
}

fn selects(feeds: &[Feed], exchange: Exchange, symbol: &Symbol) -> bool {
    feeds.iter().any(|feed| feed.exchange == exchange && feed.selects(symbol.as_str()))
}

fn exact(feeds: &[Feed]) -> impl Iterator<Item = (Exchange, Symbol)> + '_ {
    feeds.iter().flat_map(|feed| feed.symbols.iter().map(|symbol| (feed.exchange, symbol.clone())))
}

/// The symbols that the feeds of an exchange name.
pub fn exact_of(feeds: &[Feed], exchange: Exchange) -> BTreeSet<Symbol> {
    exact(feeds).filter(|(of, _)| *of == exchange).map(|(_, symbol)| symbol).collect()
}

fn changed<T: PartialEq>(known: &mut T, new: T) -> bool {
    let differs = *known != new;
    *known = new;
    differs
}

fn report(exchange: Exchange, change: &Change) {
    if !change.joined.is_empty() {
        info!(EXCHANGE = %exchange, "{exchange} lists what patterns select: {}", named(&change.joined));
    }
    if !change.ended.is_empty() {
        info!(EXCHANGE = %exchange, "these symbols of {exchange} have ended: {}", named(&change.ended));
    }
}

/// `AUSDT, BUSDT and 7 more`.
pub fn named(symbols: &BTreeSet<Symbol>) -> String {
    let names: Vec<&str> = symbols.iter().take(NAMED_MAX).map(Symbol::as_str).collect();
    let more = symbols.len().saturating_sub(NAMED_MAX);
    names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
