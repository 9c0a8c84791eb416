//! The rows of history, and the batch that stores them together.

use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::gap::Gap;
use crate::log::Partition;
use crate::market::{Channel, Exchange, Kline, Stream, Symbol, Timestamp, Trade};

/// The revision of the decoders. Raise it when a decoder returns another result for the same bytes: the rows of a
/// replay then win over those of an older decoder.
const DECODER_REVISION: i64 = 1;
/// The `version` of a row that came over REST.
const VERSION_BACKFILLED: i64 = DECODER_REVISION * 2;
/// The `version` of a row that came over the socket. It wins over a backfilled copy.
const VERSION_LIVE: i64 = DECODER_REVISION * 2 + 1;

/// A stored trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeRow {
    /// The exchange.
    pub exchange: Exchange,
    /// The symbol.
    pub symbol: Symbol,
    /// The trade itself.
    pub trade: Trade,
    /// The receive time of its bytes.
    pub received_at: Timestamp,
    /// Whether backfill fetched it over REST.
    pub is_backfilled: bool,
    /// The numbering that its id belongs to: 0, or the number of an [`EpochRow`].
    pub epoch: i64,
    /// The copy with the highest version wins; see [`row_version`].
    pub version: i64,
}

impl TradeRow {
    /// The stream that it belongs to.
    pub fn stream(&self) -> Stream {
        Stream::new(self.exchange, self.symbol.clone(), self.trade.channel())
    }
}

/// The `version` of a late row of a numbering that ended: it never replaces a stored one, because the exchange can no
/// longer say which of two is right.
pub const VERSION_LATE: i64 = 1;

/// The version of a row: decoder revision x 2 + (1 if live, 0 if backfilled). The winner of a decided conflict has a
/// version above all earlier copies.
pub const fn row_version(is_backfilled: bool) -> i64 {
    if is_backfilled { VERSION_BACKFILLED } else { VERSION_LIVE }
}

/// A numbering of one stream of trades that began after another one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// The exchange.
    pub exchange: Exchange,
    /// The symbol.
    pub symbol: Symbol,
    /// `Trade` or `AggTrade`: each is numbered on its own.
    pub channel: Channel,
    /// Its number, from 1: the first numbering is epoch 0 and has no row.
    pub epoch: i64,
    /// The lowest id known of it.
    pub first_id: i64,
    /// The exchange's time of that trade.
    pub began_at: Timestamp,
    /// How the exchange showed it.
    pub reason: String,
}

impl EpochRow {
    /// The stream whose numbering it is.
    pub fn stream(&self) -> Stream {
        Stream::new(self.exchange, self.symbol.clone(), self.channel)
    }
}

/// Which content of a position history keeps as its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The exchange has not said yet; the stored one meanwhile.
    Pending,
    /// The one that was stored first.
    Stored,
    /// The one that arrived later.
    Arrived,
}

impl Verdict {
    /// `pending`, `stored` or `arrived`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Stored => "stored",
            Self::Arrived => "arrived",
        }
    }
}

impl FromStr for Verdict {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Pending, Self::Stored, Self::Arrived].into_iter().find(|verdict| verdict.as_str() == text).ok_or(())
    }
}

/// The content of a trade as JSON: what a copy of it has too.
pub fn trade_content(trade: &Trade) -> String {
    let mut content = serde_json::json!({
        "trade_id": trade.id,
        "ts": trade.ts.micros(),
        "price": trade.price.normalize().to_string(),
        "quantity": trade.quantity.normalize().to_string(),
        "side": trade.side.as_str(),
    });
    if let Some((first, last)) = trade.trade_ids {
        content = serde_json::json!({
            "agg_id": trade.id,
            "first_trade_id": first,
            "last_trade_id": last,
            "ts": content["ts"],
            "price": content["price"],
            "quantity": content["quantity"],
            "side": content["side"],
        });
    }
    content.to_string()
}

/// The content of a closed kline as JSON.
pub fn kline_content(kline: &Kline) -> String {
    let decimal = |value: rust_decimal::Decimal| value.normalize().to_string();
    serde_json::json!({
        "open_time": kline.open_time.micros(),
        "close_time": kline.close_time.micros(),
        "open": decimal(kline.open),
        "high": decimal(kline.high),
        "low": decimal(kline.low),
        "close": decimal(kline.close),
        "volume": decimal(kline.volume),
        "quote_volume": decimal(kline.quote_volume),
        "trade_count": kline.trade_count,
        "first_trade_id": kline.first_trade_id,
        "last_trade_id": kline.last_trade_id,
    })
    .to_string()
}

