//! Answers the consumer's questions about frames that do not fit their streams, one exchange at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::consume::{DoubtfulTrades, Doubts, Probe};
use crate::exchange::rest::{QUERY_TIME_MAX, Rest};
use crate::heartbeat::Heartbeat;
use crate::history::History;
use crate::market::{Exchange, Stream};

use super::numbering::{Judge, NoAnswer};

/// How often new questions are looked for: held frames wait for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shortest time between two requests about one stream: a stream whose every frame is wrong must not use up the budget.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Longest time for one answer, which takes several requests.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// Answers questions about one exchange's streams until `stop`.
pub async fn run(
    (rest, history): (Arc<Rest>, Arc<dyn History>),
    exchange: Exchange,
    doubts: Doubts,
    probes: mpsc::Sender<Probe>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut open: HashMap<Stream, (DoubtfulTrades, Instant)> = HashMap::new();
    let mut asked: HashMap<Stream, Instant> = HashMap::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = Instant::now();
        asked.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
        for question in doubts.take(exchange).into_iter().filter(|question| question.stream.channel.has_trades()) {
            let due = asked.get(&question.stream).map_or(now, |at| *at + ASK_EVERY);
            let due = open.get(&question.stream).map_or(due, |(_, due)| *due);
            let is_better =
                |(known, _): &(DoubtfulTrades, Instant)| !question.trades.is_empty() || known.trades.is_empty();
            if open.get(&question.stream).is_none_or(is_better) {
                open.insert(question.stream.clone(), (question, due));
            }
        }
        let due: Vec<DoubtfulTrades> =
            open.values().filter(|(_, due)| *due <= now).map(|(question, _)| question.clone()).collect();
        for question in due {
            heartbeat.beat();
            let stream = &question.stream;
            let judge = Judge { rest: &rest, history: &history, stream, stop: &stop };
            let answer = tokio::time::timeout(ANSWER_MAX, judge.judge(&question));
            let answer = heartbeat.beat_while(ANSWER_MAX + QUERY_TIME_MAX, answer).await;
            asked.insert(stream.clone(), Instant::now());
            match answer {
                Ok(Ok(numbering)) => {
                    open.remove(stream);
                    let probe = Probe::Numbering(stream.clone(), numbering);
                    if probes.send_timeout(probe, Duration::from_secs(2)).await.is_err() {
                        debug!("the consumer accepts no answer now; it asks again");
                    }
                }
                Ok(Err(NoAnswer::Stopped)) => return heartbeat.retire(),
                Ok(Err(NoAnswer::Exchange(why))) => {
                    debug!("no answer about the trades of {stream}: {why}");
                    open.insert(stream.clone(), (question, Instant::now() + ASK_EVERY));
                }
                Err(_elapsed) => {
                    open.insert(stream.clone(), (question, Instant::now() + ASK_EVERY));
                }
            }
        }
    }
    heartbeat.retire();
}
