//! Reads `jobs.toml` and its drop-ins into a [`Schedule`].

use std::collections::BTreeMap;
use std::time::Duration;

use chrono_tz::Tz;
use toml::de::DeValue;

use crate::jobs::planner::{next_cron, parse_cron};
use crate::jobs::spec::{
    Align, JobEvent, JobSpec, Missed, MissedPolicy, OnStop, Overlap, Requirement, Retry, RunsKept, Schedule,
    SchedulerOptions, TaskArgs, TaskKind, When,
};
use crate::market::Timestamp;

use super::cron_mistakes;
use super::problem::{did_you_mean, position};
use super::reader::{Diagnostics, Table, parse};
use super::task_args;
use super::units::parse_size;

const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(366 * 86_400);
/// For less, use an alert rule on the metrics.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// A week of a busy market has a billion trades to read.
const LAST_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Ten years: catches a wrong unit.
const AGE_MAX: Duration = Duration::from_secs(3_650 * 86_400);
/// More than ten years of runs every minute.
const RUNS_MAX: i64 = 10_000_000;
/// With it, the scheduler's part of the stop, records included, takes less than its grace of five seconds.
const STOP_GRACE_MAX: Duration = Duration::from_secs(3);

/// The values for jobs that do not set them.
struct Defaults {
    timezone: Tz,
    job: JobSpec,
}

impl Default for Defaults {
    fn default() -> Self {
        let job = JobSpec::new("", TaskKind::StateSnapshot, When::On(Vec::new()));
        Self { timezone: Tz::UTC, job }
    }
}

