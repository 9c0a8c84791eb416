//! The bounded queue of deliveries from the poll thread to the consumer's caller. It drops the records of revoked
//! partitions.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::log::{Delivery, LogError, Offsets, Partition, Record};

/// The largest number of batches in the queue. The poll thread bounds each batch.
const BATCHES_MAX: usize = 4;

enum Item {
    Assigned(Vec<Partition>),
    Revoked { partitions: Vec<Partition>, deadline: Duration, done: oneshot::Sender<Offsets> },
    Records { records: Vec<Record>, more: bool },
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    error: Option<LogError>,
    /// Partitions revoked since the last push: the batch that the poll thread is building may still contain their
    /// records.
    revoked: BTreeSet<Partition>,
    /// The group knows another member of this name: this membership delivers nothing any more.
    fenced: bool,
    closed: bool,
}

/// The queue between the poll thread and the caller.
#[derive(Default)]
pub(super) struct DeliveryQueue {
    state: Mutex<State>,
    space_freed: Condvar,
    item_added: Notify,
}

impl DeliveryQueue {
    /// Adds records without a limit: the poll thread checks for room before it builds a batch. `take_records` gets a
    /// predicate for the partitions that were revoked meanwhile, and returns the records of the others.
    pub(super) fn push(&self, more: bool, take_records: impl FnOnce(&dyn Fn(Partition) -> bool) -> Vec<Record>) {
        let mut state = self.lock();
        let revoked = std::mem::take(&mut state.revoked);
        let records = take_records(&|partition| revoked.contains(&partition));
        if !state.closed && !records.is_empty() {
            state.queue.push_back(Item::Records { records, more });
            drop(state);
            self.item_added.notify_one();
        }
    }

    /// Waits at most `limit` for room for another batch; returns whether there is room.
    pub(super) fn wait_for_room(&self, limit: Duration) -> bool {
        let state = self.lock();
        let full = |state: &mut State| !state.closed && state.batches() >= BATCHES_MAX;
        let (mut state, _) =
            self.space_freed.wait_timeout_while(state, limit, full).unwrap_or_else(PoisonError::into_inner);
        !full(&mut state)
    }

    /// Adds the assignment of these partitions.
    pub(super) fn assigned(&self, partitions: Vec<Partition>) {
        if partitions.is_empty() {
            return;
        }
        let mut state = self.lock();
        // Records that arrive from now on belong to this member. No older record is left in the builder: a rebalance
        // ends the poll, and so the batch.
        state.revoked.retain(|partition| !partitions.contains(partition));
        state.queue.push_back(Item::Assigned(partitions));
        drop(state);
        self.item_added.notify_one();
    }

