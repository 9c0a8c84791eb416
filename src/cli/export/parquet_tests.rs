//! Reads files back with the crate's own reader. tests/parquet reads them with pandas, polars and ClickHouse.

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row, RowAccessor};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::columns::{self, KLINE, TRADE};
use super::sink::{GROUP_ROWS, REMEDY, Sink};
use super::target::Target;
use crate::cli::format::RowFormat;
use crate::exit::DATA;
use crate::history::{KlineRow, TradeRow};
use crate::market::{Channel, Exchange, Interval, Kline, Side, Symbol, Timestamp, Trade, scaled, unscaled};
use crate::parquet_file::{DECIMAL_BYTES, Options, ParquetFile};

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn trade(id: i64, price: Decimal, quantity: Decimal) -> TradeRow {
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTC,\"USDT"),
        trade: Trade {
            id,
            ts: Timestamp(1_795_517_280_000_001 + id),
            price,
            quantity,
            side: if id % 3 == 0 { Side::Buy } else { Side::Sell },
            trade_ids: None,
        },
        received_at: Timestamp(1_795_517_280_100_000 + 7 * id),
        is_backfilled: id % 2 == 0,
        epoch: id % 3,
        version: crate::history::row_version(id % 2 == 0),
    }
}

fn options(sorted_by: &'static str, group_rows: usize) -> Options<'static> {
    let sorted_by: &'static [&'static str] = if sorted_by == "trade_id" { &["trade_id"] } else { &["open_time"] };
    Options { sorted_by, group_rows, remedy: REMEDY }
}

fn file(rows: &[TradeRow], group_rows: usize, metadata: &[(&str, String)]) -> SerializedFileReader<Bytes> {
    let mut file = ParquetFile::begin(Vec::new(), TRADE, options("trade_id", group_rows)).unwrap();
    for row in rows {
        file.put(&columns::trade(row)).unwrap();
    }
    SerializedFileReader::new(Bytes::from(file.finish(metadata).unwrap())).unwrap()
}

