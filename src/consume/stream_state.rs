//! The consumer's state of one numbered stream: its tracker, its progress, and the positions it expects.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::gap::{MissingRange, Range, Tracker};
use crate::history::EpochRow;
use crate::log::Partition;
use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};
use crate::writer::Source;

use crate::progress::StreamProgress;

use super::inputs::Watermark;
use super::open_klines::OpenKlines;
use super::plausible::{JUMP_MIN, Pace, RecentKlines, RecentTrades};

/// Most expectations kept per stream; more than a few accumulate only while the stream is not consumed.
const EXPECTED_MAX: usize = 16;

/// A gap that the consumer found, with the times around it.
#[derive(Clone, Debug)]
pub struct DetectedGap {
    /// The stream.
    pub stream: Stream,
    /// The missing positions.
    pub range: Range,
    /// The numbering of the positions.
    pub epoch: i64,
    /// How it was found; becomes `by` of the gap's evidence.
    pub by: &'static str,
    /// Position of the frame that reveals it, if a frame did.
    pub next: Option<i64>,
    /// Log partition of the revealing frame.
    pub partition: Option<i32>,
    /// Log offset of the revealing frame.
    pub offset: Option<i64>,
    /// The exchange's time of the last row before the gap.
    pub from_ts: Option<Timestamp>,
    /// The exchange's time of the first row after the gap.
    pub to_ts: Option<Timestamp>,
    /// Connection of the stream's newest frame.
    pub connection: Option<i64>,
}

/// When expected positions are missing: the first of two times that is reached.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// By the partition's time.
    pub partition: Timestamp,
    /// By the monotonic clock, once the partition is read to its end.
    pub monotonic: Duration,
}

impl Deadline {
    fn is_over(self, now: Timestamp, monotonic: Option<Duration>) -> bool {
        now >= self.partition || monotonic.is_some_and(|now| now >= self.monotonic)
    }
}

/// A numbering that ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedEpoch {
    /// The exchange's time of the first trade of the next one.
    pub until: Timestamp,
    /// The position that was expected next; `None` when another process recorded it.
    pub next: Option<i64>,
}

/// State of one numbered stream.
#[derive(Debug)]
pub struct StreamState<T> {
    pub channel: Channel,
    pub tracker: Tracker<(T, Source)>,
    pub progress: StreamProgress,
    /// The exchange's time of the newest row in order.
    pub in_order_ts: Option<Timestamp>,
    pub changed: bool,
    /// Expected positions: the last one, the deadline, the source. Positions and deadlines ascend.
    expected: VecDeque<(i64, Deadline, &'static str)>,
    pub pace: Pace,
    pub recent: RecentTrades,
    pub recent_klines: RecentKlines,
    pub open_klines: OpenKlines,
    /// Items that do not fit the stream, in order of arrival, until the exchange says which it is.
    pub doubtful: Vec<(T, Source)>,
    /// When the oldest of them arrived, by the partition's time and by the monotonic clock.
    pub doubtful_since: Option<(Timestamp, Duration)>,
    /// The numbering of its positions.
    pub epoch: i64,
    /// The numbering before it, whose last frames may still arrive.
    pub ended: Option<EndedEpoch>,
    /// The exchange did not say in time; further items that do not fit are set aside at once.
    pub is_unanswered: bool,
}

impl<T> StreamState<T> {
    pub fn new(channel: Channel, exchange: Exchange, symbol: &Symbol, watermarks: &HashMap<Stream, Watermark>) -> Self {
        let watermark = watermarks.get(&Stream::new(exchange, symbol.clone(), channel));
        let step = channel.step().expect("only numbered channels have a state");
        Self {
            channel,
            tracker: Tracker::new(step, watermark.map(|watermark| watermark.position)),
            progress: StreamProgress::default(),
            in_order_ts: watermark.and_then(|watermark| watermark.ts),
            changed: true,
            expected: VecDeque::new(),
            pace: Pace::default(),
            recent: RecentTrades::default(),
            recent_klines: RecentKlines::default(),
            open_klines: OpenKlines::default(),
            doubtful: Vec::new(),
            doubtful_since: None,
            epoch: 0,
            ended: None,
            is_unanswered: false,
        }
    }

    /// Continues with the numbering that began last, of which another process recorded the beginning.
    pub fn continue_epoch(&mut self, epochs: &[EpochRow]) {
        let Some(newest) = epochs.last() else { return };
        self.epoch = newest.epoch;
        self.ended = Some(EndedEpoch { until: newest.began_at, next: None });
    }

