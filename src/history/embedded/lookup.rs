//! Reads rows by key, the latest rows, and rows by range. Each query by key does a bounded number of index look-ups per
//! key, for any number of symbols.

use rusqlite::{Connection, Row, params};

use crate::gap::Range;
use crate::history::trade_table::TradeTable;
use crate::history::{KlineRow, TradeRow, Watermark};
use crate::market::{Channel, Exchange, Interval, Kline, Side, Stream, Symbol, Timestamp, Trade, parse_decimal};

/// The columns of a trade. The last two are of aggregate trades only.
fn trade_columns(table: &TradeTable) -> String {
    let ids = if table.has_trade_ids() { "t.first_trade_id, t.last_trade_id" } else { "NULL, NULL" };
    format!(
        "t.symbol, t.{}, t.ts, t.received_at, t.price, t.quantity, t.side, t.is_backfilled, t.epoch, t.version, {ids}",
        table.id
    )
}

const KLINE_COLUMNS: &str = "k.symbol, k.interval, k.open_time, k.close_time, k.open, k.high, k.low, k.close, k.volume,
    k.quote_volume, k.trade_count, k.first_trade_id, k.last_trade_id, k.is_backfilled,
    k.version";

const WATERMARKS_KLINES: &str =
    "SELECT w.value ->> 0, k.open_time, k.open_time FROM json_each(?1) w CROSS JOIN klines k
        WHERE k.exchange = w.value ->> 1 AND k.symbol = w.value ->> 2 AND k.interval = w.value ->> 3 AND k.open_time =
          (SELECT open_time FROM klines WHERE exchange = w.value ->> 1 AND symbol = w.value ->> 2
           AND interval = w.value ->> 3 ORDER BY open_time DESC LIMIT 1)";

/// The SQL expression of the epoch to read of a stream: `epoch` if it is given, else the newest one. The parts of the
/// stream's name are SQL.
pub(super) fn epoch_sql(epoch: Option<i64>, exchange: &str, symbol: &str, channel: &str) -> String {
    epoch.map_or_else(
        || {
            format!(
                "(SELECT ifnull(max(epoch), 0) FROM epochs
                  WHERE exchange = {exchange} AND symbol = {symbol} AND channel = {channel})"
            )
        },
        |epoch| epoch.to_string(),
    )
}

fn epoch_of_table(epoch: Option<i64>, exchange: &str, symbol: &str, table: &TradeTable) -> String {
    epoch_sql(epoch, exchange, symbol, &format!("'{}'", table.channel))
}

fn watermarks_of_trades(epoch: Option<i64>, table: &TradeTable) -> String {
    let TradeTable { name, id, .. } = table;
    let epoch = epoch_of_table(epoch, "w.value ->> 1", "w.value ->> 2", table);
    format!(
        "SELECT w.value ->> 0, t.{id}, t.ts FROM json_each(?1) w CROSS JOIN {name} t
         WHERE t.exchange = w.value ->> 1 AND t.symbol = w.value ->> 2 AND t.epoch = {epoch} AND t.{id} =
           (SELECT {id} FROM {name} WHERE exchange = w.value ->> 1 AND symbol = w.value ->> 2 AND epoch = {epoch}
            ORDER BY {id} DESC LIMIT 1)"
    )
}

