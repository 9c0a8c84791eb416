//! Appending: frames are given to librdkafka, which sends them in order and once (idempotent, acks=all), and an append
//! is done when every one of its frames is acknowledged.
//!
//! A broker that is away fails nothing: what was given waits in librdkafka's bounded queue for as long as it takes. An
//! append that takes too long returns `Unavailable` all the same, so that the caller's loop can beat and can say
//! so; when it is called again with the same frames it waits for the first try, and nothing is sent twice.

use std::collections::VecDeque;
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

/// How long an append waits for its acknowledgements before it says that the log is unavailable.
const APPEND_WAIT: Duration = Duration::from_secs(5);
/// How often a full queue is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long one poll for acknowledgements takes at most: the thread looks whether to stop in between.
const POLL: Duration = Duration::from_millis(100);
/// Appends that returned before they were acknowledged and are remembered; there is one caller, or a few.
const UNFINISHED_MAX: usize = 8;

/// Appends to one topic.
pub(super) struct Producer {
    client: Arc<BaseProducer<DeliveryReports>>,
    topic: Arc<str>,
    errors: ErrorTracker,
    unfinished: Mutex<VecDeque<Attempt>>,
    stop: Arc<AtomicBool>,
}

impl Producer {
    /// Makes the client, and the thread that hears its acknowledgements and calls `on_poll` ten times a second.
    pub(super) fn start(
        config: &ClientConfig,
        topic: &str,
        errors: ErrorTracker,
        mut on_poll: impl FnMut() + Send + 'static,
    ) -> Result<Self, LogError> {
        let client = BaseProducer::from_config_and_context(config, DeliveryReports(errors.clone()));
        let client = Arc::new(client.map_err(|error| errors.classify("make a producer", &error))?);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled_client, is_stopped) = (client.clone(), stop.clone());
        let thread = move || {
            while !is_stopped.load(Ordering::Relaxed) {
                polled_client.poll(POLL);
                on_poll();
            }
        };
        std::thread::Builder::new()
            .name("log-kafka".to_owned())
            .spawn(thread)
            .map_err(|error| LogError::Unavailable(format!("start the producer's thread: {error}")))?;
        Ok(Self { client, topic: topic.into(), errors, unfinished: Mutex::default(), stop })
    }

    /// Appends frames; durable when it returns.
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
            if Instant::now() >= until {
                return Err(self.defer(attempt));
            }
        }
    }

    /// Waits until everything that was given is acknowledged.
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

    /// The unfinished first try of these frames, or a new one.
    fn resume(&self, frames: Vec<Frame>) -> Attempt {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let index = unfinished.iter().position(|attempt| attempt.frames == frames);
        index.and_then(|index| unfinished.remove(index)).unwrap_or_else(|| Attempt::new(frames))
    }

    /// Remembers an attempt that takes too long, when there is anything of it on its way.
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

    /// Gives frames to librdkafka until its queue is full; off the runtime's threads, for it copies them all.
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
            .map_err(|error| LogError::Fatal(format!("give frames to the producer: {error}")))?
    }
}

impl Drop for Producer {
    /// Nothing is waited for here: the thread drops the client, which may take half a second.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Frames on their way.
struct Attempt {
    frames: Vec<Frame>,
    /// How many librdkafka has.
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

/// What is known of an attempt's frames.
struct Acks {
    pending: AtomicUsize,
    failure: Mutex<Option<LogError>>,
    changed: Notify,
}

impl Acks {
    /// Waits until all are acknowledged, or for one that failed; false when neither happens in time.
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

/// Hears of every frame what became of it.
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
            LogError::Fatal("the topic refuses a frame for its size: raise its max.message.bytes".to_owned())
        }
        Some(Code::Fatal) => LogError::Fatal(format!("append: {}", errors.reason())),
        _ => errors.classify("append", error),
    }
}