    /// Revokes these partitions: drops their queued records and puts the revocation first in the queue. The receiver
    /// gets the offsets to commit within `deadline`, or nothing. `None` if the caller has not received their assignment
    /// yet.
    pub(super) fn revoke(&self, partitions: &[Partition], deadline: Duration) -> Option<oneshot::Receiver<Offsets>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.revoked.extend(partitions);
        let mut delivered: Vec<Partition> = partitions.to_vec();
        for item in &mut state.queue {
            match item {
                Item::Records { records, .. } => records.retain(|record| !partitions.contains(&record.partition)),
                Item::Assigned(assigned) => {
                    delivered.retain(|partition| !assigned.contains(partition));
                    assigned.retain(|partition| !partitions.contains(partition));
                }
                Item::Revoked { .. } => {}
            }
        }
        state.queue.retain(|item| match item {
            Item::Records { records, .. } => !records.is_empty(),
            Item::Assigned(partitions) => !partitions.is_empty(),
            Item::Revoked { .. } => true,
        });
        if delivered.is_empty() {
            return None;
        }
        let (done, answer) = oneshot::channel();
        state.queue.push_front(Item::Revoked { partitions: delivered, deadline, done });
        drop(state);
        self.item_added.notify_one();
        Some(answer)
    }

    /// Makes the caller's next call fail with this error.
    pub(super) fn fail(&self, error: LogError) {
        let mut state = self.lock();
        if !matches!(state.error, Some(LogError::Fatal(_))) {
            state.error = Some(error);
        }
        drop(state);
        self.item_added.notify_one();
    }

    /// Ends the membership, because the group knows another member of this name.
    pub(super) fn fence(&self) {
        self.lock().fenced = true;
        self.item_added.notify_one();
    }

    /// Whether the group knows another member of this name.
    pub(super) fn is_fenced(&self) -> bool {
        self.lock().fenced
    }

    /// Waits at most `limit` for a delivery. While `paused` it returns no records.
    pub(super) async fn next(&self, paused: bool, limit: Duration) -> Result<Option<Delivery>, LogError> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let item_added = self.item_added.notified();
            // There is no await after the item leaves the queue, so a cancelled call loses nothing.
            if let Some(delivery) = self.take(paused)? {
                return Ok(Some(delivery));
            }
            if self.is_fenced() || tokio::time::timeout_at(until, item_added).await.is_err() {
                return Ok(None);
            }
        }
    }

    fn take(&self, paused: bool) -> Result<Option<Delivery>, LogError> {
        let mut state = self.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let wanted = |item: &Item| !paused || !matches!(item, Item::Records { .. });
        let Some(index) = state.queue.iter().position(wanted) else { return Ok(None) };
        let item = state.queue.remove(index);
        let waits = state.batches() > 0;
        drop(state);
        Ok(item.map(|item| match item {
            Item::Assigned(partitions) => Delivery::Assigned(partitions),
            Item::Revoked { partitions, deadline, done } => Delivery::Revoked { partitions, deadline, done },
            Item::Records { records, more } => {
                self.space_freed.notify_one();
                Delivery::Records { records, more: more || waits }
            }
        }))
    }

    /// Closes the queue when the caller has dropped its consumer: drops all items, which also ends a pending
    /// revocation.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.space_freed.notify_one();
    }

    /// Whether the caller has dropped its consumer.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn batches(&self) -> usize {
        self.queue.iter().filter(|item| matches!(item, Item::Records { .. })).count()
    }
}

