//! The connected clients, their subscriptions, and a bounded queue of frames for each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faulty_link::OutgoingFrame;
use super::locked;

/// Most batches in the queue of one connection.
const BATCHES_MAX: usize = 4_096;

/// A frame that is sent exactly as it is.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// Connections that subscribed to this stream get it; `None` for all.
    pub stream: Option<Arc<str>>,
    /// The frame.
    pub message: Message,
    bytes: usize,
}

impl RawFrame {
    /// A text frame, or a binary one when the bytes are not UTF-8.
    pub fn new(stream: Option<Arc<str>>, bytes: Bytes) -> Self {
        let length = bytes.len();
        let message = match Utf8Bytes::try_from(bytes.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(bytes),
        };
        Self { stream, message, bytes: length }
    }
}

/// An entry in the queue of a connection.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Frames and their bytes; the connection sends those of its own streams.
    Frames(Arc<Vec<OutgoingFrame>>, usize),
    /// Raw frames and their bytes; the connection sends those of its own streams.
    Raw(Arc<Vec<RawFrame>>, usize),
    /// The announcement that the server will close the connection.
    Shutdown(Utf8Bytes),
}

/// How we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndMode {
    /// With a TCP reset.
    Reset,
    /// With a close frame.
    Close,
}

/// One WebSocket connection, as the broadcaster sees it.
#[derive(Debug)]
pub struct Subscriber {
    queue: mpsc::Sender<Delivery>,
    queued_bytes: AtomicUsize,
    stalled_until: Mutex<Option<Instant>>,
    end_mode: Mutex<Option<EndMode>>,
    /// Cancelled when the connection must end.
    pub ended: CancellationToken,
}

impl Subscriber {
    /// Ends the connection. After several calls the first mode applies.
    pub fn end(&self, how: EndMode) {
        locked(&self.end_mode).get_or_insert(how);
        self.ended.cancel();
    }

    /// How the connection must end.
    pub fn end_mode(&self) -> EndMode {
        locked(&self.end_mode).unwrap_or(EndMode::Close)
    }

    /// Subtracts sent bytes from the queued bytes.
    pub fn sent(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The end of its stall; `None` when it is not stalled.
    pub fn stalled_until(&self) -> Option<Instant> {
        (*locked(&self.stalled_until)).filter(|until| *until > Instant::now())
    }
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    /// By their numbers, so in the order in which they came.
    subscribers: BTreeMap<u64, Arc<Subscriber>>,
    /// How many connections subscribed to each stream.
    streams: HashMap<String, usize>,
    /// When the connections of the last window came.
    connects: VecDeque<Instant>,
}

/// All connections.
#[derive(Debug)]
pub struct Broadcaster {
    registry: Mutex<Registry>,
    queue_bytes_max: usize,
    /// Cancelled by the first subscription, which may open the market.
    pub first_subscription: CancellationToken,
}

impl Broadcaster {
    /// A broadcaster that cuts a connection with more than `queue_bytes_max` queued bytes.
    pub fn new(queue_bytes_max: usize) -> Self {
        Self { registry: Mutex::default(), queue_bytes_max, first_subscription: CancellationToken::new() }
    }

    /// Counts a connection attempt; `false` when there were too many in the window.
    pub fn may_connect(&self, connects_max: usize, window: Duration, now: Instant) -> bool {
        let connects = &mut locked(&self.registry).connects;
        while connects.front().is_some_and(|at| now.duration_since(*at) >= window) {
            connects.pop_front();
        }
        if connects.len() >= connects_max {
            return false;
        }
        connects.push_back(now);
        true
    }

    /// Adds a connection.
    pub fn join(&self) -> (u64, Arc<Subscriber>, mpsc::Receiver<Delivery>) {
        let (queue, waiting) = mpsc::channel(BATCHES_MAX);
        let subscriber = Arc::new(Subscriber {
            queue,
            queued_bytes: AtomicUsize::new(0),
            stalled_until: Mutex::default(),
            end_mode: Mutex::default(),
            ended: CancellationToken::new(),
        });
        let mut registry = locked(&self.registry);
        registry.next += 1;
        let id = registry.next;
        registry.subscribers.insert(id, subscriber.clone());
        (id, subscriber, waiting)
    }

