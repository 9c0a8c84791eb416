//! Commands read the same from ClickHouse as from the embedded history.

use tapekeeper::history::{ClickhouseOptions, History};

use super::super::app::TestApp;
use super::super::export::read_parquet;
use super::super::sample_history;
use super::super::watch::RunningCommand;
use crate::servers::clickhouse::Clickhouse;

/// A new database with a name that a configuration may contain.
fn database(clickhouse: &Clickhouse) -> ClickhouseOptions {
    let options = clickhouse.database();
    ClickhouseOptions { database: options.database.replace('-', "_"), ..options }
}

/// A recorder whose configuration names this ClickHouse database as its history.
fn in_clickhouse(options: &ClickhouseOptions) -> TestApp {
    let ClickhouseOptions { url, database, .. } = options;
    TestApp::new(&format!(
        "{}[history]\nbackend = \"clickhouse\"\n[history.clickhouse]\nurl = {url:?}\ndatabase = {database:?}\n",
        sample_history::FEED
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_tails_and_audits_of_clickhouse_are_those_of_the_embedded_history() {
    let Some(clickhouse) = tokio::task::spawn_blocking(Clickhouse::shared).await.unwrap() else { return };
    let options = database(clickhouse);
    let embedded = TestApp::new(sample_history::FEED);
    // More rows than a page holds, and on both sides of midnight.
    sample_history::write(&embedded.data_dir, 25_000, 300).await;
    let there = in_clickhouse(&options);
    let (from, to) = (embedded.config_path().display().to_string(), there.config_path().display().to_string());
    let output = super::super::app::run(&["copy", "--from", &from, "--to", &to]).await;
    assert_eq!(output.code, Some(0), "{output:?}");

    let export = ["export", "--symbol", "BTCUSDT"];
    let of_klines = ["--channel", "kline_1m"];
    let by_id = ["--from", "1050", "--to", "1310"];
    let by_time = ["--from", "2026-11-24T23:59:30Z", "--to", "2026-11-25T00:00:30Z"];
    let by_day = ["--from", "2026-11-25", "--channel", "kline_1m"];
    for range in [&[][..], &of_klines, &by_id, &by_time, &by_day, &["--from", "2020-01-01"]] {
        for format in ["csv", "jsonl"] {
            let arguments = [&export[..], range, &["--format", format]].concat();
            let (here, there) = (embedded.command(&arguments).await, there.command(&arguments).await);
            assert!(here.out.lines().count() > 10, "{arguments:?}: {here:?}");
            assert_eq!(here.code, there.code, "{arguments:?}: {there:?}");
            assert_eq!((&here.err, &here.out), (&there.err, &there.out), "{arguments:?}");
        }
        let file = |app: &TestApp| app.directory().join("rows.parquet");
        for app in [&embedded, &there] {
            let path = file(app).display().to_string();
            app.command(&[&export[..], range, &["--format", "parquet", "-o", &path]].concat()).await;
        }
        assert_eq!(read_parquet(&file(&embedded)), read_parquet(&file(&there)), "{range:?}");
    }
    for audit in [&["audit"][..], &["audit", "--from", "1050", "--to", "1310", "--format", "json"]] {
        let (here, there) = (embedded.command(audit).await, there.command(audit).await);
        assert_eq!((here.code, &here.out), (Some(1), &there.out), "{there:?}");
    }
    let tail = async |app: &TestApp| {
        let mut tail = RunningCommand::start(app, &["tail", "-n", "500", "--format", "json"]);
        let mut lines = Vec::new();
        for _line in 0..500 {
            lines.push(tail.next_line().await);
        }
        tail.stop().await;
        lines
    };
    assert_eq!(tail(&embedded).await, tail(&there).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_database_is_reported_and_not_created() {
    let Some(clickhouse) = tokio::task::spawn_blocking(Clickhouse::shared).await.unwrap() else { return };
    let options = database(clickhouse);
    let app = in_clickhouse(&options);
    for arguments in [&["audit"][..], &["tail"], &["export", "--symbol", "BTCUSDT"]] {
        let output = app.command(arguments).await;
        let words = format!("there is no history at database {} of http://", options.database);
        assert!(output.code == Some(69) && output.err.contains(&words), "{arguments:?}: {output:?}");
    }
    let (_version, missing) = tapekeeper::history::clickhouse::ClickhouseHistory::inspect(&options).await.unwrap();
    assert!(missing[0].contains("has no tables"), "{missing:?}");
    // A database that has empty tables is read.
    let history = tapekeeper::history::clickhouse::ClickhouseHistory::new(&options);
    history.prepare().await.unwrap();
    assert_eq!(history.identity().await.unwrap().len(), 36);
    let output = app.command(&["audit"]).await;
    assert!(output.code == Some(1) && output.out.contains("nothing stored"), "{output:?}");
}