/// Blocks this thread until the async side sends the offsets; empty if it does not within `deadline`. It does not use
/// the timer of the runtime, which may be shutting down.
pub(super) fn wait_for_answer(mut answer: oneshot::Receiver<Offsets>, deadline: Duration) -> Offsets {
    let until = Instant::now() + deadline;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut answer).poll(&mut context) {
            Poll::Ready(answer) => return answer.unwrap_or_default(),
            Poll::Pending => {}
        }
        let remaining = until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Offsets::new();
        }
        std::thread::park_timeout(remaining);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Frame, Origin, Timestamp};

    const SOON: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(30);

    fn record(partition: Partition, offset: i64) -> Record {
        let frame = Frame {
            key: "binance".into(),
            received_at: Timestamp(0),
            connection: 0,
            origin: Origin::Socket,
            payload: bytes::Bytes::new(),
        };
        Record { partition, offset, frame }
    }

    fn push(deliveries: &DeliveryQueue, records: Vec<Record>) {
        deliveries
            .push(false, |is_revoked| records.into_iter().filter(|record| !is_revoked(record.partition)).collect());
    }

    async fn next(deliveries: &DeliveryQueue) -> Option<Delivery> {
        deliveries.next(false, SOON).await.unwrap()
    }

    fn offsets(delivery: Option<Delivery>) -> Vec<(Partition, i64)> {
        let Some(Delivery::Records { records, .. }) = delivery else { panic!("{delivery:?}") };
        records.iter().map(|record| (record.partition, record.offset)).collect()
    }

    #[tokio::test]
    async fn a_revocation_drops_the_queued_records_and_is_delivered_first() {
        let deliveries = DeliveryQueue::default();
        deliveries.assigned(vec![0, 1]);
        assert!(matches!(next(&deliveries).await, Some(Delivery::Assigned(partitions)) if partitions == [0, 1]));
        push(&deliveries, vec![record(0, 1), record(1, 1)]);
        push(&deliveries, vec![record(1, 2)]);
        let answer = deliveries.revoke(&[1], LONG).unwrap();
        // Polled before the revocation, pushed after it.
        push(&deliveries, vec![record(1, 3), record(0, 2)]);
        let Some(Delivery::Revoked { partitions, done, .. }) = next(&deliveries).await else { panic!("no revocation") };
        assert_eq!(partitions, [1]);
        done.send(Offsets::from([(1, 1)])).unwrap();
        assert_eq!(wait_for_answer(answer, LONG), Offsets::from([(1, 1)]));
        assert_eq!(offsets(next(&deliveries).await), [(0, 1)]);
        assert_eq!(offsets(next(&deliveries).await), [(0, 2)]);
        // The partition is assigned again, and its records are delivered again.
        deliveries.assigned(vec![1]);
        push(&deliveries, vec![record(1, 1)]);
        assert!(matches!(next(&deliveries).await, Some(Delivery::Assigned(partitions)) if partitions == [1]));
        assert_eq!(offsets(next(&deliveries).await), [(1, 1)]);
    }

    #[tokio::test]
    async fn a_partition_that_is_revoked_and_assigned_again_before_a_push_loses_no_record() {
        let deliveries = DeliveryQueue::default();
        deliveries.assigned(vec![0]);
        assert!(deliveries.revoke(&[0], LONG).is_none());
        deliveries.assigned(vec![0]);
        push(&deliveries, vec![record(0, 1)]);
        assert!(matches!(next(&deliveries).await, Some(Delivery::Assigned(partitions)) if partitions == [0]));
        assert_eq!(offsets(next(&deliveries).await), [(0, 1)]);
    }

    #[tokio::test]
    async fn a_partition_revoked_before_its_assignment_was_delivered_is_never_delivered() {
        let deliveries = DeliveryQueue::default();
        deliveries.assigned(vec![0, 1]);
        assert!(deliveries.revoke(&[1], LONG).is_none());
        assert!(matches!(next(&deliveries).await, Some(Delivery::Assigned(partitions)) if partitions == [0]));
        assert!(next(&deliveries).await.is_none());
    }

    #[tokio::test]
    async fn a_paused_caller_receives_assignments_but_no_records() {
        let deliveries = DeliveryQueue::default();
        push(&deliveries, vec![record(0, 1)]);
        deliveries.assigned(vec![1]);
        assert!(matches!(deliveries.next(true, SOON).await.unwrap(), Some(Delivery::Assigned(_))));
        assert!(deliveries.next(true, SOON).await.unwrap().is_none());
        assert_eq!(offsets(next(&deliveries).await), [(0, 1)]);
    }

    #[tokio::test]
    async fn taking_a_batch_makes_room_for_another() {
        let deliveries = DeliveryQueue::default();
        for offset in 0..BATCHES_MAX as i64 {
            assert!(deliveries.wait_for_room(LONG));
            push(&deliveries, vec![record(0, offset)]);
        }
        assert!(!deliveries.wait_for_room(SOON));
        assert_eq!(offsets(next(&deliveries).await), [(0, 0)]);
        assert!(deliveries.wait_for_room(LONG));
    }

    #[test]
    fn waiting_for_offsets_ends_at_the_deadline_and_when_the_queue_closes() {
        let (done, answer) = oneshot::channel();
        assert!(wait_for_answer(answer, SOON).is_empty());
        assert!(done.send(Offsets::new()).is_err());
        let deliveries = DeliveryQueue::default();
        let answer = deliveries.revoke(&[0], LONG).unwrap();
        deliveries.close();
        assert!(wait_for_answer(answer, LONG).is_empty());
    }
}
