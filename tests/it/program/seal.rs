//! `seal` and `verify` from outside: exit codes, words, what a killed or starved process leaves, and the job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::Value;
use tapekeeper::clock::Clock;
use tapekeeper::gap::{Evidence, Gap, GapState, Range};
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::{Batch, History, RowStore, TradeRow};
use tapekeeper::market::{Channel, DAY_US, Exchange, Side, Stream, Symbol, Timestamp, Trade};
use tapekeeper::seal::Day;
use tokio::process::Command;

use super::app::{BINARY, Output, TestApp, run, seed};
use super::simulated_exchange::start_market;

const FEED: &str = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n\n";

/// The day before yesterday.
fn day() -> Day {
    Day::of(Clock::system().now()).previous().previous()
}

fn trade(id: i64, ts: Timestamp) -> TradeRow {
    let trade = Trade {
        id,
        ts,
        price: Decimal::new(6_123_456 + id * 31 % 1_000, 2),
        quantity: Decimal::new(1 + id * 7_919 % 100_000_000, 8),
        side: if id % 3 == 0 { Side::Buy } else { Side::Sell },
        trade_ids: None,
    };
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        trade,
        received_at: ts.plus_micros(12_345),
        is_backfilled: id % 11 == 0,
        epoch: 0,
        version: tapekeeper::history::row_version(id % 11 == 0),
    }
}

async fn open(app: &TestApp) -> Arc<EmbeddedHistory> {
    fs::create_dir_all(&app.data_dir).unwrap();
    Arc::new(EmbeddedHistory::open(&app.data_dir.join("history.db")).unwrap())
}

/// Writes this number of trades of [`day`], from id 1 on, and one of the next day; without those in `missing`.
async fn write(app: &TestApp, trades: i64, missing: Option<Range>) {
    let history = open(app).await;
    let at = |id: i64| day().start().plus_micros(id * (DAY_US / (trades + 1)));
    let ids = (1..=trades).filter(|id| missing.is_none_or(|missing| !missing.contains(*id)));
    let mut rows: Vec<TradeRow> = ids.map(|id| trade(id, at(id))).collect();
    rows.push(trade(trades + 1, day().end()));
    let gaps = missing.map(gap).into_iter().collect();
    history.insert(&Batch { gaps, trades: rows, ..Batch::default() }).await.unwrap();
    history.close().await.unwrap();
}

fn gap(range: Range) -> Gap {
    let stream = Stream::new(Exchange::named("binance"), Symbol::new("BTCUSDT"), Channel::Trade);
    Gap::open(stream, range, Evidence::default(), day().end())
}

async fn seal(app: &TestApp, to: &Path, more: &[&str]) -> Output {
    let date = day().to_string();
    let words = ["seal", "--date", &date, "--output", to.to_str().unwrap()];
    app.command(&[&words[..], more].concat()).await
}

/// Verifies without any configuration.
async fn verify(path: &Path) -> Output {
    run(&["verify", path.to_str().unwrap()]).await
}