fn rows(reader: &SerializedFileReader<Bytes>) -> Vec<Row> {
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn read_decimal(row: &Row, at: usize) -> Decimal {
    let value = row.get_decimal(at).unwrap();
    assert_eq!((value.precision(), value.scale(), value.data().len()), (38, 18, DECIMAL_BYTES));
    unscaled(i128::from_be_bytes(value.data().try_into().unwrap())).unwrap()
}

fn read_instant(row: &Row, at: usize) -> Timestamp {
    let Some((_, Field::TimestampMicros(at))) = row.get_column_iter().nth(at) else { panic!("{row:?}") };
    Timestamp(*at)
}

fn read_trade(row: &Row) -> TradeRow {
    assert_eq!(row.len(), TRADE.len());
    assert_eq!(row.get_long(4).unwrap(), read_instant(row, 3).micros());
    assert_eq!(row.get_long(9).unwrap(), read_instant(row, 8).micros());
    TradeRow {
        exchange: row.get_string(0).unwrap().parse().unwrap(),
        symbol: Symbol::new(row.get_string(1).unwrap()),
        trade: Trade {
            id: row.get_long(2).unwrap(),
            ts: read_instant(row, 3),
            price: read_decimal(row, 5),
            quantity: read_decimal(row, 6),
            side: row.get_string(7).unwrap().parse().unwrap(),
            trade_ids: None,
        },
        received_at: read_instant(row, 8),
        is_backfilled: row.get_bool(10).unwrap(),
        epoch: row.get_long(11).unwrap(),
        version: crate::history::row_version(row.get_bool(10).unwrap()),
    }
}

#[test]
fn trades_read_back_over_several_row_groups() {
    let written: Vec<TradeRow> =
        (0..1_000).map(|id| trade(100 + id, Decimal::new(6_123_456 + id, 2), Decimal::new(id, 8))).collect();
    let reader = file(&written, 300, &[("complete", "true".to_owned())]);
    assert_eq!((reader.num_row_groups(), reader.metadata().file_metadata().num_rows()), (4, 1_000));
    assert_eq!(rows(&reader).iter().map(read_trade).collect::<Vec<_>>(), written);
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let entry = metadata.iter().find(|entry| entry.key == "tapekeeper.complete").unwrap();
    assert_eq!(entry.value.as_deref(), Some("true"));
    let prices = reader.metadata().row_group(3).column(5).statistics().unwrap();
    let scaled_of = |bytes: Option<&[u8]>| i128::from_be_bytes(bytes.unwrap().try_into().unwrap());
    assert_eq!(scaled_of(prices.min_bytes_opt()), scaled(written[900].trade.price).unwrap());
    assert_eq!(scaled_of(prices.max_bytes_opt()), scaled(written[999].trade.price).unwrap());
    let sorted = reader.metadata().row_group(0).sorting_columns().unwrap();
    assert_eq!((sorted[0].column_idx, sorted[0].descending), (2, false));
}

#[test]
fn a_file_without_rows_is_valid() {
    let reader = file(&[], 300, &[]);
    assert_eq!((reader.num_row_groups(), rows(&reader).len()), (0, 0));
    assert_eq!(reader.metadata().file_metadata().schema_descr().num_columns(), TRADE.len());
}

#[test]
fn a_kline_reads_back() {
    let kline = Kline {
        interval: Interval::M1,
        open_time: Timestamp(1_795_517_280_000_000),
        close_time: Timestamp(1_795_517_339_999_000),
        open: decimal("1.1"),
        high: decimal("2"),
        low: decimal("0.5"),
        close: decimal("1.5"),
        volume: decimal("12000000000000"),
        quote_volume: decimal("0"),
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: true,
    };
    let written = KlineRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("PEPE"),
        kline,
        is_backfilled: true,
        version: crate::history::row_version(true),
    };
    let mut file = ParquetFile::begin(Vec::new(), KLINE, options("open_time", GROUP_ROWS)).unwrap();
    file.put(&columns::kline(&written)).unwrap();
    let reader = SerializedFileReader::new(Bytes::from(file.finish(&[]).unwrap())).unwrap();
    let read = rows(&reader);
    let [row] = &read[..] else { panic!("{read:?}") };
    assert_eq!((row.get_string(2).unwrap().as_str(), read_instant(row, 3)), ("1m", kline.open_time));
    let values = [7, 8, 9, 10, 11, 12].map(|at| read_decimal(row, at));
    assert_eq!(values, [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume]);
    assert_eq!([13, 14, 15].map(|at| row.get_long(at).unwrap()), [0, -1, -1]);
    assert!(row.get_bool(16).unwrap());
}

#[test]
fn a_value_that_does_not_fit_is_an_error_with_the_row_and_the_remedy() {
    let mut file = ParquetFile::begin(Vec::new(), TRADE, options("trade_id", GROUP_ROWS)).unwrap();
    for price in ["100000000000000000000", "0.0000000000000000001"] {
        let failure = file.put(&columns::trade(&trade(7, decimal(price), Decimal::ONE))).unwrap_err();
        let words = failure.error.to_string();
        assert_eq!(failure.code, DATA);
        assert!(words.contains(&format!("row 7: price {price} does not fit")) && words.contains("csv"), "{words}");
    }
}

#[test]
fn an_abandoned_file_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trades.parquet");
    let names = || std::fs::read_dir(directory.path()).unwrap().count();
    let mut sink = Sink::begin(RowFormat::Parquet, Target::open(Some(&path)).unwrap(), Channel::Trade).unwrap();
    for id in 0..GROUP_ROWS as i64 + 1 {
        sink.trade(&trade(id, Decimal::ONE, Decimal::ONE)).unwrap();
    }
    assert!(!path.exists() && names() == 1);
    drop(sink);
    assert_eq!(names(), 0);
}

proptest! {
    #[test]
    fn every_decimal_reads_back_or_is_refused(
        values in prop::collection::vec((-(1_i128 << 96) + 1..1_i128 << 96, 0_u32..96, 0_u32..29), 1..40)
    ) {
        let values = values.iter().map(|(mantissa, shift, scale)| Decimal::from_i128_with_scale(mantissa >> shift, *scale));
        let fit: Vec<Decimal> = values.filter(|value| scaled(*value).is_some()).collect();
        let written: Vec<TradeRow> = fit.iter().zip(1..).map(|(value, id)| trade(id, *value, *value)).collect();
        let read: Vec<TradeRow> = rows(&file(&written, 7, &[])).iter().map(read_trade).collect();
        prop_assert_eq!(read, written);
    }
}
