//! What the exchange's REST says about trades that do not fit their stream: whether the numbering continues, came once more
//! from an earlier trade, or began again.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::consume::{DoubtfulTrades, Numbering};
use crate::exchange::rest::{Rest, RestError};
use crate::gap::Range;
use crate::history::{History, HistoryError, TradeRow};
use crate::market::{Stream, Timestamp, Trade};

/// Stored trades below a doubtful one that are compared with the exchange's.
const COMPARED_MAX: i64 = 500;
/// A hole of this many ids is a gap, whatever the time.
const HOLE_MIN: i64 = 1_000;
/// No symbol has a higher pace, in trades a second: a wider hole is no gap.
const PACE_MAX: i64 = 10_000;
/// Time that is added to the time between two trades, in microseconds.
const BURST_US: i64 = 5_000_000;
/// A numbering that begins again is at most this much older than the newest stored trade, in microseconds.
const DISORDER_US: i64 = 1_000_000;
/// Requests for the first trade of a numbering: enough for every id.
const SEARCH_MAX: usize = 64;

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The exchange did not answer, or its answers do not say.
    #[error("{0}")]
    Exchange(String),
    /// The end of the process.
    #[error("stopped")]
    Stopped,
}

impl From<RestError> for NoAnswer {
    fn from(error: RestError) -> Self {
        match error {
            RestError::Stopped => Self::Stopped,
            error => Self::Exchange(error.to_string()),
        }
    }
}

impl From<HistoryError> for NoAnswer {
    fn from(error: HistoryError) -> Self {
        Self::Exchange(error.to_string())
    }
}

/// Asks about one stream.
pub(super) struct Judge<'a> {
    pub(super) rest: &'a Rest,
    pub(super) history: &'a Arc<dyn History>,
    pub(super) stream: &'a Stream,
    pub(super) stop: &'a CancellationToken,
}

impl Judge<'_> {
    /// The exchange's newest trade, which a page of trades must show too: one answer may be wrong.
    pub(super) async fn newest(&self) -> Result<i64, NoAnswer> {
        // An exchange that knows no trade of a stream whose trades arrive has not answered.
        let Some((newest, _)) = self.rest.newest(self.stream, self.stop).await? else {
            return Err(NoAnswer::Exchange("it knows no trade".to_owned()));
        };
        match self.rest.trade_from(self.stream, newest, self.stop).await? {
            Some(trade) if trade.id == newest => Ok(newest),
            _ => Err(NoAnswer::Exchange(format!("it names {newest} as its newest trade but does not serve it"))),
        }
    }

    /// Decides about the trades of a question.
    pub(super) async fn judge(&self, question: &DoubtfulTrades) -> Result<Numbering, NoAnswer> {
        let newest = self.newest().await?;
        let (Some(trade), Some(last)) = (self.confirmed(question).await?, self.last_stored().await?) else {
            return Ok(Numbering::Continues { newest });
        };
        if trade.id > last.trade.id {
            return self.judge_jump(&last.trade, newest).await;
        }
        if self.serves(&last.trade).await? {
            return Ok(Numbering::Confirmed { newest });
        }
        if self.shares_trades_below(trade.id).await? {
            return Ok(Numbering::RolledBack { newest });
        }
        let first = self.first_since(last.trade.ts, &trade).await?;
        let reason = format!("ids began again at {}: the last one was {}", first.id, last.trade.id);
        Ok(Numbering::Restarted { first, newest, reason })
    }

    /// A doubtful trade that the exchange serves as it arrived: then two sources agree.
    async fn confirmed(&self, question: &DoubtfulTrades) -> Result<Option<Trade>, NoAnswer> {
        let mut is_unserved = false;
        for trade in &question.trades {
            match self.at(trade.id).await? {
                Some(served) if served == *trade => return Ok(Some(served)),
                Some(_) => {}
                None => is_unserved = true,
            }
        }
        if is_unserved {
            return Err(NoAnswer::Exchange("it does not serve the trades in doubt yet".to_owned()));
        }
        Ok(None)
    }

    /// The trade that the exchange serves at an id.
    async fn at(&self, id: i64) -> Result<Option<Trade>, NoAnswer> {
        let range = Range { first: id, last: id };
        let page = self.rest.trades(self.stream, range, self.stop).await?;
        Ok(page.rows.into_iter().find(|served| served.id == id))
    }

    async fn serves(&self, trade: &Trade) -> Result<bool, NoAnswer> {
        Ok(self.at(trade.id).await?.is_some_and(|served| served == *trade))
    }

    async fn last_stored(&self) -> Result<Option<TradeRow>, NoAnswer> {
        let symbols = std::slice::from_ref(&self.stream.symbol);
        Ok(self.history.latest_trades(self.stream.exchange, self.stream.channel, symbols).await?.pop())
    }

    /// The ids continue far above the last one: a hole that the time between explains is a gap, another one is a new
    /// numbering.
    async fn judge_jump(&self, last: &Trade, newest: i64) -> Result<Numbering, NoAnswer> {
        let Some(first) = self.rest.trade_from(self.stream, last.id.saturating_add(1), self.stop).await? else {
            return Err(NoAnswer::Exchange(format!("it serves no trade above {}", last.id)));
        };
        let hole = first.id.saturating_sub(last.id);
        let seconds = first.ts.since(last.ts).max(0).saturating_add(BURST_US) / 1_000_000;
        if hole <= HOLE_MIN.saturating_add(seconds.saturating_mul(PACE_MAX)) {
            return Ok(Numbering::Continues { newest });
        }
        let reason = format!("ids continue at {}: the last one was {}", first.id, last.id);
        Ok(Numbering::Restarted { first, newest, reason })
    }

    /// Whether the exchange still serves a stored trade below `id` as it is stored.
    async fn shares_trades_below(&self, id: i64) -> Result<bool, NoAnswer> {
        let Some(range) = Range::new((id - COMPARED_MAX).max(0), id - 1) else { return Ok(false) };
        let stored = self.history.trades(self.stream, range, COMPARED_MAX as usize).await?;
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else { return Ok(false) };
        let range = Range { first: first.trade.id, last: last.trade.id };
        let page = self.rest.trades(self.stream, range, self.stop).await?;
        let is_stored = |served: &Trade| {
            let at = stored.binary_search_by_key(&served.id, |row| row.trade.id);
            at.is_ok_and(|at| stored[at].trade == *served)
        };
        Ok(page.rows.iter().any(is_stored))
    }

    /// The first trade of a numbering that began after `ended` and has `trade`. Below it the exchange may serve nothing, or
    /// trades of the old numbering.
    async fn first_since(&self, ended: Timestamp, trade: &Trade) -> Result<Trade, NoAnswer> {
        let is_new = |served: &Trade| served.id <= trade.id && served.ts.since(ended) >= -DISORDER_US;
        // Every id below `low` is old; from `high` on the first one served is `found`.
        let (mut low, mut high, mut found) = (0, trade.id, *trade);
        let mut middle = 0;
        for _ in 0..SEARCH_MAX {
            if low >= high {
                break;
            }
            match self.rest.trade_from(self.stream, middle, self.stop).await? {
                Some(served) if is_new(&served) => (high, found) = (middle, served),
                Some(served) => low = served.id.max(middle) + 1,
                None => low = middle + 1,
            }
            middle = low + (high - low) / 2;
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "numbering_tests.rs"]
mod tests;
