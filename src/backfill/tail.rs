//! Finds gaps that no later frame reveals: after a disconnect, in a silent stream, at start.
//!
//! Silence proves nothing: a quiet market is silent for minutes. So the tail asks the exchange for the newest trade and
//! sends a probe to the consumer, which knows the frames that arrived meanwhile and opens the gap. A stream that stays
//! silent although it trades is brought back by the steps of [`recovery`](super::recovery).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::consume::{Expectation, Probe};
use crate::exchange::rest::{QUERY_TIME_MAX, Rest, RestError};
use crate::exchange::socket::SocketCommand;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::ingest::{ConnectionEvent, Counters};
use crate::market::{Exchange, Stream, Symbol, Timestamp};
use crate::progress::Progress;

use super::recording_starts::RecordingStarts;
use super::recovery::{Neighbours, RESUBSCRIBE_AFTER, Recovery, Step};
use super::silent_klines::SilentKlines;

/// Requests to the exchange at a time.
const REQUESTS_MAX: usize = 4;
/// Longest wait between two requests for a quiet, complete stream: at 4 of weight per request, 400 quiet symbols cost
/// 320 of 6,000 a minute.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// How long the tail waits for a stream without a connection. Its next frame reveals the whole gap at once, for a
/// fraction of the weight. After this time the tail asks anyway: perhaps only REST is reachable.
const DOWN_MAX: Duration = Duration::from_secs(60);
/// Wait after a request that failed.
const FAILED_WAIT: Duration = Duration::from_secs(5);

/// Wait between two requests for a stream of which no frame can be decoded: after a change of the format all streams are
/// such, and 400 of them then cost 1,600 of 6,000 a minute. The rows come from REST meanwhile.
const UNDECODABLE_WAIT: Duration = Duration::from_secs(60);

/// When the consumer is later than this although the stores answer, the tail no longer waits for it. Microseconds.
const LATE_MAX_US: i64 = 300_000_000;

/// When to ask the exchange.
#[derive(Clone, Copy, Debug)]
pub struct TailOptions {
    /// Silence before the first request; the wait doubles while nothing is missing.
    pub silence: Duration,
    /// Wait after a connect: the first frames may already reveal the gap.
    pub settle: Duration,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self { silence: Duration::from_secs(5), settle: Duration::from_secs(1) }
    }
}

/// A connection: its streams and its command channel.
#[derive(Clone)]
pub struct ConnectionHandle {
    /// The streams on it.
    pub streams: Vec<Stream>,
    /// Which of several connections with the same streams it is.
    pub copy: usize,
    /// Sends commands to it.
    pub commands: mpsc::Sender<SocketCommand>,
}

/// Checks the newest trades of one exchange's streams.
pub struct Tail {
    /// The client for the exchange.
    pub rest: Arc<Rest>,
    /// The exchange.
    pub exchange: Exchange,
    /// What the consumer has reached.
    pub progress: Arc<Progress>,
    /// Sends probes to the consumer.
    pub probes: mpsc::Sender<Probe>,
    /// The present connections.
    pub connections: watch::Receiver<Vec<ConnectionHandle>>,
    /// Takes the streams that need a connection of their own.
    pub isolations: mpsc::Sender<Stream>,
    /// When ingest last received each stream.
    pub counters: Arc<Counters>,
    /// The streams that this recorder consumes now; other recorders check the rest.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Receives when a stream is subscribed.
    pub recording_starts: Arc<RecordingStarts>,
    /// Receives what is degraded.
    pub health: Health,
    /// Reads the time.
    pub clock: Clock,
    /// When to ask the exchange.
    pub options: TailOptions,
}

/// The tail's state of one stream.
#[derive(Clone, Debug)]
struct TailState {
    /// Next request, at the earliest. Monotonic: a clock that is set back must not stop the requests.
    due: Instant,
    /// Wait after the next answer without a missing trade.
    wait: Duration,
    /// Receive time of the newest frame at the last decision.
    last_seen: Option<i64>,
    /// Consecutive answers with trades that the silent stream did not deliver.
    unanswered: u32,
    /// The connection that the stream was subscribed on last.
    connection: Option<i64>,
    /// Set while the stream has no connection: no request before this time.
    down_until: Option<Instant>,
    by: &'static str,
}

impl TailState {
    fn new(last_seen: Option<i64>, by: &'static str, due: Instant, wait: Duration) -> Self {
        Self { due, wait, last_seen, unanswered: 0, connection: None, down_until: None, by }
    }

    /// Records that a connection ended; one that was already replaced does not matter.
    fn disconnected(&mut self, connection: i64, until: Instant) {
        if self.connection == Some(connection) {
            self.down_until = Some(until);
        }
    }

