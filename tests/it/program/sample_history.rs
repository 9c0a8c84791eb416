//! Writes a history without an exchange: trades and klines with every case that an export must report.

use std::path::Path;

use rust_decimal::Decimal;
use tapekeeper::gap::{Evidence, Gap, GapState, Range};
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::{Batch, History, KlineRow, RowStore, TradeRow};
use tapekeeper::market::{Channel, Exchange, Interval, Kline, Side, Stream, Symbol, Timestamp, Trade};

/// The feed of this history; no recorder connects.
pub const FEED: &str =
    "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\", \"kline_1m\"]\n\n";
/// The first trade.
pub const FIRST_ID: i64 = 1_000;
/// Ids that the exchange skipped.
pub const NEVER_EXISTED: Range = Range { first: FIRST_ID + 100, last: FIRST_ID + 104 };
/// Trades that are missing.
pub const MISSING: Range = Range { first: FIRST_ID + 300, last: FIRST_ID + 302 };
/// A minute before midnight, so the rows belong to two days.
const BEGIN: i64 = 1_795_564_740_000_000;
const MINUTE: i64 = 60_000_000;

fn trade(id: i64) -> TradeRow {
    let price = Decimal::new(6_123_456 + id * 31 % 1_000, 2);
    let trade = Trade {
        id,
        ts: Timestamp(BEGIN + (id - FIRST_ID) * 100_000 + id % 7),
        price,
        quantity: Decimal::new(1 + id * 7_919 % 100_000_000, 8),
        side: if id % 3 == 0 { Side::Buy } else { Side::Sell },
        trade_ids: None,
    };
    let (exchange, symbol) = (Exchange::named("binance"), Symbol::new("BTCUSDT"));
    TradeRow {
        exchange,
        symbol,
        trade,
        received_at: Timestamp(trade.ts.micros() + 12_345),
        is_backfilled: id % 11 == 0,
        epoch: 0,
        version: tapekeeper::history::row_version(id % 11 == 0),
    }
}

fn kline(minute: i64) -> KlineRow {
    let value = |n: i64| Decimal::new(6_000_000 + minute * 17 + n, 4);
    let open_time = Timestamp(BEGIN + minute * MINUTE);
    let kline = Kline {
        interval: Interval::M1,
        open_time,
        close_time: open_time.plus_micros(MINUTE - 1_000),
        open: value(1),
        high: value(9),
        low: value(0),
        close: value(2),
        volume: Decimal::new(minute, 0) * Decimal::new(12_000_000_000_000, 0),
        quote_volume: Decimal::ZERO,
        trade_count: minute,
        first_trade_id: if minute == 0 { -1 } else { minute },
        last_trade_id: if minute == 0 { -1 } else { minute + 4 },
        closed: true,
    };
    KlineRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        kline,
        is_backfilled: minute % 2 == 0,
        version: tapekeeper::history::row_version(minute % 2 == 0),
    }
}

/// Writes trades with this number of ids, without those in [`MISSING`] and [`NEVER_EXISTED`], and klines.
pub async fn write(data_dir: &Path, trades: i64, klines: i64) {
    std::fs::create_dir_all(data_dir).unwrap();
    let history = EmbeddedHistory::open(&data_dir.join("history.db")).unwrap();
    let stream = Stream::new(Exchange::named("binance"), Symbol::new("BTCUSDT"), Channel::Trade);
    let mut gap = Gap::open(stream, NEVER_EXISTED, Evidence::default(), Timestamp(BEGIN));
    assert!(gap.advance(GapState::NeverExisted, "the exchange skips it", Timestamp(BEGIN + 1)));
    let ids = (FIRST_ID..FIRST_ID + trades).filter(|id| !NEVER_EXISTED.contains(*id) && !MISSING.contains(*id));
    let batch = Batch {
        gaps: vec![gap],
        trades: ids.map(trade).collect(),
        klines: (0..klines).map(kline).collect(),
        token: "archive".to_owned(),
        ..Batch::default()
    };
    history.insert(&batch).await.unwrap();
    history.close().await.unwrap();
}
