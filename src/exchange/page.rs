//! One page of rows as the exchange answers it: an element that cannot be read costs that element only.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{DecodeError, json_parts};
use crate::gap::Range;
use crate::market::Timestamp;

/// Most refused elements that one page keeps: as many as a page has rows.
const REFUSED_MAX: usize = 1_000;
/// Most bytes of a refused element that are kept; a row has some 200.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The rows of one answer, ascending by position and one per position, and the elements that are not rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Trades by id, klines by open time.
    pub rows: Vec<T>,
    /// In the order of the answer, at most 1,000. The elements are no proof of absence: the exchange does serve them.
    pub refused: Vec<RefusedRow>,
    /// The last instant of the page in the exchange's own words, where it pages by time and its instants are finer than ours.
    pub end: Option<String>,
    /// Positions that the exchange has and that none of its pages shows, and why.
    pub unreachable: Option<(Range, String)>,
}

/// An element of an answer that is not a row that we can store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its position (trade id; open time in microseconds) when that is readable and plausible, or when its neighbours
    /// leave no other.
    pub position: Option<i64>,
    /// The element's bytes as sent, at most 64 KiB of them.
    pub payload: Bytes,
    /// Why it is refused, in words.
    pub reason: String,
    /// The page also has a readable row of this position, with other content, and that row is kept.
    pub is_conflict: bool,
}

/// Why one element is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) position: Option<i64>,
    pub(super) reason: String,
}

/// A row that has a position.
pub(super) trait Positioned: PartialEq {
    /// Trade id, or open time in microseconds.
    fn position(&self) -> i64;
}

impl Positioned for crate::market::Trade {
    fn position(&self) -> i64 {
        self.id
    }
}

impl Positioned for crate::market::Kline {
    fn position(&self) -> i64 {
        self.open_time.micros()
    }
}

impl<T> Page<T> {
    /// Keeps what lies in `range`: a server may ignore the request. Refused elements without a position stay.
    pub(super) fn retain(&mut self, range: Range, position: impl Fn(&T) -> i64) {
        self.rows.retain(|row| range.contains(position(row)));
        self.refused.retain(|row| row.position.is_none_or(|at| range.contains(at)));
    }

    /// Every position that the exchange serves, ascending, with its time: those of the rows, as `of` returns them, and the
    /// refused ones, each with the time of the row before it.
    pub fn positions(&self, of: impl Fn(&T) -> (i64, Timestamp)) -> Vec<(i64, Timestamp)> {
        let mut positions: BTreeMap<i64, Timestamp> = self.rows.iter().map(of).collect();
        for position in self.refused.iter().filter_map(|row| row.position) {
            let before = positions.range(..position).next_back().or_else(|| positions.first_key_value());
            let at = before.map_or(Timestamp(0), |(_, at)| *at);
            positions.entry(position).or_insert(at);
        }
        positions.into_iter().collect()
    }

    /// A page without an element.
    pub(super) const fn empty() -> Self {
        Self { rows: Vec::new(), refused: Vec::new(), end: None, unreachable: None }
    }

    /// Whether the exchange serves nothing in the requested range, not even an element that we refuse.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.refused.is_empty()
    }
}

