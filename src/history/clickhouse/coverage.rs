//! Which positions of a stream are stored: counts, extent, missing ranges, days. Each is one query.

use clickhouse::Row;
use serde::Deserialize;

use super::lookup::{epoch_condition, epoch_condition_of_keys};
use super::server::{Server, quote, time};
use crate::gap::Range;
use crate::history::trade_table::TradeTable;
use crate::history::{Count, CoverageDay, HistoryError};
use crate::market::{Channel, DAY_US, Stream, Symbol, Timestamp};

/// The parts of a query that depend on the channel of the stream.
struct Series {
    table: &'static str,
    /// The condition on the key without the position.
    key: String,
    /// The column of the position, and the expression of the position, an Int64.
    column: &'static str,
    position: String,
    channel: Channel,
}

#[derive(Debug, Row, Deserialize)]
struct CountRecord {
    present: i64,
    backfilled: i64,
}

#[derive(Debug, Row, Deserialize)]
struct ExtentRecord {
    first: i64,
    last: i64,
    present: i64,
}

#[derive(Debug, Row, Deserialize)]
struct DayRecord {
    exchange: String,
    symbol: String,
    channel: String,
    day: i64,
    first: i64,
    last: i64,
    present: i64,
    backfilled: i64,
}

/// The last time that the columns' type can hold, in 2299.
const LAST: i64 = 10_413_791_999_000_000;

/// The SQL condition that an open time lies in `range`.
pub(super) fn open_times(range: Range) -> String {
    let [first, last] = [range.first, range.last].map(|at| time(Timestamp(at.clamp(0, LAST))));
    if range.last < 0 { "0".to_owned() } else { format!("open_time BETWEEN {first} AND {last}") }
}

impl Series {
    fn of(server: &Server, stream: &Stream) -> Option<Self> {
        let key =
            format!("exchange = {} AND symbol = {}", quote(stream.exchange.as_str()), quote(stream.symbol.as_str()));
        let channel = stream.channel;
        if let Channel::Kline(interval) = channel {
            return Some(Self {
                table: "klines",
                key: format!("{key} AND interval = '{interval}'"),
                column: "open_time",
                position: "toUnixTimestamp64Micro(open_time)".to_owned(),
                channel,
            });
        }
        let table = TradeTable::of(channel)?;
        let epoch = epoch_condition(server, stream.exchange, &quote(stream.symbol.as_str()), table);
        Some(Self {
            table: table.name,
            key: format!("{key} AND {epoch}"),
            column: table.id,
            position: format!("toInt64({})", table.id),
            channel,
        })
    }

    /// The SQL condition on the key with a position in `range`. It uses the columns themselves, so that the primary
    /// index applies.
    fn within(&self, range: Range) -> String {
        let Self { key, column, .. } = self;
        match self.channel {
            Channel::Kline(_) => format!("{key} AND {}", open_times(range)),
            _ => format!("{key} AND {column} BETWEEN {} AND {}", range.first.max(0), range.last),
        }
    }
}

/// The number of stored positions in `range`.
pub(super) async fn count(server: &Server, stream: &Stream, range: Range) -> Result<Count, HistoryError> {
    let Some(series) = Series::of(server, stream) else { return Ok(Count::default()) };
    let sql = format!(
        "SELECT toInt64(count()) AS present, toInt64(sum(is_backfilled)) AS backfilled FROM {}.{} FINAL WHERE {}",
        server.database,
        series.table,
        series.within(range)
    );
    let CountRecord { present, backfilled } = server.one(&sql).await?;
    Ok(Count { present, backfilled })
}

/// The first and last stored position.
pub(super) async fn extent(server: &Server, stream: &Stream) -> Result<Option<Range>, HistoryError> {
    let Some(Series { table, key, position, .. }) = Series::of(server, stream) else { return Ok(None) };
    let sql = format!(
        "SELECT min({position}) AS first, max({position}) AS last, toInt64(count()) AS present FROM {}.{table}
         WHERE {key}",
        server.database
    );
    let ExtentRecord { first, last, present } = server.one(&sql).await?;
    Ok((present > 0).then_some(Range { first, last }))
}

