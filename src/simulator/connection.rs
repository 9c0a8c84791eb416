//! One WebSocket connection: frames out, requests in, pings, and the limits that end it.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::acceptor::ResetHandle;
use super::broadcaster::{Delivery, EndMode, Subscriber};
use super::exchange_state::ExchangeState;
use super::faulty_link::OutgoingFrame;
use super::lies::socket::{AckLie, with_id};
use super::request::Subscriptions;
use super::{locked, render};

/// "SUBSCRIBE payload > 4096 bytes -> close 3001" (EXCHANGES.md 3.1).
const REQUEST_BYTES_MAX: usize = 4_096;
/// The window of [`inbound_per_second`](super::Limits::inbound_per_second).
const INBOUND_WINDOW: Duration = Duration::from_secs(1);
/// Most deliveries before one flush; pings and requests are handled after each flush.
const DELIVERIES_PER_FLUSH: usize = 16;
/// Most time for the closing handshake.
const CLOSE_GRACE: Duration = Duration::from_millis(300);

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
    subscriptions: Subscriptions,
    /// The same streams in a hash set, for a quick look-up of every frame.
    wanted: HashSet<Arc<str>>,
    inbound: VecDeque<Instant>,
    /// Pings without a matching pong, oldest first.
    unanswered: VecDeque<(Instant, Bytes)>,
}

