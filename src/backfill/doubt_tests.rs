//! Positions that the exchange hides for a while, and verdicts that are appealed.

use super::*;
use crate::clock::Reading;
use crate::faults::Faults;
use crate::history::faulty::FaultyHistory;
use crate::market::Symbol;

/// Six hours of asking, as shipped. One call of `attempt` is one answer.
const CONFIRM_AFTER: Duration = Duration::from_secs(6 * 3_600);

/// A wall clock and a monotonic clock that the test moves.
#[derive(Clone, Default)]
struct TestTime(Arc<Mutex<(i64, Duration)>>);

impl TestTime {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(((BEGIN_MS + NEWEST * 1_000 + 1_000) * 1_000, Duration::ZERO))))
    }

    fn clock(&self) -> Clock {
        let now = self.0.clone();
        Clock::from_readings(move || {
            let (wall, steady) = *now.lock().unwrap();
            Reading { wall: Timestamp(wall), steady: Timestamp(steady.as_micros() as i64) }
        })
    }

    fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        now.0 += time.as_micros() as i64;
        now.1 += time;
    }

    fn jump(&self, us: i64) {
        self.0.lock().unwrap().0 += us;
    }
}

impl Harness {
    async fn doubting(exchange: FakeExchange) -> (Self, TestTime) {
        let time = TestTime::new();
        let mut harness = Self::with_clock(exchange, time.clock()).await;
        harness.deps.confirm_after = CONFIRM_AFTER;
        (harness, time)
    }

    /// Asks about the only open gap; returns the pause until the next request.
    async fn ask(&self) -> Duration {
        let gap = self.deps.ledger.with(|ledger| ledger.rows().next().cloned()).expect("a gap is open");
        repair(&self.deps, gap, &self.stop).await
    }

    async fn never(&self, ids: impl IntoIterator<Item = i64>) {
        self.exchange.lock().unwrap().never = ids.into_iter().collect();
    }
}

#[tokio::test]
async fn a_range_that_the_exchange_hides_for_a_while_is_in_doubt_and_then_filled() {
    let (harness, time) = Harness::doubting(complete_exchange()).await;
    harness.never(1_060..=1_069).await;
    harness.open(1_060, 1_069).await;
    for _ in 0..10 {
        let pause = harness.ask().await;
        time.pass(pause);
    }
    assert_eq!(harness.states().await, [(1_060, 1_069, GapState::Unconfirmed)]);
    let doubt = harness.deps.ledger.with(|ledger| ledger.unconfirmed_count());
    assert_eq!(doubt, (1, 10));
    harness.never([]).await;
    harness.ask().await;
    assert_eq!(harness.states().await, [(1_060, 1_069, GapState::Filled)]);
}

#[tokio::test]
async fn a_verdict_takes_hours_of_asking_and_lists_the_answers() {
    let (harness, time) = Harness::doubting(FakeExchange { floor: 1_000, ..complete_exchange() }).await;
    harness.never([1_500]).await;
    harness.open(900, 1_600).await;
    let mut asked = 0;
    let began = time.clock().monotonic();
    while harness.deps.ledger.with(|ledger| ledger.open_count().0) > 0 {
        let pause = harness.ask().await;
        time.pass(pause);
        asked += 1;
    }
    assert!(time.clock().monotonic() - began >= CONFIRM_AFTER && asked < 40, "{asked} requests");
    let expected = [
        (900, 999, GapState::Unrecoverable),
        (1_000, 1_499, GapState::Filled),
        (1_500, 1_500, GapState::NeverExisted),
        (1_501, 1_600, GapState::Filled),
    ];
    assert_eq!(harness.states().await, expected);
    let gaps = harness.deps.history().gaps(&GapFilter::default()).await.unwrap();
    let never = gaps.iter().find(|gap| gap.state == GapState::NeverExisted).unwrap();
    assert!(never.reason.contains("asked for 21600 s"), "{}", never.reason);
    let times: u32 = never.evidence.answers.iter().map(|answer| answer.times).sum();
    assert!(times as usize > asked - 5, "{:?}", never.evidence.answers);
}

