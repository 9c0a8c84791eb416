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

use super::Anchors;
use crate::clock::Clock;
use crate::consume::{Board, Expectation, Question};
use crate::exchange::rest::{QUERY_TIME_MAX, Rest, RestError};
use crate::exchange::socket::SocketCommand;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::ingest::{ConnectionNews, Counters};
use crate::market::{Channel, Exchange, Stream, Timestamp};

/// Questions asked at a time.
const ASKING_MAX: usize = 4;
/// Longest wait between two questions about a stream that is quiet and complete: at 4 of weight a question,
/// 400 quiet symbols then cost 320 of 6,000 a minute.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// How long a stream without a connection is not asked about. The neighbours of its next frame will tell what was
/// missed, at once and in one piece, for a fraction of the weight; an exchange of which only REST can be reached is
/// asked after all.
const AWAY_MAX: Duration = Duration::from_secs(60);

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
pub struct Carrier {
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
    pub board: Arc<Board>,
    /// Where answers go.
    pub questions: mpsc::Sender<Question>,
    /// The connections of now.
    pub carriers: watch::Receiver<Vec<Carrier>>,
    /// What ingest has heard.
    pub counters: Arc<Counters>,
    /// What this recorder consumes now; of the rest another recorder knows what has come.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Told since when a stream is recorded.
    pub anchors: Arc<Anchors>,
    /// What is degraded.
    pub health: Health,
    /// The time.
    pub clock: Clock,
    /// When to ask.
    pub options: TailOptions,
}

/// What is known of one stream's silence.
#[derive(Clone, Debug)]
struct Silence {
    /// Not before then.
    due: Timestamp,
    /// Wait after the next answer that finds nothing missing.
    wait: Duration,
    /// Newest frame when the question was last decided.
    heard: Option<i64>,
    /// Answers in a row that found trades which the silent stream did not bring.
    deaf: u32,
    /// The connection it came up over last.
    carrier: Option<i64>,
    /// It has no connection: not asked before then.
    away_until: Option<Timestamp>,
    by: &'static str,
}

impl Silence {
    fn new(heard: Option<i64>, by: &'static str, due: Timestamp, wait: Duration) -> Self {
        Self { due, wait, heard, deaf: 0, carrier: None, away_until: None, by }
    }

    /// A connection is lost. One that another has replaced before takes nothing away.
    fn lost(&mut self, connection: i64, until: Timestamp) {
        if self.carrier == Some(connection) {
            self.away_until = Some(until);
        }
    }

    /// Whether to ask now. A stream that has been heard since is not silent: its wait of `usual` begins anew.
    fn is_due(&mut self, heard: Option<i64>, now: Timestamp, usual: Duration) -> bool {
        if heard != self.heard {
            // A frame after a connect answers nothing about what was missed before it only when the
            // stream had no watermark; with one, the tracker has seen the hole. Either way the question waits.
            let due = now.plus_micros(usual.as_micros() as i64);
            let (carrier, away_until) = (self.carrier, self.away_until);
            *self = Self { carrier, away_until, ..Self::new(heard, "silence", due, usual) };
        }
        self.due <= now && self.away_until.is_none_or(|until| until <= now)
    }
}

