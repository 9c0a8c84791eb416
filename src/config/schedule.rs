//! `jobs.toml` and its drop-ins -> [`Schedule`].

use std::time::Duration;

use chrono_tz::Tz;

use crate::jobs::planner::{next_cron, parse_cron};
use crate::jobs::spec::{JobEvent, JobSpec, Schedule, TaskArgs, TaskKind, When};
use crate::market::Timestamp;

use super::problem::did_you_mean;
use super::reader::{Notes, Table, parse};

const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(366 * 86_400);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);

/// Reads all files as one schedule; what is wrong is in each one's notes.
pub fn read(files: &[(Notes, &str)]) -> Schedule {
    let mut schedule = Schedule::default();
    for (notes, text) in files {
        let document = parse(text, notes);
        let root = Table::root(&document, notes);
        if root.has("schema") {
            root.integer("schema", 1, 1);
        } else {
            notes.error(0..0, "`schema` is missing", Some("begin with `schema = 1`".to_owned()));
            root.value("schema");
        }
        if let Some(jobs) = root.table("job") {
            for (name, span, value) in jobs.entries() {
                let Some(table) = jobs.table_of(&name, span.clone(), value) else { continue };
                if schedule.jobs.iter().any(|job| job.name == name) {
                    let help = "a drop-in adds jobs; to change this one, edit it where it stands".to_owned();
                    notes.error(span, format!("job `{name}` is there twice"), Some(help));
                }
                schedule.jobs.extend(job(name, table));
            }
        }
        root.finish();
    }
    schedule
}

fn job(name: String, table: Table<'_>) -> Option<JobSpec> {
    let notes = table.notes();
    if !table.has("task") {
        let help = format!("add `task = \"{}\"`", TaskKind::ALL.map(|(task, _)| task).join("\" or \""));
        notes.error(table.span(), format!("`{}` is missing", table.name("task")), Some(help));
    }
    let task = table.word("task", &TaskKind::ALL);
    let enabled = table.boolean("enabled").unwrap_or(true);
    let description = table.text("description").map(|(text, _)| text).unwrap_or_default();
    let timeout = table.duration("timeout", Duration::from_millis(1), EVERY_MAX).unwrap_or(TIMEOUT_DEFAULT);
    let when = when(&table);
    let blocking = table.boolean("blocking").unwrap_or(false);
    if blocking && !matches!(when, Some(When::On(_)) | None) {
        let help = "READY waits for the first run: use it with `on = [\"startup\"]`".to_owned();
        notes.error(table.key_span("blocking"), "only a job at startup can be blocking", Some(help));
    }
    let args = args(&table, task);
    table.finish();
    Some(JobSpec { name, task: task?, enabled, description, when: when?, timeout, blocking, args })
}

/// Exactly one of `every`, `cron` and `on`.
fn when(table: &Table<'_>) -> Option<When> {
    let notes = table.notes();
    let written: Vec<&str> = ["every", "cron", "on"].into_iter().filter(|key| table.has(key)).collect();
    let every = table.duration("every", EVERY_MIN, EVERY_MAX).map(When::Every);
    let timezone = timezone(table);
    let cron = cron(table, timezone);
    let on = on(table);
    match written.as_slice() {
        [_] => {}
        [] => {
            let help = "add `every = \"30s\"`, `cron = \"0 */5 * * * *\"` or `on = [\"startup\"]`".to_owned();
            notes.error(
                table.span(),
                format!("`{}` does not say when it runs", table.name("").trim_end_matches('.')),
                Some(help),
            );
            return None;
        }
        [first, second, ..] => {
            let message = format!("`{first}` and `{second}` exclude each other");
            notes.error(table.key_span(second), message, Some(format!("keep one of: {}", written.join(", "))));
            return None;
        }
    }
    if table.has("timezone") && !table.has("cron") {
        notes.error(table.key_span("timezone"), "`timezone` means nothing without `cron`", None);
    }
    every.or(cron).or(on)
}

fn timezone(table: &Table<'_>) -> Tz {
    let Some((text, span)) = table.text("timezone") else { return Tz::UTC };
    match text.parse() {
        Ok(timezone) => timezone,
        Err(_unknown) => {
            let help = did_you_mean(&text, chrono_tz::TZ_VARIANTS.iter().map(|timezone| timezone.name()))
                .unwrap_or_else(|| "write a name of the tz database: \"Europe/Berlin\"".to_owned());
            table.notes().error(span, format!("unknown timezone `{text}`"), Some(help));
            Tz::UTC
        }
    }
}

fn cron(table: &Table<'_>, timezone: Tz) -> Option<When> {
    let (text, span) = table.text("cron")?;
    let cron = match parse_cron(&text) {
        Ok(cron) => cron,
        Err(why) => {
            let help = "five fields (minute hour day month weekday), or six with seconds in front".to_owned();
            table.notes().error(span, format!("`{text}` is not a cron pattern: {why}"), Some(help));
            return None;
        }
    };
    // From a fixed date: a pattern without a date in the calendar never fires from any.
    if next_cron(&cron, timezone, Timestamp(1_700_000_000_000_000)).is_none() {
        table.notes().error(span, format!("`{text}` never fires: there is no such date"), None);
        return None;
    }
    Some(When::Cron { text, timezone })
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
                table.notes().error(span, format!("unknown event `{text}`"), Some(help));
            }
        }
    }
    Some(When::On(events))
}

fn args(table: &Table<'_>, task: Option<TaskKind>) -> TaskArgs {
    let mut args = TaskArgs::default();
    let Some(table) = table.table("args") else { return args };
    match task {
        Some(TaskKind::ConsistencyAudit) => args.repair = table.boolean("repair").unwrap_or(false),
        Some(TaskKind::Retention) => {
            let day = Duration::from_secs(86_400);
            let age = |key| table.duration(key, Duration::from_secs(1), 3_650 * day);
            args.dead_letters = age("dead_letters").unwrap_or(args.dead_letters);
            args.runs = age("runs").unwrap_or(args.runs);
            args.rows = age("rows");
        }
        // The task itself is in error: which arguments it takes cannot be said.
        None => return args,
        Some(_) => {}
    }
    table.finish();
    args
}
