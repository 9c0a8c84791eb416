//! When a stream is asked about, and when it is left alone.

use super::*;
use crate::consume::Standing;
use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;

const SECOND: i64 = 1_000_000;
const USUAL: Duration = Duration::from_secs(5);

#[test]
fn a_stream_is_asked_about_when_it_was_not_heard_for_a_while() {
    let mut silence = Silence::new(Some(1), "tail", Timestamp(SECOND), USUAL);
    assert!(!silence.is_due(Some(1), Timestamp(0), USUAL));
    assert!(silence.is_due(Some(1), Timestamp(SECOND), USUAL));
    assert!(!silence.is_due(Some(2), Timestamp(SECOND), USUAL), "it was heard");
    assert!(!silence.is_due(Some(2), Timestamp(5 * SECOND), USUAL));
    assert!(silence.is_due(Some(2), Timestamp(6 * SECOND), USUAL));
}

#[test]
fn a_stream_without_a_connection_is_left_alone_for_a_minute() {
    let mut silence = Silence::new(Some(1), "silence", Timestamp(0), USUAL);
    silence.carrier = Some(7);
    silence.lost(7, Timestamp(60 * SECOND));
    // What lay in the log is consumed after the connection was lost: that ends no waiting.
    assert!(!silence.is_due(Some(2), Timestamp(SECOND), USUAL));
    assert!(!silence.is_due(Some(2), Timestamp(59 * SECOND), USUAL));
    assert!(silence.is_due(Some(2), Timestamp(60 * SECOND), USUAL));
}

#[test]
fn a_connection_that_was_replaced_takes_nothing_away() {
    let mut silence = Silence { carrier: Some(8), ..Silence::new(Some(1), "tail", Timestamp(SECOND), USUAL) };
    silence.lost(7, Timestamp(60 * SECOND));
    assert!(silence.is_due(Some(1), Timestamp(SECOND), USUAL));
}

/// The tail of one stream that has brought its trades up to 10, the newest received a second after midnight of 1970.
struct Bench {
    tail: Tail,
    asked: mpsc::Receiver<Question>,
    commands: mpsc::Receiver<SocketCommand>,
    silences: HashMap<Stream, Silence>,
    _kept: (watch::Sender<Vec<Carrier>>, watch::Sender<Vec<Stream>>),
}

fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

impl Bench {
    fn new(now: Timestamp) -> Self {
        let clock = Clock::from_fn(move || now);
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let (questions, asked) = mpsc::channel(4);
        let (orders, commands) = mpsc::channel(4);
        let (kept_carriers, carriers) = watch::channel(vec![Carrier { streams: vec![stream()], commands: orders }]);
        let (kept_streams, streams) = watch::channel(vec![stream()]);
        let board = Arc::new(Board::default());
        let standing = Standing { next: Some(11), last_received: Some(SECOND), ..Standing::default() };
        board.publish([(stream(), standing)], &crate::log::Offsets::default());
        let tail = Tail {
            rest: Arc::new(Rest::new(dialect, RestOptions::default(), clock.clone(), None).unwrap()),
            exchange: Exchange::Binance,
            board,
            questions,
            carriers,
            counters: Arc::default(),
            anchors: Arc::default(),
            streams,
            health: Health::default(),
            clock,
            options: TailOptions::default(),
        };
        let silence = Silence::new(Some(SECOND), "silence", Timestamp(0), USUAL);
        let silences = HashMap::from([(stream(), silence)]);
        Self { tail, asked, commands, silences, _kept: (kept_carriers, kept_streams) }
    }

    /// The exchange says three times that 20 is the newest trade.
    async fn answer(&mut self) {
        for _ in 0..3 {
            let newest = Ok(Some((20, Timestamp(2 * SECOND))));
            self.tail.answer(&stream(), newest, &mut self.silences).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_deaf_is_asked_about_and_mended() {
    let mut bench = Bench::new(Timestamp(20 * SECOND));
    assert_eq!(bench.tail.due(&mut bench.silences), [stream()]);
    bench.answer().await;
    assert!(matches!(bench.asked.try_recv(), Ok(Question::Expect(Expectation { last: 20, .. }))));
    assert!(matches!(bench.commands.try_recv(), Ok(SocketCommand::Resubscribe(_))));
    assert!(matches!(bench.commands.try_recv(), Ok(SocketCommand::Reconnect(_))));
}

#[tokio::test]
async fn frames_that_are_on_their_way_through_the_log_are_waited_for() {
    let mut bench = Bench::new(Timestamp(20 * SECOND));
    bench.tail.counters.heard.stamp(&stream()).store(2 * SECOND, std::sync::atomic::Ordering::Relaxed);
    bench.answer().await;
    assert!(bench.asked.try_recv().is_err() && bench.commands.try_recv().is_err(), "it was heard at two seconds");
    // What never shows on the board, such as a last frame that cannot be decoded, is not waited for for ever.
    let mut bench = Bench::new(Timestamp(2 * SECOND + LATE_MAX_US));
    bench.tail.counters.heard.stamp(&stream()).store(2 * SECOND, std::sync::atomic::Ordering::Relaxed);
    bench.tail.health.degraded("history", "it is away");
    bench.answer().await;
    assert!(bench.asked.try_recv().is_err() && bench.commands.try_recv().is_err(), "nothing can be consumed now");
    bench.tail.health.restored("history");
    bench.answer().await;
    assert!(bench.asked.try_recv().is_ok());
}

#[tokio::test]
async fn a_stream_that_the_socket_hears_is_not_due_however_late_the_consumer_is() {
    let mut bench = Bench::new(Timestamp(20 * SECOND));
    bench.tail.counters.heard.stamp(&stream()).store(19 * SECOND, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bench.tail.due(&mut bench.silences), []);
}
