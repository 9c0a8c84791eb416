//! Ids that begin again, come once more, or never differ; klines that are corrected.

use rust_decimal::Decimal;
use tapekeeper::market::{Interval, Trade};

use super::super::app::{WAIT_MAX, wait_for};
use super::super::truth::{TradeTruth, assert_klines_complete, assert_same};
use super::Recording;

impl Recording {
    /// The epochs in which the exchange published something, each with its trades.
    fn published_epochs(&self, symbol: &str) -> Vec<Vec<Trade>> {
        let epochs = self.simulator.control.published_epochs(symbol).into_iter().map(|epoch| epoch.trades);
        epochs.filter(|trades| !trades.is_empty()).collect()
    }

    /// Waits until history has every trade of every epoch and no gap is open, then compares them. The first epoch is
    /// compared from the first trade that was recorded.
    async fn assert_epochs_complete(&self, symbol: &str) {
        self.simulator.stop_publishing().await;
        let published = self.published_epochs(symbol);
        let count = published.iter().map(Vec::len).sum::<usize>() as i64;
        let sql = format!("SELECT count(*) FROM trades WHERE symbol = '{symbol}'");
        let whole = || self.number(&sql) >= count && self.history().open_gaps() == 0;
        let until = tokio::time::Instant::now() + WAIT_MAX / 3;
        while !whole() && tokio::time::Instant::now() < until {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        for (epoch, trades) in published.iter().enumerate() {
            let stored = self.history().trades_of_epoch(symbol, epoch as i64);
            // What nobody received before a numbering ended is gone: the exchange does not serve it any more.
            let last = stored.last().map_or(0, |trade| trade.id);
            let is_ended = epoch + 1 < published.len();
            let known = trades.iter().filter(|trade| !is_ended || trade.id <= last);
            let trades: Vec<TradeTruth> = known.map(Into::into).collect();
            assert_same(&format!("{symbol}, epoch {epoch}"), &stored, &trades);
        }
        assert_eq!(self.history().open_gaps(), 0, "{}", self.history().gaps().join("\n"));
        let began = format!("SELECT count(*) FROM epochs WHERE symbol = '{symbol}'");
        assert_eq!(self.number(&began), published.len() as i64 - 1, "each new numbering is an epoch");
    }
}

/// Changes the numbering of a recorded symbol, loses trades of the new one, and expects every trade of both.
async fn record_over(before_opening: &str, change: &str, at_the_same_time: &str) {
    let recording = Recording::begin_with(&["BTCUSDT"], &["trade"], 60.0, 1.0, before_opening, "").await;
    recording.wait_for_trades("BTCUSDT", 60).await;
    recording.inject(change);
    if !at_the_same_time.is_empty() {
        recording.inject(at_the_same_time);
    }
    recording.wait_for_trades("BTCUSDT", 30).await;
    recording.lose("BTCUSDT", 10).await;
    recording.wait_for_trades("BTCUSDT", 150).await;
    recording.assert_epochs_complete("BTCUSDT").await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: epochs; a fall of the ids that REST confirms begins one, and gaps are found in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_begin_again_far_below_are_a_new_epoch() {
    record_over("", "renumber:BTCUSDT:500", "").await;
}

// Needs: epochs, and that REST is asked where the new numbering begins: its first trades came during the cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_a_new_epoch_is_fetched_when_the_connection_was_lost() {
    record_over("", "renumber:BTCUSDT:500", "cut").await;
}

// Needs: epochs; a jump upward that REST confirms is no gap of billions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_continue_far_above_are_a_new_epoch() {
    record_over("", "renumber:BTCUSDT:9000000000000", "").await;
}

// Needs: epochs, in the key of trades: the new ids are those of other trades.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_network_that_uses_ids_again_loses_nothing() {
    record_over("renumber:BTCUSDT:1", "wipe", "").await;
}

