//! Repairs against an exchange that skips ids, drops old rows, lags and fails.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Deps;
use super::repair::repair;
use crate::cache::PendingUpdates;
use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::rest::{Rest, RestOptions};
use crate::exchange::spec::{ChannelKind, ChannelSpec, Refill, Spec};
use crate::gap::{Evidence, Gap, GapState, Range, RangeSet};
use crate::health::Health;
use crate::history::GapFilter;
use crate::history::embedded::EmbeddedHistory;
use crate::ledger::SharedLedger;
use crate::market::{Exchange, Interval, Stream, Timestamp};
use crate::writer::Writer;

/// Exchange time at which trade 0 happened; trade n happened n seconds later.
pub(super) const BEGIN_MS: i64 = 1_700_000_000_000;
pub(super) const NEWEST: i64 = 5_000;

/// The trades of an exchange, and which of them it serves.
#[derive(Debug, Default)]
pub(super) struct FakeExchange {
    /// Ids and minutes that it does not serve.
    pub(super) never: BTreeSet<i64>,
    /// The lowest served id.
    floor: i64,
    /// The highest id served yet.
    pub(super) shown_to: i64,
    /// How many of the next requests fail with 503.
    failures: u32,
    /// It says that it does not know the symbol.
    is_unknown: bool,
    ignores_from: bool,
    /// Most rows per answer; 0 means no limit.
    rows_max: usize,
    /// Trades that appear after each answer.
    growth: i64,
    /// The minute, counted from 1970, of the first kline.
    pub(super) listed_minute: i64,
    /// Its clock minus ours; without it the exchange does not return its time.
    pub(super) skew_ms: Option<i64>,
}

impl FakeExchange {
    fn serves(&self, id: i64) -> bool {
        id >= self.floor && id <= self.shown_to && id <= NEWEST && !self.never.contains(&id)
    }
}

pub(super) struct Harness {
    pub(super) exchange: Arc<Mutex<FakeExchange>>,
    pub(super) deps: Deps,
    pub(super) stop: CancellationToken,
    _directory: TempDir,
}

type Params = Query<HashMap<String, String>>;

async fn historical(
    State(exchange): State<Arc<Mutex<FakeExchange>>>,
    Query(params): Params,
) -> Result<String, (StatusCode, String)> {
    let mut exchange = exchange.lock().unwrap();
    if exchange.failures > 0 {
        exchange.failures -= 1;
        return Err((StatusCode::SERVICE_UNAVAILABLE, String::new()));
    }
    if exchange.is_unknown {
        return Err((StatusCode::BAD_REQUEST, json!({"code": -1121, "msg": "Invalid symbol."}).to_string()));
    }
    let number = |name: &str| params.get(name).and_then(|text| text.parse::<i64>().ok());
    let limit = number("limit").unwrap_or(500);
    let from = number("fromId").filter(|_| !exchange.ignores_from).unwrap_or(NEWEST + 1 - limit);
    let row = |id: i64| {
        json!({"id": id, "price": "1.5", "qty": "2", "quoteQty": "3", "time": BEGIN_MS + id * 1_000,
               "isBuyerMaker": true, "isBestMatch": true})
    };
    let limit = if exchange.rows_max == 0 { limit as usize } else { exchange.rows_max.min(limit as usize) };
    let ids = (from.max(0)..=NEWEST).filter(|id| exchange.serves(*id)).take(limit);
    let answer = Value::from(ids.map(row).collect::<Vec<_>>()).to_string();
    exchange.shown_to = exchange.shown_to.saturating_add(exchange.growth);
    Ok(answer)
}

/// The first trade at or after `startTime`; these tests request nothing else.
async fn aggregates(State(exchange): State<Arc<Mutex<FakeExchange>>>, Query(params): Params) -> String {
    let at: i64 = params["startTime"].parse().unwrap();
    let id = ((at - BEGIN_MS).max(0) + 999) / 1_000;
    let row =
        json!({"a": id, "p": "1.5", "q": "2", "f": id, "l": id, "T": BEGIN_MS + id * 1_000, "m": true, "M": true});
    let is_shown = id <= NEWEST.min(exchange.lock().unwrap().shown_to);
    Value::from(if is_shown { vec![row] } else { vec![] }).to_string()
}