/// Reads each element of a list with `read`. Of two rows with one position and different content the second is
/// refused. Elements that show no position get the one that their neighbours leave them: two positions that are `step`
/// apart times the number of elements between them.
///
/// An error when the answer is not a list, is cut off, or has elements of which none shows even a position: that is
/// another document, not a page with bad rows.
pub(super) fn read_page<T: Positioned>(
    what: &'static str,
    body: &[u8],
    step: i64,
    read: impl Fn(&[u8]) -> Result<T, Refusal>,
) -> Result<Page<T>, DecodeError> {
    let mut rows: BTreeMap<i64, T> = BTreeMap::new();
    let mut refused: Vec<RefusedRow> = Vec::new();
    let mut shows_a_position = false;
    let mut unplaced = Unplaced { step, before: None, first: 0, count: 0 };
    for element in json_parts::array_elements(what, body)? {
        let element = element?;
        let (refusal, is_conflict) = match read(element) {
            Ok(row) => {
                unplaced.place_before(row.position(), &mut refused);
                match rows.get(&row.position()) {
                    None => {
                        rows.insert(row.position(), row);
                        continue;
                    }
                    Some(first) if *first == row => continue,
                    Some(_) => {
                        let reason = "the same answer has this position with other content".to_owned();
                        (Refusal { position: Some(row.position()), reason }, true)
                    }
                }
            }
            Err(refusal) => {
                match refusal.position {
                    Some(position) => unplaced.place_before(position, &mut refused),
                    None => unplaced.add(refused.len()),
                }
                (refusal, false)
            }
        };
        shows_a_position |= refusal.position.is_some();
        if refused.len() < REFUSED_MAX {
            refused.push(refused_row(element, refusal, is_conflict));
        }
    }
    if rows.is_empty()
        && !shows_a_position
        && let Some(first) = refused.first()
    {
        return Err(DecodeError { what, why: format!("none of its elements is a row: {}", first.reason) });
    }
    // A readable row may follow the unreadable element of the same position.
    for row in &mut refused {
        row.is_conflict |= row.position.is_some_and(|position| rows.contains_key(&position));
    }
    Ok(Page { rows: rows.into_values().collect(), refused, end: None, unreachable: None })
}

