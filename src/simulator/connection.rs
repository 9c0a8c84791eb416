//! One WebSocket connection: frames out, requests in, pings, and the limits that end it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::acceptor::ResetHandle;
use super::broadcaster::{Delivery, EndMode, Subscriber};
use super::counters::BrokenLimits;
use super::exchange_state::ExchangeState;
use super::lies::socket::{AckLie, with_id};
use super::locked;
use super::venue::{self, Received};
use crate::market::{Channel, Trade};

/// Most deliveries before one flush; pings and requests are handled after each flush.
const DELIVERIES_PER_FLUSH: usize = 16;
/// Most time for the closing handshake.
const CLOSE_GRACE: Duration = Duration::from_millis(300);
/// A venue's heartbeat comes after so long without another message.
const HEARTBEAT_AFTER: Duration = Duration::from_secs(1);
/// Trades before a subscription that a venue may choose its snapshot from.
const SNAPSHOT_TRADES_MAX: usize = 100;
/// What an answer says that a lie made an error: text that must not reach a terminal, a page or systemd as it is.
const HOSTILE_MESSAGE: &str = "<script>alert(1)</script>\n\u{1b}[31mSTOPPING=1";

/// Why a connection ends.
enum ConnectionEnd {
    /// The client or the network closed it.
    ClientGone,
    /// We end it with this close code and reason.
    Close(u16, &'static str),
    /// We end it with a reset.
    Reset,
}

struct Connection {
    socket: WebSocket,
    exchange: Arc<ExchangeState>,
    subscriber: Arc<Subscriber>,
    session: venue::Connection,
    /// Its streams.
    wanted: HashSet<Arc<str>>,
    inbound: VecDeque<Instant>,
    operations: VecDeque<Instant>,
    heard_at: Instant,
    sent_at: Instant,
    /// Pings without a matching pong, oldest first.
    unanswered: VecDeque<(Instant, Bytes)>,
}

/// Serves a connection until it ends.
pub async fn serve(socket: WebSocket, reset: ResetHandle, session: venue::Connection, exchange: Arc<ExchangeState>) {
    let (id, subscriber, queue) = exchange.broadcaster.join();
    let now = Instant::now();
    let mut connection = Connection {
        socket,
        exchange: exchange.clone(),
        subscriber,
        session,
        wanted: HashSet::new(),
        inbound: VecDeque::new(),
        operations: VecDeque::new(),
        heard_at: now,
        sent_at: now,
        unanswered: VecDeque::new(),
    };
    for stream in connection.session.streams() {
        connection.subscribe(&stream);
    }
    if !connection.wanted.is_empty() {
        exchange.broadcaster.first_subscription.cancel();
    }
    let end = connection.run(queue).await;
    if let ConnectionEnd::Close(code, reason) = end {
        connection.close(code, reason).await;
    } else if let ConnectionEnd::Reset = end {
        reset.reset_at_end();
    }
    exchange.broadcaster.leave(id, connection.wanted.iter().map(|stream| &**stream));
}

/// Counts one more in a window that holds at most `most`; `false` when it is too much.
fn fits(times: &mut VecDeque<Instant>, most: usize, window: Duration, now: Instant) -> bool {
    times.retain(|at| now.duration_since(*at) < window);
    times.push_back(now);
    times.len() <= most
}

impl Connection {
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let close = async {
            if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                // The client's close frame ends the stream; unread bytes would turn our close into a reset.
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        if timeout(CLOSE_GRACE, close).await.is_err() {
            tracing::debug!("a client did not answer its close frame");
        }
    }