/// The highest stored position of each stream that has rows.
pub(super) fn watermarks(
    connection: &Connection,
    streams: &[Stream],
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<Watermark>> {
    let wanted = |of: &dyn Fn(Channel) -> bool| {
        let of_kind = streams.iter().enumerate().filter(|(_, stream)| of(stream.channel));
        let keys = of_kind.map(|(index, stream)| match stream.channel {
            Channel::Kline(interval) => {
                serde_json::json!([index, stream.exchange.as_str(), stream.symbol.as_str(), interval.as_str()])
            }
            _ => serde_json::json!([index, stream.exchange.as_str(), stream.symbol.as_str()]),
        });
        serde_json::Value::Array(keys.collect()).to_string()
    };
    let of_klines = (WATERMARKS_KLINES.to_owned(), wanted(&|channel| matches!(channel, Channel::Kline(_))));
    let of_trades =
        TradeTable::ALL.map(|table| (watermarks_of_trades(epoch, table), wanted(&|channel| channel == table.channel)));
    let mut found = Vec::new();
    for (query, keys) in of_trades.into_iter().chain([of_klines]) {
        if keys == "[]" {
            continue;
        }
        let mut select = connection.prepare_cached(&query)?;
        let mut rows = select.query([keys])?;
        while let Some(row) = rows.next()? {
            let index: u32 = row.get(0)?;
            let stream = streams[index as usize].clone();
            found.push(Watermark { stream, position: row.get(1)?, ts: Timestamp(row.get(2)?) });
        }
    }
    Ok(found)
}

fn latest_trades_query(epoch: Option<i64>, table: &TradeTable) -> String {
    let TradeTable { name, id, .. } = table;
    let epoch = epoch_of_table(epoch, "?1", "w.value", table);
    format!(
        "SELECT {} FROM json_each(?2) w CROSS JOIN {name} t
         WHERE t.exchange = ?1 AND t.symbol = w.value AND t.epoch = {epoch} AND t.{id} =
           (SELECT {id} FROM {name} WHERE exchange = ?1 AND symbol = w.value AND epoch = {epoch}
            ORDER BY {id} DESC LIMIT 1)",
        trade_columns(table)
    )
}

fn latest_klines_query() -> String {
    format!(
        "SELECT {KLINE_COLUMNS} FROM json_each(?2) s CROSS JOIN json_each(?3) i CROSS JOIN klines k
         WHERE k.exchange = ?1 AND k.symbol = s.value AND k.interval = i.value AND k.open_time =
           (SELECT open_time FROM klines WHERE exchange = ?1 AND symbol = s.value AND interval = i.value
            ORDER BY open_time DESC LIMIT 1)"
    )
}

/// The trade with the highest id of each symbol that has one.
pub(super) fn latest_trades(
    connection: &Connection,
    (exchange, channel): (Exchange, Channel),
    symbols: &[Symbol],
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<TradeRow>> {
    let Some(table) = TradeTable::of(channel) else { return Ok(Vec::new()) };
    let keys: Vec<&str> = symbols.iter().map(Symbol::as_str).collect();
    let query = latest_trades_query(epoch, table);
    let mut select = connection.prepare_cached(&query)?;
    let rows = select
        .query_map(params![exchange.as_str(), serde_json::json!(keys).to_string()], |row| trade_row(row, exchange))?;
    rows.collect()
}

/// The latest closed kline of each symbol and interval that has one.
pub(super) fn latest_klines(
    connection: &Connection,
    exchange: Exchange,
    symbols: &[Symbol],
    intervals: &[Interval],
) -> rusqlite::Result<Vec<KlineRow>> {
    let symbols: Vec<&str> = symbols.iter().map(Symbol::as_str).collect();
    let intervals: Vec<&str> = intervals.iter().map(|interval| interval.as_str()).collect();
    let query = latest_klines_query();
    let mut select = connection.prepare_cached(&query)?;
    let keys =
        params![exchange.as_str(), serde_json::json!(symbols).to_string(), serde_json::json!(intervals).to_string()];
    let rows = select.query_map(keys, |row| kline_row(row, exchange))?;
    rows.collect()
}

/// The stored trades with exactly these ids.
pub(super) fn trades_by_id(
    connection: &Connection,
    (exchange, channel): (Exchange, Channel),
    keys: &[(Symbol, i64)],
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<TradeRow>> {
    let Some(table) = TradeTable::of(channel) else { return Ok(Vec::new()) };
    let keys: Vec<(&str, i64)> = keys.iter().map(|(symbol, id)| (symbol.as_str(), *id)).collect();
    let query = format!(
        "SELECT {} FROM json_each(?2) w CROSS JOIN {} t
         WHERE t.exchange = ?1 AND t.symbol = w.value ->> 0 AND t.epoch = {} AND t.{} = w.value ->> 1",
        trade_columns(table),
        table.name,
        epoch_of_table(epoch, "?1", "w.value ->> 0", table),
        table.id
    );
    let mut select = connection.prepare_cached(&query)?;
    let rows = select
        .query_map(params![exchange.as_str(), serde_json::json!(keys).to_string()], |row| trade_row(row, exchange))?;
    rows.collect()
}

/// The stored klines with exactly these open times.
pub(super) fn klines_by_time(
    connection: &Connection,
    exchange: Exchange,
    keys: &[(Symbol, Interval, Timestamp)],
) -> rusqlite::Result<Vec<KlineRow>> {
    let keys: Vec<(&str, &str, i64)> =
        keys.iter().map(|(symbol, interval, time)| (symbol.as_str(), interval.as_str(), time.micros())).collect();
    let query = format!(
        "SELECT {KLINE_COLUMNS} FROM json_each(?2) w CROSS JOIN klines k
         WHERE k.exchange = ?1 AND k.symbol = w.value ->> 0 AND k.interval = w.value ->> 1
           AND k.open_time = w.value ->> 2"
    );
    let mut select = connection.prepare_cached(&query)?;
    let rows = select
        .query_map(params![exchange.as_str(), serde_json::json!(keys).to_string()], |row| kline_row(row, exchange))?;
    rows.collect()
}

/// The stored trades with ids in `range`, ascending.
pub(super) fn trades(
    connection: &Connection,
    stream: &Stream,
    range: Range,
    limit: usize,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<TradeRow>> {
    let Some(table) = TradeTable::of(stream.channel) else { return Ok(Vec::new()) };
    let query = format!(
        "SELECT {} FROM {name} t WHERE t.exchange = ?1 AND t.symbol = ?2 AND t.epoch = {}
           AND t.{id} BETWEEN ?3 AND ?4 ORDER BY t.{id} LIMIT ?5",
        trade_columns(table),
        epoch_of_table(epoch, "?1", "?2", table),
        name = table.name,
        id = table.id
    );
    let mut select = connection.prepare_cached(&query)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map(
        params![stream.exchange.as_str(), stream.symbol.as_str(), range.first, range.last, limit],
        |row| trade_row(row, stream.exchange),
    )?;
    rows.collect()
}

/// The stored klines with open times in `range`, ascending.
pub(super) fn klines(
    connection: &Connection,
    stream: &Stream,
    interval: Interval,
    range: Range,
    limit: usize,
) -> rusqlite::Result<Vec<KlineRow>> {
    let query = format!(
        "SELECT {KLINE_COLUMNS} FROM klines k WHERE k.exchange = ?1 AND k.symbol = ?2 AND k.interval = ?3
           AND k.open_time BETWEEN ?4 AND ?5 ORDER BY k.open_time LIMIT ?6"
    );
    let mut select = connection.prepare_cached(&query)?;
    let (exchange, symbol) = (stream.exchange.as_str(), stream.symbol.as_str());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select
        .query_map(params![exchange, symbol, interval.as_str(), range.first, range.last, limit], |row| {
            kline_row(row, stream.exchange)
        })?;
    rows.collect()
}

/// The one-minute klines of these symbols that opened at `since` or later. One query per symbol is cheap in a local
/// file.
pub(super) fn minute_klines(
    connection: &Connection,
    exchange: Exchange,
    symbols: &[Symbol],
    since: Timestamp,
) -> rusqlite::Result<Vec<KlineRow>> {
    let range = Range { first: since.micros(), last: i64::MAX };
    let mut rows = Vec::new();
    for symbol in symbols {
        let stream = Stream::new(exchange, symbol.clone(), Channel::Kline(Interval::M1));
        rows.append(&mut klines(connection, &stream, Interval::M1, range, usize::MAX)?);
    }
    Ok(rows)
}

fn trade_row(row: &Row<'_>, exchange: Exchange) -> rusqlite::Result<TradeRow> {
    let trade = Trade {
        id: row.get(1)?,
        ts: Timestamp(row.get(2)?),
        price: read(row, 4, parse_decimal)?,
        quantity: read(row, 5, parse_decimal)?,
        side: read(row, 6, |text| text.parse::<Side>().ok())?,
        trade_ids: row.get::<_, Option<i64>>(10)?.zip(row.get::<_, Option<i64>>(11)?),
    };
    Ok(TradeRow {
        exchange,
        symbol: Symbol::new(row.get_ref(0)?.as_str()?),
        trade,
        received_at: Timestamp(row.get(3)?),
        is_backfilled: row.get(7)?,
        epoch: row.get(8)?,
        version: row.get(9)?,
    })
}

fn kline_row(row: &Row<'_>, exchange: Exchange) -> rusqlite::Result<KlineRow> {
    let kline = Kline {
        interval: read(row, 1, |text| text.parse().ok())?,
        open_time: Timestamp(row.get(2)?),
        close_time: Timestamp(row.get(3)?),
        open: read(row, 4, parse_decimal)?,
        high: read(row, 5, parse_decimal)?,
        low: read(row, 6, parse_decimal)?,
        close: read(row, 7, parse_decimal)?,
        volume: read(row, 8, parse_decimal)?,
        quote_volume: read(row, 9, parse_decimal)?,
        trade_count: row.get(10)?,
        first_trade_id: row.get(11)?,
        last_trade_id: row.get(12)?,
        // Only closed klines are stored.
        closed: true,
    };
    Ok(KlineRow {
        exchange,
        symbol: Symbol::new(row.get_ref(0)?.as_str()?),
        kline,
        is_backfilled: row.get(13)?,
        version: row.get(14)?,
    })
}

/// Parses a text column. Fails on an invalid text, which means that the row is damaged.
pub(super) fn read<T>(row: &Row<'_>, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        let name = row.as_ref().column_name(column).unwrap_or_default().to_owned();
        let what = format!("invalid text {text:?} in column {name}");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::embedded::schema::SCHEMA;

    /// The query plan of SQLite.
    fn plan(connection: &Connection, query: &str) -> String {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let mut rows = explain.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get::<_, String>(3).unwrap());
        }
        lines.join("\n")
    }

    #[test]
    fn the_latest_rows_are_found_by_the_primary_key_without_a_scan() {
        let directory = tempfile::tempdir().unwrap();
        let connection = SCHEMA.open(&directory.path().join("history.db")).unwrap();
        for query in TradeTable::ALL
            .into_iter()
            .flat_map(|table| [watermarks_of_trades(None, table), latest_trades_query(None, table)])
            .chain([WATERMARKS_KLINES.to_owned(), latest_klines_query()])
        {
            let query = query.as_str();
            let plan = plan(&connection, query);
            for line in plan.lines().filter(|line| line.contains("SCAN")) {
                assert!(line.contains("VIRTUAL TABLE"), "{query}\n{plan}");
            }
            assert!(!plan.contains("TEMP B-TREE"), "{query}\n{plan}");
            assert!(plan.contains("PRIMARY KEY"), "{query}\n{plan}");
        }
    }
}
