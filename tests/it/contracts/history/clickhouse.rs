//! Runs the suite on history in a real ClickHouse, and tests what only a server can do to it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tapekeeper::faults::{Faults, Odds};
use tapekeeper::gap::Range;
use tapekeeper::history::clickhouse::ClickhouseHistory;
use tapekeeper::history::faulty::FaultyHistory;
use tapekeeper::history::{Batch, ClickhouseOptions, Count, History, HistoryError, LedgerStore, RowStore, RunStore};

use super::rows::{everything, stream, trade, trades};
use super::{HistoryStore, all_trades, keeps_every_promise};
use crate::contracts::retry::Retrying;
use crate::servers::clickhouse::Clickhouse;

struct ClickhouseStore {
    options: ClickhouseOptions,
    faults: Option<Faults>,
}

impl HistoryStore for ClickhouseStore {
    fn open(&self) -> Arc<dyn History> {
        let history: Arc<dyn History> = Arc::new(ClickhouseHistory::new(&self.options));
        match &self.faults {
            None => history,
            Some(faults) => Arc::new(Retrying::<dyn History>(Arc::new(FaultyHistory::new(history, faults.clone())))),
        }
    }
}

/// Sends one statement, as an operator would, and returns the response. `{db}` stands for the database.
pub fn query(options: &ClickhouseOptions, sql: &str) -> String {
    let sql = sql.replace("{db}", &format!("`{}`", options.database));
    let mut connection = TcpStream::connect(options.url.trim_start_matches("http://")).unwrap();
    let length = sql.len();
    write!(connection, "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{sql}").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.trim().to_owned()
}

#[test]
fn clickhouse_keeps_every_promise() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    keeps_every_promise(&|| Box::new(ClickhouseStore { options: clickhouse.database(), faults: None }));
}

#[test]
fn clickhouse_behind_faults_keeps_every_promise_to_a_caller_that_retries() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let odds = Odds { fail: 100, lose_answer: 100, tear: 100, delay: 50, delay_max: Duration::from_millis(1) };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    keeps_every_promise(&|| Box::new(ClickhouseStore { options: clickhouse.database(), faults: Some(faults.clone()) }));
    assert!(faults.injected() > 0);
}

/// DESIGN.md section 5: other programs read the tables.
#[tokio::test]
async fn other_programs_read_the_tables_in_the_documented_encoding() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    let history = ClickhouseHistory::new(&options);
    let mut row = trade("BTCUSDT", 1);
    row.trade.price = "61234.560000".parse().unwrap();
    row.trade.quantity = "12000000000000.5".parse().unwrap();
    history.insert(&trades(vec![row])).await.unwrap();
    let columns = "exchange, symbol, trade_id, toUnixTimestamp64Micro(ts) - toUnixTimestamp64Micro(received_at),
        price, quantity, side, is_backfilled, version";
    assert_eq!(
        query(&options, &format!("SELECT {columns} FROM {{db}}.trades FINAL")),
        "binance\tBTCUSDT\t1\t-80000\t61234.56\t12000000000000.5\tsell\t0\t3"
    );
    assert!(history.bytes().await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn the_same_batch_with_the_same_token_is_stored_once_and_other_rows_with_it_are_kept() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    let history = ClickhouseHistory::new(&options);
    for _ in 0..3 {
        history.insert(&everything()).await.unwrap();
    }
    let parts_rows = "SELECT count() FROM {db}.trades";
    assert_eq!(query(&options, parts_rows), "500", "without FINAL: the server dropped the copies");
    // A recreated log repeats its offsets, and so its tokens.
    let other = Batch { token: everything().token, ..trades(vec![trade("BTCUSDT", 1_000)]) };
    history.insert(&other).await.unwrap();
    assert_eq!(query(&options, parts_rows), "501");
}

#[tokio::test]
async fn acknowledged_rows_survive_a_kill_and_the_recorder_resumes() {
    let Some(clickhouse) = Clickhouse::start() else { return };
    let options = clickhouse.database();
    let history = ClickhouseHistory::new(&options);
    history.insert(&everything()).await.unwrap();
    let identity = history.identity().await.unwrap();
    clickhouse.server.kill();
    let failure = history.insert(&everything()).await;
    assert!(matches!(failure, Err(HistoryError::Unavailable(_))), "{failure:?}");
    let fresh = ClickhouseHistory::new(&options);
    assert!(matches!(fresh.identity().await, Err(HistoryError::Unavailable(_))));
    clickhouse.server.restart();
    super::assert_holds_everything(&history).await;
    assert_eq!(fresh.identity().await.unwrap(), identity);
    history.insert(&trades(vec![trade("BTCUSDT", 500)])).await.unwrap();
    let whole = Range { first: 0, last: i64::MAX };
    let count = history.count(&stream("BTCUSDT", "trade"), whole).await.unwrap();
    assert_eq!(count, Count { present: 501, backfilled: 0 });
}

