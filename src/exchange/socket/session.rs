//! One open connection, from its first SUBSCRIBE to its end.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;

use super::connect::WebSocket;
use super::connections::Status;
use super::pace::Pacer;
use super::rotation::Link;
use super::subscriptions::Subscriptions;
use super::{SocketCommand, SocketEvent, SocketOptions};
use crate::clock::Clock;
use crate::exchange::{Dialect, Routed};
use crate::market::{Stream, Timestamp};

/// Most frames of one event: a batch is whatever was ready, but no more than this, so that a flood cannot
/// starve the timers.
const BATCH_MAX: usize = 512;
/// Most time for the exchange to take our close frame.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
/// Most time for the exchange to take one request.
const SEND_WAIT: Duration = Duration::from_secs(10);

/// How a connection ended.
pub(super) struct End {
    pub(super) reason: String,
    /// By our own `stop`, or because nobody receives the events.
    pub(super) stopped: bool,
    /// The next connection need not wait.
    pub(super) at_once: bool,
    /// It had delivered data of a stream.
    pub(super) delivered: bool,
}

/// Why the loop leaves; [`Session::run`] makes an [`End`] of it.
enum Leave {
    Stopped,
    Lost(String),
    /// Somebody asked for another connection, or there is one already.
    Asked(String),
}

/// What a session works with.
pub(super) struct SessionParts {
    pub(super) dialect: Arc<dyn Dialect>,
    pub(super) options: SocketOptions,
    pub(super) clock: Clock,
    pub(super) events: mpsc::Sender<SocketEvent>,
    pub(super) commands: mpsc::Receiver<SocketCommand>,
    pub(super) status: Arc<Status>,
    pub(super) link: Link,
    pub(super) stop: CancellationToken,
}

pub(super) struct Session {
    parts: SessionParts,
    web_socket: WebSocket,
    connection: i64,
    subscriptions: Subscriptions,
    pacer: Pacer,
    silence_max: Duration,
    /// When anything at all last came.
    heard_at: Instant,
    /// When to stop waiting for answers; `None` when none is outstanding.
    answers_until: Option<Instant>,
    batch: Vec<(Timestamp, Bytes)>,
    delivered: bool,
}

impl Session {
    pub(super) fn new(parts: SessionParts, web_socket: WebSocket, connection: i64, streams: Vec<Stream>) -> Self {
        let limits = parts.dialect.limits();
        let now = Instant::now();
        Self {
            subscriptions: Subscriptions::new(parts.dialect.clone(), &streams),
            pacer: Pacer::new(limits.messages_per_second, now),
            silence_max: parts.options.silence_max.unwrap_or(limits.silence_max),
            heard_at: now,
            answers_until: None,
            batch: Vec::new(),
            delivered: false,
            parts,
            web_socket,
            connection,
        }
    }

    /// Runs until the connection ends, and closes it as politely as half a second allows.
    pub(super) async fn run(mut self) -> End {
        let leave = self.turn_until_end().await;
        if !matches!(leave, Leave::Lost(_))
            && let Ok(Err(error)) = tokio::time::timeout(CLOSE_WAIT, self.web_socket.close(None)).await
        {
            tracing::debug!(connection = self.connection, %error, "the close frame was not sent");
        }
        let (reason, stopped, at_once) = match leave {
            Leave::Stopped => ("stopped".to_owned(), true, false),
            Leave::Lost(reason) => (reason, false, false),
            Leave::Asked(reason) => (reason, false, true),
        };
        End { reason, stopped, at_once, delivered: self.delivered }
    }

