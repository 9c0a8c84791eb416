//! Reads rows by key, the latest rows, and rows by range. Each is one query for any number of symbols.

use clickhouse::Row;
use rust_decimal::Decimal;
use serde::Deserialize;

use super::server::{Server, quote, quote_all};
use crate::gap::Range;
use crate::history::{HistoryError, KlineRow, TradeRow, Watermark};
use crate::market::{Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, Trade, by_exchange, unscaled};

const TRADE_COLUMNS: &str =
    "symbol, toInt64(trade_id) AS id, ts, received_at, price, quantity, toString(side) AS taker, is_backfilled,
    toInt64(epoch) AS numbering, toInt64(version) AS revision";
const KLINE_COLUMNS: &str = "symbol, interval, open_time, close_time, open, high, low, close, volume, quote_volume,
    toInt64(trade_count) AS trades, first_trade_id, last_trade_id, is_backfilled, toInt64(version) AS revision";

#[derive(Debug, Row, Deserialize)]
struct TradeRecord {
    symbol: String,
    id: i64,
    ts: i64,
    received_at: i64,
    price: i128,
    quantity: i128,
    taker: String,
    is_backfilled: u8,
    numbering: i64,
    revision: i64,
}

#[derive(Debug, Row, Deserialize)]
struct KlineRecord {
    symbol: String,
    interval: String,
    open_time: i64,
    close_time: i64,
    open: i128,
    high: i128,
    low: i128,
    close: i128,
    volume: i128,
    quote_volume: i128,
    trades: i64,
    first_trade_id: i64,
    last_trade_id: i64,
    is_backfilled: u8,
    revision: i64,
}

#[derive(Debug, Row, Deserialize)]
struct WatermarkRecord {
    symbol: String,
    interval: String,
    position: i64,
    at: i64,
}

/// The error for a stored value that this program cannot have written.
fn invalid(what: &str) -> HistoryError {
    HistoryError::Data(format!("history contains an invalid {what}"))
}

fn decimal(value: i128) -> Result<Decimal, HistoryError> {
    unscaled(value).ok_or_else(|| invalid("decimal of more than 28 digits"))
}

fn trade_rows(records: Vec<TradeRecord>, exchange: Exchange) -> Result<Vec<TradeRow>, HistoryError> {
    let row = |record: TradeRecord| {
        let trade = Trade {
            id: record.id,
            ts: Timestamp(record.ts),
            price: decimal(record.price)?,
            quantity: decimal(record.quantity)?,
            side: record.taker.parse().map_err(|()| invalid("side"))?,
        };
        Ok(TradeRow {
            exchange,
            symbol: Symbol::new(&record.symbol),
            trade,
            received_at: Timestamp(record.received_at),
            is_backfilled: record.is_backfilled != 0,
            epoch: record.numbering,
            version: record.revision,
        })
    };
    records.into_iter().map(row).collect()
}

fn kline_rows(records: Vec<KlineRecord>, exchange: Exchange) -> Result<Vec<KlineRow>, HistoryError> {
    let row = |record: KlineRecord| {
        let kline = Kline {
            interval: record.interval.parse().map_err(|()| invalid("interval"))?,
            open_time: Timestamp(record.open_time),
            close_time: Timestamp(record.close_time),
            open: decimal(record.open)?,
            high: decimal(record.high)?,
            low: decimal(record.low)?,
            close: decimal(record.close)?,
            volume: decimal(record.volume)?,
            quote_volume: decimal(record.quote_volume)?,
            trade_count: record.trades,
            first_trade_id: record.first_trade_id,
            last_trade_id: record.last_trade_id,
            // Only closed klines are stored.
            closed: true,
        };
        let symbol = Symbol::new(&record.symbol);
        Ok(KlineRow { exchange, symbol, kline, is_backfilled: record.is_backfilled != 0, version: record.revision })
    };
    records.into_iter().map(row).collect()
}

/// The SQL condition that selects the epoch to read of symbols: the newest of each, unless the store was opened for one.
/// `symbols` is a list of literals. It needs the names `symbol` and `epoch`.
pub(super) fn epoch_condition(server: &Server, exchange: Exchange, symbols: &str) -> String {
    let (db, name) = (&server.database, quote(exchange.as_str()));
    server.epoch.map_or_else(
        || {
            format!(
                "(symbol, epoch) IN (SELECT s, max(e) FROM
                   (SELECT arrayJoin([{symbols}]) AS s, toUInt32(0) AS e
                    UNION ALL SELECT toString(symbol) AS s, epoch AS e FROM {db}.epochs WHERE exchange = {name})
                 GROUP BY s)"
            )
        },
        |epoch| format!("epoch = {epoch}"),
    )
}

