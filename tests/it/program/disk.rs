//! A full disk: a small file system of its own, which only root may mount.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete};

/// A mounted tmpfs, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a tmpfs. Prints a note and returns `None` where that is not allowed; with CI=true and as root it fails.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tapekeeper-test"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        assert!(!(root && std::env::var("CI").is_ok_and(|ci| ci == "true")), "root cannot mount a tmpfs");
        eprintln!("SKIPPED: a full disk needs a tmpfs, which only root may mount");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a recorder that was just killed may still have a file open.
        if !Command::new("umount").arg("-l").arg(&self.0).status().is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_reported_and_recording_resumes_when_space_returns() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 400.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    let Some(_disk) = SmallDisk::mount(&app.data_dir.clone()) else { return };
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 200).then_some(())).await;
    let ballast = app.data_dir.join("ballast");
    let fill = || {
        let mut file = fs::File::options().create(true).append(true).open(&ballast).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
    };
    // Fills also what the recorder frees meanwhile, when it truncates a log.
    let refused = async || {
        fill();
        (app.status("/readyz").await == Some(503)).then_some(())
    };
    wait_for("the log refuses frames", WAIT_MAX * 2, refused).await;
    let health = app.get("/healthz").await;
    assert!(health["degraded"]["ingest"].as_str().unwrap().contains("the log refuses"), "{health}");
    assert_eq!(app.status("/healthz").await, Some(200), "a full disk never restarts the recorder");
    assert!(app.is_alive());
    fs::remove_file(&ballast).unwrap();
    wait_for("the log takes frames again", WAIT_MAX, async || (app.status("/readyz").await == Some(200)).then_some(()))
        .await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}
