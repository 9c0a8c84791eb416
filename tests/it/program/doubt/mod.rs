//! An exchange that errs, hides, renumbers and lies, with a recorder that runs: history ends equal to what the exchange
//! published, epoch by epoch; no gap is closed wrongly, and nothing in doubt counts as complete.
//!
//! Each test names the behaviour of the recorder that it needs.

mod answers;
mod hidden;
mod implausible;
mod numbering;
mod random;
mod streams;

use std::time::Duration;

use tapekeeper::simulator::{Simulator, Source};

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::{generated_options, start};
use super::truth::HistoryFile;

/// A recorder, and the exchange that it records.
struct Recording {
    simulator: Simulator,
    app: TestApp,
}

impl Recording {
    /// Records these symbols from a market whose clock runs as fast as the recorder's, so that only a lie makes a time
    /// implausible.
    async fn begin(symbols: &[&str], channels: &[&str], rate: f64) -> Self {
        Self::begin_at_speed(symbols, channels, rate, 1.0).await
    }

    /// Records from a market with another speed of the clock.
    async fn begin_at_speed(symbols: &[&str], channels: &[&str], rate: f64, speed: f64) -> Self {
        Self::begin_with(symbols, channels, rate, speed, "", "").await
    }

    /// Injects these faults before the market opens, and adds these lines to the configuration.
    async fn begin_with(symbols: &[&str], channels: &[&str], rate: f64, speed: f64, faults: &str, lines: &str) -> Self {
        let mut options = generated_options(seed(), symbols, rate, "");
        if let Source::Generated(generated) = &mut options.source {
            generated.time_scale = speed;
        }
        let simulator = start(options).await;
        let mut app = TestApp::new(&format!("{}{lines}", feed(&simulator, symbols, channels)));
        let recording = {
            faults.split(',').filter(|fault| !fault.is_empty()).for_each(|fault| {
                simulator.control.inject(&fault.parse().unwrap());
            });
            app.start().await;
            Self { simulator, app }
        };
        for symbol in symbols {
            recording.wait_for_trades(symbol, 30).await;
        }
        recording
    }

    fn inject(&self, fault: &str) {
        self.simulator.control.inject(&fault.parse().unwrap());
    }

    fn history(&self) -> HistoryFile {
        HistoryFile::open(&self.app)
    }

    fn number(&self, sql: &str) -> i64 {
        self.history().number(sql)
    }

    /// Waits until the recorder has stored this many more trades of the symbol, of any epoch.
    async fn wait_for_trades(&self, symbol: &str, more: i64) {
        let sql = format!("SELECT count(*) FROM trades WHERE symbol = '{symbol}'");
        let goal = self.number(&sql) + more;
        let what = format!("{more} more trades of {symbol} are stored");
        wait_for(&what, WAIT_MAX * 2, async || (self.number(&sql) >= goal).then_some(())).await;
    }

    /// Loses the next trades of a symbol, and waits until they are lost.
    async fn lose(&self, symbol: &str, count: u64) {
        let before = self.simulator.control.counters().frames_dropped;
        self.inject(&format!("drop:{symbol}:{count}"));
        let lost = || self.simulator.control.counters().frames_dropped >= before + count;
        wait_for("frames are lost", WAIT_MAX, async || lost().then_some(())).await;
    }

    /// Loses the next trades of a symbol while REST fails, and injects a lie of REST before it answers again: `lie` makes
    /// it from the first and the last lost id. Returns both.
    async fn lose_and_lie(&self, symbol: &str, count: u64, lie: impl FnOnce(i64, i64) -> String) -> (i64, i64) {
        self.inject("rest:503:10m");
        self.lose(symbol, count).await;
        let gap = format!(
            "FROM gaps WHERE symbol = '{symbol}' AND channel = 'trade' AND closed_at IS NULL
             AND last_missing - first_missing = {}",
            count - 1
        );
        self.wait_for_some("the gap is open", &format!("SELECT count(*) {gap}"), WAIT_MAX).await;
        let first = self.number(&format!("SELECT first_missing {gap}"));
        let last = first + count as i64 - 1;
        self.inject(&lie(first, last));
        self.inject("rest:503:0s");
        (first, last)
    }

    /// Waits until this query, which counts something, finds it.
    async fn wait_for_some(&self, what: &str, sql: &str, limit: Duration) {
        wait_for(what, limit, async || (self.number(sql) > 0).then_some(())).await;
    }

    /// Fails when a gap of trades was closed with a verdict that the exchange's truth contradicts: it published all.
    fn assert_no_wrong_verdict(&self) {
        let wrong = "SELECT count(*) FROM gaps WHERE state IN ('never_existed', 'unrecoverable', 'refused')";
        assert_eq!(self.number(wrong), 0, "{}", self.history().gaps().join("\n"));
    }

    /// The exit code of `audit` and what it prints.
    async fn audit(&self) -> (Option<i32>, String) {
        let output = self.app.command(&["audit"]).await;
        (output.code, output.out)
    }

    async fn end(mut self) {
        assert!(self.app.is_alive(), "the recorder ended");
        self.app.stop_cleanly().await;
        self.simulator.stop().await;
    }
}
