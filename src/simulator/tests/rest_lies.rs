//! The lies of REST, as a client sees them.

use super::*;
use crate::market::Interval;

async fn trades_from(simulator: &Simulator, from: i64, limit: usize) -> Value {
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={from}&limit={limit}");
    get(simulator, &path).await.2
}

#[tokio::test]
async fn hidden_trades_are_missing_between_their_neighbours() {
    let simulator = halted(|_| {}).await;
    let first = simulator.control.published("BTCUSDT")[100].id;
    inject(&simulator, &format!("hide:BTCUSDT:{}-{}:ever", first + 2, first + 4));
    let served = ids(&trades_from(&simulator, first, 5).await, "id");
    assert_eq!(served, [first, first + 1, first + 5, first + 6, first + 7]);
    // No aggregate begins or ends with a hidden trade.
    let at = simulator.control.published("BTCUSDT")[100].ts.millis();
    let path = format!("/api/v3/aggTrades?symbol=BTCUSDT&startTime={at}&limit=1000");
    let rows = get(&simulator, &path).await.2;
    let edges = [ids(&rows, "f"), ids(&rows, "l")].concat();
    assert!(edges.contains(&(first + 5)) && !(2..=4).any(|at| edges.contains(&(first + at))), "{edges:?}");
    inject(&simulator, &format!("hide:BTCUSDT:{}-{}:0s", first + 2, first + 4));
    assert_eq!(ids(&trades_from(&simulator, first, 3).await, "id"), [first, first + 1, first + 2]);
    simulator.stop().await;
}

#[tokio::test]
async fn a_hidden_kline_is_missing_between_its_neighbours() {
    let simulator = halted(|_| {}).await;
    let closed = simulator.control.published_klines("BTCUSDT", Interval::M1);
    let open = |at: usize| closed[at].open_time.millis();
    inject(&simulator, &format!("hide:BTCUSDT:1m:{}-{}:ever", open(6), open(7)));
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={}&limit=3", open(5));
    let rows = get(&simulator, &path).await.2;
    let times: Vec<i64> = rows.as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect();
    assert_eq!(times, [open(5), open(8), open(9)]);
    simulator.stop().await;
}

#[tokio::test]
async fn every_page_of_trades_is_empty_for_a_time() {
    let simulator = halted(|_| {}).await;
    inject(&simulator, "empty:BTCUSDT:ever");
    for path in ["historicalTrades?symbol=BTCUSDT", "trades?symbol=BTCUSDT", "aggTrades?symbol=BTCUSDT"] {
        let (status, _, rows) = get(&simulator, &format!("/api/v3/{path}")).await;
        assert_eq!((status, rows), (200, json!([])), "{path}");
    }
    assert_ne!(get(&simulator, "/api/v3/trades?symbol=ETHUSDT").await.2, json!([]));
    inject(&simulator, "empty:BTCUSDT:0s");
    assert_ne!(get(&simulator, "/api/v3/trades?symbol=BTCUSDT").await.2, json!([]));
    simulator.stop().await;
}

#[tokio::test]
async fn a_young_database_serves_old_trades_later() {
    let simulator = halted(|_| {}).await;
    let published = simulator.control.published("BTCUSDT");
    let from = published[500].id;
    inject(&simulator, &format!("young:BTCUSDT:{from}:ever"));
    assert_eq!(ids(&trades_from(&simulator, published[0].id, 2).await, "id"), [from, from + 1]);
    let path = "/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=0&limit=1";
    assert!(get(&simulator, path).await.2[0][6].as_i64().unwrap() >= published[500].ts.millis());
    inject(&simulator, &format!("young:BTCUSDT:{from}:0s"));
    assert_eq!(ids(&trades_from(&simulator, published[0].id, 1).await, "id"), [published[0].id]);
    simulator.stop().await;
}

#[tokio::test]
async fn a_symbol_is_unknown_to_rest_and_its_frames_come() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    inject(&simulator, "unknown:BTCUSDT:ever");
    for path in ["trades?symbol=BTCUSDT", "klines?symbol=BTCUSDT&interval=1m", "exchangeInfo?symbol=BTCUSDT"] {
        let (status, _, body) = get(&simulator, &format!("/api/v3/{path}")).await;
        assert_eq!((status, &body["code"]), (400, &json!(-1121)), "{path}");
    }
    let info = get(&simulator, "/api/v3/exchangeInfo").await.2;
    assert_eq!((info["symbols"].as_array().unwrap().len(), &info["symbols"][0]["symbol"]), (1, &json!("ETHUSDT")));
    client.trades(5).await;
    inject(&simulator, "unknown:BTCUSDT:0s");
    assert_eq!(get(&simulator, "/api/v3/exchangeInfo?symbol=BTCUSDT").await.0, 200);
    simulator.stop().await;
}

