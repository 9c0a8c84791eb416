//! Lines to journald, in its own protocol, behind a bounded queue: a journal that stalls costs lines, never a wait.
//!
//! tracing-journald sends from the thread that logs, and a stopped journald holds that thread for as long as it is
//! stopped; events cannot be kept for another thread to send. So the line is encoded here, and one thread sends.

use std::fmt::{Debug, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::messages;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Most lines that wait: at some hundred bytes each a megabyte, and minutes of a busy recorder.
const LINES_MAX: usize = 4_096;
/// A longer value is cut, so that a line always fits a datagram.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// How long the last lines may take.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How often a journal that is away is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// journald's number for a warning.
const WARNING: u8 = 4;

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue's end at which lines go in.
pub struct Writer {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

/// Encodes events and queues them.
pub struct JournalLayer {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// A queue to this machine's journal, and the thread that empties it.
    pub fn start() -> anyhow::Result<Self> {
        Self::to(Path::new(SOCKET), LINES_MAX)
    }

    pub(super) fn to(path: &Path, lines_max: usize) -> anyhow::Result<Self> {
        let socket = UnixDatagram::unbound().context("open a socket to the journal")?;
        let (orders, received) = sync_channel(lines_max);
        let dropped = Arc::new(AtomicU64::new(0));
        let (path, lost) = (path.to_owned(), dropped.clone());
        let thread = std::thread::Builder::new().name("journal".to_owned());
        thread.spawn(move || send_all(&socket, &path, &received, &lost)).context("start the journal's thread")?;
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
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = Line::default();
        if !fields.has_priority {
            line.field("PRIORITY", &priority(metadata.level()).to_string());
        }
        line.field("SYSLOG_IDENTIFIER", "tapekeeper");
        line.field("TARGET", metadata.target());
        if let Some(file) = metadata.file() {
            line.field("CODE_FILE", file);
        }
        if let Some(number) = metadata.line() {
            line.field("CODE_LINE", &number.to_string());
        }
        line.0.extend_from_slice(&fields.line.0);
        if self.orders.try_send(Order::Line(line.0)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The queue's other end.
fn send_all(socket: &UnixDatagram, path: &Path, orders: &Receiver<Order>, dropped: &AtomicU64) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Line(line) => {
                send(socket, path, &line, dropped);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    send(socket, path, &lines_dropped(lost).0, dropped);
                }
            }
            // Whoever flushes may have given up.
            Order::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Sends one line, however long the journal is away; meanwhile the queue fills, and lines are dropped and counted there.
fn send(socket: &UnixDatagram, path: &Path, line: &[u8], dropped: &AtomicU64) {
    loop {
        match socket.send_to(line, path) {
            Ok(_bytes) => return,
            // Too long for this system, or not allowed: it will not be another time either.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => {
                break;
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => break,
            Err(_away) => std::thread::park_timeout(RETRY_EVERY),
        }
    }
    dropped.fetch_add(1, Ordering::Relaxed);
}

fn lines_dropped(count: u64) -> Line {
    let mut line = Line::default();
    line.field("PRIORITY", &WARNING.to_string());
    line.field("SYSLOG_IDENTIFIER", "tapekeeper");
    line.field("MESSAGE_ID", messages::LINES_DROPPED);
    line.field("DROPPED", &count.to_string());
    line.field("MESSAGE", &format!("{count} log lines were dropped: the journal did not take them in time"));
    line
}

fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// An entry as journald reads it: `NAME=value`, or the name alone, the length as 64 bits and the value where it has
/// several lines.
#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    fn field(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

/// The fields of one event, named as the journal allows: capitals, digits and underscores, a letter first.
#[derive(Default)]
struct Fields {
    line: Line,
    has_priority: bool,
}

impl Fields {
    fn take(&mut self, name: &str, value: &str) {
        // What the log crate's bridge adds about itself.
        if name.starts_with("log.") {
            return;
        }
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_uppercase());
        if !name.is_empty() {
            self.has_priority |= name == "PRIORITY";
            self.line.field(name, value);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("writing to a String cannot fail");
        self.take(field.name(), &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn journal(path: &Path) -> UnixDatagram {
        let journal = UnixDatagram::bind(path).unwrap();
        journal.set_read_timeout(Some(PATIENCE)).unwrap();
        journal
    }

    fn next(journal: &UnixDatagram) -> String {
        let mut buffer = vec![0; 64 << 10];
        let length = journal.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn fields_have_no_prefix_and_a_line_keeps_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = journal(&path);
        let writer = Writer::to(&path, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(MESSAGE_ID = "abc", GAP_FIRST = 7, stream = %"x:y", "a gap: {}", 7);
        });
        let entry = next(&journal);
        for line in [
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=tapekeeper",
            "MESSAGE_ID=abc",
            "GAP_FIRST=7",
            "STREAM=x:y",
            "MESSAGE=a gap: 7",
        ] {
            assert!(entry.lines().any(|found| found == line), "{line} is not in\n{entry}");
        }
        assert!(entry.contains("CODE_FILE="), "{entry}");
    }

    #[test]
    fn a_priority_that_is_given_wins_and_several_lines_stay_one_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = journal(&path);
        let writer = Writer::to(&path, 16).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || tracing::error!(PRIORITY = 2, "one\nPRIORITY=7"));
        let entry = next(&journal);
        let priorities: Vec<&str> = entry.lines().filter(|line| line.starts_with("PRIORITY=")).collect();
        assert_eq!(priorities, ["PRIORITY=7", "PRIORITY=2"]);
        // The first one is inside of the message: its length stands before it.
        assert!(entry.contains("MESSAGE\n\u{e}\0\0\0\0\0\0\0one\nPRIORITY=7\n"), "{entry:?}");
    }

    #[test]
    fn a_journal_that_stalls_holds_nobody_up_and_the_lost_lines_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        // Nobody listens yet.
        let writer = Writer::to(&path, 4).unwrap();
        let subscriber = tracing_subscriber::registry().with(writer.layer());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                tracing::info!("line {number}");
            }
        });
        let journal = journal(&path);
        let mut lines = 0;
        let said = loop {
            let entry = next(&journal);
            if entry.contains(messages::LINES_DROPPED) {
                break entry;
            }
            lines += 1;
        };
        let dropped = said.lines().find_map(|line| line.strip_prefix("DROPPED=")).unwrap();
        let dropped: u64 = dropped.parse().unwrap();
        // The rest of the queue follows.
        writer.flush();
        journal.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4_096];
        while journal.recv(&mut buffer).is_ok() {
            lines += 1;
        }
        assert!(dropped >= 90, "{dropped}");
        assert_eq!(dropped + lines, 100);
    }

    #[test]
    fn a_value_is_cut_between_characters() {
        let mut line = Line::default();
        line.field("MESSAGE", &"é".repeat(VALUE_BYTES_MAX));
        assert!(line.0.len() <= VALUE_BYTES_MAX + 10);
        assert!(String::from_utf8(line.0).is_ok());
    }
}
