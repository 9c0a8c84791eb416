//! The caller's side of one group member: takes the deliveries of its poll thread, and commits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

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
/// A member that the group fenced this often within [`FENCED_WINDOW`] shares its name with a recorder that runs.
const FENCED_MAX: usize = 4;
/// See [`FENCED_MAX`].
const FENCED_WINDOW: Duration = Duration::from_secs(120);

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

/// The name under which a member joins the group, and what it needs for that.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) options: KafkaOptions,
    /// The same after a restart, so that the group recognises the member.
    pub(super) instance_id: String,
    pub(super) errors: ErrorTracker,
}

/// A membership in the group; it ends when this is dropped.
struct Membership {
    deliveries: Arc<DeliveryQueue>,
    /// The poll thread owns the client, because dropping it polls until the member has left the group.
    client: Weak<Member>,
}

impl Membership {
    /// Joins the group, and starts the poll thread. Blocks for a moment.
    fn join(identity: &Identity, member_id: usize) -> Result<Self, LogError> {
        let Identity { options, instance_id, errors } = identity;
        let mut membership = Self { deliveries: Arc::default(), client: Weak::new() };
        let group = GroupContext {
            errors: errors.clone(),
            topic: options.topic.clone(),
            deliveries: membership.deliveries.clone(),
            revoke_deadline: settings::revoke_deadline(options),
        };
        let config = settings::member(options, &format!("{instance_id}-{member_id}"))?;
        let client = Member::from_config_and_context(&config, group);
        let client = Arc::new(client.map_err(|error| errors.classify("join the group", &error))?);
        client.subscribe(&[&options.topic]).map_err(|error| errors.classify("join the group", &error))?;
        membership.client = Arc::downgrade(&client);
        let (deliveries, batch_records) = (membership.deliveries.clone(), options.batch_records.max(1));
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
        Ok(membership)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.deliveries.close();
    }
}

/// One member of the consumer group.
pub(super) struct KafkaConsumer {
    identity: Identity,
    membership: Membership,
    /// Partitions of which the caller has received the assignment, with the committed offset if it is known.
    assigned: BTreeMap<Partition, Option<i64>>,
    committing: Option<JoinHandle<Result<Offsets, LogError>>>,
    /// Kept here, so that a cancelled call loses no membership.
    joining: Option<JoinHandle<Result<Membership, LogError>>>,
    /// When the group fenced this member, within [`FENCED_WINDOW`].
    fenced_at: VecDeque<Instant>,
    paused: bool,
    closed: Arc<AtomicBool>,
    member_ids: MemberIds,
    member_id: usize,
}

impl KafkaConsumer {
    /// Joins the group. Blocks for a moment.
    pub(super) fn join(identity: Identity, member_ids: &MemberIds, closed: &Arc<AtomicBool>) -> Result<Self, LogError> {
        let member_id = member_ids.take();
        let membership = Membership::join(&identity, member_id).inspect_err(|_| member_ids.release(member_id))?;
        Ok(Self {
            identity,
            membership,
            assigned: BTreeMap::new(),
            committing: None,
            joining: None,
            fenced_at: VecDeque::new(),
            paused: false,
            closed: closed.clone(),
            member_ids: member_ids.clone(),
            member_id,
        })
    }

    /// Joins the group again under the same name, after the group has fenced this member: it knows another member of
    /// that name.
    ///
    /// Mostly that is this member itself. A broker stores a member that returns when a rebalance ends; one that is
    /// killed before that comes back with the member of the process that ran before. So a fence alone says nothing of
    /// another recorder. One that runs does: it fences this member again and again.
    async fn rejoin(&mut self) -> Result<Option<Delivery>, LogError> {
        if !self.assigned.is_empty() {
            // The caller makes durable what it holds, and drops it. Nothing of it can be committed.
            let partitions = std::mem::take(&mut self.assigned).into_keys().collect();
            let (done, _) = tokio::sync::oneshot::channel();
            return Ok(Some(Delivery::Revoked { partitions, deadline: Duration::ZERO, done }));
        }
        if self.joining.is_none() {
            let now = Instant::now();
            self.fenced_at.retain(|at| now.duration_since(*at) < FENCED_WINDOW);
            self.fenced_at.push_back(now);
            let name = format!("{}-{}", self.identity.instance_id, self.member_id);
            if self.fenced_at.len() >= FENCED_MAX {
                return Err(LogError::Fatal(format!(
                    "another recorder uses the name {name} in the consumer group {}: give each its own `instance`",
                    self.identity.options.group_id
                )));
            }
            warn!("the consumer group knows another member of the name {name}: this member joins again");
            let (identity, member_id) = (self.identity.clone(), self.member_id);
            self.joining = Some(tokio::task::spawn_blocking(move || Membership::join(&identity, member_id)));
        }
        let Some(joining) = &mut self.joining else { return Ok(None) };
        let joined = joining.await;
        self.joining = None;
        self.membership = joined.map_err(|error| LogError::Fatal(format!("join the group: {error}")))??;
        Ok(None)
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
        let delivery = if self.membership.deliveries.is_fenced() {
            self.rejoin().await?
        } else {
            self.membership.deliveries.next(self.paused, WAIT).await?
        };
        match delivery {
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
        let (client, topic) = (self.membership.client.clone(), self.identity.options.topic.clone());
        self.committing = Some(tokio::task::spawn_blocking(move || commit(&client, &topic, &forward)));
        self.await_commit().await
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
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
        client.commit(&list, CommitMode::Sync).map_err(|error| {
            if is_fenced(&error) {
                client.context().deliveries.fence();
            }
            errors.classify("commit", &error)
        })?;
        committed.extend(ahead);
    }
    Ok(committed)
}

/// Whether the group knows another member of this name.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(Code::FencedInstanceId))
        || error.rdkafka_error_code() == Some(Code::FencedInstanceId)
}
