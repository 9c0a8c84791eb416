//! What happened elsewhere, until the runner looks: however often it happens meanwhile, it is one event.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::spec::JobEvent;

/// Events that nobody has dealt with yet.
#[derive(Debug, Default)]
pub struct Events {
    reconnect: AtomicBool,
    gap: AtomicBool,
    notify: Notify,
}

impl Events {
    /// It happened.
    pub fn notify(&self, event: JobEvent) {
        match event {
            JobEvent::Reconnect => self.reconnect.store(true, Ordering::Release),
            JobEvent::Gap => self.gap.store(true, Ordering::Release),
            // The runner sees them by itself.
            JobEvent::Startup | JobEvent::Shutdown => return,
        }
        self.notify.notify_one();
    }

    /// What happened since the last call.
    pub fn take(&self) -> Vec<JobEvent> {
        let mut events = Vec::new();
        for (flag, event) in [(&self.reconnect, JobEvent::Reconnect), (&self.gap, JobEvent::Gap)] {
            if flag.swap(false, Ordering::AcqRel) {
                events.push(event);
            }
        }
        events
    }

    /// Returns when something happened.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}