impl Tail {
    /// Asks until `stop`.
    pub async fn run(self, mut news: mpsc::Receiver<ConnectionNews>, heartbeat: Heartbeat, stop: CancellationToken) {
        let mut silences: HashMap<Stream, Silence> = HashMap::new();
        while !stop.is_cancelled() {
            heartbeat.beat();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                Some(news) = news.recv() => self.hear(news, &mut silences),
            }
            let due = self.due(&mut silences);
            if due.is_empty() {
                continue;
            }
            let asking = due.into_iter().map(|stream| {
                let rest = self.rest.clone();
                let stop = stop.clone();
                async move {
                    let answer = rest.newest(stream.symbol.as_str(), &stop).await;
                    (stream, answer)
                }
            });
            let mut answers = futures_util::stream::iter(asking).buffer_unordered(ASKING_MAX);
            while let Some((stream, answer)) = heartbeat.beat_while(QUERY_TIME_MAX, answers.next()).await {
                heartbeat.beat();
                self.answer(&stream, answer, &mut silences).await;
            }
        }
        heartbeat.retire();
    }

    fn hear(&self, news: ConnectionNews, silences: &mut HashMap<Stream, Silence>) {
        match news {
            ConnectionNews::Up(connection, streams) => {
                let now = self.clock.now();
                let due = now.plus_micros(self.options.settle.as_micros() as i64);
                for stream in streams.into_iter().filter(|stream| stream.channel == Channel::Trade) {
                    let is_new = self.board.standing(&stream).next.is_none();
                    self.anchors.subscribed(&stream, now, is_new);
                    let heard = self.heard(&stream);
                    let silence = Silence::new(heard, "tail", due, self.options.silence);
                    silences.insert(stream, Silence { carrier: Some(connection), ..silence });
                }
            }
            ConnectionNews::Down(connection, streams) => {
                let until = self.clock.now().plus_micros(AWAY_MAX.as_micros() as i64);
                for stream in streams {
                    silences.entry(stream).and_modify(|silence| silence.lost(connection, until));
                }
            }
            ConnectionNews::Refused(stream, reason) => {
                self.health.degraded(&stream.to_string(), &format!("refused by the exchange: {reason}"));
            }
        }
    }

    /// When the newest frame of a stream was received.
    fn heard(&self, stream: &Stream) -> Option<i64> {
        let consumed = self.board.standing(stream).last_received;
        consumed.max(self.counters.heard.last(stream).map(Timestamp::micros))
    }

    /// Streams to ask about now.
    fn due(&self, silences: &mut HashMap<Stream, Silence>) -> Vec<Stream> {
        let (now, usual) = (self.clock.now(), self.options.silence);
        let streams = self.streams.borrow().clone();
        silences.retain(|stream, _| streams.contains(stream));
        let mut due = Vec::new();
        if self.counters.heard.waiting(now) > usual / 2 {
            // The log takes nothing, so the sockets are not read: who is silent cannot be told.
            return due;
        }
        for stream in streams {
            if stream.channel != Channel::Trade || stream.exchange != self.exchange {
                continue;
            }
            let heard = self.heard(&stream);
            let first = || Silence::new(heard, "silence", now.plus_micros(usual.as_micros() as i64), usual);
            if silences.entry(stream.clone()).or_insert_with(first).is_due(heard, now, usual) {
                due.push(stream);
            }
        }
        due
    }

    async fn answer(
        &self,
        stream: &Stream,
        answer: Result<Option<(i64, Timestamp)>, RestError>,
        silences: &mut HashMap<Stream, Silence>,
    ) {
        let Some(silence) = silences.get_mut(stream) else { return };
        let now = self.clock.now();
        let standing = self.board.standing(stream);
        let newest = match answer {
            Ok(newest) => newest,
            Err(RestError::Stopped) => return,
            // Delisted or renamed: the question costs weight and its answer will not change soon.
            Err(RestError::UnknownSymbol { text }) => {
                debug!("{stream} is not listed any more: {text}");
                silence.due = now.plus_micros(QUIET_MAX.as_micros() as i64);
                return;
            }
            Err(error) => {
                debug!("cannot ask for the newest trade of {stream}: {error}");
                silence.due = now.plus_micros(5_000_000);
                return;
            }
        };
        if self.is_on_its_way(stream, standing.last_received, now) {
            debug!("frames of {stream} are on their way through the log, asked again later");
            silence.due = now.plus_micros(self.options.silence.as_micros() as i64);
            return;
        }
        let missing = match (newest, standing.next) {
            (Some((id, _)), Some(next)) if id >= next => Some(id),
            (Some((id, _)), None) if silence.by == "silence" => {
                self.question(Question::Begin(stream.clone(), id + 1)).await;
                None
            }
            _ => None,
        };
        let Some(last) = missing else {
            silence.deaf = 0;
            silence.due = now.plus_micros(silence.wait.as_micros() as i64);
            silence.wait = (silence.wait * 2).min(QUIET_MAX);
            silence.by = "silence";
            return;
        };
        self.question(Question::Expect(Expectation { stream: stream.clone(), last, by: silence.by })).await;
        // Looked at again when the consumer has had its grace; a stream that is still deaf then is mended.
        silence.due = now.plus_micros(self.options.silence.as_micros() as i64);
        silence.wait = self.options.silence;
        if silence.by == "silence" && self.heard(stream) == silence.heard {
            silence.deaf += 1;
            self.mend(stream, silence.deaf);
        }
        silence.by = "silence";
    }

    /// Whether the socket has heard what the consumer, which was at `consumed`, has not seen yet. Then nothing is missing as
    /// far as anybody knows, and to replace the connection would lose what it holds.
    fn is_on_its_way(&self, stream: &Stream, consumed: Option<i64>, now: Timestamp) -> bool {
        let heard = self.counters.heard.last(stream);
        let is_late = heard.is_some_and(|heard| consumed.is_none_or(|consumed| consumed < heard.micros()));
        // A last frame that could not be decoded never shows on the board. But a store may be away for hours.
        let degraded = self.health.degraded_parts();
        let may_be_late = || ["history", "log"].iter().any(|part| degraded.contains_key(*part));
        is_late && (heard.is_some_and(|heard| now.since(heard) < LATE_MAX_US) || may_be_late())
    }

    async fn question(&self, question: Question) {
        let sent = tokio::time::timeout(Duration::from_secs(2), self.questions.send(question)).await;
        if !matches!(sent, Ok(Ok(()))) {
            debug!("the consumer takes no questions now, asked again later");
        }
    }

    /// First the subscription, then the connection.
    fn mend(&self, stream: &Stream, deaf: u32) {
        let command = match deaf {
            0 | 1 => return,
            2 => SocketCommand::Resubscribe(vec![stream.clone()]),
            _ => SocketCommand::Reconnect(format!("{stream} is silent although it trades")),
        };
        match &command {
            SocketCommand::Resubscribe(_) => info!("{stream} is silent although it trades, subscribing again"),
            _ => warn!("{stream} stays silent although it trades, replacing its connection"),
        }
        let carriers = self.carriers.borrow().clone();
        for carrier in carriers.into_iter().filter(|carrier| carrier.streams.contains(stream)) {
            if carrier.commands.try_send(command.clone()).is_err() {
                debug!("a socket takes no commands now, told again later");
            }
        }
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