#[tokio::test]
async fn one_row_of_a_page_cannot_be_read_or_has_another_content() {
    let simulator = halted(|_| {}).await;
    let published = simulator.control.published("BTCUSDT");
    let first = published[100].id;
    for (at, edits) in [
        (1, "qty=123456789012345678901234567890.1"),
        (2, "price=null"),
        (3, "qty=1e-8"),
        (4, "price=+1"),
        (5, "id=max"),
    ] {
        inject(&simulator, &format!("row:BTCUSDT:{}:{edits}:ever", first + at));
    }
    let rows = trades_from(&simulator, first, 7).await;
    assert_eq!(rows[0]["qty"], published[100].quantity.to_string());
    assert_eq!(rows[1]["qty"], "123456789012345678901234567890.1");
    assert_eq!(rows[2]["price"], Value::Null);
    assert_eq!(rows[3]["qty"], "1e-8");
    assert_eq!(rows[4]["price"], (published[104].price + rust_decimal::Decimal::ONE).to_string());
    assert_eq!(rows[5]["id"], i64::MAX);
    assert_eq!(rows[6]["price"], published[106].price.to_string());
    let open = simulator.control.published_klines("BTCUSDT", Interval::M1)[5].open_time.millis();
    inject(&simulator, &format!("row:BTCUSDT:1m:{open}:4=null:ever"));
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={open}&limit=2");
    let rows = get(&simulator, &path).await.2;
    assert_eq!((&rows[0][4], rows[1][4].is_string()), (&Value::Null, true));
    simulator.stop().await;
}

#[tokio::test]
async fn the_newest_trade_claims_any_id() {
    let simulator = halted(|_| {}).await;
    inject(&simulator, "newest:BTCUSDT:1000000000000000:ever");
    let rows = get(&simulator, "/api/v3/aggTrades?symbol=BTCUSDT&limit=1").await.2;
    assert_eq!(rows[0]["l"], 1_000_000_000_000_000_i64);
    let rows = get(&simulator, "/api/v3/historicalTrades?symbol=BTCUSDT&limit=1").await.2;
    assert_eq!(rows[0]["id"], 1_000_000_000_000_000_i64);
    let first = simulator.control.published("BTCUSDT")[0].id;
    assert_eq!(ids(&trades_from(&simulator, first, 1).await, "id"), [first]);
    simulator.stop().await;
}

#[tokio::test]
async fn pages_have_wrong_rows_on_one_path() {
    let simulator = halted(|_| {}).await;
    let first = simulator.control.published("BTCUSDT")[100].id;
    inject(&simulator, "page:descending:historicalTrades:ever");
    assert_eq!(ids(&trades_from(&simulator, first, 3).await, "id"), [first + 2, first + 1, first]);
    let klines = get(&simulator, "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=2").await.2;
    assert!(klines[0][0].as_i64() < klines[1][0].as_i64());
    inject(&simulator, "page:descending:historicalTrades:0s");
    inject(&simulator, "page:foreign:ever");
    assert_eq!(ids(&trades_from(&simulator, first, 1).await, "id"), [first + 1_000_000_000]);
    assert_eq!(simulator.control.counters().rest_lies, 2);
    simulator.stop().await;
}

#[tokio::test]
async fn something_else_comes_in_place_of_an_answer() {
    let simulator = halted(|_| {}).await;
    let path = "/api/v3/historicalTrades?symbol=BTCUSDT&limit=2";
    let right = get(&simulator, path).await.2;
    inject(&simulator, "answer:error:historicalTrades:ever");
    let (status, _, body) = get(&simulator, path).await;
    assert_eq!((status, &body["code"]), (200, &json!(-1003)));
    assert_eq!(get(&simulator, "/api/v3/ping").await.2, json!({}));
    for (lie, check) in [
        ("html", (|body: &Value| body.as_str().unwrap().starts_with("<html>")) as fn(&Value) -> bool),
        ("null", |body| body.is_null()),
        ("nothing", |body| body == ""),
        ("object", |body| body.is_object()),
        ("truncated", |body| body.as_str().unwrap().starts_with("[{")),
        ("deep", |body| body.as_str().unwrap().starts_with("[[[")),
    ] {
        inject(&simulator, "answer:error:historicalTrades:0s");
        inject(&simulator, &format!("answer:{lie}:ever"));
        let (status, _, body) = get(&simulator, path).await;
        assert!(status == 200 && check(&body), "{lie}: {body}");
        inject(&simulator, &format!("answer:{lie}:0s"));
    }
    assert_eq!(get(&simulator, path).await.2, right);
    simulator.stop().await;
}

