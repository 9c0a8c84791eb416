//! Lines to journald by tracing-journald, behind a bounded queue: a journal that stalls costs lines, never a wait.
//!
//! tracing-journald sends from the thread that logs, and a stopped journald holds that thread for as long as it is
//! stopped. So an event is kept, with its fields owned, and said again on a thread of its own, where only tracing-journald
//! listens.

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

/// Most lines that wait: at some hundred bytes each a megabyte, and minutes of a busy recorder.
const LINES_MAX: usize = 4_096;
/// A longer value is cut: a line shall not be a file.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Fields of one event; tracing's own macros allow no more.
const FIELDS_MAX: usize = 32;
/// How long the last lines may take.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// The field of an event that is critical: tracing's levels end at ERROR.
const PRIORITY: &str = "PRIORITY";

enum Order {
    Line(Line),
    Flush(SyncSender<()>),
}

/// The queue's end at which lines go in.
pub struct Writer {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

/// Keeps events and queues them.
pub struct JournalLayer {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

/// Who hears the lines on the queue's thread.
pub struct Listeners {
    /// Of lines as they are.
    pub usual: Dispatch,
    /// Of those that are critical.
    pub critical: Dispatch,
}

impl Listeners {
    /// This machine's journal.
    fn journal() -> anyhow::Result<Self> {
        let layer = || tracing_journald::layer().context("open the journal's socket");
        let layer =
            || layer().map(|layer| layer.with_field_prefix(None).with_syslog_identifier("tapekeeper".to_owned()));
        let mappings = PriorityMappings { error: Priority::Critical, ..mappings() };
        Ok(Self {
            usual: Dispatch::new(
                tracing_subscriber::registry().with(layer()?.with_priority_mappings(self::mappings())),
            ),
            critical: Dispatch::new(tracing_subscriber::registry().with(layer()?.with_priority_mappings(mappings))),
        })
    }
}

/// `journalctl -p notice` shows warnings and errors, not every line.
fn mappings() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() }
}

impl Writer {
    /// A queue to this machine's journal, and the thread that empties it.
    pub fn start() -> anyhow::Result<Self> {
        Self::to(Listeners::journal()?, LINES_MAX)
    }

    pub(super) fn to(listeners: Listeners, lines_max: usize) -> anyhow::Result<Self> {
        let (orders, received) = sync_channel(lines_max);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = dropped.clone();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || say_all(&listeners, &received, &lost)).context("start the journal's thread")?;
        Ok(Self { orders, dropped })
    }

    /// What the subscriber is given.
    pub fn layer(&self) -> JournalLayer {
        JournalLayer { orders: self.orders.clone(), dropped: self.dropped.clone() }
    }

    /// Waits until everything queued so far is sent; not for long.
    pub fn flush(&self) {
        let (done, sent) = sync_channel(1);
        // Full means that the journal stalls: then the last lines are lost with the others.
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            sent.recv_timeout(FLUSH_MAX).ok();
        }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if self.orders.try_send(Order::Line(Line::of(event))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lines that were dropped since the process began; there is one journal.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many log lines the journal did not take in time since the process began.
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The queue's other end.
fn say_all(listeners: &Listeners, orders: &Receiver<Order>, dropped: &AtomicU64) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Line(line) => {
                line.say(listeners);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    dispatcher::with_default(&listeners.usual, || {
                        warn!(
                            MESSAGE_ID = messages::LINES_DROPPED,
                            DROPPED = lost,
                            "{lost} log lines were dropped: the journal did not take them in time"
                        );
                    });
                }
            }
            // Whoever flushes may have given up.
            Order::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// An event with its fields owned.
struct Line {
    metadata: &'static Metadata<'static>,
    fields: Vec<(Field, Box<dyn Value + Send>)>,
    is_critical: bool,
}

impl Line {
    fn of(event: &Event<'_>) -> Self {
        let mut line = Self { metadata: event.metadata(), fields: Vec::new(), is_critical: false };
        event.record(&mut line);
        line
    }

    fn take(&mut self, field: &Field, value: Box<dyn Value + Send>) {
        if field.name() == PRIORITY {
            self.is_critical = true;
        } else if self.fields.len() < FIELDS_MAX {
            self.fields.push((field.clone(), value));
        }
    }

