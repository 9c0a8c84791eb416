//! Which parts of the service are degraded, and why, for `/healthz`, `/readyz` and STATUS. Knows the names of parts,
//! not what they do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The process's health; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ready: AtomicBool,
    stopping: AtomicBool,
    degraded: Mutex<BTreeMap<String, String>>,
}

impl Health {
    /// Records that READY was sent.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Relaxed);
    }

    /// Records that STOPPING was sent.
    pub fn set_stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether READY was sent and STOPPING was not.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed) && !self.is_stopping()
    }

    /// Whether STOPPING was sent.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Records that a part works around a fault; health shows `why` until [`Health::restored`].
    pub fn degraded(&self, part: &str, why: &str) {
        let mut parts = self.0.degraded.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part.to_owned(), why.to_owned());
    }

    /// Records that a part works again; returns whether it was degraded.
    pub fn restored(&self, part: &str) -> bool {
        self.0.degraded.lock().unwrap_or_else(PoisonError::into_inner).remove(part).is_some()
    }

    /// Every degraded part with its reason.
    pub fn degraded_parts(&self) -> BTreeMap<String, String> {
        self.0.degraded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
