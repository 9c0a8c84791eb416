//! `/events`: what changes on open pages, told to all of them, and to no more than there are places for.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use super::Served;
use crate::admin::page::events::SUBSCRIBERS_MAX;

/// How long a busy machine may take for what takes two seconds.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A page that listens.
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

    /// The next event; none when the service has ended the stream.
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
async fn a_page_is_told_all_of_it_and_then_what_has_changed() {
    let served = Served::start().await;
    let mut subscriber = Subscriber::new(&served).await;
    let first = subscriber.next().await.unwrap().update;
    let page = served.text("/").await;
    assert!(page.contains(&format!("data-page=\"{}\"", first["page"].as_str().unwrap())));
    let parts = first["parts"].as_object().unwrap();
    assert_eq!(parts.len(), 9, "{:?}", parts.keys());
    for id in parts.keys() {
        assert!(page.contains(&format!(" id=\"{id}\"")), "{id} has a place on the page");
    }
    served.state.health.degraded("cache", "redis is away");
    let until = Instant::now() + EVENT_TIMEOUT;
    loop {
        let message = subscriber.next().await.unwrap().update;
        let parts = message["parts"].as_object().unwrap();
        assert!(!parts.contains_key("streams"), "nothing of the streams has changed");
        if parts.get("action-items").is_some_and(|items| items.as_str().unwrap().contains("redis is away")) {
            assert_eq!(message["title"], "(1) Tapekeeper: degraded");
            break;
        }
        assert!(Instant::now() < until, "it was never told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_was_printed_once_for_all() {
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
    // One a second, and one that was begun before the first.
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
async fn more_pages_than_there_are_places_are_told_to_ask_and_a_place_is_free_again() {
    let served = Served::start().await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        subscribers.push(Subscriber::new(&served).await);
    }
    let refused = served.http.get(served.url("/events")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "30"));
    let foreign = served.http.get(served.url("/events")).header("sec-fetch-site", "cross-site");
    assert_eq!(foreign.send().await.unwrap().status(), 403, "a page of another site takes no place");
    // The page itself and the API wait for none of them.
    assert!(served.text("/").await.contains("<h1>"));
    drop(subscribers.pop());
    let until = Instant::now() + EVENT_TIMEOUT;
    while served.http.get(served.url("/events")).send().await.unwrap().status() != 200 {
        assert!(Instant::now() < until, "the place is never free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_listen_asks_for_the_parts_alone() {
    let served = Served::start().await;
    let message = Subscriber::new(&served).await.next().await.unwrap().update;
    let request = served.http.get(served.url("/")).header("accept", "application/json");
    let asked: Value = request.send().await.unwrap().json().await.unwrap();
    let ids = |update: &Value| update["parts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((ids(&asked), &asked["page"]), (ids(&message), &message["page"]));
}
