//! A fault injector for tests: a cache that fails, loses responses, applies half an update and delays, as [`Faults`]
//! decides.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Cache, CacheError, Update};
use crate::faults::{Fault, Faults};
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};

/// Wraps any cache. It keeps every promise of the port, but calls fail more often.
pub struct FaultyCache {
    inner: Arc<dyn Cache>,
    faults: Faults,
}

impl FaultyCache {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Cache>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    async fn before_read(&self) -> Result<(), CacheError> {
        match self.faults.for_read() {
            Fault::None => Ok(()),
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Fault::Fail | Fault::LoseAnswer | Fault::Tear => Err(injected()),
        }
    }
}

fn injected() -> CacheError {
    CacheError("injected fault".to_owned())
}

/// The update with every second value only.
fn half(update: &Update) -> Update {
    Update {
        ticks: update.ticks.iter().step_by(2).cloned().collect(),
        klines: update.klines.iter().step_by(2).cloned().collect(),
        books: update.books.iter().step_by(2).cloned().collect(),
    }
}

#[async_trait]
impl Cache for FaultyCache {
    async fn apply(&self, update: &Update) -> Result<u64, CacheError> {
        match self.faults.for_write() {
            Fault::None => self.inner.apply(update).await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                self.inner.apply(update).await
            }
            Fault::Fail => Err(injected()),
            Fault::LoseAnswer => {
                self.inner.apply(update).await?;
                Err(injected())
            }
            Fault::Tear => {
                self.inner.apply(&half(update)).await?;
                Err(injected())
            }
        }
    }

    fn refused_keys(&self) -> Vec<String> {
        self.inner.refused_keys()
    }

    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError> {
        self.before_read().await?;
        self.inner.ticks(exchange, symbols).await
    }

    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError> {
        self.before_read().await?;
        self.inner.klines(exchange, keys).await
    }

    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError> {
        self.before_read().await?;
        self.inner.books(exchange, symbols).await
    }

    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError> {
        let fault = self.faults.for_small_write();
        match fault {
            Fault::Fail => return Err(injected()),
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::None | Fault::LoseAnswer | Fault::Tear => {}
        }
        self.inner.put_state(instance, document).await?;
        if fault == Fault::LoseAnswer { Err(injected()) } else { Ok(()) }
    }

    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError> {
        self.before_read().await?;
        self.inner.get_state(instance).await
    }

    async fn ping(&self) -> Result<String, CacheError> {
        self.before_read().await?;
        self.inner.ping().await
    }
}
