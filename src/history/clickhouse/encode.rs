//! Encodes rows as RowBinaryWithNamesAndTypes. The server compares the names and types with its own, so it refuses rows
//! for a table that another program has changed, and never fills a column with the bytes of another.

use rust_decimal::Decimal;

use crate::gap::Gap;
use crate::history::trade_table::TradeTable;
use crate::history::{ConflictRow, DeadLetter, EpochRow, HistoryError, JobRun, KlineRow, TradeRow};
use crate::market::{DAY_US, Side, Timestamp, scaled};

/// The columns of a table: name and type.
pub(super) type Columns = &'static [(&'static str, &'static str)];

const TEXT: &str = "String";
const LOW_CARDINALITY: &str = "LowCardinality(String)";
const TIME: &str = "DateTime64(6, 'UTC')";
const TIME_OR_NULL: &str = "Nullable(DateTime64(6, 'UTC'))";
const DECIMAL: &str = "Decimal(38, 18)";

pub(super) const TRADES: Columns = &[
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("epoch", "UInt32"),
    ("trade_id", "UInt64"),
    ("ts", TIME),
    ("received_at", TIME),
    ("price", DECIMAL),
    ("quantity", DECIMAL),
    ("side", "Enum8('buy' = 1, 'sell' = 2)"),
    ("is_backfilled", "UInt8"),
    ("version", "UInt64"),
];
pub(super) const AGG_TRADES: Columns = &[
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("epoch", "UInt32"),
    ("agg_id", "UInt64"),
    ("ts", TIME),
    ("received_at", TIME),
    ("price", DECIMAL),
    ("quantity", DECIMAL),
    ("side", "Enum8('buy' = 1, 'sell' = 2)"),
    ("is_backfilled", "UInt8"),
    ("version", "UInt64"),
    ("first_trade_id", "Int64"),
    ("last_trade_id", "Int64"),
];
pub(super) const KLINES: Columns = &[
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("interval", LOW_CARDINALITY),
    ("open_time", TIME),
    ("close_time", TIME),
    ("open", DECIMAL),
    ("high", DECIMAL),
    ("low", DECIMAL),
    ("close", DECIMAL),
    ("volume", DECIMAL),
    ("quote_volume", DECIMAL),
    ("trade_count", "UInt64"),
    ("first_trade_id", "Int64"),
    ("last_trade_id", "Int64"),
    ("is_backfilled", "UInt8"),
    ("version", "UInt64"),
];
pub(super) const GAPS: Columns = &[
    ("gap_id", TEXT),
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("channel", LOW_CARDINALITY),
    ("first_missing", "Int64"),
    ("last_missing", "Int64"),
    ("from_ts", TIME_OR_NULL),
    ("to_ts", TIME_OR_NULL),
    ("state", LOW_CARDINALITY),
    ("detected_at", TIME),
    ("closed_at", TIME_OR_NULL),
    ("filled", "Int64"),
    ("attempts", "Int64"),
    ("reason", TEXT),
    ("version", "UInt64"),
    ("evidence", TEXT),
    ("filled_by", TEXT),
    ("filled_at", TIME_OR_NULL),
    ("epoch", "UInt32"),
];
pub(super) const EPOCHS: Columns = &[
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("epoch", "UInt32"),
    ("first_id", "UInt64"),
    ("began_at", TIME),
    ("reason", TEXT),
    ("channel", LOW_CARDINALITY),
];
pub(super) const CONFLICTS: Columns = &[
    ("exchange", LOW_CARDINALITY),
    ("symbol", LOW_CARDINALITY),
    ("channel", LOW_CARDINALITY),
    ("epoch", "UInt32"),
    ("position", "Int64"),
    ("stored", TEXT),
    ("arrived", TEXT),
    ("at", TIME),
    ("verdict", LOW_CARDINALITY),
];
pub(super) const DEAD_LETTERS: Columns = &[
    ("log_partition", "Int32"),
    ("log_offset", "Int64"),
    ("received_at", TIME),
    ("stream", LOW_CARDINALITY),
    ("reason", TEXT),
    ("payload", TEXT),
    ("id", TEXT),
    ("recorder", TEXT),
    ("source", LOW_CARDINALITY),
    ("content", "UInt64"),
];
pub(super) const JOB_RUNS: Columns = &[
    ("run_id", TEXT),
    ("job", LOW_CARDINALITY),
    ("trigger", LOW_CARDINALITY),
    ("scheduled_at", TIME),
    ("started_at", TIME_OR_NULL),
    ("finished_at", TIME_OR_NULL),
    ("attempt", "Int64"),
    ("outcome", LOW_CARDINALITY),
    ("reason", TEXT),
    ("window_from", TIME_OR_NULL),
    ("window_to", TIME_OR_NULL),
    ("report", TEXT),
    ("recorder", TEXT),
];

