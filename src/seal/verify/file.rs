//! The Parquet file of a revision: its hash, the statement that it holds, and its rows, counted anew.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use parquet::basic::{Compression, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;
use ring::digest;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::super::logical_hash::{LogicalHash, hex};
use super::super::rows::{self, Row, Scales};
use super::super::{Day, GROUP_ROWS, Manifest, RANGES_MAX, names};
use super::Watch;
use crate::gap::{Range, RangeSet};
use crate::history::{KlineRow, TradeRow};
use crate::market::{Channel, Exchange, Interval, Kline, Symbol, Timestamp, Trade, unscaled_from};
use crate::parquet_file::{DECIMAL_BYTES, Kind};

/// Bytes hashed at a time.
const HASH_BYTES: usize = 1 << 20;
/// Rows decoded at a time.
const BATCH: usize = 8_192;
/// The largest column of a row group, uncompressed: 16 bytes a row are 2 MiB.
const COLUMN_BYTES_MAX: i64 = 64 << 20;
/// Positions beyond this are no ids; sums of those within it do not overflow.
pub const POSITION_MAX: i64 = 1 << 61;
/// Most problems of rows that are named.
const PROBLEMS_MAX: usize = 20;

thread_local! {
    static IS_READING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics of the Parquet reader, which damaged files cause and which are caught, from being printed.
pub fn quiet_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IS_READING.get() {
            print(panic);
        }
    }));
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Its size and SHA-256; `None` when it cannot be read.
    pub bytes: Option<(u64, String)>,
    /// The statement in its metadata.
    pub statement: Option<Map<String, Value>>,
    /// Its rows, counted; `None` when they cannot be decoded.
    pub totals: Option<Totals>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// The rows of one numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochTotals {
    /// Its number.
    pub epoch: i64,
    /// Its first position.
    pub first: i64,
    /// Its last position.
    pub last: i64,
    /// Its rows.
    pub rows: u64,
    /// Of these, how many were backfilled.
    pub backfilled: i64,
}

/// The rows of a file.
#[derive(Debug)]
pub struct Totals {
    /// How many.
    pub rows: u64,
    /// Their hash.
    pub hash: LogicalHash,
    /// By numbering, oldest first.
    pub epochs: Vec<EpochTotals>,
    /// The positions without a row between the first and the last of the newest numbering.
    pub absent: RangeSet,
    absent_ranges: usize,
    scales: Scales,
    line: String,
}

/// Reads a file. An error means that `watch` ended the run.
pub fn read(path: &Path, manifest: &Manifest, watch: &dyn Watch) -> io::Result<Content> {
    let mut content = Content::default();
    match hash(path, watch) {
        Ok(found) => content.bytes = Some(found),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
        Err(error) => {
            content.problems.push(format!("cannot be read: {error}"));
            return Ok(content);
        }
    }
    let Some(stream) = Stream::of(manifest) else { return Ok(content) };
    IS_READING.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(path, &stream, &mut content, watch)));
    IS_READING.set(false);
    match decoded {
        Ok(Ok(())) => {}
        Ok(Err(_)) if watch.is_cancelled() => return Err(io::ErrorKind::Interrupted.into()),
        Ok(Err(error)) => content.problems.push(format!("its rows cannot be read: {error:#}")),
        Err(_panic) => content.problems.push("its rows cannot be read: the file is damaged".to_owned()),
    }
    Ok(content)
}