    /// Removes a connection and its subscriptions.
    pub fn leave<'a>(&self, id: u64, streams: impl Iterator<Item = &'a str>) {
        locked(&self.registry).subscribers.remove(&id);
        streams.for_each(|stream| self.unsubscribe(stream));
    }

    /// Counts one more subscription to the stream.
    pub fn subscribe(&self, stream: &str) {
        *locked(&self.registry).streams.entry(stream.to_owned()).or_default() += 1;
    }

    /// Counts one subscription less to the stream.
    pub fn unsubscribe(&self, stream: &str) {
        let streams = &mut locked(&self.registry).streams;
        if let Some(count) = streams.get_mut(stream) {
            *count -= 1;
            if *count == 0 {
                streams.remove(stream);
            }
        }
    }

    /// Whether anyone is subscribed to the stream; the publisher does not render the others.
    pub fn has_subscriber(&self, stream: &str) -> bool {
        locked(&self.registry).streams.contains_key(stream)
    }

    /// Every present connection, the one that is open for longest first.
    pub fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        locked(&self.registry).subscribers.values().cloned().collect()
    }

    /// Stalls every present connection until `until`. Returns how many.
    pub fn stall(&self, until: Instant) -> u64 {
        let subscribers = self.subscribers();
        for subscriber in &subscribers {
            *locked(&subscriber.stalled_until) = Some(until);
        }
        subscribers.len() as u64
    }

    /// Puts frames into every queue and cuts a connection whose queue is full. Returns how many frames stalled
    /// connections lost, and how many connections it cut.
    pub fn deliver(&self, frames: Vec<OutgoingFrame>) -> (u64, u64) {
        let (count, bytes) = (frames.len() as u64, bytes_of(&frames));
        let frames = Arc::new(frames);
        let (mut stalled, mut slow) = (0, 0);
        for subscriber in self.subscribers() {
            if subscriber.stalled_until().is_some() {
                stalled += count;
                continue;
            }
            if !self.enqueue(&subscriber, Delivery::Frames(frames.clone(), bytes), bytes) {
                slow += u64::from(!subscriber.ended.is_cancelled());
                subscriber.end(EndMode::Reset);
            }
        }
        (stalled, slow)
    }

    /// Puts raw frames into every queue; returns how many connections got them.
    pub fn deliver_raw(&self, frames: Vec<RawFrame>) -> usize {
        let bytes = frames.iter().map(|frame| frame.bytes).sum();
        let frames = Arc::new(frames);
        let mut reached = 0;
        for subscriber in self.subscribers().iter().filter(|subscriber| subscriber.stalled_until().is_none()) {
            if self.enqueue(subscriber, Delivery::Raw(frames.clone(), bytes), bytes) {
                reached += 1;
            } else {
                subscriber.end(EndMode::Reset);
            }
        }
        reached
    }

    /// Puts a delivery into a queue; `false` when the queue is full.
    fn enqueue(&self, subscriber: &Subscriber, delivery: Delivery, bytes: usize) -> bool {
        let waiting = subscriber.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        waiting <= self.queue_bytes_max.max(bytes) && subscriber.queue.try_send(delivery).is_ok()
    }

    /// Puts frames into every queue and waits while a queue is full: for measuring, where the reader sets the pace.
    pub async fn deliver_at_readers_pace(&self, frames: Vec<OutgoingFrame>) {
        let bytes = bytes_of(&frames);
        let frames = Arc::new(frames);
        for subscriber in self.subscribers() {
            subscriber.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
            let delivery = Delivery::Frames(frames.clone(), bytes);
            tokio::select! {
                () = subscriber.ended.cancelled() => {}
                sent = subscriber.queue.send(delivery) => if sent.is_err() {
                    subscriber.end(EndMode::Reset);
                },
            }
        }
    }

    /// Announces the shutdown to every connection, and returns those connections.
    pub fn announce_shutdown(&self, announcement: Option<String>) -> Vec<Arc<Subscriber>> {
        let announcement = announcement.map(Utf8Bytes::from);
        let subscribers = self.subscribers();
        for subscriber in &subscribers {
            let delivery = announcement.clone().map(Delivery::Shutdown);
            if delivery.is_some_and(|delivery| subscriber.queue.try_send(delivery).is_err()) {
                subscriber.end(EndMode::Reset);
            }
        }
        subscribers
    }
}

fn bytes_of(frames: &[OutgoingFrame]) -> usize {
    frames.iter().map(|frame| frame.text.len()).sum()
}