#[tokio::test]
async fn a_clock_that_jumps_by_years_closes_nothing_and_stops_nothing() {
    let (harness, time) = Harness::doubting(complete_exchange()).await;
    harness.never([1_060]).await;
    harness.open(1_060, 1_060).await;
    for years in [40_i64, -60, 30, -10] {
        for _ in 0..4 {
            let pause = harness.ask().await;
            assert!(pause <= Duration::from_secs(3_600), "{pause:?}");
            time.pass(Duration::from_secs(1));
        }
        time.jump(years * 365 * 86_400 * 1_000_000);
    }
    assert_eq!(harness.states().await, [(1_060, 1_060, GapState::Unconfirmed)]);
    harness.never([]).await;
    harness.ask().await;
    assert_eq!(harness.states().await, [(1_060, 1_060, GapState::Filled)]);
}

#[tokio::test]
async fn an_operator_and_an_appeal_open_a_verdict_again() {
    let harness = Harness::new(complete_exchange()).await;
    harness.never(1_060..=1_069).await;
    harness.deps.open(&stream(), Range { first: 1_060, last: 1_069 }, &Evidence::default()).await.unwrap();
    harness.attempt(3).await;
    assert_eq!(harness.states().await, [(1_060, 1_069, GapState::NeverExisted)]);
    // The exchange still does not serve them: the appeal changes nothing.
    let report = harness.deps.appeal(&[stream()], &harness.stop).await.unwrap();
    assert_eq!((report.asked, report.reopened), (1, 0));
    // Then it serves the upper half.
    harness.never(1_060..=1_064).await;
    let report = harness.deps.appeal(&[stream()], &harness.stop).await.unwrap();
    assert_eq!((report.asked, report.reopened), (1, 1));
    assert_eq!(
        harness.states().await,
        [(1_060, 1_064, GapState::NeverExisted), (1_065, 1_069, GapState::Open)],
        "the part that is not served keeps its state"
    );
    harness.attempt(1).await;
    assert_eq!(harness.states().await[1], (1_065, 1_069, GapState::Filled));
    // An operator's request asks for the rest, although nothing says that it is served.
    let range = Range { first: 1_000, last: 1_064 };
    let sweep = harness.deps.open_missing(&stream(), Range { first: 1_060, last: 1_064 }, "sweep", 9).await.unwrap();
    assert_eq!((sweep.missing, sweep.gaps), (5, 0), "a sweep does not");
    harness.never([]).await;
    let opened = harness.deps.open_missing(&stream(), range, "manual", 9).await.unwrap();
    assert_eq!((opened.missing, opened.gaps), (65, 1));
    harness.attempt(1).await;
    let states = harness.states().await;
    assert_eq!(states, [(1_000, 1_064, GapState::Filled), (1_065, 1_069, GapState::Filled)]);
}

#[tokio::test]
async fn a_row_that_history_cannot_hold_is_split_off_its_gap() {
    let mut harness = Harness::new(complete_exchange()).await;
    let history = FaultyHistory::new(harness.deps.history().clone(), Faults::none());
    history.refuse_trade(Symbol::new("BTCUSDT"), 1_021);
    harness.deps.writer = Writer::new(Arc::new(history), Arc::new(PendingUpdates::default()), Health::default());
    harness.open(1_001, 1_041).await;
    harness.attempt(1).await;
    let expected =
        [(1_001, 1_020, GapState::Filled), (1_021, 1_021, GapState::Refused), (1_022, 1_041, GapState::Filled)];
    assert_eq!(harness.states().await, expected);
    let reason = harness.rows().await[1].3.clone();
    assert!(reason.contains("dead letter"), "{reason}");
    assert_eq!(harness.deps.history().dead_letter_count(None).await.unwrap(), 1);
    let report = harness.deps.open_missing(&stream(), Range { first: 1_001, last: 1_041 }, "sweep", 9).await.unwrap();
    assert_eq!((report.missing, report.gaps), (1, 0), "a sweep does not ask for it again");
}

