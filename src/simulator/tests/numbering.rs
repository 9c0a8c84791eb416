//! Changes of the numbering, as a client sees them, and how the truth keeps both contents.

use super::*;
use crate::market::{Interval, Trade};

/// Reads trades until the id is not one above the last; returns the last id before, and the first one after.
async fn next_jump(client: &mut Client) -> (i64, i64) {
    let mut last = client.trade().await;
    loop {
        let id = client.trade().await;
        if id != last + 1 {
            return (last, id);
        }
        last = id;
    }
}

async fn served(simulator: &Simulator, from: i64) -> Vec<i64> {
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={from}&limit=1000");
    ids(&get(simulator, &path).await.2, "id")
}

fn span(trades: &[Trade]) -> (i64, i64, usize) {
    (trades[0].id, trades[trades.len() - 1].id, trades.len())
}

#[tokio::test]
async fn ids_continue_from_another_number_lower_or_higher() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade"]).await;
    let mut client_of_one = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(50).await;
    let first = simulator.control.published("BTCUSDT")[0].id;
    inject(&simulator, "renumber:BTCUSDT:500");
    let (last, next) = next_jump(&mut client_of_one).await;
    assert_eq!(next, 500);
    // REST knows only the new numbering.
    assert_eq!(served(&simulator, 1).await[0], 500);
    assert_eq!(served(&simulator, first).await.len(), 0);
    inject(&simulator, "renumber:BTCUSDT:9000000000000");
    let (low_last, high) = next_jump(&mut client_of_one).await;
    assert_eq!(high, 9_000_000_000_000);
    assert_eq!(served(&simulator, 1).await[0], high);
    let epochs = simulator.control.published_epochs("BTCUSDT");
    let reasons: Vec<&str> = epochs.iter().map(|epoch| epoch.reason).collect();
    assert_eq!(reasons, ["", "renumbered", "renumbered"]);
    assert_eq!(span(&epochs[0].trades), (first, last, (last - first + 1) as usize));
    assert_eq!(span(&epochs[1].trades), (500, low_last, (low_last - 499) as usize));
    assert_eq!(epochs[2].trades[0].id, high);
    assert_eq!(simulator.control.published_epochs("ETHUSDT").len(), 1);
    let summary = get(&simulator, "/simulator/published").await.2;
    assert_eq!((&summary["symbols"][0]["epoch"], &summary["symbols"][1]["epoch"]), (&json!(2), &json!(0)));
    let lines = get(&simulator, "/simulator/published?symbol=BTCUSDT&epoch=0").await.2;
    assert_eq!(lines.as_str().unwrap().lines().count(), epochs[0].trades.len());
    simulator.stop().await;
}

#[tokio::test]
async fn the_last_ids_come_once_more_with_other_prices() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(100).await;
    inject(&simulator, "rollback:BTCUSDT:20");
    let (last, again) = next_jump(&mut client).await;
    assert_eq!(again, last - 19);
    while client.trade().await < last + 5 {}
    let epochs = simulator.control.published_epochs("BTCUSDT");
    assert_eq!(
        (epochs[0].trades.last().unwrap().id, epochs[1].trades[0].id, epochs[1].reason),
        (last, again, "rolled back")
    );
    for new in &epochs[1].trades[..20] {
        let old = epochs[0].trades.iter().find(|trade| trade.id == new.id).unwrap();
        assert!(old.price != new.price && old.ts <= new.ts, "{old:?} {new:?}");
    }
    // REST serves the trades before, and the new contents.
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={}&limit=2", again - 1);
    let rows = get(&simulator, &path).await.2;
    let published = simulator.control.published("BTCUSDT");
    let expected: Vec<String> = published
        .iter()
        .skip_while(|trade| trade.id < again - 1)
        .take(2)
        .map(|trade| trade.price.to_string())
        .collect();
    assert_eq!(json!([rows[0]["price"], rows[1]["price"]]), json!(expected));
    assert_eq!(rows[1]["price"], epochs[1].trades[0].price.to_string());
    simulator.stop().await;
}

#[tokio::test]
async fn a_wiped_network_begins_at_1_without_any_history() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.history = Duration::from_secs(600);
    generated.rate = 200.0;
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(20).await;
    let klines = "/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=0";
    assert!(get(&simulator, klines).await.2.as_array().unwrap().len() >= 9);
    inject(&simulator, "wipe");
    assert_eq!(next_jump(&mut client).await.1, 1);
    assert_eq!(served(&simulator, 0).await[0], 1);
    assert!(get(&simulator, klines).await.2.as_array().unwrap().len() <= 1);
    assert!(simulator.control.published_klines("BTCUSDT", Interval::M1).len() >= 9, "the truth keeps them");
    wait_for("every symbol is wiped", || simulator.control.counters().epochs_begun == 2).await;
    assert_eq!(simulator.control.published_epochs("ETHUSDT")[1].reason, "wiped");
    simulator.stop().await;
}

#[tokio::test]
async fn an_open_kline_counts_only_trades_of_its_numbering() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.time_scale = 60.0;
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@kline_1m"]).await;
    client.json().await;
    inject(&simulator, "renumber:BTCUSDT:1");
    loop {
        let kline = client.json().await["data"]["k"].take();
        let (first, last, count) = (kline["f"].as_i64().unwrap(), kline["L"].as_i64().unwrap(), &kline["n"]);
        assert!(first == -1 || *count == last - first + 1, "{kline}");
        if first == 1 && kline["x"] == true {
            break;
        }
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_closed_kline_is_corrected_later() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.time_scale = 60.0;
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@kline_1m"]).await;
    // No kline has closed yet: the first one is corrected.
    inject(&simulator, "correct:BTCUSDT:1m");
    let mut closed: Vec<Value> = Vec::new();
    while closed.len() < 2 {
        let data = client.json().await["data"].take();
        if data["k"]["x"] == true {
            closed.push(data);
        }
    }
    let [before, after] = &closed[..] else { unreachable!() };
    assert_eq!(before["k"]["t"], after["k"]["t"]);
    assert_ne!(before["k"]["c"], after["k"]["c"]);
    assert!(after["E"].as_i64() > before["E"].as_i64());
    let corrected = simulator.control.corrected_klines("BTCUSDT")[0];
    assert_eq!(before["k"]["c"], corrected.before.close.to_string());
    assert_eq!(after["k"]["c"], corrected.after.close.to_string());
    let open = corrected.after.open_time.millis();
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={open}&limit=1");
    assert_eq!(get(&simulator, &path).await.2[0][4], after["k"]["c"]);
    assert_eq!(simulator.control.published_klines("BTCUSDT", Interval::M1)[0], corrected.after);
    simulator.stop().await;
}
