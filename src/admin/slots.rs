//! Which connections wait for their client: for a request, or for the rest of one. A crowded listener closes the connection
//! that has waited for the longest time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// Longest time for the body of a request.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// The connections of one listener.
#[derive(Default)]
pub struct Slots {
    connections: BTreeMap<u64, Weak<Slot>>,
    next: u64,
}

/// One connection: whether it waits for its client.
#[derive(Debug)]
pub struct Slot {
    /// Since when the client has sent nothing that is due; `None` while the service works on its request.
    waiting_since: Mutex<Option<Instant>>,
    /// Cancelled when the connection must end for another one.
    pub close: CancellationToken,
}

impl Slots {
    /// Adds a connection; it waits for its first request.
    pub fn add(&mut self) -> Arc<Slot> {
        let slot = Arc::new(Slot { waiting_since: Mutex::new(Some(Instant::now())), close: CancellationToken::new() });
        self.connections.retain(|_, slot| slot.strong_count() > 0);
        self.connections.insert(self.next, Arc::downgrade(&slot));
        self.next += 1;
        slot
    }

    /// Closes the connection that has waited for its client for the longest time; `false` when none waits.
    pub fn close_longest_waiting(&self) -> bool {
        let open = self.connections.values().filter_map(Weak::upgrade).filter(|slot| !slot.close.is_cancelled());
        let longest = open.filter_map(|slot| Some((slot.waiting_since()?, slot))).min_by_key(|(since, _)| *since);
        if let Some((_, slot)) = &longest {
            slot.close.cancel();
        }
        longest.is_some()
    }
}

impl Slot {
    fn waiting_since(&self) -> Option<Instant> {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request is due, or the rest of one.
    fn wait_for_client(&self) {
        self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// The client has sent a whole request: the service works.
    fn stop_waiting(&self) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The body of a request: once it has ended, nothing waits for the client. It fails after [`BODY_TIMEOUT`].
pub struct RequestBody<B> {
    body: B,
    slot: Arc<Slot>,
    deadline: Pin<Box<Sleep>>,
}

impl<B: Body> RequestBody<B> {
    /// The body of a request whose head has arrived.
    pub fn new(body: B, slot: Arc<Slot>) -> Self {
        if body.is_end_stream() {
            slot.stop_waiting();
        }
        Self { body, slot, deadline: Box::pin(tokio::time::sleep(BODY_TIMEOUT)) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if frame.is_none() || self.body.is_end_stream() {
                    self.slot.stop_waiting();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                std::task::ready!(self.deadline.as_mut().poll(cx));
                Poll::Ready(Some(Err("the rest of the request did not arrive in time".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response: once it is written, or dropped, the connection waits for the next request.
pub struct ResponseBody<B> {
    body: B,
    slot: Arc<Slot>,
}

impl<B> ResponseBody<B> {
    /// The body of a response on this connection.
    pub fn new(body: B, slot: Arc<Slot>) -> Self {
        Self { body, slot }
    }
}

impl<B> Drop for ResponseBody<B> {
    fn drop(&mut self) {
        self.slot.wait_for_client();
    }
}

impl<B: Body + Unpin> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_client_that_owes_its_request_for_longest_makes_room() {
        let mut slots = Slots::default();
        let (busy, first) = (slots.add(), slots.add());
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = slots.add();
        busy.stop_waiting();
        assert!(slots.close_longest_waiting() && first.close.is_cancelled());
        assert!(!second.close.is_cancelled() && !busy.close.is_cancelled());
        assert!(slots.close_longest_waiting() && second.close.is_cancelled());
        assert!(!slots.close_longest_waiting(), "the last one has a request in progress");
        drop(ResponseBody::new((), busy.clone()));
        assert!(slots.close_longest_waiting() && busy.close.is_cancelled(), "its response is written");
    }
}
