//! Sends log lines to the journal with their fields under systemd, and as text or JSON to stderr elsewhere.
//!
//! No caller waits for the journal: `journal.rs` queues and sends. Must not know what the lines mean.

mod journal;

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::field::Field;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use journal::lines_dropped;

use crate::messages;

/// The format of lines that do not go to the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// The journal's number for the priority `crit`.
const PRIORITY_CRIT: i64 = 2;

/// Keeps the connection to the journal; dropping it flushes the last lines.
#[must_use = "queued lines are lost unless this value lives to the end of the process"]
pub struct Telemetry(Option<journal::Writer>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(writer) = &self.0 {
            writer.flush();
        }
    }
}

/// Installs the process's tracing subscriber and panic hook. `TAPEKEEPER_LOG` sets the filter (default `info`).
pub fn install(format: LogFormat) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_from_env("TAPEKEEPER_LOG")
        .unwrap_or_else(|_unset| EnvFilter::new("info,tokio_cron_scheduler=warn"));
    let writer = if under_systemd() { Some(journal::Writer::start()?) } else { None };
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match &writer {
        Some(writer) => Box::new(writer.layer()),
        None => text(format),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(Telemetry(writer))
}

fn text(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => Box::new(layer.json().flatten_event(true)),
        LogFormat::Human => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Box::new(layer.with_ansi(colours).compact().fmt_fields(debug_fn(human_fields)))
        }
    }
}

/// Omits fields in capitals: they are for the journal, and the message contains the same for people.
fn human_fields(line: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let name = field.name();
    if name == "message" {
        write!(line, "{value:?}")
    } else if name.chars().any(|c| c.is_ascii_lowercase()) {
        write!(line, " {name}={value:?}")
    } else {
        Ok(())
    }
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let why = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Captured only when RUST_BACKTRACE is set.
    let backtrace = std::backtrace::Backtrace::capture();
    let frames = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!(
        MESSAGE_ID = messages::PANICKED,
        PRIORITY = PRIORITY_CRIT,
        "panic in thread {thread} at {place}: {why}{frames}"
    );
}

/// Whether stderr goes to the journal: JOURNAL_STREAM holds the device and inode that systemd connected. A process with
/// a redirected stderr inherits the variable too, and its lines belong to its own stderr.
fn under_systemd() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const THREAD: &str = "panics-on-purpose";

    #[test]
    fn a_panic_is_critical_in_the_journal_and_names_its_location() {
        let (sinks, _, critical_lines) = journal::tests::capturing_sinks();
        let writer = journal::Writer::to(sinks, 16).unwrap();
        let layer = writer.layer();
        // Panics of other tests in this process must reach the default hook.
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
            Some(THREAD) => report_panic(panic),
            _ => others(panic),
        }));
        let panicking = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::with_default(subscriber, || panic!("no such partition"));
        });
        assert!(panicking.unwrap().join().is_err());
        let entry = critical_lines.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(entry.contains(&format!("MESSAGE_ID={}", messages::PANICKED)), "{entry}");
        assert!(entry.contains(THREAD) && entry.contains("mod.rs:") && entry.contains("no such partition"), "{entry}");
    }

    #[test]
    fn people_read_the_message_and_not_the_journals_fields() {
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = lines.clone();
        let layer = tracing_subscriber::fmt::layer().without_time().with_ansi(false).compact();
        let layer = layer.fmt_fields(debug_fn(human_fields)).with_writer(move || Buffer(into.clone()));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(MESSAGE_ID = messages::GAP_FOUND, GAP_FIRST = 7, offset = 3, "a gap");
        });
        let line = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(line.ends_with("a gap offset=3\n"), "{line:?}");
    }

    #[derive(Clone)]
    struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
