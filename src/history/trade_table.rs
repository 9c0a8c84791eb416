//! The two tables of trades, which differ only in the names of their key and in two columns.

use crate::market::Channel;

/// The table of the trades of one channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TradeTable {
    pub(super) channel: Channel,
    pub(super) name: &'static str,
    /// The column of the position.
    pub(super) id: &'static str,
}

const TRADES: TradeTable = TradeTable { channel: Channel::Trade, name: "trades", id: "trade_id" };
const AGG_TRADES: TradeTable = TradeTable { channel: Channel::AggTrade, name: "agg_trades", id: "agg_id" };

impl TradeTable {
    pub(super) const ALL: [&'static Self; 2] = [&TRADES, &AGG_TRADES];

    /// The table of a channel; `None` when its rows are no trades.
    pub(super) fn of(channel: Channel) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|table| table.channel == channel)
    }

    /// Whether it has the ids of the trades that a row consists of.
    pub(super) fn has_trade_ids(&self) -> bool {
        self.channel == Channel::AggTrade
    }
}
