//! Repairs against an exchange that skips, forgets, lags and fails.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::repair::repair;
use super::*;
use crate::cache::PendingUpdates;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;
use crate::gap::RangeSet;
use crate::health::Health;
use crate::history::GapFilter;
use crate::history::embedded::EmbeddedHistory;
use crate::market::Stream;

/// Exchange time at which trade 0 happened; trade n happened n seconds later.
pub(super) const BEGIN_MS: i64 = 1_700_000_000_000;
pub(super) const NEWEST: i64 = 5_000;

/// What an exchange has and what of it it serves.
#[derive(Debug, Default)]
pub(super) struct Market {
    never: BTreeSet<i64>,
    /// Nothing older is served.
    floor: i64,
    /// Nothing newer is served yet.
    pub(super) shown_to: i64,
    /// Answers with 503 from now on.
    failures: u32,
    ignores_from: bool,
    /// Fewer rows than were asked for; 0 is no limit of its own.
    rows_max: usize,
    /// Trades that appear after each answer.
    growth: i64,
    /// The minute, counted from 1970, of the first kline.
    listed_minute: i64,
    /// Its clock minus ours; it does not tell the time when there is none.
    pub(super) skew_ms: Option<i64>,
}

impl Market {
    fn serves(&self, id: i64) -> bool {
        id >= self.floor && id <= self.shown_to && id <= NEWEST && !self.never.contains(&id)
    }
}

pub(super) struct Bench {
    pub(super) market: Arc<Mutex<Market>>,
    pub(super) parts: Parts,
    pub(super) stop: CancellationToken,
    _directory: TempDir,
}

type Asked = Query<HashMap<String, String>>;

