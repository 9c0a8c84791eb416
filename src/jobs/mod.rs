//! Periodic jobs. A pure planner decides which job is due, the runner starts and records its runs, and each task has a
//! file of its own. It must not know the configuration files, nor which backends the stores use.

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
