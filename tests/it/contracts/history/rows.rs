//! Rows to insert. Each is a function of its position, so that a test can compute the expected row.

use rust_decimal::Decimal;
use tapekeeper::gap::{Evidence, Gap, Range};
use tapekeeper::history::{
    Batch, ConflictRow, DeadLetter, EpochRow, JobRun, KlineRow, LetterSource, TradeRow, Verdict,
};
use tapekeeper::market::{Channel, Interval, Kline, Side, Stream, Trade};

use crate::contracts::{BINANCE, NOON, symbol};

const MINUTE_US: i64 = Interval::M1.micros();

pub fn stream(name: &str, channel: &str) -> Stream {
    Stream::new(BINANCE, symbol(name), channel.parse().unwrap())
}

/// A live trade, one minute after the previous id.
pub fn trade(name: &str, id: i64) -> TradeRow {
    let side = if id % 2 == 0 { Side::Buy } else { Side::Sell };
    let ts = NOON.plus_micros((id % 100_000) * MINUTE_US);
    let trade = Trade {
        id,
        ts,
        price: Decimal::new(6_123_456 + id % 1_000, 2),
        quantity: Decimal::new(15, 4),
        side,
        trade_ids: None,
    };
    let received_at = ts.plus_micros(80_000);
    TradeRow {
        exchange: BINANCE,
        symbol: symbol(name),
        trade,
        received_at,
        is_backfilled: false,
        epoch: 0,
        version: tapekeeper::history::row_version(false),
    }
}

/// A live one-minute kline.
pub fn kline(name: &str, minute: i64) -> KlineRow {
    let open_time = NOON.plus_micros(minute * MINUTE_US);
    let kline = Kline {
        interval: Interval::M1,
        open_time,
        close_time: open_time.plus_micros(MINUTE_US - 1_000),
        open: Decimal::new(100 + minute, 1),
        high: Decimal::new(200 + minute, 1),
        low: Decimal::new(50 + minute, 2),
        close: Decimal::new(150, 1),
        volume: Decimal::new(minute, 3),
        quote_volume: Decimal::new(minute * 7, 5),
        trade_count: 3,
        first_trade_id: minute * 3,
        last_trade_id: minute * 3 + 2,
        closed: true,
    };
    KlineRow {
        exchange: BINANCE,
        symbol: symbol(name),
        kline,
        is_backfilled: false,
        version: tapekeeper::history::row_version(false),
    }
}

pub fn dead_letter(offset: i64) -> DeadLetter {
    let mut letter = DeadLetter {
        id: String::new(),
        recorder: "".into(),
        source: LetterSource::Log,
        partition: 0,
        offset,
        received_at: NOON.plus_micros(offset),
        stream: "binance:BTCUSDT".into(),
        reason: "not JSON: 'x'".to_owned(),
        payload: vec![0, 255, b'x'].into(),
    };
    letter.identify(&"".into());
    letter
}

pub fn job_run(number: i64) -> JobRun {
    JobRun {
        run_id: format!("0190-{number:04}"),
        job: if number % 2 == 0 { "even" } else { "odd" }.to_owned(),
        trigger: "schedule".to_owned(),
        scheduled_at: NOON.plus_micros(number).micros(),
        started_at: (number > 1).then_some(NOON.plus_micros(number + 1).micros()),
        finished_at: None,
        attempt: 1,
        outcome: "running".to_owned(),
        reason: String::new(),
        window: None,
        report: "{\"rows\":1}".to_owned(),
        recorder: String::new(),
    }
}

pub fn trades(trades: Vec<TradeRow>) -> Batch {
    Batch { trades, ..Batch::default() }
}

pub fn klines(klines: Vec<KlineRow>) -> Batch {
    Batch { klines, ..Batch::default() }
}

pub fn epoch(name: &str, number: i64) -> EpochRow {
    EpochRow {
        exchange: BINANCE,
        symbol: symbol(name),
        channel: Channel::Trade,
        epoch: number,
        first_id: 500 * number,
        began_at: NOON.plus_micros(number),
        reason: "ids began again".to_owned(),
    }
}

pub fn conflict(position: i64, verdict: Verdict) -> ConflictRow {
    ConflictRow {
        stream: stream("BTCUSDT", "trade"),
        epoch: 0,
        position,
        stored: "{\"price\":\"1\"}".to_owned(),
        arrived: "{\"price\":\"2\"}".to_owned(),
        at: NOON.plus_micros(position),
        verdict,
    }
}

/// Some rows of every kind; every call returns the same.
pub fn everything() -> Batch {
    let gap = Gap {
        gap_id: "0190-0001".to_owned(),
        ..Gap::open(stream("BTCUSDT", "trade"), Range { first: 50, last: 59 }, Evidence::default(), NOON)
    };
    Batch {
        epochs: vec![epoch("LTCUSDT", 1)],
        conflicts: vec![conflict(7, Verdict::Pending)],
        gaps: vec![gap],
        trades: (0..500).map(|id| trade("BTCUSDT", id)).collect(),
        klines: (0..50).map(|minute| kline("BTCUSDT", minute)).collect(),
        dead_letters: vec![dead_letter(7)],
        token: "0:0-550".to_owned(),
    }
}
