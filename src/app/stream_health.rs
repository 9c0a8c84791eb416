//! Whether a refused stream is a fault. It is one while the exchange lists the symbol as trading, or says nothing of it; a
//! symbol that is not listed yet, paused, delisted or renamed is only a state of its streams.

use std::collections::BTreeSet;

use crate::exchange::TradingState;

use super::Service;
use super::listing_report::newest_frame;

/// The refused streams that health shows.
#[derive(Debug, Default)]
pub struct RefusedParts(BTreeSet<String>);

impl RefusedParts {
    /// Degrades the part of each refused stream, and restores those that are refused no more.
    pub fn update(&mut self, service: &Service) {
        let streams = service.streams.borrow().clone();
        let mut now = BTreeSet::new();
        for (stream, reason) in service.counters.subscriptions.refused() {
            let newest = newest_frame(service, &streams, stream.exchange, &stream.symbol);
            if service.listings.state(stream.exchange, &stream.symbol, newest) != TradingState::Trading {
                continue;
            }
            let part = stream.to_string();
            service.health.degraded(&part, &format!("refused by the exchange: {reason}"));
            now.insert(part);
        }
        for part in self.0.difference(&now) {
            service.health.restored(part);
        }
        self.0 = now;
    }
}
