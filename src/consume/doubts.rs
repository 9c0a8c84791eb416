//! Questions about frames that do not fit their stream: the consumer asks, and backfill answers with a
//! [`super::Probe::Numbering`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::market::{Exchange, Stream};

use super::inputs::DoubtfulTrades;

/// The open questions, one a stream; shared by the consumer and the exchanges' clients.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    open: Arc<Mutex<HashMap<Stream, DoubtfulTrades>>>,
    /// Notified when a conflict was stored.
    pub conflict_found: Arc<Notify>,
}

impl Doubts {
    /// Asks about a stream. The newest question replaces an open one, except that it keeps its trades when the new one
    /// has none.
    pub fn ask(&self, question: DoubtfulTrades) {
        let mut asked = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get_mut(&question.stream) {
            Some(open) if question.trades.is_empty() && !open.trades.is_empty() => {}
            Some(open) => *open = question,
            None => {
                asked.insert(question.stream.clone(), question);
            }
        }
    }

    /// Takes the questions about one exchange's streams.
    pub fn take(&self, exchange: Exchange) -> Vec<DoubtfulTrades> {
        let mut asked = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        asked.extract_if(|stream, _| stream.exchange == exchange).map(|(_, question)| question).collect()
    }
}