/// Whether two closed klines of one position have one content. A kline over REST has no trade ids (-1) where the
/// recorder could not count them.
pub fn same_kline(one: &Kline, other: &Kline) -> bool {
    let ids = |kline: &Kline| (kline.first_trade_id, kline.last_trade_id);
    let is_known = |kline: &Kline| kline.first_trade_id >= 0 || kline.trade_count == 0;
    let mut other_with_ids = *other;
    if !is_known(one) || !is_known(other) {
        (other_with_ids.first_trade_id, other_with_ids.last_trade_id) = ids(one);
    }
    *one == other_with_ids
}

/// One position with two contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictRow {
    /// The stream.
    pub stream: Stream,
    /// The numbering of the position.
    pub epoch: i64,
    /// The trade id, or the open time in microseconds.
    pub position: i64,
    /// The content that was stored first, as JSON.
    pub stored: String,
    /// The content that arrived later, as JSON.
    pub arrived: String,
    /// When it arrived, by our clock.
    pub at: Timestamp,
    /// Which one history keeps as the row.
    pub verdict: Verdict,
}

/// A stored kline; it is always closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KlineRow {
    /// The exchange.
    pub exchange: Exchange,
    /// The symbol.
    pub symbol: Symbol,
    /// The kline itself.
    pub kline: Kline,
    /// Whether backfill fetched it over REST.
    pub is_backfilled: bool,
    /// The copy with the highest version wins; see [`row_version`].
    pub version: i64,
}

/// Where the bytes of a dead letter come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LetterSource {
    /// A frame of the log. Its recorder, partition and offset identify it.
    Log,
    /// A row that came over REST. Its recorder, stream and content identify it; partition and offset are -1.
    Rest,
}

impl LetterSource {
    /// `log` or `rest`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rest => "rest",
        }
    }
}

impl FromStr for LetterSource {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Log, Self::Rest].into_iter().find(|source| source.as_str() == text).ok_or(())
    }
}

/// A frame that could not be decoded or stored, with its bytes and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// A UUIDv7; see [`DeadLetter::identify`].
    pub id: String,
    /// The `instance` of the recorder that stored it.
    pub recorder: Arc<str>,
    /// Where its bytes come from.
    pub source: LetterSource,
    /// Its partition in the log.
    pub partition: Partition,
    /// Its offset in that partition.
    pub offset: i64,
    /// The receive time of its bytes.
    pub received_at: Timestamp,
    /// The stream if it is known, else the key of the frame.
    pub stream: Arc<str>,
    /// Why the frame could not be decoded or stored.
    pub reason: String,
    /// The bytes as received.
    pub payload: Bytes,
}

impl DeadLetter {
    /// A letter of a row that came over REST. It has no place in the log.
    pub fn of_rest(stream: &str, reason: String, payload: Bytes, received_at: Timestamp) -> Self {
        Self {
            id: String::new(),
            recorder: Arc::from(""),
            source: LetterSource::Rest,
            partition: -1,
            offset: -1,
            received_at,
            stream: stream.into(),
            reason,
            payload,
        }
    }

    /// Sets the recorder, and the id from the receive time and from what identifies the letter. So a letter of the log that
    /// is stored again keeps its id.
    pub fn identify(&mut self, recorder: &Arc<str>) {
        self.recorder = recorder.clone();
        let millis = u64::try_from(self.received_at.millis()).unwrap_or(0);
        let hash = self.identity_hash().to_be_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        self.id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string();
    }

    /// A hash of what identifies the letter.
    fn identity_hash(&self) -> u128 {
        let place = match self.source {
            LetterSource::Log => format!("{}:{}", self.partition, self.offset),
            LetterSource::Rest => self.stream.to_string(),
        };
        let content: &[u8] = match self.source {
            LetterSource::Log => &[],
            LetterSource::Rest => &self.payload,
        };
        fnv([self.recorder.as_bytes(), self.source.as_str().as_bytes(), place.as_bytes(), content])
    }

    /// What tells two letters over REST apart, 0 for a letter of the log: a part of the key in stores that cannot have
    /// the content itself as one.
    pub fn content_hash(&self) -> u64 {
        match self.source {
            LetterSource::Log => 0,
            LetterSource::Rest => self.identity_hash() as u64,
        }
    }
}

/// FNV-1a: the same in every version of the program.
fn fnv<const N: usize>(parts: [&[u8]; N]) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        // 255 is in no UTF-8 text, so that it ends a part.
        for byte in part.iter().chain(&[255]) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}

