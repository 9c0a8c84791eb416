//! `status --watch`: prints the status every few seconds, until interrupted.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;

use crate::exit::{Failure, IO};

use super::client::Client;
use super::output::Format;
use super::status;

/// Moves to the upper left corner and clears the screen, so that it does not scroll.
const REDRAW: &str = "\x1b[H\x1b[2J";

/// Arguments of `status`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Examples:\n  tapekeeper status\n  tapekeeper status --watch 5\n  \
    tapekeeper status --watch --format json | jq .gaps")]
pub struct Args {
    /// Repeat every SECONDS, until interrupted; default: 2
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub watch: Option<u64>,
}

/// Prints the status every `every_s` seconds. A service that stops later is an error on the screen, because it may
/// start again.
pub async fn run(every_s: u64, client: &Client, format: Format) -> Result<u8, Failure> {
    let redraws = format == Format::Human && io::stdout().is_terminal();
    let mut has_answered = false;
    loop {
        let screen = match client.get("/api/v1/status").await {
            Ok(status) if format == Format::Json => Some(status.to_string()),
            Ok(status) => Some(status::render(&status, client.base())),
            Err(failure) if !has_answered => return Err(failure),
            Err(failure) if redraws => Some(format!("{:#}", failure.error)),
            Err(failure) => {
                eprintln!("tapekeeper: {:#}", failure.error);
                None
            }
        };
        has_answered = true;
        if let Some(screen) = screen {
            draw(&screen, redraws, format).context("print the status").map_err(|error| Failure::new(IO, error))?;
        }
        tokio::time::sleep(Duration::from_secs(every_s)).await;
    }
}

fn draw(screen: &str, redraws: bool, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Human if redraws => writeln!(out, "{REDRAW}{screen}")?,
        // Without redrawing, an empty line separates two screens.
        Format::Human => writeln!(out, "{screen}\n")?,
        Format::Json => writeln!(out, "{screen}")?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_default_is_two_seconds() {
        let watch = |arguments: &[&str]| {
            CommandLine::try_parse_from([&["status"], arguments].concat()).map(|line| line.args.watch).ok()
        };
        assert_eq!(watch(&[]), Some(None));
        assert_eq!(watch(&["--watch"]), Some(Some(2)));
        assert_eq!(watch(&["--watch", "5"]), Some(Some(5)));
        assert_eq!((watch(&["--watch", "0"]), watch(&["--watch", "soon"])), (None, None));
    }
}
