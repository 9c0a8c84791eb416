//! The command line: one file per command group. It reads arguments and prints; what a command does is in other
//! modules.

mod audit;
mod backfill;
mod bounds;
mod check;
mod check_feeds;
mod client;
mod copy;
mod coverage;
mod demo;
mod epochs;
mod export;
mod format;
mod manual;
mod output;
mod progress_bar;
mod replay;
mod schedule;
mod seal;
mod service;
pub mod simulate;
mod status;
mod symbols;
mod table;
mod tail;
mod verify;
mod watch;

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::app::{self, ConfigPaths, RunOptions, stores};
use crate::exit::{self, Failure};
use crate::jobs::spec::Schedule;
use crate::telemetry::{self, LogFormat};
use crate::{config, signals};
use client::Client;
use format::FormatFlag;

/// Records an exchange's market data without a gap, and reports every gap that the exchange cannot fill.
#[derive(Debug, Parser)]
#[command(name = "tapekeeper", version, about, after_help = "Without a command it runs the service, as `run` does.")]
pub struct Cli {
    /// The configuration; default: $TAPEKEEPER_CONFIG, ./tapekeeper.toml, /etc/tapekeeper/tapekeeper.toml, built in
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The schedule; default: $TAPEKEEPER_JOBS, jobs.toml beside the configuration, built in
    #[arg(long, global = true, value_name = "FILE")]
    jobs: Option<PathBuf>,
    /// How log lines look on stderr
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// How a command prints
    #[arg(long, global = true, value_parser = format::print_parser(), default_value = "human")]
    format: FormatFlag,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service (also without a command)
    Run,
    /// Checks configuration and schedule; exit 78 when one is wrong
    Check(check::Args),
    /// Records a simulated exchange that fails in every known way, and checks that nothing is missing
    Demo(demo::Args),
    /// Runs an exchange on loopback to record from
    Simulate(simulate::Args),
    /// Counts what history holds, with or without the service; exit 1 when it is not complete
    Audit(audit::Args),
    /// Writes the rows of a stream, with or without the service; exit 1 when the range is not complete
    Export(export::Args),
    /// Writes finished days as Parquet files with manifests, with or without the service; exit 1 when one is not complete
    Seal(seal::Args),
    /// Recomputes what sealed days state, from the files alone; exit 1 names every difference
    Verify(verify::Args),
    /// Lists the symbols of an exchange with their states, or what each venue can do
    Symbols(symbols::Args),
    /// Prints trades as history receives them, with or without the service, until interrupted
    Tail(tail::Args),
    /// Decodes the frames of the log again and writes their rows to history
    Replay(replay::Args),
    /// Copies history, gap ledger and run history between the stores of two configurations
    Copy(copy::Args),
    /// Lists, runs, pauses and resumes jobs, and prints when a schedule runs them
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Writes manual pages and completions for the package
    #[command(hide = true)]
    PackageFiles(manual::Args),
    #[command(flatten)]
    Service(service::Command),
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    #[command(flatten)]
    Service(service::JobsCommand),
    #[command(flatten)]
    Schedule(schedule::Command),
}

