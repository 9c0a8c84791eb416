//! An exchange that errs, lies, hangs or floods, and a machine whose clock is set.

use super::*;
use crate::clock::Reading;
use crate::exchange::retry_after::WAIT_MAX;

#[tokio::test]
async fn an_answer_that_drips_ends_at_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = client(format!("http://{}", listener.local_addr().unwrap()), BEGIN, None);
    let drip = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut sent = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sent = tcp.write_all(b" ").await;
        }
    };
    let stop = never();
    let (answer, ()) = tokio::join!(rest.trades("BTCUSDT", ids(1, 5), &stop), drip);
    assert!(matches!(answer, Err(RestError::Unavailable { .. })), "{answer:?}");
}

#[tokio::test]
async fn an_error_object_with_status_200_is_that_error() {
    let limited =
        r#"{"code":-1003,"msg":"Too much request weight used; current limit is 6000 request weight per 1 MINUTE."}"#;
    let (script, rest) = serve(vec![reply(200, limited)]).await;
    let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
    let RestError::Limited { until } = error else { panic!("{error:?}") };
    assert!((60_000_000..80_000_000).contains(&until.date.since(BEGIN)), "{until}");
    let last = rest.status().last_error;
    assert!(last.contains("HTTP 200, code -1003: Too much request weight used"), "{last}");
    assert_eq!(script.requests().len(), 1);

    let until = BEGIN.plus_micros(3_000_000_000);
    let banned = format!(r#"{{"code":-1003,"msg":"Way too much; IP banned until {}."}}"#, until.millis());
    let unknown = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
    let (_, rest) = serve(vec![reply(200, unknown), reply(200, r#"{"code":-1007}"#), reply(200, &banned)]).await;
    let mut errors = Vec::new();
    for _ in 0..3 {
        errors.push(rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err());
    }
    assert_eq!(errors[0], RestError::UnknownSymbol { text: "Invalid symbol.".to_owned() });
    assert!(matches!(&errors[1], RestError::Unavailable { text } if text.contains("HTTP 200, code -1007")));
    assert!(matches!(errors[2], RestError::Banned { until: shown } if shown.date == until), "{:?}", errors[2]);
}

/// The text of the error that this answer with status 200 becomes.
async fn undecodable(body: Vec<u8>, headers: &str) -> String {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    let rest = raw(Some([head.into_bytes(), body].concat())).await;
    match rest.trades("BTCUSDT", ids(1, 5), &never()).await {
        Err(RestError::BadAnswer { text }) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_that_is_not_data_is_shown_and_not_believed() {
    let text = undecodable(Vec::new(), "").await;
    assert!(text.contains("HTTP 200, no content type, an empty body"), "{text}");
    let text = undecodable(br#"[{"id":1,"pri"#.to_vec(), "Content-Type: application/json\r\n").await;
    assert!(
        text.contains("it is cut off") && text.contains(r#"application/json, 13 bytes: "[{"id":1,"pri""#),
        "{text}"
    );
    let text = undecodable(b"null".to_vec(), "").await;
    assert!(text.contains("4 bytes: \"null\""), "{text}");
    let text = undecodable(b"\x1f\x8b\x08\x00abc".to_vec(), "").await;
    assert!(text.contains("7 bytes of gzip without Content-Encoding"), "{text}");
    let text = undecodable(b"\x1f\x8b\x08\x00abc".to_vec(), "Content-Encoding: gzip\r\n").await;
    assert!(text.contains("compressed (Content-Encoding: gzip) although no compression was requested"), "{text}");
    let text = undecodable("x".repeat(5_000).into_bytes(), "Content-Type: text/plain\r\n").await;
    assert!(text.len() < 300, "{text}");
}

#[tokio::test]
async fn a_refusal_counts_even_if_its_body_never_comes() {
    for (status, head) in
        [("429 X", "Content-Length: 100"), ("429 X", "Content-Length: 99999999"), ("418 X", "Content-Encoding: gzip")]
    {
        let rest = raw(Some(format!("HTTP/1.1 {status}\r\nRetry-After: 3600\r\n{head}\r\n\r\n[").into_bytes())).await;
        let error = rest.trades("BTCUSDT", ids(1, 5), &never()).await.unwrap_err();
        assert!(matches!(error, RestError::Limited { .. } | RestError::Banned { .. }), "{head}: {error:?}");
    }
}

#[tokio::test]
async fn no_answer_stops_requests_for_more_than_four_days() {
    let body = r#"{"code":-1003,"msg":"IP banned until 99999999999999999"}"#;
    for (status, header) in [
        (418, "18446744073709551615"),
        (429, "1000000000000"),
        (429, "99999999999999999999999"),
        (418, "Fri, 01 Jan 2100 00:00:00 GMT"),
        (418, "soon"),
    ] {
        let (_, rest) = serve(vec![with(reply(status, body), "Retry-After", header)]).await;
        let until = match rest.newest("BTCUSDT", &never()).await {
            Err(RestError::Limited { until } | RestError::Banned { until }) => until,
            other => panic!("{header}: {other:?}"),
        };
        let wait = Duration::from_micros(until.date.since(BEGIN) as u64);
        assert!(wait >= WAIT_MAX && wait < WAIT_MAX + DEADLINE, "{header}: {wait:?}");
    }
}

#[tokio::test]
async fn a_date_in_retry_after_is_obeyed() {
    let answer = with(
        with(reply(418, "banned"), "Retry-After", "Sun, 06 Nov 1994 09:09:37 GMT"),
        "Date",
        "Sun, 06 Nov 1994 08:49:37 GMT",
    );
    let (_, rest) = serve(vec![answer]).await;
    let error = rest.newest("BTCUSDT", &never()).await.unwrap_err();
    let RestError::Banned { until } = error else { panic!("{error:?}") };
    assert!((1_200_000_000..1_260_000_000).contains(&until.date.since(BEGIN)), "{until}");
}

#[tokio::test]
async fn a_pause_survives_a_restart_and_is_announced() {
    let (_, rest) = serve(vec![with(reply(429, "{}"), "Retry-After", 3_600)]).await;
    assert!(rest.newest("BTCUSDT", &never()).await.is_err());
    tokio::time::timeout(DEADLINE, rest.deadline_moved()).await.expect("the pause is announced");
    let saved = rest.deadlines();
    assert_eq!(rest.status().limited_until, saved.limited_until.map(Timestamp::rfc3339));
    let (script, restarted) = serve_at(BEGIN, Some(saved), vec![]).await;
    assert!(
        matches!(restarted.newest("BTCUSDT", &never()).await, Err(RestError::Limited { until }) if Some(until.date) == saved.limited_until)
    );
    assert!(script.requests().is_empty());
}

/// A clock of which a test sets the wall clock.
fn settable(wall: &Arc<AtomicI64>) -> Clock {
    let (wall, started) = (wall.clone(), std::time::Instant::now());
    Clock::from_readings(move || {
        let passed = started.elapsed().as_micros() as i64;
        let set = wall.load(Ordering::Relaxed);
        Reading { wall: BEGIN.plus_micros(set + passed), steady: BEGIN.plus_micros(passed) }
    })
}

#[tokio::test]
async fn a_clock_that_is_set_neither_ends_nor_extends_a_pause() {
    let (script, unused) = serve(vec![with(reply(429, "{}"), "Retry-After", 2), reply(200, "[]")]).await;
    let set = Arc::new(AtomicI64::new(0));
    let rest = client_at(unused.base.clone(), settable(&set), None);
    assert!(rest.newest("BTCUSDT", &never()).await.is_err());
    let year = 365 * 86_400_000_000;
    for step in [year, -2 * year] {
        set.store(step, Ordering::Relaxed);
        let until = rest.deadlines().limited_until.unwrap();
        assert!((0..=2_000_000).contains(&until.since(rest.clock.now())), "the saved deadline follows the wall clock");
    }
    let waited = tokio::time::timeout(DEADLINE, rest.newest("BTCUSDT", &never())).await;
    assert_eq!(waited.expect("the pause ends after two seconds"), Ok(None));
    assert_eq!(script.requests().len(), 2);
}

#[tokio::test]
async fn a_clock_that_is_set_does_not_move_the_exchanges_time() {
    let time = reply(200, &format!(r#"{{"serverTime":{}}}"#, BEGIN.millis()));
    let (_, unused) = serve(vec![time.clone(), time]).await;
    let set = Arc::new(AtomicI64::new(0));
    let rest = client_at(unused.base.clone(), settable(&set), None);
    rest.measure_clock(&never()).await.unwrap();
    set.store(-50 * 365 * 86_400_000_000, Ordering::Relaxed);
    assert!(rest.exchange_now().since(BEGIN).abs() < 60_000_000);
    assert!(rest.clock_offset().unwrap() > 40 * 365 * 86_400_000_000, "the difference to our wall clock is shown");
}

#[tokio::test]
async fn an_absurd_time_of_the_exchange_is_not_used() {
    let years_off = reply(200, r#"{"serverTime":1795867200000}"#);
    let (_, rest) = serve(vec![years_off.clone(), years_off.clone(), years_off.clone(), years_off]).await;
    for _ in 0..2 {
        let error = rest.measure_clock(&never()).await.unwrap_err();
        assert!(
            matches!(&error, RestError::BadAnswer { text } if text.contains("a second measurement must confirm it"))
        );
    }
    assert_eq!(rest.clock_offset(), None);
    assert!(rest.exchange_now().since(BEGIN).abs() < 60_000_000);
}

#[tokio::test]
async fn one_unreadable_trade_of_a_page_costs_that_one() {
    let mut body =
        trades_body(10..15).replace(r#""id":12,"price":"1.50","qty":"2""#, r#""id":12,"price":"1.50","qty":null"#);
    body = body
        .replace(']', r#",{"id":99,"price":null},{"id":13,"price":"7","qty":"2","time":1000,"isBuyerMaker":false}]"#);
    let (_, rest) = serve(vec![reply(200, &body)]).await;
    let page = rest.trades("BTCUSDT", ids(10, 14), &never()).await.unwrap();
    assert_eq!(page.rows.iter().map(|trade| trade.id).collect::<Vec<_>>(), [10, 11, 13, 14]);
    let refused: Vec<_> = page.refused.iter().map(|row| (row.position, row.is_conflict)).collect();
    assert_eq!(refused, [(Some(12), false), (Some(13), true)], "99 was not asked for");
}

#[tokio::test]
async fn a_trade_behind_an_unreadable_one_is_not_the_first() {
    let bad = r#"[{"id":12,"price":null},{"id":13,"price":"7","qty":"2","time":1000,"isBuyerMaker":false}]"#;
    let (_, rest) = serve(vec![reply(200, bad)]).await;
    assert_eq!(rest.trade_from("BTCUSDT", 12, &never()).await, Ok(None));
}

fn listing(symbols: &[&str], limit: &str) -> Reply {
    let symbols: Vec<_> =
        symbols.iter().map(|symbol| format!(r#"{{"symbol":"{symbol}","status":"TRADING"}}"#)).collect();
    let limits = format!(r#"{{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":{limit}}}"#);
    reply(200, &format!(r#"{{"rateLimits":[{limits}],"symbols":[{}]}}"#, symbols.join(",")))
}

#[tokio::test]
async fn an_absurd_weight_limit_moves_nothing() {
    let replies = ["0", "4294967295", "null", "1200", "1"].map(|limit| listing(&["AUSDT"], limit)).to_vec();
    let (_, rest) = serve(replies).await;
    for expected in [6_000, 6_000, 6_000, 1_200, 1_200] {
        let info = rest.info(&["AUSDT".to_owned()], &never()).await.unwrap();
        assert_eq!(rest.status().limit, expected);
        assert_eq!(info.unreadable.is_empty(), info.weight_per_minute.is_some());
        assert_eq!(info.symbols, [("AUSDT".to_owned(), crate::exchange::ListingEntry::Trading)]);
    }
}

#[tokio::test]
async fn many_symbols_are_requested_in_parts() {
    // A third of the names needs nine characters for each of theirs.
    let symbols: Vec<String> = (0..700)
        .map(|n| if n % 3 == 0 { format!("\u{5e01}\u{5b89}{n}USDT") } else { format!("SYMBOL{n:03}USDT") })
        .collect();
    let script = Script::default();
    let asked = script.clone();
    let lists = move |uri: Uri| async move {
        asked.0.lock().unwrap().1.push(uri.to_string());
        let query = uri.query().unwrap().strip_prefix("symbols=").unwrap().to_owned();
        let mut bytes = Vec::new();
        let mut rest = query.as_bytes();
        while let [first, tail @ ..] = rest {
            match first {
                b'%' => {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                    rest = &tail[2..];
                }
                other => {
                    bytes.push(*other);
                    rest = tail;
                }
            }
        }
        let names: Vec<String> = serde_json::from_slice(&bytes).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match names.contains(&"SYMBOL001USDT") {
            true => (axum::http::StatusCode::BAD_REQUEST, r#"{"code":-1121,"msg":"Invalid symbol."}"#.to_owned()),
            false => (axum::http::StatusCode::OK, listing(&names, "5000").body),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(lists);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let rest = client(base.clone(), BEGIN, None);
    let info = rest.info(&symbols, &never()).await.unwrap();
    let mut listed: Vec<String> =
        info.symbols.into_iter().map(|(symbol, _)| symbol).chain(info.unlisted.clone()).collect();
    listed.sort();
    let mut expected = symbols.clone();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!((info.unlisted, rest.status().limit), (vec!["SYMBOL001USDT".to_owned()], 5_000));
    let requests = script.requests();
    assert!(requests.iter().all(|path| path.len() + base.len() + 15 <= 4_096));
    assert_eq!(rest.status().used, 20 * requests.len() as u32, "each part has its weight");
    assert!((8..30).contains(&requests.len()), "{}", requests.len());
}

#[tokio::test]
async fn a_name_that_no_request_can_hold_is_unlisted() {
    let (script, rest) = serve(vec![]).await;
    let name = "X".repeat(5_000);
    assert_eq!(rest.info(std::slice::from_ref(&name), &never()).await.unwrap().unlisted, [name]);
    assert!(script.requests().is_empty());
}

#[tokio::test]
async fn an_absurd_count_of_used_weight_stops_nothing() {
    let replies = ["4294967295", "18446744073709551615", "-1", "x", "13000"];
    let replies = replies.map(|used| with(reply(200, "[]"), "X-MBX-USED-WEIGHT-1M", used)).to_vec();
    let (_, rest) = serve(replies).await;
    for sent in 1..=5 {
        rest.trades("BTCUSDT", ids(1, 1), &never()).await.unwrap();
        assert_eq!(rest.status().used, 25 * sent);
    }
}
