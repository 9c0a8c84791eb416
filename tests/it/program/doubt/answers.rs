//! REST answers that are wrong: one bad row, a wrong page, no JSON, a refusal with an odd Retry-After.

use tapekeeper::market::Timestamp;

use super::super::app::{WAIT_MAX, wait_for};
use super::super::truth::assert_complete;
use super::Recording;

impl Recording {
    /// Loses trades while this lie of REST lasts, until REST has answered with it; then the lie ends and the loss must
    /// be repaired.
    async fn lose_while_rest_lies(&self, lie: &str) {
        let told = || {
            let counters = self.simulator.control.counters();
            counters.rest_lies + counters.rest_refused_until
        };
        let before = told();
        self.inject(&format!("{lie}:ever"));
        self.lose("BTCUSDT", 20).await;
        wait_for(&format!("REST answers with {lie}"), WAIT_MAX, async || (told() > before).then_some(())).await;
        self.inject(&format!("{lie}:0s"));
        let repaired = async || (self.history().open_gaps() == 0).then_some(());
        // A refusal without a time that can be read may take minutes.
        wait_for(&format!("the loss is repaired after {lie}"), WAIT_MAX * 3, repaired).await;
    }

    async fn assert_right_in_the_end(self) {
        self.assert_no_wrong_verdict();
        self.simulator.stop_publishing().await;
        assert_complete(&self.app, &self.simulator, WAIT_MAX).await;
        self.end().await;
    }
}

// Needs: the state `refused` and dead letters of the source `rest`: one bad row costs one row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_costs_one_row() {
    for (edits, bytes) in
        [("qty=123456789012345678901234567890.1", "123456789012345678901234567890.1"), ("price=null", "null")]
    {
        let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
        let lie = |first, _| format!("row:BTCUSDT:{}:{edits}:ever", first + 20);
        let (first, last) = recording.lose_and_lie("BTCUSDT", 41, lie).await;
        let bad = first + 20;
        let around =
            format!("SELECT count(*) FROM trades WHERE is_backfilled = 1 AND trade_id BETWEEN {first} AND {last}");
        let neighbours = async || (recording.number(&around) == 40).then_some(());
        wait_for("the 40 neighbours are stored", WAIT_MAX, neighbours).await;
        let refused = format!(
            "SELECT reason FROM gaps WHERE state = 'refused' AND first_missing = {bad} AND last_missing = {bad}"
        );
        let reason = async || recording.history().strings(&refused).pop();
        let reason = wait_for("the position is refused", WAIT_MAX, reason).await;
        assert!(reason.contains("dead letter "), "{reason}");
        let letters = recording.history().dead_letters();
        assert!(
            letters.iter().any(|(payload, _)| String::from_utf8_lossy(payload).contains(bytes)),
            "the letter has the row as received: {letters:?}"
        );
        assert_eq!(recording.audit().await.0, Some(1), "a refused position is not complete");
        assert_eq!(recording.number("SELECT count(*) FROM gaps WHERE closed_at IS NULL"), 0);
        recording.end().await;
    }
}

// Needs: rows that were not requested are not stored; a page in any order is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_pages_leave_nothing_missing_and_nothing_foreign() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 100.0).await;
    for page in ["duplicates", "conflicts", "descending", "foreign", "below", "holes", "short", "more"] {
        recording.lose_while_rest_lies(&format!("page:{page}:historicalTrades")).await;
    }
    recording.assert_right_in_the_end().await;
}

// Needs: nothing beyond what exists today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_no_list_leave_nothing_missing() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 100.0).await;
    for answer in ["html", "truncated", "null", "object", "nothing", "deep", "gzip", "huge", "loop", "elsewhere"] {
        recording.lose_while_rest_lies(&format!("answer:{answer}:historicalTrades")).await;
    }
    recording.assert_right_in_the_end().await;
}

// Needs: nothing beyond what exists today, but for the time: a slow answer must not hold up the repairs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_never_end_leave_nothing_missing() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 100.0).await;
    for answer in ["hang", "drip"] {
        recording.inject(&format!("answer:{answer}:historicalTrades:8s"));
        recording.lose("BTCUSDT", 20).await;
        let filled = async || {
            let sql = "SELECT count(*) FROM gaps WHERE closed_at IS NULL";
            let told = recording.simulator.control.counters().rest_lies > 0;
            (told && recording.number(sql) == 0).then_some(())
        };
        wait_for(&format!("the loss is repaired after {answer}"), WAIT_MAX * 2, filled).await;
    }
    recording.assert_right_in_the_end().await;
}

