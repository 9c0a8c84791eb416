//! The port of the cache, the latest value of everything, and its contract.
//!
//! What the contract suite in `tests/it/contracts` holds every backend to:
//!
//! 1. **The cache only moves forward.** A tick is replaced only by one with a higher (ts, id), a kline
//!    only by one with a later open time, or of the same open time closed over open, then with more trades,
//!    a book only by one with a higher update id. The store decides, so no race rolls a value back.
//! 2. **Apply is all or retry.** On an error any part may have been applied; applying again is harmless.
//! 3. **What was applied is read back** exactly: decimals and times as given.
//! 4. **Losing it loses nothing**: everything here is rebuilt from history.

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

/// Why the cache did not do what was asked. There is one way to cope: note the keys and repair later.
#[derive(Debug, thiserror::Error)]
#[error("cache unavailable: {0}")]
pub struct CacheError(pub String);

/// Latest values, at most one per key.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Latest trades.
    pub ticks: Vec<(Exchange, Symbol, Tick)>,
    /// Latest klines, closed or open.
    pub klines: Vec<(Exchange, Symbol, Kline)>,
    /// Latest books.
    pub books: Vec<(Exchange, Symbol, Book)>,
}

impl Update {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ticks.is_empty() && self.klines.is_empty() && self.books.is_empty()
    }
}

/// The latest value of everything.
#[async_trait]
pub trait Cache: Send + Sync {
    /// Moves keys forward; what is not newer is left alone. Returns how many keys moved.
    async fn apply(&self, update: &Update) -> Result<u64, CacheError>;

    /// The latest tick of each symbol, in the order asked; `None` when there is none.
    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError>;

    /// The latest kline of each (symbol, interval), in the order asked; `None` when there is none.
    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError>;

    /// The latest book of each symbol, in the order asked; `None` when there is none.
    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError>;

    /// Keeps the service's state document under `service_state:market_data[:INSTANCE]`.
    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError>;

    /// The service's state document, when there is one.
    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError>;

    /// Whether it answers; the version it names.
    async fn ping(&self) -> Result<String, CacheError>;
}
