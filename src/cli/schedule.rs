//! Commands that read a schedule and do not need the service: `jobs test` and `jobs next`.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::clock::Clock;
use crate::config;
use crate::exit::{CONFIGURATION, Failure, INTERNAL, USAGE};
use crate::jobs::describe;
use crate::jobs::planner::simulate;
use crate::jobs::spec::{JobSpec, Schedule, When};
use crate::market::Timestamp;

use super::output::Format;

/// How far `jobs next` searches: a 29th of February on a given weekday comes at least once in 40 years.
const LOOK_AHEAD: Duration = Duration::from_secs(50 * 366 * 86_400);

/// Commands that read a schedule.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Prints when the jobs of a file would run, on a simulated clock, without the service
    Test(Test),
    /// Prints the next runs of a job, without the service
    Next(Next),
}

/// Arguments of `jobs test`.
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// The schedule, with the drop-ins in jobs.d beside it
    file: PathBuf,
    /// Where the simulated clock begins; default: now
    #[arg(long, value_name = "RFC3339", value_parser = instant)]
    from: Option<Timestamp>,
    /// How long the clock runs
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    span: Duration,
}

/// Arguments of `jobs next`.
#[derive(Clone, Debug, Args)]
pub struct Next {
    /// The job's name
    name: String,
    /// Number of runs
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    count: u64,
    /// Time zone of the printed times; default: the job's own
    #[arg(long, value_name = "ZONE", value_parser = timezone)]
    tz: Option<Tz>,
    /// The time to begin at; default: now
    #[arg(long, value_name = "RFC3339", value_parser = instant)]
    from: Option<Timestamp>,
}

/// Prints every instant at which a job of the file would run; `[from, from + span)`.
pub fn test(args: &Test, format: Format) -> Result<u8, Failure> {
    let schedule = config::load_schedule(&args.file).map_err(|problems| Failure::new(CONFIGURATION, problems))?;
    if format == Format::Human {
        for (job, why) in schedule.jobs.iter().filter_map(|job| Some((job, why_never_due(job)?))) {
            eprintln!("{} is not listed: {why}", job.name);
        }
    }
    let from = args.from.unwrap_or_else(|| Clock::system().now());
    let rows = simulate(schedule.clone(), from, args.span).map(|(job, at)| {
        let zone = schedule.jobs.iter().find(|spec| spec.name == job).map_or(Tz::UTC, timezone_of);
        (job, at, zone)
    });
    print(rows, |job, at, _zone| json!({ "job": job, "scheduled_at": at.rfc3339() }).to_string(), format)
}

/// Prints the next runs of a job.
pub fn next(args: &Next, schedule: &Schedule, format: Format) -> Result<u8, Failure> {
    let names: Vec<&str> = schedule.jobs.iter().map(|job| job.name.as_str()).collect();
    let Some(spec) = schedule.jobs.iter().find(|job| job.name == args.name) else {
        let known = names.join(", ");
        return Err(Failure::new(USAGE, anyhow!("there is no job `{}`: the schedule has {known}", args.name)));
    };
    if format == Format::Human {
        eprintln!("{}: {}", spec.name, describe(&spec.when));
        match (why_never_due(spec), &spec.when) {
            (Some(why), _) => eprintln!("no next run: {why}"),
            (None, When::Every { .. } | When::Delay(_)) => {
                eprintln!("counted from now; the service counts from its own start, see `jobs list`");
            }
            _ => {}
        }
    }
    let alone = Schedule { jobs: vec![spec.clone()], ..schedule.clone() };
    let from = args.from.unwrap_or_else(|| Clock::system().now());
    let zone = args.tz.unwrap_or_else(|| timezone_of(spec));
    let count = usize::try_from(args.count).expect("at most ten thousand");
    let rows = simulate(alone, from, LOOK_AHEAD).take(count).map(|(job, at)| (job, at, zone));
    let object = |job: &str, at: Timestamp, zone: Tz| {
        json!({ "job": job, "scheduled_at": at.rfc3339(), "local": local(at, zone) }).to_string()
    };
    print(rows, object, format)
}

/// Why the clock never starts a job.
fn why_never_due(spec: &JobSpec) -> Option<String> {
    match (&spec.when, spec.enabled) {
        (_, false) => Some("it is not enabled".to_owned()),
        (When::On(_), _) => Some(format!("it runs {}", describe(&spec.when))),
        _ => None,
    }
}

fn timezone_of(spec: &JobSpec) -> Tz {
    if let When::Cron { timezone, .. } = spec.when { timezone } else { Tz::UTC }
}

fn local(at: Timestamp, zone: Tz) -> String {
    at.to_chrono().map_or_else(|| at.to_string(), |at| at.with_timezone(&zone).format("%F %T %Z").to_string())
}

/// Prints one line per row, until the rows end or the reader closes the pipe.
fn print(
    rows: impl Iterator<Item = (String, Timestamp, Tz)>,
    object: impl Fn(&str, Timestamp, Tz) -> String,
    format: Format,
) -> Result<u8, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = || -> io::Result<()> {
        for (job, at, zone) in rows {
            match format {
                Format::Json => writeln!(out, "{}", object(&job, at, zone))?,
                Format::Human if zone == Tz::UTC => writeln!(out, "{at}  {job}")?,
                Format::Human => writeln!(out, "{at}  {}  {job}", local(at, zone))?,
            }
        }
        out.flush()
    };
    match written() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(INTERNAL, anyhow!(error).context("print the runs")))
        }
        _ => Ok(0),
    }
}

fn instant(text: &str) -> anyhow::Result<Timestamp> {
    Timestamp::parse(text).context("write a time such as 2026-03-29T00:00:00Z, or a date")
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    config::parse_duration(text).context("write whole numbers with units d, h, m, s, ms or us: 30s, 1h30m")
}

fn timezone(text: &str) -> anyhow::Result<Tz> {
    text.parse().map_err(|_unknown| anyhow!("write a name of the tz database: Europe/Berlin"))
}
