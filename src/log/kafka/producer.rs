//! Appends frames through librdkafka, which sends them in order and once (idempotent, acks=all). An append completes
//! when the broker has acknowledged all of its frames.
//!
//! While the broker is down the frames wait in librdkafka's bounded queue without a time limit. An append that takes
//! too long returns `Unavailable`, so that the caller's loop can send its heartbeat and report the outage. A second
//! call with the same frames waits for the first attempt, so nothing is sent twice.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error_tracker::ErrorTracker;
use super::record;
use crate::log::LogError;
use crate::market::Frame;

/// How long an append waits for its acknowledgements before it returns `Unavailable`.
const APPEND_WAIT: Duration = Duration::from_secs(5);
/// The interval of retries while the queue is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long one poll for acknowledgements waits. Between polls the thread checks whether to stop.
const POLL: Duration = Duration::from_millis(100);
/// The largest number of remembered appends that returned before their acknowledgement. There are only a few callers.
const UNFINISHED_MAX: usize = 8;

/// Appends to one topic.
pub(super) struct Producer {
    client: Arc<BaseProducer<DeliveryReports>>,
    topic: Arc<str>,
    errors: ErrorTracker,
    unfinished: Mutex<VecDeque<Attempt>>,
    stop: Arc<AtomicBool>,
    /// The thread that polls for acknowledgements panicked.
    panicked: Arc<AtomicBool>,
}

impl Producer {
    /// Creates the client, and starts the thread that polls for acknowledgements and calls `on_poll` ten times a
    /// second.
    pub(super) fn start(
        config: &ClientConfig,
        topic: &str,
        errors: ErrorTracker,
        mut on_poll: impl FnMut() + Send + 'static,
    ) -> Result<Self, LogError> {
        let client = BaseProducer::from_config_and_context(config, DeliveryReports(errors.clone()));
        let client = Arc::new(client.map_err(|error| errors.classify("create a producer", &error))?);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled_client, is_stopped) = (client.clone(), stop.clone());
        let panicked = Arc::new(AtomicBool::new(false));
        let has_panicked = panicked.clone();
        let thread = move || {
            let polling = AssertUnwindSafe(|| {
                while !is_stopped.load(Ordering::Relaxed) {
                    polled_client.poll(POLL);
                    on_poll();
                }
            });
            // Without this thread no acknowledgement arrives: every append would wait for a broker that answers.
            if std::panic::catch_unwind(polling).is_err() {
                has_panicked.store(true, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new()
            .name("log-kafka".to_owned())
            .spawn(thread)
            .map_err(|error| LogError::Unavailable(format!("start the producer's thread: {error}")))?;
        Ok(Self { client, topic: topic.into(), errors, unfinished: Mutex::default(), stop, panicked })
    }

    /// Appends frames; they are durable when it returns `Ok`.
    pub(super) async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError> {
        let mut attempt = self.resume(frames);
        let until = Instant::now() + APPEND_WAIT;
        loop {
            if !attempt.is_sent() {
                attempt = self.send(attempt).await?;
            }
            let wait_limit = if attempt.is_sent() { until } else { until.min(Instant::now() + RETRY_INTERVAL) };
            if attempt.acks.wait_until(wait_limit).await? {
                self.errors.clear();
                return Ok(());
            }
            if self.panicked.load(Ordering::Relaxed) {
                return Err(LogError::Fatal("the thread that polls Kafka panicked".to_owned()));
            }
            if Instant::now() >= until {
                return Err(self.defer(attempt));
            }
        }
    }

    /// Waits at most `limit` until the broker has acknowledged all frames.
    pub(super) async fn flush(&self, limit: Duration) -> Result<(), LogError> {
        let until = Instant::now() + limit;
        while self.client.in_flight_count() > 0 {
            if Instant::now() >= until {
                let pending = self.client.in_flight_count();
                return Err(LogError::Unavailable(format!("{pending} frames were not acknowledged")));
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        Ok(())
    }

    /// The unfinished attempt to append these frames, or a new one.
    fn resume(&self, frames: Vec<Frame>) -> Attempt {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let index = unfinished.iter().position(|attempt| attempt.frames == frames);
        index.and_then(|index| unfinished.remove(index)).unwrap_or_else(|| Attempt::new(frames))
    }

    /// Remembers an attempt that takes too long, if some of its frames are in flight; returns the error for the caller.
    fn defer(&self, attempt: Attempt) -> LogError {
        let waits = attempt.acks.pending.load(Ordering::Acquire);
        let why = LogError::Unavailable(format!("{waits} frames wait for the broker: {}", self.errors.reason()));
        if attempt.sent > 0 {
            let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            if unfinished.len() == UNFINISHED_MAX {
                unfinished.pop_front();
            }
            unfinished.push_back(attempt);
        }
        why
    }

    /// Passes frames to librdkafka until its queue is full. It runs on a thread for blocking work, because it copies
    /// them.
    async fn send(&self, mut attempt: Attempt) -> Result<Attempt, LogError> {
        let (client, topic, errors) = (self.client.clone(), self.topic.clone(), self.errors.clone());
        let work = move || {
            for frame in &attempt.frames[attempt.sent..] {
                let record = BaseRecord::with_opaque_to(&topic, attempt.acks.clone())
                    .key(&*frame.key)
                    .payload(&*frame.payload)
                    .headers(record::headers(frame));
                match client.send(record) {
                    Ok(()) => attempt.sent += 1,
                    Err((KafkaError::MessageProduction(Code::QueueFull), _)) => break,
                    Err((error, _)) => return Err(classify(&errors, &error)),
                }
            }
            Ok(attempt)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| LogError::Fatal(format!("pass frames to the producer: {error}")))?
    }
}

impl Drop for Producer {
    /// Does not wait: the thread drops the client, which may take half a second.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The frames of one append, and their acknowledgements.
struct Attempt {
    frames: Vec<Frame>,
    /// The number of frames that librdkafka has accepted.
    sent: usize,
    acks: Arc<Acks>,
}

impl Attempt {
    fn new(frames: Vec<Frame>) -> Self {
        let pending = AtomicUsize::new(frames.len());
        Self { frames, sent: 0, acks: Arc::new(Acks { pending, failure: Mutex::default(), changed: Notify::new() }) }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.frames.len()
    }
}

/// Counts the acknowledgements of an attempt.
struct Acks {
    pending: AtomicUsize,
    failure: Mutex<Option<LogError>>,
    changed: Notify,
}

impl Acks {
    /// Waits until all frames are acknowledged, or fails with the first failed frame. Returns false at `until`.
    async fn wait_until(&self, until: Instant) -> Result<bool, LogError> {
        loop {
            let changed = self.changed.notified();
            if let Some(failure) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(failure);
            }
            if self.pending.load(Ordering::Acquire) == 0 {
                return Ok(true);
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(self.pending.load(Ordering::Acquire) == 0);
            }
        }
    }
}

/// Receives the delivery report of every frame.
struct DeliveryReports(ErrorTracker);

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Arc<Acks>;

    fn delivery(&self, result: &DeliveryResult<'_>, acks: Arc<Acks>) {
        let failed = match result {
            Ok(_) => false,
            Err((error, _)) => {
                let failure = classify(&self.0, error);
                *acks.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                true
            }
        };
        if failed || acks.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            acks.changed.notify_one();
        }
    }
}

fn classify(errors: &ErrorTracker, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => {
            LogError::Fatal("the topic refuses a frame because of its size: raise its max.message.bytes".to_owned())
        }
        Some(Code::Fatal) => LogError::Fatal(format!("append: {}", errors.reason())),
        _ => errors.classify("append", error),
    }
}