/// The size and the SHA-256 of a file.
fn hash(path: &Path, watch: &dyn Watch) -> io::Result<(u64, String)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let (mut file, mut buffer) = (File::open(path)?, vec![0; HASH_BYTES]);
    let (mut context, mut bytes) = (digest::Context::new(&digest::SHA256), 0);
    loop {
        if watch.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(context.finish().as_ref()))),
            Ok(read) => {
                context.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the manifest says that the rows belong to.
struct Stream {
    exchange: Exchange,
    symbol: Symbol,
    channel: Channel,
    day: Day,
}

impl Stream {
    fn of(manifest: &Manifest) -> Option<Self> {
        Some(Self {
            exchange: manifest.exchange.parse().ok()?,
            symbol: Symbol::new(&manifest.symbol),
            channel: names::channel(&manifest.channel)?,
            day: Day::parse(&manifest.date)?,
        })
    }
}

fn decode(path: &Path, stream: &Stream, content: &mut Content, watch: &dyn Watch) -> anyhow::Result<()> {
    let reader = SerializedFileReader::new(File::open(path)?).context("read the footer")?;
    let metadata = reader.metadata();
    content.statement = statement(metadata);
    let scales = schema(metadata, stream.channel)?;
    groups(metadata)?;
    let step = stream.channel.step().context("the channel has no positions")?;
    let mut totals = Totals {
        rows: 0,
        hash: LogicalHash::default(),
        epochs: Vec::new(),
        absent: RangeSet::new(step),
        absent_ranges: 0,
        scales: Scales::default(),
        line: String::new(),
    };
    let kinds = rows::columns(stream.channel, &scales);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).context("open a row group")?;
        read_group(&*group, &kinds, stream, &mut totals, &mut content.problems, watch)?;
    }
    if totals.scales != scales {
        let words = "the scale of a column is not the smallest that holds the day exactly".to_owned();
        content.problems.push(words);
    }
    content.totals = Some(totals);
    Ok(())
}

/// The statement in the file's metadata.
fn statement(metadata: &ParquetMetaData) -> Option<Map<String, Value>> {
    let mut entries = metadata.file_metadata().key_value_metadata()?.iter();
    let text = entries.find(|entry| entry.key == "tapekeeper.manifest")?.value.as_ref()?;
    serde_json::from_str(text).ok()
}

/// Compares the columns with those of a sealed file; returns the scales of the decimals.
fn schema(metadata: &ParquetMetaData, channel: Channel) -> anyhow::Result<Scales> {
    let found = metadata.file_metadata().schema_descr().columns();
    let columns = rows::columns(channel, &Scales::default());
    let (mut scales, mut decimals) = ([0; 6], 0);
    for (at, (name, kind)) in columns.iter().enumerate() {
        let Some(column) = found.get(at) else { bail!("column {name} is missing") };
        ensure!(column.path().parts() == [*name], "column {} is {}, not {name}", at + 1, column.path());
        let is_required = column.max_def_level() == 0 && column.max_rep_level() == 0;
        ensure!(is_required && is_of_kind(column, *kind), "column {name} has another type");
        if let Kind::Decimal(_) = kind {
            scales[decimals] =
                u8::try_from(column.type_scale()).ok().filter(|scale| *scale <= 38).context("a scale")?;
            decimals += 1;
        }
    }
    ensure!(found.len() == columns.len(), "it has {} columns, not {}", found.len(), columns.len());
    Ok(Scales::new(scales))
}

fn is_of_kind(column: &ColumnDescriptor, kind: Kind) -> bool {
    let (physical, logical) = (column.physical_type(), column.logical_type_ref());
    match kind {
        Kind::Text => physical == PhysicalType::BYTE_ARRAY && logical == Some(&LogicalType::String),
        Kind::Integer => physical == PhysicalType::INT64 && logical.is_none(),
        Kind::Timestamp => {
            let expected = LogicalType::timestamp(true, TimeUnit::MICROS);
            physical == PhysicalType::INT64 && logical == Some(&expected)
        }
        Kind::Decimal(_) => {
            let is_exact = column.type_precision() == 38 && matches!(logical, Some(LogicalType::Decimal(_)));
            let bytes = i32::try_from(DECIMAL_BYTES).expect("a decimal is small");
            physical == PhysicalType::FIXED_LEN_BYTE_ARRAY && is_exact && column.type_length() == bytes
        }
        Kind::Boolean => physical == PhysicalType::BOOLEAN && logical.is_none(),
    }
}

/// Checks sizes before anything is decoded.
fn groups(metadata: &ParquetMetaData) -> anyhow::Result<()> {
    let last = metadata.num_row_groups().saturating_sub(1);
    for (at, group) in metadata.row_groups().iter().enumerate() {
        let (rows, full) = (group.num_rows(), GROUP_ROWS as i64);
        let is_usual = if at == last { (1..=full).contains(&rows) } else { rows == full };
        ensure!(is_usual, "row group {at} has {rows} rows; all but the last have {full}");
        for column in group.columns() {
            let name = column.column_path();
            let is_zstd = matches!(column.compression(), Compression::ZSTD(_));
            ensure!(is_zstd, "column {name} is compressed with {}, not ZSTD", column.compression());
            let bytes = column.uncompressed_size();
            ensure!((0..=COLUMN_BYTES_MAX).contains(&bytes), "column {name} of row group {at} has {bytes} bytes");
            ensure!(column.num_values() == rows, "column {name} of row group {at} has another number of rows");
        }
    }
    Ok(())
}

