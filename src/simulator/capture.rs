//! A recorded session, read from files with lines `nanoseconds {json}` or `seconds: {json}`, gzipped or plain.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::extract::ws::Utf8Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::candle::Candle;
use super::faulty_link::OutgoingFrame;
use crate::market::{Interval, Kline, Side, Symbol, Timestamp, Trade, parse_decimal};

/// One recorded frame, with its trade or kline for the truth.
#[derive(Clone, Debug)]
pub struct RecordedFrame {
    /// When the recorder received it.
    pub received_at: Timestamp,
    /// The exchange's latest time in the frame; bookTicker has none.
    pub event_time: Option<Timestamp>,
    /// The frame, byte for byte.
    pub frame: OutgoingFrame,
    /// The trade, when it is one.
    pub trade: Option<Trade>,
    /// The kline, when it is one of a known interval.
    pub kline: Option<Candle>,
}

/// All frames, in the order they were received.
#[derive(Debug)]
pub struct Capture {
    /// The frames.
    pub frames: Vec<RecordedFrame>,
    /// The number of lines without market data.
    pub skipped: u64,
}

/// Most frames in memory.
const FRAMES_MAX: usize = 5_000_000;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl Capture {
    /// Reads files and merges their frames by receive time.
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut capture = Self { frames: Vec::new(), skipped: 0 };
        for path in paths {
            capture.read_file(path).with_context(|| format!("read the capture {}", path.display()))?;
        }
        capture.frames.sort_by_key(|recorded| recorded.received_at);
        anyhow::ensure!(!capture.frames.is_empty(), "the capture holds no frame of a stream");
        Ok(capture)
    }

    /// The symbols in alphabetical order, with their last trade ids (-1 without a trade).
    pub fn symbols(&self) -> BTreeMap<Symbol, i64> {
        let mut symbols = BTreeMap::new();
        for recorded in &self.frames {
            let last = symbols.entry(recorded.frame.symbol.clone()).or_insert(-1);
            *last = recorded.trade.map_or(*last, |trade| trade.id.max(*last));
        }
        symbols
    }

    fn read_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file = BufReader::new(File::open(path)?);
        let zipped = file.fill_buf()?.starts_with(&GZIP_MAGIC);
        let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        for line in BufReader::new(reader).lines() {
            match parse_line(&line?) {
                Some(recorded) => self.frames.push(recorded),
                None => self.skipped += 1,
            }
            anyhow::ensure!(self.frames.len() <= FRAMES_MAX, "more than {FRAMES_MAX} frames");
        }
        Ok(())
    }
}

/// Reads a line; `None` when it is not a frame of a stream (an address, a snapshot, an acknowledgement).
fn parse_line(line: &str) -> Option<RecordedFrame> {
    let (stamp, json) = line.split_once(' ')?;
    let received_us = match stamp.strip_suffix(':') {
        // Seconds with a fraction. It is the recorder's own clock, so a binary float is exact enough.
        Some(seconds) => (seconds.parse::<f64>().ok()? * 1_000_000.0) as i64,
        None => stamp.parse::<i64>().ok()? / 1_000,
    };
    let combined: Combined<'_> = serde_json::from_str(json).ok()?;
    let (name, _) = combined.stream.split_once('@')?;
    let symbol = Symbol::new(&name.to_ascii_uppercase());
    // The raw form is a slice of the recorded bytes, so their layout must be Binance's.
    let data_start = r#"{"stream":"","data":"#.len() + combined.stream.len();
    json.get(data_start..).filter(|data| data.starts_with('{') && json.ends_with('}'))?;
    let data = combined.data;
    let trade = if combined.stream.ends_with("@trade") { trade(&data) } else { None };
    let kline = data.k.as_ref().and_then(candle);
    let event_time = data.event_ms.max(data.trade_ms).map(Timestamp::from_millis);
    let frame = OutgoingFrame {
        stream: Arc::from(combined.stream),
        symbol,
        trade: trade.map(|trade: Trade| (trade, event_time.unwrap_or(trade.ts))),
        text: Utf8Bytes::from(json),
        is_changed: false,
    };
    Some(RecordedFrame { received_at: Timestamp(received_us), event_time, frame, trade, kline })
}