// Needs: epochs that are found when the recorder was down while the numbering changed, from their first id on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_was_wiped_while_the_recorder_was_down_loses_nothing() {
    let mut recording = Recording::begin_with(&["BTCUSDT"], &["trade"], 60.0, 1.0, "renumber:BTCUSDT:1", "").await;
    recording.wait_for_trades("BTCUSDT", 100).await;
    recording.app.stop_cleanly().await;
    // The last trades before the change came to nobody; they are gone at the exchange too.
    let stored = recording.number("SELECT max(trade_id) FROM trades");
    recording.inject("wipe");
    let begun = || recording.simulator.control.counters().epochs_begun == 2;
    wait_for("the network is wiped", WAIT_MAX, async || begun().then_some(())).await;
    recording.app.start().await;
    recording.wait_for_trades("BTCUSDT", 150).await;
    recording.simulator.stop_publishing().await;
    let published = recording.published_epochs("BTCUSDT");
    let new: Vec<TradeTruth> = published[1].iter().map(Into::into).collect();
    let is_stored = || recording.history().trades_of_epoch("BTCUSDT", 1).len() == new.len();
    wait_for("the new numbering is stored", WAIT_MAX, async || is_stored().then_some(())).await;
    assert_same("the new epoch", &recording.history().trades_of_epoch("BTCUSDT", 1), &new);
    let old: Vec<TradeTruth> = published[0].iter().filter(|trade| trade.id <= stored).map(Into::into).collect();
    assert_same("the old epoch", &recording.history().trades_of_epoch("BTCUSDT", 0), &old);
    recording.end().await;
}

// Needs: conflicts or an epoch; REST decides which content wins, and the other one is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_keeps_both_contents_and_rest_decides() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.wait_for_trades("BTCUSDT", 60).await;
    recording.inject("rollback:BTCUSDT:20");
    recording.wait_for_trades("BTCUSDT", 60).await;
    recording.simulator.stop_publishing().await;
    let price = |id: i64| {
        let sql = format!("SELECT price FROM trades WHERE trade_id = {id} ORDER BY epoch DESC LIMIT 1");
        recording.history().strings(&sql).pop().map(|text| text.parse::<Decimal>().unwrap())
    };
    let wrong = || -> Vec<i64> {
        let published = recording.simulator.control.published("BTCUSDT");
        published
            .iter()
            .filter(|trade| price(trade.id) != Some(trade.price.normalize()))
            .map(|trade| trade.id)
            .collect()
    };
    wait_for("history has what REST serves", WAIT_MAX, async || wrong().is_empty().then_some(())).await;
    let epochs = recording.published_epochs("BTCUSDT");
    for replaced in epochs[0].iter().filter(|trade| trade.id >= epochs[1][0].id) {
        let (id, text) = (replaced.id, replaced.price.normalize().to_string());
        let kept = format!(
            "SELECT (SELECT count(*) FROM trades WHERE trade_id = {id} AND price = '{text}')
                  + (SELECT count(*) FROM conflicts WHERE position = {id}
                     AND (stored LIKE '%{text}%' OR arrived LIKE '%{text}%'))"
        );
        assert!(recording.number(&kept) > 0, "the first content of {id} is kept");
    }
    recording.end().await;
}

// Needs: an id that stays the same while contents change is set aside, reported, and asked of REST.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_that_all_have_the_id_0_are_kept_and_reported() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.inject("poison:BTCUSDT:trade.t=0:8s");
    let degraded = async || {
        let health = recording.app.get("/healthz").await;
        health["degraded"].to_string().contains("BTCUSDT").then_some(())
    };
    wait_for("the stream is degraded", WAIT_MAX, degraded).await;
    recording.wait_for_trades("BTCUSDT", 60).await;
    let poisoned = recording.simulator.control.counters().frames_poisoned as i64;
    let kept = "SELECT (SELECT count(*) FROM dead_letters) + (SELECT count(*) FROM conflicts)";
    assert!(recording.number(kept) >= poisoned - 1, "{poisoned} frames, kept: {}", recording.number(kept));
    recording.simulator.stop_publishing().await;
    super::super::truth::assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.end().await;
}

// Needs: of two closed klines the one with the later event time wins, and the other is in `conflicts`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kline_that_is_corrected_later_replaces_the_first() {
    let recording = Recording::begin_at_speed(&["BTCUSDT"], &["trade", "kline_1m"], 60.0, 10.0).await;
    recording.inject("correct:BTCUSDT:1m");
    let corrected = || recording.simulator.control.corrected_klines("BTCUSDT").pop();
    let corrected = wait_for("a kline is corrected", WAIT_MAX, async || corrected()).await;
    let published = || recording.simulator.control.published_klines("BTCUSDT", Interval::M1).len();
    let goal = published() + 1;
    wait_for("another kline closes", WAIT_MAX, async || (published() >= goal).then_some(())).await;
    recording.simulator.stop_publishing().await;
    assert_klines_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    let before = corrected.before.close.normalize();
    let kept = format!(
        "SELECT count(*) FROM conflicts WHERE channel = 'kline_1m' AND position = {}
         AND (stored LIKE '%{before}%' OR arrived LIKE '%{before}%')",
        corrected.before.open_time.micros()
    );
    assert!(recording.number(&kept) > 0, "the first content is kept");
    recording.end().await;
}
