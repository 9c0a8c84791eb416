//! The HTTP API, the status page, the metrics.

mod options;

pub use options::AdminOptions;
