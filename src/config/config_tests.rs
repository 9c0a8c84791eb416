//! Tests of the shipped files, of every key, of the search for the files, and of the comparison for a reload.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::exchange::Since;
use crate::jobs::spec::{
    Align, Jitter, JobEvent, Missed, MissedPolicy, OnStop, Overlap, Requirement, Retry, RunsKept, TaskKind, When,
};
use crate::market::{Channel, Timestamp};

const FEED: &str = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n";
const JOB: &str = "[job.extra]\ntask = \"retention\"\nevery = \"1h\"\n";

fn nothing(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Config {
    let diagnostics = Diagnostics::new("tapekeeper.toml", text);
    let config = service::read(text, &diagnostics, PathBuf::from("data"));
    let problems = Problems(diagnostics.into_problems());
    assert!(problems.0.is_empty(), "{problems}");
    config
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

#[test]
fn the_shipped_files_read_without_a_warning() {
    let config = read(DEFAULT_CONFIG);
    assert_eq!(config.feeds[0].streams().len(), 4);
    let diagnostics = [(Diagnostics::new("jobs.toml", DEFAULT_JOBS), DEFAULT_JOBS)];
    let schedule = schedule::read(&diagnostics);
    let [(diagnostics, _)] = diagnostics;
    let problems = Problems(diagnostics.into_problems());
    assert!(problems.0.is_empty(), "{problems}");
    let job = |name: &str| schedule.jobs.iter().find(|job| job.name == name).unwrap();
    assert_eq!(job("state-snapshot").when, When::every(Duration::from_secs(30)));
    assert!(job("consistency-audit").args.repair);
    assert!(job("cache-preload").blocking);
    // Only an operator can set the arguments of these tasks.
    let shipped = |task: &TaskKind| !matches!(task, TaskKind::Backfill | TaskKind::Command);
    for (name, task) in TaskKind::ALL.into_iter().filter(|(_, task)| shipped(task)) {
        assert!(schedule.jobs.iter().any(|job| job.task == task && job.enabled), "no job runs {name}");
    }
}

#[test]
fn every_key_of_a_schedule_is_read_and_defaults_apply_to_all_jobs() {
    let seconds = Duration::from_secs;
    let text = r#"
        schema = 1
        [scheduler]
        timezone = "Europe/Berlin"
        max_concurrent = 3
        stop_grace = "1s"
        history = "90d"
        [defaults]
        timeout = "7s"
        retry = { max = 2, backoff = "3s", jitter = "1s" }
        missed = "run-all"
        [job.a]
        task = "gap-sweep"
        every = "1h"
        align = "wall"
        jitter = "5s"
        jitter_kind = "stable"
        overlap = "replace"
        missed_window = "2h"
        missed_cap = 9
        window = true
        deadline = "1m"
        on_failure = { alert = true, pause_after = 4 }
        on_stop = "wait"
        requires = ["history.connected", "disk.free >= 2GiB", "disk.free"]
        critical = true
        max_silence = "3h"
        [job.b]
        task = "retention"
        cron = "@daily"
        missed = "skip"
        retry = { max = 5 }
        [job.c]
        task = "state-snapshot"
        delay = "10s"
        on_stop = "run"
        [job.d]
        task = "state-snapshot"
        on = ["startup", "reconnect", "gap", "shutdown"]
        blocking = true
    "#;
    let diagnostics = [(Diagnostics::new("jobs.toml", text), text)];
    let schedule = schedule::read(&diagnostics);
    let [(diagnostics, _)] = diagnostics;
    let problems = Problems(diagnostics.into_problems());
    assert!(problems.0.is_empty(), "{problems}");
    assert_eq!((schedule.scheduler.max_concurrent, schedule.scheduler.stop_grace), (3, seconds(1)));
    let [a, b, c, d] = &schedule.jobs[..] else { panic!("{schedule:?}") };
    assert_eq!(a.when, When::Every { period: seconds(3_600), align: Align::Wall });
    assert_eq!(a.jitter, Jitter { max: seconds(5), is_stable: true });
    assert_eq!((a.overlap, a.window, a.deadline), (Overlap::Replace, true, Some(seconds(60))));
    assert_eq!(a.missed, Missed { policy: MissedPolicy::RunAll, window: Some(seconds(7_200)), cap: 9 });
    assert_eq!((a.timeout, a.pause_after, a.on_stop), (seconds(7), 4, OnStop::Wait));
    assert_eq!((a.alert, a.max_silence), (true, Some(seconds(3 * 3_600))));
    let disk = [Requirement::DiskFree(2 << 30), Requirement::DiskFree(1 << 30)];
    assert_eq!(a.requires, [vec![Requirement::HistoryConnected], disk.to_vec()].concat());
    let kept = RunsKept { age: Some(seconds(90 * 86_400)), per_job: None };
    assert_eq!((schedule.scheduler.history, b.args.runs), (kept, kept));
    assert_eq!(a.retry, Retry { max: 2, backoff: seconds(3), jitter: Some(seconds(1)) });
    assert_eq!(b.when, When::Cron { text: "@daily".to_owned(), timezone: chrono_tz::Tz::Europe__Berlin });
    assert_eq!(
        (b.missed.policy, b.retry),
        (MissedPolicy::Skip, Retry { max: 5, backoff: seconds(3), jitter: Some(seconds(1)) })
    );
    assert_eq!((&c.when, c.on_stop), (&When::Delay(seconds(10)), OnStop::Run));
    assert_eq!((&d.when, d.blocking), (&When::On(JobEvent::ALL.map(|(_, event)| event).to_vec()), true));
}

#[test]
fn runs_are_kept_by_age_by_number_or_by_both() {
    let day = Duration::from_secs(86_400);
    let kept = |history: &str, args: &str| {
        let text =
            format!("schema = 1\n[scheduler]\n{history}\n[job.a]\ntask = \"retention\"\nevery = \"1h\"\n{args}\n");
        let diagnostics = [(Diagnostics::new("jobs.toml", &text), text.as_str())];
        let schedule = schedule::read(&diagnostics);
        let [(diagnostics, _)] = diagnostics;
        let problems = Problems(diagnostics.into_problems());
        assert!(problems.0.is_empty(), "{problems}");
        (schedule.scheduler.history, schedule.jobs[0].args.runs)
    };
    let of = |age: Option<u32>, per_job: Option<u32>| RunsKept { age: age.map(|days| day * days), per_job };
    let both = |kept: RunsKept| (kept, kept);
    assert_eq!(kept("", ""), both(of(Some(30), None)));
    assert_eq!(kept("history = \"2d\"", ""), both(of(Some(2), None)));
    assert_eq!(kept("history = { age = \"2d\" }", ""), both(of(Some(2), None)));
    assert_eq!(kept("history = { per_job = 100 }", ""), both(of(None, Some(100))));
    assert_eq!(kept("history = { age = \"2d\", per_job = 1 }", ""), both(of(Some(2), Some(1))));
    // The task's arguments replace the scheduler's, they do not add to them.
    let own = kept("history = { per_job = 100 }", "args = { runs = \"9d\" }");
    assert_eq!(own, (of(None, Some(100)), of(Some(9), None)));
    let own = kept("history = \"2d\"", "args = { runs = { per_job = 7 } }");
    assert_eq!(own, (of(Some(2), None), of(None, Some(7))));
}

#[test]
fn the_commented_values_of_the_shipped_configuration_are_the_defaults() {
    let mut shown = String::new();
    for line in DEFAULT_CONFIG.lines() {
        let bare = line.strip_prefix("# ").filter(|bare| bare.starts_with('[') || bare.contains(" = "));
        // Not defaults: the state directory and the socket depend on the machine, the others are examples.
        let example = ["data_dir", "socket", "\"security.protocol\"", "ws_url", "rest_url", "nodes", "succeeds", "to"];
        let bare = bare.filter(|bare| !example.iter().any(|key| bare.starts_with(key)));
        shown.push_str(bare.unwrap_or(line));
        shown.push('\n');
    }
    assert!(shown.contains("\n[log.kafka]\n") && shown.contains("\nbatch_rows"), "{shown}");
    let config = read(&shown);
    let expected = Config { data_dir: PathBuf::from("data"), feeds: config.feeds.clone(), ..Config::default() };
    assert_eq!(config, expected);
    assert_eq!(config.feeds, read(DEFAULT_CONFIG).feeds);
}

#[test]
fn the_nodes_of_a_cluster_replace_the_url() {
    let text =
        format!("{FEED}[cache]\nbackend = \"redis\"\n[cache.redis]\nnodes = [\"redis://a:1\", \"redis://b:2/0\"]\n");
    let config = read(&text);
    assert_eq!(config.cache.redis.nodes, ["redis://a:1", "redis://b:2/0"]);
    let mut one = config.clone();
    one.cache.redis.nodes.pop();
    assert_eq!(config.diff(&one), ["cache.redis.nodes"]);
}

#[test]
fn every_key_reaches_its_option() {
    let config = read(
        "data_dir = \"/x\"\ninstance = \"two\"\n[[feed]]\nexchange = \"binance\"\nsymbols = [\"1INCHUSDT\"]\n\
         channels = [\"trade\", \"kline_4h\", \"book_ticker\"]\nsince = 2026-01-02\nws_url = \"ws://127.0.0.1:1/\"\n\
         rest_url = \"http://127.0.0.1:2\"\n[log]\nbackend = \"kafka\"\nretention = \"1h30m\"\nretention_bytes = \"8MiB\"\n\
         [log.kafka]\nbrokers = \"a:1, b:2\"\ntopic = \"t\"\npartitions = 3\ngroup_id = \"g\"\nsession_timeout = \"10s\"\n\
         batch_records = 5\n[log.kafka.client]\n\"linger.ms\" = 5\n[history]\nbackend = \"clickhouse\"\n\
         [history.clickhouse]\nbatch_time = \"250ms\"\n[cache]\nbackend = \"redis\"\n[cache.redis]\n\
         url = \"rediss://cache:1/2\"\n[admin]\nlisten = \"[::1]:80\"\nsocket = \"/s\"\n[backfill]\nweight_share = 20\n",
    );
    assert_eq!(config.data_dir, PathBuf::from("/x"));
    assert_eq!(config.instance, "two");
    let feed = &config.feeds[0];
    assert_eq!(feed.since, Since::Time(Timestamp::parse("2026-01-02").unwrap()));
    assert_eq!(feed.ws_url.as_deref(), Some("ws://127.0.0.1:1"));
    assert_eq!(feed.channels[2], Channel::BookTicker);
    assert_eq!(config.log.backend, log::Backend::Kafka);
    assert_eq!(config.log.retention, Duration::from_secs(5_400));
    assert_eq!(config.log.retention_bytes, 8 << 20);
    assert_eq!(config.log.kafka.partitions, 3);
    assert_eq!(config.log.kafka.client["linger.ms"], "5");
    assert_eq!(config.history.backend, history::Backend::Clickhouse);
    assert_eq!(config.history.clickhouse.batch_time, Duration::from_millis(250));
    assert_eq!(config.cache.redis.url, "rediss://cache:1/2");
    assert_eq!(config.admin.listen.to_string(), "[::1]:80");
    assert_eq!(config.backfill.weight_share, 20);
}

#[test]
fn the_command_line_overrides_the_environment() {
    let files = directory(&[
        ("a.toml", &format!("instance = \"a\"\n{FEED}")),
        ("b.toml", &format!("instance = \"b\"\n{FEED}")),
    ]);
    let (a, b) = (files.path().join("a.toml"), files.path().join("b.toml"));
    let environment = |name: &str| (name == "TAPEKEEPER_CONFIG").then(|| b.display().to_string());
    assert_eq!(load_all(Some(&a), None, &environment).unwrap().config.instance, "a");
    assert_eq!(load_all(None, None, &environment).unwrap().config.instance, "b");
}

#[test]
fn the_schedule_and_its_drop_ins_are_found_beside_the_configuration() {
    let jobs = format!("schema = 1\n{JOB}");
    let files = directory(&[
        ("tapekeeper.toml", FEED),
        ("jobs.toml", &jobs),
        ("jobs.d/20.toml", &jobs.replace("extra", "twenty")),
        ("jobs.d/10.toml", &jobs.replace("extra", "ten")),
        ("jobs.d/ignored.txt", "nonsense"),
    ]);
    let path = files.path().join("tapekeeper.toml");
    let loaded = load_all(Some(&path), None, &nothing).unwrap();
    let names: Vec<&str> = loaded.schedule.jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["extra", "ten", "twenty"]);
    assert_eq!(loaded.files.len(), 4);

    let other = directory(&[("mine.toml", &jobs.replace("extra", "mine"))]);
    let loaded = load_all(Some(&path), Some(&other.path().join("mine.toml")), &nothing).unwrap();
    assert_eq!(loaded.schedule.jobs.len(), 1);
}

#[test]
fn a_configuration_without_a_schedule_gets_the_built_in_one() {
    let files = directory(&[("tapekeeper.toml", FEED)]);
    let loaded = load_all(Some(&files.path().join("tapekeeper.toml")), None, &nothing).unwrap();
    assert_eq!(loaded.schedule.jobs.len(), 9);
}

#[test]
fn named_files_that_do_not_exist_are_all_reported() {
    let files = directory(&[]);
    let (config, jobs) = (files.path().join("no.toml"), files.path().join("neither.toml"));
    let problems = load_all(Some(&config), Some(&jobs), &nothing).unwrap_err();
    assert_eq!(problems.errors(), 2);
    let text = problems.to_string();
    assert!(text.contains("no.toml: there is no such file") && text.contains("neither.toml"), "{text}");
    assert!(text.ends_with("2 errors in 2 files"), "{text}");
}

#[test]
fn check_reports_the_errors_of_both_files() {
    let files = directory(&[("tapekeeper.toml", "colour = 1\n"), ("jobs.toml", "schema = 1\n[job.a]\n")]);
    let report = check(Some(&files.path().join("tapekeeper.toml")), None, &nothing).unwrap_err();
    assert!(report.ends_with("4 errors in 2 files"), "{report}");
    let files = directory(&[("tapekeeper.toml", FEED)]);
    let path = files.path().join("tapekeeper.toml");
    let report = check(Some(&path), None, &nothing).unwrap();
    let ok = format!("ok: {}, the built-in schedule: 1 streams, 9 jobs", path.display());
    let note = "note: job `seal` is off: `[seal] to` names no place for sealed days";
    assert_eq!(report, format!("{note}\n{ok}"));
}

#[test]
fn the_shipped_seal_job_is_off_without_a_place_for_sealed_days() {
    let is_on = |text: &str| {
        let files = directory(&[("tapekeeper.toml", &format!("{FEED}{text}"))]);
        let loaded = load_all(Some(&files.path().join("tapekeeper.toml")), None, &nothing).unwrap();
        let job = loaded.schedule.jobs.iter().find(|job| job.name == "seal").unwrap();
        assert!(job.window && loaded.warnings.0.is_empty());
        (job.enabled, loaded.notes.len(), loaded.config.seal.to)
    };
    assert_eq!(is_on(""), (false, 1, None));
    assert_eq!(is_on("[seal]\nto = \"/srv/tape\"\n"), (true, 0, Some("/srv/tape".into())));
    for wrong in ["", "s3://tape/days"] {
        let files = directory(&[("tapekeeper.toml", &format!("{FEED}[seal]\nto = \"{wrong}\"\n"))]);
        let problems = load_all(Some(&files.path().join("tapekeeper.toml")), None, &nothing).unwrap_err();
        assert!(problems.errors() == 1 && problems.to_string().contains("directory"), "{problems}");
    }
}

#[test]
fn a_file_that_is_not_utf_8_is_reported_with_its_position() {
    let files = directory(&[("tapekeeper.toml", "")]);
    let path = files.path().join("tapekeeper.toml");
    fs::write(&path, b"# caf\xe9\n").unwrap();
    let report = load_all(Some(&path), None, &nothing).unwrap_err().to_string();
    assert!(report.contains("tapekeeper.toml:1:6"), "{report}");
}

#[test]
fn the_state_directory_comes_from_systemd() {
    let config = directory(&[("tapekeeper.toml", FEED)]);
    let path = config.path().join("tapekeeper.toml");
    let environment = |name: &str| (name == "STATE_DIRECTORY").then(|| "/var/lib/a:/var/lib/b".to_owned());
    assert_eq!(load_all(Some(&path), None, &environment).unwrap().config.data_dir, PathBuf::from("/var/lib/a"));
    assert_eq!(load_all(Some(&path), None, &nothing).unwrap().config.data_dir, PathBuf::from("data"));
}

#[test]
fn the_installed_configuration_selects_the_state_directory_of_the_unit() {
    let installed = PathBuf::from("/etc/tapekeeper/tapekeeper.toml");
    assert_eq!(lookup::default_data_dir(&nothing, Some(&installed)), PathBuf::from("/var/lib/tapekeeper"));
    assert_eq!(lookup::default_data_dir(&nothing, None), PathBuf::from("data"));
}

#[test]
fn a_difference_is_named_by_its_key_without_its_value() {
    let old = read(FEED);
    assert!(old.diff(&old.clone()).is_empty());
    let mut new = old.clone();
    new.log.retention += Duration::from_secs(1);
    new.cache.redis.password = Some("hunter2".to_owned());
    assert_eq!(old.diff(&new), ["log.retention", "cache.redis.password"]);
    let mut new = old.clone();
    new.feeds[0].channels.push(Channel::BookTicker);
    assert_eq!(old.diff(&new), ["feed"]);
    new.feeds[0].rest_url = Some("http://127.0.0.1:1".to_owned());
    assert_eq!(old.diff(&new), ["feed", "rest_url"]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "([a-z_.]{1,8} = [0-9\"\\[\\]{}a-zé]{0,8}\n|\\[\\[?[a-z.]{1,9}\\]?\\]\n|\\PC{0,8})*") {
        let diagnostics = Diagnostics::new("tapekeeper.toml", &text);
        service::read(&text, &diagnostics, PathBuf::from("data"));
        drop(Problems(diagnostics.into_problems()).sorted().to_string());
        let files = [(Diagnostics::new("jobs.toml", &text), text.as_str())];
        schedule::read(&files);
        let [(diagnostics, _)] = files;
        drop(Problems(diagnostics.into_problems()).sorted().to_string());
    }
}
