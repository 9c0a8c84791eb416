//! Periodic jobs: a pure planner that decides what is due, a runner that acts, run history, one file per task.

mod alarms;
mod calendar;
mod events;
mod execute;
mod handle;
pub mod planner;
mod recorder;
mod report;
mod runner;
mod scheduler_state;
pub mod spec;
mod status;
pub mod tasks;

pub use handle::JobsHandle;
pub use runner::{Conditions, Runner, RunnerDeps};
pub use status::{JobStatus, describe};