/// A run of a job, as `jobs history` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobRun {
    /// A UUIDv7.
    pub run_id: String,
    /// The name of the job in `jobs.toml`.
    pub job: String,
    /// `schedule`, `catch-up`, `manual`, `retry` or `event`.
    pub trigger: String,
    /// The scheduled start, in microseconds since 1970 UTC.
    pub scheduled_at: i64,
    /// The start, in microseconds since 1970 UTC; null if it did not start.
    pub started_at: Option<i64>,
    /// The end, in microseconds since 1970 UTC; null while it runs.
    pub finished_at: Option<i64>,
    /// The number of the attempt, from 1.
    pub attempt: i64,
    /// `running`, `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `deferred`.
    pub outcome: String,
    /// The reason if it did not succeed, else empty.
    pub reason: String,
    /// The time window `[from, to)` of the run in microseconds since 1970 UTC, if the job has one.
    pub window: Option<(i64, i64)>,
    /// The report of the task, as JSON.
    pub report: String,
    /// The `instance` of the recorder that ran it.
    #[serde(default)]
    pub recorder: String,
}

impl JobRun {
    /// The delay of the start after the scheduled time, in microseconds; `None` if it did not start.
    pub fn lateness_us(&self) -> Option<i64> {
        Some((self.started_at? - self.scheduled_at).max(0))
    }
}

/// Rows that one insert stores.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// New numberings; they are stored first, so that no row of one is stored without it.
    pub epochs: Vec<EpochRow>,
    /// New or changed gaps; they are stored before the rows (promise 3).
    pub gaps: Vec<Gap>,
    /// Trades and aggregate trades.
    pub trades: Vec<TradeRow>,
    /// Closed klines.
    pub klines: Vec<KlineRow>,
    /// Positions with two contents.
    pub conflicts: Vec<ConflictRow>,
    /// Frames that could not be decoded or stored.
    pub dead_letters: Vec<DeadLetter>,
    /// Identifies the batch for stores that deduplicate repeated inserts: batches with one token have the same rows.
    pub token: String,
}

impl Batch {
    /// A batch of gaps alone.
    pub fn of_gaps(gaps: &[Gap], token: &str) -> Self {
        Self { gaps: gaps.to_vec(), token: token.to_owned(), ..Self::default() }
    }

    /// Whether it contains no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// The number of rows of all kinds.
    pub fn rows(&self) -> usize {
        self.epochs.len()
            + self.gaps.len()
            + self.trades.len()
            + self.klines.len()
            + self.conflicts.len()
            + self.dead_letters.len()
    }
}

/// The number of stored positions of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of stored positions.
    pub present: i64,
    /// The number of those that came over REST.
    pub backfilled: i64,
}

/// The stored rows of one stream and UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverageDay {
    /// The day, in days since 1970 UTC.
    pub day: i64,
    /// First stored position of the day.
    pub first: i64,
    /// Last stored position of the day.
    pub last: i64,
    /// The number of stored positions.
    pub present: i64,
    /// The number of those that came over REST.
    pub backfilled: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(recorder: &str, source: LetterSource, offset: i64, payload: &'static [u8]) -> DeadLetter {
        let at = Timestamp(1_790_000_000_123_456);
        let letter = DeadLetter::of_rest("binance:BTCUSDT:trade", String::new(), Bytes::from_static(payload), at);
        let mut letter = DeadLetter { source, partition: 0, offset, ..letter };
        letter.identify(&recorder.into());
        letter
    }

    #[test]
    fn the_id_of_a_letter_is_a_uuid_of_its_time_and_of_what_identifies_it() {
        let first = letter("north", LetterSource::Log, 7, b"a");
        let id: uuid::Uuid = first.id.parse().unwrap();
        assert_eq!(
            (id.get_version_num(), first.id.as_str()),
            (7, letter("north", LetterSource::Log, 7, b"b").id.as_str())
        );
        assert_eq!(id.get_timestamp().unwrap().to_unix().0, 1_790_000_000);
        assert_ne!(first.id, letter("south", LetterSource::Log, 7, b"a").id);
        assert_ne!(first.id, letter("north", LetterSource::Log, 8, b"a").id);
        let rest = letter("north", LetterSource::Rest, -1, b"a");
        assert_ne!(rest.id, letter("north", LetterSource::Rest, -1, b"b").id);
        assert_eq!((first.content_hash(), rest.content_hash() == 0), (0, false));
    }
}
