//! Fills the cache from history.

use crate::audit;

use super::{Report, Services};

pub(super) async fn run(services: &Services) -> anyhow::Result<Report> {
    let streams = services.streams.borrow().clone();
    let loaded = audit::preload(&services.history, &services.cache, &streams).await?;
    let summary = format!(
        "{} ticks and {} klines ({} built from minutes), {} absent, {} keys moved",
        loaded.ticks, loaded.klines, loaded.built, loaded.absent, loaded.moved
    );
    Report::new(summary, &loaded)
}
