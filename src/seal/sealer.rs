//! Seals days: waits until they are settled, counts their rows, and writes a revision when something is new.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;

use super::changed::{Change, SealedRange};
use super::count::DayCount;
use super::pass;
use super::place::{Created, Place};
use super::statement::DayReader;
use super::stream_view::{self, EpochView};
use super::{Day, GROUP_ROWS, Manifest, Selection, names, plan, rows};
use crate::exit::{DATA, Failure, IO, TEMPORARY};
use crate::gap::Range;
use crate::history::{EpochRow, GapFilter, Verdict, each_gap};
use crate::market::{DAY_US, Stream, Timestamp};
use crate::parquet_file::{Options, ParquetFile};

/// How often a day that is not settled is looked at again.
const SETTLE_POLL: Duration = Duration::from_secs(5);
/// How often a day is read anew because its rows changed between two passes.
const ATTEMPTS_MAX: usize = 5;

/// Seals days of one history in one place.
#[derive(Clone)]
pub struct Sealer {
    /// Reads the rows.
    pub reader: DayReader,
    /// Where the sealed days are.
    pub place: Arc<dyn Place>,
    /// How long after its end a day may stay unsettled; then it is sealed as it is.
    pub grace: Duration,
}

/// What happens while days are sealed.
#[derive(Debug)]
pub enum Event<'a> {
    /// A day is read, which has about this number of rows; twice when it is new.
    Reading(&'a Stream, Day, u64),
    /// This number of rows was read.
    Rows(u64),
    /// A day is not settled, for this reason.
    Waiting(&'a Stream, Day, &'a str),
    /// A day is done.
    Done(&'a SealedDay),
}

/// What became of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a new revision.
    Sealed,
    /// Its current revision holds the same rows and says the same of them.
    Unchanged,
    /// Its current revision holds this number of rows more than history, which dropped them: it stays.
    Kept(u64),
}

/// A day after a run.
#[derive(Clone, Debug)]
pub struct SealedDay {
    /// The stream.
    pub stream: Stream,
    /// The day.
    pub day: Day,
    /// What became of it.
    pub outcome: Outcome,
    /// What the current revision states.
    pub manifest: Manifest,
    /// The path of its directory in the place.
    pub directory: String,
}

/// The days of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Days with a new revision.
    pub sealed: usize,
    /// Days whose revision stays.
    pub unchanged: usize,
    /// Of both, how many are not complete.
    pub incomplete: usize,
    /// Rows of the new revisions.
    pub rows: u64,
    /// The first days that are not complete, with what they lack.
    pub listed: Vec<String>,
    /// Days that cannot be sealed, with the reasons.
    pub failed: Vec<String>,
}

/// Most conflicts that are looked at, the newest.
const CONFLICTS_MAX: usize = 10_000;
/// Nothing records when a conflict was decided: a day with one that arrived within three days is read again.
const CONFLICT_AGE_US: i64 = 3 * DAY_US;
/// Most days that a summary lists.
const LISTED_MAX: usize = 100;

/// The days of a stream that are still to be sealed.
struct Work<'a> {
    stream: &'a Stream,
    days: VecDeque<Day>,
}