    async fn run(&mut self, mut queue: mpsc::Receiver<Delivery>) -> ConnectionEnd {
        let limits = self.exchange.limits.clone();
        let born = Instant::now();
        let mut ping_at = born + limits.ping_every;
        if let Err(end) = self.greet().await {
            return end;
        }
        loop {
            if let Some(until) = self.subscriber.stalled_until() {
                tokio::select! {
                    () = self.subscriber.ended.cancelled() => return self.ended(),
                    () = sleep_until(until) => {
                        // What the client sent meanwhile is still unread.
                        self.heard_at = Instant::now();
                        continue;
                    }
                }
            }
            let pong_by = self.unanswered.front().map_or(born + limits.lifetime, |(at, _)| *at + limits.pong_within);
            let subscribe_by = born + if self.wanted.is_empty() { limits.subscribe_within } else { limits.lifetime };
            let step = tokio::select! {
                biased;
                () = self.subscriber.ended.cancelled() => return self.ended(),
                () = sleep_until(born + limits.lifetime) => return ConnectionEnd::Close(1001, "lifetime of the connection is over"),
                () = sleep_until(pong_by) => self.broken(|broken| &mut broken.silent, ConnectionEnd::Reset),
                () = sleep_until(ping_at) => {
                    ping_at += limits.ping_every;
                    self.ping().await
                }
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => self.receive(message).await,
                    Some(Err(_)) | None => Err(ConnectionEnd::ClientGone),
                },
                () = sleep_until(self.heard_at + limits.silence_max) => {
                    self.broken(|broken| &mut broken.silent, ConnectionEnd::Close(4004, "no data received in time"))
                }
                () = sleep_until(subscribe_by) => {
                    self.broken(|broken| &mut broken.late, ConnectionEnd::Close(1008, "no subscription in time"))
                }
                delivery = queue.recv() => match delivery {
                    Some(delivery) => self.send(delivery, &mut queue).await,
                    None => Err(ConnectionEnd::ClientGone),
                },
                () = sleep_until(self.sent_at + HEARTBEAT_AFTER) => self.beat().await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn ended(&self) -> ConnectionEnd {
        match self.subscriber.end_mode() {
            EndMode::Reset => ConnectionEnd::Reset,
            EndMode::Close => ConnectionEnd::Close(1001, "going away"),
        }
    }

    /// Counts a broken limit, and ends the connection.
    fn broken(
        &self,
        limit: impl FnOnce(&mut BrokenLimits) -> &mut u64,
        end: ConnectionEnd,
    ) -> Result<(), ConnectionEnd> {
        *limit(&mut locked(&self.exchange.counters).broken) += 1;
        Err(end)
    }

    fn subscribe(&mut self, stream: &str) {
        if self.wanted.insert(Arc::from(stream)) {
            self.exchange.broadcaster.subscribe(stream);
        }
    }

    async fn greet(&mut self) -> Result<(), ConnectionEnd> {
        self.write_texts(self.exchange.venue.peer().greeting(self.exchange.time.now())).await
    }

    async fn beat(&mut self) -> Result<(), ConnectionEnd> {
        self.sent_at = Instant::now();
        let heartbeat = self.exchange.venue.peer().heartbeat(self.exchange.time.now());
        self.write_texts(heartbeat.into_iter().collect()).await
    }

    async fn ping(&mut self) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        let payload = Bytes::from(self.exchange.time.now().millis().to_string());
        self.unanswered.push_back((now, payload.clone()));
        self.write(Message::Ping(payload)).await
    }

    async fn receive(&mut self, message: Message) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        self.heard_at = now;
        // "5 incoming messages per second: a PING frame, a PONG frame, a JSON controlled message".
        let (most, window) = (self.exchange.limits.inbound_max, self.exchange.limits.inbound_window);
        if !fits(&mut self.inbound, most, window, now) {
            return self.broken(|broken| &mut broken.messages, ConnectionEnd::Close(1008, "Too many requests"));
        }
        match message {
            Message::Text(text) => self.request(&text).await,
            Message::Pong(payload) => {
                // A pong that was not requested, or with another payload, does not count.
                if let Some(index) = self.unanswered.iter().position(|(_, sent)| *sent == payload) {
                    self.unanswered.drain(..=index);
                }
                Ok(())
            }
            Message::Binary(_) => Err(ConnectionEnd::Close(1003, "unsupported data")),
            // The WebSocket library answers pings and closes.
            Message::Ping(_) | Message::Close(_) => Ok(()),
        }
    }

    async fn request(&mut self, text: &str) -> Result<(), ConnectionEnd> {
        let exchange = self.exchange.clone();
        let (peer, at, now) = (exchange.venue.peer(), exchange.time.now(), Instant::now());
        let lie = locked(&exchange.socket_lies).ack_lie(now);
        let refused = self.refused_symbols(text, now);
        if lie.is_some() || !refused.is_empty() {
            locked(&exchange.counters).requests_answered_wrongly += 1;
        }
        match lie {
            Some(AckLie::Close) => return Err(ConnectionEnd::Close(1008, "Invalid request")),
            Some(AckLie::Error) => {
                // A venue without an error for every message has one for symbols that it does not know.
                let error = peer.error(text, HOSTILE_MESSAGE).map(|error| vec![error]);
                return self.write_texts(error.unwrap_or_else(|| peer.receive(text, &|_| false, at).messages)).await;
            }
            _ => {}
        }
        let is_listed = |symbol: &str| exchange.lists(symbol) && !refused.iter().any(|refused| refused == symbol);
        let Received { reply, subscribed, on_wrong_socket } = self.session.receive(text, &is_listed, at);
        locked(&exchange.counters).broken.on_wrong_socket += on_wrong_socket;
        if let Some((code, reason)) = reply.close {
            return self.broken(|broken| &mut broken.closed, ConnectionEnd::Close(code, reason));
        }
        for stream in &reply.removed {
            if self.wanted.remove(stream.as_str()) {
                exchange.broadcaster.unsubscribe(stream);
            }
        }
        for stream in &reply.added {
            self.subscribe(stream);
        }
        self.check_limits(!(reply.added.is_empty() && reply.removed.is_empty()), now)?;
        let answers = match lie {
            None => reply.messages,
            Some(AckLie::Absent) => Vec::new(),
            Some(lie) => reply.messages.iter().map(|answer| with_id(answer, lie)).collect(),
        };
        let answered = self.write_texts(answers).await;
        let snapshots = subscribed.iter().filter_map(|(symbol, channel)| self.snapshot(symbol, *channel)).collect();
        let answered = answered.and(self.write_texts(snapshots).await);
        // Send the answer first: the market may open with this subscription.
        if !reply.added.is_empty() {
            exchange.broadcaster.first_subscription.cancel();
        }
        answered
    }

