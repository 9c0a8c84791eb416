//! `replay`: decodes the frames of the log again and writes their rows to history.

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::stores;
use crate::config::Config;
use crate::exchange::catalog;
use crate::exit::{Failure, TEMPORARY, USAGE};
use crate::replay::{Bound, Replay};

use super::output::{Format, print_line};
use super::progress_bar;

/// Arguments of `replay`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// First log offset, or the receive time (RFC 3339 or a date) to begin at; default: the oldest frame
    #[arg(long)]
    from: Option<String>,
    /// Offset or time to stop before; default: the end of the log
    #[arg(long)]
    to: Option<String>,
}

/// Replays, and prints how many frames and rows.
pub async fn run(args: Args, config: &Config, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    let replay = Replay {
        from: bound(args.from.as_deref())?,
        to: bound(args.to.as_deref())?,
        log: stores::log_to_read(config).await?,
        history: stores::history(config).await?,
        instance: config.instance.clone(),
        dialects: catalog::dialects().to_vec(),
    };
    let bar = progress_bar::bar(format, replay.frames().await?, "frames");
    bar.set_message("replay");
    let replayed = replay.run(&|frames| bar.inc(frames), &stop).await?;
    bar.finish_and_clear();
    replay.history.close().await.context("close the history")?;
    replay.log.close().await.context("close the log")?;
    if stop.is_cancelled() {
        let why = anyhow!(
            "interrupted after {} frames: run the same command again; it begins anew and changes nothing that is right",
            replayed.frames
        );
        return Err(Failure::new(TEMPORARY, why));
    }
    match format {
        Format::Json => print_line!("{}", json!(replayed)),
        Format::Human => {
            print_line!(
                "{} frames replayed: {} rows, {} dead letters",
                replayed.frames,
                replayed.rows,
                replayed.dead_letters
            )
        }
    }
    Ok(0)
}

fn bound(text: Option<&str>) -> Result<Option<Bound>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let bound = Bound::parse(text);
    bound.map(Some).ok_or_else(|| Failure::new(USAGE, anyhow!("`{text}` is neither an offset nor a time")))
}
