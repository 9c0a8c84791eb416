//! The state that the parts of the simulated exchange share: symbols, truth, connections, clock and faults.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acceptor::Outage;
use super::batches::batched;
use super::broadcaster::Broadcaster;
use super::budget::Budgets;
use super::counters::Counters;
use super::faulty_link::{FaultyLink, OutgoingFrame};
use super::lies::Position;
use super::lies::numbering::Numbering;
use super::lies::rest::{RestLie, RestLies, Rows};
use super::lies::socket::SocketLies;
use super::truth::Truth;
use super::venue::Venue;
use super::{Limits, locked};
use crate::clock::Clock;
use crate::market::{Symbol, Timestamp};

/// The exchange's own clock.
#[derive(Debug)]
pub struct ExchangeTime {
    start: Timestamp,
    since: Instant,
    scale: f64,
    /// The latest time played from a capture, in microseconds; unset when the clock runs on its own.
    played: OnceLock<AtomicI64>,
    /// How far the clock is off, in microseconds, and until when.
    jump: Mutex<Option<(i64, Instant)>>,
}

impl ExchangeTime {
    /// A clock that starts at the machine's time and runs `scale` times as fast.
    pub fn running(clock: &Clock, scale: f64) -> Self {
        Self { start: clock.now(), since: Instant::now(), scale, played: OnceLock::new(), jump: Mutex::default() }
    }

    /// The exchange's present time, as it tells its clients: wrong while a fault makes the clock jump.
    pub fn now(&self) -> Timestamp {
        self.market_now().plus_micros(self.jump_us())
    }

    /// How far the clock is off now, in microseconds.
    pub fn jump_us(&self) -> i64 {
        locked(&self.jump).filter(|(_, until)| *until > Instant::now()).map_or(0, |(jump_us, _)| jump_us)
    }

    /// Makes the clock jump until then.
    pub fn jump(&self, jump_us: i64, until: Instant) {
        *locked(&self.jump) = Some((jump_us, until));
    }

    /// The time at which the market trades; no fault changes it.
    pub fn market_now(&self) -> Timestamp {
        match self.played.get() {
            Some(played) => Timestamp(played.load(Ordering::Relaxed)),
            None => self.start.plus_micros((self.since.elapsed().as_micros() as f64 * self.scale) as i64),
        }
    }

    /// The exchange's time after `wait` of the wall clock.
    pub fn after(&self, wait: Duration) -> Timestamp {
        self.now().plus_micros((wait.as_micros() as f64 * self.scale) as i64)
    }

    /// Sets the clock to the time of a played frame; from the first call on it only moves this way, and never back.
    pub fn play(&self, at: Timestamp) {
        self.played.get_or_init(|| AtomicI64::new(at.micros())).fetch_max(at.micros(), Ordering::Relaxed);
    }
}

/// The faults of REST.
#[derive(Debug, Default)]
pub struct RestFaults {
    /// Answer with this status until then.
    pub refuse: Option<(u16, Instant)>,
    /// Answer 429 until then.
    pub limited_until: Option<Instant>,
    /// How far the database lags behind.
    pub lag: Duration,
    /// What it says wrong.
    pub lies: RestLies,
}

