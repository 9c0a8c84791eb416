//! Notices that no frame of a stream can be decoded any more, for example since the exchange changed a field's type. No
//! I/O, no clock: the frames' own receive times decide, so that a backlog is judged like live frames.

use std::collections::HashMap;

use crate::exchange::{Dialect, Route};
use crate::log::Partition;
use crate::market::{Channel, Exchange, Frame, Stream, Symbol, Timestamp};
use crate::progress::Outage;
use crate::writer::Source;

/// How long every frame must be undecodable, in microseconds. A broken frame or two are no outage; an outage is reported
/// within a minute.
const OUTAGE_AFTER_US: i64 = 30_000_000;
/// The fewest frames of an outage: one bad frame of a quiet stream is none, however long the next one takes.
const OUTAGE_FRAMES_MIN: u64 = 3;

/// Frames of one exchange or of one of its streams: all of them undecodable since the first one here.
#[derive(Debug)]
struct Run {
    since: Timestamp,
    until: Timestamp,
    frames: u64,
    reason: String,
    partition: Partition,
    offset: i64,
}

/// The runs of undecodable frames. It is empty while every frame decodes.
#[derive(Debug, Default)]
pub(super) struct Undecodable {
    /// By exchange, and by stream where it is known.
    runs: HashMap<(Exchange, Option<Stream>), Run>,
}

impl Undecodable {
    /// Counts a frame that cannot be decoded.
    pub(super) fn failed(&mut self, exchange: Exchange, stream: Option<Stream>, source: &Source, reason: &str) {
        let scopes = [Some((exchange, None)), stream.map(|stream| (exchange, Some(stream)))];
        for scope in scopes.into_iter().flatten() {
            let at = source.received_at;
            let run = self.runs.entry(scope).or_insert_with(|| Run {
                since: at,
                until: at,
                frames: 0,
                reason: String::new(),
                partition: source.partition,
                offset: source.offset,
            });
            run.frames += 1;
            run.until = run.until.max(at);
            (run.partition, run.offset) = (source.partition, source.offset);
            reason.clone_into(&mut run.reason);
        }
    }

    /// Counts a frame that was decoded: it ends the run of its stream and of its exchange.
    pub(super) fn decoded(&mut self, exchange: Exchange, symbol: &Symbol, channel: Channel) {
        if !self.runs.is_empty() {
            self.runs.remove(&(exchange, None));
            self.runs.remove(&(exchange, Some(Stream::new(exchange, symbol.clone(), channel))));
        }
    }

    /// Forgets the runs in a partition that another recorder consumes now.
    pub(super) fn forget(&mut self, partition: Partition) {
        self.runs.retain(|_, run| run.partition != partition);
    }

    /// Forgets the streams that are not recorded any more.
    pub(super) fn retain(&mut self, streams: &[Stream]) {
        self.runs.retain(|(exchange, stream), _| match stream {
            Some(stream) => streams.contains(stream),
            None => streams.iter().any(|stream| stream.exchange == *exchange),
        });
    }

    /// The outages: of exchanges first, then of streams, in their order.
    pub(super) fn outages(&self) -> Vec<Outage> {
        let is_outage = |run: &Run| run.frames >= OUTAGE_FRAMES_MIN && run.until.since(run.since) >= OUTAGE_AFTER_US;
        let outage = |((exchange, stream), run): (&(Exchange, Option<Stream>), &Run)| Outage {
            exchange: *exchange,
            stream: stream.clone(),
            since: run.since,
            frames: run.frames,
            reason: run.reason.clone(),
            partition: run.partition,
            offset: run.offset,
        };
        let mut outages: Vec<Outage> = self.runs.iter().filter(|(_, run)| is_outage(run)).map(outage).collect();
        outages.sort_by(|a, b| (&a.stream, a.exchange).cmp(&(&b.stream, b.exchange)));
        outages
    }
}

/// The stream of a frame that cannot be decoded: its symbol is in the key, its channel in the exchange's name of it.
pub(super) fn stream_of(dialect: &dyn Dialect, frame: &Frame) -> Option<Stream> {
    let (_, symbol) = frame.key.split_once(':')?;
    let Route::Stream(name) = dialect.route(&frame.payload) else { return None };
    Some(Stream::new(dialect.exchange(), Symbol::new(symbol), dialect.channel(&name)?))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn stream(symbol: &str) -> Stream {
        format!("binance:{symbol}:trade").parse().unwrap()
    }

    fn fail(undecodable: &mut Undecodable, symbol: &str, second: i64) {
        let at = Timestamp(second * SECOND);
        let source = Source { partition: 0, offset: second, received_at: at, payload: Bytes::new() };
        undecodable.failed(Exchange::named("binance"), Some(stream(symbol)), &source, "p is a number");
    }

    fn outages_of(undecodable: &Undecodable) -> Vec<String> {
        undecodable.outages().iter().map(Outage::part).collect()
    }

    #[test]
    fn only_undecodable_frames_for_half_a_minute_are_an_outage_of_the_stream_and_of_the_exchange() {
        let mut undecodable = Undecodable::default();
        for second in [0, 10, 20, 29] {
            fail(&mut undecodable, "AAA", second);
        }
        assert!(undecodable.outages().is_empty());
        fail(&mut undecodable, "AAA", 30);
        assert_eq!(outages_of(&undecodable), ["binance", "binance:AAA:trade"]);
        let outage = &undecodable.outages()[1];
        assert_eq!((outage.frames, outage.since, outage.offset), (5, Timestamp(0), 30));
        assert!(outage.describe().contains("p is a number"), "{}", outage.describe());
    }

    #[test]
    fn a_decoded_frame_ends_the_outage_of_its_stream_and_of_its_exchange_only() {
        let mut undecodable = Undecodable::default();
        for symbol in ["AAA", "BBB"] {
            for second in [0, 15, 40] {
                fail(&mut undecodable, symbol, second);
            }
        }
        undecodable.decoded(Exchange::named("binance"), &Symbol::new("BBB"), Channel::Trade);
        assert_eq!(outages_of(&undecodable), ["binance:AAA:trade"]);
        undecodable.decoded(Exchange::named("binance"), &Symbol::new("AAA"), Channel::BookTicker);
        assert_eq!(outages_of(&undecodable), ["binance:AAA:trade"], "another channel proves nothing");
    }

    #[test]
    fn single_bad_frames_of_a_quiet_stream_are_no_outage() {
        let mut undecodable = Undecodable::default();
        fail(&mut undecodable, "AAA", 0);
        fail(&mut undecodable, "AAA", 600);
        assert!(undecodable.outages().is_empty());
        undecodable.decoded(Exchange::named("binance"), &Symbol::new("AAA"), Channel::Trade);
        fail(&mut undecodable, "AAA", 700);
        assert!(undecodable.outages().is_empty() && undecodable.runs.len() == 2);
    }

    #[test]
    fn an_outage_ends_with_its_feed_and_with_its_partition() {
        for forget in [true, false] {
            let mut undecodable = Undecodable::default();
            for second in [0, 15, 40] {
                fail(&mut undecodable, "AAA", second);
            }
            if forget {
                undecodable.forget(0)
            } else {
                undecodable.retain(&[])
            }
            assert!(undecodable.runs.is_empty());
        }
    }
}