#[tokio::test]
async fn refused_rows_of_two_streams_with_one_id_are_two_letters_that_retention_keeps() {
    let mut harness = Harness::new(complete_exchange()).await;
    let history = FaultyHistory::new(harness.deps.history().clone(), Faults::none());
    let other: Stream = "binance:ETHUSDT:trade".parse().unwrap();
    for stream in [stream(), other.clone()] {
        history.refuse_trade(stream.symbol.clone(), 1_021);
    }
    harness.deps.writer = Writer::new(Arc::new(history), Arc::new(PendingUpdates::default()), Health::default());
    let before = harness.deps.clock.now();
    for stream in [stream(), other] {
        let range = Range { first: 1_021, last: 1_021 };
        harness.deps.open(&stream, range, &Evidence::default()).await.unwrap();
    }
    harness.attempt(1).await;
    let letters = harness.deps.history().dead_letters(None, 9).await.unwrap();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.received_at >= before && letter.partition == -1), "{letters:?}");
}

/// Whatever the exchange answers meanwhile: positions that it serves before the verdict end in history.
#[tokio::test]
async fn a_position_that_is_served_in_time_is_always_filled() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..30 {
        let (harness, time) = Harness::doubting(complete_exchange()).await;
        harness.deps.open(&stream(), Range { first: 1_000, last: 1_200 }, &Evidence::default()).await.unwrap();
        let served_at = Duration::from_secs(random.random_range(0..21_000));
        let began = time.clock().monotonic();
        loop {
            let elapsed = time.clock().monotonic() - began;
            let is_served = elapsed >= served_at;
            {
                let mut exchange = harness.exchange.lock().unwrap();
                *exchange = complete_exchange();
                if !is_served {
                    let first = random.random_range(1_000..1_200);
                    match random.random_range(0..6) {
                        0 => exchange.never = (1_000..=1_200).collect(),
                        1 => exchange.never = (first..=1_200).collect(),
                        2 => exchange.floor = 1_201,
                        3 => exchange.failures = 2,
                        4 => exchange.shown_to = 999,
                        _ => exchange.is_unknown = true,
                    }
                }
            }
            let pause = harness.ask().await;
            let open = harness.deps.ledger.with(|ledger| ledger.open_count().0);
            if open == 0 {
                break;
            }
            let case = format!("seed {seed}, round {round}, served after {served_at:?}, now {elapsed:?}");
            // A budget that is used up may cost one attempt.
            assert!(elapsed <= served_at * 2 + Duration::from_secs(3_700), "{case}: {:?}", harness.rows().await);
            time.pass(pause.max(Duration::from_secs(1)));
        }
        let states = harness.states().await;
        assert!(states.iter().all(|row| row.2 == GapState::Filled), "seed {seed}, round {round}: {states:?}");
        let whole = Range { first: 1_000, last: 1_200 };
        assert_eq!(harness.deps.history().count(&stream(), whole).await.unwrap().present, 201);
    }
}

#[tokio::test]
async fn trades_that_are_newer_than_the_row_behind_their_gap_wait_for_the_numbering_to_show_itself() {
    let (harness, time) = Harness::doubting(complete_exchange()).await;
    let mut gap = harness.open(1_060, 1_069).await;
    // The row behind the gap is older than what the exchange serves at these ids now.
    gap.to_ts = Some(Timestamp::from_millis(BEGIN_MS));
    harness.deps.ledger.with(|ledger| ledger.load([gap.clone()]));
    harness.ask().await;
    let rows = harness.rows().await;
    assert_eq!(rows[0].2, GapState::Open);
    assert!(rows[0].3.contains("newer than the next one"), "{}", rows[0].3);
    assert_eq!(harness.deps.history().count(&stream(), Range { first: 1_060, last: 1_069 }).await.unwrap().present, 0);
    // No numbering began: the time of that row was wrong.
    for _ in 0..8 {
        if harness.states().await[0].2 == GapState::Filled {
            return;
        }
        let pause = harness.ask().await;
        time.pass(pause);
    }
    panic!("{:?}", harness.states().await);
}