/// Reads all files as one schedule; adds the problems of each file to its diagnostics.
pub fn read(files: &[(Diagnostics, &str)]) -> Schedule {
    let mut schedule = Schedule::default();
    // The first definition of each name, for the message about the second.
    let mut first_uses: BTreeMap<String, String> = BTreeMap::new();
    let mut defaults = Defaults::default();
    for (at, (diagnostics, text)) in files.iter().enumerate() {
        let document = parse(text, diagnostics);
        let root = Table::root(&document, diagnostics);
        if root.has("schema") {
            root.integer("schema", 1, 1);
        } else {
            diagnostics.missing(0..0, "`schema` is missing", "begin with `schema = 1`".to_owned());
            root.value("schema");
        }
        // These tables apply to all files, so only the first may have them: a drop-in must not change other jobs.
        if at == 0 {
            if let Some(table) = root.table("scheduler") {
                schedule.scheduler = scheduler(table, &mut defaults);
            }
            if let Some(table) = root.table("defaults") {
                behaviour(&table, &mut defaults.job);
                defaults.timezone = timezone(&table).unwrap_or(defaults.timezone);
                table.finish();
            }
        }
        if let Some(jobs) = root.table("job") {
            for (name, span, value) in jobs.entries() {
                let Some(table) = jobs.table_of(&name, span.clone(), value) else { continue };
                let line = position(text, span.start).0;
                if let Some(first) = first_uses.get(&name) {
                    let help = format!("a drop-in can only add jobs: edit this one at {first}");
                    diagnostics.error(span.clone(), format!("job `{name}` is defined twice"), Some(help));
                } else {
                    first_uses.insert(name.clone(), format!("{}:{line}", diagnostics.source.name));
                }
                if !is_name(&name) {
                    let help =
                        "names are part of commands and URLs: use letters, digits, `-`, `_` and `.` only".to_owned();
                    diagnostics.error(span, format!("`{name}` is not a name for a job"), Some(help));
                }
                schedule.jobs.extend(job(name, table, &defaults));
            }
        }
        root.finish();
    }
    schedule
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// `[scheduler]`.
fn scheduler(table: Table<'_>, defaults: &mut Defaults) -> SchedulerOptions {
    let mut options = SchedulerOptions::default();
    defaults.timezone = timezone(&table).unwrap_or(Tz::UTC);
    if let Some(runs) = table.integer("max_concurrent", 1, 64) {
        options.max_concurrent = usize::try_from(runs).expect("between 1 and 64");
    }
    let kept = runs_kept(&table, "history", "remove the key for the default, 30d");
    options.history = kept.unwrap_or(options.history);
    defaults.job.args.runs = options.history;
    options.stop_grace = table.duration("stop_grace", Duration::ZERO, STOP_GRACE_MAX).unwrap_or(options.stop_grace);
    table.finish();
    options
}

/// Which runs to keep: an age, or a table with `age`, `per_job` or both.
fn runs_kept(table: &Table<'_>, key: &'static str, help: &str) -> Option<RunsKept> {
    let diagnostics = table.diagnostics();
    let value = table.value(key)?;
    match value.get_ref() {
        DeValue::Integer(number) => {
            let number = number.as_str();
            let help = format!("write `{key} = \"{number}d\"` for days, `{key} = {{ per_job = {number} }}` for runs");
            diagnostics.error(value.span(), format!("`{}` is a bare number", table.name(key)), Some(help));
            None
        }
        DeValue::Table(_) => {
            let kept = table.table(key)?;
            let age = kept.age("age", AGE_MAX, "remove the key to keep runs of any age");
            let per_job = kept.count("per_job", RUNS_MAX, "remove the key to keep any number of runs");
            let per_job = per_job.and_then(|runs| u32::try_from(runs).ok());
            // An unknown key already has an error.
            if kept.entries().next().is_none() {
                let help = format!("write `{key} = \"30d\"`, or `{key} = {{ age = \"30d\", per_job = 10000 }}`");
                diagnostics.error(value.span(), format!("`{}` sets no limit", table.name(key)), Some(help));
            }
            kept.finish();
            (age.is_some() || per_job.is_some()).then_some(RunsKept { age, per_job })
        }
        _ => table.age(key, AGE_MAX, help).map(|age| RunsKept { age: Some(age), per_job: None }),
    }
}

/// The keys of a job that `[defaults]` can set too.
fn behaviour(table: &Table<'_>, spec: &mut JobSpec) {
    let short = Duration::from_millis(1);
    spec.timeout = table.duration("timeout", short, EVERY_MAX).unwrap_or(spec.timeout);
    spec.deadline = table.duration("deadline", short, EVERY_MAX).or(spec.deadline);
    spec.jitter.max = table.duration("jitter", Duration::ZERO, EVERY_MAX).unwrap_or(spec.jitter.max);
    spec.jitter.is_stable =
        table.choice("jitter_kind", &[("random", false), ("stable", true)]).unwrap_or(spec.jitter.is_stable);
    spec.overlap = table.choice("overlap", &Overlap::ALL).unwrap_or(spec.overlap);
    let Missed { policy, window, cap } = spec.missed;
    spec.missed = Missed {
        policy: table.choice("missed", &MissedPolicy::ALL).unwrap_or(policy),
        window: table.duration("missed_window", short, EVERY_MAX).or(window),
        cap: table.integer("missed_cap", 1, 1_000).and_then(|cap| usize::try_from(cap).ok()).unwrap_or(cap),
    };
    if let Some(retry) = table.table("retry") {
        let Retry { max, backoff, jitter } = spec.retry;
        spec.retry = Retry {
            max: retry.integer("max", 0, 100).and_then(|max| u32::try_from(max).ok()).unwrap_or(max),
            backoff: retry.duration("backoff", EVERY_MIN, EVERY_MAX).unwrap_or(backoff),
            jitter: retry.duration("jitter", Duration::ZERO, EVERY_MAX).or(jitter),
        };
        retry.finish();
    }
    if let Some(failure) = table.table("on_failure") {
        let failures = failure.integer("pause_after", 1, 1_000).and_then(|failures| u32::try_from(failures).ok());
        spec.pause_after = failures.unwrap_or(spec.pause_after);
        spec.alert = failure.boolean("alert").unwrap_or(spec.alert);
        failure.finish();
    }
    spec.on_stop = table.choice("on_stop", &OnStop::ALL).unwrap_or(spec.on_stop);
    spec.requires = requires(table).unwrap_or(std::mem::take(&mut spec.requires));
}

/// The requirements: names, and `disk.free` with or without a size.
fn requires(table: &Table<'_>) -> Option<Vec<Requirement>> {
    let written = table.texts("requires")?;
    let mut requirements = Vec::new();
    for (text, span) in written {
        let named = Requirement::CONNECTED.iter().find(|(name, _)| *name == text).map(|(_, requirement)| *requirement);
        match named.map(Ok).unwrap_or_else(|| disk_free(&text)) {
            Ok(requirement) => requirements.push(requirement),
            Err(help) => table.diagnostics().error(span, format!("`{text}` is not a requirement"), Some(help)),
        }
    }
    Some(requirements)
}

fn disk_free(text: &str) -> Result<Requirement, String> {
    let known = || {
        let names: Vec<&str> = Requirement::CONNECTED.iter().map(|(name, _)| *name).chain(["disk.free"]).collect();
        did_you_mean(text, names.iter().copied()).unwrap_or_else(|| format!("known: {}", names.join(", ")))
    };
    let size = text.strip_prefix("disk.free").ok_or_else(known)?;
    if size.is_empty() {
        return Ok(Requirement::DISK_FREE);
    }
    let bytes = size.trim_start().strip_prefix(">=").and_then(|size| parse_size(size.trim_start()));
    bytes.map(Requirement::DiskFree).ok_or_else(|| "write a size after `>=`: `disk.free >= 10GiB`".to_owned())
}

/// The longest silence of a critical job; `critical` and `max_silence` belong together.
fn max_silence(table: &Table<'_>, when: Option<&When>) -> Option<Duration> {
    let critical = table.boolean("critical");
    let silence = table.duration("max_silence", SILENCE_MIN, EVERY_MAX);
    let diagnostics = table.diagnostics();
    match (critical, table.has("max_silence")) {
        (Some(true), false) => {
            let help = "add the longest time allowed without a success: `max_silence = \"10m\"`".to_owned();
            diagnostics.error(table.key_span("critical"), "a critical job needs `max_silence`", Some(help));
        }
        (None | Some(false), true) => {
            let help = "add `critical = true`, or remove it".to_owned();
            diagnostics.error(
                table.key_span("max_silence"),
                "`max_silence` has no effect without `critical`",
                Some(help),
            );
            return None;
        }
        _ => {}
    }
    if let (Some(silence), Some(When::Every { period, .. } | When::Delay(period))) = (silence, when)
        && silence <= *period
    {
        let help = "the alarm would begin before every run: make it longer than the period".to_owned();
        diagnostics.error(table.key_span("max_silence"), "`max_silence` is not longer than the period", Some(help));
    }
    silence
}

fn job(name: String, table: Table<'_>, defaults: &Defaults) -> Option<JobSpec> {
    let diagnostics = table.diagnostics();
    if !table.has("task") {
        let tasks = TaskKind::ALL.map(|(task, _)| task);
        let help = format!("add `task = \"...\"` with one of: {}", tasks.join(", "));
        diagnostics.missing(table.span(), format!("`{}` is missing", table.name("task")), help);
    }
    let task = table.choice("task", &TaskKind::ALL);
    let mut spec = JobSpec { name, ..defaults.job.clone() };
    spec.enabled = table.boolean("enabled").unwrap_or(true);
    spec.description = table.text("description").map(|(text, _)| text).unwrap_or_default();
    behaviour(&table, &mut spec);
    spec.window = table.boolean("window").unwrap_or(false);
    let when = when(&table, defaults.timezone);
    spec.max_silence = max_silence(&table, when.as_ref());
    spec.blocking = table.boolean("blocking").unwrap_or(false);
    let at_start = |when: &When| matches!(when, When::On(events) if events.contains(&JobEvent::Startup));
    if spec.blocking && !when.as_ref().is_none_or(at_start) {
        let help = "READY waits for the first run: use it with `on = [\"startup\"]`".to_owned();
        diagnostics.error(table.key_span("blocking"), "only a job at startup can be blocking", Some(help));
    }
    if let Some(When::Every { period, .. }) = &when
        && spec.jitter.max > *period
    {
        let help = "a jitter beyond the period would let instants overtake each other: make it shorter".to_owned();
        let span = if table.has("jitter") { table.key_span("jitter") } else { table.span() };
        diagnostics.error(span, "`jitter` is longer than `every`", Some(help));
    }
    spec.args = args(&table, task, spec.window, spec.args);
    table.finish();
    (spec.task, spec.when) = (task?, when?);
    Some(spec)
}

/// Exactly one of `every`, `delay`, `cron` and `on`.
fn when(table: &Table<'_>, default_timezone: Tz) -> Option<When> {
    let diagnostics = table.diagnostics();
    let written: Vec<&str> = ["every", "delay", "cron", "on"].into_iter().filter(|key| table.has(key)).collect();
    let align = table.choice("align", &Align::ALL).unwrap_or_default();
    let every = table.duration("every", EVERY_MIN, EVERY_MAX).map(|period| When::Every { period, align });
    let delay = table.duration("delay", EVERY_MIN, EVERY_MAX).map(When::Delay);
    let cron = cron(table, timezone(table).unwrap_or(default_timezone));
    let on = on(table);
    match written.as_slice() {
        [_] => {}
        [] => {
            let help = "add `every = \"30s\"`, `cron = \"0 */5 * * * *\"` or `on = [\"startup\"]`".to_owned();
            let name = table.name("");
            diagnostics.missing(table.span(), format!("`{}` has no schedule", name.trim_end_matches('.')), help);
            return None;
        }
        [first, second, ..] => {
            let message = format!("`{first}` and `{second}` exclude each other");
            diagnostics.error(table.key_span(second), message, Some(format!("keep one of: {}", written.join(", "))));
            return None;
        }
    }
    if table.has("timezone") && !table.has("cron") {
        let help = "remove it, or use `cron`: only `cron` has a timezone".to_owned();
        diagnostics.error(table.key_span("timezone"), "`timezone` has no effect without `cron`", Some(help));
    }
    if table.has("align") && !table.has("every") {
        let help = "remove it, or use `every`".to_owned();
        diagnostics.error(table.key_span("align"), "`align` has no effect without `every`", Some(help));
    }
    every.or(delay).or(cron).or(on)
}

fn timezone(table: &Table<'_>) -> Option<Tz> {
    let (text, span) = table.text("timezone")?;
    match text.parse() {
        Ok(timezone) => Some(timezone),
        Err(_unknown) => {
            let help = fixed_offset(&text)
                .or_else(|| did_you_mean(&text, chrono_tz::TZ_VARIANTS.iter().map(|timezone| timezone.name())))
                .unwrap_or_else(|| "write a name of the tz database: \"Europe/Berlin\"".to_owned());
            table.diagnostics().error(span, format!("unknown timezone `{text}`"), Some(help));
            None
        }
    }
}

/// How the tz database writes an offset such as `UTC+2` or `GMT-05:00`: with the sign reversed.
fn fixed_offset(text: &str) -> Option<String> {
    let upper = text.trim().to_uppercase();
    let offset = upper.strip_prefix("UTC").or_else(|| upper.strip_prefix("GMT"))?;
    let (sign, hours) = match offset.split_at_checked(1)? {
        ("+", hours) => ('-', hours),
        ("-", hours) => ('+', hours),
        _ => return None,
    };
    let hours: u8 = hours.strip_suffix(":00").unwrap_or(hours).parse().ok()?;
    let name = format!("Etc/GMT{sign}{hours}");
    name.parse::<Tz>().ok()?;
    Some(format!("write \"{name}\": the tz database reverses the sign of a fixed offset"))
}

fn cron(table: &Table<'_>, timezone: Tz) -> Option<When> {
    let (text, span) = table.text("cron")?;
    if let Some(mistake) = cron_mistakes::find(&text) {
        let message = format!("`{text}` is not a cron pattern: {}", mistake.what);
        table.diagnostics().error(span, message, Some(mistake.help));
        return None;
    }
    // The parser reads a seventh field as the year; a nickname such as @daily is one word.
    let parsed = match text.split_whitespace().count() {
        5 | 6 => parse_cron(&text),
        1 if text.trim().starts_with('@') => parse_cron(&text),
        fields => Err(format!("it has {fields} field{}", if fields == 1 { "" } else { "s" })),
    };
    let cron = match parsed {
        Ok(cron) => cron,
        Err(why) => {
            let help = "five fields: minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7; or six, with second 0-59 \
                        in front";
            // The parser's message begins with its internal parts and is a sentence.
            let why = why.rsplit("error: ").next().unwrap_or(&why).trim_end_matches('.').to_lowercase();
            let field = wrong_field(&text).map(|(name, field)| format!("{name} `{field}`: ")).unwrap_or_default();
            let message = format!("`{text}` is not a cron pattern: {field}{why}");
            table.diagnostics().error(span, message, Some(help.to_owned()));
            return None;
        }
    };
    // From a fixed date: a pattern that never fires does not fire after any date.
    if next_cron(&cron, timezone, Timestamp(1_700_000_000_000_000)).is_none() {
        let help = "write a day that the month has; `L` means the last day of the month".to_owned();
        table.diagnostics().error(span, format!("`{text}` never fires: there is no such date"), Some(help));
        return None;
    }
    Some(When::Cron { text, timezone })
}

/// The first invalid field and its name: the parser does not name it.
fn wrong_field(text: &str) -> Option<(&'static str, &str)> {
    const NAMES: [&str; 6] = ["second", "minute", "hour", "day", "month", "weekday"];
    let fields: Vec<&str> = text.split_whitespace().collect();
    let names = NAMES.len().checked_sub(fields.len()).map(|skipped| &NAMES[skipped..])?;
    let alone = |at: usize| {
        let pattern: Vec<&str> = (0..fields.len()).map(|other| if other == at { fields[at] } else { "*" }).collect();
        pattern.join(" ")
    };
    // With any other number of fields, no single field is wrong.
    let whole = matches!(fields.len(), 5 | 6);
    let wrong = (0..fields.len()).find(|at| whole && parse_cron(&alone(*at)).is_err())?;
    Some((names[wrong], fields[wrong]))
}

fn on(table: &Table<'_>) -> Option<When> {
    let written = table.texts("on")?;
    let known = JobEvent::ALL.map(|(name, _)| name);
    let mut events = Vec::new();
    for (text, span) in written {
        match JobEvent::ALL.iter().find(|(name, _)| *name == text) {
            Some((_, event)) => events.push(*event),
            None => {
                let help = did_you_mean(&text, known).unwrap_or_else(|| format!("known: {}", known.join(", ")));
                table.diagnostics().error(span, format!("unknown event `{text}`"), Some(help));
            }
        }
    }
    Some(When::On(events))
}

fn args(table: &Table<'_>, task: Option<TaskKind>, has_window: bool, mut args: TaskArgs) -> TaskArgs {
    let needs = match task {
        Some(TaskKind::Backfill) => Some("args = { symbol = \"BTCUSDT\", from = \"2026-01-01\" }"),
        Some(TaskKind::Command) => Some("args = { argv = [\"/usr/bin/true\"] }"),
        _ => None,
    };
    if let Some(example) = needs.filter(|_| !table.has("args")) {
        let help = format!("add the arguments of the task: `{example}`");
        table.diagnostics().missing(table.span(), format!("`{}` is missing", table.name("args")), help);
    }
    let Some(table) = table.table("args") else { return args };
    match task {
        Some(TaskKind::ConsistencyAudit) => args.repair = table.boolean("repair").unwrap_or(false),
        Some(TaskKind::KlineVerify) => {
            args.last = table.duration("last", Duration::from_secs(60), LAST_MAX).unwrap_or(args.last);
        }
        Some(TaskKind::Retention) => {
            let age = |key, help: &str| table.age(key, AGE_MAX, help);
            args.dead_letters = age("dead_letters", "remove the key for the default, 30d").unwrap_or(args.dead_letters);
            let runs = runs_kept(&table, "runs", "remove the key to use `scheduler.history`");
            args.runs = runs.unwrap_or(args.runs);
            args.rows = age("rows", "remove the key to keep every trade and kline");
        }
        Some(TaskKind::GapSweep) => (args.share, args.appeal) = task_args::gap_sweep(&table, has_window),
        Some(TaskKind::Backfill) => args.backfill = task_args::backfill(&table, has_window),
        Some(TaskKind::Seal) => args.seal = task_args::seal(&table),
        Some(TaskKind::Command) => args.command = task_args::command(&table),
        // The task has an error: its arguments are unknown.
        None => return args,
        Some(_) => {}
    }
    table.finish();
    args
}
