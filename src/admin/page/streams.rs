//! The streams, as consumed from the log.

use crate::market::{Channel, Timestamp};

use super::gaps::position_text;
use super::html::{Cell, Table, grouped, span};
use super::render::Facts;

/// Rows shown: this table is sent anew every other second. The API has all of them.
const ROWS_MAX: usize = 60;

/// One row a stream; with very many those that are silent or have open gaps come first.
pub fn streams(out: &mut String, facts: &Facts) {
    let heads =
        ["stream", "state", "last frame#", "last position#", "its time", "frames#", "late or double#", "open gaps#"];
    let caption = "as consumed from the log; frames since this process began";
    let mut table = Table::begin(out, facts.now, "streams-table", caption, &heads);
    let mut rows: Vec<_> = facts.streams.iter().collect();
    if rows.len() > ROWS_MAX {
        rows.sort_by_key(|row| row.receiving && row.open_gaps == 0);
    }
    for row in rows.iter().take(ROWS_MAX) {
        let (class, state) = if row.receiving { ("good", "receiving") } else { ("warn", "silent") };
        let gaps = if row.open_gaps > 0 { "n bad" } else { "n" };
        let channel = row.channel.parse().unwrap_or(Channel::BookTicker);
        table.row(&[
            Cell::Head(format!("{} {}", row.symbol, row.channel)),
            Cell::Mark(class, state.to_owned()),
            Cell::Number(row.age_s.map_or("never".to_owned(), |age| format!("{} ago", span(age)))),
            Cell::Number(row.last.map_or(String::new(), |at| position_text(channel, at))),
            Cell::At(row.last_ts.as_deref().and_then(Timestamp::parse)),
            Cell::Number(grouped(row.frames as f64)),
            Cell::Number(grouped(row.behind as f64)),
            Cell::Mark(gaps, row.open_gaps.to_string()),
        ]);
    }
    if rows.len() > ROWS_MAX {
        let words = format!("and {} more, in the order of trouble: /api/v1/streams has all", rows.len() - ROWS_MAX);
        table.note("dim", &words);
    }
    table.end("no feed is configured");
}
