//! Tapekeeper: records an exchange's market data without a gap.

pub mod cache;
pub mod cli;
pub mod clock;
pub mod exchange;
pub mod gap;
pub mod history;
pub mod log;
pub mod market;
pub mod pulse;
pub mod simulator;
