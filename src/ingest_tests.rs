//! What ingest counts while the log accepts frames and while it refuses them.

use super::*;
use crate::exchange::binance::Binance;
use crate::exchange::bybit::Bybit;
use crate::faults::Faults;
use crate::heartbeat::Heartbeats;
use crate::log::embedded::{EmbeddedLog, Options};
use crate::log::faulty::FaultyLog;

const SECOND: i64 = 1_000_000;

#[tokio::test]
async fn a_frame_that_waits_for_the_log_counts_as_seen_and_delays_the_append() {
    let directory = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let log = EmbeddedLog::open(&directory.path().join("log.db"), Options::default()).unwrap();
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let (events, received) = mpsc::channel(4);
    let (connection_events, _received) = mpsc::channel(4);
    let (_streams, streams) = watch::channel(vec![stream.clone()]);
    let counters = Arc::new(Counters::default());
    let deps = Deps {
        log: Arc::new(FaultyLog::new(Arc::new(log), faults.clone())),
        dialect: Arc::new(Binance),
        health: Health::default(),
        clock: Clock::system(),
        counters: counters.clone(),
        streams,
        connection_events,
    };
    let ingest = tokio::spawn(run(deps, received, Heartbeats::default().watch("ingest"), CancellationToken::new()));
    let last_seen = &counters.last_seen;
    assert_eq!(
        (last_seen.get(&stream), counters.append_delay(stream.exchange, Timestamp(SECOND))),
        (None, Duration::ZERO)
    );
    faults.set_outage(true);
    let payload = Bytes::from_static(br#"{"stream":"btcusdt@trade","data":{}}"#);
    let frames = vec![(Timestamp(5 * SECOND), payload.clone()), (Timestamp(7 * SECOND), payload)];
    events.send(SocketEvent::Frames { connection: 1, frames }).await.unwrap();
    while counters.total(|of| &of.refused) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last_seen.get(&stream), Some(Timestamp(7 * SECOND)));
    assert_eq!(
        counters.append_delay(stream.exchange, Timestamp(9 * SECOND)),
        Duration::from_secs(4),
        "since the oldest frame arrived"
    );
    faults.set_outage(false);
    drop(events);
    ingest.await.unwrap().unwrap();
    assert_eq!(counters.total(|of| &of.frames), 2);
    assert_eq!(
        counters.append_delay(stream.exchange, Timestamp(9 * SECOND)),
        Duration::ZERO,
        "no frame waits any more"
    );
}

/// Runs ingest on an embedded log until every frame is appended; returns the log's records and the counters.
async fn ingest(streams: &[&str], frames: &[&str]) -> (Vec<crate::log::Record>, Arc<Counters>) {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(&directory.path().join("log.db"), Options::default()).unwrap());
    let (events, received) = mpsc::channel(4);
    let (connection_events, _received) = mpsc::channel(4);
    let streams = streams.iter().map(|stream| stream.parse().unwrap()).collect();
    let (_streams, streams) = watch::channel(streams);
    let counters = Arc::new(Counters::default());
    let deps = Deps {
        log: log.clone(),
        dialect: Arc::new(Binance),
        health: Health::default(),
        clock: Clock::system(),
        counters: counters.clone(),
        streams,
        connection_events,
    };
    let frames = frames.iter().map(|frame| (Timestamp(SECOND), Bytes::copy_from_slice(frame.as_bytes()))).collect();
    events.send(SocketEvent::Frames { connection: 1, frames }).await.unwrap();
    drop(events);
    run(deps, received, Heartbeats::default().watch("ingest"), CancellationToken::new()).await.unwrap();
    (log.read(0, 0, 1_000).await.unwrap(), counters)
}

#[tokio::test]
async fn frames_of_streams_that_nobody_subscribed_to_are_counted_and_never_reach_the_log() {
    let (records, counters) = ingest(
        &["binance:BTCUSDT:trade", "binance:币安人生USDT:trade"],
        &[
            r#"{"stream":"btcusdt@trade","data":{}}"#,
            r#"{"stream":"BTCUSDT@trade","data":{}}"#,
            r#"{"stream":"币安人生usdt@trade","data":{}}"#,
            r#"{"stream":"\u5e01\u5b89\u4eba\u751fusdt@trade","data":{}}"#,
            r#"{"stream":"e000001usdt@trade","data":{"s":"E000001USDT"}}"#,
            r#"{"stream":"btcusdt@kline_1m","data":{}}"#,
            r#"{"stream":"!ticker@arr","data":[]}"#,
            r#"{"e":"trade","s":"E000002USDT","t":7}"#,
            r#"{"e":"trade","s":"BTCUSDT","t":7}"#,
            r#"{"u":1,"s":"E\nUSDT","b":"1","B":"1","a":"1","A":"1"}"#,
            r#"{"result":null,"id":1}"#,
            "unknown",
        ],
    )
    .await;
    let keys: Vec<&str> = records.iter().map(|record| &*record.frame.key).collect();
    let (btc, other) = ("binance:BTCUSDT", "binance:币安人生USDT");
    assert_eq!(keys, [btc, btc, other, other, btc, "binance", "binance"]);
    assert_eq!((counters.unrequested.frames(), counters.total(|of| &of.frames)), (5, 7));
    assert_eq!(counters.unrequested.newest().as_deref(), Some(r"e\nusdt@bookTicker"), "cannot forge a line");
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_the_one_that_does_not_deliver_a_stream_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(&directory.path().join("log.db"), Options::default()).unwrap());
    let stream: Stream = "bybit:BTCUSDT:trade".parse().unwrap();
    let (connection_events, mut received) = mpsc::channel(16);
    let (_streams, streams) = watch::channel(vec![stream.clone()]);
    let health = Health::default();
    let deps = Deps {
        log,
        dialect: Arc::new(Bybit),
        health: health.clone(),
        clock: Clock::system(),
        counters: Arc::default(),
        streams,
        connection_events,
    };
    let mut keys = Keys::new(&deps);
    let mut frames = Vec::new();
    for connection in [1, 2] {
        keys.take(SocketEvent::Connected { connection, streams: vec![stream.clone()] }, &mut frames, &deps);
        assert!(matches!(received.try_recv(), Ok(ConnectionEvent::Up(..))));
    }
    let mut period = async |connections: &[i64]| {
        for connection in connections {
            let payload = Bytes::from_static(br#"{"topic":"publicTrade.BTCUSDT","data":[]}"#);
            let arrived = vec![(Timestamp(SECOND), payload); 3];
            keys.take(SocketEvent::Frames { connection: *connection, frames: arrived }, &mut frames, &deps);
        }
        tokio::time::advance(deliveries::PERIOD).await;
        keys.compare_deliveries(&deps);
    };
    period(&[1, 2]).await;
    period(&[1]).await;
    assert!(received.try_recv().is_err() && health.degraded_parts().is_empty());
    period(&[1]).await;
    let Ok(ConnectionEvent::Silent(2, undelivered)) = received.try_recv() else { panic!("connection 2 is silent") };
    assert_eq!(undelivered, [stream]);
    assert!(health.degraded_parts().contains_key("bybit connections"));
    period(&[1, 2]).await;
    assert!(health.degraded_parts().is_empty());
}
