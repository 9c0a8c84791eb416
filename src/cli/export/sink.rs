//! Rows on their way out, in the form that was asked for.

use anyhow::Context;

use crate::exit::{Failure, IO};
use crate::history::{KlineRow, TradeRow};
use crate::market::Channel;

use super::columns::{self, Cell, Columns};
use super::parquet::ParquetFile;
use super::target::Target;
use super::text::{self, TextFormat};
use crate::cli::format::RowFormat;

/// Bytes of text gathered before they are written.
const TEXT_BYTES: usize = 1 << 20;

/// Takes rows; dropped before [`Sink::finish`] it leaves no file behind.
pub enum Sink {
    /// Lines.
    Text(Lines),
    /// A Parquet file.
    Parquet(Box<ParquetFile<Target>>),
}

/// Lines of text.
pub struct Lines {
    columns: Columns,
    format: TextFormat,
    target: Target,
    text: String,
}

impl Sink {
    /// Begins with whatever stands before the first row.
    pub fn begin(format: RowFormat, target: Target, channel: Channel) -> Result<Self, Failure> {
        let columns = columns::of(channel);
        let format = match format {
            RowFormat::Csv => TextFormat::Csv,
            RowFormat::Jsonl => TextFormat::Jsonl,
            RowFormat::Parquet => {
                let sorted_by = if channel == Channel::Trade { "trade_id" } else { "open_time" };
                return Ok(Self::Parquet(Box::new(ParquetFile::begin(target, columns, sorted_by)?)));
            }
        };
        Ok(Self::Text(Lines { columns, format, target, text: text::header(columns, format) }))
    }

    /// Takes a trade.
    pub fn trade(&mut self, row: &TradeRow) -> Result<(), Failure> {
        self.put(&columns::trade(row))
    }

    /// Takes a kline.
    pub fn kline(&mut self, row: &KlineRow) -> Result<(), Failure> {
        self.put(&columns::kline(row))
    }

    fn put(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        match self {
            Self::Parquet(file) => file.put(cells),
            Self::Text(lines) => {
                text::push_row(&mut lines.text, lines.columns, cells, lines.format);
                if lines.text.len() < TEXT_BYTES { Ok(()) } else { lines.write() }
            }
        }
    }

    /// Everything is there: writes the rest, with these notes where the form has a place for them, and gives the file
    /// its name.
    pub fn finish(self, metadata: &[(&str, String)]) -> Result<(), Failure> {
        let target = match self {
            Self::Parquet(file) => file.finish(metadata)?,
            Self::Text(mut lines) => {
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
