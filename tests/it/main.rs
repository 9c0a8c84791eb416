//! Integration tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod config_files;
mod contracts;
mod flows;
mod program;
mod servers;
mod tidy;