/// The same for symbols of any exchange. `keys` is a list of (exchange, symbol).
pub(super) fn epoch_condition_of_keys(server: &Server, keys: &str) -> String {
    server.epoch.map_or_else(
        || {
            format!(
                "(exchange, symbol, epoch) IN (SELECT x, s, max(e) FROM
                   (SELECT k.1 AS x, k.2 AS s, toUInt32(0) AS e FROM (SELECT arrayJoin([{keys}]) AS k)
                    UNION ALL SELECT toString(exchange) AS x, toString(symbol) AS s, epoch AS e FROM {}.epochs)
                 GROUP BY x, s)",
                server.database
            )
        },
        |epoch| format!("epoch = {epoch}"),
    )
}

/// The highest stored position of each stream that has rows.
pub(super) async fn watermarks(server: &Server, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError> {
    let db = &server.database;
    let mut found = Vec::new();
    for (exchange, streams) in by_exchange(streams) {
        let of = |kline: bool| {
            let wanted = streams.iter().filter(move |stream| match stream.channel {
                Channel::Trade => !kline,
                Channel::Kline(_) => kline,
                Channel::BookTicker => false,
            });
            let mut symbols: Vec<&str> = wanted.map(|stream| stream.symbol.as_str()).collect();
            symbols.sort_unstable();
            symbols.dedup();
            quote_all(symbols)
        };
        let (name, trades, klines) = (quote(exchange.as_str()), of(false), of(true));
        let mut records: Vec<WatermarkRecord> = Vec::new();
        if !trades.is_empty() {
            let sql = format!(
                "SELECT symbol, '' AS interval, toInt64(max(trade_id)) AS position, argMax(ts, (trade_id, version)) AS at
                 FROM {db}.trades WHERE exchange = {name} AND symbol IN ({trades}) AND {} GROUP BY symbol",
                epoch_condition(server, exchange, &trades)
            );
            records.extend(server.rows::<WatermarkRecord>(&sql).await?);
        }
        if !klines.is_empty() {
            let sql = format!(
                "SELECT symbol, interval, toUnixTimestamp64Micro(max(open_time)) AS position, max(open_time) AS at
                 FROM {db}.klines WHERE exchange = {name} AND symbol IN ({klines}) GROUP BY symbol, interval"
            );
            records.extend(server.rows::<WatermarkRecord>(&sql).await?);
        }
        for WatermarkRecord { symbol, interval, position, at } in records {
            let channel = interval.parse().map_or(Channel::Trade, Channel::Kline);
            let stream = Stream::new(exchange, Symbol::new(&symbol), channel);
            found.push(Watermark { stream, position, ts: Timestamp(at) });
        }
    }
    // A query selects by symbol, so it may return other streams of a symbol.
    let wanted: std::collections::HashSet<&Stream> = streams.iter().collect();
    found.retain(|watermark| wanted.contains(&watermark.stream));
    Ok(found)
}

/// The trade with the highest id of each symbol. The subquery reads only the ids, then one row of each symbol is read.
pub(super) async fn latest_trades(
    server: &Server,
    exchange: Exchange,
    symbols: &[Symbol],
) -> Result<Vec<TradeRow>, HistoryError> {
    if symbols.is_empty() {
        return Ok(Vec::new());
    }
    let (db, name) = (&server.database, quote(exchange.as_str()));
    let symbols = quote_all(symbols.iter().map(Symbol::as_str));
    let epoch = epoch_condition(server, exchange, &symbols);
    let sql = format!(
        "SELECT {TRADE_COLUMNS} FROM {db}.trades FINAL WHERE exchange = {name} AND (symbol, epoch, trade_id) IN
           (SELECT symbol, epoch, max(trade_id) FROM {db}.trades
            WHERE exchange = {name} AND symbol IN ({symbols}) AND {epoch} GROUP BY symbol, epoch)"
    );
    trade_rows(server.rows(&sql).await?, exchange)
}

/// The latest closed kline of each symbol and interval.
pub(super) async fn latest_klines(
    server: &Server,
    exchange: Exchange,
    symbols: &[Symbol],
    intervals: &[Interval],
) -> Result<Vec<KlineRow>, HistoryError> {
    if symbols.is_empty() || intervals.is_empty() {
        return Ok(Vec::new());
    }
    let (db, name) = (&server.database, quote(exchange.as_str()));
    let symbols = quote_all(symbols.iter().map(Symbol::as_str));
    let intervals = quote_all(intervals.iter().map(|interval| interval.as_str()));
    let sql = format!(
        "SELECT {KLINE_COLUMNS} FROM {db}.klines FINAL WHERE exchange = {name} AND (symbol, interval, open_time) IN
           (SELECT symbol, interval, max(open_time) FROM {db}.klines
            WHERE exchange = {name} AND symbol IN ({symbols}) AND interval IN ({intervals}) GROUP BY symbol, interval)"
    );
    kline_rows(server.rows(&sql).await?, exchange)
}

/// The stored trades with exactly these ids.
pub(super) async fn trades_by_id(
    server: &Server,
    exchange: Exchange,
    wanted: &[(Symbol, i64)],
) -> Result<Vec<TradeRow>, HistoryError> {
    // The column is unsigned, and no trade has a negative id.
    let keys: Vec<String> = wanted
        .iter()
        .filter(|(_, id)| *id >= 0)
        .map(|(symbol, id)| format!("({},{id})", quote(symbol.as_str())))
        .collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut symbols: Vec<&str> = wanted.iter().map(|(symbol, _)| symbol.as_str()).collect();
    symbols.sort_unstable();
    symbols.dedup();
    let epoch = epoch_condition(server, exchange, &quote_all(symbols));
    let (db, name, keys) = (&server.database, quote(exchange.as_str()), keys.join(","));
    let sql = format!(
        "SELECT {TRADE_COLUMNS} FROM {db}.trades FINAL
         WHERE exchange = {name} AND (symbol, trade_id) IN ({keys}) AND {epoch}"
    );
    trade_rows(server.rows(&sql).await?, exchange)
}

/// The stored klines with exactly these open times.
pub(super) async fn klines_by_time(
    server: &Server,
    exchange: Exchange,
    keys: &[(Symbol, Interval, Timestamp)],
) -> Result<Vec<KlineRow>, HistoryError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let key = |(symbol, interval, at): &(Symbol, Interval, Timestamp)| {
        format!("({},'{interval}',{})", quote(symbol.as_str()), super::server::time(*at))
    };
    let keys = keys.iter().map(key).collect::<Vec<_>>().join(",");
    let (db, name) = (&server.database, quote(exchange.as_str()));
    let sql = format!(
        "SELECT {KLINE_COLUMNS} FROM {db}.klines FINAL
         WHERE exchange = {name} AND (symbol, interval, open_time) IN ({keys})"
    );
    kline_rows(server.rows(&sql).await?, exchange)
}

