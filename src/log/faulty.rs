//! A fault injector for tests: a log that fails, loses responses, appends half a batch and delays, as [`Faults`]
//! decides.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Consumer, Delivery, Log, LogError, LogUsage, Offsets, Partition, Record};
use crate::faults::{Fault, Faults};
use crate::market::{Frame, Timestamp};

/// Wraps any log. It keeps every promise of the port, but calls fail more often.
pub struct FaultyLog {
    inner: Arc<dyn Log>,
    faults: Faults,
}

impl FaultyLog {
    /// Wraps `inner`. Its consumers share the same faults.
    pub fn new(inner: Arc<dyn Log>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    faults: Faults,
}

fn injected() -> LogError {
    LogError::Unavailable("injected fault".to_owned())
}

async fn before_read(faults: &Faults) -> Result<(), LogError> {
    match faults.for_read() {
        Fault::None => Ok(()),
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Fault::Fail | Fault::LoseAnswer | Fault::Tear => Err(injected()),
    }
}

#[async_trait]
impl Log for FaultyLog {
    async fn append(&self, mut frames: Vec<Frame>) -> Result<(), LogError> {
        match self.faults.for_write() {
            Fault::None => self.inner.append(frames).await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                self.inner.append(frames).await
            }
            Fault::Fail => Err(injected()),
            Fault::LoseAnswer => {
                self.inner.append(frames).await?;
                Err(injected())
            }
            Fault::Tear => {
                frames.truncate(frames.len() / 2);
                self.inner.append(frames).await?;
                Err(injected())
            }
        }
    }

    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError> {
        before_read(&self.faults).await?;
        let inner = self.inner.consumer().await?;
        Ok(Box::new(FaultyConsumer { inner, faults: self.faults.clone() }))
    }

    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        before_read(&self.faults).await?;
        self.inner.read(partition, offset, limit).await
    }

    fn partition(&self, key: &str) -> Option<Partition> {
        self.inner.partition(key)
    }

    async fn usage(&self) -> Result<LogUsage, LogError> {
        before_read(&self.faults).await?;
        self.inner.usage().await
    }

    async fn retain(&self, older_than: Timestamp, bytes: u64) -> Result<u64, LogError> {
        before_read(&self.faults).await?;
        self.inner.retain(older_than, bytes).await
    }

    fn trouble(&self) -> Option<LogError> {
        self.inner.trouble()
    }

    async fn find_damage(&self) -> Result<(), LogError> {
        self.inner.find_damage().await
    }

    async fn close(&self) -> Result<(), LogError> {
        self.inner.close().await
    }
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        before_read(&self.faults).await?;
        self.inner.next().await
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), LogError> {
        match self.faults.for_write() {
            Fault::None => self.inner.commit(offsets).await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                self.inner.commit(offsets).await
            }
            Fault::Fail => Err(injected()),
            // A commit is one value: it cannot be torn.
            Fault::LoseAnswer | Fault::Tear => {
                self.inner.commit(offsets).await?;
                Err(injected())
            }
        }
    }

    fn pause(&mut self, paused: bool) {
        self.inner.pause(paused);
    }
}
