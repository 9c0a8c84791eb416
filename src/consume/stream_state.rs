//! One numbered stream as it is consumed: its tracker, its progress, and what is known to exist of it.

use std::collections::{HashMap, VecDeque};

use crate::gap::{MissingRange, Range, Tracker};
use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};
use crate::writer::Source;

use crate::progress::StreamProgress;

/// Most expectations kept of one stream; more than a few only pile up while a market is not consumed.
const EXPECTED_MAX: usize = 16;

/// A hole of a stream, with the times around it.
#[derive(Clone, Debug)]
pub struct DetectedGap {
    /// Whose.
    pub stream: Stream,
    /// What is missing.
    pub range: Range,
    /// What noticed.
    pub by: &'static str,
    /// Position that reveals it, when a frame did.
    pub next: Option<i64>,
    /// Log partition of the revealing frame.
    pub partition: Option<i32>,
    /// Log offset of the revealing frame.
    pub offset: Option<i64>,
    /// The exchange's time before the hole.
    pub from_ts: Option<Timestamp>,
    /// The exchange's time behind the hole.
    pub to_ts: Option<Timestamp>,
    /// Connection the stream came over last.
    pub connection: Option<i64>,
}

/// One numbered stream.
#[derive(Debug)]
pub struct StreamState<T> {
    pub tracker: Tracker<(T, Source)>,
    pub progress: StreamProgress,
    /// The exchange's time of the last row that was in order.
    pub in_order_ts: Option<Timestamp>,
    pub changed: bool,
    /// Positions that exist, when they are due, what says so; all three ascending.
    expected: VecDeque<(i64, Timestamp, &'static str)>,
}

impl<T> StreamState<T> {
    pub fn new(channel: Channel, exchange: Exchange, symbol: &Symbol, watermarks: &HashMap<Stream, i64>) -> Self {
        let watermark = watermarks.get(&Stream::new(exchange, symbol.clone(), channel)).copied();
        let step = channel.step().expect("only numbered channels have a state");
        Self {
            tracker: Tracker::new(step, watermark),
            progress: StreamProgress::default(),
            in_order_ts: None,
            changed: true,
            expected: VecDeque::new(),
        }
    }

    pub fn record_frame(&mut self, ts: Timestamp, received_at: Timestamp, connection: i64) {
        self.progress.frames += 1;
        self.progress.last_ts = self.progress.last_ts.max(Some(ts.micros()));
        self.progress.last_received = Some(received_at.micros());
        self.progress.connection = Some(connection);
        self.changed = true;
    }

    pub fn expect(&mut self, last: i64, deadline: Timestamp, by: &'static str) {
        let come = self.tracker.next().is_some_and(|next| next > last);
        let known = self.expected.back().is_some_and(|(kept, _, _)| *kept >= last);
        if !come && !known && self.expected.len() < EXPECTED_MAX {
            self.expected.push_back((last, deadline, by));
        }
    }

    pub fn is_expecting(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Declares a gap what was due and has not come.
    pub fn check_expected(&mut self, now: Timestamp, detected: &mut Vec<DetectedGap>, stream: impl Fn() -> Stream) {
        while let Some(&(last, deadline, by)) = self.expected.front() {
            if self.tracker.next().is_some_and(|next| next > last) {
                self.expected.pop_front();
                continue;
            }
            if now < deadline {
                return;
            }
            if let Some(range) = self.tracker.expect_until(last) {
                self.changed = true;
                detected.push(DetectedGap {
                    stream: stream(),
                    range,
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
                // It ends at something that is held: that is used first, then the rest is looked at.
                return;
            }
            self.expected.pop_front();
        }
    }

    pub fn found(&self, missing: MissingRange, stream: Stream) -> DetectedGap {
        DetectedGap {
            stream,
            range: missing.range,
            by: "neighbour",
            next: Some(missing.next),
            // The frame that reveals it is the first one held, and a symbol's frames are of one partition.
            partition: self.tracker.first_held().map(|(_, source)| source.partition),
            offset: Some(missing.offset),
            from_ts: self.in_order_ts,
            to_ts: None,
            connection: self.progress.connection,
        }
    }
}
