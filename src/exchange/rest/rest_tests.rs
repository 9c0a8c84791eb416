//! The REST client against scripted servers on loopback.

use std::collections::VecDeque;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::answer::ANSWER_BYTES_MAX;
use super::*;
use crate::exchange::binance::Binance;

/// 100 minutes after 1970: the start of a minute.
const BEGIN: Timestamp = Timestamp(6_000_000_000);
/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

fn reply(status: u16, body: &str) -> Reply {
    Reply { status, headers: Vec::new(), body: body.to_owned() }
}

fn with(mut reply: Reply, header: &'static str, value: impl ToString) -> Reply {
    reply.headers.push((header, value.to_string()));
    reply
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<(VecDeque<Reply>, Vec<String>)>>);

impl Script {
    fn requests(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }

    fn add(&self, reply: Reply) {
        self.0.lock().unwrap().0.push_back(reply);
    }
}

async fn answer(State(script): State<Script>, uri: Uri) -> impl IntoResponse {
    let mut script = script.0.lock().unwrap();
    script.1.push(uri.to_string());
    let reply = script.0.pop_front().unwrap_or_else(|| reply(500, "the script has ended"));
    let mut headers = HeaderMap::new();
    for (name, value) in &reply.headers {
        headers.insert(*name, value.parse().unwrap());
    }
    (axum::http::StatusCode::from_u16(reply.status).unwrap(), headers, reply.body)
}

/// A server that sends these replies in order, and its client, whose clock starts at `begin`.
async fn serve_at(begin: Timestamp, saved: Option<Deadlines>, replies: Vec<Reply>) -> (Script, Rest) {
    let script = Script::default();
    replies.into_iter().for_each(|reply| script.add(reply));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(answer).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (script, client(base, begin, saved))
}

async fn serve(replies: Vec<Reply>) -> (Script, Rest) {
    serve_at(BEGIN, None, replies).await
}

fn client(base: String, begin: Timestamp, saved: Option<Deadlines>) -> Rest {
    let started = std::time::Instant::now();
    let clock = Clock::from_fn(move || begin.plus_micros(started.elapsed().as_micros() as i64));
    client_at(base, clock, saved)
}

