//! One pass over the rows of a day: reads them page by page, counts them, and writes them when there is a file.
//!
//! Counting and compressing take a processor, and writing may wait for a disk: a blocking thread does both, and the
//! reader is never more than a few pages ahead of it.

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exit::{DATA, Failure, TEMPORARY};
use crate::gap::Range;
use crate::parquet_file::ParquetFile;

use super::RANGES_MAX;
use super::count::{DayCount, EpochCount};
use super::kline_check::KlineComparison;
use super::place::SpoolWriter;
use super::rows::Rows;
use super::stream_view::{DayRange, EpochView};

/// Rows per query.
const PAGE: usize = 10_000;
/// Pages between the reader and the thread.
const PAGES_MAX: usize = 2;

/// The file that a pass writes.
pub type File = ParquetFile<SpoolWriter>;

/// What the reader passes to the thread.
enum Step {
    Begin(Box<(EpochCount, KlineComparison)>),
    Page(Rows),
    /// With the first stored position after those that were read.
    End(Option<i64>),
}

/// One numbering of a day, and where its rows are.
pub struct Part<'a> {
    /// The numbering.
    pub view: &'a EpochView,
    /// The positions to read.
    pub range: DayRange,
    /// Where to begin to count.
    pub count: EpochCount,
    /// What to compare its trades with.
    pub comparison: KlineComparison,
}

/// Reads the rows of these numberings, oldest first; `on_rows` hears how many rows a page had.
pub async fn run(
    parts: Vec<Part<'_>>,
    file: Option<File>,
    cancel: &CancellationToken,
    on_rows: &(dyn Fn(u64) + Sync),
) -> Result<(DayCount, Option<File>), Failure> {
    let (steps, received) = mpsc::channel(PAGES_MAX);
    let thread = tokio::task::spawn_blocking(move || count(received, file));
    let read = read(parts, steps, cancel, on_rows).await;
    let counted = thread.await.context("count the rows")?;
    // A thread that failed stops the reader: its error is the reason.
    let counted = counted?;
    read?;
    Ok(counted)
}

async fn read(
    parts: Vec<Part<'_>>,
    steps: mpsc::Sender<Step>,
    cancel: &CancellationToken,
    on_rows: &(dyn Fn(u64) + Sync),
) -> Result<(), Failure> {
    for Part { view, range, count, comparison } in parts {
        if steps.send(Step::Begin(Box::new((count, comparison)))).await.is_err() {
            return Ok(());
        }
        let mut rest = range.range;
        while let Some(part) = rest {
            if cancel.is_cancelled() {
                let why = anyhow::anyhow!("interrupted: no revision is left half written; run it again to continue");
                return Err(Failure::new(TEMPORARY, why));
            }
            let page = view.rows(part, PAGE).await?;
            on_rows(page.len() as u64);
            rest = page.last_position().and_then(|last| Range::new(last + 1, part.last));
            if steps.send(Step::Page(page)).await.is_err() {
                return Ok(());
            }
        }
        if steps.send(Step::End(range.next)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn count(mut received: mpsc::Receiver<Step>, mut file: Option<File>) -> Result<(DayCount, Option<File>), Failure> {
    let mut day = DayCount::default();
    while let Some(step) = received.blocking_recv() {
        match step {
            Step::Begin(begin) => day.begin(begin.0, begin.1),
            Step::Page(rows) => {
                for row in rows.iter() {
                    if day.row(row)
                        && let Some(file) = &mut file
                    {
                        row.cells(|cells| file.put(cells))?;
                    }
                }
            }
            Step::End(next) => day.end(next),
        }
        if day.is_too_torn() {
            let why = anyhow::anyhow!("more than {RANGES_MAX} ranges are missing: backfill the day first");
            return Err(Failure::new(DATA, why));
        }
    }
    Ok((day, file))
}