/// Klines since `listed_minute`, without trades.
async fn klines(State(exchange): State<Arc<Mutex<FakeExchange>>>, Query(params): Params) -> String {
    let exchange = exchange.lock().unwrap();
    let step = params["interval"].parse::<Interval>().unwrap().micros() / 60_000_000;
    let minute = |name: &str| params[name].parse::<i64>().unwrap() / 60_000;
    let first = minute("startTime").max(exchange.listed_minute);
    let row = |minute: i64| {
        let (open, z) = (minute * 60_000, "0");
        json!([open, "1", "1", "1", "1", z, open + step * 60_000 - 1, z, 0, z, z, z])
    };
    let limit: usize = params["limit"].parse().unwrap();
    let served = |minute: &i64| minute % step == 0 && !exchange.never.contains(minute);
    Value::from((first..=minute("endTime")).filter(served).take(limit).map(row).collect::<Vec<_>>()).to_string()
}

impl Harness {
    pub(super) async fn new(exchange: FakeExchange) -> Self {
        // The exchange's newest trade is a second old. Time runs a thousand times faster, so that the budget's minutes
        // pass.
        let began = Instant::now();
        let now = (BEGIN_MS + NEWEST * 1_000 + 1_000) * 1_000;
        let clock = Clock::from_fn(move || Timestamp(now + began.elapsed().as_micros() as i64 * 1_000));
        Self::with_clock(exchange, clock).await
    }

    async fn with_clock(exchange: FakeExchange, clock: Clock) -> Self {
        Self::as_venue(Arc::new(Binance), exchange, clock).await
    }