/// The values of a column in a batch.
enum Values {
    Long(Vec<i64>),
    Text(Vec<ByteArray>),
    Decimal(u32, Vec<FixedLenByteArray>),
    Boolean(Vec<bool>),
}

impl Values {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text(Vec::new()),
            Kind::Integer | Kind::Timestamp => Self::Long(Vec::new()),
            Kind::Decimal(scale) => Self::Decimal(u32::from(scale), Vec::new()),
            Kind::Boolean => Self::Boolean(Vec::new()),
        }
    }

    /// Replaces the values with the next ones of the column; returns how many there are.
    fn read(&mut self, column: &mut ColumnReader, rows: usize) -> anyhow::Result<usize> {
        fn next<T: DataType>(
            column: &mut ColumnReaderImpl<T>,
            rows: usize,
            values: &mut Vec<T::T>,
        ) -> anyhow::Result<usize> {
            values.clear();
            column.read_records(rows, None, None, values)?;
            Ok(values.len())
        }
        match (self, column) {
            (Self::Long(values), ColumnReader::Int64ColumnReader(column)) => next(column, rows, values),
            (Self::Text(values), ColumnReader::ByteArrayColumnReader(column)) => next(column, rows, values),
            (Self::Boolean(values), ColumnReader::BoolColumnReader(column)) => next(column, rows, values),
            (Self::Decimal(_, values), ColumnReader::FixedLenByteArrayColumnReader(column)) => {
                next(column, rows, values)
            }
            _ => bail!("a column has another type"),
        }
    }

    fn long(&self, row: usize) -> anyhow::Result<i64> {
        match self {
            Self::Long(values) => values.get(row).copied().context("a value is missing"),
            _ => bail!("a column has another type"),
        }
    }

    fn time(&self, row: usize) -> anyhow::Result<Timestamp> {
        self.long(row).map(Timestamp)
    }

    fn text(&self, row: usize) -> anyhow::Result<&str> {
        match self {
            Self::Text(values) => Ok(std::str::from_utf8(values.get(row).context("a value is missing")?.data())?),
            _ => bail!("a column has another type"),
        }
    }

    fn boolean(&self, row: usize) -> anyhow::Result<bool> {
        match self {
            Self::Boolean(values) => values.get(row).copied().context("a value is missing"),
            _ => bail!("a column has another type"),
        }
    }

    fn decimal(&self, row: usize) -> anyhow::Result<Decimal> {
        let Self::Decimal(scale, values) = self else { bail!("a column has another type") };
        let bytes = values.get(row).context("a value is missing")?.data();
        let scaled = i128::from_be_bytes(bytes.try_into().context("a decimal has another length")?);
        unscaled_from(scaled, *scale).with_context(|| format!("{scaled} with scale {scale} is out of range"))
    }
}

