//! The program from outside: the real binary as a child process, a simulated exchange, and everything that an operator
//! can see: rows, answers, exit codes, log lines, notify messages.
//!
//! Every test waits for conditions with a deadline and prints its seed. It compares history with what the exchange
//! published, trade by trade.

mod access;
mod api;
pub mod app;
mod audits;
mod backlog;
mod bans;
mod broken_stores;
mod campaign;
mod capture;
mod cluster;
mod demo;
mod disk;
mod doubt;
mod export;
mod jobs;
mod listings;
mod no_history;
mod reload;
mod repairs;
mod restart;
mod rotation;
mod sample_history;
mod seal;
mod simulated_exchange;
mod systemd_notify;
mod truth;
mod two_sockets;
mod usage;
mod venues;
mod watch;
