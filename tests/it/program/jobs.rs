//! The schedule as an operator works with it: firing tables of a file, and edits on a running service.

use std::fs;

use serde_json::Value;

use super::app::{Output, TestApp, WAIT_MAX, feed, run, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::HistoryFile;

/// The objects of a command that prints one a line.
fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_firing_table_needs_no_service_and_knows_summer_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mine.toml");
    let jobs = "schema = 1\n[job.night]\ntask = \"retention\"\ncron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"\n\
                [job.half]\ntask = \"gap-sweep\"\nevery = \"12h\"\n[job.start]\ntask = \"retention\"\non = [\"startup\"]\n";
    fs::write(&file, jobs).unwrap();
    let path = file.display().to_string();
    let asked = ["jobs", "test", &path, "--from", "2026-03-28T00:00:00Z", "--for", "48h", "--format", "json"];
    let table: Vec<(String, String)> = objects(&run(&asked).await)
        .iter()
        .map(|row| (text(row, "job").to_owned(), text(row, "scheduled_at").to_owned()))
        .collect();
    let expected = [
        ("night", "2026-03-28T01:30:00.000Z"),
        ("half", "2026-03-28T12:00:00.000Z"),
        ("half", "2026-03-29T00:00:00.000Z"),
        ("night", "2026-03-29T01:00:00.000Z"),
        ("half", "2026-03-29T12:00:00.000Z"),
    ];
    assert_eq!(table, expected.map(|(job, at)| (job.to_owned(), at.to_owned())));
    let people = run(&asked[..asked.len() - 2]).await;
    assert!(people.out.contains("2026-03-29T01:00:00.000Z  2026-03-29 03:00:00 CEST  night"), "{people:?}");
    assert!(people.err.contains("start is not listed: it runs on startup"), "{people:?}");

    fs::write(&file, jobs.replace("30 2 *", "30 25 *")).unwrap();
    let broken = run(&asked).await;
    assert_eq!((broken.code, broken.out.as_str()), (Some(78), ""), "{broken:?}");
    assert!(broken.err.contains("mine.toml:4:8") && broken.err.contains("hour `25`"), "{broken:?}");
    let wrong = run(&["jobs", "test", &path, "--for", "48"]).await;
    assert_eq!(wrong.code, Some(64), "{wrong:?}");
}

#[tokio::test]
async fn a_jobs_next_runs_are_computed_from_the_file_in_any_timezone() {
    let app = TestApp::new("[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n");
    let jobs = "schema = 1\n[job.leap]\ntask = \"retention\"\ncron = \"0 12 29 2 *\"\n";
    fs::write(app.directory().join("jobs.toml"), jobs).unwrap();
    let asked = ["jobs", "next", "leap", "-n", "3", "--from", "2026-01-01", "--tz", "Asia/Tokyo", "--format", "json"];
    let rows = objects(&app.command(&asked).await);
    let expected = ["2028-02-29T12:00:00.000Z", "2032-02-29T12:00:00.000Z", "2036-02-29T12:00:00.000Z"];
    assert_eq!(rows.iter().map(|row| text(row, "scheduled_at")).collect::<Vec<_>>(), expected);
    assert_eq!(text(&rows[0], "local"), "2028-02-29 21:00:00 JST");
    let unknown = app.command(&["jobs", "next", "leapp"]).await;
    assert_eq!(unknown.code, Some(64), "{unknown:?}");
    assert!(unknown.err.contains("there is no job `leapp`: the schedule has leap"), "{unknown:?}");
    let nowhere = app.command(&["jobs", "next", "leap", "--tz", "Europe/Atlantis"]).await;
    assert_eq!(nowhere.code, Some(64), "{nowhere:?}");
}

/// Runs of a job with this outcome, newest first.
async fn runs(app: &TestApp, job: &str, outcome: &str) -> Vec<Value> {
    let asked = ["jobs", "history", job, "-n", "100", "--format", "json"];
    objects(&app.command(&asked).await).into_iter().filter(|run| run["outcome"] == outcome).collect()
}

