//! Shows in the health when a store's own file was removed or is damaged, also while no call fails because of it.

use std::collections::HashSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::history::HistoryError;
use crate::log::LogError;

use super::Service;

/// Time between two looks; a look is a few calls of `stat`.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest search for damage after a start: it reads the files, and a large history takes longer than a start should
/// disturb the disk. Pages beyond it are found when something reads them.
const SEARCH_MAX: Duration = Duration::from_secs(30);

/// Looks until `stop`.
pub async fn run(service: Service, stop: CancellationToken) -> anyhow::Result<()> {
    let search = async {
        find_damage(&service).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = search => {}
        () = watch(&service) => {}
    }
    Ok(())
}

async fn watch(service: &Service) {
    let mut degraded = HashSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let troubles = [
            ("history", service.history.trouble().map(HistoryError::into_reason)),
            ("log", service.log.trouble().map(LogError::into_reason)),
        ];
        for (part, trouble) in troubles {
            match trouble {
                Some(why) => {
                    if degraded.insert(part) {
                        error!("{part}: {why}");
                    }
                    service.health.degraded(part, &why);
                }
                None if degraded.remove(part) => {
                    service.health.restored(part);
                    info!("the file of the {part} is well again");
                }
                None => {}
            }
        }
    }
}

/// Reads the files once. What it finds, the stores remember and [`watch`] shows.
async fn find_damage(service: &Service) {
    let search = async {
        // A store that is down or closed shows that elsewhere.
        if let Err(error) = service.history.find_damage().await {
            warn!("look for damage in history: {error}");
        }
        if let Err(error) = service.log.find_damage().await {
            warn!("look for damage in the log: {error}");
        }
    };
    if tokio::time::timeout(SEARCH_MAX, search).await.is_err() {
        info!("stopped the search for damage after {} s", SEARCH_MAX.as_secs());
    }
}
