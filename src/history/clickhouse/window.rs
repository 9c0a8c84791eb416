//! The rows of each stream within a window of time, and the missing ranges of many streams: a constant number of queries
//! for any number of streams.

use std::collections::{BTreeMap, HashMap};

use clickhouse::Row;
use serde::Deserialize;

use super::coverage::{key, kline_key, open_times};
use super::lookup::epoch_condition_of_keys;
use super::server::{Server, quote, time};
use crate::gap::Range;
use crate::history::trade_table::TradeTable;
use crate::history::{HistoryError, WindowCount};
use crate::market::{Channel, Stream, Symbol, Timestamp};

/// The last time that the columns' type can hold, in 2299.
const LAST: i64 = 10_413_791_999_000_000;

/// The parts of a query that depend on the kind of the streams.
struct Kind {
    table: &'static str,
    /// The columns of the key without the position.
    key: &'static str,
    /// The expression of the channel.
    channel: &'static str,
    position: &'static str,
    position_column: &'static str,
    time: &'static str,
}

static TRADES: Kind = Kind {
    table: "trades",
    key: "exchange, symbol",
    channel: "'trade'",
    position: "toInt64(trade_id)",
    position_column: "trade_id",
    time: "ts",
};
static AGG_TRADES: Kind = Kind {
    table: "agg_trades",
    channel: "'agg_trade'",
    position: "toInt64(agg_id)",
    position_column: "agg_id",
    ..TRADES
};
static KLINES: Kind = Kind {
    table: "klines",
    key: "exchange, symbol, interval",
    channel: "concat('kline_', interval)",
    position: "toUnixTimestamp64Micro(open_time)",
    position_column: "open_time",
    time: "open_time",
};

impl Kind {
    fn of(stream: &Stream) -> &'static Self {
        match stream.channel {
            Channel::Trade => &TRADES,
            Channel::AggTrade => &AGG_TRADES,
            Channel::Kline(_) | Channel::BookTicker => &KLINES,
        }
    }

    /// The condition on the epoch of these streams' rows.
    fn epoch<'a>(&self, server: &Server, streams: impl Iterator<Item = &'a Stream>) -> String {
        let Some(table) = TradeTable::ALL.into_iter().find(|table| table.name == self.table) else {
            return "1".to_owned();
        };
        epoch_condition_of_keys(server, &streams.map(key).collect::<Vec<_>>().join(","), table)
    }

    /// The condition on the key of one stream, without its epoch: one for each stream would be a subquery for each.
    fn condition(&self, stream: &Stream) -> String {
        let (exchange, symbol) = (quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
        let interval = match stream.channel {
            Channel::Kline(interval) => format!(" AND interval = '{interval}'"),
            _ => String::new(),
        };
        format!("exchange = {exchange} AND symbol = {symbol}{interval}")
    }

    /// The condition that a position lies in `range`. It uses the columns themselves, so that the primary index applies.
    fn within(&self, range: Range) -> String {
        if self.table == KLINES.table {
            return open_times(range);
        }
        format!("{} BETWEEN {} AND {}", self.position_column, range.first.max(0), range.last)
    }

    fn key_of(&self, stream: &Stream) -> Option<String> {
        if self.table == KLINES.table { kline_key(stream) } else { Some(key(stream)) }
    }
}

#[derive(Debug, Row, Deserialize)]
struct WindowRecord {
    exchange: String,
    symbol: String,
    channel: String,
    first: i64,
    last: i64,
    present: i64,
}

#[derive(Debug, Row, Deserialize)]
struct LastRecord {
    exchange: String,
    symbol: String,
    channel: String,
    last: i64,
}

#[derive(Debug, Row, Deserialize)]
struct MissingRecord {
    exchange: String,
    symbol: String,
    first: i64,
    last: i64,
}

fn stream(exchange: &str, symbol: &str, channel: &str) -> Result<Stream, HistoryError> {
    let invalid = |what: &str| HistoryError::Data(format!("a row has an invalid {what}"));
    let exchange = exchange.parse().map_err(|_| invalid("exchange"))?;
    Ok(Stream::new(exchange, Symbol::new(symbol), channel.parse().map_err(|()| invalid("channel"))?))
}

