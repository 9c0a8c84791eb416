//! The page: whole without JavaScript, honest when something cannot be read, and never a stranger's markup.

use super::{NOW, Served};
use crate::admin::AdminOptions;
use crate::gap::{Evidence, Gap, Range};
use crate::history::{Batch, JobRun};
use crate::market::{Stream, Timestamp};

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_on_the_page() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    served.desk.health.degraded("cache", "redis is away");
    let page = served.text("/").await;
    for title in ["Worth a look", "The last hour", "Coverage", "Gaps", "Jobs", "Stores and connections", "Streams"] {
        assert!(page.contains(&format!(">{title}</h2>")), "{title} is missing");
    }
    let unexplained = "2026-09-21: open gap, 3 holes that no gap names";
    let parts =
        ["1.5 s ago", ">cache</b> redis is away", "state-snapshot", "none was ever found", unexplained, "history.db"];
    for part in parts {
        assert!(page.contains(part), "{part} is missing in\n{page}");
    }
    assert!(!page.contains("src=") && !page.contains("http-equiv"), "nothing is loaded from anywhere");
    for tag in ["table", "tr", "ul", "li", "div", "section", "svg", "g", "p", "span", "form", "button", "figure", "dl"]
    {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_needs_a_person_nothing_is_said() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=8).await;
    served.store("binance:ETHUSDT:trade", 1..=8).await;
    let page = served.text("/").await;
    assert!(page.contains("<title>Tapekeeper: recording</title>"), "{page}");
    assert!(page.contains("<div id=\"needs\" aria-live=\"polite\"></div>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_or_styles_but_what_stands_in_the_page() {
    let served = Served::start().await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let answer = served.http.get(served.url("/")).send().await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        let page = answer.text().await.unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert!(page.contains(&format!("<script nonce=\"{nonce}\">")), "{policy}");
        let body = page.split("</style>").nth(1).unwrap().split("<script").next().unwrap();
        for inline in [" style=", " onclick=", " onload=", " onerror=", "javascript:"] {
            assert!(!body.contains(inline), "{inline}");
        }
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1], "a nonce that repeats is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_become_markup() {
    let evil = "<script>alert(1)</script>";
    let stream: Stream = format!("binance:{evil}:trade").parse().unwrap();
    let served = Served::with(AdminOptions::default(), &[&stream.to_string()]).await;
    let evidence = Evidence { by: "<img src=x>".to_owned(), ..Evidence::default() };
    let mut gap = Gap::open(stream, Range { first: 1, last: 2 }, evidence, Timestamp(1));
    gap.reason = "\"><b onmouseover='x'>".to_owned();
    let run = JobRun {
        run_id: "1".to_owned(),
        job: "state-snapshot".to_owned(),
        trigger: "manual".to_owned(),
        scheduled_at: NOW.micros() - 1_000_000,
        started_at: None,
        finished_at: None,
        attempt: 1,
        outcome: "skipped".to_owned(),
        reason: evil.to_owned(),
        window: None,
        report: String::new(),
    };
    served.history.put_run(&run).await.unwrap();
    served.history.insert(&Batch { gaps: vec![gap], token: "g".to_owned(), ..Batch::default() }).await.unwrap();
    served.store(&format!("binance:{evil}:trade"), 1..=2).await;
    served.desk.health.degraded(evil, evil);
    let page = served.text("/").await;
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; trade"), "{page}");
    for markup in [evil, "<img", "<b onmouseover"] {
        assert!(!page.contains(markup), "{markup} got through");
    }
    // In the API text is text: JSON, and no browser sniffs it.
    assert_eq!(served.get("/api/v1/streams").await.1[0]["symbol"], evil);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_is_not_nothing() {
    let served = Served::start().await;
    served.faults.set_outage(true);
    let page = served.text("/").await;
    assert!(page.contains("the gap ledger cannot be read"), "{page}");
    assert!(page.contains("history cannot be counted"), "{page}");
    assert!(!page.contains("none was ever found"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_open_gap_is_shown_before_newer_closed_ones() {
    let served = Served::start().await;
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let gap = |first: i64, at: i64| {
        Gap::open(stream.clone(), Range { first, last: first }, Evidence::default(), Timestamp(at))
    };
    let mut gaps = vec![gap(77_001, 1)];
    for at in 2..60 {
        let mut closed = gap(at, at);
        assert!(closed.advance(crate::gap::GapState::Filled, "", Timestamp(at)));
        gaps.push(closed);
    }
    served.history.insert(&Batch { gaps, token: "g".to_owned(), ..Batch::default() }).await.unwrap();
    let page = served.text("/").await;
    let open = page.find("77001").expect("the open gap is shown");
    assert!(open < page.find("</span> filled</span>").unwrap());
    assert!(page.contains("1 gap is open for longer than 10 min"), "{page}");
}