    fn say(&self, listeners: &Listeners) {
        let Some((first, _)) = self.fields.first() else { return };
        let mut slots: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(first, None); FIELDS_MAX];
        for (slot, (field, value)) in slots.iter_mut().zip(&self.fields) {
            *slot = (field, Some(&**value as &dyn Value));
        }
        let listener = if self.is_critical { &listeners.critical } else { &listeners.usual };
        dispatcher::with_default(listener, || {
            Event::dispatch(self.metadata, &self.metadata.fields().value_set(&slots));
        });
    }
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, Box::new(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, Box::new(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, Box::new(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, Box::new(cut(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("writing to a String cannot fail");
        self.take(field, Box::new(cut(text)));
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

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Tells of every event that it hears: level, then `NAME=value` of each field.
    pub struct Ear(Mutex<Sender<String>>);

    impl<S: Subscriber> Layer<S> for Ear {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            let mut told = Told(event.metadata().level().to_string());
            event.record(&mut told);
            self.0.lock().unwrap().send(told.0).ok();
        }
    }

    struct Told(String);

    impl Visit for Told {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, "\n{}={value:?}", field.name()).unwrap();
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            write!(self.0, "\n{}={value}", field.name()).unwrap();
        }
    }

    /// Listeners, and what the usual and the critical one hear.
    pub fn ears() -> (Listeners, Receiver<String>, Receiver<String>) {
        let ear = || {
            let (sender, heard) = std::sync::mpsc::channel();
            (Dispatch::new(tracing_subscriber::registry().with(Ear(Mutex::new(sender)))), heard)
        };
        let ((usual, heard), (critical, cried)) = (ear(), ear());
        (Listeners { usual, critical }, heard, cried)
    }

    #[test]
    fn an_event_is_said_again_as_it_was() {
        let (listeners, heard, _) = ears();
        let writer = Writer::to(listeners, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            warn!(MESSAGE_ID = "abc", GAP_FIRST = -7, LATE = true, COUNT = 8_u64, stream = %"x:y", "a gap:\n{}", 7);
        });
        let line = heard.recv_timeout(PATIENCE).unwrap();
        assert_eq!(line, "WARN\nmessage=a gap:\n7\nMESSAGE_ID=abc\nGAP_FIRST=-7\nLATE=true\nCOUNT=8\nstream=x:y");
    }

    #[test]
    fn what_is_critical_is_said_to_the_one_who_says_so() {
        let (listeners, heard, cried) = ears();
        let writer = Writer::to(listeners, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || tracing::error!(PRIORITY = 2, "it burns"));
        assert_eq!(cried.recv_timeout(PATIENCE).unwrap(), "ERROR\nmessage=it burns");
        writer.flush();
        assert!(heard.try_recv().is_err());
    }

    /// Takes the first event and holds it until it is told to go on.
    struct Stalled(Mutex<Receiver<()>>);

    impl<S: Subscriber> Layer<S> for Stalled {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            if *event.metadata().level() == Level::ERROR {
                self.0.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
        }
    }

    #[test]
    fn a_journal_that_stalls_holds_nobody_up_and_the_lost_lines_are_counted() {
        let (mut listeners, _, _) = ears();
        let (go_on, stalled) = std::sync::mpsc::channel();
        let (sender, heard) = std::sync::mpsc::channel();
        let both = tracing_subscriber::registry().with(Ear(Mutex::new(sender))).with(Stalled(Mutex::new(stalled)));
        listeners.usual = Dispatch::new(both);
        let writer = Writer::to(listeners, 4).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("held");
            for number in 0..100 {
                tracing::info!("line {number}");
            }
        });
        go_on.send(()).unwrap();
        let (mut lines, mut lost) = (0, 0);
        while lines + lost < 101 {
            let line = heard.recv_timeout(PATIENCE).unwrap();
            match line.lines().find_map(|field| field.strip_prefix("DROPPED=")) {
                Some(count) => lost += count.parse::<u64>().unwrap(),
                None => lines += 1,
            }
        }
        assert!(lost >= 90, "{lost}");
        assert_eq!(lines + lost, 101);
    }

    #[test]
    fn a_value_is_cut_between_characters() {
        let text = cut("é".repeat(VALUE_BYTES_MAX));
        assert_eq!(text.len(), VALUE_BYTES_MAX);
        assert!(cut(format!("x{}", "é".repeat(VALUE_BYTES_MAX))).len() < VALUE_BYTES_MAX);
    }
}