/// The ranges inside `range` that are not stored, ascending, at most `limit`. The server compares each stored position
/// with the previous one, and returns only the pairs that are not consecutive.
pub(super) async fn missing(
    server: &Server,
    stream: &Stream,
    range: Range,
    limit: usize,
) -> Result<Vec<Range>, HistoryError> {
    let (Some(series), Some(step)) = (Series::of(server, stream), stream.channel.step()) else { return Ok(Vec::new()) };
    if limit == 0 {
        return Ok(Vec::new());
    }
    // An artificial position on each side bounds the missing ranges at the ends. It may overflow an i64, hence 128
    // bits.
    let (before, after) = (i128::from(range.first) - i128::from(step), i128::from(range.last) + i128::from(step));
    let sql = format!(
        "SELECT toInt64(previous + {step}) AS first, toInt64(position - {step}) AS last FROM
           (SELECT position, lagInFrame(position, 1, toInt128({before})) OVER
              (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS previous
            FROM (SELECT DISTINCT toInt128({}) AS position FROM {}.{} WHERE {}
                  UNION ALL SELECT toInt128({after}) AS position))
         WHERE position - previous > {step} ORDER BY first LIMIT {}",
        series.position,
        server.database,
        series.table,
        series.within(range),
        super::limit(limit)
    );
    let ranges: Vec<MissingRange> = server.rows(&sql).await?;
    Ok(ranges.into_iter().filter_map(|range| Range::new(range.first, range.last)).collect())
}

#[derive(Debug, Row, Deserialize)]
struct MissingRange {
    first: i64,
    last: i64,
}

/// Rows per stream and UTC day. The tables are partitioned by day, so the server does not read older days.
pub(super) async fn days(
    server: &Server,
    streams: &[Stream],
    first_day: Option<i64>,
) -> Result<Vec<(Stream, CoverageDay)>, HistoryError> {
    let since = first_day.map(|day| Timestamp(day.saturating_mul(DAY_US).clamp(0, LAST)));
    let not_before = |column: &str| since.map_or_else(String::new, |since| format!(" AND {column} >= {}", time(since)));
    let mut all = Vec::new();
    for table in TradeTable::ALL {
        let keys: Vec<String> = streams.iter().filter(|stream| stream.channel == table.channel).map(key).collect();
        if keys.is_empty() {
            continue;
        }
        let keys = keys.join(",");
        let TradeTable { channel, name, id } = table;
        let sql = format!(
            "SELECT exchange, symbol, '{channel}' AS channel, intDiv(toUnixTimestamp64Micro(ts), {DAY_US}) AS day,
               min(toInt64({id})) AS first, max(toInt64({id})) AS last, toInt64(count()) AS present,
               toInt64(sum(is_backfilled)) AS backfilled
             FROM {}.{name} FINAL WHERE (exchange, symbol) IN ({keys}) AND {}{}
             GROUP BY exchange, symbol, day ORDER BY exchange, symbol, day",
            server.database,
            epoch_condition_of_keys(server, &keys, table),
            not_before("ts")
        );
        all.append(&mut server.rows::<DayRecord>(&sql).await?);
    }
    let klines: Vec<String> = streams.iter().filter_map(kline_key).collect();
    if !klines.is_empty() {
        let sql = format!(
            "SELECT exchange, symbol, concat('kline_', interval) AS channel,
               intDiv(toUnixTimestamp64Micro(open_time), {DAY_US}) AS day,
               min(toUnixTimestamp64Micro(open_time)) AS first, max(toUnixTimestamp64Micro(open_time)) AS last,
               toInt64(count()) AS present, toInt64(sum(is_backfilled)) AS backfilled
             FROM {}.klines FINAL WHERE (exchange, symbol, interval) IN ({}){}
             GROUP BY exchange, symbol, interval, day ORDER BY exchange, symbol, interval, day",
            server.database,
            klines.join(","),
            not_before("open_time")
        );
        all.append(&mut server.rows::<DayRecord>(&sql).await?);
    }
    all.into_iter().map(day).collect()
}

pub(super) fn key(stream: &Stream) -> String {
    format!("({},{})", quote(stream.exchange.as_str()), quote(stream.symbol.as_str()))
}

pub(super) fn kline_key(stream: &Stream) -> Option<String> {
    let Channel::Kline(interval) = stream.channel else { return None };
    Some(format!("({},{},'{interval}')", quote(stream.exchange.as_str()), quote(stream.symbol.as_str())))
}

fn day(record: DayRecord) -> Result<(Stream, CoverageDay), HistoryError> {
    let DayRecord { exchange, symbol, channel, day, first, last, present, backfilled } = record;
    let invalid = |what: &str| HistoryError::Data(format!("a row has an invalid {what}"));
    let exchange = exchange.parse().map_err(|_| invalid("exchange"))?;
    let channel = channel.parse().map_err(|()| invalid("interval"))?;
    let stream = Stream::new(exchange, Symbol::new(&symbol), channel);
    Ok((stream, CoverageDay { day, first, last, present, backfilled }))
}
