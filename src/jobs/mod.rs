//! Periodic jobs: a pure planner that decides what is due, a runner that acts, run history, one file per task.

pub mod planner;
mod runner;
pub mod spec;
pub mod tasks;

pub use runner::{JobStatus, JobsHandle, Runner, RunnerParts};
