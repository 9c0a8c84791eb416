//! Writes rows in the format that the user chose.

use anyhow::Context;

use crate::exit::{Failure, IO};
use crate::history::{KlineRow, TradeRow};
use crate::market::Channel;
use crate::parquet_file::{Cell, Columns, Options, ParquetFile};

use super::columns;
use super::csv::CsvFile;
use super::jsonl;
use super::target::Target;
use crate::cli::format::RowFormat;

/// Bytes of JSON lines in memory before they are written.
const TEXT_BYTES: usize = 1 << 20;
/// Rows per row group of a Parquet file.
pub const GROUP_ROWS: usize = 131_072;
/// What helps when Parquet cannot hold a value.
pub const REMEDY: &str = "export this range as csv or jsonl";

/// Writes rows; dropped before [`Sink::finish`] it leaves no file behind.
pub enum Sink {
    /// A CSV file.
    Csv(Box<CsvFile<Target>>),
    /// JSON lines.
    Jsonl(Lines),
    /// A Parquet file.
    Parquet(Box<ParquetFile<Target>>),
}

/// Lines of JSON.
pub struct Lines {
    columns: Columns,
    target: Target,
    text: String,
}

impl Sink {
    /// Begins the file.
    pub fn begin(format: RowFormat, target: Target, channel: Channel) -> Result<Self, Failure> {
        let columns = columns::of(channel);
        Ok(match format {
            RowFormat::Csv => Self::Csv(Box::new(CsvFile::begin(target, columns)?)),
            RowFormat::Jsonl => Self::Jsonl(Lines { columns, target, text: String::new() }),
            RowFormat::Parquet => {
                let sorted_by = match channel {
                    Channel::Trade => "trade_id",
                    Channel::AggTrade => "agg_id",
                    Channel::Kline(_) | Channel::BookTicker => "open_time",
                };
                let options = Options { sorted_by: &[sorted_by], group_rows: GROUP_ROWS, remedy: REMEDY };
                Self::Parquet(Box::new(ParquetFile::begin(target, columns, options)?))
            }
        })
    }

    /// Writes a trade.
    pub fn trade(&mut self, row: &TradeRow) -> Result<(), Failure> {
        match row.trade.trade_ids {
            None => self.put(&columns::trade(row)),
            Some(ids) => self.put(&columns::agg_trade(row, ids)),
        }
    }

    /// Writes a kline.
    pub fn kline(&mut self, row: &KlineRow) -> Result<(), Failure> {
        self.put(&columns::kline(row))
    }

    fn put(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        match self {
            Self::Csv(file) => file.put(cells),
            Self::Parquet(file) => file.put(cells),
            Self::Jsonl(lines) => {
                jsonl::push_row(&mut lines.text, lines.columns, cells);
                if lines.text.len() < TEXT_BYTES { Ok(()) } else { lines.write() }
            }
        }
    }

    /// Writes the rest, with this metadata where the format has a place for it, and gives the file its name.
    pub fn finish(self, metadata: &[(&str, String)]) -> Result<(), Failure> {
        let target = match self {
            Self::Csv(file) => file.finish()?,
            Self::Parquet(file) => file.finish(metadata)?,
            Self::Jsonl(mut lines) => {
                lines.write()?;
                lines.target
            }
        };
        target.finish().context("finish the file").map_err(|error| Failure::new(IO, error))
    }
}

impl Lines {
    fn write(&mut self) -> Result<(), Failure> {
        use std::io::Write as _;
        let written = self.target.write_all(self.text.as_bytes()).context("write the rows");
        self.text.clear();
        written.map_err(|error| Failure::new(IO, error))
    }
}
