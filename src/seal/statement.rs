//! What a day holds and what it lacks, as history and its gap ledger say.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::count::{DayCount, EpochCount};
use super::kline_check::KlineComparison;
use super::ledger_lists::LedgerLists;
use super::pass::{self, Part};
use super::sealer::Event;
use super::stream_view::{self, EpochView};
use super::{Day, FilledBy, Manifest, OlderEpoch, names};
use crate::audit;
use crate::clock::Clock;
use crate::exchange::catalog;
use crate::exit::Failure;
use crate::gap::{GapState, Range, RangeSet};
use crate::history::{GapFilter, History};
use crate::market::{Channel, Interval, Kline, Stream, Symbol, Timestamp};

/// Most klines of a day: one a minute.
const KLINES_MAX: usize = 1_440;

/// Reads days of one history and states what they hold.
#[derive(Clone)]
pub struct DayReader {
    /// Where the rows are.
    pub history: Arc<dyn History>,
    /// The time.
    pub clock: Clock,
    /// The `instance` of the recorder.
    pub recorder: String,
}

impl DayReader {
    /// Reads the day and states what it holds; the revision and what depends on the file are left open.
    pub(super) async fn statement(
        &self,
        stream: &Stream,
        views: &[EpochView],
        day: Day,
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<(DayCount, Manifest), Failure> {
        let sealed_at = self.clock.now();
        let parts = self.parts(stream, views, day).await?;
        let positions = parts.iter().filter_map(|part| part.range.range);
        let positions = positions.map(|range| range.len(stream.channel.step().unwrap_or(1))).sum::<i64>();
        on(Event::Reading(stream, day, u64::try_from(positions).unwrap_or(0)));
        let (counted, _) = pass::run(parts, None, cancel, &|rows| on(Event::Rows(rows))).await?;
        let manifest = self.manifest(stream, views, day, &counted, sealed_at).await?;
        Ok((counted, manifest))
    }

    /// What history says otherwise than a manifest about its rows: the fields, with the words for people.
    pub async fn against_history(
        &self,
        manifest: &Manifest,
        cancel: &CancellationToken,
        on: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Vec<(&'static str, String)>, Failure> {
        let parsed = || {
            let (exchange, channel) = (manifest.exchange.parse().ok()?, names::channel(&manifest.channel)?);
            let stream = Stream::new(exchange, Symbol::new(&manifest.symbol), channel);
            Some((stream, Day::parse(&manifest.date)?))
        };
        let Some((stream, day)) = parsed() else { return Ok(Vec::new()) };
        let epochs = self.history.epochs().await.context("read the epochs")?;
        let views = stream_view::views(&self.history, &stream, &epochs).await?;
        if views.is_empty() {
            return Ok(vec![("rows", format!("is {}, history holds no row of {stream}", manifest.rows))]);
        }
        let (_, held) = self.statement(&stream, &views, day, cancel, on).await?;
        let word = |position: Option<i64>| position.map_or("null".to_owned(), |position| position.to_string());
        let fields = [
            ("rows", manifest.rows.to_string(), held.rows.to_string()),
            ("first", word(manifest.first), word(held.first)),
            ("last", word(manifest.last), word(held.last)),
            ("epoch", manifest.epoch.to_string(), held.epoch.to_string()),
            ("logical_hash", manifest.logical_hash.clone(), held.logical_hash),
        ];
        let differ = fields.into_iter().filter(|(_, stated, held)| stated != held);
        Ok(differ.map(|(field, stated, held)| (field, format!("is {stated}, history has {held}"))).collect())
    }

    /// What to read of each numbering that may have rows of the day.
    pub(super) async fn parts<'a>(
        &self,
        stream: &Stream,
        views: &'a [EpochView],
        day: Day,
    ) -> Result<Vec<Part<'a>>, Failure> {
        let step = stream.channel.step().context("only numbered streams are in history")?;
        let klines = self.klines(stream, day).await?;
        let mut parts = Vec::new();
        for view in views {
            let range = view.day_range(day).await?;
            let filled = GapFilter { states: vec![GapState::Filled], ..GapFilter::default() };
            let mut archive = RangeSet::new(step);
            if let Some(range) = range.range {
                let gaps = view.gaps(filled, range).await?;
                gaps.iter().filter(|gap| gap.filled_by == "archive").for_each(|gap| archive.insert(gap.range));
            }
            let count = EpochCount::new(day, step, view.epoch, range.previous, archive);
            parts.push(Part { view, range, count, comparison: KlineComparison::new(klines.iter().copied()) });
        }
        Ok(parts)
    }

    /// The day's one-minute klines, where they name the trades that they consist of.
    async fn klines(&self, stream: &Stream, day: Day) -> Result<Vec<Kline>, Failure> {
        let names_trades = catalog::dialect(stream.exchange).is_some_and(|dialect| dialect.spec().klines_name_trades());
        if stream.channel != Channel::Trade || !names_trades {
            return Ok(Vec::new());
        }
        let klines = Stream::new(stream.exchange, stream.symbol.clone(), Channel::Kline(Interval::M1));
        let range = Range { first: day.start().micros(), last: day.end().micros() - 1 };
        let rows = self.history.klines(&klines, range, KLINES_MAX).await.context("read the day's klines")?;
        Ok(rows.into_iter().map(|row| row.kline).collect())
    }

