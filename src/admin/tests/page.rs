//! The page: whole without JavaScript, honest when something cannot be read, and never a stranger's markup.

use super::Served;
use crate::admin::AdminOptions;
use crate::gap::{Evidence, Gap, Range};
use crate::history::Batch;
use crate::market::{Stream, Timestamp};

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_on_the_page() {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", [1, 2, 3, 7, 8]).await;
    served.desk.health.degraded("cache", "redis is away");
    let page = served.text("/").await;
    for title in ["Coverage", "Streams", "Gaps", "Jobs", "Stores and connections"] {
        assert!(page.contains(&format!(">{title}</h2>")), "{title} is missing");
    }
    for part in ["5 of 8 stored", "1.5 s ago", "<b>cache</b>: redis is away", "state-snapshot", "none was ever found"] {
        assert!(page.contains(part), "{part} is missing in\n{page}");
    }
    assert!(!page.contains("src=") && !page.contains("http-equiv"), "nothing is loaded from anywhere");
    assert_eq!(page.matches("<table>").count(), page.matches("</table>").count());
    assert_eq!(page.matches("<tr>").count(), page.matches("</tr>").count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_become_markup() {
    let evil = "<script>alert(1)</script>";
    let stream: Stream = format!("binance:{evil}:trade").parse().unwrap();
    let served = Served::with(AdminOptions::default(), &[&stream.to_string()]).await;
    let evidence = Evidence { by: "<img src=x>".to_owned(), ..Evidence::default() };
    let mut gap = Gap::open(stream, Range { first: 1, last: 2 }, evidence, Timestamp(1));
    gap.reason = "\"><b onmouseover='x'>".to_owned();
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
    assert!(open < page.find(">filled<").unwrap());
}