    pub(super) async fn as_venue(dialect: Arc<dyn Dialect>, exchange: FakeExchange, clock: Clock) -> Self {
        let exchange = Arc::new(Mutex::new(exchange));
        let (theirs, skewed) = (clock.clone(), exchange.clone());
        let time = move || async move {
            let skew_ms = skewed.lock().unwrap().skew_ms.ok_or(StatusCode::NOT_FOUND)?;
            Ok::<_, StatusCode>(json!({"serverTime": theirs.now().millis() + skew_ms}).to_string())
        };
        let routes = axum::Router::new()
            .route("/api/v3/historicalTrades", get(historical))
            .route("/api/v3/aggTrades", get(aggregates))
            .route("/api/v3/klines", get(klines))
            .route("/api/v3/time", get(time))
            .with_state(exchange.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let directory = TempDir::new().unwrap();
        let history = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        let options = RestOptions { base: Some(base), ..RestOptions::default() };
        let rest = Rest::new(dialect.clone(), options, clock.clone(), None).unwrap();
        let deps = Deps {
            rest: HashMap::from([(Exchange::named("binance"), Arc::new(rest))]),
            dialects: HashMap::from([(Exchange::named("binance"), dialect)]),
            writer: Writer::new(history, Arc::new(PendingUpdates::default()), Health::default()),
            ledger: SharedLedger::default(),
            clock,
            rows: Arc::default(),
            confirm_after: Duration::ZERO,
            answers: Arc::default(),
        };
        Self { exchange, deps, stop: CancellationToken::new(), _directory: directory }
    }

    pub(super) async fn open(&self, first: i64, last: i64) -> Gap {
        let evidence = Evidence { by: "manual".to_owned(), ..Evidence::default() };
        self.deps.open(&stream(), Range { first, last }, &evidence).await.unwrap().remove(0)
    }

    /// Repairs every open gap, `attempts` times.
    pub(super) async fn attempt(&self, attempts: usize) {
        for _ in 0..attempts {
            let gaps: Vec<Gap> = self.deps.ledger.with(|ledger| ledger.rows().cloned().collect());
            for gap in gaps {
                repair(&self.deps, gap, &self.stop).await;
            }
        }
    }

    /// Every row that is not superseded: range, state, reason.
    async fn rows(&self) -> Vec<(i64, i64, GapState, String)> {
        let gaps = self.deps.history().gaps(&GapFilter::default()).await.unwrap();
        let mut rows: Vec<_> = gaps
            .into_iter()
            .filter(|gap| gap.state != GapState::Superseded)
            .map(|gap| (gap.range.first, gap.range.last, gap.state, gap.reason))
            .collect();
        rows.sort_by_key(|row| row.0);
        rows
    }

    async fn states(&self) -> Vec<(i64, i64, GapState)> {
        self.rows().await.into_iter().map(|(first, last, state, _)| (first, last, state)).collect()
    }
}

pub(super) fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

pub(super) fn complete_exchange() -> FakeExchange {
    FakeExchange { shown_to: i64::MAX, ..FakeExchange::default() }
}

#[tokio::test]
async fn a_served_range_is_filled_and_names_its_source() {
    let harness = Harness::new(complete_exchange()).await;
    harness.open(10, 2_500).await;
    harness.attempt(1).await;
    let gaps = harness.deps.history().gaps(&GapFilter::default()).await.unwrap();
    let [gap] = &gaps[..] else { panic!("{gaps:?}") };
    assert_eq!((gap.state, gap.filled, gap.filled_by.as_str()), (GapState::Filled, 2_491, "rest"));
    assert!(gap.filled_at.is_some() && gap.filled_at <= gap.closed_at);
}

#[tokio::test]
async fn a_gap_that_no_frame_revealed_names_the_rows_around_it() {
    let harness = Harness::new(complete_exchange()).await;
    harness.open(10, 20).await;
    harness.open(24, 30).await;
    harness.attempt(1).await;
    let between = harness.open(21, 23).await;
    assert_eq!((between.evidence.previous, between.evidence.next), (Some(20), Some(24)));
    let trades = harness.deps.history().trades(&stream(), Range { first: 20, last: 24 }, 5).await.unwrap();
    let [.., before, after] = &trades[..] else { panic!("{trades:?}") };
    let (before, after) = (before.trade.ts, after.trade.ts);
    assert_eq!((between.from_ts, between.to_ts), (Some(before), Some(after)));
    let behind = harness.open(31, 40).await;
    assert_eq!((behind.evidence.next, behind.to_ts), (None, None), "no row after it is known");
    assert!(behind.from_ts > between.to_ts, "{behind:?}");
}

#[tokio::test]
async fn a_range_older_than_all_served_rows_is_unrecoverable_and_says_until_when_it_was_served() {
    let harness = Harness::new(FakeExchange { floor: 1_000, ..complete_exchange() }).await;
    harness.open(1, 2).await;
    harness.attempt(2).await;
    assert_eq!(harness.states().await, [(1, 2, GapState::Open)], "confirmed only after three attempts");
    harness.attempt(1).await;
    let rows = harness.rows().await;
    let (1, 2, GapState::Unrecoverable, reason) = &rows[0] else { panic!("{rows:?}") };
    assert!(reason.contains("oldest is 1000 of 2023-11-14T22:30:00"), "{reason}");
    assert!(reason.contains("would have been served until 20"), "{reason}");
    // It is settled and does not open again.
    let evidence = Evidence::default();
    assert!(harness.deps.open(&stream(), Range { first: 1, last: 2 }, &evidence).await.unwrap().is_empty());
}

/// Binance, with another refill of its trades.
fn refilled_by(refill: Refill) -> ChangedDialect {
    ChangedDialect::new(Binance, |spec| {
        let changed = |channel: &ChannelSpec| match channel.kind {
            ChannelKind::Trade => ChannelSpec { refill, ..*channel },
            _ => *channel,
        };
        let channels: Vec<ChannelSpec> = spec.channels.iter().map(changed).collect();
        Spec { channels: channels.leak(), ..spec }
    })
}

#[tokio::test]
async fn of_a_channel_that_rest_never_returns_a_gap_is_unrecoverable_at_once() {
    let dialect = Arc::new(refilled_by(Refill::Never));
    let clock = Clock::from_fn(|| Timestamp((BEGIN_MS + NEWEST * 1_000 + 1_000) * 1_000));
    let mut harness = Harness::as_venue(dialect, complete_exchange(), clock).await;
    harness.deps.confirm_after = Duration::from_secs(6 * 3_600);
    harness.open(100, 120).await;
    harness.attempt(1).await;
    let rows = harness.rows().await;
    let [(100, 120, GapState::Unrecoverable, reason)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(reason, "Binance Spot returns no lost trade over its public REST");
    assert_eq!(harness.deps.rest[&Exchange::named("binance")].status().requests, 0, "nothing was asked");
}

#[tokio::test]
async fn of_a_venue_that_serves_only_its_newest_rows_older_ones_are_lost_once_it_shows_all_of_those() {
    const MINUTES: i64 = 60_000_000;
    let began = Instant::now();
    let clock = Clock::from_fn(move || {
        Timestamp((BEGIN_MS + NEWEST * 1_000 + 1_000) * 1_000 + began.elapsed().as_micros() as i64 * 1_000)
    });
    let exchange = FakeExchange { floor: NEWEST - 59, rows_max: 5, ..complete_exchange() };
    let mut harness = Harness::as_venue(Arc::new(refilled_by(Refill::Recent(60))), exchange, clock.clone()).await;
    harness.deps.confirm_after = Duration::from_secs(6 * 3_600);
    let opened_at = clock.now();
    harness.open(100, 120).await;
    harness.attempt(5).await;
    let states = harness.states().await;
    assert_eq!(states, [(100, 120, GapState::Open)], "five rows of sixty do not say that older ones are gone");
    harness.exchange.lock().unwrap().rows_max = 0;
    harness.attempt(1).await;
    assert_eq!(harness.states().await, [(100, 120, GapState::Unconfirmed)], "one answer is a doubt");
    while harness.states().await == [(100, 120, GapState::Unconfirmed)] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        harness.attempt(1).await;
        assert!(clock.now().since(opened_at) < 60 * MINUTES, "it does not wait for hours");
    }
    let rows = harness.rows().await;
    let [(100, 120, GapState::Unrecoverable, reason)] = &rows[..] else { panic!("{rows:?}") };
    assert!(reason.contains("serves only its newest 60 rows: its oldest is 4941 of"), "{reason}");
}

#[tokio::test]
async fn a_gap_across_the_oldest_served_row_is_split_by_state() {
    let harness =
        Harness::new(FakeExchange { floor: 3_000, never: BTreeSet::from([3_500, 3_501]), ..complete_exchange() }).await;
    let gap = harness.open(500, 3_600).await;
    harness.attempt(3).await;
    let expected = [
        (500, 2_999, GapState::Unrecoverable),
        (3_000, 3_499, GapState::Filled),
        (3_500, 3_501, GapState::NeverExisted),
        (3_502, 3_600, GapState::Filled),
    ];
    assert_eq!(harness.states().await, expected);
    let gaps = harness.deps.history().gaps(&GapFilter::default()).await.unwrap();
    let before = gaps.iter().find(|row| row.gap_id == gap.gap_id).unwrap();
    assert_eq!((before.state, before.filled), (GapState::Superseded, 599));
    assert!(gaps.iter().all(|row| row.gap_id == gap.gap_id || row.evidence.replaces == [gap.gap_id.clone()]));
}

#[tokio::test]
async fn ids_skipped_at_the_edges_of_a_gap_never_existed() {
    for never in [BTreeSet::from([10]), BTreeSet::from([12]), BTreeSet::from([10, 11, 12])] {
        let harness = Harness::new(FakeExchange { never: never.clone(), ..complete_exchange() }).await;
        harness.open(10, 12).await;
        harness.attempt(3).await;
        let rows = harness.states().await;
        let found: BTreeSet<i64> =
            rows.iter().filter(|row| row.2 == GapState::NeverExisted).flat_map(|row| row.0..=row.1).collect();
        assert_eq!(found, never, "{rows:?}");
        assert_eq!(harness.deps.ledger.with(|ledger| ledger.open_count()), (0, 0));
    }
}

#[tokio::test]
async fn a_repair_waits_for_a_database_that_lags() {
    let harness = Harness::new(FakeExchange { shown_to: 4_989, ..FakeExchange::default() }).await;
    harness.open(4_980, 4_999).await;
    harness.attempt(6).await;
    assert_eq!(harness.states().await, [(4_980, 4_999, GapState::Filling)]);
    let (_, missing) = harness.deps.ledger.with(|ledger| ledger.open_count());
    assert_eq!(missing, 10, "filled positions are no longer missing");
    harness.exchange.lock().unwrap().shown_to = i64::MAX;
    harness.attempt(1).await;
    assert_eq!(harness.states().await, [(4_980, 4_999, GapState::Filled)]);
}

#[tokio::test]
async fn a_short_page_proves_nothing_about_later_positions() {
    let harness =
        Harness::new(FakeExchange { rows_max: 7, never: BTreeSet::from([50, 51]), ..complete_exchange() }).await;
    harness.open(10, 190).await;
    harness.attempt(3).await;
    let expected = [(10, 49, GapState::Filled), (50, 51, GapState::NeverExisted), (52, 190, GapState::Filled)];
    assert_eq!(harness.states().await, expected);
}

#[tokio::test]
async fn a_database_that_catches_up_between_two_answers_has_skipped_nothing() {
    let harness = Harness::new(FakeExchange { shown_to: 4_989, ..FakeExchange::default() }).await;
    harness.open(4_980, 4_995).await;
    harness.attempt(2).await;
    // In the attempt that may confirm, one answer lacks the gap and the next one shows rows above it.
    harness.exchange.lock().unwrap().growth = 10;
    harness.attempt(2).await;
    assert_eq!(harness.states().await, [(4_980, 4_995, GapState::Filled)]);
}

#[tokio::test]
async fn many_skipped_ranges_are_settled_together() {
    let never: BTreeSet<i64> = (1..20).map(|n| n * 200).collect();
    let harness = Harness::new(FakeExchange { never: never.clone(), rows_max: 150, ..complete_exchange() }).await;
    harness.open(100, 4_500).await;
    harness.attempt(4).await;
    assert_eq!(settled(&harness).await, never);
    assert_eq!(harness.deps.ledger.with(|ledger| ledger.open_count()), (0, 0), "{:?}", harness.rows().await);
}

#[tokio::test]
async fn klines_before_a_listing_are_unrecoverable_and_later_ones_are_filled() {
    let listed_minute = BEGIN_MS / 60_000 - 3_000;
    let harness = Harness::new(FakeExchange { listed_minute, ..complete_exchange() }).await;
    let minute = |n: i64| (listed_minute + n) * 60_000_000;
    let range = Range { first: minute(-2_500), last: minute(2_500) };
    harness.deps.open(&"binance:BTCUSDT:kline_1m".parse().unwrap(), range, &Evidence::default()).await.unwrap();
    harness.attempt(3).await;
    let expected =
        [(minute(-2_500), minute(-1), GapState::Unrecoverable), (minute(0), minute(2_500), GapState::Filled)];
    assert_eq!(harness.states().await, expected);
}

#[tokio::test]
async fn a_server_that_ignores_where_a_page_begins_proves_nothing() {
    let harness = Harness::new(FakeExchange { ignores_from: true, ..complete_exchange() }).await;
    harness.open(1, 2).await;
    harness.attempt(6).await;
    assert_eq!(harness.states().await, [(1, 2, GapState::Open)]);
}

#[tokio::test]
async fn a_repair_does_not_overwrite_a_row_that_was_superseded() {
    let harness = Harness::new(complete_exchange()).await;
    let gap = harness.open(10, 20).await;
    assert_eq!(harness.deps.supersede(|_| false, "its feed was removed").await.unwrap(), 1);
    repair(&harness.deps, gap, &harness.stop).await;
    let gaps = harness.deps.history().gaps(&GapFilter::default()).await.unwrap();
    assert_eq!((gaps.len(), gaps[0].state), (1, GapState::Superseded));
    assert_eq!(harness.deps.ledger.with(|ledger| ledger.open_count()), (0, 0));
}

/// For any ids that the exchange skipped, dropped or does not serve yet, and for any failures: after every attempt the
/// open gaps are what is missing and not settled, and at the end every gap is settled correctly.
#[tokio::test]
async fn the_ledger_agrees_with_history_however_the_exchange_behaves() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let never: BTreeSet<i64> = (0..random.random_range(0..30)).map(|_| random.random_range(1_000..2_000)).collect();
        let (floor, rows_max) = (random.random_range(0..1_500), random.random_range(20..200));
        let growth = random.random_range(0..3);
        let exchange =
            FakeExchange { floor, never: never.clone(), shown_to: 1_800, rows_max, growth, ..FakeExchange::default() };
        let harness = Harness::new(exchange).await;
        let mut requested = RangeSet::new(1);
        for _ in 0..random.random_range(1..8) {
            let first = random.random_range(1_000..2_000);
            let range = Range { first, last: (first + random.random_range(0..300)).min(2_000) };
            requested.insert(range);
            let by = ["neighbour", "tail", "since"][random.random_range(0..3)].to_owned();
            harness.deps.open(&stream(), range, &Evidence { by, ..Evidence::default() }).await.unwrap();
            harness.exchange.lock().unwrap().failures = random.random_range(0..3);
            harness.attempt(1).await;
            let case = format!("seed {seed}, round {round}");
            let missing = missing(&harness, &requested).await;
            let settled = settled(&harness).await;
            let open: BTreeSet<i64> = harness.deps.ledger.with(|ledger| ids(ledger.rows()));
            let unexplained: BTreeSet<i64> = missing.difference(&settled).copied().collect();
            assert!(open.is_superset(&unexplained), "{case}: missing and not open: {unexplained:?} {open:?}");
            assert!(open.is_disjoint(&settled), "{case}: settled and open");
        }
        {
            let mut exchange = harness.exchange.lock().unwrap();
            (exchange.failures, exchange.shown_to) = (0, i64::MAX);
        }
        harness.attempt(8).await;
        let case = format!("seed {seed}, round {round}, floor {floor}");
        assert_eq!(
            harness.deps.ledger.with(|ledger| ledger.open_count()),
            (0, 0),
            "{case}: {:?}",
            harness.rows().await
        );
        let serves = |id: &i64| *id >= floor && !never.contains(id);
        let expected: BTreeSet<i64> =
            requested.iter().flat_map(|range| range.first..=range.last).filter(|id| !serves(id)).collect();
        assert_eq!(missing(&harness, &requested).await, expected, "{case}");
        assert_eq!(settled(&harness).await, expected, "{case}");
    }
}

fn ids<'a>(rows: impl Iterator<Item = &'a Gap>) -> BTreeSet<i64> {
    rows.flat_map(|gap| gap.range.first..=gap.range.last).collect()
}

async fn missing(harness: &Harness, requested: &RangeSet) -> BTreeSet<i64> {
    let mut missing = BTreeSet::new();
    for range in requested.iter() {
        let ranges = harness.deps.history().missing(&stream(), range, 10_000).await.unwrap();
        missing.extend(ranges.into_iter().flat_map(|range| range.first..=range.last));
    }
    missing
}

async fn settled(harness: &Harness) -> BTreeSet<i64> {
    let gaps = harness.deps.history().gaps(&GapFilter::default()).await.unwrap();
    ids(gaps.iter().filter(|gap| matches!(gap.state, GapState::NeverExisted | GapState::Unrecoverable)))
}

#[path = "doubt_tests.rs"]
mod doubt_tests;
