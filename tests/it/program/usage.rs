//! Bad configuration, wrong usage, a directory in use: the exit code and the message.

use super::app::{TestApp, feed, run, seed};
use super::simulated_exchange::start_market;

#[tokio::test]
async fn a_bad_configuration_is_reported_completely_and_exits_78() {
    let app = TestApp::new(
        "[[feed]]\nexchange = \"binanze\"\nsymbols = [\"btcusdt\"]\nchanels = [\"trade\"]\n[log]\nretention = 7\n",
    );
    for command in ["run", "check"] {
        let output = app.command(&[command]).await;
        assert_eq!(output.code, Some(78), "{output:?}");
        let config = app.config_path().display().to_string();
        for (words, position) in [("binanze", "4:12"), ("btcusdt", "5:12"), ("chanels", "6:1"), ("retention", "8:13")] {
            assert!(output.err.contains(words), "{command} does not mention {words}: {}", output.err);
            let position = format!("{config}:{position}");
            assert!(output.err.contains(&position), "{command} does not name {position}: {}", output.err);
        }
        assert!(output.err.contains("did you mean"), "{}", output.err);
    }
}

#[tokio::test]
async fn wrong_usage_exits_64() {
    for arguments in [&["recrod"][..], &["run", "--no-such-flag"], &["jobs"]] {
        let output = run(arguments).await;
        assert_eq!(output.code, Some(64), "{arguments:?}: {output:?}");
    }
    assert_eq!(run(&["--version"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_recorder_on_the_same_directory_exits_75() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let output = app.command(&["run"]).await;
    assert_eq!(output.code, Some(75), "{output:?}");
    assert!(output.err.contains("another recorder"), "{}", output.err);
    assert!(app.is_alive());
    app.stop_cleanly().await;
    let output = app.command(&["status"]).await;
    assert_eq!(output.code, Some(69), "a service that does not run is unavailable: {output:?}");
    simulator.stop().await;
}

/// As `| head` closes its pipe when it has enough lines; `println!` would panic.
#[test]
fn a_closed_pipe_is_no_error() {
    let app = TestApp::new("[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n");
    let schedule = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs.toml");
    for arguments in [&["check"][..], &["check", "--format", "json"], &["jobs", "test", schedule], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tapekeeper"));
        command.arg("--config").arg(app.config_path()).args(arguments).stdout(writer);
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked") && !errors.contains("pipe"), "{arguments:?}: {errors}");
    }
}
