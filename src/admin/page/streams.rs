//! The table of streams, as the consumer reads them from the log.

use maud::Markup;

use crate::admin::status_model::StreamView;
use crate::market::{Channel, Timestamp};

use super::facts::Facts;
use super::format::{grouped, span};
use super::gaps::position_text;
use super::html::{Cell, Table};

/// Rows shown: the page receives this table again every other second. The API returns all of them.
const ROWS_MAX: usize = 60;

/// One row a stream. When there are more than [`ROWS_MAX`], streams that do not receive or have open gaps come first.
pub fn streams(facts: &Facts) -> Markup {
    let mut streams: Vec<&StreamView> = facts.streams.iter().collect();
    let mut note = streams.is_empty().then(|| "no feed is configured".to_owned());
    if streams.len() > ROWS_MAX {
        streams.sort_by_key(|stream| stream.state == "receiving" && stream.open_gaps == 0);
        note = Some(format!("and {} more: /api/v1/streams has all", streams.len() - ROWS_MAX));
    }
    let table = Table {
        id: "streams-table",
        caption: "as consumed from the log; frames since this process started",
        heads: &[
            "stream",
            "state",
            "last frame#",
            "last position#",
            "its time",
            "frames#",
            "late or double#",
            "open gaps#",
        ],
        rows: streams.into_iter().take(ROWS_MAX).map(row).collect(),
        note,
    };
    table.markup(facts.now)
}

fn row(stream: &StreamView) -> Vec<Cell> {
    let class = match stream.state {
        "receiving" => "good",
        "quiet" | "not_trading" | "ended" => "dim",
        "refused" => "bad",
        _ => "warn",
    };
    let state = stream.state.replace('_', " ");
    let gaps = if stream.open_gaps > 0 { "n bad" } else { "n" };
    let channel = stream.channel.parse().unwrap_or(Channel::BookTicker);
    vec![
        Cell::Head(format!("{} {}", stream.symbol, stream.channel)),
        Cell::Mark(class, state),
        Cell::Number(stream.age_s.map_or("never".to_owned(), |age| format!("{} ago", span(age)))),
        Cell::Number(stream.last.map_or(String::new(), |at| position_text(channel, at))),
        Cell::At(stream.last_ts.as_deref().and_then(Timestamp::parse)),
        Cell::Number(grouped(stream.frames as f64)),
        Cell::Number(grouped(stream.behind as f64)),
        Cell::Mark(gaps, stream.open_gaps.to_string()),
    ]
}