#[tokio::test]
async fn a_schema_that_changed_is_an_outage_that_names_it_and_ends_when_it_is_back() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let changes = [
        ("ALTER TABLE {db}.trades RENAME COLUMN side TO direction", "side"),
        ("ALTER TABLE {db}.trades MODIFY COLUMN price String", "price"),
        ("ALTER TABLE {db}.trades DROP COLUMN quantity", "quantity"),
        ("DROP TABLE {db}.trades SYNC", "trades"),
        ("DROP DATABASE {db} SYNC", "keeper-"),
    ];
    for (change, name) in changes {
        let options = clickhouse.database();
        let history = ClickhouseHistory::new(&options);
        history.insert(&trades(vec![trade("BTCUSDT", 1)])).await.unwrap();
        assert_eq!(ClickhouseHistory::inspect(&options).await.unwrap().1, [""; 0]);
        query(&options, change);
        for refused in [
            history.insert(&trades(vec![trade("BTCUSDT", 2)])).await,
            history.trades(&stream("BTCUSDT", "trade"), Range { first: 0, last: 9 }, 9).await.map(drop),
        ] {
            let named = matches!(&refused, Err(HistoryError::Unavailable(why)) if why.contains(name));
            assert!(named, "{change}: {refused:?}");
        }
        // `check --connect` names it too, unless the first start would create everything again.
        if !change.starts_with("DROP DATABASE") {
            let inspected = ClickhouseHistory::inspect(&options).await;
            assert!(
                matches!(&inspected, Err(HistoryError::Unavailable(why)) if why.contains(name)),
                "{change}: {inspected:?}"
            );
        }
        if change.contains("RENAME") {
            query(&options, "ALTER TABLE {db}.trades RENAME COLUMN direction TO side");
            history.insert(&trades(vec![trade("BTCUSDT", 2)])).await.unwrap();
            assert_eq!(all_trades(&history, "BTCUSDT").await.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_row_that_the_columns_cannot_hold_is_refused_alone() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    let history = ClickhouseHistory::new(&options);
    let mut rows = [trade("BTCUSDT", 1), trade("BTCUSDT", -1), trade("BTCUSDT", 2)];
    rows[0].trade.price = "79228162514264337593543950335".parse().unwrap();
    rows[2].trade.quantity = "0.0000000000000000001".parse().unwrap();
    for row in rows {
        let refused = history.insert(&trades(vec![row])).await;
        assert!(matches!(refused, Err(HistoryError::Data(_))), "{refused:?}");
    }
    query(&options, "ALTER TABLE {db}.trades ADD CONSTRAINT dear CHECK price > 1000000");
    let refused = history.insert(&trades(vec![trade("BTCUSDT", 3)])).await;
    assert!(matches!(refused, Err(HistoryError::Data(_))), "{refused:?}");
    assert!(all_trades(&history, "BTCUSDT").await.is_empty());
}

#[tokio::test]
async fn a_symbol_is_quoted_in_sql() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let history = ClickhouseHistory::new(&clickhouse.database());
    let name = "A'B\\C?D`E{F:G}";
    history.insert(&trades(vec![trade(name, 1)])).await.unwrap();
    assert_eq!(all_trades(&history, name).await, [trade(name, 1)]);
    let symbols = [crate::contracts::symbol(name)];
    assert_eq!(
        history.latest_trades(super::BINANCE, tapekeeper::market::Channel::Trade, &symbols).await.unwrap(),
        [trade(name, 1)]
    );
}

/// Starts a server that sends the same bytes to every request and closes the connection, until the test ends.
fn fake_server(answer: &'static str) -> ClickhouseOptions {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 4_096];
            if connection.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                // The client may have closed the connection already.
                connection.write_all(answer.as_bytes()).ok();
            }
        }
    });
    ClickhouseOptions { url, ..ClickhouseOptions::default() }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_naming_both_versions() {
    // RowBinaryWithNamesAndTypes: one column `v` of type String with one value.
    let old = fake_server("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n\x01\x01v\x06String\x0923.8.16.1\n");
    let refusal = ClickhouseHistory::new(&old).identity().await.unwrap_err();
    assert!(
        matches!(&refusal, HistoryError::Schema(text) if text.contains("23.8.16") && text.contains("24.8")),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_server_error_or_a_truncated_response_is_unavailable() {
    for answer in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n\x01\x01v\x06Str",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\x01\x01v",
        // Without a length nothing shows whether it is whole.
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x01\x01v\x06String\x0826.9.2.1",
        "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n<html>down for maintenance</html>",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 61\r\n\r\nCode: 241. DB::Exception: Memory limit exceeded (MEMORY_LIMIT)\n",
        // Another number of columns than the query has.
        "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n\x02\x01v\x01w\x06String\x06String\x0426.9\x00",
        // Another type.
        "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n\x01\x01v\x05Int64\0\0\0\0\0\0\0\0",
        // A header and no row.
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\x01\x01v\x06String",
        // As the number of columns its first bytes are more than any memory.
        "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n系统维护中 please wait",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\u{feff}<html>",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "",
    ] {
        let failure = ClickhouseHistory::new(&fake_server(answer)).identity().await;
        assert!(matches!(failure, Err(HistoryError::Unavailable(_))), "{answer:?}: {failure:?}");
    }
}

/// What something between the recorder and the server does with an insert.
#[derive(Clone, Copy)]
enum Lie {
    /// Answers inserts by itself and passes none on.
    Answer(&'static str),
    /// Answers reads by itself and passes none on.
    AnswerReads(&'static str),
    /// Passes everything on and removes ClickHouse's headers from the answer.
    RemoveHeaders,
}

/// A proxy before a server that lies while the returned flag is set.
fn lying_proxy(server: u16, lie: Lie) -> (String, Arc<std::sync::atomic::AtomicBool>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let lying = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_lying = lying.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, is_lying) = (connection.unwrap(), is_lying.clone());
            std::thread::spawn(move || {
                while let Some(request) = read_message(&mut connection) {
                    let head = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
                    let lied = match lie {
                        Lie::Answer(answer) => head.contains("INSERT+INTO").then_some(answer),
                        Lie::AnswerReads(answer) => head.contains("default_format=").then_some(answer),
                        Lie::RemoveHeaders => None,
                    };
                    if let Some(answer) = lied.filter(|_| is_lying.load(std::sync::atomic::Ordering::Relaxed)) {
                        // Each of them ends the connection. The client may be gone.
                        connection.write_all(answer.as_bytes()).ok();
                        return;
                    }
                    let mut upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                    upstream.write_all(&request).unwrap();
                    let mut answer = read_message(&mut upstream).unwrap();
                    if matches!(lie, Lie::RemoveHeaders) {
                        answer = without_headers(&answer);
                    }
                    connection.write_all(&answer).ok();
                }
            });
        }
    });
    (url, lying)
}

