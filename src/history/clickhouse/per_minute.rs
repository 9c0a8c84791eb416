//! Counts rows per minute. The tables are partitioned by day, so the server reads only the last days.

use clickhouse::Row;
use serde::Deserialize;

use super::coverage::{key, kline_key};
use super::lookup::epoch_condition_of_keys;
use super::server::{Server, time};
use crate::history::trade_table::TradeTable;
use crate::history::{HistoryError, MinuteCount};
use crate::market::{Channel, Interval, Stream, Symbol, Timestamp};

#[derive(Debug, Row, Deserialize)]
struct MinuteRecord {
    exchange: String,
    symbol: String,
    channel: String,
    minute: i64,
    present: i64,
    backfilled: i64,
}

/// Rows per stream and UTC minute, for exchange times at `since` or later.
pub(super) async fn per_minute(
    server: &Server,
    streams: &[Stream],
    since: Timestamp,
) -> Result<Vec<(Stream, MinuteCount)>, HistoryError> {
    let keys_of = |of: &dyn Fn(Channel) -> bool| -> Vec<String> {
        let wanted = streams.iter().filter(|stream| of(stream.channel));
        wanted.map(|stream| kline_key(stream).unwrap_or_else(|| key(stream))).collect()
    };
    let mut all = Vec::new();
    let trades = TradeTable::ALL.map(|table| {
        let channel = format!("'{}'", table.channel);
        (table.name, channel, "ts", "(exchange, symbol)", keys_of(&|channel| channel == table.channel), Some(table))
    });
    let klines = keys_of(&|channel| matches!(channel, Channel::Kline(_)));
    let channel = "concat('kline_', interval)".to_owned();
    let klines = ("klines", channel, "open_time", "(exchange, symbol, interval)", klines, None);
    for (table, channel, at, key, keys, of_trades) in trades.into_iter().chain([klines]) {
        if keys.is_empty() {
            continue;
        }
        let keys = keys.join(",");
        let epoch = of_trades
            .map_or_else(String::new, |table| format!(" AND {}", epoch_condition_of_keys(server, &keys, table)));
        let sql = format!(
            "SELECT exchange, symbol, {channel} AS channel,
               intDiv(toUnixTimestamp64Micro({at}), {}) AS minute,
               toInt64(count()) AS present, toInt64(sum(is_backfilled)) AS backfilled
             FROM {}.{table} FINAL WHERE {key} IN ({keys}) AND {at} >= {}{epoch}
             GROUP BY exchange, symbol, channel, minute ORDER BY exchange, symbol, channel, minute",
            Interval::M1.micros(),
            server.database,
            time(since)
        );
        all.append(&mut server.rows::<MinuteRecord>(&sql).await?);
    }
    all.into_iter().map(minute).collect()
}

fn minute(record: MinuteRecord) -> Result<(Stream, MinuteCount), HistoryError> {
    let MinuteRecord { exchange, symbol, channel, minute, present, backfilled } = record;
    let invalid = |what: &str| HistoryError::Data(format!("a row has an invalid {what}"));
    let exchange = exchange.parse().map_err(|_| invalid("exchange"))?;
    let channel = channel.parse().map_err(|()| invalid("interval"))?;
    let stream = Stream::new(exchange, Symbol::new(&symbol), channel);
    Ok((stream, MinuteCount { minute, present, backfilled }))
}
