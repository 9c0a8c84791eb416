//! Who is connected, who subscribed to what, and the bounded queues that frames wait in.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faulty_link::OutgoingFrame;
use super::locked;
use crate::market::Timestamp;

/// Batches that wait for one connection.
const BATCHES_MAX: usize = 4_096;

/// What a connection is told to send.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Frames, of which it sends those it subscribed to.
    Frames(Arc<Vec<OutgoingFrame>>, usize),
    /// The announcement that it will be closed.
    ServerShutdown(Timestamp),
}

/// Why a connection is ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndMode {
    /// By a TCP reset.
    Reset,
    /// By a close frame.
    Close,
}

/// One WebSocket connection as the others see it.
#[derive(Debug)]
pub struct Subscriber {
    queue: mpsc::Sender<Delivery>,
    queued_bytes: AtomicUsize,
    stalled_until: Mutex<Option<Instant>>,
    end_mode: Mutex<Option<EndMode>>,
    /// Cancelled when the connection has to end.
    pub ended: CancellationToken,
}

impl Subscriber {
    /// Ends the connection; the first way given is the one it takes.
    pub fn end(&self, how: EndMode) {
        locked(&self.end_mode).get_or_insert(how);
        self.ended.cancel();
    }

    /// How it has to end.
    pub fn end_mode(&self) -> EndMode {
        locked(&self.end_mode).unwrap_or(EndMode::Close)
    }

    /// Takes bytes off the account of what waits.
    pub fn sent(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Until when nothing may be sent, if it is stalled.
    pub fn stalled_until(&self) -> Option<Instant> {
        (*locked(&self.stalled_until)).filter(|until| *until > Instant::now())
    }
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    subscribers: HashMap<u64, Arc<Subscriber>>,
    /// How many connections subscribed to each stream.
    streams: HashMap<String, usize>,
    /// When the latest connections came.
    connects: VecDeque<Instant>,
}

/// All connections.
#[derive(Debug)]
pub struct Broadcaster {
    registry: Mutex<Registry>,
    queue_bytes_max: usize,
    /// Cancelled by the first subscription: the market may open.
    pub first_subscription: CancellationToken,
}

/// "300 connections per attempt every 5 minutes per IP".
const CONNECTS_WINDOW: Duration = Duration::from_secs(300);

impl Broadcaster {
    /// A broadcaster that cuts a connection for which more than `queue_bytes_max` wait.
    pub fn new(queue_bytes_max: usize) -> Self {
        Self { registry: Mutex::default(), queue_bytes_max, first_subscription: CancellationToken::new() }
    }

    /// Counts an attempt to connect; `false` when there were too many.
    pub fn may_connect(&self, connects_max: usize, now: Instant) -> bool {
        let connects = &mut locked(&self.registry).connects;
        while connects.front().is_some_and(|at| now.duration_since(*at) >= CONNECTS_WINDOW) {
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

    /// Removes a connection and what it subscribed to.
    pub fn leave<'a>(&self, id: u64, streams: impl Iterator<Item = &'a String>) {
        locked(&self.registry).subscribers.remove(&id);
        streams.for_each(|stream| self.unsubscribe(stream));
    }

    /// One more connection wants the stream.
    pub fn subscribe(&self, stream: &str) {
        *locked(&self.registry).streams.entry(stream.to_owned()).or_default() += 1;
    }

    /// One connection less wants the stream.
    pub fn unsubscribe(&self, stream: &str) {
        let streams = &mut locked(&self.registry).streams;
        if let Some(count) = streams.get_mut(stream) {
            *count -= 1;
            if *count == 0 {
                streams.remove(stream);
            }
        }
    }

    /// Whether anyone wants the stream: what nobody wants is not rendered.
    pub fn has_subscriber(&self, stream: &str) -> bool {
        locked(&self.registry).streams.contains_key(stream)
    }

    /// Everyone connected now.
    pub fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        locked(&self.registry).subscribers.values().cloned().collect()
    }

    /// Nothing is sent to those connected now until then.
    pub fn stall(&self, until: Instant) -> u64 {
        let subscribers = self.subscribers();
        for subscriber in &subscribers {
            *locked(&subscriber.stalled_until) = Some(until);
        }
        subscribers.len() as u64
    }

    /// Puts frames into every queue; a connection whose queue is full is cut. Gives how many frames
    /// stalled connections lost and how many connections were cut.
    pub fn deliver(&self, frames: Vec<OutgoingFrame>) -> (u64, u64) {
        let (count, bytes) = (frames.len() as u64, bytes_of(&frames));
        let frames = Arc::new(frames);
        let (mut stalled, mut slow) = (0, 0);
        for subscriber in self.subscribers() {
            if subscriber.stalled_until().is_some() {
                stalled += count;
                continue;
            }
            let waiting = subscriber.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let full = waiting > self.queue_bytes_max.max(bytes);
            if full || subscriber.queue.try_send(Delivery::Frames(frames.clone(), bytes)).is_err() {
                slow += u64::from(!subscriber.ended.is_cancelled());
                subscriber.end(EndMode::Reset);
            }
        }
        (stalled, slow)
    }

    /// Puts frames into every queue and waits for room: for measuring, where the reader sets the pace.
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

    /// Tells everyone that the server will close; gives whom it told.
    pub fn announce_shutdown(&self, at: Timestamp) -> Vec<Arc<Subscriber>> {
        let subscribers = self.subscribers();
        for subscriber in &subscribers {
            if subscriber.queue.try_send(Delivery::ServerShutdown(at)).is_err() {
                subscriber.end(EndMode::Reset);
            }
        }
        subscribers
    }
}

fn bytes_of(frames: &[OutgoingFrame]) -> usize {
    frames.iter().map(|frame| frame.text.len()).sum()
}