fn day_directory(to: &Path) -> PathBuf {
    to.join(format!("trades/exchange=binance/symbol=BTCUSDT/date={}", day()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_sealed_verified_and_sealed_again_after_a_late_fill() {
    let app = TestApp::new(FEED);
    let missing = Range { first: 300, last: 302 };
    write(&app, 1_000, Some(missing)).await;
    let to = app.directory().join("sealed");
    let output = seal(&app, &to, &[]).await;
    let line = format!("binance BTCUSDT trade {} r1 sealed: 997 rows, NOT complete: 3 missing\n", day());
    assert_eq!((output.code, output.out), (Some(1), line), "{}", output.err);
    let verified = verify(&to).await;
    assert_eq!((verified.code, &*verified.out), (Some(0), "1 days, 1 revisions, 997 rows: no difference\n"));

    let history = open(&app).await;
    let mut filled = gap(missing);
    filled.advance(GapState::Filled, "", Clock::system().now());
    let rows = (300..=302).map(|id| trade(id, day().start().plus_micros(id * (DAY_US / 1_001)))).collect();
    history.insert(&Batch { gaps: vec![filled], trades: rows, ..Batch::default() }).await.unwrap();
    history.close().await.unwrap();
    let output = seal(&app, &to, &["--format", "json"]).await;
    let sealed: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!((output.code, &sealed["revision"], &sealed["complete"]), (Some(0), &2.into(), &true.into()));
    assert!(Path::new(sealed["file"].as_str().unwrap()).is_file(), "{sealed}");
    let output = seal(&app, &to, &[]).await;
    assert!(output.code == Some(0) && output.out.contains("r2 unchanged: 1000 rows, complete"), "{output:?}");
    assert_eq!(verify(&to).await.code, Some(0));
    let against = ["verify", to.to_str().unwrap(), "--against-history"];
    assert_eq!(app.command(&against).await.code, Some(0));

    let file = day_directory(&to).join("trades.r2.parquet");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let verified = verify(&to).await;
    assert_eq!(verified.code, Some(1));
    assert!(verified.out.contains("manifest.r2.json: sha256: is "), "{verified:?}");
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let manifest = day_directory(&to).join("manifest.r2.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"rows\": 1000", "\"rows\": 1001")).unwrap();
    let output = run(&["verify", to.to_str().unwrap(), "--format", "json"]).await;
    let found: Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!((output.code, &found["verified"]), (Some(1), &false.into()), "{found}");
    assert!(found["differences"].as_array().unwrap().iter().any(|one| one["field"] == "rows"), "{found}");
    fs::write(&manifest, text).unwrap();

    let connection = rusqlite::Connection::open(app.data_dir.join("history.db")).unwrap();
    connection.execute("DELETE FROM trades WHERE trade_id = 500", []).unwrap();
    let output = app.command(&against).await;
    assert!(output.code == Some(1) && output.out.contains("rows: is 1000, history has 999"), "{output:?}");
    let output = seal(&app, &to, &[]).await;
    assert!(output.out.contains("r2 kept: 1000 rows, complete; history has 1 rows fewer"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_says_what_to_do() {
    let app = TestApp::new(FEED);
    write(&app, 10, None).await;
    let to = app.directory().join("sealed");
    let today = Day::of(Clock::system().now()).to_string();
    let to = to.to_str().unwrap();
    for (words, code, help) in [
        (&["seal"][..], 78, "--output"),
        (&["seal", "--output", to, "--date", &today], 64, "is not over"),
        (&["seal", "--output", to, "--date", "27.11.2026"], 64, "2026-11-27"),
        (&["seal", "--output", to, "--symbol", "BTCUSTD"], 64, "did you mean `BTCUSDT`"),
        (&["seal", "--output", to, "--channel", "book_ticker"], 64, "history does not hold"),
        (&["seal", "--output", "s3://tape/days"], 64, "directory"),
        (&["seal", "--output", to, "--date", "2020-01-01"], 1, "history has no row of these days"),
        (&["verify", to], 64, "read "),
        (&["verify", app.data_dir.to_str().unwrap()], 1, "nothing is sealed here"),
    ] {
        let output = app.command(words).await;
        let said = format!("{}{}", output.out, output.err);
        assert!(output.code == Some(code) && said.contains(help), "{words:?}: {output:?}");
    }
    let output = app.command(&["check"]).await;
    assert!(output.code == Some(0) && output.out.starts_with("note: job `seal` is off"), "{output:?}");
    let output = app.command(&["check", "--format", "json"]).await;
    assert!(
        output.out.contains("\"notes\":[\"job `seal` is off") && output.out.contains("\"valid\":true"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_seal_leaves_nothing_that_verifies_as_a_revision_and_the_next_one_seals() {
    let app = TestApp::new(FEED);
    write(&app, 40_000, None).await;
    let config = app.config_path().display().to_string();
    let date = day().to_string();
    let mut took = Duration::ZERO;
    let mut killed = 0;
    for attempt in 0..12 {
        let to = app.directory().join(format!("sealed-{attempt}"));
        let mut command = Command::new(BINARY);
        command.args(["seal", "--config", &config, "--date", &date, "--output", to.to_str().unwrap()]);
        let began = tokio::time::Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        if took.is_zero() {
            assert_eq!(child.wait().await.unwrap().code(), Some(0));
            took = began.elapsed();
            continue;
        }
        // Most of the steps are at the end.
        let moment = took.mul_f64(rand::random_range(0.3..1.1));
        let ended = tokio::time::timeout(moment, child.wait()).await;
        child.kill().await.unwrap();
        killed += usize::from(ended.is_err());
        if to.exists() {
            let found: Value =
                serde_json::from_str(&run(&["verify", to.to_str().unwrap(), "--format", "json"]).await.out).unwrap();
            let is_whole = found["rows"] == 40_000;
            assert!(found["revisions"] == 0 || is_whole, "{found}");
            assert!(found["verified"] == false || is_whole, "{found}");
        }
        let output = seal(&app, &to, &[]).await;
        assert!(output.code == Some(0) && output.out.contains(" r1 "), "{output:?}");
        assert_eq!(verify(&to).await.code, Some(0));
        assert_eq!(fs::read_dir(day_directory(&to)).unwrap().count(), 3, "nothing is left");
    }
    assert!(killed > 0, "no process was killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_no_revision() {
    let app = TestApp::new(FEED);
    write(&app, 40_000, None).await;
    let to = app.directory().join("sealed");
    let (config, date) = (app.config_path().display().to_string(), day().to_string());
    // A file may have this many blocks of 512 bytes: the kernel refuses more, as a full disk does.
    for blocks in [100, 300] {
        let limited = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited, BINARY, "seal", "--config", &config, "--date", &date]);
        let ended = command.args(["--output", to.to_str().unwrap()]).output().await.unwrap();
        let words = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(74), "{blocks} blocks: {words}");
        if to.exists() {
            let verified = verify(&to).await;
            assert_eq!(verified.code, Some(1), "{verified:?}");
            assert_eq!(fs::read_dir(day_directory(&to)).unwrap().count(), 0, "{blocks} blocks");
        }
    }
    assert_eq!(seal(&app, &to, &[]).await.code, Some(0));
    assert_eq!(verify(&to).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_seals_every_finished_day() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new("");
    let to = app.directory().join("sealed");
    let feed = super::app::feed(&simulator, &["BTCUSDT"], &["trade"]);
    app.configure(&format!("{feed}[seal]\nto = {:?}\n", to.display().to_string()));
    let jobs = "schema = 1\n[job.seal]\ntask = \"seal\"\ncron = \"20 0 * * *\"\nargs = { channel = \"trade\" }\n";
    fs::write(app.directory().join("jobs.toml"), jobs).unwrap();
    write(&app, 200, None).await;
    app.start().await;
    let output = app.command(&["jobs", "run", "seal", "--wait", "--format", "json"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let ran: Value = serde_json::from_str(&output.out).unwrap();
    assert!(ran["report"]["sealed"].as_u64() >= Some(1), "{ran}");
    assert_eq!(verify(&to).await.code, Some(0));
    let manifest = fs::read_to_string(day_directory(&to).join("manifest.r1.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["rows"] == 200 && manifest["complete"] == true, "{manifest}");
    app.stop_cleanly().await;
    simulator.stop().await;
}
