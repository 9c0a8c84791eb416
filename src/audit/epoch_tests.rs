//! Audits and counts of a symbol whose ids began again.

use super::*;
use crate::history::EpochRow;
use crate::market::Channel;

/// A history with the ids 1,000 to 1,050, and then, a day later, 1 to 9 of another numbering.
async fn renumbered() -> Stores {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1_000..=1_050).await;
    let began_at = trade(1).ts.plus_micros(86_400_000_000);
    let newer = |id: i64| {
        let mut row = TradeRow { epoch: 1, ..row("BTCUSDT", trade(id)) };
        row.trade.ts = row.trade.ts.plus_micros(86_400_000_000);
        row
    };
    let epoch = EpochRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        channel: Channel::Trade,
        epoch: 1,
        first_id: 1,
        began_at,
        reason: String::new(),
    };
    let trades = (1..=9).map(newer).collect();
    stores.history.insert(&Batch { epochs: vec![epoch], trades, ..Batch::default() }).await.unwrap();
    stores
}

#[tokio::test(start_paused = true)]
async fn a_cached_trade_of_an_ended_numbering_is_old_and_opens_no_gap() {
    let stores = renumbered().await;
    let btc = streams(&["binance:BTCUSDT:trade"]);
    stores.cache_tick("BTCUSDT", trade(1_050)).await;
    assert_eq!(stores.kinds(&btc).await, [("BTCUSDT".to_owned(), IssueKind::MissingInCache)]);
    let outcome = stores.repair(&btc).await;
    assert_eq!((outcome.repaired, outcome.sent_to_backfill), (1, 0));
    assert_eq!((stores.open_gaps().await, stores.kinds(&btc).await), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn coverage_counts_one_numbering() {
    let stores = renumbered().await;
    let btc = streams(&["binance:BTCUSDT:trade"]);
    let counted = coverage(&stores.history, &btc, None).await.unwrap().remove(0);
    assert_eq!((counted.epoch, counted.first, counted.last, counted.complete), (1, Some(1), Some(9), true));
    let ended = coverage(&stores.history.at_epoch(0), &btc, None).await.unwrap().remove(0);
    assert_eq!((ended.epoch, ended.first, ended.last, ended.complete), (0, Some(1_000), Some(1_050), true));
}