/// One HTTP message with a length.
fn read_message(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut part = [0; 65_536];
        match connection.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(bytes) => message.extend_from_slice(&part[..bytes]),
        }
        let Some(end) = message.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&message[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if message.len() >= end + 4 + length.unwrap_or(0) {
            return Some(message);
        }
    }
}

fn without_headers(answer: &[u8]) -> Vec<u8> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let kept: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with("X-ClickHouse-")).collect();
    [kept.join("\r\n").as_bytes(), &answer[end..]].concat()
}

/// Promise 7: nothing but the server's own answer is a success, and the rows are stored when it answers again.
#[tokio::test]
async fn an_insert_that_something_else_answers_is_not_stored_and_is_retried() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 35\r\nConnection: close\r\n\r\n<html>down for maintenance</html>\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-ClickHouse-Query-Id: a\r\nContent-Length: 52\r\nConnection: close\r\n\r\n\
         Code: 241. DB::Exception: Memory limit exceeded (X)\n",
        "HTTP/1.1 200 OK\r\nX-ClickHouse-Query-Id: a\r\nX-ClickHouse-Exception-Code: 241\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-ClickHouse-Query-Id: a\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 50\r\nConnection: close\r\n\r\n\
         Code: 117. DB::Exception: says a proxy, not a row\n",
    ];
    for answer in answers {
        let options = clickhouse.database();
        let (url, lying) = lying_proxy(clickhouse.server.port, Lie::Answer(answer));
        let history = ClickhouseHistory::new(&ClickhouseOptions { url, ..options.clone() });
        history.identity().await.unwrap();
        let failure = history.insert(&everything()).await;
        assert!(matches!(&failure, Err(HistoryError::Unavailable(_))), "{answer:?}: {failure:?}");
        if answer.contains("<html>") {
            assert!(failure.unwrap_err().to_string().contains("<html>down for maintenance"), "it is shown");
        }
        assert_eq!(query(&options, "SELECT count() FROM {db}.trades"), "0");
        lying.store(false, std::sync::atomic::Ordering::Relaxed);
        history.insert(&everything()).await.unwrap();
        super::assert_holds_everything(&history).await;
    }
}