fn read_group(
    group: &dyn RowGroupReader,
    kinds: &[(&'static str, Kind)],
    stream: &Stream,
    totals: &mut Totals,
    problems: &mut Vec<String>,
    watch: &dyn Watch,
) -> anyhow::Result<()> {
    let mut readers = Vec::new();
    for at in 0..kinds.len() {
        readers.push(group.get_column_reader(at).context("open a column")?);
    }
    let mut values: Vec<Values> = kinds.iter().map(|(_, kind)| Values::new(*kind)).collect();
    let mut rest = usize::try_from(group.metadata().num_rows()).context("a number of rows")?;
    while rest > 0 {
        ensure!(!watch.is_cancelled(), "interrupted");
        let batch = rest.min(BATCH);
        for ((reader, values), (name, _)) in readers.iter_mut().zip(&mut values).zip(kinds) {
            let read = values.read(reader, batch).with_context(|| format!("decode column {name}"))?;
            ensure!(read == batch, "column {name} has fewer values than rows");
        }
        for row in 0..batch {
            let problem = match stream.channel {
                Channel::Kline(interval) => {
                    let row = kline(&values, row, stream, interval)?;
                    totals.row(Row::Kline(&row), stream)
                }
                channel => {
                    let row = trade(&values, row, stream, channel)?;
                    totals.row(Row::Trade(&row), stream)
                }
            };
            if let Err(problem) = problem
                && problems.len() < PROBLEMS_MAX
            {
                problems.push(format!("row {}: {problem:#}", totals.rows));
            }
        }
        watch.rows(batch as u64);
        rest -= batch;
    }
    Ok(())
}

fn trade(values: &[Values], row: usize, stream: &Stream, channel: Channel) -> anyhow::Result<TradeRow> {
    let [epoch, id, ts, received_at, price, quantity, side, rest @ ..] = values else { bail!("columns are missing") };
    let (ids, rest) = match (channel, rest) {
        (Channel::AggTrade, [first, last, rest @ ..]) => (Some((first.long(row)?, last.long(row)?)), rest),
        (_, rest) => (None, rest),
    };
    let [backfilled, version] = rest else { bail!("columns are missing") };
    let side = side.text(row)?;
    let trade = Trade {
        id: id.long(row)?,
        ts: ts.time(row)?,
        price: price.decimal(row)?,
        quantity: quantity.decimal(row)?,
        side: side.parse().map_err(|()| anyhow!("{side:?} is not a side"))?,
        trade_ids: ids,
    };
    Ok(TradeRow {
        exchange: stream.exchange,
        symbol: stream.symbol.clone(),
        trade,
        received_at: received_at.time(row)?,
        is_backfilled: backfilled.boolean(row)?,
        epoch: epoch.long(row)?,
        version: version.long(row)?,
    })
}

fn kline(values: &[Values], row: usize, stream: &Stream, interval: Interval) -> anyhow::Result<KlineRow> {
    let [name, open_time, close_time, open, high, low, close, volume, quote_volume, rest @ ..] = values else {
        bail!("columns are missing")
    };
    let [trade_count, first, last, backfilled, version] = rest else { bail!("columns are missing") };
    let name = name.text(row)?;
    ensure!(name == interval.as_str(), "the interval is {name:?}, not {interval}");
    let kline = Kline {
        interval,
        open_time: open_time.time(row)?,
        close_time: close_time.time(row)?,
        open: open.decimal(row)?,
        high: high.decimal(row)?,
        low: low.decimal(row)?,
        close: close.decimal(row)?,
        volume: volume.decimal(row)?,
        quote_volume: quote_volume.decimal(row)?,
        trade_count: trade_count.long(row)?,
        first_trade_id: first.long(row)?,
        last_trade_id: last.long(row)?,
        closed: true,
    };
    Ok(KlineRow {
        exchange: stream.exchange,
        symbol: stream.symbol.clone(),
        kline,
        is_backfilled: backfilled.boolean(row)?,
        version: version.long(row)?,
    })
}

impl Totals {
    /// Counts a row; an error says what is wrong with it.
    fn row(&mut self, row: Row<'_>, stream: &Stream) -> anyhow::Result<()> {
        self.rows += 1;
        self.scales.widen(row);
        row.write_line(&mut self.line);
        self.hash.add(&self.line);
        let (epoch, position) = (row.epoch(), row.position());
        let step = stream.channel.step().unwrap_or(1);
        ensure!((-POSITION_MAX..=POSITION_MAX).contains(&position), "position {position} is out of range");
        let backfilled = i64::from(row.is_backfilled());
        match self.epochs.last_mut() {
            Some(last) if last.epoch == epoch => {
                ensure!(position > last.last, "position {position} is not above the one before");
                if let Some(absent) = Range::new(last.last + step, position - step) {
                    ensure!(self.absent_ranges < RANGES_MAX, "too many ranges are absent");
                    self.absent_ranges += 1;
                    self.absent.insert(absent);
                }
                (last.last, last.rows, last.backfilled) = (position, last.rows + 1, last.backfilled + backfilled);
            }
            Some(last) if last.epoch > epoch => bail!("epoch {epoch} is below the one before"),
            _ => {
                self.epochs.push(EpochTotals { epoch, first: position, last: position, rows: 1, backfilled });
                self.absent = RangeSet::new(step);
            }
        }
        ensure!(stream.day.contains(row.ts()), "its time {} is of another day", row.ts());
        if let Channel::Kline(_) = stream.channel {
            ensure!(position % step == 0, "its open time is no multiple of the interval");
        }
        Ok(())
    }
}
