//! The handle that finders and repairs share: a lock around the ledger, and the signal that a gap was opened. Knows no
//! rule of the ledger.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Ledger;

/// The ledger in memory, shared by the finders and the repairs.
#[derive(Clone, Default)]
pub struct SharedLedger {
    ledger: Arc<Mutex<Ledger>>,
    /// Notified when a gap was opened.
    pub gap_opened: Arc<Notify>,
    /// Held while a repair or the removal of a feed writes rows to the store: a repair must not overwrite a row that
    /// was superseded meanwhile.
    pub write_lock: Arc<tokio::sync::Mutex<()>>,
}

impl SharedLedger {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger: Arc::new(Mutex::new(ledger)), ..Self::default() }
    }

    /// Uses the ledger for a moment; never across an await.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
