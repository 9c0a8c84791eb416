//! The page is complete without JavaScript, reports what it cannot read, and escapes every text from outside.

use super::{NOW, Served};
use crate::admin::AdminOptions;
use crate::gap::{Evidence, Gap, Range};
use crate::history::{Batch, JobRun};
use crate::market::{Stream, Timestamp};

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_on_the_page() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    served.state.health.degraded("cache", "redis is down");
    let page = served.text("/").await;
    for title in ["Notices", "The last hour", "Coverage", "Gaps", "Jobs", "Stores and connections", "Streams"] {
        assert!(page.contains(&format!(">{title}</h2>")), "{title} is missing");
    }
    let unexplained = "2026-09-21: open gap, 3 rows missing without a gap";
    let parts =
        ["1.5 s ago", ">cache</b> redis is down", "state-snapshot", "no gap was ever found", unexplained, "history.db"];
    for part in parts {
        assert!(page.contains(part), "{part} is missing in\n{page}");
    }
    assert!(!page.contains("src=") && !page.contains("http-equiv"), "the page loads something");
    for tag in ["table", "tr", "ul", "li", "div", "section", "svg", "g", "p", "span", "form", "button", "figure", "dl"]
    {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_problems_there_are_no_action_items() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=8).await;
    served.store("binance:ETHUSDT:trade", 1..=8).await;
    let page = served.text("/").await;
    assert!(page.contains("<title>Tapekeeper: recording</title>"), "{page}");
    assert!(page.contains("<div id=\"action-items\" aria-live=\"polite\"></div>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_allows_only_the_pages_own_script_and_style() {
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
    assert_ne!(nonces[0], nonces[1], "the nonce repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_become_markup() {
    let evil = "<script>alert(1)</script>";
    let stream: Stream = format!("binance:{evil}:trade").parse().unwrap();
    let served = Served::with(AdminOptions::default(), &[&stream.to_string()]).await;
    let evidence = Evidence { by: "<img src=x>".to_owned(), ..Evidence::default() };
    let mut gap = Gap::open(stream, Range { first: 1, last: 2 }, evidence, Timestamp(1));
    gap.reason = "\"><b onmouseover='x'>".to_owned();
    served.history.put_run(&run("skipped", 1, None, evil)).await.unwrap();
    served.history.insert(&Batch { gaps: vec![gap], token: "g".to_owned(), ..Batch::default() }).await.unwrap();
    served.store(&format!("binance:{evil}:trade"), 1..=2).await;
    served.state.health.degraded(evil, evil);
    let page = served.text("/").await;
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; trade"), "{page}");
    for markup in [evil, "<img", "<b onmouseover"] {
        assert!(!page.contains(markup), "{markup} got through");
    }
    // The API sends the name unchanged: it is JSON, and browsers do not render it.
    assert_eq!(served.get("/api/v1/streams").await.1[0]["symbol"], evil);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_reports_what_it_cannot_read() {
    let served = Served::start().await;
    served.faults.set_outage(true);
    let page = served.text("/").await;
    assert!(page.contains("the gap ledger cannot be read"), "{page}");
    assert!(page.contains("history cannot be counted"), "{page}");
    assert!(!page.contains("no gap was ever found"), "{page}");
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

/// A run that started `seconds_ago` and took `took_s`; without it the run never started.
fn run(outcome: &str, seconds_ago: i64, took_s: Option<i64>, reason: &str) -> JobRun {
    let at = NOW.micros() - seconds_ago * 1_000_000;
    JobRun {
        run_id: format!("{outcome}-{seconds_ago}"),
        job: "state-snapshot".to_owned(),
        trigger: "schedule".to_owned(),
        scheduled_at: at,
        started_at: took_s.map(|_| at),
        finished_at: took_s.map(|took| at + took * 1_000_000),
        attempt: 1,
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        window: None,
        report: String::new(),
        recorder: "lab".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_shows_past_skipped_and_next_runs() {
    let served = Served::start().await;
    let runs = [
        run("succeeded", 3_000, Some(120), ""),
        run("succeeded", 300, Some(0), ""),
        run("succeeded", 299, Some(0), ""),
        run("failed", 200, Some(1), "no disk"),
        run("timed_out", 180, Some(5), ""),
        run("cancelled", 160, Some(1), ""),
        run("skipped", 140, None, "it still runs"),
        run("deferred", 120, None, "it requires history.connected"),
        run("succeeded", 4_000, Some(1), ""),
    ];
    for run in &runs {
        served.history.put_run(run).await.unwrap();
    }
    let page = served.text("/").await;
    let lane = page.split("<svg class=\"lane\"").nth(1).unwrap().split("</svg>").next().unwrap();
    let said = "aria-label=\"state-snapshot: 3 succeeded, 1 skipped, 1 deferred, 1 cancelled, 1 timed out, 1 failed in the last \
                hour\"";
    assert!(lane.contains(said), "{lane}");
    let count = |class: &str| lane.matches(&format!("<g class=\"o-{class}\">")).count();
    // Two runs at the same place are one mark, and a run before the last hour is not drawn.
    assert_eq!(["succeeded", "failed", "timed_out", "cancelled", "skipped", "deferred"].map(count), [2, 1, 1, 1, 1, 1]);
    for words in
        ["from 14:08:20: 2 runs succeeded", "failed in 1.0 s: no disk", "skipped: it still runs", "succeeded in 2 min"]
    {
        assert!(lane.contains(words), "{words} is missing in {lane}");
    }
    // The lane covers 4,200 s and starts 3,600 s ago; the run started 3,000 s ago.
    assert!(lane.contains("<rect x=\"14.29%\"") && lane.contains("width=\"2.86%\""), "{lane}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_come_first_and_are_drawn_at_their_minutes() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", (1..=9).chain(20..=29)).await;
    served.store("binance:ETHUSDT:trade", 1..=9).await;
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let evidence = Evidence { by: "neighbour".to_owned(), previous: Some(9), next: Some(20), ..Evidence::default() };
    let found = NOW.plus_micros(-7_200_000_000);
    let mut gap = Gap::open(stream, Range { first: 10, last: 19 }, evidence, found);
    (gap.from_ts, gap.to_ts) = (Some(found), Some(found.plus_micros(90_000_000)));
    assert!(gap.advance(crate::gap::GapState::Unrecoverable, "no longer served", NOW.plus_micros(-3_600_000_000)));
    served.history.insert(&Batch { gaps: vec![gap], token: "g".to_owned(), ..Batch::default() }).await.unwrap();
    let page = served.text("/").await;
    assert!(page.contains("<title>(1) Tapekeeper: recording, 1 problem</title>"), "{page}");
    let items = page.split("<div id=\"action-items\"").nth(1).unwrap().split("<section").next().unwrap();
    assert!(items.contains("10 rows were lost in the last day") && items.contains("no longer served"), "{items}");
    for words in ["10 rows lost", ": lost</title><rect", "by neighbour: after 9 came 20", "closed after 1.0 h"] {
        assert!(page.contains(words), "{words} is missing in\n{page}");
    }
    let strip = page.split("aria-label=\"today: ").nth(1).unwrap();
    assert!(strip.starts_with("1 minute complete, 2 minutes lost\""), "{}", &strip[..80]);
}