    async fn manifest(
        &self,
        stream: &Stream,
        views: &[EpochView],
        day: Day,
        counted: &DayCount,
        sealed_at: Timestamp,
    ) -> Result<Manifest, Failure> {
        let step = stream.channel.step().context("only numbered streams are in history")?;
        // Without any row it is the numbering in which the day's rows would be.
        let newest = counted.epochs.iter().rposition(|epoch| epoch.extent.is_some());
        let newest = newest.or_else(|| views.iter().rposition(|view| view.times.0 < day.end())).unwrap_or(0);
        let (view, epoch) = views.get(newest).zip(counted.epochs.get(newest)).context("the stream has no row")?;
        let is_past = views.iter().any(|view| view.is_past(day));
        let lists = lists(view, epoch, stream.channel, day, step, is_past).await?;
        let older = counted.epochs[..newest].iter().filter_map(|epoch| {
            let extent = epoch.extent?;
            Some(OlderEpoch { epoch: epoch.epoch, first: extent.first, last: extent.last, rows: epoch.rows })
        });
        let present = i64::try_from(epoch.rows).unwrap_or(i64::MAX);
        let holes = lists.missing.len() + lists.never_existed.len();
        let is_proven = audit::is_proven(stream, 0, 0, true)
            || audit::is_proven(stream, view.count().await?, holes, !lists.never_existed.is_empty());
        let (exchange, symbol) = (stream.exchange.to_string(), stream.symbol.to_string());
        let pairs = |ranges: &[Range]| ranges.iter().map(|range| (range.first, range.last)).collect();
        let mut manifest = Manifest {
            exchange,
            symbol,
            channel: names::of_channel(stream.channel).context("history does not hold this channel")?.to_owned(),
            date: day.to_string(),
            epoch: epoch.epoch,
            revision: 1,
            file: String::new(),
            bytes: 0,
            sha256: String::new(),
            rows: counted.rows,
            first: epoch.extent.map(|extent| extent.first),
            last: epoch.extent.map(|extent| extent.last),
            expected: epoch.extent.map_or(0, |extent| extent.len(step)),
            present,
            live: present - epoch.backfilled,
            backfilled: epoch.backfilled,
            filled_by: FilledBy { rest: epoch.backfilled - epoch.archived, archive: epoch.archived },
            never_existed: lists.never_existed,
            unconfirmed: lists.unconfirmed,
            unrecoverable: lists.unrecoverable,
            missing: lists.missing,
            other_day: pairs(&epoch.other_day),
            older_epochs: older.collect(),
            open_end: !is_past,
            unproven: !is_proven,
            complete: false,
            logical_hash: counted.hash.hex(),
            klines: counted.klines,
            previous: None,
            sealed_at: rfc3339(sealed_at),
            recorder: self.recorder.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        manifest.complete = manifest.proves_complete();
        Ok(manifest)
    }
}

/// What the ledger says about the absent positions of the day.
async fn lists(
    view: &EpochView,
    epoch: &EpochCount,
    channel: Channel,
    day: Day,
    step: i64,
    is_past: bool,
) -> anyhow::Result<LedgerLists> {
    let around = match epoch.extent {
        Some(extent) => Range::new(
            epoch.before.map_or(extent.first - step, |range| range.first),
            epoch.after.map_or(extent.last + step, |range| range.last),
        ),
        None => epoch.before,
    };
    let Some(around) = around else { return Ok(LedgerLists::default()) };
    let gaps = view.gaps(GapFilter::unfilled(), around).await?;
    let (mut before, mut after) = (epoch.before, epoch.after);
    if let Some(extent) = epoch.extent {
        // Where nothing is stored on the other side, only the ledger knows what is missing.
        let touching = |position: i64| gaps.iter().find(|gap| gap.range.contains(position)).map(|gap| gap.range);
        if extent.first == view.extent.first {
            before = touching(extent.first - step).and_then(|gap| Range::new(gap.first, extent.first - step));
        }
        if extent.last == view.extent.last && !is_past {
            after = touching(extent.last + step).and_then(|gap| Range::new(extent.last + step, gap.last));
        }
    }
    let whole_day = Range { first: day.start().micros(), last: day.end().micros() - step };
    let of_day = |range: Range| if channel.has_trades() { Some(range) } else { range.intersect(whole_day) };
    let edges = [before, after].into_iter().flatten().filter_map(of_day);
    Ok(LedgerLists::divide(epoch.absent.iter().copied().chain(edges), &gaps, step))
}

fn rfc3339(at: Timestamp) -> String {
    at.to_chrono().map_or_else(|| at.rfc3339(), |at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}
