//! `verify`: recomputes what sealed days state, from the files alone.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::stores;
use crate::clock::Clock;
use crate::config::Config;
use crate::exit::{Failure, IO, NO, TEMPORARY, USAGE};
use crate::seal::{self, DayReader, Difference, Event, Verified, Watch};

use super::output::{Format, print_line};
use super::progress_bar;

/// Arguments of `verify`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "It needs no configuration, no service and no history: rows, ids, hashes, lists and the chain of \
    manifests are\nrecomputed from the files. Exit 1 names every difference: the file, and the field of its manifest.\n\n\
    Examples:\n  tapekeeper verify /srv/tape\n  tapekeeper verify trades/exchange=binance/symbol=BTCUSDT/date=2026-11-27"
)]
pub struct Args {
    /// A directory of sealed days, at any level, or a file of one
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Also compares each current revision with the rows that history has now; needs the configuration
    #[arg(long)]
    pub(super) against_history: bool,
}

/// Draws the rows that were read, and ends with the command.
struct Progress {
    bar: ProgressBar,
    stop: CancellationToken,
}

impl Watch for Progress {
    fn rows(&self, rows: u64) {
        self.bar.inc(rows);
    }

    fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// Verifies; exit 1 when something differs, or when nothing is sealed there. `config` is for `--against-history`.
pub async fn run(args: Args, config: Option<&Config>, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    seal::quiet_panics();
    let bar = progress_bar::counter(format, "rows");
    let mut all = Verified::default();
    for path in args.paths {
        bar.set_message(path.display().to_string());
        let (watch, name) = (Progress { bar: bar.clone(), stop: stop.clone() }, path.display().to_string());
        let verified = tokio::task::spawn_blocking(move || seal::verify(&path, &watch)).await;
        match verified.context("verify the files")? {
            Ok(verified) => {
                all.days += verified.days;
                all.revisions += verified.revisions;
                all.rows += verified.rows;
                all.differences.extend(verified.differences);
                all.notes.extend(verified.notes);
                all.current.extend(verified.current);
            }
            Err(_) if stop.is_cancelled() => {
                return Err(Failure::new(TEMPORARY, anyhow!("interrupted: not everything was verified")));
            }
            Err(error) => {
                let is_usage = error.kind() == std::io::ErrorKind::NotFound;
                let why = anyhow::Error::from(error).context(format!("read {name}"));
                return Err(Failure::new(if is_usage { USAGE } else { IO }, why));
            }
        }
    }
    if let Some(config) = config {
        against_history(&mut all, config, &bar, &stop).await?;
    }
    bar.finish_and_clear();
    report(&all, format);
    Ok(if all.differences.is_empty() && all.days > 0 { 0 } else { NO })
}

async fn against_history(
    all: &mut Verified,
    config: &Config,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let history = stores::history_to_read(config).await?;
    let recorder = config.instance.clone();
    let reader = DayReader { history: history.clone(), clock: Clock::system(), recorder };
    let on = |event: Event<'_>| {
        if let Event::Rows(rows) = event {
            bar.inc(rows);
        }
    };
    for (path, manifest) in &all.current {
        bar.set_message(format!("history: {} {}", manifest.symbol, manifest.date));
        for (field, words) in reader.against_history(manifest, stop, &on).await? {
            all.differences.push(Difference { file: path.clone(), field: field.to_owned(), words });
        }
    }
    history.close().await.context("close the history")?;
    Ok(())
}

fn report(all: &Verified, format: Format) {
    let Verified { days, revisions, rows, differences, notes, .. } = all;
    if format == Format::Json {
        let document = json!({
            "days": days, "revisions": revisions, "rows": rows, "verified": differences.is_empty() && *days > 0,
            "differences": differences, "notes": notes,
        });
        return print_line!("{document}");
    }
    for difference in differences {
        print_line!("{difference}");
    }
    for note in notes {
        eprintln!("note: {note}");
    }
    let verdict = match differences.len() {
        0 if *days == 0 => "nothing is sealed here".to_owned(),
        0 => "no difference".to_owned(),
        1 => "1 difference".to_owned(),
        many => format!("{many} differences"),
    };
    print_line!("{days} days, {revisions} revisions, {rows} rows: {verdict}");
}