#[derive(Deserialize)]
struct Combined<'a> {
    stream: &'a str,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(rename = "E")]
    event_ms: Option<i64>,
    #[serde(rename = "T")]
    trade_ms: Option<i64>,
    t: Option<i64>,
    p: Option<&'a str>,
    q: Option<&'a str>,
    m: Option<bool>,
    #[serde(borrow)]
    k: Option<Candlestick<'a>>,
}

#[derive(Deserialize)]
struct Candlestick<'a> {
    t: i64,
    #[serde(rename = "T")]
    close_ms: i64,
    i: &'a str,
    f: i64,
    #[serde(rename = "L")]
    last_id: i64,
    o: &'a str,
    c: &'a str,
    h: &'a str,
    l: &'a str,
    v: &'a str,
    n: i64,
    x: bool,
    q: &'a str,
    #[serde(rename = "V")]
    taker_base: &'a str,
    #[serde(rename = "Q")]
    taker_quote: &'a str,
}

fn trade(data: &Data<'_>) -> Option<Trade> {
    Some(Trade {
        id: data.t?,
        ts: Timestamp::from_millis(data.trade_ms?),
        price: parse_decimal(data.p?)?,
        quantity: parse_decimal(data.q?)?,
        side: if data.m? { Side::Sell } else { Side::Buy },
        trade_ids: None,
    })
}

fn candle(stick: &Candlestick<'_>) -> Option<Candle> {
    let kline = Kline {
        interval: stick.i.parse::<Interval>().ok()?,
        open_time: Timestamp::from_millis(stick.t),
        close_time: Timestamp::from_millis(stick.close_ms),
        open: parse_decimal(stick.o)?,
        high: parse_decimal(stick.h)?,
        low: parse_decimal(stick.l)?,
        close: parse_decimal(stick.c)?,
        volume: parse_decimal(stick.v)?,
        quote_volume: parse_decimal(stick.q)?,
        trade_count: stick.n,
        first_trade_id: stick.f,
        last_trade_id: stick.last_id,
        closed: stick.x,
    };
    Some(Candle { kline, taker_base: parse_decimal(stick.taker_base)?, taker_quote: parse_decimal(stick.taker_quote)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRADE: &str = r#"{"stream":"ethusdt@trade","data":{"e":"trade","E":1723161255310,"s":"ETHUSDT","t":1504,"p":"2683.81000000","q":"0.00370000","T":1723161255309,"m":false,"M":true}}"#;

    #[test]
    fn a_line_of_nanoseconds_is_read_byte_for_byte() {
        let recorded = parse_line(&format!("1723161254024619568 {TRADE}")).unwrap();
        assert_eq!(recorded.received_at, Timestamp(1_723_161_254_024_619));
        assert_eq!(recorded.frame.text.as_str(), TRADE);
        assert_eq!(recorded.event_time, Some(Timestamp(1_723_161_255_310_000)));
        let trade = recorded.trade.unwrap();
        assert_eq!((trade.id, trade.price.to_string().as_str()), (1504, "2683.81000000"));
    }

    #[test]
    fn a_line_of_seconds_is_read() {
        let recorded = parse_line(&format!("1681154040.3172204: {TRADE}")).unwrap();
        assert_eq!(recorded.received_at.millis(), 1_681_154_040_317);
    }

    #[test]
    fn a_closed_kline_without_a_trade_is_read() {
        let line = r#"1.0: {"stream":"ltcbrl@kline_1m","data":{"e":"kline","E":1681154040004,"s":"LTCBRL","k":{"t":1681153980000,"T":1681154039999,"s":"LTCBRL","i":"1m","f":-1,"L":-1,"o":"473.30000000","c":"473.30000000","h":"473.30000000","l":"473.30000000","v":"0.00000000","n":0,"x":true,"q":"0.00000000","V":"0.00000000","Q":"0.00000000","B":"0"}}}"#;
        let kline = parse_line(line).unwrap().kline.unwrap().kline;
        assert!(kline.closed);
        assert_eq!((kline.first_trade_id, kline.trade_count), (-1, 0));
    }

    #[test]
    fn lines_without_a_frame_are_skipped() {
        assert!(parse_line("wss://stream.binance.com:9443/stream <-> 1633998511.159679").is_none());
        assert!(parse_line(r#"1723161254152322667 {"lastUpdateId":35346513512,"bids":[]}"#).is_none());
    }
}
