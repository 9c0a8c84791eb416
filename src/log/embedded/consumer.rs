//! A consumer of the embedded log. It remembers how far it has read; only the committed offset is in the file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Options, PARTITION, Shared};
use crate::log::{Consumer, Delivery, LogError, Offsets};

/// The longest time that [`Consumer::next`] waits: the caller's loop must run at least once a second.
const WAIT: Duration = Duration::from_millis(500);

pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    options: Options,
    end: tokio::sync::watch::Receiver<i64>,
    /// Next offset to deliver. It advances only when `next` returns a delivery, so a cancelled wait loses nothing.
    next: i64,
    assigned: bool,
    paused: bool,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, options: Options, next: i64) -> Self {
        let end = shared.end.clone();
        Self { shared, options, end, next, assigned: false, paused: false }
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        if !self.assigned {
            self.assigned = true;
            return Ok(Delivery::Assigned(vec![PARTITION]));
        }
        let nothing = Delivery::Records { records: Vec::new(), more: false };
        if self.paused {
            tokio::time::sleep(WAIT).await;
            return Ok(nothing);
        }
        let next = self.next;
        match tokio::time::timeout(WAIT, self.end.wait_for(|end| *end > next)).await {
            Err(_) => return Ok(nothing),
            Ok(Err(_)) => return Err(super::closed()),
            Ok(Ok(_)) => {}
        }
        let records = self.shared.read(next, self.options.batch_records, self.options.batch_bytes).await?;
        if let Some(last) = records.last() {
            self.next = last.offset + 1;
        }
        Ok(Delivery::Records { records, more: *self.end.borrow() > self.next })
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), LogError> {
        self.shared.commit(offsets).await
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }
}
