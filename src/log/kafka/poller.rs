//! The thread of one member of the group: it polls, whatever the caller does, for a member that does not poll is thrown
//! out. Rebalances happen on it, inside the poll.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::handover::{Handover, wait_for_answer};
use super::record::Gatherer;
use super::topic::list;
use super::watch::Watch;
use crate::log::{LogError, Partition};

/// How long one poll waits; the thread looks whether to stop in between.
const POLL: Duration = Duration::from_millis(100);
/// How long the caller may be busy before partitions are paused: pausing throws away what was read ahead, so it is not
/// done for a moment's work.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of one batch, at most.
const BATCH_BYTES: usize = 4 << 20;

/// The client of a member of the group.
pub(super) type Member = BaseConsumer<Group>;

/// Runs until the caller is gone, then leaves. Leaving may take long when the broker is away: nobody waits for it.
pub(super) fn run(client: Arc<Member>, handover: &Handover, batch_records: usize) {
    let mut gatherer = Gatherer::default();
    while !handover.is_closed() {
        let full = gather(&client, handover, &mut gatherer, batch_records);
        if gatherer.len() > 0 {
            handover.push(full, |left| gatherer.take(left));
        }
        if !handover.wait_for_room(PATIENCE) {
            wait_paused(&client, handover);
        }
    }
}

/// Polls until nothing more is there at once, or a batch is full; then true.
fn gather(client: &Member, handover: &Handover, gatherer: &mut Gatherer, batch_records: usize) -> bool {
    let mut wait = POLL;
    while gatherer.len() < batch_records && gatherer.bytes() < BATCH_BYTES {
        match client.poll(wait) {
            Some(Ok(message)) => gatherer.add(&message),
            Some(Err(error)) => report(client, handover, &error),
            None => return false,
        }
        wait = Duration::ZERO;
    }
    true
}

/// The caller does not keep up: reads no further, but goes on polling until there is room.
fn wait_paused(client: &Member, handover: &Handover) {
    let pause = client.assignment().and_then(|partitions| client.pause(&partitions));
    if let Err(error) = pause {
        warn!("cannot pause partitions: {error}");
    }
    debug!("the caller does not keep up, partitions are paused");
    let mut gatherer = Gatherer::default();
    while !handover.wait_for_room(Duration::ZERO) && !handover.is_closed() {
        // A partition that is assigned meanwhile is not paused; its records are kept, and there are few at a time.
        match client.poll(POLL) {
            Some(Ok(message)) => {
                gatherer.add(&message);
                handover.push(true, |left| gatherer.take(left));
                if let Err(error) = client.assignment().and_then(|partitions| client.pause(&partitions)) {
                    warn!("cannot pause partitions: {error}");
                }
            }
            Some(Err(error)) => report(client, handover, &error),
            None => {}
        }
    }
    if let Err(error) = client.assignment().and_then(|partitions| client.resume(&partitions)) {
        handover.trouble(LogError::Fatal(format!("cannot resume partitions: {error}")));
    }
}

/// What the caller must know of an error; the rest passes by itself.
fn report(client: &Member, handover: &Handover, error: &KafkaError) {
    let sorted = client.context().watch.sort("consume", error);
    let is_news = matches!(sorted, LogError::Fatal(_))
        || matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::UnknownTopicOrPartition));
    if is_news {
        handover.trouble(sorted);
    } else {
        debug!("consume: {error}");
    }
}

/// What happens at a rebalance.
pub(super) struct Group {
    pub(super) watch: Watch,
    pub(super) topic: String,
    pub(super) handover: Arc<Handover>,
    pub(super) revoke_deadline: Duration,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.watch.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoke(client, &self.ours(partitions)),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => warn!("rebalance: {error}"),
        }
    }

    fn post_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            // librdkafka remembers that a partition was paused when it left: it would come back silent, for good.
            if let Err(error) = client.resume(partitions) {
                self.handover.trouble(LogError::Fatal(format!("cannot resume partitions: {error}")));
            }
            self.handover.assigned(self.ours(partitions));
        }
    }
}

impl Group {
    /// Lets partitions go: what the caller makes durable in time is committed before they leave.
    fn revoke(&self, client: &BaseConsumer<Self>, partitions: &[Partition]) {
        let lost = client.assignment_lost();
        let Some(answer) = self.handover.revoke(partitions, self.revoke_deadline) else { return };
        if lost {
            // They are another's already: a commit would be refused, and waiting would keep us out of the group.
            warn!("lost partitions {partitions:?}: what was not committed is consumed by their new owner");
            return;
        }
        let positions = wait_for_answer(answer, self.revoke_deadline);
        let positions = positions.iter().filter(|(partition, _)| partitions.contains(partition));
        let positions = list(&self.topic, positions.map(|(partition, next)| (*partition, Offset::Offset(*next))));
        if positions.count() > 0
            && let Err(error) = client.commit(&positions, CommitMode::Sync)
        {
            warn!("cannot commit what leaves, it is consumed again: {error}");
        }
        info!("partitions {partitions:?} leave");
    }

    fn ours(&self, partitions: &TopicPartitionList) -> Vec<Partition> {
        partitions.elements_for_topic(&self.topic).iter().map(|element| element.partition()).collect()
    }
}
