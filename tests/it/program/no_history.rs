//! Commands that read, in a directory without a history: they report that and create nothing.

use super::app::TestApp;
use super::sample_history;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_read_report_a_missing_history_and_create_nothing() {
    let app = TestApp::new(sample_history::FEED);
    let reads: [&[&str]; 3] = [&["audit"], &["tail"], &["export", "--symbol", "BTCUSDT", "--format", "parquet"]];
    for exists in [false, true] {
        if exists {
            // A directory that something else created.
            std::fs::create_dir(&app.data_dir).unwrap();
        }
        for arguments in reads {
            let output = app.command(arguments).await;
            let place = app.data_dir.join("history.db").display().to_string();
            assert_eq!((output.code, &*output.out), (Some(69), ""), "{arguments:?}: {output:?}");
            let words = format!("there is no history at {place}: nothing was recorded there yet, or data_dir is wrong");
            assert!(output.err.contains(&words), "{arguments:?}: {output:?}");
        }
        let output = app.command(&["replay"]).await;
        assert!(output.code == Some(69) && output.err.contains("there is no log at "), "{output:?}");
        let target = app.directory().join("target.toml");
        let elsewhere = app.directory().join("elsewhere").display().to_string();
        std::fs::write(&target, format!("data_dir = {elsewhere:?}\n{}", sample_history::FEED)).unwrap();
        let (from, to) = (app.config_path().display().to_string(), target.display().to_string());
        let output = super::app::run(&["copy", "--from", &from, "--to", &to]).await;
        assert!(output.code == Some(69) && output.err.contains("there is no history at "), "{output:?}");
        assert!(!std::path::Path::new(&elsewhere).exists(), "the copy has created its target");
        let entries = std::fs::read_dir(&app.data_dir).map(Iterator::count);
        assert_eq!(entries.ok(), exists.then_some(0), "a command that reads has created a file");
    }
}
