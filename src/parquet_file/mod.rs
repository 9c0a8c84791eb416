//! Rows as a Parquet file, in row groups of bounded size. It knows no channel: `export` and [`crate::seal`] say what the
//! columns are.
//!
//! pandas, polars and ClickHouse recognise the types by themselves: exact decimals, times in UTC. The key-value
//! metadata (`tapekeeper.*`) states the range of the file and whether it is complete.

mod cell;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use crate::exit::{DATA, Failure, IO};
use crate::market::{plain, scaled_to};

pub use cell::{Cell, Columns, Kind};

/// Values that the encoder receives at a time.
const CHUNK: usize = 8_192;
/// Bytes of a decimal of 38 digits.
pub const DECIMAL_BYTES: usize = 16;

/// How a file is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The ascending columns, the most significant first.
    pub sorted_by: &'a [&'a str],
    /// Rows per row group. The writer holds one group in memory, about 100 bytes per row, and a reader reads whole groups.
    pub group_rows: usize,
    /// What the user can do when a value does not fit its column.
    pub remedy: &'static str,
}

/// A file that is being written.
pub struct ParquetFile<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<(&'static str, Kind)>,
    /// The rows of the current group, column by column.
    buffers: Vec<ColumnBuffer>,
    rows: usize,
    group_rows: usize,
    remedy: &'static str,
}

