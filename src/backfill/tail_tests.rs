//! When the tail checks a stream, and when it does not.

use super::*;
use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;
use crate::progress::{Outage, StreamProgress};

const SECOND: i64 = 1_000_000;
const USUAL: Duration = Duration::from_secs(5);

/// An instant, in seconds after an arbitrary one.
fn at(seconds: u64) -> Instant {
    static ZERO: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ZERO.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

#[test]
fn a_stream_is_due_after_a_time_without_frames() {
    let mut state = TailState::new(Some(1), "tail", at(1), USUAL);
    assert!(!state.is_due(Some(1), at(0), USUAL));
    assert!(state.is_due(Some(1), at(1), USUAL));
    assert!(!state.is_due(Some(2), at(1), USUAL), "a frame arrived");
    assert!(!state.is_due(Some(2), at(5), USUAL));
    assert!(state.is_due(Some(2), at(6), USUAL));
}

#[test]
fn a_stream_without_a_connection_is_not_due_for_a_minute() {
    let mut state = TailState::new(Some(1), "silence", at(0), USUAL);
    state.connection = Some(7);
    state.disconnected(7, at(60));
    // Frames in the log are consumed after the connection is lost; they do not end the wait.
    assert!(!state.is_due(Some(2), at(1), USUAL));
    assert!(!state.is_due(Some(2), at(59), USUAL));
    assert!(state.is_due(Some(2), at(60), USUAL));
}

#[test]
fn the_end_of_a_replaced_connection_does_not_matter() {
    let mut state = TailState { connection: Some(8), ..TailState::new(Some(1), "tail", at(1), USUAL) };
    state.disconnected(7, at(60));
    assert!(state.is_due(Some(1), at(1), USUAL));
}

/// The tail of one stream with trades up to 10, beside others on one connection; its newest arrived one second after the
/// start of 1970.
struct Harness {
    tail: Tail,
    probed: mpsc::Receiver<Probe>,
    commands: mpsc::Receiver<SocketCommand>,
    isolated: mpsc::Receiver<Stream>,
    states: TailStates,
    _kept: (watch::Sender<Vec<ConnectionHandle>>, watch::Sender<Vec<Stream>>),
}

fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

fn other() -> Stream {
    "binance:ETHUSDT:trade".parse().unwrap()
}

impl Harness {
    fn new(now: Timestamp, on_connection: Vec<Stream>) -> Self {
        let clock = Clock::from_fn(move || now);
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let (probes, probed) = mpsc::channel(64);
        let (orders, commands) = mpsc::channel(64);
        let (isolations, isolated) = mpsc::channel(4);
        let (kept_connections, connections) =
            watch::channel(vec![ConnectionHandle { streams: on_connection.clone(), copy: 0, commands: orders }]);
        let (kept_streams, streams) = watch::channel(on_connection);
        let progress = Arc::new(Progress::default());
        let stream_progress =
            StreamProgress { next: Some(11), last_received: Some(SECOND), ..StreamProgress::default() };
        progress.publish([(stream(), stream_progress)], &crate::log::Offsets::default());
        let tail = Tail {
            rest: Arc::new(Rest::new(dialect, RestOptions::default(), clock.clone(), None).unwrap()),
            exchange: Exchange::named("binance"),
            progress,
            probes,
            connections,
            isolations,
            counters: Arc::default(),
            recording_starts: Arc::default(),
            streams,
            health: Health::default(),
            clock,
            options: TailOptions::default(),
        };
        let state = TailState::new(Some(SECOND), "silence", Instant::now(), USUAL);
        let states = TailStates { streams: HashMap::from([(stream(), state)]), ..TailStates::default() };
        Self { tail, probed, commands, isolated, states, _kept: (kept_connections, kept_streams) }
    }

    /// For `seconds` the exchange reports every 5 s that 20 is the newest trade. Returns how often the stream was
    /// subscribed again, isolated, and its connection replaced.
    async fn answer(&mut self, seconds: u64) -> (usize, usize, usize) {
        for _ in 0..seconds / 5 {
            let newest = Ok(Some((20, Timestamp(2 * SECOND))));
            let is_silent = self.tail.handle_answer(&stream(), newest, &mut self.states).await;
            let silent = if is_silent { vec![stream()] } else { Vec::new() };
            self.tail.recover(&silent, &mut self.states);
            tokio::time::advance(USUAL).await;
        }
        let (mut resubscribed, mut isolated, mut replaced) = (0, 0, 0);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                SocketCommand::Resubscribe(streams) => {
                    assert_eq!(streams, [stream()]);
                    resubscribed += 1;
                }
                SocketCommand::Reconnect(_) => replaced += 1,
                SocketCommand::Rotate(_) => panic!("nothing is silent"),
            }
        }
        while let Ok(moved) = self.isolated.try_recv() {
            assert_eq!(moved, stream());
            isolated += 1;
        }
        (resubscribed, isolated, replaced)
    }

    fn seen(&self, stream: &Stream, seconds: i64) {
        self.tail.counters.last_seen.stamp(stream).store(seconds * SECOND, std::sync::atomic::Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_that_trades_is_probed_and_recovered() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    assert_eq!(harness.tail.due(&mut harness.states), [stream()]);
    assert_eq!(harness.answer(15).await, (1, 0, 1));
    assert!(matches!(harness.probed.try_recv(), Ok(Probe::Expect(Expectation { last: 20, .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_deaf_stream_never_replaces_the_connection_of_streams_that_deliver() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream(), other()]);
    harness.seen(&other(), 19);
    let (resubscribed, isolated, replaced) = harness.answer(90).await;
    assert_eq!(replaced, 0);
    assert!((1..=4).contains(&resubscribed) && (1..=2).contains(&isolated), "{resubscribed} {isolated}");
    // The whole connection is silent: it is replaced.
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream(), other()]);
    harness.seen(&other(), 1);
    let (_, isolated, replaced) = harness.answer(90).await;
    assert_eq!((isolated, replaced), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn connections_with_the_same_streams_take_turns() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    let (orders, mut others_commands) = mpsc::channel(64);
    let other = ConnectionHandle { streams: vec![stream()], copy: 1, commands: orders };
    harness._kept.0.send_modify(|handles| handles.push(other));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for answer in 1..=12 {
        harness.states.streams.get_mut(&stream()).unwrap().unanswered = answer;
        harness.tail.recover(&[stream()], &mut harness.states);
        while let Ok(command) = harness.commands.try_recv() {
            first.push((answer, matches!(command, SocketCommand::Reconnect(_))));
        }
        while let Ok(command) = others_commands.try_recv() {
            second.push((answer, matches!(command, SocketCommand::Reconnect(_))));
        }
        tokio::time::advance(USUAL).await;
    }
    assert_eq!((first[..2].to_vec(), second[..2].to_vec()), (vec![(2, false), (4, true)], vec![(3, false), (5, true)]));
    assert!(first.iter().all(|(at, _)| second.iter().all(|(other, _)| at != other)), "{first:?} {second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_deliver_a_stream_gets_the_order_to_rotate() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    harness.tail.handle_event(ConnectionEvent::Silent(7, vec![other()]), &mut harness.states);
    assert!(harness.commands.try_recv().is_err(), "its socket does not have that stream");
    harness.tail.handle_event(ConnectionEvent::Silent(7, vec![other(), stream()]), &mut harness.states);
    assert!(matches!(harness.commands.try_recv(), Ok(SocketCommand::Rotate(7))));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_of_two_connections_leaves_a_stream_connected() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    let carried = [stream()];
    for connection in [1, 2] {
        harness.tail.counters.subscriptions.accepted(connection, &carried, Timestamp(0));
        harness.tail.handle_event(ConnectionEvent::Up(connection, carried.to_vec()), &mut harness.states);
    }
    for (connection, is_down) in [(2, false), (1, true)] {
        harness.tail.counters.subscriptions.ended(connection);
        harness.tail.handle_event(ConnectionEvent::Down(connection, carried.to_vec()), &mut harness.states);
        assert_eq!(harness.states.streams[&stream()].down_until.is_some(), is_down, "{connection}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_left_to_its_socket() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream(), other()]);
    harness.tail.counters.subscriptions.refuse(1, stream(), "-1121: Invalid symbol.".to_owned());
    assert_eq!(harness.answer(60).await, (0, 0, 0));
    assert!(harness.probed.try_recv().is_ok(), "REST still shows what it misses");
}

#[tokio::test(start_paused = true)]
async fn the_tail_waits_for_frames_on_their_way_through_the_log() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    harness.seen(&stream(), 2);
    assert_eq!(harness.answer(15).await, (0, 0, 0), "a frame arrived at 2 s");
    assert!(harness.probed.try_recv().is_err());
    // The wait is limited, because a last frame that cannot be decoded never shows in the progress.
    let mut harness = Harness::new(Timestamp(2 * SECOND + LATE_MAX_US), vec![stream()]);
    harness.seen(&stream(), 2);
    harness.tail.health.degraded("history", "history is down");
    assert_eq!(harness.answer(15).await, (0, 0, 0), "nothing can be consumed now");
    assert!(harness.probed.try_recv().is_err());
    harness.tail.health.restored("history");
    harness.answer(15).await;
    assert!(harness.probed.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_new_frames_at_the_socket_is_not_due_however_late_the_consumer_is() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream()]);
    harness.seen(&stream(), 19);
    assert_eq!(harness.tail.due(&mut harness.states), []);
}

#[tokio::test(start_paused = true)]
async fn a_kline_stream_that_is_silent_alone_is_subscribed_again_then_isolated() {
    let klines = "binance:BTCUSDT:kline_1m".parse::<Stream>().unwrap();
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream(), klines.clone(), other()]);
    let (mut resubscribed, mut isolated) = (Vec::new(), Vec::new());
    for second in 0..200_i64 {
        harness.seen(&stream(), second);
        harness.seen(&other(), second);
        if second < 10 {
            harness.seen(&klines, second);
        }
        let mut due = Vec::new();
        let silent = harness.tail.silent_klines(&mut harness.states, &mut due);
        harness.tail.recover(&silent, &mut harness.states);
        assert!(due.is_empty(), "the trades show that the symbol trades: no request is needed");
        while let Ok(SocketCommand::Resubscribe(streams)) = harness.commands.try_recv() {
            assert_eq!(streams, std::slice::from_ref(&klines));
            resubscribed.push(second);
        }
        while let Ok(moved) = harness.isolated.try_recv() {
            assert_eq!(moved, klines);
            isolated.push(second);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!((resubscribed[0], isolated[0]), (80, 100), "{resubscribed:?} {isolated:?}");
}

#[tokio::test(start_paused = true)]
async fn the_exchange_says_whether_a_symbol_trades_of_which_only_one_kline_stream_is_recorded() {
    let klines = "binance:BTCUSDT:kline_1m".parse::<Stream>().unwrap();
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![klines.clone(), other()]);
    harness.seen(&klines, 5);
    let mut due = Vec::new();
    assert!(harness.tail.silent_klines(&mut harness.states, &mut due).is_empty() && due.is_empty());
    tokio::time::advance(Duration::from_secs(70)).await;
    harness.tail.silent_klines(&mut harness.states, &mut due);
    assert_eq!(due, std::slice::from_ref(&klines));
    for (newest, expected) in [(4, vec![]), (6, vec![klines.clone()])] {
        let answer = Ok(Some((20, Timestamp(newest * SECOND))));
        assert!(!harness.tail.handle_answer(&klines, answer, &mut harness.states).await);
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(harness.tail.silent_klines(&mut harness.states, &mut Vec::new()), expected, "a trade at {newest} s");
    }
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_stream_that_cannot_be_decoded_come_from_rest_once_a_minute_and_its_connection_stays() {
    let mut harness = Harness::new(Timestamp(20 * SECOND), vec![stream(), other()]);
    let outage = Outage {
        exchange: Exchange::named("binance"),
        stream: Some(stream()),
        since: Timestamp(2 * SECOND),
        frames: 9,
        reason: "p is a number".to_owned(),
        partition: 0,
        offset: 7,
    };
    harness.tail.progress.set_outages(vec![outage]);
    let mut asked = Vec::new();
    for second in 0..150_i64 {
        // A frame a second, and none is consumed.
        harness.seen(&stream(), 2 + second);
        if harness.tail.due(&mut harness.states).contains(&stream()) {
            asked.push(second);
            let newest = Ok(Some((20, Timestamp(2 * SECOND))));
            assert!(!harness.tail.handle_answer(&stream(), newest, &mut harness.states).await, "it is not silent");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(asked, [0, 60, 120]);
    for _ in asked {
        assert!(matches!(harness.probed.try_recv(), Ok(Probe::Expect(Expectation { last: 20, .. }))));
    }
    assert!(harness.commands.try_recv().is_err() && harness.isolated.try_recv().is_err());
}
