//! Answers the consumer's doubts: asks the exchange for the newest position of streams with a frame that does not fit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::consume::{Doubts, Probe};
use crate::exchange::rest::{QUERY_TIME_MAX, Rest, RestError};
use crate::heartbeat::Heartbeat;
use crate::market::{Channel, Exchange, Stream};

/// How often new questions are looked for: held frames wait for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shortest time between two requests about one stream: a stream whose every frame is wrong must not use up the budget.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Whether a page of trades that begins at `id` begins with it.
async fn shows(rest: &Rest, stream: &Stream, id: i64, heartbeat: &Heartbeat, stop: &CancellationToken) -> bool {
    let page = heartbeat.beat_while(QUERY_TIME_MAX, rest.trade_from(stream.symbol.as_str(), id, stop)).await;
    matches!(page, Ok(Some(trade)) if trade.id == id)
}

/// Answers questions about one exchange's streams until `stop`.
pub async fn run(
    rest: Arc<Rest>,
    exchange: Exchange,
    doubts: Doubts,
    probes: mpsc::Sender<Probe>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut open: HashMap<Stream, Instant> = HashMap::new();
    let mut asked: HashMap<Stream, Instant> = HashMap::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = Instant::now();
        asked.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
        for stream in doubts.take(exchange).into_iter().filter(|stream| stream.channel == Channel::Trade) {
            let due = asked.get(&stream).map_or(now, |at| *at + ASK_EVERY);
            open.entry(stream).or_insert(due);
        }
        let due: Vec<Stream> = open.iter().filter(|(_, due)| **due <= now).map(|(stream, _)| stream.clone()).collect();
        for stream in due {
            heartbeat.beat();
            let answer = heartbeat.beat_while(QUERY_TIME_MAX, rest.newest(stream.symbol.as_str(), &stop)).await;
            asked.insert(stream.clone(), Instant::now());
            match answer {
                // One answer may be wrong. A page of trades must show the same trade.
                Ok(Some((newest, _))) if !shows(&rest, &stream, newest, &heartbeat, &stop).await => {
                    debug!("{stream}: the exchange names {newest} as its newest trade but does not serve it");
                    open.insert(stream, Instant::now() + ASK_EVERY);
                }
                Ok(Some((newest, _))) => {
                    open.remove(&stream);
                    let sent = probes.send_timeout(Probe::Newest(stream, newest), Duration::from_secs(2)).await;
                    if sent.is_err() {
                        debug!("the consumer accepts no answer now; it asks again");
                    }
                }
                Err(RestError::Stopped) => return heartbeat.retire(),
                // An exchange that knows no trade of a stream whose trades arrive has not answered the question.
                Ok(None) => {
                    open.insert(stream, Instant::now() + ASK_EVERY);
                }
                Err(error) => {
                    debug!("no answer about the newest trade of {stream}: {error}");
                    open.insert(stream, Instant::now() + ASK_EVERY);
                }
            }
        }
    }
    heartbeat.retire();
}
