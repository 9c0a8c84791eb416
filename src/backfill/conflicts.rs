//! Decides which of two contents of a position is the row: the one that the exchange's REST serves.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::consume::Doubts;
use crate::exchange::rest::{QUERY_TIME_MAX, RestError};
use crate::gap::Range;
use crate::heartbeat::Heartbeat;
use crate::history::{
    Batch, ConflictRow, HistoryError, KlineRow, TradeRow, Verdict, kline_content, row_version, trade_content,
};
use crate::market::{Channel, Interval, Kline, Stream, Timestamp, Trade};
use crate::messages;
use crate::writer::Rows;

use super::deps::Deps;

/// Most undecided conflicts read at a time.
const PENDING_MAX: usize = 10_000;
/// First and longest wait before a stream's conflicts are asked for again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3_600));
/// Longest work on one stream's conflicts, which takes several requests.
const DECIDE_MAX: Duration = Duration::from_secs(600);
/// How often conflicts that another recorder found are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pages that are compared with history once the exchange has replaced a row.
const COMPARED_PAGES_MAX: usize = 100;

/// When to ask about a stream again.
#[derive(Debug)]
struct Wait {
    due: Instant,
    pause: Duration,
}

/// A content that is neither of the two, which the exchange must serve twice.
type Third = HashMap<(Stream, i64), String>;