// Needs: the message of an error object with status 200 is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_with_status_200_is_shown_with_its_code() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.inject("answer:error:historicalTrades:ever");
    recording.lose("BTCUSDT", 20).await;
    let shown = async || {
        let status = recording.app.get("/api/v1/status").await["rest"].to_string();
        let reasons = recording.history().strings("SELECT reason FROM gaps WHERE closed_at IS NULL").join(" ");
        [status, reasons].iter().any(|text| text.contains("-1003") && text.contains("request weight")).then_some(())
    };
    wait_for("code and message are shown", WAIT_MAX, shown).await;
    recording.inject("answer:error:historicalTrades:0s");
    // The exchange says that a minute's limit is reached.
    let repaired = async || (recording.history().open_gaps() == 0).then_some(());
    wait_for("the loss is repaired", WAIT_MAX * 2, repaired).await;
    recording.assert_right_in_the_end().await;
}

// Needs: every form of Retry-After is read: seconds, a date, and none of the absurd ones stops anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_with_any_retry_after_are_obeyed() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    for refusal in ["refuse:429:2s", "refuse:429:date=4s"] {
        let began = tokio::time::Instant::now();
        recording.lose_while_rest_lies(refusal).await;
        assert!(began.elapsed() < WAIT_MAX / 2, "{refusal}: repaired after {:?}", began.elapsed());
    }
    recording.lose_while_rest_lies("refuse:429:raw=-1").await;
    // Of the ban only the header has the end.
    let before = recording.simulator.control.counters().rest_refused_until;
    recording.inject("refuse:418:date=20s:ever");
    recording.lose("BTCUSDT", 20).await;
    let refused = || recording.simulator.control.counters().rest_refused_until > before;
    wait_for("a request is refused", WAIT_MAX, async || refused().then_some(())).await;
    let now = recording.simulator.control.exchange_time().micros();
    let until = async || {
        let status = recording.app.get("/api/v1/status").await;
        status["rest"]["binance"]["banned_until"].as_str().and_then(Timestamp::parse)
    };
    let until = wait_for("the ban has an end", WAIT_MAX, until).await.micros();
    assert!((10_000_000..25_000_000).contains(&(until - now)), "the ban ends in {} us", until - now);
    recording.inject("refuse:418:date=20s:0s");
    let repaired = async || (recording.history().open_gaps() == 0).then_some(());
    wait_for("the loss is repaired after the ban", WAIT_MAX, repaired).await;
    recording.assert_right_in_the_end().await;
}

// Needs: a Retry-After is capped at four days, and a number that no clock holds does not end live recording.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_retry_after_does_not_end_the_recording() {
    let mut recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.inject("upgrade:429:raw=18446744073709551615:3s");
    recording.inject("refuse:429:raw=18446744073709551615:3s");
    recording.inject("cut");
    let refused = || recording.simulator.control.counters().upgrades_refused > 0;
    wait_for("the connection is refused", WAIT_MAX, async || refused().then_some(())).await;
    assert!(recording.app.is_alive());
    let named = async || {
        let status = recording.app.get("/api/v1/status").await.to_string();
        (status.contains("429") || status.contains("banned_until")).then_some(())
    };
    wait_for("status shows the refusal", WAIT_MAX, named).await;
    recording.app.stop_cleanly().await;
    recording.simulator.stop().await;
}

// Needs: one odd element of a listing costs one element.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_listing_does_not_stop_a_repair() {
    for lie in ["limitnull", "limitzero", "limitnegative", "nolimits", "limitunknown", "statusnull", "statusunknown"] {
        let faults = format!("info:{lie}:ever");
        let recording = Recording::begin_with(&["BTCUSDT", "ETHUSDT"], &["trade"], 60.0, 1.0, &faults, "").await;
        recording.lose("BTCUSDT", 20).await;
        recording.wait_for_trades("BTCUSDT", 60).await;
        let repaired = async || (recording.history().open_gaps() == 0).then_some(());
        wait_for(&format!("the loss is repaired with {lie}"), WAIT_MAX, repaired).await;
        let refused = async || {
            let status = recording.app.get("/api/v1/status").await["rest"]["binance"]["last_error"].to_string();
            status.contains("exchangeInfo").then_some(status)
        };
        assert_eq!(refused().await, None, "{lie}: what can be read is learnt");
        recording.assert_right_in_the_end().await;
    }
}
