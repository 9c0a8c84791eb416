//! Plays a recorded session of a real exchange with faults, and kills the recorder meanwhile.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rust_decimal::Decimal;
use serde_json::Value;
use tokio::time::Instant;

use super::app::{TestApp, WAIT_MAX, feed, seed, soak};
use super::simulated_exchange::{capture_path, playback};
use super::truth::{HistoryFile, TradeTruth, assert_complete, assert_same};

const CAPTURE: &str = "binance/ethusdt_20240808.gz";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_complete_after_cuts_and_three_kills() {
    play_with_kills(seed(), 30.0, 3, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_found_and_filled() {
    play_with_kills(seed(), 60.0, 1, "losetail:ETHUSDT:-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_complete_after_twenty_kills() {
    if soak() {
        play_with_kills(seed(), 4.0, 20, "").await;
    }
}

/// Plays the capture with cuts, kills the recorder `kills` times, and compares history with the file.
async fn play_with_kills(seed: u64, speed: f64, kills: u32, more_faults: &str) {
    let Some(path) = capture_path(CAPTURE) else { return };
    let truth = trades_of(&path);
    assert_eq!(truth.len(), 6_106);
    assert!(truth.windows(2).all(|pair| pair[0].id + 1 == pair[1].id));
    let mut random = StdRng::seed_from_u64(seed);
    // The capture lasts six minutes.
    let wall_ms = (360_000.0 / speed) as u64;
    let mut faults: Vec<String> =
        (0..3).map(|_| format!("cut@{}ms", random.random_range(wall_ms / 20..wall_ms * 9 / 10))).collect();
    faults.extend((!more_faults.is_empty()).then(|| more_faults.to_owned()));
    let faults = faults.join(",");
    let mut moments: Vec<u64> = (0..kills).map(|_| random.random_range(wall_ms / 20..wall_ms * 9 / 10)).collect();
    moments.sort_unstable();
    eprintln!("faults {faults}; kills at {moments:?} ms");
    let simulator = playback(path, speed, &faults).await;
    let mut app = TestApp::new(&feed(&simulator, &["ETHUSDT"], &["trade", "book_ticker"]));
    app.start().await;
    let opened = Instant::now();
    for moment in moments {
        tokio::time::sleep_until(opened + Duration::from_millis(moment)).await;
        app.kill().await;
        app.spawn();
    }
    let over =
        tokio::time::timeout(Duration::from_millis(wall_ms) + WAIT_MAX, simulator.control.finished().cancelled_owned());
    over.await.expect("the capture does not end");
    app.wait_until_ready().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    let history = HistoryFile::open(&app);
    assert_same("ETHUSDT", &history.trades("ETHUSDT"), &truth);
    assert_eq!(history.number("SELECT count(*) FROM trades"), 6_106);
    assert_eq!(history.number("SELECT count(*) FROM dead_letters"), 0);
    if more_faults.contains("losetail") {
        let lost = truth[truth.len() - 50].id;
        let filled = format!("SELECT count(*) FROM trades WHERE trade_id >= {lost} AND is_backfilled = 1");
        assert_eq!(history.number(&filled), 50);
    }
    simulator.stop().await;
}

/// The trades of the file, read without any of the recorder's code.
pub fn trades_of(path: &Path) -> Vec<TradeTruth> {
    let lines = BufReader::new(MultiGzDecoder::new(std::fs::File::open(path).unwrap())).lines();
    let mut trades = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let Some((_, json)) = line.split_once(' ') else { continue };
        let Ok(frame) = serde_json::from_str::<Value>(json) else { continue };
        let data = &frame["data"];
        if data["e"] != "trade" {
            continue;
        }
        let decimal = |key: &str| Decimal::from_str_exact(data[key].as_str().unwrap()).unwrap();
        // "m: is the buyer the market maker": then the taker sold.
        let side = if data["m"] == true { "sell" } else { "buy" };
        trades.push(TradeTruth {
            id: data["t"].as_i64().unwrap(),
            ts: data["T"].as_i64().unwrap() * 1_000,
            price: decimal("p"),
            quantity: decimal("q"),
            side: side.to_owned(),
        });
    }
    trades
}