impl Sealer {
    /// Seals the selected days of these streams, oldest first in each. It waits for days that are not settled while
    /// their grace is not over.
    pub async fn run(
        &self,
        streams: &[Stream],
        selection: Selection,
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Summary, Failure> {
        let epochs = self.reader.history.epochs().await.context("read the epochs")?;
        let mut queue = self.plan(streams, &epochs, selection).await?;
        let mut summary = Summary::default();
        loop {
            for work in &mut queue {
                self.seal_stream(work, &epochs, cancel, on, &mut summary).await?;
            }
            queue.retain(|work| !work.days.is_empty());
            if queue.is_empty() {
                return Ok(summary);
            }
            if cancel.run_until_cancelled(tokio::time::sleep(SETTLE_POLL)).await.is_none() {
                return Err(Failure::new(TEMPORARY, anyhow!("interrupted: days that are not settled are not sealed")));
            }
        }
    }

    /// The days to seal of each stream.
    async fn plan<'a>(
        &self,
        streams: &'a [Stream],
        epochs: &[EpochRow],
        selection: Selection,
    ) -> Result<Vec<Work<'a>>, Failure> {
        let now = self.reader.clock.now();
        let mut sealed: HashMap<&Stream, BTreeMap<Day, SealedRange>> = HashMap::new();
        if !matches!(selection, Selection::Days(..)) {
            for stream in streams {
                sealed.insert(stream, self.sealed(stream).await?);
            }
        }
        let oldest = sealed.values().flat_map(BTreeMap::values).map(|range| range.sealed_at).min();
        let mut changes = match oldest {
            Some(oldest) => self.changes(oldest, now).await?,
            None => HashMap::new(),
        };
        let mut queue = Vec::new();
        for stream in streams {
            let views = stream_view::views(&self.reader.history, stream, epochs).await?;
            let first = views.iter().map(|view| Day::of(view.times.0)).min();
            let last = views.iter().map(|view| Day::of(view.times.1)).max();
            let Some(recorded) = first.zip(last) else { continue };
            let sealed = sealed.remove(stream).unwrap_or_default();
            let changes = changes.remove(stream).unwrap_or_default();
            let days = plan::days(selection, recorded, now, &sealed, &changes);
            queue.push(Work { stream, days: days.into() });
        }
        Ok(queue)
    }

    /// What changed since `oldest` and may be in a sealed day: gaps, and rows that lost a conflict.
    async fn changes(&self, oldest: Timestamp, now: Timestamp) -> Result<HashMap<Stream, Vec<Change>>, Failure> {
        let mut changes: HashMap<Stream, Vec<Change>> = HashMap::new();
        let history = &*self.reader.history;
        each_gap(history, GapFilter::default(), |gap| {
            if let Some(change) = Change::of(&gap).filter(|change| change.at >= oldest) {
                changes.entry(gap.stream).or_default().push(change);
            }
        })
        .await
        .context("read the gap ledger")?;
        let recent = now.plus_micros(-CONFLICT_AGE_US);
        for conflict in history.conflicts(false, CONFLICTS_MAX).await.context("read the conflicts")? {
            if conflict.verdict == Verdict::Arrived && conflict.at >= recent {
                let range = Range { first: conflict.position, last: conflict.position };
                changes.entry(conflict.stream).or_default().push(Change { epoch: conflict.epoch, range, at: now });
            }
        }
        Ok(changes)
    }

    /// Seals the days of a stream up to the first that is not settled.
    async fn seal_stream(
        &self,
        work: &mut Work<'_>,
        epochs: &[EpochRow],
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        if work.days.is_empty() {
            return Ok(());
        }
        let stream = work.stream;
        // Rows arrive while others are sealed, and while this one waits.
        let views = stream_view::views(&self.reader.history, stream, epochs).await?;
        while let Some(day) = work.days.front().copied() {
            if let Some(why) = self.unsettled(&views, day).await? {
                on(Event::Waiting(stream, day, &why));
                return Ok(());
            }
            let done = match self.seal_day(stream, &views, day, cancel, on).await {
                Ok(done) => done,
                // Such a day cannot be sealed, and it must not keep the others from being sealed.
                Err(failure) if failure.code == DATA => {
                    summary.failed.push(format!("{stream} {day}: {:#}", failure.error));
                    work.days.pop_front();
                    continue;
                }
                Err(Failure { code, error }) => {
                    return Err(Failure::new(code, error.context(format!("seal {stream} {day}"))));
                }
            };
            summary.add(&done);
            on(Event::Done(&done));
            work.days.pop_front();
        }
        Ok(())
    }

    /// Why a day is not settled yet; `None` when it is, or when its grace is over.
    async fn unsettled(&self, views: &[EpochView], day: Day) -> Result<Option<String>, Failure> {
        let grace = i64::try_from(self.grace.as_micros()).unwrap_or(i64::MAX);
        if self.reader.clock.now() >= day.end().plus_micros(grace) {
            return Ok(None);
        }
        if !views.iter().any(|view| view.is_past(day)) {
            return Ok(Some("nothing after the day is recorded yet".to_owned()));
        }
        let Some(newest) = views.last() else { return Ok(None) };
        let open = GapFilter { open_only: true, ..GapFilter::default() };
        let open = newest.gaps(open, newest.positions(day).await?).await?;
        Ok(open.first().map(|gap| format!("gap {} is open", gap.span())))
    }

    async fn seal_day(
        &self,
        stream: &Stream,
        views: &[EpochView],
        day: Day,
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<SealedDay, Failure> {
        let directory = names::stream_directory(stream).context("history does not hold this channel")?;
        let directory = format!("{directory}/{}", names::day_directory(day));
        let done = |outcome, manifest| SealedDay {
            stream: stream.clone(),
            day,
            outcome,
            manifest,
            directory: directory.clone(),
        };
        for _ in 0..ATTEMPTS_MAX {
            let (counted, manifest) = self.reader.statement(stream, views, day, cancel, on).await?;
            let manifest = Manifest { previous: self.previous(stream, day).await?, ..manifest };
            if let Some((outcome, current)) = self.current(stream, &directory).await?.keeps(&manifest) {
                return Ok(done(outcome, current));
            }
            let channel = manifest.channel.clone();
            let is_unfinished = move |name: &str, all: &[String]| {
                let revision = names::file_revision(name, &channel);
                revision.is_some_and(|revision| !all.contains(&names::manifest(revision)))
            };
            let lock = self.place.lock(&directory, &is_unfinished).await;
            let lock = lock.map_err(|error| self.failure(error, "lock", &directory))?;
            let current = self.current(stream, &directory).await?;
            if current.revision > 0 && current.manifest.as_ref().is_some_and(|stated| stated.says_the_same(&manifest)) {
                // A process was killed before its last step.
                self.name_current(&directory, current.revision).await?;
            }
            let current = self.current(stream, &directory).await?;
            let revision = current.revision + 1;
            if let Some((outcome, current)) = current.keeps(&manifest) {
                return Ok(done(outcome, current));
            }
            let manifest = Manifest { revision, ..manifest };
            if let Some(manifest) = self.write(stream, views, &directory, &counted, manifest, cancel, on).await? {
                drop(lock);
                return Ok(done(Outcome::Sealed, manifest));
            }
        }
        let why = "its rows changed each time between two reads: run it again when backfill is done";
        Err(Failure::new(TEMPORARY, anyhow!(why)))
    }

    /// The SHA-256 of the current manifest of the day before.
    async fn previous(&self, stream: &Stream, day: Day) -> Result<Option<String>, Failure> {
        let directory = names::stream_directory(stream).context("history does not hold this channel")?;
        let before = format!("{directory}/{}", names::day_directory(day.previous()));
        Ok(self.current(stream, &before).await?.sha256)
    }

    /// Writes a revision; `None` when the rows changed since they were counted, or another recorder was faster.
    #[expect(clippy::too_many_arguments, reason = "what is written, from where and to where")]
    async fn write(
        &self,
        stream: &Stream,
        views: &[EpochView],
        directory: &str,
        counted: &DayCount,
        mut manifest: Manifest,
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Option<Manifest>, Failure> {
        let day = Day::parse(&manifest.date).context("a manifest has a date")?;
        manifest.file = names::file(&manifest.channel, manifest.revision);
        let path = format!("{directory}/{}", manifest.file);
        let (writer, spool) = self.place.spool(&path).map_err(|error| self.failure(error, "create", &path))?;
        let columns = rows::columns(stream.channel, &counted.scales);
        let remedy = "no scale holds every value of this day";
        let options = Options { sorted_by: rows::sorted_by(stream.channel), group_rows: GROUP_ROWS, remedy };
        let file = ParquetFile::begin(writer, &columns, options)?;
        let parts = self.reader.parts(stream, views, day).await?;
        let (again, file) = pass::run(parts, Some(file), cancel, &|rows| on(Event::Rows(rows))).await?;
        // Rows of the next day may have arrived meanwhile.
        if !again.has_the_rows_of(counted) {
            return Ok(None);
        }
        let file = file.context("a pass returns its file")?;
        let statement = serde_json::to_string(&manifest.statement().context("write the statement")?);
        let statement = [("manifest", statement.context("write the statement")?)];
        let finished = tokio::task::spawn_blocking(move || file.finish(&statement)?.finish().map_err(io_failure)).await;
        let content = finished.context("finish the file")??;
        (manifest.bytes, manifest.sha256) = (content.bytes, content.sha256);
        let created = self.place.create(&path, content.file, spool).await;
        if created.map_err(|error| self.failure(error, "create", &path))? == Created::Exists {
            return Ok(None);
        }
        let path = format!("{directory}/{}", names::manifest(manifest.revision));
        let text = manifest.to_text().context("write the manifest")?;
        if self.create_text(&path, &text).await.map_err(|error| self.failure(error, "create", &path))?
            == Created::Exists
        {
            return Ok(None);
        }
        self.name_current(directory, manifest.revision).await?;
        Ok(Some(manifest))
    }

    async fn create_text(&self, path: &str, text: &str) -> std::io::Result<Created> {
        use std::io::Write as _;
        let (mut writer, spool) = self.place.spool(path)?;
        writer.write_all(text.as_bytes())?;
        let content = writer.finish()?;
        self.place.create(path, content.file, spool).await
    }

    /// The last step: names the current revision.
    async fn name_current(&self, directory: &str, revision: u32) -> Result<(), Failure> {
        let path = format!("{directory}/{}", names::CURRENT);
        let replaced = self.place.replace(&path, names::current(revision).as_bytes()).await;
        replaced.map_err(|error| self.failure(error, "replace", &path))
    }

    pub(super) fn failure(&self, error: std::io::Error, doing: &str, path: &str) -> Failure {
        let place = self.place.name();
        let code = if error.kind() == std::io::ErrorKind::WouldBlock { TEMPORARY } else { IO };
        Failure::new(code, anyhow::Error::from(error).context(format!("{doing} {place}/{path}")))
    }
}

impl Summary {
    fn add(&mut self, done: &SealedDay) {
        match done.outcome {
            Outcome::Sealed => {
                self.sealed += 1;
                self.rows += done.manifest.rows;
            }
            Outcome::Unchanged | Outcome::Kept(_) => self.unchanged += 1,
        }
        if !done.manifest.complete {
            self.incomplete += 1;
            if self.listed.len() < LISTED_MAX {
                let words = done.manifest.shortfalls().join(", ");
                self.listed.push(format!("{} {}: {words}", done.stream, done.day));
            }
        }
    }
}

fn io_failure(error: std::io::Error) -> Failure {
    Failure::new(IO, anyhow::Error::from(error).context("write the rows"))
}
