//! `check`: validates both files and, with `--connect`, the servers that they name.

use tokio_util::sync::CancellationToken;

use crate::app::ConfigPaths;
use crate::app::stores::{self, StorePing};
use crate::config;
use crate::exit::{self, Failure};

use super::check_feeds::{self, Matched};
use super::output::{Format, print_line};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also asks every server for its version and lists what it lacks, and the exchanges what patterns match; exit 69 when one
    /// cannot be used
    #[arg(long)]
    connect: bool,
}

/// Checks; returns the exit code.
pub async fn run(
    args: Args,
    config_paths: &ConfigPaths,
    format: Format,
    stop: CancellationToken,
) -> Result<u8, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    match config::check(config_paths.config.as_deref(), config_paths.jobs.as_deref(), &environment) {
        Ok(text) if format == Format::Human => print_line!("{text}"),
        Ok(_text) if args.connect => {}
        Ok(_text) => {
            let loaded = config::load_all(config_paths.config.as_deref(), config_paths.jobs.as_deref(), &environment);
            let notes = loaded.map(|loaded| loaded.notes).unwrap_or_default();
            print_line!("{}", serde_json::json!({ "valid": true, "notes": notes }));
        }
        Err(text) => {
            eprintln!("{text}");
            return Ok(exit::CONFIGURATION);
        }
    }
    if !args.connect {
        return Ok(0);
    }
    let config = super::load(config_paths)?;
    let pings = stores::ping(&config).await;
    for ping in &pings {
        match format {
            Format::Human => print_line!("{}", describe(ping)),
            Format::Json => print_line!("{}", serde_json::json!(ping)),
        }
    }
    let all_well = pings.iter().all(|ping| ping.error.is_none());
    let matched = check_feeds::run(&config, format, &stop).await?;
    Ok(match matched {
        Matched::Nothing => exit::CONFIGURATION,
        Matched::All if all_well => 0,
        Matched::All | Matched::Unknown => exit::UNAVAILABLE,
    })
}

fn describe(ping: &StorePing) -> String {
    let StorePing { store, place, version, missing, error } = ping;
    let mut line = format!("{store:<8} {place}: ");
    line.push_str(version.as_deref().or(error.as_deref()).unwrap_or_default());
    for missing in missing {
        line.push_str(&format!("\n         missing: {missing}"));
    }
    line
}