/// The tables that the recorder writes.
pub(super) const TABLES: &[(&str, Columns)] = &[
    ("trades", TRADES),
    ("agg_trades", AGG_TRADES),
    ("klines", KLINES),
    ("gaps", GAPS),
    ("epochs", EPOCHS),
    ("conflicts", CONFLICTS),
    ("dead_letters", DEAD_LETTERS),
    ("job_runs", JOB_RUNS),
];

/// The number of days of the type Date, which ends at 2149-06-06. Partitions use that type.
const DAYS_MAX: i64 = 65_535;
/// An upper bound of the size of a trade: two texts of 16 bytes each, and nine columns of at most 16 bytes.
const ROW_BYTES: usize = 116;

/// The names of the columns, separated by commas.
pub(super) fn names(columns: Columns) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

/// Encoded rows.
pub(super) struct Encoded(Vec<u8>);

impl Encoded {
    fn new(columns: Columns, rows: usize) -> Self {
        let mut bytes = Self(Vec::with_capacity(1_024 + rows * ROW_BYTES));
        bytes.length(columns.len());
        for (name, _) in columns {
            bytes.text(name);
        }
        for (_, kind) in columns {
            bytes.text(kind);
        }
        bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// LEB128.
    fn length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.0.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn int(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A number of an unsigned column.
    fn unsigned(&mut self, value: i64, what: &str) -> Result<(), HistoryError> {
        if value < 0 {
            return Err(HistoryError::Data(format!("{what} {value} is negative")));
        }
        self.int(value);
        Ok(())
    }

    fn epoch(&mut self, epoch: i64) -> Result<(), HistoryError> {
        let epoch = u32::try_from(epoch).map_err(|_| HistoryError::Data(format!("epoch {epoch} is no epoch")))?;
        self.0.extend_from_slice(&epoch.to_le_bytes());
        Ok(())
    }

    fn time(&mut self, at: Timestamp) {
        self.int(at.micros());
    }

    /// The time whose day is the row's partition.
    fn day_time(&mut self, at: Timestamp) -> Result<(), HistoryError> {
        if !(0..DAYS_MAX * DAY_US).contains(&at.micros()) {
            return Err(HistoryError::Data(format!("time {at} is outside 1970 to 2149")));
        }
        self.time(at);
        Ok(())
    }

    fn time_or_null(&mut self, at: Option<Timestamp>) {
        match at {
            Some(at) => {
                self.0.push(0);
                self.time(at);
            }
            None => self.0.push(1),
        }
    }

    fn decimal(&mut self, value: Decimal) -> Result<(), HistoryError> {
        let Some(scaled) = scaled(value) else {
            return Err(HistoryError::Data(format!("{value} does not fit Decimal(38, 18)")));
        };
        self.0.extend_from_slice(&scaled.to_le_bytes());
        Ok(())
    }
}

/// The columns of a table of trades.
pub(super) fn trade_columns(table: &TradeTable) -> Columns {
    if table.has_trade_ids() { AGG_TRADES } else { TRADES }
}

/// Encodes the trades of a table. Fails on the first one that the columns cannot hold.
pub(super) fn trades<'a>(
    table: &TradeTable,
    rows: impl Iterator<Item = &'a TradeRow>,
) -> Result<Encoded, HistoryError> {
    let mut to = Encoded::new(trade_columns(table), rows.size_hint().1.unwrap_or_default());
    for row in rows {
        to.text(row.exchange.as_str());
        to.text(row.symbol.as_str());
        to.epoch(row.epoch)?;
        to.unsigned(row.trade.id, "trade id")?;
        to.day_time(row.trade.ts)?;
        to.time(row.received_at);
        to.decimal(row.trade.price)?;
        to.decimal(row.trade.quantity)?;
        to.0.push(match row.trade.side {
            Side::Buy => 1,
            Side::Sell => 2,
        });
        to.0.push(u8::from(row.is_backfilled));
        to.int(row.version);
        if let Some((first, last)) = row.trade.trade_ids {
            to.int(first);
            to.int(last);
        }
    }
    Ok(to)
}

/// Encodes klines. Fails on the first one that the columns cannot hold.
pub(super) fn klines(rows: &[KlineRow]) -> Result<Encoded, HistoryError> {
    let mut to = Encoded::new(KLINES, rows.len());
    for row in rows {
        let kline = &row.kline;
        to.text(row.exchange.as_str());
        to.text(row.symbol.as_str());
        to.text(kline.interval.as_str());
        to.day_time(kline.open_time)?;
        to.time(kline.close_time);
        for value in [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume] {
            to.decimal(value)?;
        }
        to.unsigned(kline.trade_count, "trade count")?;
        to.int(kline.first_trade_id);
        to.int(kline.last_trade_id);
        to.0.push(u8::from(row.is_backfilled));
        to.int(row.version);
    }
    Ok(to)
}

/// Encodes gaps.
pub(super) fn gaps(gaps: &[Gap]) -> Result<Encoded, HistoryError> {
    let mut to = Encoded::new(GAPS, gaps.len());
    for gap in gaps {
        let evidence = serde_json::to_string(&gap.evidence)
            .map_err(|error| HistoryError::Data(format!("evidence of gap {}: {error}", gap.gap_id)))?;
        to.text(&gap.gap_id);
        to.text(gap.stream.exchange.as_str());
        to.text(gap.stream.symbol.as_str());
        to.text(gap.stream.channel.as_str());
        to.int(gap.range.first);
        to.int(gap.range.last);
        to.time_or_null(gap.from_ts);
        to.time_or_null(gap.to_ts);
        to.text(gap.state.as_str());
        to.time(gap.detected_at);
        to.time_or_null(gap.closed_at);
        to.int(gap.filled);
        to.int(gap.attempts);
        to.text(&gap.reason);
        to.unsigned(gap.version, "gap version")?;
        to.text(&evidence);
        to.text(&gap.filled_by);
        to.time_or_null(gap.filled_at);
        to.epoch(gap.epoch)?;
    }
    Ok(to)
}

/// Encodes epochs.
pub(super) fn epochs(rows: &[EpochRow]) -> Result<Encoded, HistoryError> {
    let mut to = Encoded::new(EPOCHS, rows.len());
    for row in rows {
        to.text(row.exchange.as_str());
        to.text(row.symbol.as_str());
        to.epoch(row.epoch)?;
        to.unsigned(row.first_id, "trade id")?;
        to.time(row.began_at);
        to.text(&row.reason);
        to.text(row.channel.as_str());
    }
    Ok(to)
}

/// Encodes conflicts.
pub(super) fn conflicts(rows: &[ConflictRow]) -> Result<Encoded, HistoryError> {
    let mut to = Encoded::new(CONFLICTS, rows.len());
    for row in rows {
        to.text(row.stream.exchange.as_str());
        to.text(row.stream.symbol.as_str());
        to.text(row.stream.channel.as_str());
        to.epoch(row.epoch)?;
        to.int(row.position);
        to.text(&row.stored);
        to.text(&row.arrived);
        to.time(row.at);
        to.text(row.verdict.as_str());
    }
    Ok(to)
}

/// Encodes dead letters.
pub(super) fn dead_letters(letters: &[DeadLetter]) -> Encoded {
    let mut to = Encoded::new(DEAD_LETTERS, letters.len());
    for letter in letters {
        to.0.extend_from_slice(&letter.partition.to_le_bytes());
        to.int(letter.offset);
        to.time(letter.received_at);
        to.text(&letter.stream);
        to.text(&letter.reason);
        to.bytes(&letter.payload);
        to.text(&letter.id);
        to.text(&letter.recorder);
        to.text(letter.source.as_str());
        to.0.extend_from_slice(&letter.content_hash().to_le_bytes());
    }
    to
}

/// Encodes the run of a job.
pub(super) fn job_run(run: &JobRun) -> Encoded {
    let mut to = Encoded::new(JOB_RUNS, 1);
    to.text(&run.run_id);
    to.text(&run.job);
    to.text(&run.trigger);
    to.int(run.scheduled_at);
    to.time_or_null(run.started_at.map(Timestamp));
    to.time_or_null(run.finished_at.map(Timestamp));
    to.int(run.attempt);
    to.text(&run.outcome);
    to.text(&run.reason);
    to.time_or_null(run.window.map(|window| Timestamp(window.0)));
    to.time_or_null(run.window.map(|window| Timestamp(window.1)));
    to.text(&run.report);
    to.text(&run.recorder);
    to
}
