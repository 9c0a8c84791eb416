//! The document tells the truth: every endpoint is in it, and what they answer is as it says.

use jsonschema::{Draft, Validator};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Served, document};
use crate::gap::{Evidence, Gap, Range};
use crate::history::Batch;
use crate::market::{Stream, Timestamp};

/// The document's part that describes an answer, with everything that it names.
fn schema(api: &Value, method: &str, path: &str, status: u16) -> Validator {
    let described = &api["paths"][path][method]["responses"][status.to_string()];
    assert!(described.is_object(), "{method} {path} has no answer {status}");
    let mut schema = described["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{method} {path} {status} has no schema: {described}");
    schema["components"] = api["components"].clone();
    jsonschema::options().with_draft(Draft::Draft202012).build(&schema).unwrap()
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
async fn what_is_answered_is_as_the_document_says() {
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
async fn a_service_whose_history_is_away_is_in_the_document_too() {
    let served = served().await;
    let (_, api) = served.get("/api/v1/openapi.json").await;
    served.faults.set_outage(true);
    served.desk.health.degraded("ingest", "the log refuses frames: full");
    for (path, expected) in
        [("/api/v1/status", 200), ("/api/v1/coverage", 503), ("/api/v1/gaps", 503), ("/readyz", 503), ("/healthz", 200)]
    {
        let (status, answer) = served.get(path).await;
        assert_eq!(status, expected, "{path}: {answer}");
        let validated = schema(&api, "get", path, status).validate(&answer).map_err(|error| error.to_string());
        assert_eq!(validated, Ok(()), "{path}: {answer:#}");
    }
    // A schema that takes anything would take this one as well.
    assert!(schema(&api, "get", "/readyz", 503).validate(&json!({ "ready": "no" })).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_in_the_document_and_the_document_names_nothing_else() {
    let mut served = Served::start().await;
    // Nobody answers a reload here: it is refused as busy at once.
    drop(std::mem::replace(&mut served.reloads, tokio::sync::mpsc::channel(1).1));
    let (_, api) = served.get("/api/v1/openapi.json").await;
    assert_eq!(api["openapi"], "3.1.0");
    let paths = api["paths"].as_object().unwrap();
    let source = include_str!("../mod.rs");
    let documented = source.matches(".routes(routes!(").count();
    let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, documented, "{:?}", paths.keys());
    // What people look at has no schema.
    let looked_at: Vec<&str> = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(looked_at.iter().all(|path| !path.starts_with("/api")), "{looked_at:?} are not in the document");
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(
                operation["summary"].as_str().is_some_and(|words| !words.is_empty()),
                "{method} {path} says nothing"
            );
            let answers = operation["responses"].as_object().unwrap();
            let common: Vec<&str> =
                ["403", "414", "504"].into_iter().filter(|status| !answers.contains_key(*status)).collect();
            assert!(common.is_empty(), "{method} {path} does not name {common:?}");
            assert_eq!(answers.contains_key("401"), method == "post", "{method} {path}");
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = served.url(&path.replace("{name}", "nope"));
            let status = served.http.request(method.clone(), url).send().await.unwrap().status().as_u16();
            assert!(
                answers.contains_key(&status.to_string()),
                "{method} {path} answers {status}, which it does not name"
            );
        }
    }
}