async fn has_run(app: &TestApp, job: &str, more_than: usize) {
    let what = format!("{job} runs more than {more_than} times");
    let check = async || (runs(app, job, "succeeded").await.len() > more_than).then_some(());
    wait_for(&what, WAIT_MAX, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_edits_the_schedule_of_a_running_service() {
    let simulator = start_market(seed(), &["BTCUSDT"], 20.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let file = app.directory().join("jobs.toml");
    let job = |name: &str, when: &str| format!("[job.{name}]\ntask = \"state-snapshot\"\n{when}\n");
    let write = |jobs: &[String]| fs::write(&file, format!("schema = 1\n{}", jobs.concat())).unwrap();
    write(&[job("kept", "every = \"300ms\""), job("slow", "every = \"1h\""), job("gone", "every = \"300ms\"")]);
    app.start().await;
    has_run(&app, "kept", 0).await;
    has_run(&app, "gone", 0).await;
    let listed = app.command(&["jobs", "list"]).await;
    assert!(listed.out.contains("every 0.3 s") && listed.out.contains("every 1 h"), "{listed:?}");

    // A changed period, a new job by the calendar, a removed one: first as a question, then in earnest.
    write(&[
        job("kept", "every = \"300ms\""),
        job("slow", "every = \"200ms\""),
        job("new", "cron = \"* * * * * *\"\ntimezone = \"Asia/Tokyo\""),
    ]);
    let said = "jobs added: new, changed: slow, removed: gone";
    let dry = app.command(&["reload", "--dry-run"]).await;
    assert!(dry.code == Some(0) && dry.out.contains(said), "{dry:?}");
    assert!(dry.out.lines().any(|line| line.starts_with("new ") && line.contains("20")), "next runs: {dry:?}");
    assert!(runs(&app, "new", "succeeded").await.is_empty(), "a dry run changes nothing");
    let reload = app.command(&["reload"]).await;
    assert!(reload.code == Some(0) && reload.out.contains(said), "{reload:?}");
    has_run(&app, "new", 1).await;
    has_run(&app, "slow", 1).await;
    let list = objects(&app.command(&["jobs", "list", "--format", "json"]).await);
    let names: Vec<&str> = list.iter().map(|job| text(job, "name")).collect();
    assert_eq!(names, ["kept", "new", "slow"]);
    assert!(text(&list[1], "when").contains("Asia/Tokyo"), "{list:?}");
    let ended = runs(&app, "gone", "succeeded").await.len();

    // A broken file: nothing changes, and the message says where.
    write(&[job("kept", "every = \"300\""), job("other", "cron = \"* *\"")]);
    let broken = app.command(&["reload"]).await;
    assert_eq!(broken.code, Some(78), "{broken:?}");
    assert!(broken.err.contains("jobs.toml:4:9") && broken.err.contains("jobs.toml:7:8"), "{broken:?}");
    let before = runs(&app, "kept", "succeeded").await.len();
    has_run(&app, "kept", before).await;
    assert_eq!(runs(&app, "gone", "succeeded").await.len(), ended, "what was removed does not run");

    // A pause with its reason holds over a kill.
    let paused = app.command(&["jobs", "pause", "new", "--reason", "a move"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    write(&[job("kept", "every = \"300ms\""), job("new", "every = \"300ms\"")]);
    app.kill().await;
    app.start().await;
    // Two periods after the start, an instant of the paused job has passed as well.
    let restarted = runs(&app, "kept", "succeeded").await.len();
    has_run(&app, "kept", restarted + 1).await;
    let list = objects(&app.command(&["jobs", "list", "--format", "json"]).await);
    let new = list.iter().find(|job| job["name"] == "new").unwrap();
    assert_eq!((text(new, "paused_reason"), &new["next_run"]), ("a move", &Value::Null), "{new}");
    assert_eq!(app.command(&["jobs", "resume", "new"]).await.code, Some(0));
    let passed = async || runs(&app, "new", "skipped").await.into_iter().next();
    let skipped = wait_for("the history has the instants that passed during the pause", WAIT_MAX, passed).await;
    assert!(text(&skipped, "reason").ends_with("paused: a move"), "{skipped}");
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_on_reconnects_and_gaps_and_a_commands_output_carries_its_run_id() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let jobs = "schema = 1\n\
        [job.back]\ntask = \"state-snapshot\"\non = [\"reconnect\"]\n\
        [job.hole]\ntask = \"command\"\non = [\"gap\"]\nargs = { argv = [\"echo\", \"there is a hole\"] }\n\
        [job.full]\ntask = \"state-snapshot\"\nevery = \"200ms\"\nrequires = [\"disk.free >= 1000000TiB\"]\n\
        [job.wired]\ntask = \"state-snapshot\"\nevery = \"200ms\"\n\
        requires = [\"ingest.connected\", \"log.connected\", \"history.connected\", \"cache.connected\", \"disk.free\"]\n";
    fs::write(app.directory().join("jobs.toml"), jobs).unwrap();
    app.log_objects();
    app.start().await;
    let trades = async || (HistoryFile::open(&app).number("SELECT count(*) FROM trades") > 0).then_some(());
    wait_for("trades are stored", WAIT_MAX, trades).await;
    assert!(runs(&app, "back", "succeeded").await.is_empty(), "a first connection is no reconnect");
    simulator.control.inject(&"cut".parse().unwrap());
    has_run(&app, "back", 0).await;
    simulator.control.inject(&"drop:BTCUSDT:20".parse().unwrap());
    has_run(&app, "hole", 0).await;
    let run = runs(&app, "hole", "succeeded").await.remove(0);
    assert_eq!((text(&run, "trigger"), &run["report"]["exit_code"]), ("event", &Value::from(0)), "{run}");
    assert!(run["lateness_ms"].as_i64().is_some_and(|late| late >= 0), "{run}");
    let run_id = text(&run, "run_id");
    let said = app.log().lines().any(|line| line.contains("hole: there is a hole") && line.contains(run_id));
    assert!(said, "the program's line carries the run's id");

    has_run(&app, "wired", 0).await;
    let deferred = runs(&app, "full", "deferred").await.remove(0);
    assert!(text(&deferred, "reason").contains("it requires disk.free: "), "{deferred}");
    let refused = app.command(&["jobs", "run", "full"]).await;
    assert!(refused.code == Some(75) && refused.err.contains("disk.free"), "{refused:?}");
    let metrics = app.http().get(format!("{}/metrics", app.base_url())).send().await.unwrap().text().await.unwrap();
    for sample in [
        "tapekeeper_job_outcomes_total{job=\"full\",outcome=\"deferred\"} 1",
        "tapekeeper_job_outcomes_total{job=\"wired\",outcome=\"succeeded\"}",
        "tapekeeper_job_lateness_seconds{job=\"wired\"}",
        "tapekeeper_job_last_success_timestamp_seconds{job=\"wired\"}",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_survive_kills_and_none_stays_running() {
    let simulator = start_market(seed(), &["BTCUSDT"], 20.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let jobs = "schema = 1\n[job.fast]\ntask = \"state-snapshot\"\nevery = \"100ms\"\n\
        [job.long]\ntask = \"command\"\non = [\"startup\"]\nargs = { argv = [\"sleep\", \"100\"] }\n";
    fs::write(app.directory().join("jobs.toml"), jobs).unwrap();
    let mut kept: Vec<String> = Vec::new();
    for kill in 1..=3 {
        app.start().await;
        has_run(&app, "fast", 5).await;
        let running = async || (runs(&app, "long", "running").await.len() == 1).then_some(());
        wait_for("the long run is recorded", WAIT_MAX, running).await;
        let before: Vec<String> =
            runs(&app, "fast", "succeeded").await.iter().map(|run| text(run, "run_id").to_owned()).collect();
        app.kill().await;
        let history = HistoryFile::open(&app);
        assert_eq!(history.strings("PRAGMA integrity_check"), ["ok"]);
        let found = history.strings("SELECT run_id FROM job_runs WHERE outcome = 'succeeded'");
        kept.extend(before);
        let lost = kept.iter().filter(|run_id| !found.contains(run_id)).count();
        assert_eq!(lost, 0, "after kill {kill}");
    }
    app.start().await;
    let failed = async || (runs(&app, "long", "failed").await.len() == 3).then_some(());
    wait_for("what a kill cut off is a failed run", WAIT_MAX, failed).await;
    let reason = runs(&app, "long", "failed").await.remove(0)["reason"].clone();
    assert_eq!(reason, "the process ended during the run");
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jobs_program_reads_no_password_of_the_service() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let jobs = "schema = 1\n[job.spy]\ntask = \"command\"\non = [\"startup\"]\nargs = { argv = [\"/bin/sh\", \"-c\", \
                \"(env; tr '\\\\0' '\\\\n' < /proc/$PPID/environ) | grep -c -e s3cret -e hidden; true\"] }\n";
    fs::write(app.directory().join("jobs.toml"), jobs).unwrap();
    app.set_env("TAPEKEEPER_ADMIN_TOKEN", "s3cret");
    app.set_env("TAPEKEEPER_REDIS_PASSWORD", "hidden");
    app.start().await;
    has_run(&app, "spy", 0).await;
    assert!(app.log().contains("spy: 0"), "{}", app.log());
    // The service itself still has the token, which identifies a caller by any name.
    let request = app.http().get(format!("{}/api/v1/streams", app.base_url())).header("host", "recorder.example");
    assert_eq!(request.bearer_auth("s3cret").send().await.unwrap().status().as_u16(), 200);
    app.stop_cleanly().await;
    simulator.stop().await;
}