/// The readable elements of a list; an error when it has elements and none is readable.
pub(super) fn readable<T>(
    what: &'static str,
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let (mut rows, mut refused) = (Vec::new(), None);
    for element in json_parts::array_elements(what, body)? {
        match read(element?) {
            Ok(row) => rows.push(row),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if rows.is_empty() => Err(error),
        _ => Ok(rows),
    }
}

/// How many positions of `range` one page has, at most `rows_max`, and the last of them.
pub(super) fn first_page(range: Range, step: i64, rows_max: i64) -> (i64, i64) {
    let rows = range.len(step).clamp(1, rows_max);
    (rows, range.last.min(range.first.saturating_add((rows - 1).saturating_mul(step))))
}

/// The elements without a position since the last one that has one.
struct Unplaced {
    step: i64,
    /// The last position.
    before: Option<i64>,
    /// Index of the first of them among the refused.
    first: usize,
    count: usize,
}

impl Unplaced {
    fn add(&mut self, index: usize) {
        if self.count == 0 {
            self.first = index;
        }
        self.count += 1;
    }

    /// An element with this position follows.
    fn place_before(&mut self, position: i64, refused: &mut [RefusedRow]) {
        let steps = i64::try_from(self.count).unwrap_or(i64::MAX).saturating_add(1);
        if let Some(before) = self.before
            && position.checked_sub(before) == self.step.checked_mul(steps)
        {
            let places = (1..steps).map(|steps| before + steps * self.step);
            for (row, place) in refused.iter_mut().skip(self.first).take(self.count).zip(places) {
                row.position = Some(place);
            }
        }
        (self.before, self.count) = (Some(position), 0);
    }
}

fn refused_row(element: &[u8], refusal: Refusal, is_conflict: bool) -> RefusedRow {
    let Refusal { position, mut reason } = refusal;
    let kept = &element[..element.len().min(PAYLOAD_BYTES_MAX)];
    if kept.len() < element.len() {
        reason = format!("{reason}; only the first {PAYLOAD_BYTES_MAX} of its {} bytes are kept", element.len());
    }
    RefusedRow { position, payload: Bytes::copy_from_slice(kept), reason, is_conflict }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row is its own position; negative numbers and text are unreadable.
    #[derive(Debug, PartialEq, Eq)]
    struct Row(i64, String);

    impl Positioned for Row {
        fn position(&self) -> i64 {
            self.0
        }
    }

    fn page(body: &str) -> Result<Page<Row>, DecodeError> {
        read_page("numbers", body.as_bytes(), 1, |element| {
            let text = std::str::from_utf8(element).unwrap();
            let (number, content) = text.split_once('/').unwrap_or((text, ""));
            match number.parse::<i64>() {
                Ok(number) if content != "bad" => Ok(Row(number, content.to_owned())),
                Ok(number) => Err(Refusal { position: Some(number), reason: "bad".to_owned() }),
                Err(error) => Err(Refusal { position: None, reason: error.to_string() }),
            }
        })
    }

    fn positions(page: &Page<Row>) -> (Vec<i64>, Vec<(Option<i64>, bool)>) {
        let refused = page.refused.iter().map(|row| (row.position, row.is_conflict)).collect();
        (page.rows.iter().map(|row| row.0).collect(), refused)
    }

    #[test]
    fn a_bad_element_costs_itself_only() {
        let page = page("[1,2,x,4/bad,5]").unwrap();
        assert_eq!(positions(&page), (vec![1, 2, 5], vec![(Some(3), false), (Some(4), false)]));
        assert_eq!(page.refused[1].payload, "4/bad");
    }

    #[test]
    fn an_element_without_a_position_gets_the_one_that_its_neighbours_leave() {
        let places = |body: &str| positions(&page(body).unwrap()).1.into_iter().map(|row| row.0).collect::<Vec<_>>();
        assert_eq!(places("[1,x,3]"), [Some(2)]);
        assert_eq!(places("[1,x,y,4,z,6/bad]"), [Some(2), Some(3), Some(5), Some(6)]);
        assert_eq!(places("[1,x,4]"), [None], "it may be 2 or 3");
        assert_eq!(places("[1,x,y,3]"), [None, None]);
        assert_eq!(places("[x,1,2,y]"), [None, None]);
        assert_eq!(places("[3,x,1]"), [None]);
    }

    #[test]
    fn rows_are_sorted_and_one_per_position() {
        assert_eq!(positions(&page("[5,3,3,4]").unwrap()), (vec![3, 4, 5], vec![]));
        let page = page("[3/a,3/b,2/bad,2]").unwrap();
        assert_eq!(positions(&page), (vec![2, 3], vec![(Some(3), true), (Some(2), true)]));
        assert_eq!((page.rows[1].1.as_str(), &page.refused[0].payload[..]), ("a", &b"3/b"[..]));
    }

    #[test]
    fn what_was_not_asked_for_is_dropped() {
        let mut page = page("[1,2,3,9,0/bad,2/bad,x]").unwrap();
        page.retain(Range { first: 2, last: 3 }, |row| row.0);
        assert_eq!(positions(&page), (vec![2, 3], vec![(Some(2), true), (None, false)]));
        assert!(!page.is_empty());
    }

    #[test]
    fn a_refused_position_is_served() {
        let page = page("[1,2/bad,4,0/bad,x]").unwrap();
        let positions = page.positions(|row| (row.0, Timestamp(row.0 * 10)));
        assert_eq!(positions, [(0, 10), (1, 10), (2, 10), (4, 40)].map(|(position, at)| (position, Timestamp(at))));
    }

    #[test]
    fn another_document_is_not_a_page() {
        for body in ["{}", "[x]", "[x,y]", "[1,2", "<html>"] {
            assert!(page(body).is_err(), "{body}");
        }
        assert_eq!(positions(&page("[1/bad]").unwrap()), (vec![], vec![(Some(1), false)]));
        assert!(page("[]").unwrap().is_empty());
    }

    #[test]
    fn refused_elements_are_bounded() {
        let long = "y".repeat(PAYLOAD_BYTES_MAX + 1);
        let page = page(&format!("[1,{long}{}]", ",x".repeat(3 * REFUSED_MAX))).unwrap();
        assert_eq!(page.refused.len(), REFUSED_MAX);
        assert_eq!(page.refused[0].payload.len(), PAYLOAD_BYTES_MAX);
        assert!(page.refused[0].reason.contains("bytes are kept"), "{}", page.refused[0].reason);
    }
}