/// Promise 7: an answer that is not the server's own, or not whole, is never a history without rows.
#[tokio::test]
async fn a_read_that_something_else_answers_is_an_outage() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let answers = [
        ("<html>", "HTTP/1.1 200 OK\r\nContent-Length: 29\r\nConnection: close\r\n\r\n<html>down for lunch</html>\r\n"),
        ("系统维护中", "HTTP/1.1 200 OK\r\nContent-Length: 27\r\nConnection: close\r\n\r\n系统维护中 please wait"),
        ("nothing", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ("length", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        ("Ok.", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nOk.\n"),
        // The rows of another query.
        (
            "not the expected one",
            "HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\n\x01\x01v\x06String\x0826.9.2.1",
        ),
        ("length", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x01\x01v\x06String\x0826.9.2.1"),
        (
            "Memory limit",
            "HTTP/1.1 200 OK\r\nX-ClickHouse-Exception-Code: 241\r\nContent-Length: 40\r\nConnection: close\r\n\r\n\
          Code: 241. DB::Exception: Memory limit  ",
        ),
        ("502", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        ("302", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    ];
    for (named, answer) in answers {
        let (url, lying) = lying_proxy(clickhouse.server.port, Lie::AnswerReads(answer));
        let history = ClickhouseHistory::new(&ClickhouseOptions { url, ..clickhouse.database() });
        lying.store(false, std::sync::atomic::Ordering::Relaxed);
        history.insert(&everything()).await.unwrap();
        lying.store(true, std::sync::atomic::Ordering::Relaxed);
        let whole = Range { first: 0, last: i64::MAX };
        for refused in [
            history.trades(&stream("BTCUSDT", "trade"), whole, 9).await.map(|rows| rows.len()),
            history.count(&stream("BTCUSDT", "trade"), whole).await.map(|_| 1),
            history.gaps(&tapekeeper::history::GapFilter::default()).await.map(|gaps| gaps.len()),
            history.dead_letter_count(None).await.map(|_| 1),
        ] {
            let is_named = matches!(&refused, Err(HistoryError::Unavailable(why)) if why.contains(named));
            assert!(is_named, "{answer:?}: {refused:?}");
        }
        lying.store(false, std::sync::atomic::Ordering::Relaxed);
        super::assert_holds_everything(&history).await;
    }
}

/// Nobody waits for the answer: the server is to stop looking for it.
#[tokio::test]
async fn a_read_that_is_dropped_closes_its_connection() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let server = std::thread::spawn(move || {
        let mut connection = listener.accept().unwrap().0;
        read_message(&mut connection).unwrap();
        asked.send(()).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.read(&mut [0; 1])
    });
    let history = ClickhouseHistory::new(&ClickhouseOptions { url, ..ClickhouseOptions::default() });
    tokio::select! {
        answer = history.identity() => panic!("nothing has answered: {answer:?}"),
        asked = is_asked => asked.unwrap(),
    }
    let ended = tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
    assert_eq!(ended.unwrap(), 0, "the connection is closed");
}

#[tokio::test]
async fn an_insert_behind_a_proxy_that_removes_headers_is_proven_by_reading() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let (url, _lying) = lying_proxy(clickhouse.server.port, Lie::RemoveHeaders);
    let history = ClickhouseHistory::new(&ClickhouseOptions { url, ..clickhouse.database() });
    for _ in 0..2 {
        history.insert(&everything()).await.unwrap();
    }
    super::assert_holds_everything(&history).await;
}