    /// Whether to ask now. A new frame restarts the wait of `usual`.
    fn is_due(&mut self, last_seen: Option<i64>, now: Instant, usual: Duration) -> bool {
        if last_seen != self.last_seen {
            // With a watermark the tracker already saw any gap before this frame. Without one the request can wait as
            // well.
            let due = now + usual;
            let (connection, down_until) = (self.connection, self.down_until);
            *self = Self { connection, down_until, ..Self::new(last_seen, "silence", due, usual) };
        }
        self.due <= now && self.down_until.is_none_or(|until| until <= now)
    }
}

/// What the tail knows of its streams.
#[derive(Debug, Default)]
struct TailStates {
    streams: HashMap<Stream, TailState>,
    klines: SilentKlines,
    /// The steps taken on each copy of the connections.
    recovery: BTreeMap<usize, Recovery>,
}

impl Tail {
    /// Checks streams until `stop`.
    pub async fn run(self, mut events: mpsc::Receiver<ConnectionEvent>, heartbeat: Heartbeat, stop: CancellationToken) {
        let mut states = TailStates::default();
        while !stop.is_cancelled() {
            heartbeat.beat();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                Some(event) = events.recv() => self.handle_event(event, &mut states),
            }
            let mut due = self.due(&mut states);
            let mut silent = self.silent_klines(&mut states, &mut due);
            if due.is_empty() && silent.is_empty() {
                continue;
            }
            let requests = due.into_iter().map(|stream| {
                let rest = self.rest.clone();
                let stop = stop.clone();
                async move {
                    let answer = rest.newest_traded(&stream, &stop).await;
                    (stream, answer)
                }
            });
            let mut answers = futures_util::stream::iter(requests).buffer_unordered(REQUESTS_MAX);
            while let Some((stream, answer)) = heartbeat.beat_while(QUERY_TIME_MAX, answers.next()).await {
                heartbeat.beat();
                if self.handle_answer(&stream, answer, &mut states).await {
                    silent.push(stream);
                }
            }
            self.recover(&silent, &mut states);
        }
        heartbeat.retire();
    }

    fn handle_event(&self, event: ConnectionEvent, states: &mut TailStates) {
        match event {
            ConnectionEvent::Up(connection, streams) => {
                let now = self.clock.read();
                let due = Instant::now() + self.options.settle;
                for stream in streams.into_iter().filter(|stream| stream.channel.step().is_some()) {
                    let is_new = self.progress.stream(&stream).next.is_none();
                    self.recording_starts.mark_subscribed(&stream, now, is_new);
                    let last_seen = self.last_seen(&stream);
                    if !stream.channel.has_trades() {
                        states.klines.subscribed(&stream, connection, last_seen, Instant::now());
                        continue;
                    }
                    let state = TailState::new(last_seen, "tail", due, self.options.silence);
                    states.streams.insert(stream, TailState { connection: Some(connection), ..state });
                }
            }
            ConnectionEvent::Silent(connection, streams) => {
                // Whichever has this number; the others stay.
                let handles = self.connections.borrow().clone();
                for handle in
                    handles.iter().filter(|handle| streams.iter().any(|stream| handle.streams.contains(stream)))
                {
                    send(handle, SocketCommand::Rotate(connection));
                }
            }
            ConnectionEvent::Down(connection, streams) => {
                let until = Instant::now() + DOWN_MAX;
                for stream in streams {
                    let Some(state) = states.streams.get_mut(&stream) else { continue };
                    match self.counters.subscriptions.carrier(&stream) {
                        Some(other) => state.connection = Some(other),
                        None => state.disconnected(connection, until),
                    }
                }
            }
        }
    }

    /// When the newest frame of a stream was received.
    fn last_seen(&self, stream: &Stream) -> Option<i64> {
        let consumed = self.progress.stream(stream).last_received;
        consumed.max(self.counters.last_seen.get(stream).map(Timestamp::micros))
    }

    /// Streams to check now.
    fn due(&self, states: &mut TailStates) -> Vec<Stream> {
        let (now, usual) = (Instant::now(), self.options.silence);
        let streams = self.streams.borrow().clone();
        self.forget_removed(&streams, states);
        let mut due = Vec::new();
        if self.counters.append_delay(self.exchange, self.clock.now()) > usual / 2 {
            // The log refuses frames, so the sockets are not read and silence proves nothing.
            return due;
        }
        for stream in streams {
            if !stream.channel.has_trades() || stream.exchange != self.exchange {
                continue;
            }
            let last_seen = self.last_seen(&stream);
            let first = || TailState::new(last_seen, "silence", now + usual, usual);
            let state = states.streams.entry(stream.clone()).or_insert_with(first);
            if self.progress.outage(&stream).is_some() {
                // Frames that nobody can decode are no sign of life.
                state.last_seen = last_seen;
            }
            if state.is_due(last_seen, now, usual) {
                due.push(stream);
            }
        }
        due
    }

    /// The kline streams that are silent although their symbols trade. Adds those to `due` of which only the exchange can
    /// say whether their symbols trade.
    fn silent_klines(&self, states: &mut TailStates, due: &mut Vec<Stream>) -> Vec<Stream> {
        let now = Instant::now();
        let streams = self.streams.borrow().clone();
        let mine = |stream: &&Stream| stream.exchange == self.exchange && stream.channel.step().is_some();
        // The newest frame of each symbol's trades and klines, and how many streams show them.
        let mut traded: HashMap<&Symbol, (Option<i64>, usize)> = HashMap::new();
        for stream in streams.iter().filter(mine) {
            let (newest, count) = traded.entry(&stream.symbol).or_default();
            *newest = (*newest).max(self.last_seen(stream));
            *count += 1;
        }
        let mut silent = Vec::new();
        for stream in streams.iter().filter(mine).filter(|stream| !stream.channel.has_trades()) {
            let (traded_at, count) = traded[&stream.symbol];
            let last_seen = self.last_seen(stream);
            if states.klines.observe(stream, last_seen, traded_at, now) {
                silent.push(stream.clone());
            } else if count == 1 && states.klines.must_ask(stream, now) {
                due.push(stream.clone());
            }
        }
        silent
    }

    /// Forgets the streams that are no longer recorded here.
    fn forget_removed(&self, recorded: &[Stream], states: &mut TailStates) {
        let recorded: BTreeSet<&Stream> = recorded.iter().collect();
        states.streams.retain(|stream, _| recorded.contains(stream));
        states.klines.retain(|stream| recorded.contains(stream));
        states.recovery.values_mut().for_each(|recovery| recovery.retain(|stream| recorded.contains(stream)));
    }

    /// Handles the exchange's answer. Returns whether the stream is silent although it trades.
    async fn handle_answer(
        &self,
        stream: &Stream,
        answer: Result<Option<(i64, Timestamp)>, RestError>,
        states: &mut TailStates,
    ) -> bool {
        if !stream.channel.has_trades() {
            if let Ok(Some((_, at))) = answer {
                let ours = at.plus_micros(-self.rest.clock_offset().unwrap_or(0));
                states.klines.traded(stream, ours.micros(), Instant::now());
            }
            return false;
        }
        let Some(state) = states.streams.get_mut(stream) else { return false };
        let now = Instant::now();
        let progress = self.progress.stream(stream);
        let newest = match answer {
            Ok(newest) => newest,
            Err(RestError::Stopped) => return false,
            // Delisted or renamed: a request costs weight, and its answer will not change soon.
            Err(RestError::UnknownSymbol { text }) => {
                debug!("{stream} is no longer listed: {text}");
                state.due = now + QUIET_MAX;
                return false;
            }
            Err(error) => {
                debug!("cannot ask for the newest trade of {stream}: {error}");
                state.due = now + FAILED_WAIT;
                return false;
            }
        };
        let is_undecodable = self.progress.outage(stream).is_some();
        if !is_undecodable && self.is_in_flight(stream, progress.last_received, self.clock.now()) {
            debug!("frames of {stream} are still on their way through the log, checking again later");
            state.due = now + self.options.silence;
            return false;
        }
        let missing = match (newest, progress.next) {
            (Some((id, _)), Some(next)) if id >= next => Some(id),
            (Some(_), None) if state.by == "silence" => {
                self.send_probe(Probe::Begin(stream.clone())).await;
                None
            }
            _ => None,
        };
        if is_undecodable {
            // Subscribing again would not help.
            if let Some(last) = missing {
                let expectation = Expectation { stream: stream.clone(), last, by: state.by };
                self.send_probe(Probe::Expect(expectation)).await;
            }
            (state.due, state.by) = (now + UNDECODABLE_WAIT, "silence");
            return false;
        }
        let Some(last) = missing else {
            state.unanswered = 0;
            state.due = now + state.wait;
            state.wait = (state.wait * 2).min(QUIET_MAX);
            state.by = "silence";
            return false;
        };
        self.send_probe(Probe::Expect(Expectation { stream: stream.clone(), last, by: state.by })).await;
        // Checks again after the consumer's grace period; a stream that is still silent then is recovered.
        state.due = now + self.options.silence;
        state.wait = self.options.silence;
        let is_silent = state.by == "silence" && self.last_seen(stream) == state.last_seen;
        if is_silent {
            state.unanswered += 1;
        }
        state.by = "silence";
        is_silent
    }

    /// Whether the socket received frames that the consumer, which is at `consumed`, has not reached. Then
    /// silence proves no loss, and replacing the connection could lose frames.
    fn is_in_flight(&self, stream: &Stream, consumed: Option<i64>, now: Timestamp) -> bool {
        let last_seen = self.counters.last_seen.get(stream);
        let is_late = last_seen.is_some_and(|last_seen| consumed.is_none_or(|consumed| consumed < last_seen.micros()));
        // A last frame that cannot be decoded never shows in the progress, hence the limit. But a store may be down for
        // hours.
        let degraded = self.health.degraded_parts();
        let may_be_late = || ["history", "log"].iter().any(|part| degraded.contains_key(*part));
        is_late && (last_seen.is_some_and(|last_seen| now.since(last_seen) < LATE_MAX_US) || may_be_late())
    }

    async fn send_probe(&self, probe: Probe) {
        let sent = tokio::time::timeout(Duration::from_secs(2), self.probes.send(probe)).await;
        if !matches!(sent, Ok(Ok(()))) {
            debug!("the consumer accepts no probe now, checking again later");
        }
    }

    /// Brings streams back that are silent although they trade. Connections with the same streams take turns: what is done
    /// about one of them must not cost what another may be about to deliver.
    fn recover(&self, silent: &[Stream], states: &mut TailStates) {
        let connections = self.connections.borrow().clone();
        // Their socket requests them again.
        let refused = self.counters.subscriptions.refused();
        // A kline stream is reported only when it is silent for certain.
        let unanswered =
            |stream: &Stream| states.streams.get(stream).map_or(RESUBSCRIBE_AFTER, |state| state.unanswered);
        let steps: Vec<(&Stream, usize, u32)> = silent
            .iter()
            .filter(|stream| !refused.contains_key(*stream))
            .filter_map(|stream| {
                Some((stream, whose_turn(&connections, stream, unanswered(stream))?, unanswered(stream)))
            })
            .collect();
        for (index, connection) in connections.iter().enumerate() {
            let mut resubscribe = Vec::new();
            for &(stream, _, unanswered) in steps.iter().filter(|(_, turn, _)| *turn == index) {
                let neighbours = self.neighbours(stream, connection, &refused);
                let first = &connection.streams[0];
                let recovery = states.recovery.entry(connection.copy).or_default();
                match recovery.next_step(stream, first, unanswered, neighbours, Instant::now()) {
                    None => {}
                    Some(Step::Resubscribe) => {
                        info!("{stream} is silent although it trades, subscribing again");
                        resubscribe.push(stream.clone());
                    }
                    Some(Step::Isolate) => {
                        info!("{stream} stays silent although it trades, giving it a connection of its own");
                        if self.isolations.try_send(stream.clone()).is_err() {
                            debug!("too many streams need a connection of their own now, trying again later");
                        }
                    }
                    Some(Step::Reconnect) => {
                        warn!("{stream} stays silent although it trades, replacing its connection");
                        let reason = format!("{stream} is silent although it trades");
                        send(connection, SocketCommand::Reconnect(reason));
                    }
                }
            }
            if !resubscribe.is_empty() {
                send(connection, SocketCommand::Resubscribe(resubscribe));
            }
        }
    }

    /// Whether the other streams on the connection of a silent one deliver.
    fn neighbours(
        &self,
        stream: &Stream,
        connection: &ConnectionHandle,
        refused: &BTreeMap<Stream, String>,
    ) -> Neighbours {
        let now = self.clock.now();
        let mut others = connection
            .streams
            .iter()
            .filter(|other| *other != stream && !refused.contains_key(*other))
            .map(|other| self.counters.last_seen.get(other))
            .peekable();
        if others.peek().is_none() {
            return Neighbours::Absent;
        }
        // Two silences: a stream that was lost together with this one has been silent for longer by now.
        let lately = |at: Timestamp| now.since(at) < 2 * self.options.silence.as_micros() as i64;
        if others.flatten().any(lately) { Neighbours::Delivering } else { Neighbours::Silent }
    }
}

/// The index of the connection whose turn it is after this many unanswered requests; `None` when none has the stream.
fn whose_turn(connections: &[ConnectionHandle], stream: &Stream, unanswered: u32) -> Option<usize> {
    let carriers = connections.iter().enumerate().filter(|(_, connection)| connection.streams.contains(stream));
    let carriers: Vec<usize> = carriers.map(|(index, _)| index).collect();
    carriers.get(unanswered as usize % carriers.len().max(1)).copied()
}

fn send(connection: &ConnectionHandle, command: SocketCommand) {
    if connection.commands.try_send(command).is_err() {
        debug!("a socket accepts no command now, sending it again later");
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
