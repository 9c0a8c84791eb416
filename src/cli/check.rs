//! `check`: are both files right, and do the servers answer that they name?

use crate::app::Sources;
use crate::app::stores::{self, Knock};
use crate::config;
use crate::exit::{self, Failure};

use super::service::Format;
use crate::cli::said::say;

/// What to check.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also asks every server for its version and says what is missing there; exit 69 when one cannot be used
    #[arg(long)]
    connect: bool,
}

/// Checks; returns the exit code.
pub async fn run(args: Args, sources: &Sources, format: Format) -> Result<u8, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    match config::check(sources.config.as_deref(), sources.jobs.as_deref(), &environment) {
        Ok(text) if format == Format::Human => say!("{text}"),
        Ok(_text) if args.connect => {}
        Ok(_text) => say!("{}", serde_json::json!({ "valid": true })),
        Err(text) => {
            eprintln!("{text}");
            return Ok(exit::CONFIGURATION);
        }
    }
    if !args.connect {
        return Ok(0);
    }
    let knocks = stores::knock(&super::load(sources)?).await;
    for knock in &knocks {
        match format {
            Format::Human => say!("{}", words(knock)),
            Format::Json => say!("{}", serde_json::json!(knock)),
        }
    }
    let all_well = knocks.iter().all(|knock| knock.error.is_none());
    Ok(if all_well { 0 } else { exit::UNAVAILABLE })
}

fn words(knock: &Knock) -> String {
    let Knock { store, place, version, missing, error } = knock;
    let mut line = format!("{store:<8} {place}: ");
    line.push_str(version.as_deref().or(error.as_deref()).unwrap_or_default());
    for missing in missing {
        line.push_str(&format!("\n         missing: {missing}"));
    }
    line
}