    /// Begins a numbering at `first`, and returns the items that waited for positions of the ended one.
    pub fn begin_epoch(&mut self, first: i64, began_at: Timestamp) -> Vec<(T, Source)> {
        let step = self.tracker.step();
        self.ended = Some(EndedEpoch { until: began_at, next: self.tracker.next() });
        let ended = std::mem::replace(&mut self.tracker, Tracker::new(step, None));
        self.tracker.begin_at(first);
        (self.pace, self.recent, self.in_order_ts) = (Pace::default(), RecentTrades::default(), None);
        self.expected.clear();
        self.epoch += 1;
        self.changed = true;
        ended.into_held()
    }

    /// Whether an item has its place in the ended numbering: its frame was late, or is consumed again.
    pub fn is_of_ended(&self, position: i64, ts: Timestamp) -> bool {
        let Some(ended) = self.ended else { return false };
        ts < ended.until && position >= 0 && ended.next.is_none_or(|next| position < next.saturating_add(JUMP_MIN))
    }

    /// Whether an item is held, or waits for the exchange's word.
    pub fn is_holding(&self) -> bool {
        self.tracker.is_holding() || !self.doubtful.is_empty()
    }

    /// The partition and the lowest log offset of the items that are not used yet.
    pub fn held_offset(&self) -> Option<(Partition, i64)> {
        let held = self.tracker.first_held().map(|(_, source)| source.partition).zip(self.tracker.held_offset());
        let doubtful = self.doubtful.iter().map(|(_, source)| (source.partition, source.offset)).min();
        held.into_iter().chain(doubtful).min_by_key(|(_, offset)| *offset)
    }

    /// Counts a frame of the stream, whatever becomes of it.
    pub fn record_frame(&mut self, received_at: Timestamp, connection: i64) {
        self.progress.frames += 1;
        self.progress.last_received = Some(received_at.micros());
        self.progress.connection = Some(connection);
        self.changed = true;
    }

    /// Records the exchange's time of a row.
    pub fn record_time(&mut self, ts: Timestamp) {
        self.progress.last_ts = self.progress.last_ts.max(Some(ts.micros()));
    }

    pub fn expect(&mut self, last: i64, deadline: Deadline, by: &'static str) {
        let come = self.tracker.next().is_some_and(|next| next > last);
        let known = self.expected.back().is_some_and(|(kept, _, _)| *kept >= last);
        if !come && !known && self.expected.len() < EXPECTED_MAX {
            self.expected.push_back((last, deadline, by));
        }
    }

    pub fn is_expecting(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Declares a gap for expected positions whose deadline has passed: `now` by the partition's time, `monotonic` where
    /// the partition is read to its end.
    pub fn check_expected(
        &mut self,
        (now, monotonic): (Timestamp, Option<Duration>),
        detected: &mut Vec<DetectedGap>,
        stream: impl Fn() -> Stream,
    ) {
        while let Some(&(last, deadline, by)) = self.expected.front() {
            if self.tracker.next().is_some_and(|next| next > last) {
                self.expected.pop_front();
                continue;
            }
            if !deadline.is_over(now, monotonic) {
                return;
            }
            if let Some(range) = self.tracker.expect_until(last) {
                self.changed = true;
                detected.push(DetectedGap {
                    stream: stream(),
                    range,
                    epoch: self.epoch,
                    by,
                    next: None,
                    partition: None,
                    offset: None,
                    from_ts: self.in_order_ts,
                    to_ts: None,
                    connection: self.progress.connection,
                });
            }
            if self.tracker.next().is_some_and(|next| next <= last) {
                // The gap ends at a held item. The caller releases that item first; the next call checks the rest.
                return;
            }
            self.expected.pop_front();
        }
    }

    pub fn found(&self, missing: MissingRange, stream: Stream) -> DetectedGap {
        DetectedGap {
            stream,
            range: missing.range,
            epoch: self.epoch,
            by: "neighbour",
            next: Some(missing.next),
            // The first held frame reveals the gap, and all frames of a symbol are in one partition.
            partition: self.tracker.first_held().map(|(_, source)| source.partition),
            offset: Some(missing.offset),
            from_ts: self.in_order_ts,
            to_ts: None,
            connection: self.progress.connection,
        }
    }
}
