//! Streams with a frame that does not fit: the consumer asks for the exchange's newest position of them, and the tail
//! answers with a [`super::Probe::Newest`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::market::{Exchange, Stream};

/// The streams to ask about; shared by the consumer and the tails.
#[derive(Clone, Debug, Default)]
pub struct Doubts(Arc<Mutex<HashSet<Stream>>>);

impl Doubts {
    /// Asks for the exchange's newest position of a stream.
    pub fn ask(&self, stream: Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stream);
    }

    /// Takes the streams of one exchange.
    pub fn take(&self, exchange: Exchange) -> Vec<Stream> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<Stream> = asked.iter().filter(|stream| stream.exchange == exchange).cloned().collect();
        taken.iter().for_each(|stream| {
            asked.remove(stream);
        });
        taken
    }
}
