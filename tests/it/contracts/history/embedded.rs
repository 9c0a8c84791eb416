//! Runs the suite on the embedded history, with and without faults, and tests its tables and files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tapekeeper::faults::{Fault, Faults, Odds};
use tapekeeper::gap::{Evidence, Gap, Range};
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::faulty::FaultyHistory;
use tapekeeper::history::{Batch, History, HistoryError, RowStore};

use super::rows::{everything, kline, klines, stream, trade, trades};
use super::{HistoryStore, keeps_every_promise};
use crate::contracts::retry::Retrying;
use crate::contracts::{NOON, symbol};

struct Embedded {
    directory: tempfile::TempDir,
    faults: Option<Faults>,
}

impl Embedded {
    fn new(faults: Option<Faults>) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), faults }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("history.db")
    }
}

impl HistoryStore for Embedded {
    fn open(&self) -> Arc<dyn History> {
        let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&self.path()).unwrap());
        match &self.faults {
            None => history,
            Some(faults) => Arc::new(Retrying::<dyn History>(Arc::new(FaultyHistory::new(history, faults.clone())))),
        }
    }
}

#[test]
fn the_embedded_history_keeps_every_promise() {
    keeps_every_promise(&|| Box::new(Embedded::new(None)));
}

#[test]
fn a_history_behind_faults_keeps_every_promise_to_a_caller_that_retries() {
    let delay_max = Duration::from_millis(1);
    let odds = Odds { fail: 100, lose_answer: 100, tear: 100, delay: 50, delay_max };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    keeps_every_promise(&|| Box::new(Embedded::new(Some(faults.clone()))));
    assert!(faults.injected() > 0);
}

/// Promise 6.
#[test]
fn a_newer_schema_is_refused_naming_both_versions() {
    let store = Embedded::new(None);
    drop(store.open());
    rusqlite::Connection::open(store.path()).unwrap().pragma_update(None, "user_version", 41).unwrap();
    let refusal = EmbeddedHistory::open(&store.path()).unwrap_err();
    assert!(
        matches!(&refusal, HistoryError::Schema(text) if text.contains("41") && text.contains("up to 5")),
        "{refusal}"
    );
}

#[test]
fn a_file_that_is_not_a_history_is_refused() {
    let store = Embedded::new(None);
    std::fs::write(store.path(), "not a database, and long enough not to be taken for an empty one".repeat(200))
        .unwrap();
    let refusal = EmbeddedHistory::open(&store.path()).unwrap_err();
    assert!(matches!(&refusal, HistoryError::Damaged(why) if why.contains("is damaged: ")), "{refusal}");
}

/// DESIGN.md section 5: other programs read the file during writes.
#[tokio::test]
async fn other_programs_read_the_tables_in_the_documented_encoding() {
    let store = Embedded::new(None);
    let history = store.open();
    let mut row = trade("BTCUSDT", 1);
    row.trade.price = "61234.560000".parse().unwrap();
    row.trade.quantity = "0.00".parse().unwrap();
    history.insert(&trades(vec![row.clone()])).await.unwrap();
    history.insert(&klines(vec![kline("BTCUSDT", 1)])).await.unwrap();
    let other = rusqlite::Connection::open(store.path()).unwrap();
    let texts: (String, String, String, String, i64, i64) = other
        .query_row(
            "SELECT exchange, price, quantity, side, is_backfilled, version FROM trades
             WHERE symbol = 'BTCUSDT' AND trade_id = 1 AND ts = ?1 AND received_at = ?2",
            [row.trade.ts.micros(), row.received_at.micros()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)),
        )
        .unwrap();
    let expected = ("binance".to_owned(), "61234.56".to_owned(), "0".to_owned(), "sell".to_owned(), 0, 3);
    assert_eq!(texts, expected);
    let klines: i64 = other
        .query_row("SELECT count(*) FROM klines WHERE interval = '1m' AND high = '20.1'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(klines, 1);
    // This backend stores all 28 digits of a decimal exactly; others may not.
    row.trade.price = "0.0000000000000000000000000001".parse().unwrap();
    row.trade.quantity = "79228162514264337593543950335".parse().unwrap();
    row.trade.id = 2;
    history.insert(&trades(vec![row.clone()])).await.unwrap();
    assert_eq!(super::all_trades(&*history, "BTCUSDT").await[1], row);
}

#[tokio::test]
async fn a_row_that_violates_a_constraint_is_refused_and_no_other_batch_is() {
    let store = Embedded::new(None);
    let history = store.open();
    let mut gap = Gap::open(stream("BTCUSDT", "trade"), Range { first: 5, last: 9 }, Evidence::default(), NOON);
    gap.range.last = 1;
    let bad = Batch { gaps: vec![gap], trades: vec![trade("BTCUSDT", 1)], ..Batch::default() };
    let good = trades(vec![trade("BTCUSDT", 2)]);
    let (refused, stored) = tokio::join!(history.insert(&bad), history.insert(&good));
    assert!(matches!(refused, Err(HistoryError::Data(_))), "{refused:?}");
    stored.unwrap();
    assert_eq!(super::all_trades(&*history, "BTCUSDT").await, [trade("BTCUSDT", 2)]);
}

#[tokio::test]
async fn a_marked_trade_is_refused_and_a_torn_batch_leaves_gaps_before_rows() {
    let store = Embedded::new(None);
    let inner = store.open();
    let faults = Faults::none();
    let history = FaultyHistory::new(Arc::clone(&inner), faults.clone());
    history.refuse_trade(symbol("BTCUSDT"), 3);
    assert!(matches!(history.insert(&everything()).await, Err(HistoryError::Data(_))));
    assert!(super::all_trades(&*inner, "BTCUSDT").await.is_empty());
    let mut batch = everything();
    batch.trades.retain(|row| row.trade.id != 3);
    faults.script([Fault::Tear]);
    assert!(matches!(history.insert(&batch).await, Err(HistoryError::Unavailable(_))));
    assert_eq!(inner.gaps(&super::filter(true, None, 0)).await.unwrap(), batch.gaps);
    assert_eq!(
        super::all_trades(&*inner, "BTCUSDT").await.len(),
        batch.rows() / 2 - batch.epochs.len() - batch.gaps.len()
    );
    history.insert(&batch).await.unwrap();
    assert_eq!(super::all_trades(&*inner, "BTCUSDT").await, batch.trades);
}
