//! Where log lines go: the journal with fields under systemd, text or JSON on stderr elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How lines look when they do not go to the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One object a line.
    Json,
}

/// Installs the process's subscriber, once. `TAPEKEEPER_LOG` sets the filter (default `info`).
pub fn install(format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("TAPEKEEPER_LOG")
        .unwrap_or_else(|_unset| EnvFilter::new("info,tokio_cron_scheduler=warn"));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if under_systemd() {
        // Without the prefix, or MESSAGE_ID, JOB and the like are not the fields that people filter by.
        match tracing_journald::layer() {
            Ok(journald) => Box::new(journald.with_field_prefix(None)),
            Err(_no_socket) => text(format),
        }
    } else {
        text(format)
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

fn text(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => Box::new(layer.json().flatten_event(true)),
        LogFormat::Human => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Box::new(layer.with_ansi(colours).compact())
        }
    }
}

/// systemd sets JOURNAL_STREAM for units whose stderr goes to the journal.
fn under_systemd() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
        && std::env::var_os("INVOCATION_ID").is_some()
        && !std::io::stderr().is_terminal()
}