/// The rows of each stream with exchange times in `[from, to)`; only streams that have some. At most three queries for
/// each table. The tables are partitioned by day, so the server reads the days of the window.
pub(super) async fn windows(
    server: &Server,
    streams: &[Stream],
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<(Stream, WindowCount)>, HistoryError> {
    let [from, to] = [from, to].map(|at| time(Timestamp(at.micros().clamp(0, LAST))));
    let mut all = Vec::new();
    for kind in [&TRADES, &AGG_TRADES, &KLINES] {
        let of_kind = || streams.iter().filter(|stream| Kind::of(stream).table == kind.table);
        let keys: Vec<String> = of_kind().filter_map(|stream| kind.key_of(stream)).collect();
        if keys.is_empty() {
            continue;
        }
        let Kind { table, key, channel, position, position_column, time: at } = kind;
        // Without FINAL, which would merge whole days: copies are counted once.
        let sql = format!(
            "SELECT exchange, symbol, {channel} AS channel, min({position}) AS first, max({position}) AS last,
               toInt64(uniqExact({position_column})) AS present
             FROM {}.{table} WHERE ({key}) IN ({}) AND {at} >= {from} AND {at} < {to} AND {} GROUP BY {key}",
            server.database,
            keys.join(","),
            kind.epoch(server, of_kind())
        );
        let mut found = Vec::new();
        for WindowRecord { exchange, symbol, channel, first, last, present } in server.rows(&sql).await? {
            found.push((stream(&exchange, &symbol, &channel)?, WindowCount { range: Range { first, last }, present }));
        }
        let before = before(server, kind, &found).await?;
        for (stream, mut count) in found {
            let step = stream.channel.step().unwrap_or(1);
            if let Some(last) = before.get(&stream) {
                count.range.first = last.saturating_add(step).min(count.range.first);
            }
            all.push((stream, count));
        }
    }
    Ok(all)
}

/// The last position before the first one of each stream. Almost always that is the position before it: the server looks
/// for exactly these first, by the primary key.
async fn before(
    server: &Server,
    kind: &Kind,
    found: &[(Stream, WindowCount)],
) -> Result<HashMap<Stream, i64>, HistoryError> {
    let Kind { table, key, channel, position, position_column, .. } = kind;
    let literal = |position: i64| match position_column {
        &"open_time" => time(Timestamp(position.clamp(0, LAST))),
        _ => position.max(0).to_string(),
    };
    let select = format!(
        "SELECT exchange, symbol, {channel} AS channel, max({position}) AS last FROM {}.{table}",
        server.database
    );
    let mut last = HashMap::new();
    let mut ask = async |condition: String| -> Result<HashMap<Stream, i64>, HistoryError> {
        for record in server.rows::<LastRecord>(&format!("{select} WHERE {condition} GROUP BY {key}")).await? {
            last.insert(stream(&record.exchange, &record.symbol, &record.channel)?, record.last);
        }
        Ok(last.clone())
    };
    let neighbours: Vec<String> = found
        .iter()
        .filter_map(|(stream, count)| {
            let before = count.range.first.checked_sub(stream.channel.step()?)?;
            let key = kind.key_of(stream)?;
            (before >= 0).then(|| format!("{},{})", key.trim_end_matches(')'), literal(before)))
        })
        .collect();
    if neighbours.is_empty() {
        return Ok(HashMap::new());
    }
    let epoch = kind.epoch(server, found.iter().map(|(stream, _)| stream));
    let known = ask(format!("({key}, {position_column}) IN ({}) AND {epoch}", neighbours.join(","))).await?;
    let others: Vec<String> = found
        .iter()
        .filter(|(stream, count)| !known.contains_key(stream) && count.range.first > 0)
        .map(|(stream, count)| {
            format!("({} AND {position_column} < {})", kind.condition(stream), literal(count.range.first))
        })
        .collect();
    if others.is_empty() { Ok(known) } else { ask(format!("({}) AND {epoch}", others.join(" OR "))).await }
}

/// The missing ranges of each stream in its range, at most `limit` of each: one query for trades, and one for the klines
/// of each interval. The server compares each stored position with the one before it.
pub(super) async fn missing_each(
    server: &Server,
    ranges: &[(Stream, Range)],
    limit: usize,
) -> Result<Vec<(Stream, Range)>, HistoryError> {
    let mut of_channels: BTreeMap<&str, Vec<&(Stream, Range)>> = BTreeMap::new();
    for part in ranges {
        of_channels.entry(part.0.channel.as_str()).or_default().push(part);
    }
    let mut all = Vec::new();
    for (channel, parts) in of_channels {
        let Some(step) = parts[0].0.channel.step().filter(|_| limit > 0) else { continue };
        let kind = Kind::of(&parts[0].0);
        let Kind { table, position, .. } = kind;
        let condition = |part: &&(Stream, Range)| format!("({} AND {})", kind.condition(&part.0), kind.within(part.1));
        let conditions: Vec<String> = parts.iter().map(condition).collect();
        // An artificial position on each side bounds the missing ranges at the ends. It may overflow an i64, hence 128
        // bits.
        let bounds: Vec<String> = parts
            .iter()
            .flat_map(|(stream, range)| {
                let (before, after) =
                    (i128::from(range.first) - i128::from(step), i128::from(range.last) + i128::from(step));
                let (exchange, symbol) = (quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
                [before, after].map(|at| format!("({exchange},{symbol},toInt128({at}))"))
            })
            .collect();
        let sql = format!(
            "SELECT exchange, symbol, toInt64(previous + {step}) AS first, toInt64(position - {step}) AS last FROM
               (SELECT exchange, symbol, position, lagInFrame(position, 1, position) OVER
                  (PARTITION BY exchange, symbol ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
                  AS previous
                FROM (SELECT DISTINCT toString(exchange) AS exchange, toString(symbol) AS symbol,
                        toInt128({position}) AS position FROM {}.{table} WHERE ({}) AND {}
                      UNION ALL SELECT bound.1, bound.2, bound.3 FROM (SELECT arrayJoin([{}]) AS bound)))
             WHERE position - previous > {step} ORDER BY exchange, symbol, first LIMIT {} BY exchange, symbol",
            server.database,
            conditions.join(" OR "),
            kind.epoch(server, parts.iter().map(|part| &part.0)),
            bounds.join(","),
            super::limit(limit)
        );
        for MissingRecord { exchange, symbol, first, last } in server.rows(&sql).await? {
            let stream = stream(&exchange, &symbol, channel)?;
            all.extend(Range::new(first, last).map(|range| (stream, range)));
        }
    }
    Ok(all)
}
