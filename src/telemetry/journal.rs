//! Sends log events to journald through a bounded queue: a journal that stalls costs lines, never a wait.
//!
//! tracing-journald sends from the thread that logs, and a stopped journald blocks that thread until it runs again. So
//! the layer here copies each event with its fields into a queue, and a thread of its own dispatches the copies to
//! tracing-journald. Must not know what the events mean.

use std::fmt::{Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Field, Value, Visit};
use tracing::{Event, Metadata, Subscriber, warn};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::messages;

/// Most queued lines: about a megabyte at some hundred bytes each, and minutes of a busy recorder.
const LINES_MAX: usize = 4_096;
/// A longer value is cut, so that a line stays a line.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Fields of one event; tracing's own macros allow no more.
const FIELDS_MAX: usize = 32;
/// Longest wait for the last lines at exit.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// An event with this field is critical: tracing has no level above ERROR.
const PRIORITY: &str = "PRIORITY";

enum QueueItem {
    Event(OwnedEvent),
    Flush(SyncSender<()>),
}

/// The sending end of the queue.
pub struct Writer {
    queue: SyncSender<QueueItem>,
    dropped: Arc<AtomicU64>,
}

/// The tracing layer that copies events into the queue.
pub struct JournalLayer {
    queue: SyncSender<QueueItem>,
    dropped: Arc<AtomicU64>,
}

/// Where the queue's thread dispatches the events.
pub struct Sinks {
    /// For events that are not critical.
    pub normal: Dispatch,
    /// For critical events, with the journal's priority `crit`.
    pub critical: Dispatch,
}

impl Sinks {
    /// This machine's journal.
    fn journal() -> anyhow::Result<Self> {
        let layer = || tracing_journald::layer().context("open the journal's socket");
        let layer =
            || layer().map(|layer| layer.with_field_prefix(None).with_syslog_identifier("tapekeeper".to_owned()));
        let mappings = PriorityMappings { error: Priority::Critical, ..mappings() };
        Ok(Self {
            normal: Dispatch::new(
                tracing_subscriber::registry().with(layer()?.with_priority_mappings(self::mappings())),
            ),
            critical: Dispatch::new(tracing_subscriber::registry().with(layer()?.with_priority_mappings(mappings))),
        })
    }
}

/// Info lines get the priority `info`, so that `journalctl -p notice` shows only warnings and errors.
fn mappings() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() }
}

impl Writer {
    /// Opens this machine's journal and starts the thread that sends to it.
    pub fn start() -> anyhow::Result<Self> {
        Self::to(Sinks::journal()?, LINES_MAX)
    }

