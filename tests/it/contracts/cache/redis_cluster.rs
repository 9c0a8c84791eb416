//! Runs the suite on the cache in a Redis Cluster, and tests slots that move and primaries that die.

use std::time::{Duration, Instant};

use tapekeeper::cache::redis::RedisCache;
use tapekeeper::cache::{Cache, RedisOptions};
use tapekeeper::faults::{Faults, Odds};

use super::redis::RedisStore;
use super::{keeps_every_promise, latest_tick, tick, ticks};
use crate::contracts::{BINANCE, symbol};
use crate::servers::redis::Redis;
use crate::servers::redis_cluster::{RedisCluster, run_command, try_command};

const KEY: &str = "tick:{binance:BTCUSDT}";
/// How long a replica may take to become the primary, on a busy machine.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);

/// Starts a cluster on a thread for blocking work.
async fn start() -> Option<RedisCluster> {
    tokio::task::spawn_blocking(RedisCluster::start).await.unwrap()
}

#[test]
fn a_redis_cluster_keeps_every_promise() {
    let Some(cluster) = RedisCluster::start() else { return };
    let odds = Odds { fail: 100, lose_answer: 100, tear: 100, delay: 50, delay_max: Duration::from_millis(1) };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    for faults in [None, Some(faults)] {
        // A cluster has only one database, so each check gets the emptied cluster.
        keeps_every_promise(&|| {
            cluster.clear();
            Box::new(RedisStore { options: cluster.options(), faults: faults.clone() })
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_spread_and_the_function_is_loaded_on_every_primary() {
    let Some(cluster) = start().await else { return };
    let options = cluster.options();
    let (line, missing) = RedisCache::inspect(&options).await.unwrap();
    assert!(line.starts_with("redis ") && line.contains("a cluster of 3 primaries: 127.0.0.1:"), "{line}");
    for node in &cluster.nodes[..3] {
        let address = format!("127.0.0.1:{}", node.port);
        assert!(line.contains(&address) && missing.iter().any(|line| line.contains(&address)), "{line}: {missing:?}");
    }
    assert_eq!(missing.len(), 3);
    // One live node of the configuration is enough, even beside a dead one.
    let nowhere = format!("redis://127.0.0.1:{}", crate::servers::free_port());
    let options = RedisOptions { nodes: vec![nowhere, options.nodes[4].clone()], ..options };
    let cache = RedisCache::connect(&options).unwrap();
    let symbols: Vec<_> = (0..2_500).map(|number| symbol(&format!("COIN{number}USDT"))).collect();
    let mut update = ticks(&[]);
    update.ticks = symbols.iter().map(|symbol| (BINANCE, symbol.clone(), tick(5, 7))).collect();
    let began = Instant::now();
    assert_eq!(cache.apply(&update).await.unwrap(), 2_500);
    assert_eq!(cache.apply(&update).await.unwrap(), 0);
    eprintln!("5,000 keys in {:?}", began.elapsed());
    assert!(cache.ticks(BINANCE, &symbols).await.unwrap().iter().all(|stored| *stored == Some(tick(5, 7))));
    for node in &cluster.nodes[..3] {
        assert!(run_command::<i64>(node.port, &["DBSIZE"]) > 500);
    }
    assert_eq!(RedisCache::inspect(&options).await.unwrap().1, Vec::<String>::new());
    cache.put_state("b", "{}").await.unwrap();
    assert_eq!(cache.get_state("b").await.unwrap().as_deref(), Some("{}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_reads_follow_a_slot_before_during_and_after_its_move() {
    let Some(cluster) = start().await else { return };
    let cache = RedisCache::connect(&cluster.options()).unwrap();
    assert_eq!(cache.apply(&ticks(&[tick(1, 1)])).await.unwrap(), 1);
    let old = cluster.primary_of(KEY);
    let new = cluster.nodes[..3].iter().find(|node| node.port != old.port).unwrap();
    let slot: i64 = run_command(old.port, &["CLUSTER", "KEYSLOT", KEY]);
    let slot = slot.to_string();
    let (old_id, new_id): (String, String) =
        (run_command(old.port, &["CLUSTER", "MYID"]), run_command(new.port, &["CLUSTER", "MYID"]));
    run_command::<String>(new.port, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old_id]);
    run_command::<String>(old.port, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new_id]);
    // The tick is still on the old node. The book does not exist yet, so ASK redirects it to the new one.
    assert_eq!(cache.apply(&ticks(&[tick(2, 2)])).await.unwrap(), 1);
    let mut update = super::books(&[super::book(4)]);
    update.ticks = ticks(&[tick(3, 3)]).ticks;
    assert_eq!(cache.apply(&update).await.unwrap(), 2);
    assert_eq!(latest_tick(&cache).await, Some(tick(3, 3)));
    assert!(
        try_command::<Vec<String>>(new.port, &["HKEYS", "book:{binance:BTCUSDT}"]).is_err(),
        "the new node serves only commands after ASKING"
    );
    assert_eq!(cache.books(BINANCE, &[symbol("BTCUSDT")]).await.unwrap(), [Some(super::book(4))]);
    run_command::<String>(old.port, &["MIGRATE", "127.0.0.1", &new.port.to_string(), KEY, "0", "5000"]);
    assert_eq!(cache.apply(&ticks(&[tick(4, 4), tick(2, 2)])).await.unwrap(), 1);
    for node in [new, old] {
        run_command::<String>(node.port, &["CLUSTER", "SETSLOT", &slot, "NODE", &new_id]);
    }
    // The client follows MOVED and learns the new owner.
    assert_eq!(cache.apply(&ticks(&[tick(5, 5)])).await.unwrap(), 1);
    assert_eq!(latest_tick(&cache).await, Some(tick(5, 5)));
    assert_eq!(run_command::<String>(new.port, &["HGET", KEY, "trade_id"]), "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_death_of_a_primary_its_replica_takes_over_and_no_value_moves_back() {
    let Some(cluster) = start().await else { return };
    let cache = RedisCache::connect(&cluster.options()).unwrap();
    assert_eq!(cache.apply(&ticks(&[tick(10, 10)])).await.unwrap(), 1);
    let replicas = || try_command::<i64>(cluster.primary_of(KEY).port, &["WAIT", "1", "1000"]).unwrap_or(0);
    tokio::task::block_in_place(|| cluster.wait_for("the replica has it", || replicas() == 1));
    cluster.primary_of(KEY).kill();
    let began = Instant::now();
    let mut failures = Vec::new();
    let moved = loop {
        let started = Instant::now();
        match cache.apply(&ticks(&[tick(11, 11)])).await {
            Ok(moved) => break moved,
            Err(error) => failures.push(format!("{:?}: {error}", started.elapsed())),
        }
        assert!(started.elapsed() < Duration::from_secs(20), "a call to a dead primary fails soon: {failures:?}");
        assert!(began.elapsed() < TAKEOVER_MAX, "no replica took over: {failures:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    eprintln!("written again after {:?} and {} failures: {failures:?}", began.elapsed(), failures.len());
    assert_eq!((moved, cache.apply(&ticks(&[tick(9, 9)])).await.unwrap()), (1, 0));
    assert_eq!(latest_tick(&cache).await, Some(tick(11, 11)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_fails_calls_soon_and_is_used_again() {
    let Some(cluster) = start().await else { return };
    let cache = RedisCache::connect(&cluster.options()).unwrap();
    cache.apply(&ticks(&[tick(1, 1)])).await.unwrap();
    for node in &cluster.nodes {
        node.kill();
    }
    for _attempt in 0..3 {
        let started = Instant::now();
        let failure = cache.apply(&ticks(&[tick(2, 2)])).await.unwrap_err().to_string();
        assert!(failure.contains("in Redis"), "{failure}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}: {failure}", started.elapsed());
    }
    tokio::task::block_in_place(|| {
        cluster.nodes.iter().for_each(|node| node.restart());
        cluster.wait_until_ready();
    });
    // The cluster has lost everything, including the function.
    let began = Instant::now();
    while let Err(error) = cache.apply(&ticks(&[tick(1, 1)])).await {
        assert!(began.elapsed() < TAKEOVER_MAX, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(latest_tick(&cache).await, Some(tick(1, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_cluster_and_a_single_node_of_one_are_named() {
    let Some(cluster) = start().await else { return };
    let part = RedisOptions { url: cluster.options().nodes[0].clone(), ..RedisOptions::default() };
    let failure = RedisCache::inspect(&part).await.unwrap_err().to_string();
    assert!(failure.contains("part of a cluster: write `nodes"), "{failure}");
    let Some(redis) = tokio::task::spawn_blocking(Redis::shared).await.unwrap() else { return };
    let alone = format!("redis://127.0.0.1:{}", redis.server.port);
    let alone = RedisOptions { nodes: vec![alone], ..RedisOptions::default() };
    let failure = RedisCache::inspect(&alone).await.unwrap_err().to_string();
    assert!(failure.contains("cluster support disabled"), "{failure}");
    let bad = RedisOptions { nodes: vec!["http://127.0.0.1".to_owned()], ..RedisOptions::default() };
    RedisCache::connect(&bad).unwrap_err();
}
