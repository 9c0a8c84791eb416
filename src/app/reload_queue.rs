//! The reloads that were requested: one runs, others wait and share the next one. Every request is answered, and the main
//! loop never waits for a reload.

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tracing::warn;

use crate::admin::ReloadReport;

/// What a reload changed, or why it changed nothing.
type Outcome = Result<ReloadReport, String>;
/// Receives the outcome; none for a signal.
type Answer = Option<oneshot::Sender<Outcome>>;

/// Most requests that one reload answers.
const ANSWERS_MAX: usize = 16;

/// Runs one reload at a time.
pub(super) struct ReloadQueue {
    /// Starts a reload, or a dry run.
    start: Box<dyn Fn(bool) -> BoxFuture<'static, Outcome> + Send>,
    running: Option<(BoxFuture<'static, Outcome>, Vec<Answer>)>,
    /// Who waits for the next reload, and for the next dry run: requests that come while one runs share the next one,
    /// because the running one may have read the files already.
    waiting: [Vec<Answer>; 2],
}

impl ReloadQueue {
    /// An empty queue; `start` makes a reload, or a dry run.
    pub(super) fn new(start: impl Fn(bool) -> BoxFuture<'static, Outcome> + Send + 'static) -> Self {
        Self { start: Box::new(start), running: None, waiting: Default::default() }
    }

    /// Requests a reload.
    pub(super) fn request(&mut self, dry_run: bool, answer: Answer) {
        let waiting = &mut self.waiting[usize::from(dry_run)];
        if waiting.len() < ANSWERS_MAX {
            waiting.push(answer);
        } else if let Some(answer) = answer {
            send(answer, Err(format!("{ANSWERS_MAX} requests for a reload wait already: try again later")));
        }
        // A signal has no answer: the reload that waits already serves it.
    }

    /// Runs the requested reloads. Never returns while there is none; dropping the future loses nothing.
    pub(super) async fn advance(&mut self) {
        if self.running.is_none() {
            let Some(kind) = self.waiting.iter().position(|waiting| !waiting.is_empty()) else {
                return std::future::pending().await;
            };
            self.running = Some(((self.start)(kind == 1), std::mem::take(&mut self.waiting[kind])));
        }
        let Some((reload, answers)) = &mut self.running else { return };
        let outcome = reload.await;
        for answer in answers.drain(..).flatten() {
            send(answer, outcome.clone());
        }
        self.running = None;
    }
}

fn send(answer: oneshot::Sender<Outcome>, outcome: Outcome) {
    if answer.send(outcome).is_err() {
        warn!("the client that requested the reload has disconnected");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    /// A queue whose reloads wait for a permit and report their number.
    fn queue() -> (ReloadQueue, Arc<Semaphore>) {
        let (permits, count) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let gate = permits.clone();
        let start = move |dry_run| {
            let (gate, count) = (gate.clone(), count.clone());
            async move {
                let number = count.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                Ok(ReloadReport { summary: format!("{number} {dry_run}"), ..ReloadReport::default() })
            }
            .boxed()
        };
        (ReloadQueue::new(start), permits)
    }

    fn asked(queue: &mut ReloadQueue, dry_run: bool) -> oneshot::Receiver<Outcome> {
        let (answer, answered) = oneshot::channel();
        queue.request(dry_run, Some(answer));
        answered
    }

    #[tokio::test]
    async fn a_reload_that_is_requested_while_one_runs_is_answered_by_the_next_one() {
        let (mut queue, permits) = queue();
        assert!(queue.advance().now_or_never().is_none(), "nothing was requested");
        let first = asked(&mut queue, false);
        assert!(queue.advance().now_or_never().is_none(), "it waits, and the caller may do something else");
        let (second, dry, third) = (asked(&mut queue, false), asked(&mut queue, true), asked(&mut queue, false));
        queue.request(false, None);
        permits.add_permits(3);
        for _ in 0..3 {
            queue.advance().await;
        }
        let mut summaries = Vec::new();
        for answered in [first, second, third, dry] {
            summaries.push(answered.await.unwrap().unwrap().summary);
        }
        assert_eq!(summaries, ["0 false", "1 false", "1 false", "2 true"]);
        assert!(queue.advance().now_or_never().is_none(), "the signal was served too");
    }

    #[tokio::test]
    async fn a_request_beyond_the_limit_is_refused_at_once() {
        let (mut queue, _permits) = queue();
        let waiting: Vec<_> = (0..ANSWERS_MAX).map(|_| asked(&mut queue, false)).collect();
        let refused = asked(&mut queue, false).await.unwrap().unwrap_err();
        assert!(refused.contains("try again later"), "{refused}");
        drop(waiting);
    }
}
