//! What ingest counts while the log accepts frames and while it refuses them.

use super::*;
use crate::exchange::binance::Binance;
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
    assert_eq!((last_seen.get(&stream), last_seen.append_delay(Timestamp(SECOND))), (None, Duration::ZERO));
    faults.set_outage(true);
    let payload = Bytes::from_static(br#"{"stream":"btcusdt@trade","data":{}}"#);
    let frames = vec![(Timestamp(5 * SECOND), payload.clone()), (Timestamp(7 * SECOND), payload)];
    events.send(SocketEvent::Frames { connection: 1, frames }).await.unwrap();
    while counters.refused.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last_seen.get(&stream), Some(Timestamp(7 * SECOND)));
    assert_eq!(last_seen.append_delay(Timestamp(9 * SECOND)), Duration::from_secs(4), "since the oldest frame arrived");
    faults.set_outage(false);
    drop(events);
    ingest.await.unwrap().unwrap();
    assert_eq!(counters.frames.load(Ordering::Relaxed), 2);
    assert_eq!(last_seen.append_delay(Timestamp(9 * SECOND)), Duration::ZERO, "no frame waits any more");
}
