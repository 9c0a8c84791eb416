//! The write-behind loop: writes pending values to the cache, and retries while the cache is down.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::messages;
use crate::retry;

use super::{Cache, PendingUpdates};

/// The longest write. After that its values are pending again.
const APPLY_MAX: Duration = Duration::from_secs(5);
/// The delay before the retry of a failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Writes until `stop`, and then once more, so that the cache gets the last consumed values.
pub async fn run_write_behind(
    cache: Arc<dyn Cache>,
    pending: Arc<PendingUpdates>,
    health: Health,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let (mut failing, mut refused) = (false, Vec::new());
    loop {
        heartbeat.beat();
        let last = stop.is_cancelled();
        let update = pending.take();
        if !update.is_empty() {
            let applied = tokio::time::timeout(APPLY_MAX, cache.apply(&update)).await;
            heartbeat.beat();
            let failure = match applied {
                Ok(Ok(_moved)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some(format!("no answer within {} s", APPLY_MAX.as_secs())),
            };
            if let Some(why) = failure {
                if !failing {
                    warn!(MESSAGE_ID = messages::CACHE_UNAVAILABLE, error = %why, "the cache does not accept values, they wait: {why}");
                }
                failing = true;
                health.degraded("cache", &why);
                pending.offer(update);
                if !last {
                    retry::wait(RETRY_INTERVAL, &stop).await;
                }
            } else {
                if std::mem::take(&mut failing) {
                    health.restored("cache");
                    refused.clear();
                    info!("the cache accepts values again");
                }
                let now_refused = cache.refused_keys();
                if now_refused != refused {
                    refused = now_refused;
                    show_refused(&refused, &health);
                }
            }
        }
        if last {
            heartbeat.retire();
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = pending.offered() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Shows the keys that the cache refuses, or that it refuses none any more.
fn show_refused(keys: &[String], health: &Health) {
    match keys {
        [] => drop(health.restored("cache")),
        [key] => health.degraded("cache", &format!("{key} holds another type: another program uses the key")),
        [key, ..] => {
            let why = format!("{key} and {} more keys hold another type: another program uses them", keys.len() - 1);
            health.degraded("cache", &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_keys_are_named_until_the_store_accepts_them() {
        let health = Health::default();
        show_refused(&["tick:{binance:A}".to_owned()], &health);
        assert!(health.degraded_parts()["cache"].starts_with("tick:{binance:A} holds another type"));
        show_refused(&["tick:{binance:A}".to_owned(), "tick:{binance:B}".to_owned()], &health);
        assert!(health.degraded_parts()["cache"].contains("and 1 more keys"));
        show_refused(&[], &health);
        assert!(health.degraded_parts().is_empty());
    }
}
