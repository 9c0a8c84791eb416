//! `History::retain`.

use tapekeeper::gap::Range;
use tapekeeper::history::{Batch, Retention};
use tapekeeper::market::Timestamp;

use super::rows::{dead_letter, job_run, kline, stream, trade};
use super::{HistoryStore, NOON, all_trades};

/// `runs_per_job`, alone and together with `runs_before`.
pub async fn the_newest_runs_of_each_job_are_kept(store: &dyn HistoryStore) {
    let history = store.open();
    let keep = async |runs: u32| {
        let retention = Retention { runs_per_job: Some(runs), ..Retention::default() };
        history.retain(&retention).await.unwrap()
    };
    assert_eq!(keep(1).await, 0, "there are no runs yet");
    // Odd numbers belong to one job, even ones to another. Of two runs at the same time the higher id is newer.
    for number in 0..11 {
        let mut run = job_run(number);
        run.scheduled_at = NOON.plus_micros(number.min(8)).micros();
        history.put_run(&run).await.unwrap();
    }
    let mut quiet = job_run(99);
    (quiet.job, quiet.scheduled_at) = ("it's quiet".to_owned(), 0);
    history.put_run(&quiet).await.unwrap();
    // A run that is written twice counts once.
    let mut again = job_run(10);
    (again.outcome, again.scheduled_at) = ("succeeded".to_owned(), NOON.plus_micros(8).micros());
    history.put_run(&again).await.unwrap();
    let ids = async || -> Vec<String> {
        history.runs(None, None, 99).await.unwrap().into_iter().map(|run| run.run_id[5..].to_owned()).collect()
    };
    assert_eq!(keep(6).await, 0, "no job has more runs");
    assert_eq!(keep(5).await, 1);
    assert_eq!(keep(2).await, 6);
    assert_eq!(ids().await, ["0010", "0009", "0008", "0007", "0099"]);
    assert_eq!(history.runs(Some("even"), None, 1).await.unwrap(), [again]);
    // With both bounds a run is removed if either one excludes it.
    let both = Retention {
        runs_before: Some(Timestamp(1)),
        runs_per_job: Some(1),
        dead_letters_before: None,
        rows_before: None,
    };
    assert_eq!(history.retain(&both).await.unwrap(), 3);
    assert_eq!(ids().await, ["0010", "0009"]);
}

/// The bounds by time.
pub async fn old_rows_are_removed_and_no_others(store: &dyn HistoryStore) {
    let history = store.open();
    let mut batch = Batch { dead_letters: (0..10).map(dead_letter).collect(), ..Batch::default() };
    for name in ["BTCUSDT", "ETHUSDT"] {
        batch.trades.extend((0..100).map(|id| trade(name, id)));
        batch.klines.extend((0..100).map(|minute| kline(name, minute)));
    }
    // A row with a high id and an early time.
    batch.trades[99].trade.ts = trade("BTCUSDT", 0).trade.ts;
    history.insert(&batch).await.unwrap();
    for number in 0..6 {
        history.put_run(&job_run(number)).await.unwrap();
    }
    let letters_before = dead_letter(4).received_at;
    assert_eq!(history.retain(&Retention::default()).await.unwrap(), 0, "an empty retention removes nothing");
    let old = Retention {
        dead_letters_before: Some(letters_before),
        runs_before: Some(Timestamp(job_run(2).scheduled_at)),
        ..Retention::default()
    };
    assert_eq!(history.retain(&old).await.unwrap(), 6);
    assert_eq!(history.dead_letter_count(None).await.unwrap(), 6);
    assert_eq!(history.runs(None, None, 99).await.unwrap().len(), 4);
    // Trades and klines are one minute apart.
    let rows_before = kline("BTCUSDT", 40).kline.open_time;
    let old = Retention { rows_before: Some(rows_before), ..old };
    assert_eq!(history.retain(&old).await.unwrap(), 161);
    let ids: Vec<i64> = all_trades(&*history, "BTCUSDT").await.iter().map(|row| row.trade.id).collect();
    assert_eq!(ids, (40..99).collect::<Vec<_>>());
    let whole = Range { first: 0, last: i64::MAX };
    for channel in ["trade", "kline_1m"] {
        assert_eq!(history.count(&stream("ETHUSDT", channel), whole).await.unwrap().present, 60);
    }
}
