//! Rows as CSV (RFC 4180): a line of column names, then one line per row.
//!
//! The target gets whole rows only, so an export that ends early leaves no torn one.

use std::io::{self, Write};

use crate::exit::{Failure, IO};
use crate::parquet_file::{Cell, Columns};

/// Bytes of text in memory before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
pub struct CsvFile<W: Write> {
    target: W,
    /// Whole rows that are not written yet. The crate's writer prints what it holds when it is dropped, so it writes to
    /// memory, never to the target.
    rows: csv::Writer<Vec<u8>>,
    /// The text of one value; kept to reuse its memory.
    value: String,
}

impl<W: Write> CsvFile<W> {
    /// Begins a file with the names of its columns.
    pub fn begin(target: W, columns: Columns) -> Result<Self, Failure> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        rows.write_record(columns.iter().map(|(name, _)| name)).map_err(failure)?;
        Ok(Self { target, rows, value: String::new() })
    }

    /// Writes a row.
    pub fn put(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        for cell in cells {
            self.value.clear();
            cell.push_to(&mut self.value);
            self.rows.write_field(&self.value).map_err(failure)?;
        }
        self.rows.write_record(None::<&[u8]>).map_err(failure)?;
        if self.rows.get_ref().len() < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    /// Writes the rest and returns the target.
    pub fn finish(mut self) -> Result<W, Failure> {
        self.write()?;
        Ok(self.target)
    }

    fn write(&mut self) -> Result<(), Failure> {
        let rows = std::mem::replace(&mut self.rows, csv::Writer::from_writer(Vec::new()));
        let text = rows.into_inner().map_err(|error| io_failure(error.into_error()))?;
        self.target.write_all(&text).map_err(io_failure)
    }
}

fn failure(error: csv::Error) -> Failure {
    io_failure(error.into())
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
            exchange: Exchange::named("binance"),
            symbol: Symbol::new("BTC,\"USDT"),
            trade: Trade {
                id: 7,
                ts: Timestamp(1_795_517_280_000_001),
                price: "0.00001000".parse().unwrap(),
                quantity: "100".parse().unwrap(),
                side: Side::Sell,
                trade_ids: None,
            },
            received_at: Timestamp(1_795_517_280_100_000),
            is_backfilled: false,
            epoch: 0,
            version: crate::history::row_version(false),
        }
    }

    #[test]
    fn a_trade_in_csv_is_quoted_only_where_it_must_be() {
        let mut file = CsvFile::begin(Vec::new(), TRADE).unwrap();
        file.put(&columns::trade(&trade())).unwrap();
        let text = String::from_utf8(file.finish().unwrap()).unwrap();
        assert_eq!(
            text,
            "exchange,symbol,trade_id,ts,ts_us,price,quantity,side,received_at,received_at_us,is_backfilled,epoch\n\
             binance,\"BTC,\"\"USDT\",7,2026-11-24T10:48:00.000001Z,1795517280000001,0.00001,100,sell,\
             2026-11-24T10:48:00.100000Z,1795517280100000,false,0\n"
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
        let short = CsvFile::begin(Closed, TRADE).unwrap();
        assert_eq!(short.finish().map(drop).map_err(kind), Err(Some(io::ErrorKind::BrokenPipe)));
    }

    /// A target that shows what it has got so far.
    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_export_that_ends_early_has_written_whole_rows_only() {
        let target = Shared::default();
        let mut file = CsvFile::begin(target.clone(), TRADE).unwrap();
        for _ in 0..BUFFER_BYTES / 64 {
            file.put(&columns::trade(&trade())).unwrap();
        }
        let written = target.0.lock().unwrap().len();
        drop(file);
        let bytes = target.0.lock().unwrap().clone();
        assert!(written > 0 && bytes.len() == written, "the rest is not written when the file is dropped");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with(",false,0\n"), "{}", &text[text.len() - 200..]);
    }
}
