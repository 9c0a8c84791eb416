//! Reads gaps, epochs and conflicts.

use clickhouse::Row;
use serde::Deserialize;

use super::server::{Server, quote, quote_all, time};
use crate::gap::{Gap, Range};
use crate::history::{ConflictRow, EpochRow, GapFilter, HistoryError};
use crate::market::{Stream, Symbol, Timestamp};

#[derive(Debug, Row, Deserialize)]
struct GapRecord {
    gap_id: String,
    exchange: String,
    symbol: String,
    channel: String,
    first_missing: i64,
    last_missing: i64,
    from_ts: Option<i64>,
    to_ts: Option<i64>,
    state: String,
    detected_at: i64,
    closed_at: Option<i64>,
    filled: i64,
    attempts: i64,
    reason: String,
    revision: i64,
    evidence: String,
    filled_by: String,
    filled_at: Option<i64>,
    numbering: i64,
}

/// The gaps that `filter` selects, newest first.
pub(super) async fn gaps(server: &Server, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
    let mut conditions = vec!["1".to_owned()];
    if filter.open_only {
        conditions.push("closed_at IS NULL".to_owned());
    }
    if let Some(symbol) = &filter.symbol {
        conditions.push(format!("symbol = {}", quote(symbol.as_str())));
    }
    if let Some(Stream { exchange, symbol, channel }) = &filter.stream {
        let names = quote_all([exchange.as_str(), symbol.as_str(), channel.as_str()]);
        conditions.push(format!("(exchange, symbol, channel) = ({names})"));
    }
    if let Some(Range { first, last }) = filter.range {
        conditions.push(format!("first_missing <= {last} AND last_missing >= {first}"));
    }
    if !filter.states.is_empty() {
        conditions.push(format!("state IN ({})", quote_all(filter.states.iter().map(|state| state.as_str()))));
    }
    if let Some((at, id)) = &filter.after {
        conditions.push(format!("(detected_at, gap_id) < ({}, {})", time(*at), quote(id)));
    }
    match (filter.of_read_epoch, server.epoch) {
        (false, _) => {}
        (true, Some(epoch)) => conditions.push(format!("(channel NOT IN ('trade', 'agg_trade') OR epoch = {epoch})")),
        (true, None) => conditions.push(format!(
            "(channel NOT IN ('trade', 'agg_trade') OR epoch = 0 OR (exchange, symbol, channel, epoch) IN
               (SELECT exchange, symbol, channel, max(epoch) FROM {db}.epochs GROUP BY exchange, symbol, channel))
             AND NOT (epoch = 0 AND (exchange, symbol, channel) IN (SELECT exchange, symbol, channel FROM {db}.epochs))",
            db = server.database
        )),
    }
    let conditions = conditions.join(" AND ");
    let limit = if filter.limit == 0 { String::new() } else { format!(" LIMIT {}", super::limit(filter.limit)) };
    let sql = format!(
        "SELECT gap_id, exchange, symbol, channel, first_missing, last_missing, from_ts, to_ts, state, detected_at,
           closed_at, filled, attempts, reason, toInt64(version) AS revision, evidence, filled_by,
           filled_at, toInt64(epoch) AS numbering
         FROM {}.gaps FINAL WHERE {conditions} ORDER BY detected_at DESC, gap_id DESC{limit}",
        server.database
    );
    server.rows::<GapRecord>(&sql).await?.into_iter().map(gap).collect()
}

fn gap(record: GapRecord) -> Result<Gap, HistoryError> {
    let damaged = |column: &str| HistoryError::Data(format!("gap {} has an invalid {column}", record.gap_id));
    let exchange = record.exchange.parse().map_err(|_| damaged("exchange"))?;
    let channel = record.channel.parse().map_err(|()| damaged("channel"))?;
    Ok(Gap {
        stream: Stream::new(exchange, Symbol::new(&record.symbol), channel),
        range: Range { first: record.first_missing, last: record.last_missing },
        from_ts: record.from_ts.map(Timestamp),
        to_ts: record.to_ts.map(Timestamp),
        state: record.state.parse().map_err(|()| damaged("state"))?,
        detected_at: Timestamp(record.detected_at),
        closed_at: record.closed_at.map(Timestamp),
        filled: record.filled,
        attempts: record.attempts,
        evidence: serde_json::from_str(&record.evidence).map_err(|_| damaged("evidence"))?,
        version: record.revision,
        gap_id: record.gap_id,
        reason: record.reason,
        filled_by: record.filled_by,
        filled_at: record.filled_at.map(Timestamp),
        epoch: record.numbering,
    })
}

#[derive(Debug, Row, Deserialize)]
struct EpochRecord {
    exchange: String,
    symbol: String,
    channel: String,
    number: i64,
    first: i64,
    began_at: i64,
    reason: String,
}

/// Every numbering that began after another one. Two recorders may have seen one begin: the earlier sight counts.
pub(super) async fn epochs(server: &Server) -> Result<Vec<EpochRow>, HistoryError> {
    let sql = format!(
        "SELECT exchange, symbol, channel, toInt64(epoch) AS number, toInt64(argMin(first_id, e.began_at)) AS first,
           min(e.began_at) AS began_at, argMin(reason, e.began_at) AS reason
         FROM {}.epochs AS e GROUP BY exchange, symbol, channel, epoch ORDER BY exchange, symbol, channel, number",
        server.database
    );
    let row = |record: EpochRecord| {
        let damaged = |column: &str| {
            HistoryError::Data(format!("epoch {} of {} has an invalid {column}", record.number, record.symbol))
        };
        Ok(EpochRow {
            exchange: record.exchange.parse().map_err(|_| damaged("exchange"))?,
            channel: record.channel.parse().map_err(|()| damaged("channel"))?,
            symbol: Symbol::new(&record.symbol),
            epoch: record.number,
            first_id: record.first,
            began_at: Timestamp(record.began_at),
            reason: record.reason,
        })
    };
    server.rows::<EpochRecord>(&sql).await?.into_iter().map(row).collect()
}

#[derive(Debug, Row, Deserialize)]
struct ConflictRecord {
    exchange: String,
    symbol: String,
    channel: String,
    numbering: i64,
    position: i64,
    stored: String,
    arrived: String,
    at: i64,
    verdict: String,
}

/// The conflicts that are not decided yet, or all, newest first.
pub(super) async fn conflicts(
    server: &Server,
    pending_only: bool,
    limit: usize,
) -> Result<Vec<ConflictRow>, HistoryError> {
    let sql = format!(
        "SELECT exchange, symbol, channel, toInt64(epoch) AS numbering, position, stored, arrived, at, verdict
         FROM {}.conflicts FINAL WHERE {} ORDER BY at DESC, position DESC LIMIT {}",
        server.database,
        if pending_only { "verdict = 'pending'" } else { "1" },
        super::limit(limit)
    );
    let row = |record: ConflictRecord| {
        let damaged =
            |column: &str| HistoryError::Data(format!("a conflict of {} has an invalid {column}", record.symbol));
        let exchange = record.exchange.parse().map_err(|_| damaged("exchange"))?;
        let channel = record.channel.parse().map_err(|()| damaged("channel"))?;
        Ok(ConflictRow {
            stream: Stream::new(exchange, Symbol::new(&record.symbol), channel),
            epoch: record.numbering,
            position: record.position,
            verdict: record.verdict.parse().map_err(|()| damaged("verdict"))?,
            stored: record.stored,
            arrived: record.arrived,
            at: Timestamp(record.at),
        })
    };
    server.rows::<ConflictRecord>(&sql).await?.into_iter().map(row).collect()
}