    /// The symbols of a request that a lie refuses.
    fn refused_symbols(&self, text: &str, now: Instant) -> Vec<String> {
        let exchange = &self.exchange;
        if !locked(&exchange.socket_lies).refuses_streams() {
            return Vec::new();
        }
        let asked = exchange.venue.peer().receive(text, &|symbol| exchange.lists(symbol), exchange.time.now());
        locked(&exchange.socket_lies).refused_symbols(&asked.subscribed, now)
    }

    fn check_limits(&mut self, is_operation: bool, now: Instant) -> Result<(), ConnectionEnd> {
        let limits = &self.exchange.limits;
        let (most, window) = (limits.operations_max, limits.operations_window);
        if is_operation && !fits(&mut self.operations, most, window, now) {
            return self.broken(|broken| &mut broken.operations, ConnectionEnd::Close(1008, "Too many subscriptions"));
        }
        if self.wanted.len() > limits.streams_max {
            return self.broken(|broken| &mut broken.streams, ConnectionEnd::Close(1008, "Too many streams"));
        }
        Ok(())
    }

    /// What a new subscription brings first. Every trade that it leaves out comes as a frame, because we have subscribed
    /// before; some come twice.
    fn snapshot(&self, symbol: &str, channel: Channel) -> Option<String> {
        let exchange = &self.exchange;
        let newest: Vec<Trade> = match locked(&exchange.truths).get(symbol) {
            Some(truth) => truth.trades[truth.trades.len().saturating_sub(SNAPSHOT_TRADES_MAX)..].to_vec(),
            None => Vec::new(),
        };
        exchange.venue.peer().snapshot(symbol, channel, &newest, exchange.time.now())
    }

    /// Sends a delivery and the queued ones behind it, and flushes once.
    async fn send(&mut self, first: Delivery, queue: &mut mpsc::Receiver<Delivery>) -> Result<(), ConnectionEnd> {
        let mut next = Some(first);
        let mut taken = 1;
        let ended = self.subscriber.ended.clone();
        while let Some(delivery) = next {
            let fed = tokio::select! {
                biased;
                () = ended.cancelled() => return Err(self.ended()),
                fed = self.feed(&delivery) => fed,
            };
            if let Delivery::Frames(_, bytes) | Delivery::Raw(_, bytes) = delivery {
                self.subscriber.sent(bytes);
            }
            fed?;
            taken += 1;
            next = if taken <= DELIVERIES_PER_FLUSH { queue.try_recv().ok() } else { None };
        }
        tokio::select! {
            biased;
            () = ended.cancelled() => Err(self.ended()),
            flushed = self.socket.flush() => flushed.map_err(|_| ConnectionEnd::ClientGone),
        }
    }

    /// Queues what the connection subscribed to.
    async fn feed(&mut self, delivery: &Delivery) -> Result<(), ConnectionEnd> {
        let mut is_sent = false;
        match delivery {
            Delivery::Frames(frames, _) => {
                for frame in frames.iter().filter(|frame| self.wanted.contains(&frame.stream)) {
                    let text = self.session.shape(&frame.text).map_or_else(|| frame.text.clone(), Utf8Bytes::from);
                    is_sent = true;
                    self.socket.feed(Message::Text(text)).await.map_err(|_| ConnectionEnd::ClientGone)?;
                }
            }
            Delivery::Raw(frames, _) => {
                let wanted = &self.wanted;
                let own = |stream: &Option<Arc<str>>| stream.as_ref().is_none_or(|stream| wanted.contains(stream));
                for frame in frames.iter().filter(|frame| own(&frame.stream)) {
                    is_sent = true;
                    self.socket.feed(frame.message.clone()).await.map_err(|_| ConnectionEnd::ClientGone)?;
                }
            }
            Delivery::Shutdown(text) => {
                is_sent = true;
                let text = self.session.shape(text).map_or_else(|| text.clone(), Utf8Bytes::from);
                self.socket.feed(Message::Text(text)).await.map_err(|_| ConnectionEnd::ClientGone)?;
            }
        }
        if is_sent {
            self.sent_at = Instant::now();
        }
        Ok(())
    }

    async fn write_texts(&mut self, texts: Vec<String>) -> Result<(), ConnectionEnd> {
        for text in texts {
            self.sent_at = Instant::now();
            self.write(Message::Text(Utf8Bytes::from(text))).await?;
        }
        Ok(())
    }

    async fn write(&mut self, message: Message) -> Result<(), ConnectionEnd> {
        tokio::select! {
            biased;
            () = self.subscriber.ended.cancelled() => Err(self.ended()),
            sent = self.socket.send(message) => sent.map_err(|_| ConnectionEnd::ClientGone),
        }
    }
}