/// The stored trades with ids in `range`, ascending.
pub(super) async fn trades(
    server: &Server,
    stream: &Stream,
    range: Range,
    limit: usize,
) -> Result<Vec<TradeRow>, HistoryError> {
    let (db, exchange, symbol) = (&server.database, quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
    let sql = format!(
        "SELECT {TRADE_COLUMNS} FROM {db}.trades FINAL WHERE exchange = {exchange} AND symbol = {symbol}
           AND {} AND trade_id BETWEEN {} AND {} ORDER BY trade_id LIMIT {}",
        epoch_condition(server, stream.exchange, &symbol),
        range.first.max(0),
        range.last,
        super::limit(limit)
    );
    trade_rows(server.rows(&sql).await?, stream.exchange)
}

/// The stored klines with open times in `range`, ascending.
pub(super) async fn klines(
    server: &Server,
    stream: &Stream,
    interval: Interval,
    range: Range,
    limit: usize,
) -> Result<Vec<KlineRow>, HistoryError> {
    let (db, exchange, symbol) = (&server.database, quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
    let sql = format!(
        "SELECT {KLINE_COLUMNS} FROM {db}.klines FINAL WHERE exchange = {exchange} AND symbol = {symbol}
           AND interval = '{interval}' AND {} ORDER BY open_time LIMIT {}",
        super::coverage::open_times(range),
        super::limit(limit)
    );
    kline_rows(server.rows(&sql).await?, stream.exchange)
}

/// The one-minute klines of these symbols that opened at `since` or later.
pub(super) async fn minute_klines(
    server: &Server,
    exchange: Exchange,
    symbols: &[Symbol],
    since: Timestamp,
) -> Result<Vec<KlineRow>, HistoryError> {
    if symbols.is_empty() {
        return Ok(Vec::new());
    }
    let (db, name) = (&server.database, quote(exchange.as_str()));
    let sql = format!(
        "SELECT {KLINE_COLUMNS} FROM {db}.klines FINAL WHERE exchange = {name} AND symbol IN ({})
           AND interval = '{}' AND {} ORDER BY symbol, open_time",
        quote_all(symbols.iter().map(Symbol::as_str)),
        Interval::M1,
        super::coverage::open_times(Range { first: since.micros(), last: i64::MAX }),
    );
    kline_rows(server.rows(&sql).await?, exchange)
}