    async fn turn_until_end(&mut self) -> Leave {
        let mut timer = pin!(tokio::time::sleep_until(self.next_deadline()));
        loop {
            // The timer is moved only when it must ring earlier: silence moves its own deadline with every
            // frame, and a timer that rings in vain once a minute is cheaper than one set for every batch.
            let deadline = self.next_deadline();
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            let turn = tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => Err(Leave::Stopped),
                () = self.parts.link.replaced.cancelled() => {
                    Err(Leave::Asked("another connection carries its streams".to_owned()))
                }
                Some(command) = self.parts.commands.recv() => self.obey(command),
                () = timer.as_mut() => self.keep_time().await,
                lost = read_ready(&mut self.web_socket, &mut self.batch, &self.parts.clock) => self.heard(lost).await,
            };
            if let Err(leave) = turn {
                return leave;
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.heard_at + self.silence_max;
        if self.subscriptions.has_more() {
            next = next.min(self.pacer.ready_at());
        }
        if let Some(until) = self.answers_until {
            next = next.min(until);
        }
        next
    }

    fn obey(&mut self, command: SocketCommand) -> Result<(), Leave> {
        match command {
            SocketCommand::SetStreams(new) => {
                self.subscriptions.set(&new);
                if new.is_empty() {
                    return Err(Leave::Asked("no streams are wanted any more".to_owned()));
                }
            }
            SocketCommand::Resubscribe(streams) => self.subscriptions.resubscribe(&streams),
            SocketCommand::Reconnect(reason) => return Err(Leave::Asked(reason)),
        }
        self.show();
        Ok(())
    }

    /// Does what a deadline asks for; more than one may have passed.
    async fn keep_time(&mut self) -> Result<(), Leave> {
        let now = Instant::now();
        // A minute without even the ping that is due every 20 s: a dead peer often sends no RST. A last look,
        // because it may be this process that was held up while the bytes lay ready.
        if now >= self.heard_at + self.silence_max {
            match read_ready(&mut self.web_socket, &mut self.batch, &self.parts.clock).now_or_never() {
                Some(heard) => self.heard(heard).await?,
                None => return Err(Leave::Lost(format!("nothing came for {} s", self.silence_max.as_secs_f32()))),
            }
        }
        if self.answers_until.is_some_and(|until| now >= until) {
            self.answers_until = None;
            let overdue = self.subscriptions.give_up_waiting();
            let connection = self.connection;
            tracing::warn!(connection, overdue, "the exchange has not answered our requests for {overdue} streams");
            self.tell_connected().await?;
        }
        if self.subscriptions.has_more() && now >= self.pacer.ready_at() {
            self.send_request(now).await?;
        }
        Ok(())
    }

    async fn send_request(&mut self, now: Instant) -> Result<(), Leave> {
        let Some(request) = self.subscriptions.next_request() else { return Ok(()) };
        self.pacer.spend(now);
        self.answers_until = Some(now + self.parts.options.answer_timeout);
        let sending = tokio::time::timeout(SEND_WAIT, self.web_socket.send(Message::text(request)));
        let sent = tokio::select! {
            biased;
            () = self.parts.stop.cancelled() => return Err(Leave::Stopped),
            sent = sending => sent,
        };
        match sent {
            Ok(Ok(())) => {
                self.show();
                Ok(())
            }
            Ok(Err(error)) => Err(Leave::Lost(format!("send a request: {error}"))),
            Err(_) => Err(Leave::Lost("the exchange does not take our requests".to_owned())),
        }
    }

    /// Handles what came. Frames that came before the end of a connection are handed over before the end is
    /// told; answers among them are acted upon afterwards, so that the log shows cause before effect.
    async fn heard(&mut self, heard: Heard) -> Result<(), Leave> {
        let now = Instant::now();
        for _ in 0..heard.pings {
            // "pong with the same payload": the library echoes it when it reads on. "PING, PONG and JSON all
            // count" against the limit.
            self.pacer.spend(now);
        }
        let leave = heard.lost.map(Leave::Lost);
        if !self.batch.is_empty() {
            let next = Vec::with_capacity(self.batch.len().next_power_of_two().min(BATCH_MAX));
            let frames = std::mem::replace(&mut self.batch, next);
            let mut answers = Vec::new();
            for (_, payload) in &frames {
                match self.parts.dialect.route(payload) {
                    Routed::Stream(_) => self.delivered = true,
                    Routed::Answer { id, error } => answers.push((id, error)),
                    Routed::Shutdown => {
                        let connection = self.connection;
                        tracing::info!(connection, "the exchange announced the end of connection {connection}");
                        self.parts.link.announced.cancel();
                    }
                    Routed::Other => {}
                }
            }
            if let Some(&(at, _)) = frames.last() {
                self.parts.status.received(frames.len(), at);
            }
            let noted: Vec<Bytes> = match self.parts.link.is_noting() {
                true => frames.iter().map(|(_, payload)| payload.clone()).collect(),
                false => Vec::new(),
            };
            self.emit(SocketEvent::Frames { connection: self.connection, frames }).await?;
            // Only what was handed over counts: the rest may still be lost with this connection.
            self.parts.link.note(&*self.parts.dialect, &noted);
            for (id, error) in answers {
                self.answered(id, error).await?;
            }
        }
        self.heard_at = Instant::now();
        leave.map_or(Ok(()), Err)
    }

    async fn answered(&mut self, id: Option<u64>, error: Option<String>) -> Result<(), Leave> {
        if let Some(refusal) = self.subscriptions.answered(id, error) {
            let (stream, reason) = (refusal.stream, refusal.reason);
            tracing::error!(%stream, reason, "the exchange refuses {stream}: {reason}");
            self.emit(SocketEvent::Refused { stream, reason }).await?;
        }
        self.tell_connected().await
    }

    async fn tell_connected(&mut self) -> Result<(), Leave> {
        let Some(streams) = self.subscriptions.settled() else { return Ok(()) };
        self.answers_until = None;
        self.show();
        let (connection, count) = (self.connection, streams.len());
        tracing::info!(connection, streams = count, "connection {connection} carries {count} more streams");
        self.emit(SocketEvent::Connected { connection, streams }).await
    }

    fn show(&self) {
        let subscribing = self.subscriptions.has_more() || self.answers_until.is_some();
        self.parts.status.change(|row| {
            row.streams = self.subscriptions.len();
            row.state = if subscribing { "subscribing".to_owned() } else { "connected".to_owned() };
        });
    }

    /// Hands an event over; waits for room, which stops the reading.
    async fn emit(&mut self, event: SocketEvent) -> Result<(), Leave> {
        tokio::select! {
            biased;
            sent = self.parts.events.send(event) => sent.map_err(|_| Leave::Stopped)?,
            () = self.parts.stop.cancelled() => return Err(Leave::Stopped),
        }
        // A receiver that made us wait is no silence of the exchange.
        self.heard_at = Instant::now();
        Ok(())
    }
}

/// What one look at the socket found, besides the frames.
#[derive(Default)]
struct Heard {
    pings: u32,
    /// The connection has ended, and why.
    lost: Option<String>,
}

/// Takes everything that is ready, at most [`BATCH_MAX`] frames, into `batch`. Nothing is lost when the
/// future is dropped: it is ready as soon as it has taken something.
async fn read_ready(
    web_socket: &mut WebSocket,
    batch: &mut Vec<(Timestamp, Bytes)>,
    clock: &crate::clock::Clock,
) -> Heard {
    std::future::poll_fn(|context| {
        let mut heard = Heard::default();
        let mut anything = false;
        // One reading of the clock for all that came with one wake-up: they came at one instant.
        let mut now = None;
        for _ in 0..BATCH_MAX {
            match web_socket.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => {
                    anything = true;
                    let payload = match message {
                        Message::Text(text) => Bytes::from(text),
                        Message::Binary(bytes) => bytes,
                        Message::Ping(_) => {
                            heard.pings += 1;
                            continue;
                        }
                        Message::Close(frame) => {
                            heard.lost = Some(closed(frame));
                            return Poll::Ready(heard);
                        }
                        Message::Pong(_) | Message::Frame(_) => continue,
                    };
                    batch.push((*now.get_or_insert_with(|| clock.now()), payload));
                }
                Poll::Ready(Some(Err(error))) => {
                    heard.lost = Some(format!("the connection broke: {error}"));
                    return Poll::Ready(heard);
                }
                Poll::Ready(None) => {
                    heard.lost = Some("the connection ended".to_owned());
                    return Poll::Ready(heard);
                }
                Poll::Pending if anything => return Poll::Ready(heard),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(heard)
    })
    .await
}

fn closed(frame: Option<CloseFrame>) -> String {
    match frame {
        Some(frame) if frame.reason.is_empty() => format!("the exchange closed the connection ({})", frame.code),
        Some(frame) => format!("the exchange closed the connection ({} {:?})", frame.code, frame.reason.as_str()),
        None => "the exchange closed the connection".to_owned(),
    }
}
