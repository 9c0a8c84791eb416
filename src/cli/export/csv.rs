//! Rows as CSV (RFC 4180): a line of column names, then one line per row.

use std::io::{self, Write};

use crate::exit::{Failure, IO};

use super::columns::{Cell, Columns};

/// Bytes of text in memory before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
pub struct CsvFile<W: Write> {
    writer: csv::Writer<W>,
    /// Holds the text of one value; kept to reuse its memory.
    value: String,
}

impl<W: Write> CsvFile<W> {
    /// Begins a file with the names of its columns.
    pub fn begin(target: W, columns: Columns) -> Result<Self, Failure> {
        let mut writer = csv::WriterBuilder::new().buffer_capacity(BUFFER_BYTES).from_writer(target);
        writer.write_record(columns.iter().map(|(name, _)| name)).map_err(failure)?;
        Ok(Self { writer, value: String::new() })
    }

    /// Writes a row.
    pub fn put(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        for cell in cells {
            self.value.clear();
            cell.push_to(&mut self.value);
            self.writer.write_field(&self.value).map_err(failure)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(failure)
    }

    /// Writes the rest and returns the target.
    pub fn finish(self) -> Result<W, Failure> {
        self.writer.into_inner().map_err(|error| io_failure(error.into_error()))
    }
}

/// The I/O error of the target itself, because a caller looks at its kind.
fn failure(error: csv::Error) -> Failure {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => io_failure(error),
        other => io_failure(io::Error::other(format!("{other:?}"))),
    }
}

fn io_failure(error: io::Error) -> Failure {
    Failure::new(IO, anyhow::Error::from(error).context("write the rows"))
}

#[cfg(test)]
mod tests {
    use super::super::columns::{self, TRADE};
    use super::*;
    use crate::history::TradeRow;
    use crate::market::{Exchange, Side, Symbol, Timestamp, Trade};

    fn trade() -> TradeRow {
        TradeRow {
            exchange: Exchange::Binance,
            symbol: Symbol::new("BTC,\"USDT"),
            trade: Trade {
                id: 7,
                ts: Timestamp(1_795_517_280_000_001),
                price: "0.00001000".parse().unwrap(),
                quantity: "100".parse().unwrap(),
                side: Side::Sell,
            },
            received_at: Timestamp(1_795_517_280_100_000),
            is_backfilled: false,
        }
    }

    #[test]
    fn a_trade_in_csv_is_quoted_only_where_it_must_be() {
        let mut file = CsvFile::begin(Vec::new(), TRADE).unwrap();
        file.put(&columns::trade(&trade())).unwrap();
        let text = String::from_utf8(file.finish().unwrap()).unwrap();
        assert_eq!(
            text,
            "exchange,symbol,trade_id,ts,ts_us,price,quantity,side,received_at,received_at_us,is_backfilled\n\
             binance,\"BTC,\"\"USDT\",7,2026-11-24T10:48:00.000001Z,1795517280000001,0.00001,100,sell,\
             2026-11-24T10:48:00.100000Z,1795517280100000,false\n"
        );
    }

    #[test]
    fn a_reader_that_closed_the_pipe_keeps_the_errors_kind() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut file = CsvFile::begin(Closed, TRADE).unwrap();
        let mut put = || (0..BUFFER_BYTES).try_for_each(|_| file.put(&columns::trade(&trade())));
        let kind = |failure: Failure| failure.error.root_cause().downcast_ref().map(io::Error::kind);
        assert_eq!(put().map_err(kind), Err(Some(io::ErrorKind::BrokenPipe)));
        assert_eq!(file.finish().map(drop).map_err(kind), Err(Some(io::ErrorKind::BrokenPipe)));
    }
}