fn client_at(base: String, clock: Clock, saved: Option<Deadlines>) -> Rest {
    let options = RestOptions { base: Some(base), timeout: Duration::from_secs(2), ..RestOptions::default() };
    let saved = saved.map(|deadlines| SavedDeadlines { deadlines, saved_at: None });
    Rest::new(Arc::new(Binance), options, clock, saved).unwrap()
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn ids(first: i64, last: i64) -> Range {
    Range::new(first, last).unwrap()
}

fn trades_body(ids: impl Iterator<Item = i64>) -> String {
    let row = |id| format!(r#"{{"id":{id},"price":"1.50","qty":"2","time":1000,"isBuyerMaker":false}}"#);
    format!("[{}]", ids.map(row).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn trades_come_by_id_and_rows_outside_the_range_are_dropped() {
    let (script, rest) = serve(vec![reply(200, &trades_body(3..9))]).await;
    let trades = rest.trades("BTCUSDT", ids(5, 7), &never()).await.unwrap();
    assert_eq!(trades.rows.iter().map(|trade| trade.id).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(script.requests(), ["/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=3"]);
}

#[tokio::test]
async fn the_exchanges_own_count_limits_requests_until_the_next_minute() {
    // Half a second before a minute ends.
    let begin = BEGIN.plus_micros(59_500_000);
    let full = with(reply(200, "[]"), "X-MBX-USED-WEIGHT-1M", 6_000);
    let fresh = with(reply(200, "[]"), "X-MBX-USED-WEIGHT-1M", 25);
    let (_, rest) = serve_at(begin, None, vec![full, fresh]).await;
    rest.trades("BTCUSDT", ids(1, 1), &never()).await.unwrap();
    assert!(rest.status().used == 6_000 || rest.clock.now().micros() >= BEGIN.micros() + 60_000_000);
    rest.trades("BTCUSDT", ids(1, 1), &never()).await.unwrap();
    assert!(rest.clock.now().since(BEGIN) >= 60_000_000, "it waited for the next minute");
    assert_eq!((rest.status().used, rest.status().requests), (25, 2));
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_budget_and_the_wait_for_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = client(format!("http://{}", listener.local_addr().unwrap()), BEGIN, None);
    rest.budget().pause(BEGIN.plus_micros(50_000_000));
    let stop = never();
    let (answer, ()) = tokio::join!(rest.newest("BTCUSDT", &stop), async { stop.cancel() });
    assert_eq!(answer, Err(RestError::Stopped));

    let rest = client(format!("http://{}", listener.local_addr().unwrap()), BEGIN, None);
    let stop = never();
    let mute = async {
        let connection = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("a connection").unwrap();
        stop.cancel();
        connection
    };
    let (answer, _connection) = tokio::join!(rest.newest("BTCUSDT", &stop), mute);
    assert_eq!(answer, Err(RestError::Stopped));
    assert_eq!(rest.status().used, 4, "a lost answer counts");
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_retry_after() {
    let limited = with(reply(429, r#"{"code":-1003,"msg":"Too much request weight used"}"#), "Retry-After", 3_600);
    let (script, rest) = serve(vec![limited]).await;
    for _ in 0..3 {
        let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
        let RestError::Limited { until } = error else { panic!("{error:?}") };
        assert!((3_600_000_000..3_700_000_000).contains(&until.date.since(BEGIN)), "{until}");
    }
    assert_eq!(script.requests().len(), 1);
    assert!(rest.status().limited_until.is_some());
}

#[tokio::test]
async fn the_client_waits_for_a_short_retry_after() {
    let limited = with(reply(429, "{}"), "Retry-After", 1);
    let (script, rest) = serve(vec![limited, reply(200, "[]")]).await;
    assert!(matches!(rest.newest("BTCUSDT", &never()).await, Err(RestError::Limited { .. })));
    assert_eq!(rest.newest("BTCUSDT", &never()).await, Ok(None));
    assert!(rest.clock.now().since(BEGIN) >= 1_000_000);
    assert_eq!(script.requests().len(), 2);
}

#[tokio::test]
async fn a_ban_ends_by_our_clock_whatever_the_exchanges_clock_says() {
    let until = BEGIN.plus_micros(90_000_000_000);
    let body = format!(r#"{{"code":-1003,"msg":"Way too much; IP banned until {}. Please"}}"#, until.millis());
    let (_, rest) = serve(vec![with(reply(418, &body), "Retry-After", 120)]).await;
    let error = rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
    let RestError::Banned { until } = error else { panic!("{error:?}") };
    assert!((120_000_000..180_000_000).contains(&until.date.since(BEGIN)), "{until}");
}

#[tokio::test]
async fn nothing_is_sent_during_a_ban_and_a_restart_does_not_end_it() {
    let until = BEGIN.plus_micros(3_000_000_000);
    let body = format!(r#"{{"code":-1003,"msg":"Way too much; IP banned until {}. Please"}}"#, until.millis());
    let (script, rest) = serve(vec![reply(418, &body)]).await;
    for _ in 0..2 {
        let error = rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
        assert!(matches!(error, RestError::Banned { until: shown } if shown.date == until), "{error:?}");
    }
    let saved = rest.deadlines();
    assert_eq!((script.requests().len(), saved.banned_until), (1, Some(until)));
    assert_eq!(rest.status().banned_until, Some(until.rfc3339()));

    let (script, restarted) = serve_at(BEGIN, Some(saved), vec![]).await;
    let error = restarted.measure_clock(&never()).await.unwrap_err();
    assert!(matches!(error, RestError::Banned { until: shown } if shown.date == until), "{error:?}");
    assert!(script.requests().is_empty());
    let (_, later) = serve_at(until, Some(saved), vec![reply(200, "[]")]).await;
    assert_eq!(later.newest("BTCUSDT", &never()).await, Ok(None));
}

#[tokio::test]
async fn a_ban_without_a_date_lasts_as_long_as_retry_after_says() {
    let (_, rest) = serve(vec![with(reply(418, "banned"), "Retry-After", 600)]).await;
    let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
    let RestError::Banned { until } = error else { panic!("{error:?}") };
    assert!((600_000_000..700_000_000).contains(&until.date.since(BEGIN)), "{until}");
}

#[tokio::test]
async fn a_geo_block_is_reported_in_plain_words_and_stops_requests() {
    let (script, rest) = serve(vec![reply(451, "Service unavailable from a restricted location")]).await;
    for _ in 0..3 {
        let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
        assert!(matches!(error, RestError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("use a server in a permitted region or set rest_url"), "{error}");
    }
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn each_kind_of_answer_has_its_error() {
    let unknown = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
    let replies = vec![
        reply(400, unknown),
        reply(400, r#"{"code":-1102,"msg":"Mandatory\nparameter"}"#),
        reply(503, "busy"),
        with(reply(302, ""), "Location", "http://127.0.0.1:1/"),
        with(reply(200, "<html>\u{1b}[31m</html>"), "Content-Type", "text/html"),
    ];
    let (_, rest) = serve(replies).await;
    let mut errors = Vec::new();
    for _ in 0..5 {
        errors.push(rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err());
    }
    assert_eq!(errors[0], RestError::UnknownSymbol { text: "Invalid symbol.".to_owned() });
    assert!(matches!(&errors[1], RestError::BadAnswer { text } if text.contains("HTTP 400") && text.contains("-1102")));
    assert!(matches!(&errors[2], RestError::Unavailable { text } if text.contains("503") && text.contains("busy")));
    let redirect = "HTTP 302 and redirects to \"http://127.0.0.1:1/\", which is not followed";
    assert!(matches!(&errors[3], RestError::BadAnswer { text } if text.contains(redirect)));
    let page = "cannot decode trades answer: it is not a list (the answer is HTTP 200, text/html, 18 bytes: \"<html>.[31m</html>\")";
    assert!(matches!(&errors[4], RestError::BadAnswer { text } if text.contains(page)), "{}", errors[4]);
    let status = rest.status();
    assert_eq!((status.requests, status.failures), (5, 5));
    assert_eq!(status.last_error, errors[4].to_string());
    assert!(serde_json::to_value(&status).unwrap()["last_error"].is_string());
}

#[tokio::test]
async fn the_newest_trade_comes_from_the_fallback_when_the_first_request_fails() {
    let (script, rest) = serve(vec![
        reply(404, "not found"),
        reply(200, &trades_body(41..42)),
        reply(200, &trades_body(42..43)),
        reply(503, "busy"),
    ])
    .await;
    let at = Timestamp::from_millis(1_000);
    assert_eq!(rest.newest("BTCUSDT", &never()).await, Ok(Some((41, at))));
    assert_eq!(rest.newest("BTCUSDT", &never()).await, Ok(Some((42, at))));
    assert!(matches!(rest.newest("BTCUSDT", &never()).await, Err(RestError::Unavailable { .. })));
    let raw = "/api/v3/historicalTrades?symbol=BTCUSDT&limit=1";
    assert_eq!(script.requests(), ["/api/v3/aggTrades?symbol=BTCUSDT&limit=1", raw, raw, raw]);
}

#[tokio::test]
async fn the_first_trade_at_or_after_an_instant_is_found() {
    let (_, rest) = serve(vec![reply(200, r#"[{"a":1,"f":77,"l":79,"T":6}]"#), reply(200, "[]")]).await;
    assert_eq!(rest.trade_at("BTCUSDT", Timestamp(5_500), &never()).await, Ok(Some(77)));
    assert_eq!(rest.trade_at("BTCUSDT", Timestamp(5_500), &never()).await, Ok(None));
}

#[tokio::test]
async fn the_measured_clock_offset_decides_which_klines_are_closed() {
    // The exchange's clock is an hour ahead of ours.
    let theirs = BEGIN.millis() + 3_600_000;
    let time = reply(200, &format!(r#"{{"serverTime":{theirs}}}"#));
    let kline = format!(r#"[[{},"1","1","1","1","0",{},"0",0,"0","0","0"]]"#, theirs - 120_000, theirs - 60_001);
    let (_, rest) = serve(vec![time.clone(), time, reply(200, &kline)]).await;
    assert_eq!(rest.clock_offset(), None);
    let offset = rest.measure_clock(&never()).await.unwrap();
    assert!((3_590_000_000..=3_600_000_000).contains(&offset), "{offset}");
    assert_eq!((rest.clock_offset(), rest.status().clock_offset_us), (Some(offset), Some(offset)));
    let open = (theirs - 120_000) * 1_000;
    let klines = rest.klines("BTCUSDT", Interval::M1, ids(open, open), &never()).await.unwrap();
    assert!(klines.rows.len() == 1 && klines.rows[0].closed);
}

#[tokio::test]
async fn the_limit_from_exchange_info_replaces_the_default() {
    let body = r#"{"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":1200}],"symbols":[]}"#;
    let (_, rest) = serve(vec![reply(200, body)]).await;
    assert_eq!(rest.status().limit, 6_000);
    rest.info(&["BTCUSDT".to_owned()], &never()).await.unwrap();
    assert_eq!((rest.status().limit, rest.status().used), (1_200, 20));
}

/// A client of a server that sends these bytes on its one connection and then closes it, or sends nothing.
async fn raw(answer: Option<Vec<u8>>) -> Rest {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = client(format!("http://{}", listener.local_addr().unwrap()), BEGIN, None);
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 1_024];
        assert!(tcp.read(&mut request).await.unwrap() > 0);
        match answer {
            Some(bytes) => tcp.write_all(&bytes).await.unwrap(),
            None => std::future::pending().await,
        }
    });
    rest
}

#[tokio::test]
async fn a_truncated_answer_counts_as_unavailable() {
    let rest = raw(Some(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec())).await;
    let error = rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
    assert!(matches!(error, RestError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_request_to_a_silent_server_times_out() {
    let error = raw(None).await.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
    assert!(matches!(error, RestError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read() {
    for head in ["Content-Length: 99999999\r\n\r\n", "\r\n"] {
        let mut answer = format!("HTTP/1.1 200 OK\r\n{head}").into_bytes();
        if head == "\r\n" {
            answer.resize(ANSWER_BYTES_MAX + 100, b' ');
        }
        let listener_ends_early = raw(Some(answer)).await;
        let error = listener_ends_early.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
        assert!(matches!(&error, RestError::BadAnswer { text } if text.contains("larger")), "{error:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_reported_as_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = client(format!("http://{}", listener.local_addr().unwrap()), BEGIN, None);
    drop(listener);
    let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
    assert!(matches!(&error, RestError::Unavailable { text } if text.contains("refused")), "{error:?}");
}

#[path = "hostile_tests.rs"]
mod hostile;
