//! The OpenAPI document lists every endpoint, and every response matches it.

use jsonschema::{Draft, Validator};
use reqwest::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::guard::send_raw;
use super::{Served, builder, document};
use crate::admin::page::events::SUBSCRIBERS_MAX;
use crate::admin::{BODY_MAX, server};
use crate::gap::{Evidence, Gap, Range};
use crate::history::Batch;
use crate::market::{Stream, Timestamp};

/// A validator for one response, built from the document's schema.
fn schema(api: &Value, method: &str, path: &str, status: u16) -> Validator {
    let described = &api["paths"][path][method]["responses"][status.to_string()];
    assert!(described.is_object(), "{method} {path} has no answer {status}");
    let mut schema = described["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{method} {path} {status} has no schema: {described}");
    schema["components"] = api["components"].clone();
    jsonschema::options().with_draft(Draft::Draft202012).build(&schema).unwrap()
}

/// Checks a response's status, content type and body against the document, and returns the status.
async fn as_described(api: &Value, method: &str, path: &str, answer: Response) -> u16 {
    let status = answer.status().as_u16();
    let described = &api["paths"][path][method]["responses"][status.to_string()];
    assert!(described.is_object(), "{method} {path} answers {status}, which it does not name");
    let content_type = answer.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
    let kind = content_type.as_deref().map(|kind| kind.split(';').next().unwrap());
    let Some(kind) = kind else {
        assert!(described["content"].is_null(), "{method} {path} {status} has no content: {described}");
        return status;
    };
    assert!(described["content"][kind].is_object(), "{method} {path} {status} is {kind}: {described}");
    if kind == "application/json" {
        let answer: Value = answer.json().await.unwrap();
        if let Err(error) = schema(api, method, path, status).validate(&answer) {
            panic!("{method} {path} {status}: {error} in {answer:#}");
        }
    }
    status
}

