//! The exchange port: what a venue can do (`spec`), how it speaks (`dialect`), which venues there are (`catalog`), and the
//! one WebSocket loop and the one REST client that serve them all.

pub mod binance;
pub mod binance_usdm;
pub mod bybit;
#[cfg(test)]
mod captures;
pub mod catalog;
#[cfg(test)]
pub mod changed_dialect;
pub mod coinbase;
mod dialect;
mod feed;
mod fields;
mod json_parts;
pub mod kraken;
mod listing_state;
mod members;
pub mod okx;
mod page;
mod pattern;
pub mod peer;
mod proxy;
pub mod rest;
mod retry_after;
mod selection;
pub mod socket;
pub mod spec;
mod tls;

pub use dialect::{
    Answer, AnswerError, AnswerErrorKind, DecodeError, Dialect, Event, ExchangeInfo, MarketEvent, PageStart, Request,
    RestAnswer, RestReply, RestRequest, Route, Series, SubscriptionAnswer, SubscriptionChange,
};
pub use feed::{Feed, Since};
pub use listing_state::{ListingEntry, ListingStates, TradingState};
pub use members::{Change, Listing, Members};
pub use page::{Page, RefusedRow};
pub use pattern::SymbolPattern;
pub use proxy::Proxy;
pub use selection::{STREAMS_MAX, Selection};
pub use spec::SocketLimits;

/// The one TLS configuration of this process; every other client uses it too.
pub fn tls_config() -> std::sync::Arc<rustls::ClientConfig> {
    tls::client_config()
}

/// The message for a 403 or 451; `key` is the feed's key that selects another address.
fn refused_address(status: u16, key: &str) -> String {
    let why = if status == 451 { "a geo-block" } else { "a firewall or geo-block" };
    format!("the exchange refuses this address (HTTP {status}: {why}): use a server in a permitted region or set {key}")
}