impl Cli {
    /// Reads the process's arguments; wrong usage ends with 64.
    pub fn read() -> Result<Self, u8> {
        Self::try_parse().map_err(|error| {
            // Help and version are not errors: clap prints them to stdout.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            match error.print() {
                Err(closed) if closed.kind() != ErrorKind::BrokenPipe => exit::INTERNAL,
                _ => code,
            }
        })
    }

    /// Runs the command; returns the exit code.
    pub async fn run(self) -> Result<u8, Failure> {
        signals::ignore_file_size_limit()?;
        self.dispatch().await.map_err(with_code_of_store)
    }

    async fn dispatch(self) -> Result<u8, Failure> {
        let config_paths = ConfigPaths { config: self.config, jobs: self.jobs };
        let format = self.format.printed();
        match self.command {
            None | Some(Command::Run) => run(config_paths, self.log_format).await,
            Some(Command::Check(args)) => check::run(args, &config_paths, format, until_stopped()?).await,
            Some(Command::Simulate(args)) => {
                let _telemetry = telemetry::install(self.log_format)?;
                let code = simulate::run(args, format, until_stopped()?).await?;
                Ok(u8::try_from(code).unwrap_or(exit::INTERNAL))
            }
            Some(Command::Demo(args)) => demo::run(args, format, until_stopped()?).await,
            Some(Command::Audit(args)) => audit::run(args, &load(&config_paths)?, format).await,
            Some(Command::Export(args)) => {
                output::allow_closed_stdout(export::run(args, &load(&config_paths)?, until_stopped()?).await)
            }
            Some(Command::Seal(args)) => seal::run(args, &load(&config_paths)?, format, until_stopped()?).await,
            Some(Command::Verify(args)) => {
                let config = if args.against_history { Some(load(&config_paths)?) } else { None };
                verify::run(args, config.as_ref(), format, until_stopped()?).await
            }
            Some(Command::Tail(args)) => {
                output::allow_closed_stdout(tail::run(args, &load(&config_paths)?, format).await)
            }
            Some(Command::Symbols(args)) => symbols::run(args, &load(&config_paths)?, format, until_stopped()?).await,
            Some(Command::Replay(args)) => replay::run(args, &load(&config_paths)?, format, until_stopped()?).await,
            Some(Command::Copy(args)) => copy::run(args, format, until_stopped()?).await,
            Some(Command::PackageFiles(args)) => {
                manual::write(&args)?;
                Ok(0)
            }
            Some(Command::Jobs(JobsCommand::Schedule(schedule::Command::Test(args)))) => schedule::test(&args, format),
            Some(Command::Jobs(JobsCommand::Schedule(schedule::Command::Next(args)))) => {
                schedule::next(&args, &load_schedule(&config_paths)?, format)
            }
            Some(Command::Jobs(JobsCommand::Service(command))) => {
                service::run_jobs(command, &Client::new(&load(&config_paths)?.admin)?, format).await
            }
            Some(Command::Service(command)) => {
                service::run(command, &Client::new(&load(&config_paths)?.admin)?, format).await
            }
        }
    }
}

/// Gives the failure of a store the code that says what an operator can do, where the command gave it none.
fn with_code_of_store(failure: Failure) -> Failure {
    match stores::exit_code(&failure.error) {
        Some(code) if failure.code == exit::INTERNAL => Failure::new(code, failure.error),
        _ => failure,
    }
}

/// The code for files that cannot be loaded: without a free file descriptor their content is unknown.
fn code_of_unloaded() -> u8 {
    if std::fs::File::open("/dev/null").is_err() { exit::IO } else { exit::CONFIGURATION }
}

/// Runs the service.
async fn run(config_paths: ConfigPaths, log_format: LogFormat) -> Result<u8, Failure> {
    let hidden = config::environment::hide_secrets();
    let environment = config::environment::variable;
    let loaded = match config::load_all(config_paths.config.as_deref(), config_paths.jobs.as_deref(), &environment) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(code_of_unloaded());
        }
    };
    let _telemetry = telemetry::install(log_format)?;
    if let Err(error) = hidden {
        tracing::warn!("the programs of jobs can read the passwords in this process's environment: {error:#}");
    }
    for warning in loaded.warnings.warnings() {
        tracing::warn!("{warning}");
    }
    let signals = signals::listen()?;
    app::run(RunOptions { config: loaded.config, schedule: loaded.schedule, config_paths }, signals).await?;
    Ok(0)
}

/// The configuration, for a command that does not need the schedule.
fn load(config_paths: &ConfigPaths) -> Result<config::Config, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = config::load_config(config_paths.config.as_deref(), &environment);
    loaded.map_err(|problems| Failure::new(code_of_unloaded(), problems))
}

/// The schedule, for a command that needs it.
fn load_schedule(config_paths: &ConfigPaths) -> Result<Schedule, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = config::load_all(config_paths.config.as_deref(), config_paths.jobs.as_deref(), &environment);
    loaded.map(|loaded| loaded.schedule).map_err(|problems| Failure::new(exit::CONFIGURATION, problems))
}

/// A token that SIGTERM and SIGINT cancel.
fn until_stopped() -> anyhow::Result<CancellationToken> {
    let mut signals = signals::listen()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        while let Some(signal) = signals.recv().await {
            if let signals::Request::Stop(_) = signal {
                stopped.cancel();
                return;
            }
        }
    });
    Ok(stop)
}