async fn served() -> Served {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let evidence = Evidence { by: "neighbour".to_owned(), previous: Some(9), ..Evidence::default() };
    let gap = Gap::open(stream, Range { first: 10, last: 19 }, evidence, Timestamp(1_000_000));
    served.history.insert(&Batch { gaps: vec![gap], token: "gaps".to_owned(), ..Batch::default() }).await.unwrap();
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_matches_the_document() {
    let served = served().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    let known = json!({ "exchange": "binance", "symbol": "BTCUSDT", "from": 2, "to": 8 });
    let unknown = json!({ "exchange": "binance", "symbol": "NOPE", "from": 2, "to": 8 });
    let cases = [
        ("get", "/healthz", "", None, 200),
        ("get", "/readyz", "", None, 200),
        ("get", "/api/v1/status", "", None, 200),
        ("get", "/api/v1/streams", "", None, 200),
        ("get", "/api/v1/gaps", "?state=open", None, 200),
        ("get", "/api/v1/gaps", "?state=none", None, 400),
        ("get", "/api/v1/coverage", "", None, 200),
        ("get", "/api/v1/coverage", "?symbol=NOPE", None, 404),
        ("get", "/api/v1/admin/consistency-check", "", None, 200),
        ("post", "/api/v1/admin/repair-data", "", None, 200),
        ("get", "/api/v1/jobs", "", None, 200),
        ("post", "/api/v1/jobs/{name}/pause", "?reason=x", None, 200),
        ("post", "/api/v1/jobs/{name}/resume", "", None, 200),
        ("post", "/api/v1/jobs/{name}/run", "?wait=true", None, 200),
        ("post", "/api/v1/jobs/{name}/run", "", None, 200),
        ("get", "/api/v1/jobs/history", "", None, 200),
        ("post", "/api/v1/admin/backfill", "", Some(known), 200),
        ("post", "/api/v1/admin/backfill", "", Some(unknown), 404),
        ("post", "/api/v1/admin/backfill", "", None, 400),
    ];
    for (method, path, parameters, body, expected) in cases {
        let url = served.url(&format!("{}{parameters}", path.replace("{name}", "state-snapshot")));
        let mut request = served.http.request(method.to_uppercase().parse::<Method>().unwrap(), url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (status, answer) = document(request).await;
        assert_eq!(status, expected, "{method} {path}{parameters}: {answer}");
        if let Err(error) = schema(&api, method, path, status).validate(&answer) {
            panic!("{method} {path}{parameters}: {error} in {answer:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responses_while_history_is_down_match_the_document() {
    let served = served().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    served.faults.set_outage(true);
    served.state.health.degraded("ingest", "the log refuses frames: full");
    for (path, expected) in
        [("/api/v1/status", 200), ("/api/v1/coverage", 503), ("/api/v1/gaps", 503), ("/readyz", 503), ("/healthz", 200)]
    {
        let (status, answer) = served.get(path).await;
        assert_eq!(status, expected, "{path}: {answer}");
        let validated = schema(&api, "get", path, status).validate(&answer).map_err(|error| error.to_string());
        assert_eq!(validated, Ok(()), "{path}: {answer:#}");
    }
    // A schema that accepts anything would accept this one as well.
    assert!(schema(&api, "get", "/readyz", 503).validate(&json!({ "ready": "no" })).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_exactly_the_endpoints() {
    let mut served = Served::start().await;
    // Nothing answers a reload here: it is refused as busy at once.
    drop(std::mem::replace(&mut served.reloads, tokio::sync::mpsc::channel(1).1));
    let (_, api) = served.get("/api/v1/openapi.json").await;
    assert_eq!(api["openapi"], "3.1.0");
    let paths = api["paths"].as_object().unwrap();
    let source = include_str!("../mod.rs");
    let documented = source.matches(".routes(routes!(").count();
    let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, documented, "{:?}", paths.keys());
    assert!(!source.contains(".route("), "a route that the document does not have");
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(
                operation["summary"].as_str().is_some_and(|words| !words.is_empty()),
                "{method} {path} has no summary"
            );
            let answers = operation["responses"].as_object().unwrap();
            let common: Vec<&str> = ["400", "403", "405", "414", "431", "504"]
                .into_iter()
                .filter(|status| !answers.contains_key(*status))
                .collect();
            assert!(common.is_empty(), "{method} {path} does not name {common:?}");
            // A form without the token redirects to the page, which shows the error.
            assert_eq!(answers.contains_key("401"), method == "post" && path != "/do", "{method} {path}");
            let asked: Method = method.to_uppercase().parse().unwrap();
            let url = served.url(&path.replace("{name}", "nope"));
            as_described(&api, method, path, served.http.request(asked, &url).send().await.unwrap()).await;
            let other = served.http.delete(&url).send().await.unwrap();
            assert!(other.headers().contains_key(ALLOW), "{path}");
            assert_eq!(as_described(&api, method, path, other).await, 405, "{path}");
            let foreign = served.http.request(method.to_uppercase().parse().unwrap(), &url).header("host", "a.example");
            assert_eq!(as_described(&api, method, path, foreign.send().await.unwrap()).await, 403, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_forms_match_the_document() {
    let served = served().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    let http = builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for kind in ["text/html", "application/json"] {
        let answer = http.get(served.url("/")).header("accept", kind).send().await.unwrap();
        assert!(answer.headers()[CONTENT_TYPE].to_str().unwrap().starts_with(kind));
        assert_eq!(as_described(&api, "get", "/", answer).await, 200);
    }
    let form = "application/x-www-form-urlencoded";
    let long = format!("do=try&token={}", "x".repeat(BODY_MAX));
    let cases = [
        (form, "do=try", 303),
        (form, "do=explode&token=wrong", 303),
        (form, "token=1", 400),
        (form, "do=try&do=try", 400),
        ("application/json", r#"{"do":"try"}"#, 415),
        (form, &long, 413),
    ];
    for (kind, body, expected) in cases {
        let submit = http.post(served.url("/do")).header(CONTENT_TYPE, kind).body(body.to_owned());
        let answer = submit.send().await.unwrap();
        let location = answer.headers().get(LOCATION).cloned();
        assert_eq!(as_described(&api, "post", "/do", answer).await, expected, "{body:.40}");
        let described = &api["paths"]["/do"]["post"]["responses"][expected.to_string()]["headers"]["location"];
        assert_eq!((location.is_some(), described.is_object()), (expected == 303, expected == 303), "{body:.40}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responses_of_events_match_the_document() {
    let served = Served::start().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        subscribers.push(served.http.get(served.url("/events")).send().await.unwrap());
    }
    let foreign = served.http.get(served.url("/events")).header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(as_described(&api, "get", "/events", foreign).await, 403);
    let refused = served.http.get(served.url("/events")).send().await.unwrap();
    assert!(refused.headers().contains_key(RETRY_AFTER));
    assert_eq!(as_described(&api, "get", "/events", refused).await, 503);
    // The data of each event has the schema of the page's JSON.
    let mut stream = subscribers.remove(0);
    let mut events = String::new();
    while !events.contains("\n\n") {
        events.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().expect("an event")).unwrap());
    }
    let data = events.lines().find_map(|line| line.strip_prefix("data: ")).expect("an event has data");
    let update: Value = serde_json::from_str(data).unwrap();
    assert!(schema(&api, "get", "/", 200).validate(&update).is_ok(), "{update:#}");
    assert_eq!(as_described(&api, "get", "/events", stream).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parsers_errors_have_no_body_and_are_in_the_document() {
    let served = Served::start().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    let long = format!("X-Long: {}", "x".repeat(server::HEAD_BYTES_MAX));
    for (line, status) in [("no header", 400), (long.as_str(), 431)] {
        let answer =
            send_raw(&served, format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.is_empty(), "{answer}");
        let described = &api["paths"]["/readyz"]["get"]["responses"][status.to_string()];
        assert!(described.is_object() && described["content"].is_null(), "{status}: {described}");
    }
}
