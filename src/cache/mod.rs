//! The port of the cache, which holds the latest value of every stream, and its contract.
//!
//! The contract suite in `tests/it/contracts` checks these promises on every backend:
//!
//! 1. **The cache only moves forward.** A tick replaces one with a lower (ts, id). A kline replaces one with an earlier
//!    open time; at the same open time a closed kline replaces an open one, and then more trades replace fewer. A book
//!    replaces one with a lower update id. The store decides, so no race moves a value back.
//! 2. **Apply may be repeated.** After an error, any part of the update may be applied. Applying it again is harmless.
//! 3. **Reads are exact**: decimals and times are returned as they were applied.
//! 4. **One key that another program uses costs that key.** The others of an update are applied, and
//!    [`Cache::refused_keys`] names it.
//! 5. **A lost cache loses no data**: the recorder rebuilds everything here from history.
//!
//! Times are microseconds since 1970 UTC. This module must not know where the values come from.

pub mod embedded;
pub mod faulty;
mod options;
mod pending;
pub mod redis;
mod write_behind;

use async_trait::async_trait;

pub use options::{Backend, Options, RedisOptions};

pub use pending::{PendingUpdates, kline_is_newer, tick_is_newer};
pub use write_behind::run_write_behind;

use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};

/// Why a call failed. There is one kind of error, because callers always do the same: keep the values and retry later.
#[derive(Debug, thiserror::Error)]
#[error("cache unavailable: {0}")]
pub struct CacheError(pub String);

/// Values to apply. If several have the same key, the newest one wins.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Trades, by exchange and symbol.
    pub ticks: Vec<(Exchange, Symbol, Tick)>,
    /// Klines, closed or open, by exchange, symbol and interval.
    pub klines: Vec<(Exchange, Symbol, Kline)>,
    /// Best bids and asks, by exchange and symbol.
    pub books: Vec<(Exchange, Symbol, Book)>,
}

impl Update {
    /// Whether it contains no value.
    pub fn is_empty(&self) -> bool {
        self.ticks.is_empty() && self.klines.is_empty() && self.books.is_empty()
    }
}

/// The latest value of every stream.
#[async_trait]
pub trait Cache: Send + Sync {
    /// Writes every value that is newer than the stored one (promise 1), and skips the others. Returns the number of
    /// writes.
    async fn apply(&self, update: &Update) -> Result<u64, CacheError>;

    /// The keys that the store refuses, because another program uses them for something else. The others are written.
    fn refused_keys(&self) -> Vec<String> {
        Vec::new()
    }

    /// Reads the latest tick of each symbol, in the order of `symbols`; `None` if there is none.
    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError>;

    /// Reads the latest kline of each (symbol, interval), in the order of `keys`; `None` if there is none.
    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError>;

    /// Reads the latest book of each symbol, in the order of `symbols`; `None` if there is none.
    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError>;

    /// Stores the state document of a recorder under `service_state:market_data[:INSTANCE]`; an empty `instance` is the
    /// default one.
    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError>;

    /// Reads the state document of a recorder; `None` if there is none.
    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError>;

    /// Checks that the store responds; returns its name and version, for example `redis 7.0.15`.
    async fn ping(&self) -> Result<String, CacheError>;
}
