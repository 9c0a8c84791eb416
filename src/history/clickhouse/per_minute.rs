//! Counts rows per minute. The tables are partitioned by day, so the server reads only the last days.

use clickhouse::Row;
use serde::Deserialize;

use super::lookup::epoch_condition_of_keys;
use super::server::{Server, quote, time};
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
    let (mut trades, mut klines) = (Vec::new(), Vec::new());
    for stream in streams {
        let (exchange, symbol) = (quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
        match stream.channel {
            Channel::Trade => trades.push(format!("({exchange},{symbol})")),
            Channel::Kline(interval) => klines.push(format!("({exchange},{symbol},'{interval}')")),
            Channel::BookTicker => {}
        }
    }
    let mut all = Vec::new();
    let kinds = [
        ("trades", "'trade'", "ts", "(exchange, symbol)", trades),
        ("klines", "concat('kline_', interval)", "open_time", "(exchange, symbol, interval)", klines),
    ];
    for (table, channel, at, key, keys) in kinds {
        if keys.is_empty() {
            continue;
        }
        let keys = keys.join(",");
        let epoch = match table {
            "trades" => format!(" AND {}", epoch_condition_of_keys(server, &keys)),
            _ => String::new(),
        };
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
