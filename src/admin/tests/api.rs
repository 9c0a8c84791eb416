//! Every endpoint: the shape of its success and of its errors.

use serde_json::{Value, json};

use super::super::ReloadReport;
use super::super::time_series::Sample;
use super::{NOW, Served};
use crate::admin::AdminOptions;
use crate::exchange::ListingEntry;
use crate::gap::{Evidence, Gap, GapState, Range};
use crate::history::Batch;
use crate::jobs::planner::Changes;
use crate::market::{Stream, Timestamp};
use crate::progress::Outage;

fn code(answer: &(u16, Value)) -> (u16, &str) {
    assert!(answer.1["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    (answer.0, answer.1["error"]["code"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_every_part() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=5).await;
    let (status, document) = served.get("/api/v1/status").await;
    assert_eq!(status, 200);
    assert_eq!((&document["ready"], &document["stopping"]), (&json!(true), &json!(false)));
    assert_eq!(document["instance"], "lab");
    assert_eq!(document["uptime_s"], 90);
    assert_eq!(document["streams"], json!({ "total": 2, "receiving": 1, "states": { "stalled": 2 } }));
    assert_eq!(document["log"]["lag_frames"], 0);
    assert_eq!(document["gaps"]["open"], 0);
    assert_eq!(document["dead_letters"], 0);
    assert_eq!(document["degraded"], json!({}));
    assert_eq!(document["jobs"]["total"], 1);
    assert_eq!(document["last_errors"], json!([]));
    assert_eq!(document["rest"]["binance"]["used"], 0);
    assert!(document["connections"].is_array() && document["beats"].is_array(), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_forecasts_when_the_disk_is_full() {
    let served = Served::start().await;
    let (_, document) = served.get("/api/v1/status").await;
    let (disk, log) = (&document["disk"], &document["log"]);
    assert!(disk["free_bytes"].as_u64() > Some(0) && disk["kept_bytes"].as_u64() > Some(0), "{disk}");
    assert_eq!((&disk["growth_bytes_per_hour"], &disk["full_in_s"]), (&Value::Null, &Value::Null), "too early to tell");
    assert_eq!((&log["lag_s"], &document["jobs"]["next"]["job"]), (&Value::Null, &json!("state-snapshot")));
    for (ago, free, kept) in [(2_000, 10_000, 500), (0, 9_800, 700)] {
        let at = NOW.plus_micros(-ago * 1_000_000);
        let (free, kept) = (Some(free), Some(kept));
        served.state.time_series.add(Sample { at, frames: 1.0, lag: Some(0.0), missing: 0, free, kept });
    }
    let (_, document) = served.get("/api/v1/status").await;
    let disk = &document["disk"];
    assert_eq!((&disk["growth_bytes_per_hour"], &disk["full_in_s"]), (&json!(360.0), &json!(98_000.0)), "{disk}");
    assert_eq!(document["log"]["lag_s"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_answers_while_history_is_down() {
    let served = Served::start().await;
    served.faults.set_outage(true);
    served.state.health.degraded("history", "the disk is full");
    let (status, document) = served.get("/api/v1/status").await;
    assert_eq!(status, 200);
    assert_eq!(document["degraded"]["history"], "the disk is full");
    assert_eq!(document["dead_letters"], Value::Null);
    assert!(document["history"]["error"].is_string(), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthz_reports_the_loops_and_readyz_the_log() {
    let served = Served::start().await;
    assert_eq!(served.get("/healthz").await.0, 200);
    assert_eq!(served.get("/readyz").await, (200, json!({ "ready": true, "reason": null })));
    served.state.health.degraded("ingest", "the log refuses frames: full");
    let (status, health) = served.get("/healthz").await;
    assert_eq!((status, &health["status"]), (200, &json!("degraded")));
    assert_eq!(health["degraded"]["ingest"], "the log refuses frames: full");
    let (status, ready) = served.get("/readyz").await;
    assert_eq!((status, &ready["reason"]), (503, &json!("the log refuses frames: full")));
    assert!(served.state.health.restored("ingest"));
    served.state.health.set_stopping();
    assert_eq!(served.get("/readyz").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_show_their_progress() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=5).await;
    let (status, streams) = served.get("/api/v1/streams").await;
    assert_eq!(status, 200);
    let (first, second) = (&streams[0], &streams[1]);
    assert_eq!((&first["symbol"], &first["last"], &first["age_s"]), (&json!("BTCUSDT"), &json!(5), &json!(1.5)));
    assert_eq!((&first["receiving"], &second["receiving"]), (&json!(true), &json!(false)));
    assert_eq!((&second["symbol"], &second["last"]), (&json!("ETHUSDT"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symbol_that_is_not_listed_yet_is_a_state_and_a_notice_until_its_first_frame() {
    let served = Served::with(AdminOptions::default(), &["binance:BTCUSDT:trade", "binance:币安人生USDT:trade"]).await;
    let state = &served.state;
    let streams = state.streams.borrow().clone();
    state.counters.subscriptions.accepted(1, &streams, NOW.plus_micros(-20_000_000));
    for (stream, entry) in streams.iter().zip([ListingEntry::Paused("BREAK".to_owned()), ListingEntry::Unlisted]) {
        state.listings.listed(stream.exchange, stream.symbol.clone(), entry, false, NOW.plus_micros(-10_000_000));
    }
    let (_, views) = served.get("/api/v1/streams").await;
    assert_eq!((&views[0]["state"], &views[1]["state"]), (&json!("not_trading"), &json!("not_trading")));
    assert_eq!(views[0]["state_reason"], "binance has paused BTCUSDT: its status is BREAK");
    let (_, document) = served.get("/api/v1/status").await;
    assert_eq!(document["notices"][1]["part"], "binance:币安人生USDT");
    let why = document["notices"][1]["why"].as_str().unwrap();
    assert!(why.contains("does not list 币安人生USDT (yet)"), "{why}");
    assert_eq!((&document["degraded"], &document["streams"]["states"]), (&json!({}), &json!({ "not_trading": 2 })));
    assert_eq!(served.get("/healthz").await.1["status"], "ok");
    let page = served.text("/").await;
    assert!(page.contains(">Notices</h2>") && page.contains("does not list 币安人生USDT (yet)"), "{page}");
    assert!(page.contains("not trading") && !page.contains(">Problems</h2>"), "{page}");
    state.counters.last_seen.stamp(&streams[1]).store(NOW.micros() - 1_000_000, std::sync::atomic::Ordering::Relaxed);
    let (_, views) = served.get("/api/v1/streams").await;
    assert_eq!((&views[1]["state"], &views[1]["state_reason"]), (&json!("receiving"), &Value::Null));
    let metrics = served.text("/metrics").await;
    assert!(metrics.contains("tapekeeper_streams{state=\"not_trading\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ended_symbols_share_a_notice() {
    let names: Vec<String> = (0..12).map(|n| format!("binance:OLD{n:02}:trade")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let served = Served::with(AdminOptions::default(), &names).await;
    let streams = served.state.streams.borrow().clone();
    for (ended, stream) in streams.iter().enumerate() {
        let symbol = stream.symbol.clone();
        served.state.listings.listed(stream.exchange, symbol, ListingEntry::Unlisted, true, NOW.plus_micros(-1));
        let notices = served.get("/api/v1/status").await.1["notices"].as_array().map(Vec::len);
        assert_eq!(notices, Some(if ended < 5 { ended + 1 } else { 1 }));
    }
    let (_, document) = served.get("/api/v1/status").await;
    let why = document["notices"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("12 symbols have ended: OLD00, ") && why.ends_with("OLD09 and 2 more"), "{why}");
    assert_eq!(document["streams"]["states"], json!({ "ended": 12 }));
    assert_eq!(document["degraded"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_frames_cannot_be_decoded_says_so() {
    let served = Served::start().await;
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let outage = Outage {
        exchange: stream.exchange,
        stream: Some(stream),
        since: NOW,
        frames: 3,
        reason: "p is a number".to_owned(),
        partition: 0,
        offset: 7,
    };
    served.state.health.degraded(&outage.part(), &outage.describe());
    served.state.progress.set_outages(vec![outage]);
    let (_, views) = served.get("/api/v1/streams").await;
    assert_eq!((&views[0]["state"], &views[1]["state"]), (&json!("stalled"), &json!("stalled")));
    assert!(views[0]["state_reason"].as_str().unwrap().contains("p is a number"));
    let page = served.text("/").await;
    assert!(page.contains(">Problems</h2>") && page.contains("tapekeeper replay"), "{page}");
}

async fn with_gaps() -> Served {
    let served = Served::start().await;
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let evidence = Evidence { by: "neighbour".to_owned(), previous: Some(9), next: Some(20), ..Evidence::default() };
    let open = Gap::open(stream.clone(), Range { first: 10, last: 19 }, evidence.clone(), Timestamp(1_000_000));
    let mut closed = Gap::open(stream, Range { first: 30, last: 31 }, evidence, Timestamp(2_000_000));
    closed.filled = 2;
    assert!(closed.advance(GapState::Filled, "", Timestamp(3_000_000)));
    let batch = Batch { gaps: vec![open, closed], token: "gaps".to_owned(), ..Batch::default() };
    served.history.insert(&batch).await.unwrap();
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_have_the_column_names_of_the_ledger() {
    let served = with_gaps().await;
    let (status, all) = served.get("/api/v1/gaps?state=all").await;
    assert_eq!((status, all.as_array().map(Vec::len)), (200, Some(2)));
    let (_, open) = served.get("/api/v1/gaps?state=open&symbol=BTCUSDT").await;
    assert_eq!(open.as_array().map(Vec::len), Some(1));
    let gap = &open[0];
    assert_eq!((&gap["first_missing"], &gap["last_missing"], &gap["missing"]), (&json!(10), &json!(19), &json!(10)));
    assert_eq!((&gap["state"], &gap["channel"]), (&json!("open"), &json!("trade")));
    assert_eq!((&gap["detected_at"], &gap["closed_at"]), (&json!("1970-01-01T00:00:01.000Z"), &Value::Null));
    assert_eq!(gap["evidence"]["by"], "neighbour");
    for name in ["gap_id", "exchange", "symbol", "filled", "attempts", "reason", "from_ts", "to_ts"] {
        assert!(gap.get(name).is_some(), "{name} is missing");
    }
    assert_eq!(served.get("/api/v1/gaps?symbol=ETHUSDT").await, (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_zero_does_not_list_all_gaps() {
    let served = with_gaps().await;
    assert_eq!(served.get("/api/v1/gaps?limit=0").await.1.as_array().map(Vec::len), Some(1));
    assert_eq!(served.get("/api/v1/gaps?limit=1").await.1.as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_shows_the_missing_range() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    let (status, coverage) = served.get("/api/v1/coverage?symbol=BTCUSDT").await;
    assert_eq!((status, coverage.as_array().map(Vec::len)), (200, Some(1)));
    let row = &coverage[0];
    assert_eq!((&row["expected"], &row["present"], &row["missing"]), (&json!(8), &json!(5), &json!([[4, 6]])));
    assert_eq!((&row["first"], &row["last"], &row["complete"]), (&json!(1), &json!(8), &json!(false)));
    assert_eq!((&row["state"], &row["days"][0]["missing"]), (&json!("open"), &json!([[4, 6]])));
    assert_eq!(row["recoverable"], Value::Null, "there is no client for the exchange here");
    assert_eq!(code(&served.get("/api/v1/coverage?symbol=NOPE").await), (404, "unknown_symbol"));
    served.faults.set_outage(true);
    assert_eq!(code(&served.get("/api/v1/coverage").await), (503, "unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_run_paused_and_resumed() {
    let served = Served::start().await;
    let (status, run) = served.post("/api/v1/jobs/state-snapshot/run?wait=true", "").await;
    assert_eq!((status, &run["outcome"], &run["trigger"]), (200, &json!("succeeded"), &json!("manual")));
    assert_eq!(served.post("/api/v1/jobs/state-snapshot/pause", "").await.1["reason"], "by hand");
    let answer = served.post("/api/v1/jobs/state-snapshot/pause?reason=a%20move", "").await;
    assert_eq!(answer, (200, json!({ "job": "state-snapshot", "paused": true, "reason": "a move" })));
    let (_, jobs) = served.get("/api/v1/jobs").await;
    assert_eq!((&jobs[0]["name"], &jobs[0]["paused_reason"]), (&json!("state-snapshot"), &json!("a move")));
    assert_eq!(jobs[0]["last_summary"], "generation 7");
    assert_eq!(served.post("/api/v1/jobs/state-snapshot/resume", "").await.1["paused"], false);
    let (_, runs) = served.get("/api/v1/jobs/history?job=state-snapshot&limit=5").await;
    assert_eq!(runs[0]["run_id"], run["run_id"]);
    for action in ["run", "pause", "resume"] {
        let answer = served.post(&format!("/api/v1/jobs/nope/{action}"), "").await;
        assert_eq!(code(&answer), (404, "unknown_job"), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_loop_answers_a_reload() {
    let mut served = Served::start().await;
    let next = vec![("a".to_owned(), Some(Timestamp(60_000_000))), ("b".to_owned(), None)];
    let jobs = Changes { added: vec!["a".to_owned()], next, ..Changes::default() };
    let answers = [
        Ok(ReloadReport { summary: "a job more".to_owned(), jobs }),
        Err("tapekeeper.toml:3:1: unknown key".to_owned()),
    ];
    let mut reloads = std::mem::replace(&mut served.reloads, tokio::sync::mpsc::channel(1).1);
    let service = tokio::spawn(async move {
        let mut dry_runs = Vec::new();
        for answer in answers {
            let request = reloads.recv().await.unwrap();
            dry_runs.push(request.dry_run);
            request.answer.send(answer).unwrap();
        }
        dry_runs
    });
    let answer = served.post("/api/v1/reload?dry_run=true", "").await;
    let expected = json!({
        "changed": "a job more",
        "jobs": { "added": ["a"], "changed": [], "removed": [] },
        "next_runs": [{ "job": "a", "next_run": "1970-01-01T00:01:00.000Z" }, { "job": "b", "next_run": null }],
    });
    assert_eq!(answer, (200, expected));
    assert_eq!(code(&served.post("/api/v1/reload", "").await), (422, "not_reloaded"));
    assert_eq!(service.await.unwrap(), [true, false]);
    assert_eq!(code(&served.post("/api/v1/reload", "").await), (503, "busy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_fixes_what_the_check_finds() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=5).await;
    let (status, report) = served.get("/api/v1/admin/consistency-check?symbol=BTCUSDT").await;
    assert_eq!((status, &report["checked"]), (200, &json!(1)));
    let issue = &report["issues"][0];
    assert_eq!((&issue["kind"], &issue["cache"]), (&json!("missing_in_cache"), &Value::Null));
    assert_eq!((&issue["symbol"], &issue["history"]["trade_id"]), (&json!("BTCUSDT"), &json!(5)));
    let (status, repaired) = served.post("/api/v1/admin/repair-data", "").await;
    assert_eq!(
        (status, repaired),
        (200, json!({ "repaired": 1, "written_from_cache": 0, "sent_to_backfill": 0, "unrepaired": [] }))
    );
    let (_, report) = served.get("/api/v1/admin/consistency-check?symbol=BTCUSDT").await;
    assert_eq!(report, json!({ "checked": 1, "issues": [] }));
    assert_eq!(code(&served.get("/api/v1/admin/consistency-check?symbol=NOPE").await), (404, "unknown_symbol"));
    served.faults.set_outage(true);
    assert_eq!(code(&served.post("/api/v1/admin/repair-data", "").await), (503, "unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_opens_gaps_for_missing_trades_that_exist() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    let ask = |from: Value, to: Value| {
        let body = json!({ "exchange": "binance", "symbol": "BTCUSDT", "from": from, "to": to });
        let served = &served;
        async move { served.post("/api/v1/admin/backfill", &body.to_string()).await }
    };
    let mut answer = ask(json!(2), json!(1_000_000_000_000_000_000_i64)).await;
    // One page of weight 25, at a weight of 3,000 per minute, takes half a second.
    let estimate = answer.1.as_object_mut().unwrap().remove("estimate_s").unwrap();
    assert!(estimate.is_null() || estimate == 0, "{estimate}");
    let opened = json!({
        "channel": "trade", "first": 2, "last": 8, "missing": 3, "gaps_opened": 1, "gaps_asked_again": 0, "more": false
    });
    assert_eq!(answer, (200, opened));
    assert_eq!(served.state.ledger.with(|ledger| ledger.open_count()), (1, 3));
    assert_eq!(ask(json!(2), json!(8)).await.1["gaps_opened"], 0);
    assert_eq!(code(&ask(json!(5), json!(4)).await), (400, "bad_request"));
    assert_eq!(code(&ask(json!(9), json!(20)).await), (400, "bad_request"));
    assert_eq!(code(&ask(json!(-5), json!(4)).await), (400, "bad_request"));
    assert_eq!(code(&ask(json!(1.5), json!(4)).await), (400, "bad_request"));
    assert_eq!(code(&ask(json!("yesterday"), json!(4)).await), (400, "bad_request"));
    // Only the exchange knows which id a time has, and it does not answer here.
    assert_eq!(code(&ask(json!("2026-01-01"), json!(4)).await), (503, "unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_backfill_is_refused_with_its_code() {
    let served = Served::start().await;
    for (body, expected) in [
        ("", (400, "bad_request")),
        ("{", (400, "bad_request")),
        ("[]", (400, "bad_request")),
        (r#"{"exchange":"binance","symbol":"BTCUSDT","from":1,"to":2,"extra":3}"#, (400, "bad_request")),
        (r#"{"exchange":"mars","symbol":"BTCUSDT","from":1,"to":2}"#, (400, "bad_request")),
        (r#"{"exchange":"binance","symbol":"NOPE","from":1,"to":2}"#, (404, "unknown_symbol")),
        (r#"{"exchange":"binance","symbol":"ETHUSDT","from":1,"to":2}"#, (409, "nothing_recorded")),
    ] {
        assert_eq!(code(&served.post("/api/v1/admin/backfill", body).await), expected, "{body}");
    }
    let large = "x".repeat(super::super::BODY_MAX + 1);
    assert_eq!(code(&served.post("/api/v1/admin/backfill", &large).await), (413, "too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_addresses_and_invalid_parameters_are_error_documents() {
    let served = Served::start().await;
    assert_eq!(code(&served.get("/nope").await), (404, "not_found"));
    assert_eq!(code(&served.post("/api/v1/status", "").await), (405, "method_not_allowed"));
    assert_eq!(code(&served.get("/api/v1/reload").await), (405, "method_not_allowed"));
    for path in [
        "/api/v1/gaps?state=closed",
        "/api/v1/gaps?limit=many",
        "/api/v1/gaps?limit=-1",
        "/api/v1/gaps?symbl=BTCUSDT",
        "/api/v1/coverage?symbols=BTCUSDT",
        "/api/v1/jobs/history?limit=x",
    ] {
        assert_eq!(code(&served.get(path).await), (400, "bad_request"), "{path}");
    }
    assert_eq!(code(&served.post("/api/v1/jobs/%FF/run", "").await), (400, "bad_request"));
    assert_eq!(code(&served.post("/api/v1/jobs/state-snapshot/run?wait=maybe", "").await), (400, "bad_request"));
}
