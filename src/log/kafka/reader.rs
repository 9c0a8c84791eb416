//! Reading for replay: from any position, without being a member of the group.

use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset};

use super::record::Gatherer;
use super::topic::list;
use super::watch::Watch;
use crate::log::{LogError, Partition, Record};

/// How long the broker may send nothing while there is something.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one question to the broker may take.
const ASK: Duration = Duration::from_secs(5);

/// A client that reads a partition on from where it was.
pub(super) struct Reader {
    client: BaseConsumer<Watch>,
    at: Option<(Partition, i64)>,
}

impl Reader {
    /// Makes the client; it connects when it reads.
    pub(super) fn new(config: &ClientConfig, watch: &Watch) -> Result<Self, LogError> {
        let client = BaseConsumer::from_config_and_context(config, watch.clone());
        Ok(Self { client: client.map_err(|error| watch.sort("make a reader", &error))?, at: None })
    }

    /// Up to `limit` records of a partition from `offset` on. Blocks.
    pub(super) fn read(
        &mut self,
        topic: &str,
        partition: Partition,
        offset: i64,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let watch = self.client.context().clone();
        let edges = self.client.fetch_watermarks(topic, partition, ASK);
        let (first, end) = edges.map_err(|error| watch.sort("read the partition's positions", &error))?;
        let offset = offset.max(first);
        if offset >= end || limit == 0 {
            return Ok(Vec::new());
        }
        if self.at != Some((partition, offset)) {
            let assignment = list(topic, std::iter::once((partition, Offset::Offset(offset))));
            self.client.assign(&assignment).map_err(|error| watch.sort("read the log", &error))?;
        }
        self.at = None;
        let mut gathered = Gatherer::default();
        let mut next = offset;
        let mut came = Instant::now();
        while next < end && gathered.len() < limit {
            match self.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    next = message.offset() + 1;
                    gathered.add(&message);
                    came = Instant::now();
                }
                Some(Err(error)) => match watch.sort("read the log", &error) {
                    LogError::Fatal(why) => return Err(LogError::Fatal(why)),
                    // The client goes on by itself when the broker is back.
                    LogError::Unavailable(_) => {}
                },
                None => {}
            }
            if came.elapsed() > PATIENCE {
                return Err(LogError::Unavailable(format!("read the log: {}", watch.reason())));
            }
        }
        self.at = Some((partition, next));
        Ok(gathered.take(&|_| false))
    }
}
