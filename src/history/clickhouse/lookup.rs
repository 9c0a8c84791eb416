//! Reads rows by key, the latest rows, and rows by range. Each is one query for any number of symbols.

use clickhouse::Row;
use rust_decimal::Decimal;
use serde::Deserialize;

use super::server::{Server, quote, quote_all};
use crate::gap::Range;
use crate::history::trade_table::TradeTable;
use crate::history::{HistoryError, KlineRow, TradeRow, Watermark};
use crate::market::{Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, Trade, by_exchange, unscaled};

/// The columns of a trade. The last two are of aggregate trades only.
fn trade_columns(table: &TradeTable) -> String {
    let (first, last) =
        if table.has_trade_ids() { ("first_trade_id", "last_trade_id") } else { ("toInt64(-1)", "toInt64(-1)") };
    format!(
        "symbol, toInt64({}) AS id, ts, received_at, price, quantity, toString(side) AS taker, is_backfilled,
           toInt64(epoch) AS numbering, toInt64(version) AS revision,
           {first} AS first_trade, {last} AS last_trade",
        table.id
    )
}

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
    first_trade: i64,
    last_trade: i64,
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
    channel: String,
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
            trade_ids: (record.first_trade >= 0).then_some((record.first_trade, record.last_trade)),
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
pub(super) fn epoch_condition(server: &Server, exchange: Exchange, symbols: &str, table: &TradeTable) -> String {
    let (db, name, channel) = (&server.database, quote(exchange.as_str()), table.channel);
    server.epoch.map_or_else(
        || {
            format!(
                "(symbol, epoch) IN (SELECT s, max(e) FROM
                   (SELECT arrayJoin([{symbols}]) AS s, toUInt32(0) AS e
                    UNION ALL SELECT toString(symbol) AS s, epoch AS e FROM {db}.epochs
                      WHERE exchange = {name} AND channel = '{channel}')
                 GROUP BY s)"
            )
        },
        |epoch| format!("epoch = {epoch}"),
    )
}

/// The same for symbols of any exchange. `keys` is a list of (exchange, symbol).
pub(super) fn epoch_condition_of_keys(server: &Server, keys: &str, table: &TradeTable) -> String {
    server.epoch.map_or_else(
        || {
            format!(
                "(exchange, symbol, epoch) IN (SELECT x, s, max(e) FROM
                   (SELECT k.1 AS x, k.2 AS s, toUInt32(0) AS e FROM (SELECT arrayJoin([{keys}]) AS k)
                    UNION ALL SELECT toString(exchange) AS x, toString(symbol) AS s, epoch AS e FROM {}.epochs
                      WHERE channel = '{}')
                 GROUP BY x, s)",
                server.database, table.channel
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
        let of = |is_wanted: &dyn Fn(Channel) -> bool| {
            let wanted = streams.iter().filter(|stream| is_wanted(stream.channel));
            let mut symbols: Vec<&str> = wanted.map(|stream| stream.symbol.as_str()).collect();
            symbols.sort_unstable();
            symbols.dedup();
            quote_all(symbols)
        };
        let name = quote(exchange.as_str());
        let mut records: Vec<WatermarkRecord> = Vec::new();
        for table in TradeTable::ALL {
            let symbols = of(&|channel| channel == table.channel);
            if symbols.is_empty() {
                continue;
            }
            let TradeTable { channel, name: table_name, id } = table;
            let sql = format!(
                "SELECT symbol, '{channel}' AS channel, toInt64(max({id})) AS position, argMax(ts, ({id}, version)) AS at
                 FROM {db}.{table_name} WHERE exchange = {name} AND symbol IN ({symbols}) AND {} GROUP BY symbol",
                epoch_condition(server, exchange, &symbols, table)
            );
            records.extend(server.rows::<WatermarkRecord>(&sql).await?);
        }
        let klines = of(&|channel| matches!(channel, Channel::Kline(_)));
        if !klines.is_empty() {
            let sql = format!(
                "SELECT symbol, concat('kline_', interval) AS channel,
                   toUnixTimestamp64Micro(max(open_time)) AS position, max(open_time) AS at
                 FROM {db}.klines WHERE exchange = {name} AND symbol IN ({klines}) GROUP BY symbol, interval"
            );
            records.extend(server.rows::<WatermarkRecord>(&sql).await?);
        }
        for WatermarkRecord { symbol, channel, position, at } in records {
            // A kline of an interval that this program does not know was not asked for.
            let Ok(channel) = channel.parse() else { continue };
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
    channel: Channel,
    symbols: &[Symbol],
) -> Result<Vec<TradeRow>, HistoryError> {
    let Some(table) = TradeTable::of(channel).filter(|_| !symbols.is_empty()) else { return Ok(Vec::new()) };
    let TradeTable { name: table_name, id, .. } = table;
    let (db, name) = (&server.database, quote(exchange.as_str()));
    let symbols = quote_all(symbols.iter().map(Symbol::as_str));
    let epoch = epoch_condition(server, exchange, &symbols, table);
    let sql = format!(
        "SELECT {} FROM {db}.{table_name} FINAL WHERE exchange = {name} AND (symbol, epoch, {id}) IN
           (SELECT symbol, epoch, max({id}) FROM {db}.{table_name}
            WHERE exchange = {name} AND symbol IN ({symbols}) AND {epoch} GROUP BY symbol, epoch)",
        trade_columns(table)
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
    channel: Channel,
    wanted: &[(Symbol, i64)],
) -> Result<Vec<TradeRow>, HistoryError> {
    let Some(table) = TradeTable::of(channel) else { return Ok(Vec::new()) };
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
    let epoch = epoch_condition(server, exchange, &quote_all(symbols), table);
    let (db, name, keys) = (&server.database, quote(exchange.as_str()), keys.join(","));
    let sql = format!(
        "SELECT {} FROM {db}.{} FINAL WHERE exchange = {name} AND (symbol, {}) IN ({keys}) AND {epoch}",
        trade_columns(table),
        table.name,
        table.id
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
    let Some(table) = TradeTable::of(stream.channel) else { return Ok(Vec::new()) };
    let TradeTable { name, id, .. } = table;
    let sql = format!(
        "SELECT {} FROM {db}.{name} FINAL WHERE exchange = {exchange} AND symbol = {symbol}
           AND {} AND {id} BETWEEN {} AND {} ORDER BY {id} LIMIT {}",
        trade_columns(table),
        epoch_condition(server, stream.exchange, &symbol, table),
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
