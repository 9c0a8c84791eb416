//! `replay`: reads the log again through today's decoder into history. Idempotent: what is there stays, what an
//! older decoder made differently is replaced.

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{market, stores};
use crate::config::Config;
use crate::consume::{Sealed, Sorter};
use crate::exit::{Failure, USAGE};
use crate::health::Health;
use crate::log::Record;
use crate::market::{Exchange, Timestamp};
use crate::pulse::Pulses;
use crate::writer::Writer;

use super::progress;
use super::service::Format;

/// Records of one read.
const READ_MAX: usize = 4_096;

/// Arguments of `replay`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// First log offset, or the time (RFC 3339 or a date) from which frames were received; default: all that is kept
    #[arg(long)]
    from: Option<String>,
    /// Offset or time to stop before; default: the log's end
    #[arg(long)]
    to: Option<String>,
}

/// An offset or a time.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Offset(i64),
    Time(Timestamp),
}

impl Bound {
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let at = Timestamp::parse(text);
        at.map(Self::Time).ok_or_else(|| Failure::new(USAGE, anyhow!("`{text}` is neither an offset nor a time")))
    }

    /// Whether a record lies before it.
    fn is_after(self, record: &Record) -> bool {
        match self {
            Self::Offset(offset) => record.offset < offset,
            Self::Time(at) => record.frame.received_at < at,
        }
    }
}

/// Replays and says how much.
pub async fn run(args: Args, config: &Config, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    let from = args.from.as_deref().map(Bound::parse).transpose()?;
    let to = args.to.as_deref().map(Bound::parse).transpose()?;
    let log = stores::log(config).await?;
    let history = stores::history(config).await?;
    let writer = Writer::new(history.clone(), std::sync::Arc::default(), Health::default());
    let usage = log.usage().await.context("read the log's positions")?;
    let total: i64 = usage.end.iter().map(|(p, end)| end - usage.first.get(p).copied().unwrap_or(0)).sum();
    let bar = progress::bar(u64::try_from(total).unwrap_or(0), "frames");
    let (mut frames, mut rows, mut letters) = (0_u64, 0_u64, 0_u64);
    for (&partition, &end) in &usage.end {
        let mut sorter = Sorter::new(Exchange::ALL.map(market::dialect));
        let first = usage.first.get(&partition).copied().unwrap_or(0);
        let mut offset = match from {
            Some(Bound::Offset(offset)) => offset.max(first),
            _ => first,
        };
        while offset < end && !stop.is_cancelled() {
            let records = log.read(partition, offset, READ_MAX).await.context("read the log")?;
            let Some(last) = records.last() else { break };
            offset = last.offset + 1;
            bar.inc(records.len() as u64);
            let over = records.iter().any(|record| to.is_some_and(|to| !to.is_after(record)));
            let wanted = records.into_iter().filter(|record| {
                from.is_none_or(|from| !from.is_after(record)) && to.is_none_or(|to| to.is_after(record))
            });
            for record in wanted {
                frames += 1;
                sorter.take(record);
            }
            // Holes are not looked for: the ledger knows those of the first time, and history's own are swept.
            sorter.settle(Timestamp(0), true);
            let Sealed { rows: sealed, .. } = sorter.seal();
            rows += (sealed.batch.trades.len() + sealed.batch.klines.len()) as u64;
            letters += sealed.batch.dead_letters.len() as u64;
            let pulse = Pulses::default().watch("replay");
            writer.write(&sealed, &pulse, &stop).await.context("write to history")?;
            if over {
                break;
            }
        }
    }
    bar.finish_and_clear();
    history.close().await.context("close the history")?;
    log.close().await.context("close the log")?;
    match format {
        Format::Json => println!("{}", json!({ "frames": frames, "rows": rows, "dead_letters": letters })),
        Format::Human => println!("{frames} frames replayed: {rows} rows, {letters} dead letters"),
    }
    Ok(0)
}
