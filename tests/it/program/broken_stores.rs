//! What a person, a cleaner or the machine does to the recorder's own files: removed, damaged, limited. The recorder
//! says so at once, loses nothing that it could have kept, and ends with a code that systemd understands.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::app::{BINARY, TestApp, WAIT_MAX, feed, seed, wait_for};
use super::sample_history;
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete};
use crate::servers::clickhouse::Clickhouse;

/// A feed of an exchange that does not answer.
const NOWHERE: &str = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n\
                       ws_url = \"ws://127.0.0.1:1\"\nrest_url = \"http://127.0.0.1:1\"\n\n";
const FILES: [&str; 3] = ["history.db", "history.db-wal", "history.db-shm"];

/// Moves history's files from one directory to another.
fn move_history(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in FILES {
        match fs::rename(from.join(name), to.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{name}: {error}"),
            _ => {}
        }
    }
}

async fn wait_for_trades(app: &TestApp, trades: i64) {
    let count = || HistoryFile::open(app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= trades).then_some(())).await;
}

/// Waits until this part is degraded with this text.
async fn wait_for_degraded(app: &TestApp, part: &str, words: &str) {
    let check = async || {
        let health = app.get("/healthz").await;
        health["degraded"][part].as_str().is_some_and(|why| why.contains(words)).then_some(())
    };
    wait_for(&format!("{part} is degraded: {words}"), WAIT_MAX, check).await;
}

async fn wait_for_restored(app: &TestApp, part: &str) {
    let check = async || app.get("/healthz").await["degraded"][part].is_null().then_some(());
    wait_for(&format!("{part} is restored"), WAIT_MAX, check).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_history_is_degraded_at_once_and_recording_resumes_when_it_is_back() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&app, 100).await;
    let aside = app.directory().join("aside");
    move_history(&app.data_dir, &aside);
    wait_for_degraded(&app, "history", "was removed while open: restart, then `tapekeeper replay`").await;
    let status = app.command(&["status"]).await;
    assert!(status.out.contains("PROBLEM      history: history.db"), "{status:?}");
    assert!(app.is_alive());
    move_history(&aside, &app.data_dir);
    wait_for_restored(&app, "history").await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_history_names_replay_until_its_rows_are_back() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&app, 200).await;
    move_history(&app.data_dir, &app.directory().join("gone"));
    // What arrives from now on waits in the log.
    wait_for_degraded(&app, "history", "was removed").await;
    app.stop_cleanly().await;
    for _ in ["the start after the loss", "one more: the state file remembers it"] {
        app.start().await;
        wait_for_degraded(&app, "replay", "run `tapekeeper replay`").await;
        wait_for_trades(&app, 20).await;
        assert!(app.get("/healthz").await["degraded"]["replay"].is_string(), "newer rows are not the lost ones");
        app.stop_cleanly().await;
    }
    assert!(app.log().contains("belong to another history"), "{}", app.log());
    app.start().await;
    let replayed = app.command(&["replay"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    wait_for_restored(&app, "replay").await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_history_beside_a_consumed_log_names_replay() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&app, 100).await;
    app.stop_cleanly().await;
    move_history(&app.data_dir, &app.directory().join("gone"));
    for name in ["service_state.json", "service_state.previous.json"] {
        fs::remove_file(app.data_dir.join(name)).ok();
    }
    app.start().await;
    wait_for_degraded(&app, "replay", "run `tapekeeper replay`").await;
    assert_eq!(app.command(&["replay"]).await.code, Some(0));
    wait_for_restored(&app, "replay").await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_log_refuses_frames_and_the_next_start_loses_none() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&app, 100).await;
    for name in ["log.db", "log.db-wal", "log.db-shm"] {
        fs::remove_file(app.data_dir.join(name)).unwrap();
    }
    wait_for_degraded(&app, "log", "was removed while open: restart").await;
    assert!(app.is_alive());
    app.stop().await;
    app.start().await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

