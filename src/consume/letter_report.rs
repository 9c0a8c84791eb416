//! Reports dead letters: the first of a stream at once, the others once a minute, and outages to health. A flood of them
//! must not flood the journal.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::health::Health;
use crate::history::DeadLetter;
use crate::messages;
use crate::progress::Outage;

/// Time between two lines about one stream, and between two summaries.
const INTERVAL: Duration = Duration::from_secs(60);
/// Most lines about single letters per [`INTERVAL`], of all streams together.
const LINES_MAX: usize = 10;

/// What was reported, and what waits for the next summary.
#[derive(Debug)]
pub(super) struct LetterReport {
    /// When the present interval began.
    began_at: Instant,
    /// The streams with a line in this interval.
    named: HashSet<String>,
    /// Letters without a line since the last summary: their number, and the newest one in words.
    unreported: u64,
    newest: String,
    /// The parts that are degraded, with the number of undecodable frames.
    outages: BTreeMap<String, u64>,
}

impl Default for LetterReport {
    fn default() -> Self {
        Self {
            began_at: Instant::now(),
            named: HashSet::new(),
            unreported: 0,
            newest: String::new(),
            outages: BTreeMap::new(),
        }
    }
}

impl LetterReport {
    /// Logs letters that have just become durable.
    pub(super) fn letters(&mut self, letters: &[DeadLetter]) {
        self.summarize();
        for letter in letters {
            let stream = &*letter.stream;
            let is_known = self.named.contains(stream) || self.outages.contains_key(stream);
            if is_known || self.named.len() >= LINES_MAX {
                self.unreported += 1;
                self.newest = format!("{stream} at offset {}: {}", letter.offset, letter.reason);
                continue;
            }
            self.named.insert(stream.to_owned());
            warn!(MESSAGE_ID = messages::DEAD_LETTER, stream, offset = letter.offset, "dead letter: {}", letter.reason);
        }
    }

    /// Ends the interval when it is over, and logs what it did not name.
    pub(super) fn summarize(&mut self) {
        if self.began_at.elapsed() < INTERVAL {
            return;
        }
        (self.began_at, self.named) = (Instant::now(), HashSet::new());
        let more = std::mem::take(&mut self.unreported);
        if more > 0 {
            let newest = std::mem::take(&mut self.newest);
            warn!(
                MESSAGE_ID = messages::DEAD_LETTER,
                letters = more,
                "{more} more dead letters, the newest of {newest}"
            );
        }
    }

    /// Shows the outages in health, and logs those that began and those that ended.
    pub(super) fn outages(&mut self, outages: &[Outage], health: &Health) {
        if outages.is_empty() && self.outages.is_empty() {
            return;
        }
        let is_whole =
            |outage: &Outage| outages.iter().any(|other| other.stream.is_none() && other.exchange == outage.exchange);
        // When no frame of an exchange can be decoded, its streams say nothing more.
        let shown: Vec<&Outage> =
            outages.iter().filter(|outage| outage.stream.is_none() || !is_whole(outage)).collect();
        let began: Vec<&&Outage> = shown.iter().filter(|outage| !self.outages.contains_key(&outage.part())).collect();
        if let Some(outage) = began.first() {
            let (part, why, offset) = (outage.part(), outage.describe(), outage.offset);
            let more = and_more(began.len());
            warn!(
                MESSAGE_ID = messages::DEAD_LETTER,
                part, offset, "{part}{more}: {why} (for example offset {offset}); the frames are kept as dead letters"
            );
        }
        let mut before = std::mem::take(&mut self.outages);
        for outage in &shown {
            health.degraded(&outage.part(), &outage.describe());
            before.remove(&outage.part());
            self.outages.insert(outage.part(), outage.frames);
        }
        for part in before.keys() {
            health.restored(part);
        }
        before.retain(|part, _| !outages.iter().any(|outage| outage.part() == *part));
        if let Some((part, frames)) = before.first_key_value() {
            let more = and_more(before.len());
            info!(part, "{part}{more}: frames can be decoded again, after {frames} that are dead letters");
        }
    }
}

fn and_more(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::LetterSource;
    use crate::market::{Exchange, Stream, Timestamp};

    fn outage(symbol: Option<&str>) -> Outage {
        let stream: Option<Stream> = symbol.map(|symbol| format!("binance:{symbol}:trade").parse().unwrap());
        let (exchange, reason) = (Exchange::named("binance"), "p is a number".to_owned());
        Outage { exchange, stream, since: Timestamp(0), frames: 3, reason, partition: 0, offset: 7 }
    }

    fn letter(stream: &str, offset: i64) -> DeadLetter {
        DeadLetter {
            id: String::new(),
            recorder: "".into(),
            source: LetterSource::Log,
            partition: 0,
            offset,
            received_at: Timestamp(0),
            stream: stream.into(),
            reason: "p is a number".to_owned(),
            payload: bytes::Bytes::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_letters_is_one_line_a_stream_and_a_summary_a_minute() {
        let mut report = LetterReport::default();
        for offset in 0..500 {
            report.letters(&[letter("binance:AAA:trade", offset), letter("binance:BBB:trade", offset)]);
        }
        assert_eq!((report.named.len(), report.unreported), (2, 998));
        assert!(report.newest.contains("BBB:trade at offset 499"), "{}", report.newest);
        tokio::time::advance(INTERVAL).await;
        report.summarize();
        assert_eq!((report.named.len(), report.unreported), (0, 0));
        for stream in 0..100 {
            report.letters(&[letter(&format!("binance:S{stream}:trade"), stream)]);
        }
        assert_eq!((report.named.len(), report.unreported), (LINES_MAX, 90), "many streams are not many lines");
    }

    #[test]
    fn an_outage_of_the_whole_exchange_replaces_those_of_its_streams_in_health() {
        let (mut report, health) = (LetterReport::default(), Health::default());
        report.outages(&[outage(Some("AAA"))], &health);
        assert!(health.degraded_parts()["binance:AAA:trade"].contains("p is a number"));
        report.outages(&[outage(None), outage(Some("AAA")), outage(Some("BBB"))], &health);
        assert_eq!(health.degraded_parts().into_keys().collect::<Vec<_>>(), ["binance"]);
        report.outages(&[outage(Some("BBB"))], &health);
        assert_eq!(health.degraded_parts().into_keys().collect::<Vec<_>>(), ["binance:BBB:trade"]);
        report.outages(&[], &health);
        assert!(health.degraded_parts().is_empty() && report.outages.is_empty());
    }
}
