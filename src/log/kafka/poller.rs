//! The poll thread of one group member. It polls even when the caller is busy, because the group removes a member that
//! does not poll. Rebalances run on this thread, inside the poll.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::consumer::is_fenced;
use super::delivery_queue::{DeliveryQueue, wait_for_answer};
use super::error_tracker::ErrorTracker;
use super::record::RecordBatchBuilder;
use super::topic::list;
use crate::log::{LogError, Partition};

/// How long one poll waits. Between polls the thread checks whether to stop.
const POLL: Duration = Duration::from_millis(100);
/// How long the caller may be busy before the thread pauses the partitions. A pause discards prefetched records, so a
/// short delay does not cause one.
const BUSY_MAX: Duration = Duration::from_millis(500);
/// The largest batch, in bytes of payload.
const BATCH_BYTES: usize = 4 << 20;

/// The client of a group member.
pub(super) type Member = BaseConsumer<GroupContext>;

/// Runs until the caller drops its consumer, then leaves the group. Leaving may take long when the broker is down; no
/// caller waits for it.
pub(super) fn run(client: Arc<Member>, deliveries: &DeliveryQueue, batch_records: usize) {
    let mut batch = RecordBatchBuilder::default();
    while !deliveries.is_closed() {
        let full = fill_batch(&client, deliveries, &mut batch, batch_records);
        if batch.len() > 0 {
            deliveries.push(full, |is_revoked| batch.take(is_revoked));
        }
        if !deliveries.wait_for_room(BUSY_MAX) {
            wait_paused(&client, deliveries);
        }
    }
}

/// Polls until no record is available at once, or until the batch is full; returns whether it is full.
fn fill_batch(
    client: &Member,
    deliveries: &DeliveryQueue,
    batch: &mut RecordBatchBuilder,
    batch_records: usize,
) -> bool {
    let mut wait = POLL;
    while batch.len() < batch_records && batch.bytes() < BATCH_BYTES {
        match client.poll(wait) {
            Some(Ok(message)) => batch.add(&message),
            Some(Err(error)) => report(client, deliveries, &error),
            None => return false,
        }
        wait = Duration::ZERO;
    }
    true
}

/// Pauses the partitions and continues to poll until the queue has room, because the caller does not keep up.
fn wait_paused(client: &Member, deliveries: &DeliveryQueue) {
    let pause = client.assignment().and_then(|partitions| client.pause(&partitions));
    if let Err(error) = pause {
        warn!("cannot pause partitions: {error}");
    }
    debug!("paused the partitions: the caller does not keep up");
    let mut batch = RecordBatchBuilder::default();
    while !deliveries.wait_for_room(Duration::ZERO) && !deliveries.is_closed() {
        // A partition that is assigned meanwhile is not paused yet: the few records that it delivers are kept.
        match client.poll(POLL) {
            Some(Ok(message)) => {
                batch.add(&message);
                deliveries.push(true, |is_revoked| batch.take(is_revoked));
                if let Err(error) = client.assignment().and_then(|partitions| client.pause(&partitions)) {
                    warn!("cannot pause partitions: {error}");
                }
            }
            Some(Err(error)) => report(client, deliveries, &error),
            None => {}
        }
    }
    if let Err(error) = client.assignment().and_then(|partitions| client.resume(&partitions)) {
        deliveries.fail(LogError::Fatal(format!("cannot resume partitions: {error}")));
    }
}

/// Passes an error to the caller if it is fatal or if the topic or all brokers are unavailable. Other errors are
/// temporary, and librdkafka retries.
fn report(client: &Member, deliveries: &DeliveryQueue, error: &KafkaError) {
    if is_fenced(error) {
        return deliveries.fence();
    }
    let failure = client.context().errors.classify("consume", error);
    let concerns_caller = matches!(failure, LogError::Fatal(_))
        || matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::UnknownTopicOrPartition));
    if concerns_caller {
        deliveries.fail(failure);
    } else {
        debug!("consume: {error}");
    }
}

/// Handles the rebalances of a group member.
pub(super) struct GroupContext {
    pub(super) errors: ErrorTracker,
    pub(super) topic: String,
    pub(super) deliveries: Arc<DeliveryQueue>,
    pub(super) revoke_deadline: Duration,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.errors.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoke(client, &self.partition_ids(partitions)),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => warn!("rebalance: {error}"),
        }
    }

    fn post_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            // librdkafka keeps a partition paused across a revocation: without a resume it would never deliver again.
            if let Err(error) = client.resume(partitions) {
                self.deliveries.fail(LogError::Fatal(format!("cannot resume partitions: {error}")));
            }
            self.deliveries.assigned(self.partition_ids(partitions));
        }
    }
}

impl GroupContext {
    /// Revokes partitions: waits for the caller to make their records durable, and commits them.
    fn revoke(&self, client: &BaseConsumer<Self>, partitions: &[Partition]) {
        let lost = client.assignment_lost();
        let Some(answer) = self.deliveries.revoke(partitions, self.revoke_deadline) else { return };
        if lost {
            // Another member owns them already: the broker would refuse a commit, and waiting would delay the new join.
            warn!("lost partitions {partitions:?}: their new owner consumes the uncommitted records");
            return;
        }
        let offsets = wait_for_answer(answer, self.revoke_deadline);
        let offsets = offsets.iter().filter(|(partition, _)| partitions.contains(partition));
        let offsets = list(&self.topic, offsets.map(|(partition, next)| (*partition, Offset::Offset(*next))));
        if offsets.count() > 0
            && let Err(error) = client.commit(&offsets, CommitMode::Sync)
        {
            warn!("cannot commit the revoked partitions, their records are consumed again: {error}");
        }
        info!("partitions {partitions:?} were revoked");
    }

    fn partition_ids(&self, partitions: &TopicPartitionList) -> Vec<Partition> {
        partitions.elements_for_topic(&self.topic).iter().map(|element| element.partition()).collect()
    }
}
