//! `/events` sends the changed parts to every open page, up to the limit of subscribers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use super::Served;
use crate::admin::page::events::SUBSCRIBERS_MAX;

/// Deadline for an event, which usually takes two seconds: the machine may be busy.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A page that reads `/events`.
struct Subscriber {
    answer: reqwest::Response,
    buffer: String,
}

/// One event.
struct Message {
    rendering: u64,
    update: Value,
}

impl Subscriber {
    async fn new(served: &Served) -> Self {
        let answer = served.http.get(served.url("/events")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, buffer: String::new() }
    }

    /// The next event; none after the service has ended the stream.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
                assert_eq!(field("retry: "), "2000");
                let message = Message {
                    rendering: field("id: ").parse().unwrap(),
                    update: serde_json::from_str(field("data: ")).unwrap(),
                };
                self.buffer = rest.to_owned();
                return Some(message);
            }
            let chunk = timeout(EVENT_TIMEOUT, self.answer.chunk()).await.expect("an event in time").ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_receives_every_part_first_and_then_the_changed_ones() {
    let served = Served::start().await;
    let mut subscriber = Subscriber::new(&served).await;
    let first = subscriber.next().await.unwrap().update;
    let page = served.text("/").await;
    assert!(page.contains(&format!("data-page=\"{}\"", first["page"].as_str().unwrap())));
    let parts = first["parts"].as_object().unwrap();
    assert_eq!(parts.len(), 9, "{:?}", parts.keys());
    for id in parts.keys() {
        assert!(page.contains(&format!(" id=\"{id}\"")), "the page has no element {id}");
    }
    served.state.health.degraded("cache", "redis is down");
    let until = Instant::now() + EVENT_TIMEOUT;
    loop {
        let message = subscriber.next().await.unwrap().update;
        let parts = message["parts"].as_object().unwrap();
        assert!(!parts.contains_key("streams"), "the streams have not changed");
        if parts.get("action-items").is_some_and(|items| items.as_str().unwrap().contains("redis is down")) {
            assert_eq!(message["title"], "(1) Tapekeeper: degraded");
            break;
        }
        assert!(Instant::now() < until, "no event has the change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_subscribers_receive_the_same_renderings() {
    let served = Served::start().await;
    let begun = Instant::now();
    let mut renderings = HashSet::new();
    let mut subscribers = Vec::new();
    for _ in 0..10 {
        subscribers.push(Subscriber::new(&served).await);
    }
    for subscriber in &mut subscribers {
        for _ in 0..2 {
            renderings.insert(subscriber.next().await.unwrap().rendering);
        }
    }
    // One per second, and one that started before the first.
    let most = begun.elapsed().as_secs() as usize + 2;
    assert!(renderings.len() <= most, "{} renderings in {:?}", renderings.len(), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_with_the_service() {
    let served = Served::start().await;
    let mut subscriber = Subscriber::new(&served).await;
    subscriber.next().await.unwrap();
    served.stop.cancel();
    let stopped = Instant::now();
    while subscriber.next().await.is_some() {}
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_above_the_limit_is_refused_until_another_leaves() {
    let served = Served::start().await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        subscribers.push(Subscriber::new(&served).await);
    }
    let refused = served.http.get(served.url("/events")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "30"));
    let foreign = served.http.get(served.url("/events")).header("sec-fetch-site", "cross-site");
    assert_eq!(foreign.send().await.unwrap().status(), 403, "a page of another site is refused");
    // The page itself and the API do not wait for a permit of the subscribers.
    assert!(served.text("/").await.contains("<h1>"));
    drop(subscribers.pop());
    let until = Instant::now() + EVENT_TIMEOUT;
    while served.http.get(served.url("/events")).send().await.unwrap().status() != 200 {
        assert!(Instant::now() < until, "the permit is never returned");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_events_can_request_the_parts_as_json() {
    let served = Served::start().await;
    let message = Subscriber::new(&served).await.next().await.unwrap().update;
    let request = served.http.get(served.url("/")).header("accept", "application/json");
    let asked: Value = request.send().await.unwrap().json().await.unwrap();
    let ids = |update: &Value| update["parts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((ids(&asked), &asked["page"]), (ids(&message), &message["page"]));
}
