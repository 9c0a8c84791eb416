//! Integration tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod contracts;
mod flows;
mod lookup;
mod program;
mod servers;
mod tidy;
