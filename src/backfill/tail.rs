//! Holes that no later frame reveals: after a disconnect, in a stream that went silent, at start.
//!
//! Silence proves nothing (a quiet market is silent for minutes), so it only raises a question: what is the
//! newest trade? The answer goes to the consumer, which knows what has come meanwhile and opens the gap.
//! A stream that stays silent although it traded is subscribed again, then its connection is replaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::RecordingStarts;
use crate::clock::Clock;
use crate::consume::{Expectation, Probe};
use crate::exchange::rest::{QUERY_TIME_MAX, Rest, RestError};
use crate::exchange::socket::SocketCommand;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::ingest::{ConnectionEvent, Counters};
use crate::market::{Channel, Exchange, Stream, Timestamp};
use crate::progress::Progress;

/// Questions asked at a time.
const REQUESTS_MAX: usize = 4;
/// Longest wait between two questions about a stream that is quiet and complete: at 4 of weight a question,
/// 400 quiet symbols then cost 320 of 6,000 a minute.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// How long a stream without a connection is not asked about. The neighbours of its next frame will tell what was
/// missed, at once and in one piece, for a fraction of the weight; an exchange of which only REST can be reached is
/// asked after all.
const DOWN_MAX: Duration = Duration::from_secs(60);

/// A consumer that is later than this, with stores that answer, is asked about what it has not seen all the same, microseconds.
const LATE_MAX_US: i64 = 300_000_000;

/// When to ask.
#[derive(Clone, Copy, Debug)]
pub struct TailOptions {
    /// After so much silence the first question is asked; the wait then doubles while nothing is missing.
    pub silence: Duration,
    /// How long after a connect: the first frames may answer by themselves.
    pub settle: Duration,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self { silence: Duration::from_secs(5), settle: Duration::from_secs(1) }
    }
}

/// A connection, what it carries, and how it is told.
#[derive(Clone)]
pub struct ConnectionHandle {
    /// The streams it carries.
    pub streams: Vec<Stream>,
    /// Where its commands go.
    pub commands: mpsc::Sender<SocketCommand>,
}

/// Asks about the tails of one exchange's trade streams.
pub struct Tail {
    /// Who is asked.
    pub rest: Arc<Rest>,
    /// Whose streams.
    pub exchange: Exchange,
    /// What has come.
    pub progress: Arc<Progress>,
    /// Where answers go.
    pub probes: mpsc::Sender<Probe>,
    /// The connections of now.
    pub connections: watch::Receiver<Vec<ConnectionHandle>>,
    /// What ingest has heard.
    pub counters: Arc<Counters>,
    /// What this recorder consumes now; of the rest another recorder knows what has come.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Told since when a stream is recorded.
    pub recording_starts: Arc<RecordingStarts>,
    /// What is degraded.
    pub health: Health,
    /// The time.
    pub clock: Clock,
    /// When to ask.
    pub options: TailOptions,
}

/// What is known of one stream's silence.
#[derive(Clone, Debug)]
struct TailState {
    /// Not before then.
    due: Timestamp,
    /// Wait after the next answer that finds nothing missing.
    wait: Duration,
    /// Newest frame when the question was last decided.
    last_seen: Option<i64>,
    /// Answers in a row that found trades which the silent stream did not bring.
    unanswered: u32,
    /// The connection it came up over last.
    connection: Option<i64>,
    /// It has no connection: not asked before then.
    down_until: Option<Timestamp>,
    by: &'static str,
}

impl TailState {
    fn new(last_seen: Option<i64>, by: &'static str, due: Timestamp, wait: Duration) -> Self {
        Self { due, wait, last_seen, unanswered: 0, connection: None, down_until: None, by }
    }

    /// A connection is lost. One that another has replaced before takes nothing away.
    fn disconnected(&mut self, connection: i64, until: Timestamp) {
        if self.connection == Some(connection) {
            self.down_until = Some(until);
        }
    }