    pub(super) fn to(sinks: Sinks, lines_max: usize) -> anyhow::Result<Self> {
        let (queue, received) = sync_channel(lines_max);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || send_all(&sinks, &received, &lost)).context("start the journal's thread")?;
        Ok(Self { queue, dropped })
    }

    /// The layer for the subscriber.
    pub fn layer(&self) -> JournalLayer {
        JournalLayer { queue: self.queue.clone(), dropped: self.dropped.clone() }
    }

    /// Waits until the queued events are sent, for at most `FLUSH_MAX`.
    pub fn flush(&self) {
        let (done, sent) = sync_channel(1);
        // A full queue means that the journal stalls: then the last lines are lost too.
        if self.queue.try_send(QueueItem::Flush(done)).is_ok() {
            sent.recv_timeout(FLUSH_MAX).ok();
        }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if self.queue.try_send(QueueItem::Event(OwnedEvent::of(event))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lines dropped since the process began. A process has one journal, so a static is enough.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Number of log lines dropped since the process began because the journal was too slow.
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Runs on the queue's thread: sends events until every sender is gone.
fn send_all(sinks: &Sinks, queue: &Receiver<QueueItem>, dropped: &AtomicU64) {
    while let Ok(item) = queue.recv() {
        match item {
            QueueItem::Event(event) => {
                event.send(sinks);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    dispatcher::with_default(&sinks.normal, || {
                        warn!(
                            MESSAGE_ID = messages::LINES_DROPPED,
                            DROPPED = lost,
                            "{lost} log lines were dropped: the journal did not accept them in time"
                        );
                    });
                }
            }
            // The caller of flush may have stopped waiting.
            QueueItem::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// An event with its fields owned.
struct OwnedEvent {
    metadata: &'static Metadata<'static>,
    fields: Vec<(Field, Box<dyn Value + Send>)>,
    is_critical: bool,
}

impl OwnedEvent {
    fn of(event: &Event<'_>) -> Self {
        let mut owned = Self { metadata: event.metadata(), fields: Vec::new(), is_critical: false };
        event.record(&mut owned);
        owned
    }

    fn push_field(&mut self, field: &Field, value: Box<dyn Value + Send>) {
        if field.name() == PRIORITY {
            self.is_critical = true;
        } else if self.fields.len() < FIELDS_MAX {
            self.fields.push((field.clone(), value));
        }
    }

    fn send(&self, sinks: &Sinks) {
        let Some((first, _)) = self.fields.first() else { return };
        let mut slots: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(first, None); FIELDS_MAX];
        for (slot, (field, value)) in slots.iter_mut().zip(&self.fields) {
            *slot = (field, Some(&**value as &dyn Value));
        }
        let sink = if self.is_critical { &sinks.critical } else { &sinks.normal };
        dispatcher::with_default(sink, || {
            Event::dispatch(self.metadata, &self.metadata.fields().value_set(&slots));
        });
    }
}

impl Visit for OwnedEvent {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push_field(field, Box::new(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push_field(field, Box::new(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push_field(field, Box::new(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_field(field, Box::new(cut(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("writing to a String cannot fail");
        self.push_field(field, Box::new(cut(text)));
    }
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(VALUE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    use tracing::Level;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(30);

    /// Sends the text of every event to a channel: level, then `NAME=value` of each field.
    pub struct CapturingLayer(Mutex<Sender<String>>);

    impl<S: Subscriber> Layer<S> for CapturingLayer {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            let mut text = FieldText(event.metadata().level().to_string());
            event.record(&mut text);
            self.0.lock().unwrap().send(text.0).ok();
        }
    }

    struct FieldText(String);

    impl Visit for FieldText {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, "\n{}={value:?}", field.name()).unwrap();
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            write!(self.0, "\n{}={value}", field.name()).unwrap();
        }
    }

    /// Sinks, and the lines that the normal and the critical sink receive.
    pub fn capturing_sinks() -> (Sinks, Receiver<String>, Receiver<String>) {
        let capture = || {
            let (sender, lines) = std::sync::mpsc::channel();
            (Dispatch::new(tracing_subscriber::registry().with(CapturingLayer(Mutex::new(sender)))), lines)
        };
        let ((normal, lines), (critical, critical_lines)) = (capture(), capture());
        (Sinks { normal, critical }, lines, critical_lines)
    }

    #[test]
    fn an_event_reaches_the_journal_unchanged() {
        let (sinks, lines, _) = capturing_sinks();
        let writer = Writer::to(sinks, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            warn!(MESSAGE_ID = "abc", GAP_FIRST = -7, LATE = true, COUNT = 8_u64, stream = %"x:y", "a gap:\n{}", 7);
        });
        let line = lines.recv_timeout(WAIT_MAX).unwrap();
        assert_eq!(line, "WARN\nmessage=a gap:\n7\nMESSAGE_ID=abc\nGAP_FIRST=-7\nLATE=true\nCOUNT=8\nstream=x:y");
    }

    #[test]
    fn a_critical_event_goes_to_the_critical_sink() {
        let (sinks, lines, critical_lines) = capturing_sinks();
        let writer = Writer::to(sinks, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || tracing::error!(PRIORITY = 2, "it burns"));
        assert_eq!(critical_lines.recv_timeout(WAIT_MAX).unwrap(), "ERROR\nmessage=it burns");
        writer.flush();
        assert!(lines.try_recv().is_err());
    }

    /// Blocks on the first error until the test resumes it.
    struct Stalled(Mutex<Receiver<()>>);

    impl<S: Subscriber> Layer<S> for Stalled {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            if *event.metadata().level() == Level::ERROR {
                self.0.lock().unwrap().recv_timeout(WAIT_MAX).unwrap();
            }
        }
    }

    #[test]
    fn a_stalled_journal_blocks_no_caller_and_dropped_lines_are_counted() {
        let (mut sinks, _, _) = capturing_sinks();
        let (resume, stalled) = std::sync::mpsc::channel();
        let (sender, lines) = std::sync::mpsc::channel();
        let both =
            tracing_subscriber::registry().with(CapturingLayer(Mutex::new(sender))).with(Stalled(Mutex::new(stalled)));
        sinks.normal = Dispatch::new(both);
        let writer = Writer::to(sinks, 4).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("held");
            for number in 0..100 {
                tracing::info!("line {number}");
            }
        });
        resume.send(()).unwrap();
        let (mut received, mut lost) = (0, 0);
        while received + lost < 101 {
            let line = lines.recv_timeout(WAIT_MAX).unwrap();
            match line.lines().find_map(|field| field.strip_prefix("DROPPED=")) {
                Some(count) => lost += count.parse::<u64>().unwrap(),
                None => received += 1,
            }
        }
        assert!(lost >= 90, "{lost}");
        assert_eq!(received + lost, 101);
    }

    #[test]
    fn a_value_is_cut_between_characters() {
        let text = cut("é".repeat(VALUE_BYTES_MAX));
        assert_eq!(text.len(), VALUE_BYTES_MAX);
        assert!(cut(format!("x{}", "é".repeat(VALUE_BYTES_MAX))).len() < VALUE_BYTES_MAX);
    }
}
