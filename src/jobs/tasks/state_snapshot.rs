//! Saves the service's state: a crash loses at most one period of it.

use super::{Report, Services};

pub(super) async fn run(services: &Services) -> anyhow::Result<Report> {
    let saved = (services.save)().await?;
    Report::new(saved.clone(), &serde_json::json!({ "saved": saved }))
}
