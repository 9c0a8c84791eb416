//! The caller's side of a member of the group: takes what its thread hands over, and commits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{CommitMode, Consumer as _};
use tokio::task::JoinHandle;
use tracing::debug;

use super::handover::Handover;
use super::poller::{self, Group, Member};
use super::settings;
use super::topic::{list, positions};
use super::watch::Watch;
use crate::log::{Consumer, Delivery, KafkaOptions, LogError, Partition, Positions};

/// The longest that [`Consumer::next`] waits: the caller's loop must come round at least once a second.
const WAIT: Duration = Duration::from_millis(500);
/// How long a commit is waited for; it goes on by itself, and the next one waits for it.
const COMMIT_WAIT: Duration = Duration::from_secs(5);
/// How long the question what is committed may take.
const ASK: Duration = Duration::from_secs(5);

/// Numbers of members of one process: static membership needs the same names after a restart.
#[derive(Clone, Default)]
pub(super) struct Numbers {
    taken: Arc<Mutex<BTreeSet<usize>>>,
}

impl Numbers {
    fn take(&self) -> usize {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
        taken.insert(free);
        free
    }

    fn give_back(&self, number: usize) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

/// One member of the group.
pub(super) struct KafkaConsumer {
    handover: Arc<Handover>,
    /// The thread owns the client: dropping it is polling until the group has let it go.
    client: Weak<Member>,
    topic: String,
    /// Partitions that the caller was told of, with what is known to be committed.
    assigned: std::collections::BTreeMap<Partition, Option<i64>>,
    committing: Option<JoinHandle<Result<Positions, LogError>>>,
    paused: bool,
    closed: Arc<AtomicBool>,
    numbers: Numbers,
    number: usize,
}

impl KafkaConsumer {
    /// Joins the group, in a thread of its own. Blocks for a moment.
    pub(super) fn join(
        options: &KafkaOptions,
        instance_id: &str,
        watch: &Watch,
        numbers: &Numbers,
        closed: &Arc<AtomicBool>,
    ) -> Result<Self, LogError> {
        let number = numbers.take();
        let mut consumer = Self {
            handover: Arc::default(),
            client: Weak::new(),
            topic: options.topic.clone(),
            assigned: Default::default(),
            committing: None,
            paused: false,
            closed: closed.clone(),
            numbers: numbers.clone(),
            number,
        };
        let group = Group {
            watch: watch.clone(),
            topic: options.topic.clone(),
            handover: consumer.handover.clone(),
            revoke_deadline: settings::revoke_deadline(options),
        };
        let config = settings::member(options, &format!("{instance_id}-{number}"))?;
        let client = Member::from_config_and_context(&config, group);
        let client = Arc::new(client.map_err(|error| watch.sort("join the group", &error))?);
        client.subscribe(&[&options.topic]).map_err(|error| watch.sort("join the group", &error))?;
        consumer.client = Arc::downgrade(&client);
        let (handover, batch_records) = (consumer.handover.clone(), options.batch_records.max(1));
        std::thread::Builder::new()
            .name(format!("log-kafka-{number}"))
            .spawn(move || poller::run(client, &handover, batch_records))
            .map_err(|error| LogError::Unavailable(format!("start the consumer's thread: {error}")))?;
        Ok(consumer)
    }

    fn learn(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Assigned(partitions) => self.assigned.extend(partitions.iter().map(|id| (*id, None))),
            Delivery::Revoked { partitions, .. } => self.assigned.retain(|id, _| !partitions.contains(id)),
            Delivery::Records { .. } => {}
        }
    }

    /// Waits for the commit that is under way.
    async fn settle(&mut self) -> Result<(), LogError> {
        let Some(commit) = &mut self.committing else { return Ok(()) };
        let late = || LogError::Unavailable("the broker does not acknowledge a commit".to_owned());
        let outcome = tokio::time::timeout(COMMIT_WAIT, commit).await.map_err(|_elapsed| late())?;
        self.committing = None;
        let committed = outcome.map_err(|error| LogError::Fatal(format!("commit: {error}")))??;
        for (partition, next) in committed {
            if let Some(known) = self.assigned.get_mut(&partition) {
                *known = Some(next);
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
        match self.handover.next(self.paused, WAIT).await? {
            Some(delivery) => {
                self.learn(&delivery);
                Ok(delivery)
            }
            None => Ok(Delivery::Records { records: Vec::new(), more: false }),
        }
    }

    async fn commit(&mut self, wanted: &Positions) -> Result<(), LogError> {
        // One that came too late before tells nothing of this one.
        if let Err(LogError::Unavailable(why)) = self.settle().await {
            debug!("the commit before this one: {why}");
            if self.committing.is_some() {
                return Err(LogError::Unavailable(why));
            }
        }
        let forward: Vec<(Partition, i64, Option<i64>)> = wanted
            .iter()
            .filter_map(|(id, next)| Some((*id, *next, *self.assigned.get(id)?)))
            .filter(|(_, next, known)| known.is_none_or(|known| known < *next))
            .collect();
        if forward.len() < wanted.len() {
            debug!("of the positions {wanted:?} some are committed already, or another's");
        }
        if forward.is_empty() {
            return Ok(());
        }
        let (client, topic) = (self.client.clone(), self.topic.clone());
        self.committing = Some(tokio::task::spawn_blocking(move || commit(&client, &topic, &forward)));
        self.settle().await
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.handover.close();
        self.numbers.give_back(self.number);
    }
}

/// Commits what moves forward, and returns what is committed then. Blocks.
fn commit(
    client: &Weak<Member>,
    topic: &str,
    forward: &[(Partition, i64, Option<i64>)],
) -> Result<Positions, LogError> {
    let Some(client) = client.upgrade() else {
        return Err(LogError::Fatal("the consumer's thread has ended".to_owned()));
    };
    let watch = &client.context().watch;
    let unknown = forward.iter().filter(|(_, _, known)| known.is_none());
    let unknown = list(topic, unknown.map(|(id, _, _)| (*id, Offset::Invalid)));
    let mut committed = Positions::new();
    if unknown.count() > 0 {
        let answer = client.committed_offsets(unknown, ASK);
        committed = positions(&answer.map_err(|error| watch.sort("read the committed positions", &error))?);
    }
    let ahead: Positions = forward
        .iter()
        .filter(|(id, next, _)| committed.get(id).is_none_or(|known| known < next))
        .map(|(id, next, _)| (*id, *next))
        .collect();
    if !ahead.is_empty() {
        let offsets = list(topic, ahead.iter().map(|(id, next)| (*id, Offset::Offset(*next))));
        client.commit(&offsets, CommitMode::Sync).map_err(|error| watch.sort("commit", &error))?;
        committed.extend(ahead);
    }
    Ok(committed)
}