/// Decides conflicts until `stop`.
pub async fn run(deps: Deps, doubts: Doubts, heartbeat: Heartbeat, stop: CancellationToken) {
    let mut waits: HashMap<Stream, Wait> = HashMap::new();
    let mut third = Third::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        let pending = deps.history().conflicts(true, PENDING_MAX);
        let pending = heartbeat.beat_while(QUERY_TIME_MAX, pending).await.unwrap_or_default();
        let mut streams: HashMap<Stream, Vec<ConflictRow>> = HashMap::new();
        for row in pending.into_iter().filter(|row| deps.rest.contains_key(&row.stream.exchange)) {
            streams.entry(row.stream.clone()).or_default().push(row);
        }
        waits.retain(|stream, _| streams.contains_key(stream));
        third.retain(|(stream, _), _| streams.contains_key(stream));
        for (stream, rows) in streams {
            if stop.is_cancelled() || waits.get(&stream).is_some_and(|wait| wait.due > Instant::now()) {
                continue;
            }
            let deciding = decide(&deps, &stream, rows, &mut third, &heartbeat, &stop);
            let deciding = tokio::time::timeout(DECIDE_MAX, deciding);
            let decided = heartbeat.beat_while(DECIDE_MAX + QUERY_TIME_MAX, deciding).await;
            let late = |_elapsed| Err(Undecided::Write(format!("not done within {} s", DECIDE_MAX.as_secs())));
            let decided = decided.unwrap_or_else(late);
            if let Err(error) = &decided {
                debug!("the conflicts of {stream} are not decided yet: {error}");
            }
            let wait = waits.entry(stream).or_insert(Wait { due: Instant::now(), pause: PAUSE.0 });
            wait.pause = if decided.is_ok_and(|decided| decided > 0) { PAUSE.0 } else { (wait.pause * 2).min(PAUSE.1) };
            wait.due = Instant::now() + wait.pause;
        }
        let next = waits.values().map(|wait| wait.due).min();
        let next = next.unwrap_or_else(|| Instant::now() + LOOK_EVERY).min(Instant::now() + LOOK_EVERY);
        let wait = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = doubts.conflict_found.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        };
        heartbeat.beat_while(LOOK_EVERY * 2, wait).await;
    }
    heartbeat.retire();
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Undecided {
    #[error(transparent)]
    Exchange(#[from] RestError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("{0}")]
    Write(String),
}

/// A row that REST serves.
#[derive(Clone, Debug)]
enum Served {
    Trade(Trade),
    Kline(Kline),
}

impl Served {
    fn content(&self) -> String {
        match self {
            Self::Trade(trade) => trade_content(trade),
            Self::Kline(kline) => kline_content(kline),
        }
    }
}

/// Decides the conflicts of one page; returns how many.
async fn decide(
    deps: &Deps,
    stream: &Stream,
    mut rows: Vec<ConflictRow>,
    third: &mut Third,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<usize, Undecided> {
    // Rows of an ended numbering are not served any more.
    let epoch = deps.ledger.with(|ledger| ledger.epoch_of(stream));
    rows.retain(|row| row.epoch == epoch);
    rows.sort_by_key(|row| row.position);
    let Some(first) = rows.first().map(|row| row.position) else { return Ok(0) };
    let page = page(deps, stream, first);
    rows.retain(|row| page.contains(row.position));
    let served = heartbeat.beat_while(QUERY_TIME_MAX * 4, served(deps, stream, page, stop)).await?;
    let mut changes = Changes::default();
    for row in rows {
        let Some(now) = served.get(&row.position) else { continue };
        let content = now.content();
        if is_same(&content, &row.stored) {
            changes.conflicts.push(ConflictRow { verdict: Verdict::Stored, ..row });
        } else if is_same(&content, &row.arrived) {
            changes.winners.push((now.clone(), false, row.at));
            changes.conflicts.push(ConflictRow { verdict: Verdict::Arrived, ..row });
        } else if third.insert((row.stream.clone(), row.position), content.clone()).as_ref() == Some(&content) {
            changes.winners.push((now.clone(), true, row.at));
            changes.conflicts.push(ConflictRow { verdict: Verdict::Arrived, arrived: content, ..row.clone() });
            changes.conflicts.push(ConflictRow { verdict: Verdict::Stored, ..row });
        }
    }
    let (decided, is_replaced) = (changes.conflicts.len(), !changes.winners.is_empty());
    changes.store(deps, stream, epoch, heartbeat, stop).await?;
    if is_replaced && stream.channel.has_trades() {
        compare_around(deps, stream, epoch, first, heartbeat, stop).await?;
    }
    Ok(decided)
}

/// The page of positions from `first` on.
fn page(deps: &Deps, stream: &Stream, first: i64) -> Range {
    let dialect = &deps.dialects[&stream.exchange];
    let (rows, step) = match stream.channel {
        Channel::Kline(interval) => (dialect.spec().rest.klines_page, interval.micros()),
        _ => (dialect.spec().rest.trades_page, 1),
    };
    Range { first, last: first.saturating_add((rows - 1) * step) }
}

async fn served(
    deps: &Deps,
    stream: &Stream,
    page: Range,
    stop: &CancellationToken,
) -> Result<HashMap<i64, Served>, RestError> {
    let (rest, symbol) = (&deps.rest[&stream.exchange], stream.symbol.as_str());
    Ok(match stream.channel {
        Channel::Kline(interval) => {
            let answer = rest.klines(symbol, interval, page, stop).await?;
            let closed = answer.rows.into_iter().filter(|kline| kline.closed);
            closed.map(|kline| (kline.open_time.micros(), Served::Kline(kline))).collect()
        }
        _ => {
            let answer = rest.trades(stream, page, stop).await?;
            answer.rows.into_iter().map(|trade| (trade.id, Served::Trade(trade))).collect()
        }
    })
}

/// Whether two contents are one. A kline over REST has no trade ids.
fn is_same(one: &str, other: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok();
    let (Some(mut one), Some(mut other)) = (parse(one), parse(other)) else { return false };
    let has_no_ids = |of: &serde_json::Map<String, serde_json::Value>| {
        of.get("first_trade_id").and_then(serde_json::Value::as_i64) == Some(-1)
    };
    if has_no_ids(&one) || has_no_ids(&other) {
        for of in [&mut one, &mut other] {
            of.remove("first_trade_id");
            of.remove("last_trade_id");
        }
    }
    one == other
}

/// The exchange replaced a row: compares the stored trades around it with what it serves, page by page until they agree.
async fn compare_around(
    deps: &Deps,
    stream: &Stream,
    epoch: i64,
    position: i64,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<(), Undecided> {
    let length = page(deps, stream, position).len(1);
    for direction in [-1, 1] {
        for number in 0..COMPARED_PAGES_MAX as i64 {
            let number = if direction < 0 { -1 - number } else { number };
            let first = position.saturating_add(number * length);
            let Some(range) = Range::new(first.max(0), first + length - 1) else { break };
            let stored = deps.history().trades(stream, range, length as usize).await?;
            let (Some(low), Some(high)) = (stored.first(), stored.last()) else { break };
            let range = Range { first: low.trade.id, last: high.trade.id };
            let served = heartbeat.beat_while(QUERY_TIME_MAX * 4, served(deps, stream, range, stop)).await?;
            let mut changes = Changes::default();
            for row in stored {
                let Some(Served::Trade(now)) = served.get(&row.trade.id) else { continue };
                if *now == row.trade {
                    continue;
                }
                changes.winners.push((Served::Trade(*now), true, deps.clock.now()));
                changes.conflicts.push(ConflictRow {
                    stream: stream.clone(),
                    epoch,
                    position: row.trade.id,
                    stored: trade_content(&row.trade),
                    arrived: trade_content(now),
                    at: deps.clock.now(),
                    verdict: Verdict::Arrived,
                });
            }
            if changes.winners.is_empty() {
                break;
            }
            changes.store(deps, stream, epoch, heartbeat, stop).await?;
        }
    }
    Ok(())
}

/// Replaces klines by what the exchange's REST serves instead, and keeps the replaced content as a conflict.
pub(super) async fn replace_klines(
    deps: &Deps,
    stream: &Stream,
    replaced: &[(&KlineRow, Kline)],
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<(), Undecided> {
    let mut changes = Changes::default();
    for (row, served) in replaced {
        changes.winners.push((Served::Kline(*served), true, deps.clock.now()));
        changes.conflicts.push(ConflictRow {
            stream: stream.clone(),
            epoch: 0,
            position: served.open_time.micros(),
            stored: kline_content(&row.kline),
            arrived: kline_content(served),
            at: deps.clock.now(),
            verdict: Verdict::Arrived,
        });
    }
    changes.store(deps, stream, 0, heartbeat, stop).await
}

/// What a decision changes.
#[derive(Debug, Default)]
struct Changes {
    conflicts: Vec<ConflictRow>,
    /// The rows that replace stored ones, whether they came over REST alone, and when they arrived.
    winners: Vec<(Served, bool, Timestamp)>,
}

impl Changes {
    /// Writes the winners with a version above the stored copies, then the decisions.
    async fn store(
        self,
        deps: &Deps,
        stream: &Stream,
        epoch: i64,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<(), Undecided> {
        if self.conflicts.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (served, is_backfilled, at) in self.winners {
            match served {
                Served::Trade(trade) => batch.trades.push(winner(deps, stream, epoch, trade, is_backfilled, at).await?),
                Served::Kline(kline) => {
                    let Channel::Kline(interval) = stream.channel else { continue };
                    batch.klines.push(kline_winner(deps, stream, interval, kline, is_backfilled).await?);
                }
            }
        }
        for row in &self.conflicts {
            info!(
                MESSAGE_ID = messages::CONFLICT,
                EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol,
                "the exchange decides about {stream} at {}: {}",
                stream.channel.span(row.position, row.position),
                if row.verdict == Verdict::Arrived { "the later content is the row" } else { "the stored content stays" }
            );
        }
        batch.conflicts = self.conflicts;
        batch.token = format!("decide:{stream}:{}", uuid::Uuid::now_v7());
        let rows = Rows { batch, received_at: deps.clock.now(), ..Rows::default() };
        deps.writer.write(&rows, heartbeat, stop).await.map(|_| ()).map_err(|error| Undecided::Write(error.to_string()))
    }
}

async fn winner(
    deps: &Deps,
    stream: &Stream,
    epoch: i64,
    trade: Trade,
    is_backfilled: bool,
    received_at: Timestamp,
) -> Result<TradeRow, HistoryError> {
    let (exchange, symbol) = (stream.exchange, stream.symbol.clone());
    let stored = deps.history().trades_by_id(exchange, stream.channel, &[(symbol.clone(), trade.id)]).await?;
    let version = above(stored.iter().map(|row| row.version).max(), is_backfilled);
    Ok(TradeRow { exchange, symbol, trade, received_at, is_backfilled, epoch, version })
}

async fn kline_winner(
    deps: &Deps,
    stream: &Stream,
    interval: Interval,
    mut kline: Kline,
    is_backfilled: bool,
) -> Result<KlineRow, HistoryError> {
    let (exchange, symbol) = (stream.exchange, stream.symbol.clone());
    let stored = deps.history().klines_by_time(exchange, &[(symbol.clone(), interval, kline.open_time)]).await?;
    if let Some(row) = stored.first()
        && kline.first_trade_id < 0
        && row.kline.trade_count == kline.trade_count
    {
        (kline.first_trade_id, kline.last_trade_id) = (row.kline.first_trade_id, row.kline.last_trade_id);
    }
    let version = above(stored.iter().map(|row| row.version).max(), is_backfilled);
    Ok(KlineRow { exchange, symbol, kline, is_backfilled, version })
}

/// A version above the stored one.
fn above(stored: Option<i64>, is_backfilled: bool) -> i64 {
    stored.map_or(0, |stored| stored / 2 * 2 + 2).max(row_version(false) + 1) + i64::from(!is_backfilled)
}

#[cfg(test)]
#[path = "conflicts_tests.rs"]
mod tests;
