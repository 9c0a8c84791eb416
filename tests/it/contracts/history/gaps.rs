//! Rows of the gap ledger: versions, filters, pages.

use tapekeeper::gap::{Evidence, Gap, GapState, Range};
use tapekeeper::history::{Batch, GapFilter, each_gap};

use super::rows::stream;
use super::{HistoryStore, filter};
use crate::contracts::{NOON, symbol};

pub async fn the_highest_version_of_a_gap_is_read(store: &dyn HistoryStore) {
    let history = store.open();
    let put = async |gap: &Gap| {
        history.insert(&Batch { gaps: vec![gap.clone()], ..Batch::default() }).await.unwrap();
    };
    let evidence = Evidence {
        by: "neighbour".to_owned(),
        previous: Some(4),
        next: Some(10),
        partition: Some(0),
        offset: Some(77),
        connection: Some(3),
        replaces: vec!["an older row".to_owned()],
        ..Evidence::default()
    };
    let mut gap = Gap::open(stream("BTCUSDT", "trade"), Range { first: 5, last: 9 }, evidence, NOON);
    gap.from_ts = Some(NOON.plus_micros(-5));
    put(&gap).await;
    let found = gap.clone();
    gap.attempts = 1;
    assert!(gap.advance(GapState::Filling, "requested from the exchange", NOON.plus_micros(1)));
    put(&gap).await;
    assert_eq!(history.gaps(&filter(true, None, 0)).await.unwrap(), [gap.clone()]);
    // An old version that arrives late changes nothing.
    put(&found).await;
    assert_eq!(history.gaps(&filter(true, None, 0)).await.unwrap(), [gap.clone()]);
    gap.count_filled(5, "rest", NOON.plus_micros(2));
    gap.to_ts = Some(NOON);
    assert!(gap.advance(GapState::Filled, "", NOON.plus_micros(2)));
    put(&gap).await;
    assert_eq!(history.gaps(&filter(true, None, 0)).await.unwrap(), []);
    assert_eq!(history.gaps(&filter(false, None, 0)).await.unwrap(), [gap.clone()]);

    // Newest first, by symbol, and at most the limit.
    let mut others = Vec::new();
    for number in 1..4 {
        let range = Range { first: number, last: number };
        let name = if number == 2 { "BTCUSDT" } else { "ETHUSDT" };
        others.push(Gap::open(stream(name, "kline_1m"), range, Evidence::default(), NOON.plus_micros(number)));
    }
    history.insert(&Batch { gaps: others.clone(), ..Batch::default() }).await.unwrap();
    let [first, second, third] = others.try_into().unwrap();
    let listed = history.gaps(&filter(false, None, 3)).await.unwrap();
    assert_eq!(listed, [third.clone(), second.clone(), first.clone()]);
    let of_btc = history.gaps(&filter(false, Some(symbol("BTCUSDT")), 0)).await.unwrap();
    assert_eq!(of_btc, [second.clone(), gap.clone()]);
    let open_of_eth = history.gaps(&filter(true, Some(symbol("ETHUSDT")), 1)).await.unwrap();
    assert_eq!(open_of_eth, std::slice::from_ref(&third));

    // By state, stream and range, and after another one.
    let selected = async |filter: GapFilter| -> Vec<String> {
        history.gaps(&filter).await.unwrap().into_iter().map(|gap| gap.gap_id).collect()
    };
    let all = [third.gap_id.clone(), second.gap_id.clone(), first.gap_id.clone(), gap.gap_id.clone()];
    let default = GapFilter::default;
    let states = vec![GapState::Filled, GapState::Refused];
    assert_eq!(selected(GapFilter { states, ..default() }).await, all[3..]);
    assert_eq!(selected(GapFilter::unfilled()).await, all[..3]);
    assert_eq!(selected(GapFilter::verdicts()).await, [""; 0]);
    let of_stream = |name: &str, channel: &str| Some(stream(name, channel));
    assert_eq!(selected(GapFilter { stream: of_stream("BTCUSDT", "kline_1m"), ..default() }).await, all[1..2]);
    assert_eq!(selected(GapFilter { stream: of_stream("BTCUSDT", "trade"), ..default() }).await, all[3..]);
    let range = |first, last| GapFilter { range: Range::new(first, last), ..default() };
    assert_eq!(selected(range(3, 5)).await, [all[0].clone(), all[3].clone()]);
    assert_eq!(selected(range(6, 8)).await, all[3..], "inside the gap");
    assert_eq!(selected(range(10, 99)).await, [""; 0]);
    let after = |gap: &Gap| GapFilter { after: Some((gap.detected_at, gap.gap_id.clone())), limit: 2, ..default() };
    assert_eq!(selected(after(&third)).await, all[1..3]);
    assert_eq!(selected(after(&first)).await, all[3..]);
    assert_eq!(selected(after(&gap)).await, [""; 0]);
}

pub async fn gaps_are_read_in_pages(store: &dyn HistoryStore) {
    let history = store.open();
    // Many of one instant, so that pages end between them.
    let gap = |number: i64| {
        let at = NOON.plus_micros(number / 700);
        Gap::open(stream("BTCUSDT", "trade"), Range { first: number, last: number }, Evidence::default(), at)
    };
    for number in [0_i64, 1_000, 2_000] {
        let gaps = (number..number + 1_000).map(gap).collect();
        history.insert(&Batch { gaps, ..Batch::default() }).await.unwrap();
    }
    let listed: Vec<Gap> = history.gaps(&GapFilter::default()).await.unwrap();
    let mut read = Vec::new();
    each_gap(&*history, GapFilter::unfilled(), |gap| read.push(gap)).await.unwrap();
    assert!(read.len() == 3_000 && read == listed, "{} of {} gaps", read.len(), listed.len());
    let mut none = 0;
    each_gap(&*history, GapFilter::verdicts(), |_| none += 1).await.unwrap();
    assert_eq!(none, 0);
}