async fn historical(State(market): State<Arc<Mutex<Market>>>, Query(asked): Asked) -> Result<String, StatusCode> {
    let mut market = market.lock().unwrap();
    if market.failures > 0 {
        market.failures -= 1;
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let number = |name: &str| asked.get(name).and_then(|text| text.parse::<i64>().ok());
    let limit = number("limit").unwrap_or(500);
    let from = number("fromId").filter(|_| !market.ignores_from).unwrap_or(NEWEST + 1 - limit);
    let row = |id: i64| {
        json!({"id": id, "price": "1.5", "qty": "2", "quoteQty": "3", "time": BEGIN_MS + id * 1_000,
               "isBuyerMaker": true, "isBestMatch": true})
    };
    let limit = if market.rows_max == 0 { limit as usize } else { market.rows_max.min(limit as usize) };
    let ids = (from.max(0)..=NEWEST).filter(|id| market.serves(*id)).take(limit);
    let answer = Value::from(ids.map(row).collect::<Vec<_>>()).to_string();
    market.shown_to = market.shown_to.saturating_add(market.growth);
    Ok(answer)
}

/// The first trade at or after `startTime`, which is all that is asked for here.
async fn aggregates(State(market): State<Arc<Mutex<Market>>>, Query(asked): Asked) -> String {
    let at: i64 = asked["startTime"].parse().unwrap();
    let id = ((at - BEGIN_MS).max(0) + 999) / 1_000;
    let row =
        json!({"a": id, "p": "1.5", "q": "2", "f": id, "l": id, "T": BEGIN_MS + id * 1_000, "m": true, "M": true});
    let is_shown = id <= NEWEST.min(market.lock().unwrap().shown_to);
    Value::from(if is_shown { vec![row] } else { vec![] }).to_string()
}

/// Klines of one minute since `listed_minute`, no trades in them.
async fn klines(State(market): State<Arc<Mutex<Market>>>, Query(asked): Asked) -> String {
    let minute = |name: &str| asked[name].parse::<i64>().unwrap() / 60_000;
    let first = minute("startTime").max(market.lock().unwrap().listed_minute);
    let row = |minute: i64| {
        let (open, z) = (minute * 60_000, "0");
        json!([open, "1", "1", "1", "1", z, open + 59_999, z, 0, z, z, z])
    };
    let limit: usize = asked["limit"].parse().unwrap();
    Value::from((first..=minute("endTime")).take(limit).map(row).collect::<Vec<_>>()).to_string()
}

impl Bench {
    pub(super) async fn new(market: Market) -> Self {
        // The exchange's newest trade is a second old; time then runs a thousand times as fast, so that the budget's
        // minutes pass.
        let began = Instant::now();
        let now = (BEGIN_MS + NEWEST * 1_000 + 1_000) * 1_000;
        let clock = Clock::from_fn(move || Timestamp(now + began.elapsed().as_micros() as i64 * 1_000));
        let market = Arc::new(Mutex::new(market));
        let (theirs, skewed) = (clock.clone(), market.clone());
        let time = move || async move {
            let skew_ms = skewed.lock().unwrap().skew_ms.ok_or(StatusCode::NOT_FOUND)?;
            Ok::<_, StatusCode>(json!({"serverTime": theirs.now().millis() + skew_ms}).to_string())
        };
        let routes = axum::Router::new()
            .route("/api/v3/historicalTrades", get(historical))
            .route("/api/v3/aggTrades", get(aggregates))
            .route("/api/v3/klines", get(klines))
            .route("/api/v3/time", get(time))
            .with_state(market.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let directory = TempDir::new().unwrap();
        let history = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        let options = RestOptions { base: Some(base), ..RestOptions::default() };
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let rest = Rest::new(dialect.clone(), options, clock.clone(), None).unwrap();
        let parts = Parts {
            rest: HashMap::from([(Exchange::Binance, Arc::new(rest))]),
            dialects: HashMap::from([(Exchange::Binance, dialect)]),
            writer: Writer::new(history, Arc::new(PendingUpdates::default()), Health::default()),
            ledger: SharedLedger::default(),
            clock,
            rows: Arc::default(),
        };
        Self { market, parts, stop: CancellationToken::new(), _directory: directory }
    }

    async fn open(&self, first: i64, last: i64) -> Gap {
        let evidence = Evidence { by: "manual".to_owned(), ..Evidence::default() };
        self.parts.open(&stream(), Range { first, last }, &evidence).await.unwrap().remove(0)
    }

    /// Repairs whatever is open, `turns` times.
    async fn turn(&self, turns: usize) {
        for _ in 0..turns {
            let gaps: Vec<Gap> = self.parts.ledger.with(|ledger| ledger.rows().cloned().collect());
            for gap in gaps {
                repair(&self.parts, gap, &self.stop).await;
            }
        }
    }

    /// Every row that is not superseded: range, state, reason.
    async fn rows(&self) -> Vec<(i64, i64, GapState, String)> {
        let gaps = self.parts.history().gaps(&GapFilter::default()).await.unwrap();
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

pub(super) fn whole() -> Market {
    Market { shown_to: i64::MAX, ..Market::default() }
}

#[tokio::test]
async fn what_is_served_is_filled_and_says_by_what() {
    let bench = Bench::new(whole()).await;
    bench.open(10, 2_500).await;
    bench.turn(1).await;
    let gaps = bench.parts.history().gaps(&GapFilter::default()).await.unwrap();
    let [gap] = &gaps[..] else { panic!("{gaps:?}") };
    assert_eq!((gap.state, gap.filled, gap.filled_by.as_str()), (GapState::Filled, 2_491, "rest"));
    assert!(gap.filled_at.is_some() && gap.filled_at <= gap.closed_at);
}

#[tokio::test]
async fn a_gap_that_no_frame_revealed_says_between_which_rows_it_lies() {
    let bench = Bench::new(whole()).await;
    bench.open(10, 20).await;
    bench.open(24, 30).await;
    bench.turn(1).await;
    let between = bench.open(21, 23).await;
    assert_eq!((between.evidence.previous, between.evidence.next), (Some(20), Some(24)));
    let trades = bench.parts.history().trades(&stream(), Range { first: 20, last: 24 }, 5).await.unwrap();
    let [.., before, after] = &trades[..] else { panic!("{trades:?}") };
    let (before, after) = (before.trade.ts, after.trade.ts);
    assert_eq!((between.from_ts, between.to_ts), (Some(before), Some(after)));
    let behind = bench.open(31, 40).await;
    assert_eq!((behind.evidence.next, behind.to_ts), (None, None), "nothing is known of what comes after it");
    assert!(behind.from_ts > between.to_ts, "{behind:?}");
}

#[tokio::test]
async fn what_is_older_than_all_that_is_served_is_unrecoverable_and_says_until_when_it_was_not() {
    let bench = Bench::new(Market { floor: 1_000, ..whole() }).await;
    bench.open(1, 2).await;
    bench.turn(2).await;
    assert_eq!(bench.states().await, [(1, 2, GapState::Open)], "believed only when asked three times");
    bench.turn(1).await;
    let rows = bench.rows().await;
    let (1, 2, GapState::Unrecoverable, reason) = &rows[0] else { panic!("{rows:?}") };
    assert!(reason.contains("oldest is 1000 of 2023-11-14T22:30:00"), "{reason}");
    assert!(reason.contains("would have been served until 20"), "{reason}");
    // It is settled: nobody opens it again.
    let evidence = Evidence::default();
    assert!(bench.parts.open(&stream(), Range { first: 1, last: 2 }, &evidence).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_gap_over_the_edge_of_what_is_served_is_split_into_what_became_of_it() {
    let bench = Bench::new(Market { floor: 3_000, never: BTreeSet::from([3_500, 3_501]), ..whole() }).await;
    let gap = bench.open(500, 3_600).await;
    bench.turn(3).await;
    let expected = [
        (500, 2_999, GapState::Unrecoverable),
        (3_000, 3_499, GapState::Filled),
        (3_500, 3_501, GapState::NeverExisted),
        (3_502, 3_600, GapState::Filled),
    ];
    assert_eq!(bench.states().await, expected);
    let gaps = bench.parts.history().gaps(&GapFilter::default()).await.unwrap();
    let before = gaps.iter().find(|row| row.gap_id == gap.gap_id).unwrap();
    assert_eq!((before.state, before.filled), (GapState::Superseded, 599));
    assert!(gaps.iter().all(|row| row.gap_id == gap.gap_id || row.evidence.replaces == [gap.gap_id.clone()]));
}

#[tokio::test]
async fn ids_skipped_at_the_edges_of_a_gap_never_existed() {
    for never in [BTreeSet::from([10]), BTreeSet::from([12]), BTreeSet::from([10, 11, 12])] {
        let bench = Bench::new(Market { never: never.clone(), ..whole() }).await;
        bench.open(10, 12).await;
        bench.turn(3).await;
        let rows = bench.states().await;
        let found: BTreeSet<i64> =
            rows.iter().filter(|row| row.2 == GapState::NeverExisted).flat_map(|row| row.0..=row.1).collect();
        assert_eq!(found, never, "{rows:?}");
        assert_eq!(bench.parts.ledger.with(|ledger| ledger.open_count()), (0, 0));
    }
}

#[tokio::test]
async fn a_database_that_lags_is_waited_for() {
    let bench = Bench::new(Market { shown_to: 4_989, ..Market::default() }).await;
    bench.open(4_980, 4_999).await;
    bench.turn(6).await;
    assert_eq!(bench.states().await, [(4_980, 4_999, GapState::Filling)]);
    let (_, missing) = bench.parts.ledger.with(|ledger| ledger.open_count());
    assert_eq!(missing, 10, "what came back is no longer missing");
    bench.market.lock().unwrap().shown_to = i64::MAX;
    bench.turn(1).await;
    assert_eq!(bench.states().await, [(4_980, 4_999, GapState::Filled)]);
}

#[tokio::test]
async fn a_short_page_says_nothing_of_what_lies_behind_its_last_row() {
    let bench = Bench::new(Market { rows_max: 7, never: BTreeSet::from([50, 51]), ..whole() }).await;
    bench.open(10, 190).await;
    bench.turn(3).await;
    let expected = [(10, 49, GapState::Filled), (50, 51, GapState::NeverExisted), (52, 190, GapState::Filled)];
    assert_eq!(bench.states().await, expected);
}

#[tokio::test]
async fn a_database_that_catches_up_between_two_answers_has_skipped_nothing() {
    let bench = Bench::new(Market { shown_to: 4_989, ..Market::default() }).await;
    bench.open(4_980, 4_995).await;
    bench.turn(2).await;
    // At the attempt that may be believed it shows what lies behind the gap one answer after it did not show the gap.
    bench.market.lock().unwrap().growth = 10;
    bench.turn(2).await;
    assert_eq!(bench.states().await, [(4_980, 4_995, GapState::Filled)]);
}

#[tokio::test]
async fn many_places_that_the_exchange_skipped_are_settled_together() {
    let never: BTreeSet<i64> = (1..20).map(|n| n * 200).collect();
    let bench = Bench::new(Market { never: never.clone(), rows_max: 150, ..whole() }).await;
    bench.open(100, 4_500).await;
    bench.turn(4).await;
    assert_eq!(settled(&bench).await, never);
    assert_eq!(bench.parts.ledger.with(|ledger| ledger.open_count()), (0, 0), "{:?}", bench.rows().await);
}

#[tokio::test]
async fn klines_from_before_a_listing_on_are_served_since_the_listing() {
    let listed_minute = BEGIN_MS / 60_000 - 3_000;
    let bench = Bench::new(Market { listed_minute, ..whole() }).await;
    let minute = |n: i64| (listed_minute + n) * 60_000_000;
    let range = Range { first: minute(-2_500), last: minute(2_500) };
    bench.parts.open(&"binance:BTCUSDT:kline_1m".parse().unwrap(), range, &Evidence::default()).await.unwrap();
    bench.turn(3).await;
    let expected =
        [(minute(-2_500), minute(-1), GapState::Unrecoverable), (minute(0), minute(2_500), GapState::Filled)];
    assert_eq!(bench.states().await, expected);
}

#[tokio::test]
async fn a_server_that_ignores_where_a_page_begins_proves_nothing() {
    let bench = Bench::new(Market { ignores_from: true, ..whole() }).await;
    bench.open(1, 2).await;
    bench.turn(6).await;
    assert_eq!(bench.states().await, [(1, 2, GapState::Open)]);
}

#[tokio::test]
async fn a_repair_whose_row_was_superseded_writes_no_state_over_it() {
    let bench = Bench::new(whole()).await;
    let gap = bench.open(10, 20).await;
    assert_eq!(bench.parts.supersede(|_| false, "its feed was removed").await.unwrap(), 1);
    repair(&bench.parts, gap, &bench.stop).await;
    let gaps = bench.parts.history().gaps(&GapFilter::default()).await.unwrap();
    assert_eq!((gaps.len(), gaps[0].state), (1, GapState::Superseded));
    assert_eq!(bench.parts.ledger.with(|ledger| ledger.open_count()), (0, 0));
}

/// For any holes in what the exchange has, still serves and already serves, and whatever fails in between: what the
/// ledger calls open is what is missing and not settled, at every turn, and in the end all of it is settled truly.
#[tokio::test]
async fn the_ledger_misses_what_history_misses_however_the_exchange_behaves() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..12 {
        let never: BTreeSet<i64> = (0..random.random_range(0..30)).map(|_| random.random_range(1_000..2_000)).collect();
        let (floor, rows_max) = (random.random_range(0..1_500), random.random_range(20..200));
        let growth = random.random_range(0..3);
        let market = Market { floor, never: never.clone(), shown_to: 1_800, rows_max, growth, ..Market::default() };
        let bench = Bench::new(market).await;
        let mut asked = RangeSet::new(1);
        for _ in 0..random.random_range(1..8) {
            let first = random.random_range(1_000..2_000);
            let range = Range { first, last: (first + random.random_range(0..300)).min(2_000) };
            asked.insert(range);
            let by = ["neighbour", "tail", "since"][random.random_range(0..3)].to_owned();
            bench.parts.open(&stream(), range, &Evidence { by, ..Evidence::default() }).await.unwrap();
            bench.market.lock().unwrap().failures = random.random_range(0..3);
            bench.turn(1).await;
            let case = format!("seed {seed}, round {round}");
            let missing = missing(&bench, &asked).await;
            let settled = settled(&bench).await;
            let open: BTreeSet<i64> = bench.parts.ledger.with(|ledger| ids(ledger.rows()));
            let unexplained: BTreeSet<i64> = missing.difference(&settled).copied().collect();
            assert!(open.is_superset(&unexplained), "{case}: missing and not open: {unexplained:?} {open:?}");
            assert!(open.is_disjoint(&settled), "{case}: settled and open");
        }
        {
            let mut market = bench.market.lock().unwrap();
            (market.failures, market.shown_to) = (0, i64::MAX);
        }
        bench.turn(8).await;
        let case = format!("seed {seed}, round {round}, floor {floor}");
        assert_eq!(bench.parts.ledger.with(|ledger| ledger.open_count()), (0, 0), "{case}: {:?}", bench.rows().await);
        let serves = |id: &i64| *id >= floor && !never.contains(id);
        let expected: BTreeSet<i64> =
            asked.iter().flat_map(|range| range.first..=range.last).filter(|id| !serves(id)).collect();
        assert_eq!(missing(&bench, &asked).await, expected, "{case}");
        assert_eq!(settled(&bench).await, expected, "{case}");
    }
}

fn ids<'a>(rows: impl Iterator<Item = &'a Gap>) -> BTreeSet<i64> {
    rows.flat_map(|gap| gap.range.first..=gap.range.last).collect()
}

async fn missing(bench: &Bench, asked: &RangeSet) -> BTreeSet<i64> {
    let mut missing = BTreeSet::new();
    for range in asked.iter() {
        let ranges = bench.parts.history().missing(&stream(), range, 10_000).await.unwrap();
        missing.extend(ranges.into_iter().flat_map(|range| range.first..=range.last));
    }
    missing
}

async fn settled(bench: &Bench) -> BTreeSet<i64> {
    let gaps = bench.parts.history().gaps(&GapFilter::default()).await.unwrap();
    ids(gaps.iter().filter(|gap| matches!(gap.state, GapState::NeverExisted | GapState::Unrecoverable)))
}
