//! When the tail checks a stream, and when it does not.

use super::*;
use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;
use crate::progress::StreamProgress;

const SECOND: i64 = 1_000_000;
const USUAL: Duration = Duration::from_secs(5);

#[test]
fn a_stream_is_due_after_a_time_without_frames() {
    let mut state = TailState::new(Some(1), "tail", Timestamp(SECOND), USUAL);
    assert!(!state.is_due(Some(1), Timestamp(0), USUAL));
    assert!(state.is_due(Some(1), Timestamp(SECOND), USUAL));
    assert!(!state.is_due(Some(2), Timestamp(SECOND), USUAL), "a frame arrived");
    assert!(!state.is_due(Some(2), Timestamp(5 * SECOND), USUAL));
    assert!(state.is_due(Some(2), Timestamp(6 * SECOND), USUAL));
}

#[test]
fn a_stream_without_a_connection_is_not_due_for_a_minute() {
    let mut state = TailState::new(Some(1), "silence", Timestamp(0), USUAL);
    state.connection = Some(7);
    state.disconnected(7, Timestamp(60 * SECOND));
    // Frames in the log are consumed after the connection is lost; they do not end the wait.
    assert!(!state.is_due(Some(2), Timestamp(SECOND), USUAL));
    assert!(!state.is_due(Some(2), Timestamp(59 * SECOND), USUAL));
    assert!(state.is_due(Some(2), Timestamp(60 * SECOND), USUAL));
}

#[test]
fn the_end_of_a_replaced_connection_does_not_matter() {
    let mut state = TailState { connection: Some(8), ..TailState::new(Some(1), "tail", Timestamp(SECOND), USUAL) };
    state.disconnected(7, Timestamp(60 * SECOND));
    assert!(state.is_due(Some(1), Timestamp(SECOND), USUAL));
}

/// The tail of one stream with trades up to 10; the newest arrived one second after the start of 1970.
struct Harness {
    tail: Tail,
    probed: mpsc::Receiver<Probe>,
    commands: mpsc::Receiver<SocketCommand>,
    states: HashMap<Stream, TailState>,
    _kept: (watch::Sender<Vec<ConnectionHandle>>, watch::Sender<Vec<Stream>>),
}

fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

impl Harness {
    fn new(now: Timestamp) -> Self {
        let clock = Clock::from_fn(move || now);
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let (probes, probed) = mpsc::channel(4);
        let (orders, commands) = mpsc::channel(4);
        let (kept_connections, connections) =
            watch::channel(vec![ConnectionHandle { streams: vec![stream()], commands: orders }]);
        let (kept_streams, streams) = watch::channel(vec![stream()]);
        let progress = Arc::new(Progress::default());
        let stream_progress =
            StreamProgress { next: Some(11), last_received: Some(SECOND), ..StreamProgress::default() };
        progress.publish([(stream(), stream_progress)], &crate::log::Offsets::default());
        let tail = Tail {
            rest: Arc::new(Rest::new(dialect, RestOptions::default(), clock.clone(), None).unwrap()),
            exchange: Exchange::Binance,
            progress,
            probes,
            connections,
            counters: Arc::default(),
            recording_starts: Arc::default(),
            streams,
            health: Health::default(),
            clock,
            options: TailOptions::default(),
        };
        let state = TailState::new(Some(SECOND), "silence", Timestamp(0), USUAL);
        let states = HashMap::from([(stream(), state)]);
        Self { tail, probed, commands, states, _kept: (kept_connections, kept_streams) }
    }

    /// The exchange reports three times that 20 is the newest trade.
    async fn answer(&mut self) {
        for _ in 0..3 {
            let newest = Ok(Some((20, Timestamp(2 * SECOND))));
            self.tail.handle_answer(&stream(), newest, &mut self.states).await;
        }
    }
}

#[tokio::test]
async fn a_silent_stream_that_trades_is_probed_and_recovered() {
    let mut harness = Harness::new(Timestamp(20 * SECOND));
    assert_eq!(harness.tail.due(&mut harness.states), [stream()]);
    harness.answer().await;
    assert!(matches!(harness.probed.try_recv(), Ok(Probe::Expect(Expectation { last: 20, .. }))));
    assert!(matches!(harness.commands.try_recv(), Ok(SocketCommand::Resubscribe(_))));
    assert!(matches!(harness.commands.try_recv(), Ok(SocketCommand::Reconnect(_))));
}

#[tokio::test]
async fn the_tail_waits_for_frames_on_their_way_through_the_log() {
    let mut harness = Harness::new(Timestamp(20 * SECOND));
    harness.tail.counters.last_seen.stamp(&stream()).store(2 * SECOND, std::sync::atomic::Ordering::Relaxed);
    harness.answer().await;
    assert!(harness.probed.try_recv().is_err() && harness.commands.try_recv().is_err(), "a frame arrived at 2 s");
    // The wait is limited, because a last frame that cannot be decoded never shows in the progress.
    let mut harness = Harness::new(Timestamp(2 * SECOND + LATE_MAX_US));
    harness.tail.counters.last_seen.stamp(&stream()).store(2 * SECOND, std::sync::atomic::Ordering::Relaxed);
    harness.tail.health.degraded("history", "history is down");
    harness.answer().await;
    assert!(harness.probed.try_recv().is_err() && harness.commands.try_recv().is_err(), "nothing can be consumed now");
    harness.tail.health.restored("history");
    harness.answer().await;
    assert!(harness.probed.try_recv().is_ok());
}

#[tokio::test]
async fn a_stream_with_new_frames_at_the_socket_is_not_due_however_late_the_consumer_is() {
    let mut harness = Harness::new(Timestamp(20 * SECOND));
    harness.tail.counters.last_seen.stamp(&stream()).store(19 * SECOND, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(harness.tail.due(&mut harness.states), []);
}
