//! A recorder whose cache is a Redis Cluster.

use tapekeeper::cache::Cache;
use tapekeeper::cache::redis::RedisCache;
use tapekeeper::market::{Exchange, Symbol};

use super::super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::super::simulated_exchange::start_market;
use super::super::truth::assert_complete;
use crate::servers::redis_cluster::RedisCluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_has_every_latest_trade_after_a_primary_died() {
    let Some(redis) = tokio::task::spawn_blocking(RedisCluster::start).await.unwrap() else { return };
    let names = ["AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT", "FFFUSDT"];
    let simulator = start_market(seed(), &names, 200.0, "").await;
    let options = redis.options();
    let mut app = TestApp::new("");
    let cache = format!("[cache]\nbackend = \"redis\"\n[cache.redis]\nnodes = {:?}\n", options.nodes);
    app.configure(&format!("{}{cache}", feed(&simulator, &names, &["trade", "book_ticker"])));
    let output = app.command(&["check", "--connect"]).await;
    assert!(output.code == Some(0) && output.out.contains("a cluster of 3 primaries: 127.0.0.1:"), "{output:?}");
    assert!(output.out.contains("missing: our function at 127.0.0.1:"), "{output:?}");
    app.start().await;
    let cache = RedisCache::connect(&options).unwrap();
    let symbols = names.map(Symbol::new);
    let held = async || cache.ticks(Exchange::named("binance"), &symbols).await.unwrap_or_default();
    wait_for("every symbol is in the cluster", WAIT_MAX, async || {
        let held = held().await;
        (held.len() == names.len() && held.iter().all(Option::is_some)).then_some(())
    })
    .await;
    tokio::task::block_in_place(|| redis.primary_of("tick:{binance:AAAUSDT}").kill());
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    for (at, name) in names.iter().enumerate() {
        let last = *simulator.control.published(name).last().unwrap();
        wait_for("the last trade is in the cluster", WAIT_MAX, async || {
            held().await.get(at).is_some_and(|held| *held == Some(last)).then_some(())
        })
        .await;
    }
    app.stop_cleanly().await;
    let output = app.command(&["check", "--connect"]).await;
    assert!(output.code == Some(0) && !output.out.contains("missing"), "{output:?}");
    simulator.stop().await;
}