/// Overwrites one page of a file with what is no page.
fn spoil(path: &Path, page: impl FnOnce(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let pages = file.metadata().unwrap().len() / 4_096;
    file.write_all_at(&[0xa5; 4_096], page(pages) * 4_096).unwrap();
}

/// Moves everything from the write-ahead log into the file.
fn checkpoint(app: &TestApp, name: &str) {
    let connection = rusqlite::Connection::open(app.data_dir.join(name)).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_history_ends_a_command_with_65_and_a_start_shows_it() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    sample_history::write(&app.data_dir, 20_000, 5).await;
    checkpoint(&app, "history.db");
    spoil(&app.data_dir.join("history.db"), |pages| pages / 2);
    for command in [&["audit"][..], &["export", "--symbol", "BTCUSDT"]] {
        let output = app.command(command).await;
        let words = "history.db is damaged: ";
        assert!(output.code == Some(65) && output.err.contains(words), "{command:?}: {:?} {}", output.code, output.err);
        assert!(output.err.contains("Backup"), "{}", output.err);
    }
    // The page holds old rows, so recording continues, and the status says so although nothing reads them.
    app.start().await;
    wait_for_degraded(&app, "history", "history.db is damaged: ").await;
    let status = app.command(&["status"]).await;
    assert!(status.out.contains("PROBLEM      history: history.db is damaged"), "{status:?}");
    assert!(app.is_alive());
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_damaged_file_ends_with_65() {
    let app = TestApp::new(NOWHERE);
    let record = async || {
        let config = app.config_path().display().to_string();
        super::app::run(&["run", "--config", &config]).await
    };
    for (name, other) in [("history.db", "log.db"), ("log.db", "history.db")] {
        sample_history::write(&app.data_dir, 10, 1).await;
        let text = "this is no database\n".repeat(1_000);
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(app.data_dir.join(format!("{name}{suffix}"))).ok();
        }
        fs::write(app.data_dir.join(name), text).unwrap();
        let output = record().await;
        assert_eq!(output.code, Some(65), "{output:?}");
        assert!(output.err.contains(&format!("{name} is damaged: ")), "{output:?}");
        assert!(!output.err.contains(&format!("{other} is damaged")), "{output:?}");
        fs::remove_file(app.data_dir.join(name)).unwrap();
    }
}

/// The unit must not restart what only a person can repair.
#[test]
fn systemd_does_not_restart_after_a_damaged_file() {
    let unit = include_str!("../../../systemd/tapekeeper.service");
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
    assert_eq!(codes, "64 65 78");
}

/// `sh -c LIMIT; exec tapekeeper` for the next process.
fn limited(app: &mut TestApp, limit: &str) {
    app.set_wrapper(&["sh", "-c", &format!("{limit}; exec \"$0\" \"$@\""), BINARY]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_size_of_files_is_like_a_full_disk() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 1_000.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    // Blocks of 512 bytes: 1 MiB.
    limited(&mut app, "ulimit -f 2048");
    app.start().await;
    let refused = async || (app.status("/readyz").await == Some(503)).then_some(());
    wait_for("the log refuses frames", WAIT_MAX, refused).await;
    wait_for_degraded(&app, "ingest", "the log refuses frames").await;
    assert_eq!(app.status("/healthz").await, Some(200));
    assert!(app.is_alive(), "SIGXFSZ must not end the recorder");
    let (status, _) = app.stop().await;
    assert!(status.code().is_some_and(|code| code != 78), "{status}");
    // Without the limit it resumes where it was.
    app.set_wrapper(&[]);
    app.start().await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lack_of_file_descriptors_is_an_outage() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&app, 50).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", app.pid())).unwrap();
    let soft = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let (soft, hard) = (soft.split_whitespace().nth(3).unwrap(), soft.split_whitespace().nth(4).unwrap());
    let set = |soft: &str| {
        let pid = app.pid().to_string();
        let limit = format!("--nofile={soft}:{hard}");
        assert!(std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    // Fewer than it has open: whatever it opens now fails.
    set("8");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", app.pid())).unwrap().count();
    assert!(descriptors() > 8, "{}", descriptors());
    let before = HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    wait_for_trades(&app, before + 100).await;
    set(soft);
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    assert!(app.is_alive());
    app.stop_cleanly().await;
    simulator.stop().await;
}

/// At the start there is no log yet that could refuse: the code is that of a full disk, so systemd tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_free_descriptor_or_within_a_tiny_limit_is_no_configuration_error() {
    for limit in ["ulimit -n 9", "ulimit -n 12", "ulimit -n 15", "ulimit -f 8", "ulimit -f 0"] {
        let mut app = TestApp::new(NOWHERE);
        limited(&mut app, limit);
        app.spawn();
        let mut ended = None;
        let up = async || {
            if !app.is_alive() {
                return Some(false);
            }
            (app.status("/healthz").await == Some(200)).then_some(true)
        };
        if !wait_for("it is up or has ended", WAIT_MAX, up).await {
            ended = app.wait_for_exit().await.code();
        }
        assert!(![Some(78), Some(65), Some(101)].contains(&ended), "{limit}: {ended:?}\n{}", app.log());
    }
}

/// Replaces nothing but files, and writes to what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_writes_to_a_pipe_a_link_and_a_full_device() {
    let app = TestApp::new(sample_history::FEED);
    sample_history::write(&app.data_dir, 100, 1).await;
    let export = async |path: &Path, format: &str| {
        let path = path.display().to_string();
        app.command(&["export", "--symbol", "BTCUSDT", "--format", format, "-o", &path]).await
    };
    let plain = app.directory().join("plain.csv");
    export(&plain, "csv").await;
    let expected = fs::read_to_string(&plain).unwrap();
    assert_eq!(expected.lines().count(), 101);

    let pipe = app.directory().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = tokio::task::spawn_blocking({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    assert_eq!(export(&pipe, "csv").await.code, Some(0));
    assert_eq!(reader.await.unwrap(), expected);
    assert!(!fs::metadata(&pipe).unwrap().is_file());

    let (link, target) = (app.directory().join("link.csv"), app.directory().join("target.csv"));
    fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink("target.csv", &link).unwrap();
    assert_eq!(export(&link, "csv").await.code, Some(0));
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), expected);

    for format in ["csv", "jsonl", "parquet"] {
        let full = export(Path::new("/dev/full"), format).await;
        assert_eq!(full.code, Some(74), "{full:?}");
    }
    let to_stdout = export(Path::new("/dev/stdout"), "csv").await;
    assert_eq!((to_stdout.code, to_stdout.out == expected), (Some(0), true), "{to_stdout:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_link_does_not_lead_the_state_elsewhere() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    fs::create_dir_all(&app.data_dir).unwrap();
    let precious = app.directory().join("precious");
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, app.data_dir.join("service_state.json.tmp")).unwrap();
    app.start().await;
    wait_for_trades(&app, 10).await;
    app.stop_cleanly().await;
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    let state: Value =
        serde_json::from_str(&fs::read_to_string(app.data_dir.join("service_state.json")).unwrap()).unwrap();
    assert!(state["generation"].as_u64() > Some(0));
    simulator.stop().await;
}

/// The answer of ClickHouse to a statement.
async fn query(app: &TestApp, clickhouse: &Clickhouse, sql: &str) -> String {
    let url = format!("http://127.0.0.1:{}/", clickhouse.server.port);
    let answer = app.http().post(url).body(sql.to_owned()).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{sql}: {text}");
    text.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_column_of_clickhouse_is_an_outage_that_ends_when_it_is_back() {
    let Some(clickhouse) = tokio::task::spawn_blocking(Clickhouse::start).await.unwrap() else { return };
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new("");
    app.configure(&format!(
        "{}[history]\nbackend = \"clickhouse\"\n[history.clickhouse]\nurl = \"http://127.0.0.1:{}\"\n",
        feed(&simulator, &["BTCUSDT"], &["trade"]),
        clickhouse.server.port
    ));
    app.start().await;
    let count = async || query(&app, &clickhouse, "SELECT count() FROM tapekeeper.trades FINAL").await;
    let stored = async || (count().await.parse::<u64>().unwrap() >= 50).then_some(());
    wait_for("trades are stored", WAIT_MAX, stored).await;
    query(&app, &clickhouse, "ALTER TABLE tapekeeper.trades RENAME COLUMN side TO direction").await;
    wait_for_degraded(&app, "history", "side").await;
    let check = app.command(&["check", "--connect"]).await;
    let words = "column side of table trades is missing";
    assert!(check.code == Some(69) && (check.out + &check.err).contains(words), "{:?} {words}", check.code);
    assert!(app.is_alive());
    assert_eq!(app.log().matches("history does not accept rows").count(), 1, "{}", app.log());
    app.stop().await;
    // A start with it sends READY, degraded.
    app.start().await;
    wait_for_degraded(&app, "history", "side").await;
    query(&app, &clickhouse, "ALTER TABLE tapekeeper.trades RENAME COLUMN direction TO side").await;
    wait_for_restored(&app, "history").await;
    simulator.stop_publishing().await;
    let published = simulator.control.summary()[0].last;
    let complete = async || {
        let sql = "SELECT max(trade_id), max(trade_id) - min(trade_id) + 1 - count() FROM tapekeeper.trades FINAL";
        (query(&app, &clickhouse, sql).await == format!("{published}\t0")).then_some(())
    };
    wait_for("every trade is in history", WAIT_MAX * 2, complete).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}
