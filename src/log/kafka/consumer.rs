//! The caller's side of one group member: takes the deliveries of its poll thread, and commits.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{CommitMode, Consumer as _};
use tokio::task::JoinHandle;
use tracing::debug;

use super::delivery_queue::DeliveryQueue;
use super::error_tracker::ErrorTracker;
use super::poller::{self, GroupContext, Member};
use super::settings;
use super::topic::{list, offsets};
use crate::log::{Consumer, Delivery, KafkaOptions, LogError, Offsets, Partition};

/// The longest time that [`Consumer::next`] waits: the caller's loop must run at least once a second.
const WAIT: Duration = Duration::from_millis(500);
/// How long a caller waits for a commit. A late commit continues in the background, and the next one waits for it.
const COMMIT_WAIT: Duration = Duration::from_secs(5);
/// The longest request for the committed offsets.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Hands out the member ids of one process. Static membership needs the same ids after a restart, so the lowest free
/// one is used.
#[derive(Clone, Default)]
pub(super) struct MemberIds {
    in_use: Arc<Mutex<BTreeSet<usize>>>,
}

impl MemberIds {
    fn take(&self) -> usize {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..).find(|member_id| !in_use.contains(member_id)).unwrap_or_default();
        in_use.insert(free);
        free
    }

    fn release(&self, member_id: usize) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).remove(&member_id);
    }
}

/// One member of the consumer group.
pub(super) struct KafkaConsumer {
    deliveries: Arc<DeliveryQueue>,
    /// The poll thread owns the client, because dropping it polls until the member has left the group.
    client: Weak<Member>,
    topic: String,
    /// Partitions of which the caller has received the assignment, with the committed offset if it is known.
    assigned: std::collections::BTreeMap<Partition, Option<i64>>,
    committing: Option<JoinHandle<Result<Offsets, LogError>>>,
    paused: bool,
    closed: Arc<AtomicBool>,
    member_ids: MemberIds,
    member_id: usize,
}

impl KafkaConsumer {
    /// Joins the group, and starts the poll thread. Blocks for a moment.
    pub(super) fn join(
        options: &KafkaOptions,
        instance_id: &str,
        errors: &ErrorTracker,
        member_ids: &MemberIds,
        closed: &Arc<AtomicBool>,
    ) -> Result<Self, LogError> {
        let member_id = member_ids.take();
        let mut consumer = Self {
            deliveries: Arc::default(),
            client: Weak::new(),
            topic: options.topic.clone(),
            assigned: Default::default(),
            committing: None,
            paused: false,
            closed: closed.clone(),
            member_ids: member_ids.clone(),
            member_id,
        };
        let group = GroupContext {
            errors: errors.clone(),
            topic: options.topic.clone(),
            deliveries: consumer.deliveries.clone(),
            revoke_deadline: settings::revoke_deadline(options),
        };
        let config = settings::member(options, &format!("{instance_id}-{member_id}"))?;
        let client = Member::from_config_and_context(&config, group);
        let client = Arc::new(client.map_err(|error| errors.classify("join the group", &error))?);
        client.subscribe(&[&options.topic]).map_err(|error| errors.classify("join the group", &error))?;
        consumer.client = Arc::downgrade(&client);
        let (deliveries, batch_records) = (consumer.deliveries.clone(), options.batch_records.max(1));
        std::thread::Builder::new()
            .name(format!("log-kafka-{member_id}"))
            .spawn(move || {
                // A panic would leave a consumer that waits for ever for a delivery.
                let polling = AssertUnwindSafe(|| poller::run(client, &deliveries, batch_records));
                if std::panic::catch_unwind(polling).is_err() {
                    deliveries.fail(LogError::Fatal("the thread that polls Kafka panicked".to_owned()));
                }
            })
            .map_err(|error| LogError::Unavailable(format!("start the consumer's thread: {error}")))?;
        Ok(consumer)
    }

    fn track_assignment(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Assigned(partitions) => self.assigned.extend(partitions.iter().map(|id| (*id, None))),
            Delivery::Revoked { partitions, .. } => self.assigned.retain(|id, _| !partitions.contains(id)),
            Delivery::Records { .. } => {}
        }
    }

    /// Waits for the commit in progress, if there is one.
    async fn await_commit(&mut self) -> Result<(), LogError> {
        let Some(commit) = &mut self.committing else { return Ok(()) };
        let late = || LogError::Unavailable("the broker does not acknowledge a commit".to_owned());
        let outcome = tokio::time::timeout(COMMIT_WAIT, commit).await.map_err(|_elapsed| late())?;
        self.committing = None;
        let committed = outcome.map_err(|error| LogError::Fatal(format!("commit: {error}")))??;
        for (partition, next) in committed {
            if let Some(committed) = self.assigned.get_mut(&partition) {
                *committed = Some(next);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(LogError::Fatal("the log is closed".to_owned()));
        }
        match self.deliveries.next(self.paused, WAIT).await? {
            Some(delivery) => {
                self.track_assignment(&delivery);
                Ok(delivery)
            }
            None => Ok(Delivery::Records { records: Vec::new(), more: false }),
        }
    }

    async fn commit(&mut self, wanted: &Offsets) -> Result<(), LogError> {
        // A failure of the previous commit does not concern this one, unless it still runs.
        if let Err(LogError::Unavailable(why)) = self.await_commit().await {
            debug!("the previous commit failed: {why}");
            if self.committing.is_some() {
                return Err(LogError::Unavailable(why));
            }
        }
        let forward: Vec<(Partition, i64, Option<i64>)> = wanted
            .iter()
            .filter_map(|(id, next)| Some((*id, *next, *self.assigned.get(id)?)))
            .filter(|(_, next, committed)| committed.is_none_or(|committed| committed < *next))
            .collect();
        if forward.len() < wanted.len() {
            debug!("some of the offsets {wanted:?} are committed already or belong to another consumer");
        }
        if forward.is_empty() {
            return Ok(());
        }
        let (client, topic) = (self.client.clone(), self.topic.clone());
        self.committing = Some(tokio::task::spawn_blocking(move || commit(&client, &topic, &forward)));
        self.await_commit().await
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.deliveries.close();
        self.member_ids.release(self.member_id);
    }
}

/// Commits the offsets that are higher than the committed ones; returns the committed offsets. Blocks.
fn commit(client: &Weak<Member>, topic: &str, forward: &[(Partition, i64, Option<i64>)]) -> Result<Offsets, LogError> {
    let Some(client) = client.upgrade() else {
        return Err(LogError::Fatal("the consumer's thread has ended".to_owned()));
    };
    let errors = &client.context().errors;
    let unknown = forward.iter().filter(|(_, _, committed)| committed.is_none());
    let unknown = list(topic, unknown.map(|(id, _, _)| (*id, Offset::Invalid)));
    let mut committed = Offsets::new();
    if unknown.count() > 0 {
        let answer = client.committed_offsets(unknown, REQUEST_MAX);
        committed = offsets(&answer.map_err(|error| errors.classify("read the committed offsets", &error))?);
    }
    let ahead: Offsets = forward
        .iter()
        .filter(|(id, next, _)| committed.get(id).is_none_or(|committed| committed < next))
        .map(|(id, next, _)| (*id, *next))
        .collect();
    if !ahead.is_empty() {
        let list = list(topic, ahead.iter().map(|(id, next)| (*id, Offset::Offset(*next))));
        client.commit(&list, CommitMode::Sync).map_err(|error| errors.classify("commit", &error))?;
        committed.extend(ahead);
    }
    Ok(committed)
}