/// Serves a connection until it ends. `streams` come from the URL.
pub async fn serve(
    socket: WebSocket,
    reset: ResetHandle,
    combined: bool,
    streams: Vec<String>,
    exchange: Arc<ExchangeState>,
) {
    let (id, subscriber, queue) = exchange.broadcaster.join();
    let subscriptions = Subscriptions { streams: BTreeSet::new(), combined, streams_max: exchange.limits.streams_max };
    let mut connection = Connection {
        socket,
        exchange: exchange.clone(),
        subscriber,
        subscriptions,
        wanted: HashSet::new(),
        inbound: VecDeque::new(),
        unanswered: VecDeque::new(),
    };
    // An unknown stream in the URL gets no error, because there is no request to answer: it stays silent.
    for stream in streams.into_iter().take(exchange.limits.streams_max) {
        if connection.subscriptions.streams.insert(stream.clone()) {
            connection.subscribe(&stream);
        }
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
    exchange.broadcaster.leave(id, connection.subscriptions.streams.iter());
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
        loop {
            if let Some(until) = self.subscriber.stalled_until() {
                tokio::select! {
                    () = self.subscriber.ended.cancelled() => return self.ended(),
                    () = sleep_until(until) => continue,
                }
            }
            let pong_by = self.unanswered.front().map_or(born + limits.lifetime, |(at, _)| *at + limits.pong_within);
            let step = tokio::select! {
                biased;
                () = self.subscriber.ended.cancelled() => return self.ended(),
                () = sleep_until(born + limits.lifetime) => return ConnectionEnd::Close(1001, "lifetime of the connection is over"),
                () = sleep_until(pong_by) => return ConnectionEnd::Reset,
                () = sleep_until(ping_at) => {
                    ping_at += limits.ping_every;
                    self.ping().await
                }
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => self.receive(message).await,
                    Some(Err(_)) | None => Err(ConnectionEnd::ClientGone),
                },
                delivery = queue.recv() => match delivery {
                    Some(delivery) => self.send(delivery, &mut queue).await,
                    None => Err(ConnectionEnd::ClientGone),
                },
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

    fn subscribe(&mut self, stream: &str) {
        self.wanted.insert(Arc::from(stream));
        self.exchange.broadcaster.subscribe(stream);
    }

    async fn ping(&mut self) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        let payload = Bytes::from(self.exchange.time.now().millis().to_string());
        self.unanswered.push_back((now, payload.clone()));
        self.write(Message::Ping(payload)).await
    }

    async fn receive(&mut self, message: Message) -> Result<(), ConnectionEnd> {
        let now = Instant::now();
        // "5 incoming messages per second: a PING frame, a PONG frame, a JSON controlled message".
        self.inbound.retain(|at| now.duration_since(*at) < INBOUND_WINDOW);
        self.inbound.push_back(now);
        if self.inbound.len() > self.exchange.limits.inbound_per_second {
            return Err(ConnectionEnd::Close(1008, "Too many requests"));
        }
        match message {
            Message::Text(text) if text.len() > REQUEST_BYTES_MAX => Err(ConnectionEnd::Close(3001, "illegal request")),
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
        let now = Instant::now();
        let (lie, refused) = {
            let lies = locked(&exchange.socket_lies);
            (lies.ack_lie(now), lies.refused_subscription(text, now))
        };
        if lie.is_some() || refused.is_some() {
            locked(&exchange.counters).requests_answered_wrongly += 1;
        }
        match (lie, refused) {
            (Some(AckLie::Close), _) => return Err(ConnectionEnd::Close(1008, "Invalid request")),
            (Some(AckLie::Error), _) => {
                let id =
                    serde_json::from_str::<Value>(text).map(|mut request| request["id"].take()).unwrap_or_default();
                let message = "<script>alert(1)</script>\n\u{1b}[31mSTOPPING=1";
                let error = json!({"code": 2, "msg": message, "id": id}).to_string();
                return self.write(Message::Text(Utf8Bytes::from(error))).await;
            }
            (_, Some(refused)) => return self.write(Message::Text(Utf8Bytes::from(refused))).await,
            _ => {}
        }
        let (answer, change) = self.subscriptions.request(text, &|symbol| exchange.lists_lower_case(symbol));
        for stream in &change.removed {
            self.wanted.remove(stream.as_str());
            exchange.broadcaster.unsubscribe(stream);
        }
        for stream in &change.added {
            self.subscribe(stream);
        }
        let answer = match lie {
            None => Some(answer),
            Some(AckLie::Absent) => None,
            Some(lie) => Some(with_id(&answer, lie)),
        };
        let answered = match answer {
            Some(answer) => self.write(Message::Text(Utf8Bytes::from(answer))).await,
            None => Ok(()),
        };
        // Send the answer first: the market may open with this subscription.
        if !change.added.is_empty() {
            exchange.broadcaster.first_subscription.cancel();
        }
        answered
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
                fed = feed(&mut self.socket, &delivery, &self.wanted, self.subscriptions.combined) => fed,
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

    async fn write(&mut self, message: Message) -> Result<(), ConnectionEnd> {
        tokio::select! {
            biased;
            () = self.subscriber.ended.cancelled() => Err(self.ended()),
            sent = self.socket.send(message) => sent.map_err(|_| ConnectionEnd::ClientGone),
        }
    }
}

async fn feed(
    socket: &mut WebSocket,
    delivery: &Delivery,
    wanted: &HashSet<Arc<str>>,
    combined: bool,
) -> Result<(), ConnectionEnd> {
    match delivery {
        Delivery::Frames(frames, _) => {
            for frame in frames.iter().filter(|frame| wanted.contains(&frame.stream)) {
                let text = if combined { frame.text.clone() } else { raw(frame) };
                socket.feed(Message::Text(text)).await.map_err(|_| ConnectionEnd::ClientGone)?;
            }
        }
        Delivery::Raw(frames, _) => {
            let own = |stream: &Option<Arc<str>>| stream.as_ref().is_none_or(|stream| wanted.contains(stream));
            for frame in frames.iter().filter(|frame| own(&frame.stream)) {
                socket.feed(frame.message.clone()).await.map_err(|_| ConnectionEnd::ClientGone)?;
            }
        }
        Delivery::ServerShutdown(at) => {
            let text = Utf8Bytes::from(render::server_shutdown(*at, combined));
            socket.feed(Message::Text(text)).await.map_err(|_| ConnectionEnd::ClientGone)?;
        }
    }
    Ok(())
}

/// The `data` of a combined frame.
fn raw(frame: &OutgoingFrame) -> Utf8Bytes {
    let text = frame.text.as_str();
    Utf8Bytes::from(text.get(frame.data_start..text.len() - 1).unwrap_or(text))
}
