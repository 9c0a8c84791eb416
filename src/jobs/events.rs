//! Events for the runner: any number of the same kind between two ticks is one event.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::spec::JobEvent;

/// The events since the last [`Events::take`].
#[derive(Debug, Default)]
pub struct Events {
    reconnect: AtomicBool,
    gap: AtomicBool,
    notify: Notify,
}

impl Events {
    /// Sets the event and wakes the runner; does nothing for startup and shutdown.
    pub fn notify(&self, event: JobEvent) {
        match event {
            JobEvent::Reconnect => self.reconnect.store(true, Ordering::Release),
            JobEvent::Gap => self.gap.store(true, Ordering::Release),
            // The runner raises these itself.
            JobEvent::Startup | JobEvent::Shutdown => return,
        }
        self.notify.notify_one();
    }

    /// The events since the last call, each once.
    pub fn take(&self) -> Vec<JobEvent> {
        let mut events = Vec::new();
        for (flag, event) in [(&self.reconnect, JobEvent::Reconnect), (&self.gap, JobEvent::Gap)] {
            if flag.swap(false, Ordering::AcqRel) {
                events.push(event);
            }
        }
        events
    }

    /// Returns when an event has occurred.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}