/// The simulated exchange.
#[derive(Debug)]
pub struct ExchangeState {
    /// Its symbols in the order they were given.
    pub symbols: Vec<Symbol>,
    /// How it speaks.
    pub venue: Venue,
    /// Whether the trades of one order form one aggregate trade.
    pub aggregated: bool,
    /// The rules for clients.
    pub limits: Limits,
    /// The exchange's clock.
    pub time: ExchangeTime,
    /// Everything that was published.
    pub truths: Mutex<HashMap<Symbol, Truth>>,
    /// The connections.
    pub broadcaster: Broadcaster,
    /// The faults of frames.
    pub link: Mutex<FaultyLink>,
    /// What the faults have done.
    pub counters: Mutex<Counters>,
    /// The faults of REST.
    pub rest: Mutex<RestFaults>,
    /// What the WebSocket answers wrongly.
    pub socket_lies: Mutex<SocketLies>,
    /// Changes of the numbering that the market has not made yet.
    pub changes: Mutex<Vec<Numbering>>,
    /// The symbols that the exchange has ceased to list.
    pub delisted: Mutex<BTreeSet<Symbol>>,
    /// Whether the market is generated, so that its numbering can change.
    pub is_generated: bool,
    /// The request weight in use.
    pub budgets: Mutex<Budgets>,
    /// Refuses connections while it is active.
    pub outage: Arc<Outage>,
    /// Each symbol's last trade id in the capture; empty without a capture.
    pub capture_ends: BTreeMap<Symbol, i64>,
    /// Cancelled when the market opens; scheduled faults count from here.
    pub opened: CancellationToken,
    /// Cancelled when the market must halt.
    pub halt: CancellationToken,
    /// Cancelled when nothing more will be published.
    pub finished: CancellationToken,
    /// Cancelled when the simulated exchange must end.
    pub stop: CancellationToken,
}

impl ExchangeState {
    /// An exchange with an empty truth and no connections.
    pub fn new(
        venue: Venue,
        symbols: Vec<Symbol>,
        aggregated: bool,
        limits: Limits,
        time: ExchangeTime,
        stop: CancellationToken,
    ) -> Self {
        Self {
            venue,
            truths: Mutex::new(symbols.iter().map(|symbol| (symbol.clone(), Truth::default())).collect()),
            symbols,
            aggregated,
            broadcaster: Broadcaster::new(limits.queue_bytes_max),
            rest: Mutex::new(RestFaults { lag: limits.lag, ..RestFaults::default() }),
            socket_lies: Mutex::default(),
            changes: Mutex::default(),
            delisted: Mutex::default(),
            is_generated: false,
            budgets: Mutex::new(Budgets::new(&limits)),
            limits,
            time,
            link: Mutex::default(),
            counters: Mutex::default(),
            outage: Arc::default(),
            capture_ends: BTreeMap::new(),
            opened: CancellationToken::new(),
            halt: CancellationToken::new(),
            finished: CancellationToken::new(),
            stop,
        }
    }

    /// Whether this symbol is listed.
    pub fn lists(&self, symbol: &str) -> bool {
        self.symbols.iter().any(|listed| listed.as_str() == symbol) && !locked(&self.delisted).contains(symbol)
    }

    /// The listed symbols.
    pub fn listed(&self) -> Vec<Symbol> {
        let delisted = locked(&self.delisted);
        self.symbols.iter().filter(|symbol| !delisted.contains(*symbol)).cloned().collect()
    }

    /// The number of published trades of all symbols.
    pub fn trade_count(&self) -> usize {
        locked(&self.truths).values().map(Truth::trade_count).sum()
    }

    /// Applies the faults of frames, and hides from REST the trades that a `hole` lost.
    pub fn pass(&self, frames: Vec<OutgoingFrame>) -> Vec<OutgoingFrame> {
        let now = Instant::now();
        let (passed, holes) = {
            let mut counters = locked(&self.counters);
            let mut link = locked(&self.link);
            (link.pass(frames, now, &mut counters), link.take_holes())
        };
        if !holes.is_empty() {
            let lies = &mut locked(&self.rest).lies;
            for (symbol, (first, last), time) in holes {
                let rows = Rows::Trades(Position::At(first), Position::At(last));
                lies.begin(RestLie::Hide(symbol, rows), now + time, now);
            }
        }
        batched(self.venue.peer(), passed, self.limits.trades_per_frame)
    }

    /// Sends frames through the faulty link to the connections. Call it without frames too: some faults end by time.
    pub fn send(&self, frames: Vec<OutgoingFrame>) {
        let passed = self.pass(frames);
        if passed.is_empty() {
            return;
        }
        let (stalled, slow) = self.broadcaster.deliver(passed);
        let mut counters = locked(&self.counters);
        counters.frames_stalled += stalled;
        counters.connections_slow += slow;
    }
}
