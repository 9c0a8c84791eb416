//! Whose turn it is on each connection: the client's while it owes a request or the rest of one, else the service's. A
//! crowded listener closes the connection whose client has had the turn for the longest time.

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
    connections: BTreeMap<u64, Weak<Turn>>,
    next: u64,
}

/// The turn on one connection.
#[derive(Debug)]
pub struct Turn {
    /// Since when the client has owed something; `None` while the service works for it.
    owed_since: Mutex<Option<Instant>>,
    /// Cancelled when the connection must end for another one.
    pub close: CancellationToken,
}

impl Slots {
    /// Adds a connection; its client owes a request.
    pub fn add(&mut self) -> Arc<Turn> {
        let turn = Arc::new(Turn { owed_since: Mutex::new(Some(Instant::now())), close: CancellationToken::new() });
        self.connections.retain(|_, turn| turn.strong_count() > 0);
        self.connections.insert(self.next, Arc::downgrade(&turn));
        self.next += 1;
        turn
    }

    /// Closes the connection whose client has owed something for the longest time; `false` when none owes anything.
    pub fn close_longest_waiting(&self) -> bool {
        let open = self.connections.values().filter_map(Weak::upgrade).filter(|turn| !turn.close.is_cancelled());
        let longest = open.filter_map(|turn| Some((turn.owed_since()?, turn))).min_by_key(|(since, _)| *since);
        if let Some((_, turn)) = &longest {
            turn.close.cancel();
        }
        longest.is_some()
    }
}

impl Turn {
    fn owed_since(&self) -> Option<Instant> {
        *self.owed_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client owes the next request, or the rest of one.
    fn is_clients(&self) {
        self.owed_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// The client has sent a whole request.
    fn is_ours(&self) {
        *self.owed_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The body of a request: when it has ended it is the service's turn. It fails after [`BODY_TIMEOUT`].
pub struct RequestBody<B> {
    body: B,
    turn: Arc<Turn>,
    deadline: Pin<Box<Sleep>>,
}

impl<B: Body> RequestBody<B> {
    /// The body of a request whose head has arrived.
    pub fn new(body: B, turn: Arc<Turn>) -> Self {
        if body.is_end_stream() {
            turn.is_ours();
        }
        Self { body, turn, deadline: Box::pin(tokio::time::sleep(BODY_TIMEOUT)) }
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
                    self.turn.is_ours();
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

/// The body of a response: once it is written, or dropped, the client owes its next request.
pub struct ResponseBody<B> {
    body: B,
    turn: Arc<Turn>,
}

impl<B> ResponseBody<B> {
    /// The body of a response on this connection.
    pub fn new(body: B, turn: Arc<Turn>) -> Self {
        Self { body, turn }
    }
}

impl<B> Drop for ResponseBody<B> {
    fn drop(&mut self) {
        self.turn.is_clients();
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
        let mut turns = Slots::default();
        let (busy, first) = (turns.add(), turns.add());
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = turns.add();
        busy.is_ours();
        assert!(turns.close_longest_waiting() && first.close.is_cancelled());
        assert!(!second.close.is_cancelled() && !busy.close.is_cancelled());
        assert!(turns.close_longest_waiting() && second.close.is_cancelled());
        assert!(!turns.close_longest_waiting(), "the last one has a request in progress");
        drop(ResponseBody::new((), busy.clone()));
        assert!(turns.close_longest_waiting() && busy.close.is_cancelled(), "its response is written");
    }
}
