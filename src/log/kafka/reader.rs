//! Reads records for replay, from any offset, without joining the group.

use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset};

use super::error_tracker::ErrorTracker;
use super::record::RecordBatchBuilder;
use super::topic::list;
use crate::log::{LogError, Partition, Record};

/// How long the broker may send no record although there are more.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The longest request to the broker.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// A client that continues where the last read ended.
pub(super) struct Reader {
    client: BaseConsumer<ErrorTracker>,
    at: Option<(Partition, i64)>,
}

impl Reader {
    /// Creates the client, which connects at the first read.
    pub(super) fn new(config: &ClientConfig, errors: &ErrorTracker) -> Result<Self, LogError> {
        let client = BaseConsumer::from_config_and_context(config, errors.clone());
        Ok(Self { client: client.map_err(|error| errors.classify("create a reader", &error))?, at: None })
    }

    /// Reads at most `limit` records of a partition, starting at `offset`. Blocks.
    pub(super) fn read(
        &mut self,
        topic: &str,
        partition: Partition,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let errors = self.client.context().clone();
        let watermarks = self.client.fetch_watermarks(topic, partition, REQUEST_MAX);
        let (first, end) = watermarks.map_err(|error| errors.classify("read the partition's offsets", &error))?;
        let offset = offset.max(first);
        if offset >= end || limit == 0 {
            return Ok(Vec::new());
        }
        if self.at != Some((partition, offset)) {
            let assignment = list(topic, std::iter::once((partition, Offset::Offset(offset))));
            self.client.assign(&assignment).map_err(|error| errors.classify("read the log", &error))?;
        }
        self.at = None;
        let mut batch = RecordBatchBuilder::default();
        let mut next = offset;
        let mut last_record = Instant::now();
        while next < end && batch.len() < limit {
            match self.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    next = message.offset() + 1;
                    batch.add(&message);
                    last_record = Instant::now();
                }
                Some(Err(error)) => match errors.classify("read the log", &error) {
                    error @ (LogError::Fatal(_) | LogError::Damaged(_)) => return Err(error),
                    // The client continues by itself when the broker is up again.
                    LogError::Unavailable(_) => {}
                },
                None => {}
            }
            if last_record.elapsed() > IDLE_MAX {
                return Err(LogError::Unavailable(format!("read the log: {}", errors.reason())));
            }
        }
        self.at = Some((partition, next));
        Ok(batch.take(&|_| false))
    }
}