    /// Whether to ask now. A stream that has been heard since is not silent: its wait of `usual` begins anew.
    fn is_due(&mut self, last_seen: Option<i64>, now: Timestamp, usual: Duration) -> bool {
        if last_seen != self.last_seen {
            // A frame after a connect answers nothing about what was missed before it only when the
            // stream had no watermark; with one, the tracker has seen the hole. Either way the question waits.
            let due = now.plus_micros(usual.as_micros() as i64);
            let (connection, down_until) = (self.connection, self.down_until);
            *self = Self { connection, down_until, ..Self::new(last_seen, "silence", due, usual) };
        }
        self.due <= now && self.down_until.is_none_or(|until| until <= now)
    }
}

impl Tail {
    /// Asks until `stop`.
    pub async fn run(self, mut events: mpsc::Receiver<ConnectionEvent>, heartbeat: Heartbeat, stop: CancellationToken) {
        let mut states: HashMap<Stream, TailState> = HashMap::new();
        while !stop.is_cancelled() {
            heartbeat.beat();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                Some(event) = events.recv() => self.handle_event(event, &mut states),
            }
            let due = self.due(&mut states);
            if due.is_empty() {
                continue;
            }
            let requests = due.into_iter().map(|stream| {
                let rest = self.rest.clone();
                let stop = stop.clone();
                async move {
                    let answer = rest.newest(stream.symbol.as_str(), &stop).await;
                    (stream, answer)
                }
            });
            let mut answers = futures_util::stream::iter(requests).buffer_unordered(REQUESTS_MAX);
            while let Some((stream, answer)) = heartbeat.beat_while(QUERY_TIME_MAX, answers.next()).await {
                heartbeat.beat();
                self.handle_answer(&stream, answer, &mut states).await;
            }
        }
        heartbeat.retire();
    }

    fn handle_event(&self, event: ConnectionEvent, states: &mut HashMap<Stream, TailState>) {
        match event {
            ConnectionEvent::Up(connection, streams) => {
                let now = self.clock.now();
                let due = now.plus_micros(self.options.settle.as_micros() as i64);
                for stream in streams.into_iter().filter(|stream| stream.channel == Channel::Trade) {
                    let is_new = self.progress.stream(&stream).next.is_none();
                    self.recording_starts.mark_subscribed(&stream, now, is_new);
                    let last_seen = self.last_seen(&stream);
                    let state = TailState::new(last_seen, "tail", due, self.options.silence);
                    states.insert(stream, TailState { connection: Some(connection), ..state });
                }
            }
            ConnectionEvent::Down(connection, streams) => {
                let until = self.clock.now().plus_micros(DOWN_MAX.as_micros() as i64);
                for stream in streams {
                    states.entry(stream).and_modify(|state| state.disconnected(connection, until));
                }
            }
            ConnectionEvent::Refused(stream, reason) => {
                self.health.degraded(&stream.to_string(), &format!("refused by the exchange: {reason}"));
            }
        }
    }

    /// When the newest frame of a stream was received.
    fn last_seen(&self, stream: &Stream) -> Option<i64> {
        let consumed = self.progress.stream(stream).last_received;
        consumed.max(self.counters.last_seen.get(stream).map(Timestamp::micros))
    }

    /// Streams to ask about now.
    fn due(&self, states: &mut HashMap<Stream, TailState>) -> Vec<Stream> {
        let (now, usual) = (self.clock.now(), self.options.silence);
        let streams = self.streams.borrow().clone();
        states.retain(|stream, _| streams.contains(stream));
        let mut due = Vec::new();
        if self.counters.last_seen.append_delay(now) > usual / 2 {
            // The log takes nothing, so the sockets are not read: who is silent cannot be told.
            return due;
        }
        for stream in streams {
            if stream.channel != Channel::Trade || stream.exchange != self.exchange {
                continue;
            }
            let last_seen = self.last_seen(&stream);
            let first = || TailState::new(last_seen, "silence", now.plus_micros(usual.as_micros() as i64), usual);
            if states.entry(stream.clone()).or_insert_with(first).is_due(last_seen, now, usual) {
                due.push(stream);
            }
        }
        due
    }

    async fn handle_answer(
        &self,
        stream: &Stream,
        answer: Result<Option<(i64, Timestamp)>, RestError>,
        states: &mut HashMap<Stream, TailState>,
    ) {
        let Some(state) = states.get_mut(stream) else { return };
        let now = self.clock.now();
        let progress = self.progress.stream(stream);
        let newest = match answer {
            Ok(newest) => newest,
            Err(RestError::Stopped) => return,
            // Delisted or renamed: the question costs weight and its answer will not change soon.
            Err(RestError::UnknownSymbol { text }) => {
                debug!("{stream} is not listed any more: {text}");
                state.due = now.plus_micros(QUIET_MAX.as_micros() as i64);
                return;
            }
            Err(error) => {
                debug!("cannot ask for the newest trade of {stream}: {error}");
                state.due = now.plus_micros(5_000_000);
                return;
            }
        };
        if self.is_in_flight(stream, progress.last_received, now) {
            debug!("frames of {stream} are on their way through the log, asked again later");
            state.due = now.plus_micros(self.options.silence.as_micros() as i64);
            return;
        }
        let missing = match (newest, progress.next) {
            (Some((id, _)), Some(next)) if id >= next => Some(id),
            (Some((id, _)), None) if state.by == "silence" => {
                self.send_probe(Probe::Begin(stream.clone(), id + 1)).await;
                None
            }
            _ => None,
        };
        let Some(last) = missing else {
            state.unanswered = 0;
            state.due = now.plus_micros(state.wait.as_micros() as i64);
            state.wait = (state.wait * 2).min(QUIET_MAX);
            state.by = "silence";
            return;
        };
        self.send_probe(Probe::Expect(Expectation { stream: stream.clone(), last, by: state.by })).await;
        // Looked at again when the consumer has had its grace; a stream that is still deaf then is mended.
        state.due = now.plus_micros(self.options.silence.as_micros() as i64);
        state.wait = self.options.silence;
        if state.by == "silence" && self.last_seen(stream) == state.last_seen {
            state.unanswered += 1;
            self.recover(stream, state.unanswered);
        }
        state.by = "silence";
    }

    /// Whether the socket has heard what the consumer, which was at `consumed`, has not seen yet. Then nothing is missing as
    /// far as anybody knows, and to replace the connection would lose what it holds.
    fn is_in_flight(&self, stream: &Stream, consumed: Option<i64>, now: Timestamp) -> bool {
        let last_seen = self.counters.last_seen.get(stream);
        let is_late = last_seen.is_some_and(|last_seen| consumed.is_none_or(|consumed| consumed < last_seen.micros()));
        // A last frame that could not be decoded never shows on the progress. But a store may be away for hours.
        let degraded = self.health.degraded_parts();
        let may_be_late = || ["history", "log"].iter().any(|part| degraded.contains_key(*part));
        is_late && (last_seen.is_some_and(|last_seen| now.since(last_seen) < LATE_MAX_US) || may_be_late())
    }

    async fn send_probe(&self, probe: Probe) {
        let sent = tokio::time::timeout(Duration::from_secs(2), self.probes.send(probe)).await;
        if !matches!(sent, Ok(Ok(()))) {
            debug!("the consumer takes no questions now, asked again later");
        }
    }

    /// First the subscription, then the connection.
    fn recover(&self, stream: &Stream, unanswered: u32) {
        let command = match unanswered {
            0 | 1 => return,
            2 => SocketCommand::Resubscribe(vec![stream.clone()]),
            _ => SocketCommand::Reconnect(format!("{stream} is silent although it trades")),
        };
        match &command {
            SocketCommand::Resubscribe(_) => info!("{stream} is silent although it trades, subscribing again"),
            _ => warn!("{stream} stays silent although it trades, replacing its connection"),
        }
        let connections = self.connections.borrow().clone();
        for connection in connections.into_iter().filter(|connection| connection.streams.contains(stream)) {
            if connection.commands.try_send(command.clone()).is_err() {
                debug!("a socket takes no commands now, told again later");
            }
        }
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
