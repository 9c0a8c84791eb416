//! Proves an insert by reading it back, when the answer to it does not.
//!
//! ClickHouse names the query in a header of every answer. A proxy may remove the header; it may also answer in place of
//! the server and store nothing. The rows themselves distinguish the two.

use super::server::{Server, quote, quote_all, time};
use crate::gap::Gap;
use crate::history::trade_table::TradeTable;
use crate::history::{ConflictRow, DeadLetter, EpochRow, HistoryError, JobRun, KlineRow, TradeRow};

/// The columns that identify the rows, and their values as SQL.
pub(super) struct Written {
    table: &'static str,
    columns: &'static str,
    keys: Vec<String>,
    /// The lowest version of the rows: the server may have replaced a copy with a higher one already.
    version: Option<i64>,
}

impl Written {
    /// Fails with [`HistoryError::Unavailable`] unless the table has every row.
    pub(super) async fn prove(mut self, server: &Server) -> Result<(), HistoryError> {
        self.keys.sort_unstable();
        self.keys.dedup();
        let Self { table, columns, keys, version } = self;
        let not_older = version.map_or_else(String::new, |version| format!(" AND version >= {version}"));
        let sql = format!(
            "SELECT toUInt64(uniqExact({columns})) FROM {}.{table} WHERE ({columns}) IN ({}){not_older}",
            server.database,
            keys.join(",")
        );
        let found: u64 = server.one(&sql).await?;
        let written = keys.len() as u64;
        if found == written {
            return Ok(());
        }
        Err(HistoryError::Unavailable(format!(
            "the answer to an insert lacks X-ClickHouse-Query-Id, and {} of {} rows are not in {table}: something between \
             here and ClickHouse answers in its place",
            written.saturating_sub(found),
            written
        )))
    }
}

/// What `encode::trades` wrote.
pub(super) fn trades<'a>(table: &TradeTable, rows: impl Iterator<Item = &'a TradeRow> + Clone) -> Written {
    let key = |row: &TradeRow| {
        let (exchange, symbol) = (quote(row.exchange.as_str()), quote(row.symbol.as_str()));
        format!("({exchange},{symbol},{},{})", row.epoch, row.trade.id)
    };
    let version = rows.clone().map(|row| row.version).min();
    let columns = match table.has_trade_ids() {
        true => "exchange, symbol, epoch, agg_id",
        false => "exchange, symbol, epoch, trade_id",
    };
    Written { table: table.name, columns, keys: rows.map(key).collect(), version }
}

/// What `encode::klines` wrote.
pub(super) fn klines(rows: &[KlineRow]) -> Written {
    let key = |row: &KlineRow| {
        let (exchange, symbol) = (quote(row.exchange.as_str()), quote(row.symbol.as_str()));
        let (interval, at) = (quote(row.kline.interval.as_str()), time(row.kline.open_time));
        format!("({exchange},{symbol},{interval},{at})")
    };
    let (columns, version) = ("exchange, symbol, interval, open_time", rows.iter().map(|row| row.version).min());
    Written { table: "klines", columns, keys: rows.iter().map(key).collect(), version }
}

/// What `encode::gaps` wrote.
pub(super) fn gaps(gaps: &[Gap]) -> Written {
    let keys = gaps.iter().map(|gap| quote(&gap.gap_id)).collect();
    Written { table: "gaps", columns: "gap_id", keys, version: gaps.iter().map(|gap| gap.version).min() }
}

/// What `encode::epochs` wrote.
pub(super) fn epochs(rows: &[EpochRow]) -> Written {
    let key = |row: &EpochRow| {
        let names = quote_all([row.exchange.as_str(), row.symbol.as_str(), row.channel.as_str()]);
        format!("({names},{})", row.epoch)
    };
    Written {
        table: "epochs",
        columns: "exchange, symbol, channel, epoch",
        keys: rows.iter().map(key).collect(),
        version: None,
    }
}

/// What `encode::conflicts` wrote.
pub(super) fn conflicts(rows: &[ConflictRow]) -> Written {
    let key = |row: &ConflictRow| {
        let (symbol, arrived) = (quote(row.stream.symbol.as_str()), quote(&row.arrived));
        format!("({symbol},{},{arrived},{})", row.position, quote(row.verdict.as_str()))
    };
    let columns = "symbol, position, arrived, verdict";
    Written { table: "conflicts", columns, keys: rows.iter().map(key).collect(), version: None }
}

/// What `encode::dead_letters` wrote.
pub(super) fn dead_letters(letters: &[DeadLetter]) -> Written {
    let keys = letters.iter().map(|letter| quote(&letter.id)).collect();
    Written { table: "dead_letters", columns: "id", keys, version: None }
}

/// What `encode::job_run` wrote.
pub(super) fn job_run(run: &JobRun) -> Written {
    let key = format!("({},{},{})", quote(&run.run_id), quote(&run.outcome), run.attempt);
    Written { table: "job_runs", columns: "run_id, outcome, attempt", keys: vec![key], version: None }
}
