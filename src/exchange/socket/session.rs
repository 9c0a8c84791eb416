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
use super::connections::StatusHandle;
use super::pace::Pacer;
use super::refusals::Refusals;
use super::rotation::RotationLink;
use super::subscriptions::Subscriptions;
use super::{SocketEvent, SocketOptions};
use crate::clock::Clock;
use crate::exchange::spec::Heartbeat;
use crate::exchange::{Dialect, Route, SubscriptionAnswer};
use crate::market::{Stream, Timestamp};

/// Most frames of one event. A batch is everything that was ready, but no more than this: a flood must not starve the
/// timers.
const BATCH_MAX: usize = 512;
/// Bytes at which a batch takes no further frame: frames of megabytes must not fill the memory.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Most time for the exchange to take our close frame.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
/// Most time for the exchange to take one request.
const SEND_WAIT: Duration = Duration::from_secs(10);

/// How a connection ended.
pub(super) struct SessionEnd {
    pub(super) reason: String,
    /// Our own `stop` ended it, or the receiver of the events is gone.
    pub(super) stopped: bool,
    /// The next connection needs no wait.
    pub(super) reconnect_now: bool,
    /// It delivered data of a stream.
    pub(super) delivered: bool,
}

/// The answer without a borrow of its frame: the frame goes to ingest before the answer is handled.
fn own(answer: SubscriptionAnswer<'_>) -> SubscriptionAnswer<'static> {
    let streams = answer.streams.into_iter().map(|name| name.into_owned().into()).collect();
    SubscriptionAnswer { id: answer.id, streams, error: answer.error }
}

/// Why the loop ends; [`Session::run`] converts it to a [`SessionEnd`].
enum Exit {
    Stopped,
    Lost(String),
    /// A command requested another connection, or another connection already carries the streams.
    Requested(String),
}

/// What the socket's own loop tells a session.
#[derive(Clone, Debug)]
pub(super) enum SessionCommand {
    /// Subscribe to the new ones of these streams and unsubscribe from all others.
    SetStreams(Vec<Stream>),
    /// See [`super::SocketCommand::Resubscribe`].
    Resubscribe(Vec<Stream>),
    /// See [`super::SocketCommand::Reconnect`].
    Reconnect(String),
}

/// The dependencies of a session.
pub(super) struct SessionDeps {
    pub(super) dialect: Arc<dyn Dialect>,
    pub(super) options: SocketOptions,
    pub(super) clock: Clock,
    pub(super) events: mpsc::Sender<SocketEvent>,
    pub(super) commands: mpsc::Receiver<SessionCommand>,
    pub(super) status: Arc<StatusHandle>,
    pub(super) link: RotationLink,
    /// The streams of the socket that the exchange refuses.
    pub(super) refusals: Refusals,
    pub(super) stop: CancellationToken,
}

pub(super) struct Session {
    deps: SessionDeps,
    web_socket: WebSocket,
    connection: i64,
    /// The streams that this connection must carry, refused or not.
    streams: Vec<Stream>,
    subscriptions: Subscriptions,
    pacer: Pacer,
    silence_max: Duration,
    /// When the exchange last sent anything at all.
    last_received_at: Instant,
    /// When to stop waiting for answers; `None` when no request is unanswered.
    answers_due_at: Option<Instant>,
    batch: Vec<(Timestamp, Bytes)>,
    delivered: bool,
    /// Whether the exchange refused some of `streams`: spares the search for them at every batch.
    has_refused: bool,
    heartbeat: Heartbeat,
    /// When our next heartbeat is due, if the exchange wants any.
    heartbeat_at: Option<Instant>,
}

impl Session {
    pub(super) fn new(deps: SessionDeps, web_socket: WebSocket, connection: i64, streams: Vec<Stream>) -> Self {
        let limits = &deps.dialect.spec().limits;
        let now = Instant::now();
        let has_refused = deps.refusals.next_at(&streams).is_some();
        let heartbeat = deps.dialect.spec().sockets[deps.options.address].heartbeat;
        Self {
            heartbeat,
            heartbeat_at: match heartbeat {
                Heartbeat::Client { every, .. } => Some(now + every),
                Heartbeat::Server => None,
            },
            subscriptions: Subscriptions::new(deps.dialect.clone(), &requestable(&streams, &deps.refusals, now)),
            streams,
            pacer: Pacer::new(limits.messages_per_second, now),
            silence_max: deps.options.silence_max.unwrap_or(limits.silence_max),
            last_received_at: now,
            answers_due_at: None,
            batch: Vec::new(),
            delivered: false,
            has_refused,
            deps,
            web_socket,
            connection,
        }
    }

    /// Runs until the connection ends. A connection that we end gets [`CLOSE_WAIT`] to take a close frame.
    pub(super) async fn run(mut self) -> SessionEnd {
        let exit = self.run_until_exit().await;
        if !matches!(exit, Exit::Lost(_))
            && let Ok(Err(error)) = tokio::time::timeout(CLOSE_WAIT, self.web_socket.close(None)).await
        {
            tracing::debug!(connection = self.connection, %error, "the close frame was not sent");
        }
        let (reason, stopped, reconnect_now) = match exit {
            Exit::Stopped => ("stopped".to_owned(), true, false),
            Exit::Lost(reason) => (reason, false, false),
            Exit::Requested(reason) => (reason, false, true),
        };
        SessionEnd { reason, stopped, reconnect_now, delivered: self.delivered }
    }

    async fn run_until_exit(&mut self) -> Exit {
        let mut timer = pin!(tokio::time::sleep_until(self.next_deadline()));
        loop {
            // The timer moves only to an earlier deadline: every frame postpones the silence deadline, and one
            // needless wake-up a minute costs less than a reset for every batch.
            let deadline = self.next_deadline();
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            let step = tokio::select! {
                biased;
                () = self.deps.stop.cancelled() => Err(Exit::Stopped),
                () = self.deps.link.replaced.cancelled() => {
                    Err(Exit::Requested("another connection carries its streams".to_owned()))
                }
                Some(command) = self.deps.commands.recv() => self.handle_command(command),
                () = timer.as_mut() => self.handle_deadlines().await,
                outcome = read_ready(&mut self.web_socket, &mut self.batch, &self.deps.clock) => self.handle_read(outcome).await,
            };
            if let Err(exit) = step {
                return exit;
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.last_received_at + self.silence_max;
        if self.subscriptions.has_unsent() {
            next = next.min(self.pacer.ready_at());
        }
        for until in [self.answers_due_at, self.heartbeat_at].into_iter().flatten() {
            next = next.min(until);
        }
        if let Some(again_at) = self.deps.refusals.next_at(&self.unrequested()) {
            next = next.min(again_at);
        }
        next
    }

    fn handle_command(&mut self, command: SessionCommand) -> Result<(), Exit> {
        match command {
            SessionCommand::SetStreams(new) => {
                self.subscriptions.set(&requestable(&new, &self.deps.refusals, Instant::now()));
                self.streams = new;
                if self.streams.is_empty() {
                    return Err(Exit::Requested("no streams are wanted any more".to_owned()));
                }
            }
            SessionCommand::Resubscribe(streams) => self.subscriptions.resubscribe(&streams),
            SessionCommand::Reconnect(reason) => return Err(Exit::Requested(reason)),
        }
        self.update_status();
        Ok(())
    }

    /// Handles every deadline that has passed.
    async fn handle_deadlines(&mut self) -> Result<(), Exit> {
        let now = Instant::now();
        // A minute without even the ping that is due every 20 s: a dead peer often sends no RST. Read once more,
        // because this process itself may have been delayed while bytes were ready.
        if now >= self.last_received_at + self.silence_max {
            match read_ready(&mut self.web_socket, &mut self.batch, &self.deps.clock).now_or_never() {
                Some(outcome) => self.handle_read(outcome).await?,
                None => return Err(Exit::Lost(format!("nothing came for {} s", self.silence_max.as_secs_f32()))),
            }
        }
        if self.answers_due_at.is_some_and(|until| now >= until) {
            self.answers_due_at = None;
            let overdue = self.subscriptions.accept_overdue();
            let connection = self.connection;
            // Otherwise only an UNSUBSCRIBE is unanswered, or every other stream was refused.
            if overdue > 0 {
                tracing::warn!(connection, overdue, "the exchange has not answered our requests for {overdue} streams");
            }
            self.report_connected().await?;
        }
        if self.has_refused {
            self.request_refused(now);
        }
        if self.heartbeat_at.is_some_and(|at| now >= at)
            && let Heartbeat::Client { every, message } = self.heartbeat
        {
            self.heartbeat_at = Some(now + every);
            self.pacer.spend(now);
            self.send(message.to_owned()).await?;
        }
        if self.subscriptions.has_unsent() && now >= self.pacer.ready_at() {
            self.send_request(now).await?;
        }
        Ok(())
    }

    /// The streams that this connection must carry and that the exchange refused.
    fn unrequested(&self) -> Vec<Stream> {
        match self.has_refused {
            true => self.streams.iter().filter(|stream| !self.subscriptions.carries(stream)).cloned().collect(),
            false => Vec::new(),
        }
    }

    /// Requests refused streams again whose wait is over.
    fn request_refused(&mut self, now: Instant) {
        let due = requestable(&self.unrequested(), &self.deps.refusals, now);
        if !due.is_empty() {
            tracing::info!(connection = self.connection, "requesting {} refused streams again", due.len());
            self.subscriptions.subscribe(&due);
        }
        self.has_refused = !self.unrequested().is_empty();
    }

    async fn send_request(&mut self, now: Instant) -> Result<(), Exit> {
        let Some(request) = self.subscriptions.next_request() else { return Ok(()) };
        self.pacer.spend(now);
        self.answers_due_at = Some(now + self.deps.options.answer_timeout);
        self.send(request).await?;
        self.update_status();
        Ok(())
    }

    async fn send(&mut self, text: String) -> Result<(), Exit> {
        let sending = tokio::time::timeout(SEND_WAIT, self.web_socket.send(Message::text(text)));
        let sent = tokio::select! {
            biased;
            () = self.deps.stop.cancelled() => return Err(Exit::Stopped),
            sent = sending => sent,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Exit::Lost(format!("send a request: {error}"))),
            Err(_) => Err(Exit::Lost("the exchange does not accept our requests".to_owned())),
        }
    }

    /// Handles what one read returned. It sends the frames before it reports the end of the connection, and before it
    /// handles the answers among them, so that the log shows cause before effect.
    async fn handle_read(&mut self, outcome: ReadOutcome) -> Result<(), Exit> {
        let now = Instant::now();
        for _ in 0..outcome.pings {
            // "pong with the same payload": the library sends it at the next read. "PING, PONG and JSON all count"
            // against the limit.
            self.pacer.spend(now);
        }
        let exit = outcome.lost.map(Exit::Lost);
        if !self.batch.is_empty() {
            let next = Vec::with_capacity(self.batch.len().next_power_of_two().min(BATCH_MAX));
            let frames = std::mem::replace(&mut self.batch, next);
            let mut answers = Vec::new();
            for (_, payload) in &frames {
                match self.deps.dialect.route(payload) {
                    Route::Stream(_) => self.delivered = true,
                    Route::Answer(answer) => answers.push(own(answer)),
                    Route::Shutdown => {
                        let connection = self.connection;
                        tracing::info!(connection, "the exchange announced the end of connection {connection}");
                        self.deps.link.announced.cancel();
                    }
                    Route::Heartbeat | Route::Other => {}
                }
            }
            if let Some(&(at, _)) = frames.last() {
                self.deps.status.received(frames.len(), at);
            }
            let delivered: Vec<Bytes> = match self.deps.link.is_observing() {
                true => frames.iter().map(|(_, payload)| payload.clone()).collect(),
                false => Vec::new(),
            };
            self.emit(SocketEvent::Frames { connection: self.connection, frames }).await?;
            // Only frames in the channel count: the others may still be lost with this connection.
            self.deps.link.observe(&*self.deps.dialect, &delivered);
            for answer in answers {
                self.handle_answer(answer).await?;
            }
        }
        self.last_received_at = Instant::now();
        exit.map_or(Ok(()), Err)
    }

    async fn handle_answer(&mut self, answer: SubscriptionAnswer<'static>) -> Result<(), Exit> {
        for refusal in self.subscriptions.handle_answer(answer) {
            let (stream, reason) = (refusal.stream, refusal.reason);
            self.deps.refusals.refused(&stream, self.deps.options.refusal_wait, Instant::now());
            self.has_refused = true;
            // The receiver of the event logs it.
            self.emit(SocketEvent::Refused { connection: self.connection, stream, reason }).await?;
        }
        self.report_connected().await
    }

    async fn report_connected(&mut self) -> Result<(), Exit> {
        let Some(streams) = self.subscriptions.take_accepted() else { return Ok(()) };
        self.answers_due_at = None;
        self.deps.refusals.accepted(&streams);
        self.update_status();
        let (connection, count) = (self.connection, streams.len());
        tracing::info!(connection, streams = count, "connection {connection} carries {count} more streams");
        self.emit(SocketEvent::Connected { connection, streams }).await
    }

    fn update_status(&self) {
        let subscribing = self.subscriptions.has_unsent() || self.answers_due_at.is_some();
        self.deps.status.update(|row| {
            row.streams = self.subscriptions.len();
            row.state = if subscribing { "subscribing".to_owned() } else { "connected".to_owned() };
        });
    }

    /// Sends an event. While the channel is full it waits, and the socket is not read.
    async fn emit(&mut self, event: SocketEvent) -> Result<(), Exit> {
        // The channel counts events, not bytes: the more bytes an event has, the fewer others may be in the channel.
        let capacity = self.deps.events.max_capacity();
        let before_max = (capacity / (event.bytes() / BATCH_BYTES_MAX + 1)).max(1);
        let places = capacity - before_max + 1;
        tokio::select! {
            biased;
            reserved = self.deps.events.reserve_many(places) => {
                let place = reserved.map_err(|_| Exit::Stopped)?.next();
                place.expect("at least one place was reserved").send(event);
            }
            () = self.deps.stop.cancelled() => return Err(Exit::Stopped),
        }
        // The wait for the receiver does not count as silence of the exchange.
        self.last_received_at = Instant::now();
        Ok(())
    }
}

/// The streams that may be requested now: not refused, or refused long enough ago.
fn requestable(streams: &[Stream], refusals: &Refusals, now: Instant) -> Vec<Stream> {
    streams.iter().filter(|stream| !refusals.waits(stream, now)).cloned().collect()
}

/// The result of one read of the socket, besides the frames.
#[derive(Default)]
struct ReadOutcome {
    pings: u32,
    /// Why the connection has ended; `None` while it is open.
    lost: Option<String>,
}

/// Reads everything that is ready, at most [`BATCH_MAX`] frames, into `batch`. Dropping the future loses nothing: it
/// is ready as soon as it has read something.
async fn read_ready(
    web_socket: &mut WebSocket,
    batch: &mut Vec<(Timestamp, Bytes)>,
    clock: &crate::clock::Clock,
) -> ReadOutcome {
    std::future::poll_fn(|context| {
        let mut outcome = ReadOutcome::default();
        let mut anything = false;
        // Frames of one wake-up came at one instant: read the clock once.
        let mut now = None;
        let mut bytes = 0;
        for _ in 0..BATCH_MAX {
            if bytes >= BATCH_BYTES_MAX {
                break;
            }
            match web_socket.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => {
                    anything = true;
                    let payload = match message {
                        Message::Text(text) => Bytes::from(text),
                        Message::Binary(bytes) => bytes,
                        Message::Ping(_) => {
                            outcome.pings += 1;
                            continue;
                        }
                        Message::Close(frame) => {
                            outcome.lost = Some(closed(frame));
                            return Poll::Ready(outcome);
                        }
                        Message::Pong(_) | Message::Frame(_) => continue,
                    };
                    bytes += payload.len();
                    batch.push((*now.get_or_insert_with(|| clock.now()), payload));
                }
                Poll::Ready(Some(Err(error))) => {
                    outcome.lost = Some(format!("the connection broke: {error}"));
                    return Poll::Ready(outcome);
                }
                Poll::Ready(None) => {
                    outcome.lost = Some("the connection ended".to_owned());
                    return Poll::Ready(outcome);
                }
                Poll::Pending if anything => return Poll::Ready(outcome),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(outcome)
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