/// Values of one column in the current group.
enum ColumnBuffer {
    /// The distinct values, and the index of the value of each row.
    Dictionary(Vec<ByteArray>, Vec<u32>),
    Integers(Vec<i64>),
    /// With the digits behind the point.
    Decimals(u8, Vec<i128>),
    Booleans(Vec<bool>),
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file with these columns.
    pub fn begin(target: W, columns: &[(&'static str, Kind)], options: Options<'_>) -> Result<Self, Failure> {
        let schema = parse_message_type(&schema(columns)).context("make the schema")?;
        let properties = Arc::new(properties(columns, options.sorted_by)?);
        let writer = SerializedFileWriter::new(target, Arc::new(schema), properties).context("begin the file");
        let writer = writer.map_err(|error| Failure::new(IO, error))?;
        let buffers = columns.iter().map(|(_, kind)| ColumnBuffer::new(*kind)).collect();
        let Options { group_rows, remedy, .. } = options;
        Ok(Self { writer, columns: columns.to_vec(), buffers, rows: 0, group_rows, remedy })
    }

    /// Adds a row.
    pub fn put(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        for ((buffer, cell), (name, _)) in self.buffers.iter_mut().zip(cells).zip(&self.columns) {
            buffer.push(*cell).map_err(|value| does_not_fit(cells, (name, buffer.scale()), &value, self.remedy))?;
        }
        self.rows += 1;
        if self.rows == self.group_rows {
            self.write_group().context("write a row group").map_err(|error| Failure::new(IO, error))?;
        }
        Ok(())
    }

    /// Writes the rest and the footer with this metadata; returns the target.
    pub fn finish(mut self, metadata: &[(&str, String)]) -> Result<W, Failure> {
        self.end(metadata).and_then(|()| self.writer.into_inner().context("write the footer")).map_err(|error| {
            // The error of the target is the root cause.
            Failure::new(IO, error)
        })
    }

    fn end(&mut self, metadata: &[(&str, String)]) -> anyhow::Result<()> {
        if self.rows > 0 {
            self.write_group().context("write the last row group")?;
        }
        for (name, value) in metadata {
            let entry = KeyValue { key: format!("tapekeeper.{name}"), value: Some(value.clone()) };
            self.writer.append_key_value_metadata(entry);
        }
        Ok(())
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        let mut group = self.writer.next_row_group()?;
        for buffer in &mut self.buffers {
            let mut column = group.next_column()?.context("the schema has fewer columns than a row")?;
            buffer.write(&mut column)?;
            column.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl ColumnBuffer {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Dictionary(Vec::new(), Vec::new()),
            Kind::Integer | Kind::Timestamp => Self::Integers(Vec::new()),
            Kind::Decimal(scale) => Self::Decimals(scale, Vec::new()),
            Kind::Boolean => Self::Booleans(Vec::new()),
        }
    }

    /// The digits behind the point of a column of decimals.
    fn scale(&self) -> u8 {
        if let Self::Decimals(scale, _) = self { *scale } else { 0 }
    }

    /// Adds a value; returns its text when the column cannot hold it.
    fn push(&mut self, cell: Cell<'_>) -> Result<(), String> {
        match (self, cell) {
            (Self::Dictionary(words, rows), Cell::Text(word)) => {
                // A stream has one symbol and two sides: the search is short.
                let at = words.iter().position(|known| known.data() == word.as_bytes()).unwrap_or_else(|| {
                    words.push(ByteArray::from(word));
                    words.len() - 1
                });
                rows.push(u32::try_from(at).expect("a row group has fewer words than rows"));
            }
            (Self::Integers(numbers), Cell::Integer(number)) => numbers.push(number),
            (Self::Integers(numbers), Cell::Timestamp(at)) => numbers.push(at.micros()),
            (Self::Decimals(scale, decimals), Cell::Decimal(value)) => {
                decimals.push(scaled_to(value, u32::from(*scale)).ok_or_else(|| plain(value))?);
            }
            (Self::Booleans(flags), Cell::Boolean(flag)) => flags.push(flag),
            (_, cell) => return Err(format!("{cell:?}")),
        }
        Ok(())
    }

    /// Writes the values and empties the buffer.
    fn write(&mut self, column: &mut SerializedColumnWriter<'_>) -> parquet::errors::Result<()> {
        match self {
            Self::Dictionary(words, rows) => {
                let column = column.typed::<ByteArrayType>();
                for chunk in rows.chunks(CHUNK) {
                    let values: Vec<ByteArray> = chunk.iter().map(|at| words[*at as usize].clone()).collect();
                    column.write_batch(&values, None, None)?;
                }
                rows.clear();
            }
            Self::Integers(numbers) => {
                column.typed::<Int64Type>().write_batch(numbers, None, None)?;
                numbers.clear();
            }
            Self::Decimals(_, decimals) => {
                let column = column.typed::<FixedLenByteArrayType>();
                // The writer keeps minimum and maximum of every row group until the end of the file. A slice of a chunk
                // would keep the whole chunk in memory.
                let own = |value: Option<&i128>| value.map(|value| fixed(Bytes::copy_from_slice(&value.to_be_bytes())));
                let (least, greatest) = (own(decimals.iter().min()), own(decimals.iter().max()));
                for chunk in decimals.chunks(CHUNK) {
                    let bytes: Bytes = chunk.iter().flat_map(|value| value.to_be_bytes()).collect();
                    let value = |at: usize| fixed(bytes.slice(at * DECIMAL_BYTES..(at + 1) * DECIMAL_BYTES));
                    let values: Vec<FixedLenByteArray> = (0..chunk.len()).map(value).collect();
                    column.write_batch_with_statistics(&values, None, None, least.as_ref(), greatest.as_ref(), None)?;
                }
                decimals.clear();
            }
            Self::Booleans(flags) => {
                column.typed::<BoolType>().write_batch(flags, None, None)?;
                flags.clear();
            }
        }
        Ok(())
    }
}

fn fixed(bytes: Bytes) -> FixedLenByteArray {
    FixedLenByteArray::from(ByteArray::from(bytes))
}

/// The error of a value that a column cannot hold. Rounding it would change the data.
fn does_not_fit(cells: &[Cell<'_>], (name, scale): (&str, u8), value: &str, remedy: &str) -> Failure {
    let position = cells.iter().find_map(|cell| if let Cell::Integer(number) = cell { Some(*number) } else { None });
    let position = position.unwrap_or_default();
    let whole = 38 - scale;
    let why = anyhow!(
        "row {position}: {name} {value} does not fit Parquet's DECIMAL(38,{scale}), which has {whole} digits before the \
         point and {scale} behind it: {remedy}"
    );
    Failure::new(DATA, why)
}

/// The schema in Parquet's notation.
fn schema(columns: &[(&str, Kind)]) -> String {
    let column = |(name, kind): &(&str, Kind)| match kind {
        // Not ENUM: pyarrow reads that as bytes.
        Kind::Text => format!("REQUIRED BYTE_ARRAY {name} (STRING);"),
        Kind::Integer => format!("REQUIRED INT64 {name};"),
        Kind::Timestamp => format!("REQUIRED INT64 {name} (TIMESTAMP(MICROS,true));"),
        Kind::Decimal(scale) => {
            format!("REQUIRED FIXED_LEN_BYTE_ARRAY ({DECIMAL_BYTES}) {name} (DECIMAL(38,{scale}));")
        }
        Kind::Boolean => format!("REQUIRED BOOLEAN {name};"),
    };
    format!("message rows {{ {} }}", columns.iter().map(column).collect::<Vec<_>>().join(" "))
}

fn properties(columns: &[(&str, Kind)], sorted_by: &[&str]) -> anyhow::Result<WriterProperties> {
    let mut sorting = Vec::new();
    for ascending in sorted_by {
        let at = columns.iter().position(|(name, _)| name == ascending).context("no such column")?;
        sorting.push(SortingColumn { column_idx: i32::try_from(at)?, descending: false, nulls_first: false });
    }
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        // Enough for a reader to skip a row group. Statistics per page would stay in memory until the end of the file.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_sorting_columns(Some(sorting));
    for (name, kind) in columns {
        if matches!(kind, Kind::Integer | Kind::Timestamp) {
            // Ids and times ascend, so their differences take one or two bytes.
            let path = ColumnPath::from(*name);
            properties = properties.set_column_dictionary_enabled(path.clone(), false);
            properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}