#[tokio::test]
async fn answers_hang_drip_flood_or_lead_elsewhere() {
    let simulator = halted(|_| {}).await;
    rustls::crypto::ring::default_provider().install_default().ok();
    let no_redirect = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().no_proxy().redirect(no_redirect).build().unwrap();
    let url = format!("{}/api/v3/time", simulator.rest_url());
    inject(&simulator, "answer:loop:ever");
    let answer = client.get(&url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (302, "/api/v3/time"));
    inject(&simulator, "answer:loop:0s");
    inject(&simulator, "answer:huge:ever");
    let body = client.get(&url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(body.len(), 64 * 1_024 * 1_024 + 2);
    inject(&simulator, "answer:huge:0s");
    inject(&simulator, "answer:drip:ever");
    let mut answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), " ");
    inject(&simulator, "answer:drip:0s");
    inject(&simulator, "answer:hang:1s");
    let began = std::time::Instant::now();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 504);
    assert!(began.elapsed() >= Duration::from_millis(900));
    simulator.stop().await;
}

#[tokio::test]
async fn a_refusal_has_any_retry_after() {
    let simulator = halted(|_| {}).await;
    let header = async |fault: &str| {
        inject(&simulator, &format!("{fault}:ever"));
        let (status, headers, _) = get(&simulator, "/api/v3/ping").await;
        inject(&simulator, &format!("{fault}:0s"));
        (status, headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned()))
    };
    assert_eq!(header("refuse:429:20m").await, (429, Some("1200".to_owned())));
    assert_eq!(header("refuse:418:raw=18446744073709551615").await, (418, Some("18446744073709551615".to_owned())));
    assert_eq!(header("refuse:429:raw=-1").await, (429, Some("-1".to_owned())));
    assert_eq!(header("refuse:503:none").await, (503, None));
    let (_, date) = header("refuse:418:date=20m").await;
    let date = date.unwrap();
    let date = chrono::DateTime::parse_from_rfc2822(&date).unwrap().timestamp_micros();
    let ahead = date - simulator.control.exchange_time().micros();
    assert!((1_100_000_000..=1_200_000_000).contains(&ahead), "{ahead}");
    assert_eq!(simulator.control.counters().rest_refused_until, 5);
    simulator.stop().await;
}

#[tokio::test]
async fn an_odd_listing_is_odd_in_one_place() {
    let simulator = halted(|_| {}).await;
    let info = async |lie: &str| {
        inject(&simulator, &format!("info:{lie}:ever"));
        let info = get(&simulator, "/api/v3/exchangeInfo").await.2;
        inject(&simulator, &format!("info:{lie}:0s"));
        info
    };
    assert_eq!(info("limitnull").await["rateLimits"][0]["limit"], Value::Null);
    assert_eq!(info("limitzero").await["rateLimits"][0]["limit"], 0);
    assert_eq!(info("limitunknown").await["rateLimits"][1]["limit"], 6_000);
    let odd = info("statusnull").await;
    assert_eq!((&odd["symbols"][0]["status"], odd["symbols"][1]["status"].is_string()), (&Value::Null, true));
    assert_eq!(info("statusunknown").await["symbols"][0]["status"], "HALF_OPEN");
    assert_eq!(info("nosymbols").await["symbols"], json!([]));
    simulator.stop().await;
}

#[tokio::test]
async fn a_request_line_over_8_kib_is_a_bad_request() {
    let simulator = halted(|_| {}).await;
    let path = |bytes: usize| format!("/api/v3/exchangeInfo?x={}", "a".repeat(bytes));
    assert_eq!(get(&simulator, &path(8_100)).await.0, 200);
    let (status, _, body) = get(&simulator, &path(8_192)).await;
    assert_eq!(status, 400);
    assert!(body.as_str().unwrap().contains("<html>"), "it comes from a server in front: {body}");
    simulator.stop().await;
}
