//! The cost of the scheduler: a day of a thousand jobs on a simulated clock, and how late runs start on a real one.
//!
//! `cargo bench --bench jobs [-- simulate|lateness]`. The lateness is measured with a task that does nothing, on the
//! runner of the service, which stores the runs in an embedded history. The machine should be idle.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapekeeper::backfill;
use tapekeeper::cache::PendingUpdates;
use tapekeeper::cache::embedded::EmbeddedCache;
use tapekeeper::clock::Clock;
use tapekeeper::health::Health;
use tapekeeper::heartbeat::Heartbeats;
use tapekeeper::history::History;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::jobs::planner::simulate;
use tapekeeper::jobs::spec::{JobSpec, Schedule, TaskKind, When};
use tapekeeper::jobs::tasks::{LogRetention, Services};
use tapekeeper::jobs::{Runner, RunnerDeps};
use tapekeeper::ledger::SharedLedger;
use tapekeeper::log::embedded::{EmbeddedLog, Options};
use tapekeeper::market::Timestamp;
use tapekeeper::writer::Writer;
use tokio_util::sync::CancellationToken;

/// The number of jobs of the simulated day.
const JOBS: u64 = 1_000;
/// How long the lateness is measured.
const MEASURED: Duration = Duration::from_secs(30);

fn main() {
    let wanted = |part: &str| !std::env::args().any(|arg| ["simulate", "lateness"].contains(&&*arg) && arg != part);
    if wanted("simulate") {
        simulated_day();
    }
    if wanted("lateness") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(lateness());
    }
}

/// Half of the jobs run by periods of half a minute and more, half by cron in four timezones.
fn schedule() -> Schedule {
    let timezones = [
        chrono_tz::Tz::UTC,
        chrono_tz::Tz::Europe__Berlin,
        chrono_tz::Tz::America__New_York,
        chrono_tz::Tz::Asia__Tokyo,
    ];
    let job = |n: u64| {
        let when = match n % 2 {
            0 => When::every(Duration::from_secs(30 + n % 270)),
            _ => When::Cron {
                text: format!("{} */{} * * * *", n % 60, 1 + n % 20),
                timezone: timezones[(n % 4) as usize],
            },
        };
        JobSpec::new(&format!("job-{n}"), TaskKind::StateSnapshot, when)
    };
    Schedule { jobs: (0..JOBS).map(job).collect(), ..Schedule::default() }
}

fn simulated_day() {
    for _ in 0..3 {
        let began = Instant::now();
        let fired = simulate(schedule(), Timestamp(1_774_656_000_000_000), Duration::from_secs(86_400)).count();
        println!("{JOBS} jobs, 24 simulated hours: {fired} runs in {:.2} s", began.elapsed().as_secs_f64());
    }
}

async fn lateness() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
    let services = Services {
        log: Arc::new(EmbeddedLog::open(&directory.path().join("log.db"), Options::default()).unwrap()),
        log_retention: LogRetention { age: Duration::from_secs(60), bytes: 1 << 30 },
        history: history.clone(),
        cache: Arc::new(EmbeddedCache::new()),
        backfill: backfill::Deps {
            rest: HashMap::new(),
            dialects: HashMap::new(),
            writer: Writer::new(history.clone(), Arc::new(PendingUpdates::default()), Health::default()),
            ledger: SharedLedger::default(),
            clock: clock.clone(),
            rows: Arc::default(),
            confirm_after: Duration::from_secs(1),
            answers: Arc::default(),
        },
        streams: tokio::sync::watch::channel(Vec::new()).1,
        save: Arc::new(|| Box::pin(async { Ok("nothing".to_owned()) })),
        sealed_days: None,
        clock: clock.clone(),
    };
    let deps = RunnerDeps {
        services,
        history: history.clone(),
        clock,
        health: Health::default(),
        conditions: Arc::new(|_| Ok(())),
        instance: String::new(),
    };
    let second = When::Cron { text: "* * * * * *".to_owned(), timezone: chrono_tz::Tz::UTC };
    let fast = When::every(Duration::from_millis(100));
    let jobs = vec![
        JobSpec::new("every 100 ms", TaskKind::StateSnapshot, fast),
        JobSpec::new("cron, every second", TaskKind::StateSnapshot, second),
    ];
    let (runner, _jobs) = Runner::new(deps, Schedule { jobs, ..Schedule::default() }, Some(directory.path()));
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner.run(Heartbeats::default().watch("scheduler"), stop.clone()));
    tokio::time::sleep(MEASURED).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    for job in ["every 100 ms", "cron, every second"] {
        let runs = history.runs(Some(job), None, 100_000).await.unwrap();
        let mut late: Vec<f64> = runs.iter().filter_map(|run| Some(run.lateness_us()? as f64 / 1e3)).collect();
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
        println!(
            "{job}: {} runs, late by {:.2} ms in the median, {:.2} ms p99, {:.2} ms at most",
            late.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}
