//! The first trade at a time, for an exchange whose pages begin at an id: finds it by halving the range of ids.

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::outcome::RestError;
use crate::exchange::spec::Refill;
use crate::gap::Range;
use crate::market::{Channel, Timestamp};

/// Most requests: 2^48 pages are more trades than any exchange has.
const REQUESTS_MAX: usize = 48;

impl Rest {
    /// Id of the first trade at or after `at`; `None` when there is none.
    pub(super) async fn trade_at_by_id(
        &self,
        symbol: &str,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let Some((newest, newest_at)) = self.newest(symbol, stop).await? else { return Ok(None) };
        if newest_at < at {
            return Ok(None);
        }
        let spec = self.dialect.spec();
        let rows = spec.rest.trades_page;
        let refill = spec.channel(Channel::Trade).map(|channel| channel.refill);
        let recent = matches!(refill, Some(Refill::Recent(_)));
        let (mut low, mut high) = (if recent { newest - rows + 1 } else { 0 }, newest);
        for _ in 0..REQUESTS_MAX {
            let first = if high - low < rows { low } else { low + (high - low) / 2 };
            let page = self.request_trades(symbol, Range { first, last: first + rows - 1 }, None, stop).await?;
            let mut trades = page.rows.iter().filter(|trade| trade.id >= first);
            let Some(lowest) = trades.next() else {
                // The exchange serves nothing here: its oldest trade is later.
                low = first + rows;
                if low > high {
                    return Ok(Some(high));
                }
                continue;
            };
            if lowest.ts >= at {
                if recent {
                    let text = format!("{} serves only its newest trades, and they are later than {at}", spec.title);
                    return Err(RestError::NotOffered { text });
                }
                if lowest.id <= low || first <= low {
                    return Ok(Some(lowest.id));
                }
                high = lowest.id;
                continue;
            }
            match trades.find(|trade| trade.ts >= at) {
                Some(found) => return Ok(Some(found.id)),
                None => low = page.rows.last().map_or(low, |last| last.id) + 1,
            }
        }
        Err(RestError::Unavailable { text: format!("the first trade after {at} was not found") })
    }
}
