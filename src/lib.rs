//! Tapekeeper: records an exchange's market data without a gap.

pub mod admin;
pub mod audit;
pub mod backfill;
pub mod cache;
pub mod clock;
pub mod config;
pub mod consume;
pub mod exchange;
pub mod exit;
pub mod faults;
pub mod gap;
pub mod health;
pub mod history;
pub mod ingest;
pub mod jobs;
pub mod log;
pub mod market;
pub mod pulse;
pub mod signals;
pub mod sqlite;
pub mod state;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod writer;
