//! The lies of REST: what it hides, what it changes, and how it refuses; and which of them are active.

use std::time::Duration;

use tokio::time::Instant;

use super::edit::Edits;
use super::rest_rows::{ANSWER_LIES, AnswerLie, ENDPOINTS, Endpoint, INFO_LIES, InfoLie, PAGE_LIES, PageLie};
use super::{Position, RetryAfter, lasting, named, position, positions, status};
use crate::market::{Interval, Symbol};

/// A lie of REST. It ends after its time; the same lie with the time `0s` ends it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestLie {
    /// `hide:BTCUSDT:1060-1069:12s`, `hide:BTCUSDT:1m:FIRST-LAST:12s`: REST serves the neighbours of these trades (or
    /// klines, by open time in milliseconds) and not them.
    Hide(Symbol, Rows),
    /// `empty:12s`, `empty:BTCUSDT:12s`: every page of trades is `[]`.
    Empty(Option<Symbol>),
    /// `young:BTCUSDT:1076:12s`: REST serves only trades from this id on.
    Young(Symbol, Position),
    /// `unknown:BTCUSDT:12s`: REST does not know the symbol (-1121), and its frames come.
    Unknown(Symbol),
    /// `row:BTCUSDT:1080:qty=1e-8:12s`, `row:BTCUSDT:1m:OPEN:4=null:12s`: rows of trades (or klines) are changed.
    Row(Symbol, Rows, Edits),
    /// `newest:BTCUSDT:1000000000000:12s`: the newest trade that REST knows has this id, and so the newest aggregate.
    Newest(Symbol, Position),
    /// `page:descending:12s`, `page:descending:historicalTrades:12s`: pages of rows are changed.
    Page(PageLie, Endpoint),
    /// `answer:html:12s`, `answer:html:historicalTrades:12s`: something else comes in place of the answer.
    Answer(AnswerLie, Endpoint),
    /// `refuse:418:date=20m:12s`: every request is refused with this status and Retry-After.
    Refuse(u16, RetryAfter),
    /// `info:limitnull:12s`: exchangeInfo is odd.
    Info(InfoLie),
}

/// Trades by id, or klines by open time in milliseconds; both ends are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Trades.
    Trades(Position, Position),
    /// Klines of an interval.
    Klines(Interval, i64, i64),
}

impl RestLie {
    /// Reads its text form, in parts, with its time; `None` for another kind.
    pub fn parse(parts: &[&str]) -> Result<Option<(Self, Duration)>, String> {
        let [kind, subject @ .., time] = parts else { return Ok(None) };
        let symbol = |name: &&str| Symbol::new(name);
        let endpoint = |name: Option<&&str>| name.map_or(Ok(Endpoint::Any), |name| named(&ENDPOINTS, name));
        let lie = match (*kind, subject) {
            ("hide", [name, rows @ ..]) if !rows.is_empty() => Self::Hide(symbol(name), read_rows(rows)?),
            ("empty", [] | [_]) => Self::Empty(subject.first().map(symbol)),
            ("young", [name, id]) => Self::Young(symbol(name), position(id)?),
            ("unknown", [name]) => Self::Unknown(symbol(name)),
            ("row", [name, rows @ .., edits]) if !rows.is_empty() => {
                Self::Row(symbol(name), read_rows(rows)?, edits.parse()?)
            }
            ("newest", [name, id]) => Self::Newest(symbol(name), position(id)?),
            ("page", [lie] | [lie, _]) => Self::Page(named(&PAGE_LIES, lie)?, endpoint(subject.get(1))?),
            ("answer", [lie] | [lie, _]) => Self::Answer(named(&ANSWER_LIES, lie)?, endpoint(subject.get(1))?),
            ("refuse", [code, retry]) => Self::Refuse(status(code)?, RetryAfter::parse(retry)?),
            ("info", [lie]) => Self::Info(named(&INFO_LIES, lie)?),
            _ => return Ok(None),
        };
        Ok(Some((lie, lasting(time)?)))
    }

    /// The symbol whose next id a position counts from.
    pub const fn counted_symbol(&self) -> Option<&Symbol> {
        match self {
            Self::Hide(symbol, _) | Self::Young(symbol, _) | Self::Row(symbol, ..) | Self::Newest(symbol, _) => {
                Some(symbol)
            }
            _ => None,
        }
    }

    /// The same lie with fixed positions, when the next id is `next`.
    pub fn resolved(&self, next: i64) -> Self {
        let fixed = |position: Position| Position::At(position.resolved(next));
        let rows = |rows: Rows| match rows {
            Rows::Trades(first, last) => Rows::Trades(fixed(first), fixed(last)),
            klines @ Rows::Klines(..) => klines,
        };
        match self {
            Self::Hide(symbol, hidden) => Self::Hide(symbol.clone(), rows(*hidden)),
            Self::Young(symbol, id) => Self::Young(symbol.clone(), fixed(*id)),
            Self::Row(symbol, changed, edits) => Self::Row(symbol.clone(), rows(*changed), edits.clone()),
            Self::Newest(symbol, id) => Self::Newest(symbol.clone(), fixed(*id)),
            other => other.clone(),
        }
    }
}

/// Reads `1060-1069`, or `1m` and `FIRST-LAST` in milliseconds.
fn read_rows(parts: &[&str]) -> Result<Rows, String> {
    let [.., range] = parts else { return Err("rows are missing".to_owned()) };
    let (first, last) = positions(range)?;
    match parts {
        [_] => Ok(Rows::Trades(first, last)),
        [interval, _] => {
            let interval = interval.parse().map_err(|()| format!("`{interval}` is not an interval"))?;
            match (first, last) {
                (Position::At(first), Position::At(last)) => Ok(Rows::Klines(interval, first, last)),
                _ => Err(format!("`{range}`: open times do not count from a trade's id")),
            }
        }
        _ => Err(format!("cannot read the rows `{}`", parts.join(":"))),
    }
}

/// The active lies of REST.
#[derive(Debug, Default)]
pub struct RestLies(Vec<(RestLie, Instant)>);

impl RestLies {
    /// Begins a lie with fixed positions, or changes the end of the same one.
    pub fn begin(&mut self, lie: RestLie, until: Instant, now: Instant) {
        self.0.retain(|(other, until)| *other != lie && *until > now);
        if until > now {
            self.0.push((lie, until));
        }
    }

    fn active(&self, now: Instant) -> impl Iterator<Item = &(RestLie, Instant)> {
        self.0.iter().filter(move |(_, until)| *until > now)
    }

    /// What REST hides and changes of a symbol.
    pub fn view(&self, symbol: &str, now: Instant) -> View {
        let mut view = View::default();
        let own = |of: &Symbol| of.as_str() == symbol;
        for (lie, _) in self.active(now) {
            match lie {
                RestLie::Hide(of, rows) if own(of) => view.hidden.push(*rows),
                RestLie::Empty(of) if of.as_ref().is_none_or(own) => view.is_empty = true,
                RestLie::Young(of, Position::At(from)) if own(of) => view.from_id = view.from_id.max(*from),
                RestLie::Unknown(of) if own(of) => view.is_unknown = true,
                RestLie::Row(of, rows, edits) if own(of) => view.changed.push((*rows, edits.clone())),
                RestLie::Newest(of, Position::At(id)) if own(of) => view.newest = Some(*id),
                _ => {}
            }
        }
        view
    }

    /// The lie about pages of this endpoint.
    pub fn page(&self, endpoint: Endpoint, now: Instant) -> Option<PageLie> {
        self.active(now).find_map(|(lie, _)| match lie {
            RestLie::Page(page, at) if at.includes(endpoint) => Some(*page),
            _ => None,
        })
    }

    /// What comes in place of this endpoint's answer, and until when.
    pub fn answer(&self, endpoint: Endpoint, now: Instant) -> Option<(AnswerLie, Instant)> {
        self.active(now).find_map(|(lie, until)| match lie {
            RestLie::Answer(answer, at) if at.includes(endpoint) => Some((*answer, *until)),
            _ => None,
        })
    }

    /// The status and Retry-After of every answer.
    pub fn refusal(&self, now: Instant) -> Option<(u16, RetryAfter)> {
        self.active(now).find_map(|(lie, _)| match lie {
            RestLie::Refuse(status, retry_after) => Some((*status, retry_after.clone())),
            _ => None,
        })
    }

    /// What is odd about exchangeInfo.
    pub fn info(&self, now: Instant) -> Option<InfoLie> {
        self.active(now).find_map(|(lie, _)| if let RestLie::Info(info) = lie { Some(*info) } else { None })
    }
}

/// What REST hides and changes of one symbol.
#[derive(Debug, Default)]
pub struct View {
    hidden: Vec<Rows>,
    changed: Vec<(Rows, Edits)>,
    from_id: i64,
    /// Whether every page of trades is empty.
    pub is_empty: bool,
    /// Whether REST does not know the symbol.
    pub is_unknown: bool,
    /// The id that the newest trade claims to have.
    pub newest: Option<i64>,
}

impl View {
    /// Whether REST serves the trade.
    pub fn shows_trade(&self, id: i64) -> bool {
        !self.is_empty && id >= self.from_id && !self.hidden.iter().any(|rows| has_trade(rows, id))
    }

    /// Whether REST serves the kline.
    pub fn shows_kline(&self, interval: Interval, open_ms: i64) -> bool {
        !self.hidden.iter().any(|rows| has_kline(rows, interval, open_ms))
    }

    /// The lowest trade id that REST serves.
    pub const fn from_id(&self) -> i64 {
        self.from_id
    }

    /// The trade's row as REST sends it.
    pub fn trade_row(&self, id: i64, row: String) -> String {
        self.changed_row(row, |rows| has_trade(rows, id))
    }

    /// The kline's row as REST sends it.
    pub fn kline_row(&self, interval: Interval, open_ms: i64, row: String) -> String {
        self.changed_row(row, |rows| has_kline(rows, interval, open_ms))
    }

    fn changed_row(&self, row: String, concerns: impl Fn(&Rows) -> bool) -> String {
        let edits = self.changed.iter().filter(|(rows, _)| concerns(rows));
        // A row without the field stays as it is.
        edits.fold(row, |row, (_, edits)| edits.apply(&row, 0).unwrap_or(row))
    }
}

fn has_trade(rows: &Rows, id: i64) -> bool {
    matches!(rows, Rows::Trades(Position::At(first), Position::At(last)) if (*first..=*last).contains(&id))
}

fn has_kline(rows: &Rows, interval: Interval, open_ms: i64) -> bool {
    matches!(rows, Rows::Klines(of, first, last) if *of == interval && (*first..=*last).contains(&open_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(texts: &[&str]) -> (RestLies, Instant) {
        let (mut lies, now) = (RestLies::default(), Instant::now());
        for text in texts {
            let parts: Vec<&str> = text.split(':').collect();
            let (lie, time) = RestLie::parse(&parts).unwrap().unwrap();
            lies.begin(lie.resolved(500), now + time, now);
        }
        (lies, now)
    }

    #[test]
    fn hidden_rows_are_shown_again_after_the_time() {
        let (lies, now) = begun(&["hide:BTCUSDT:+0-+9:12s", "hide:BTCUSDT:1m:60000-120000:ever"]);
        let view = lies.view("BTCUSDT", now);
        let shown: Vec<i64> = (498..513).filter(|id| view.shows_trade(*id)).collect();
        assert_eq!(shown, [498, 499, 510, 511, 512]);
        assert!(!view.shows_kline(Interval::M1, 120_000) && view.shows_kline(Interval::M1, 180_000));
        assert!(view.shows_kline(Interval::M5, 60_000));
        let later = lies.view("BTCUSDT", now + Duration::from_secs(12));
        assert!(later.shows_trade(500) && !later.shows_kline(Interval::M1, 60_000));
        assert!(lies.view("ETHUSDT", now).shows_trade(500));
    }

    #[test]
    fn the_same_lie_with_no_time_ends_it() {
        let (lies, now) = begun(&["empty:12s", "unknown:BTCUSDT:5s", "empty:0s"]);
        let view = lies.view("BTCUSDT", now);
        assert!(!view.is_empty && view.is_unknown);
    }

    #[test]
    fn a_row_is_changed_and_its_neighbours_are_not() {
        let (lies, now) = begun(&["row:BTCUSDT:1080:qty=1e-8:5s", "young:BTCUSDT:1079:5s"]);
        let view = lies.view("BTCUSDT", now);
        let row = r#"{"id":1,"qty":"2"}"#;
        assert_eq!(view.trade_row(1080, row.to_owned()), r#"{"id":1,"qty":"1e-8"}"#);
        assert_eq!(view.trade_row(1081, row.to_owned()), row);
        assert!(!view.shows_trade(1078) && view.shows_trade(1079));
    }

    #[test]
    fn a_lie_about_one_endpoint_spares_the_others() {
        let (lies, now) = begun(&["page:descending:historicalTrades:5s", "answer:html:time:5s", "refuse:418:20m:5s"]);
        assert_eq!(lies.page(Endpoint::HistoricalTrades, now), Some(PageLie::Descending));
        assert_eq!(lies.page(Endpoint::Klines, now), None);
        assert!(lies.answer(Endpoint::Time, now).is_some() && lies.answer(Endpoint::Klines, now).is_none());
        assert_eq!(lies.refusal(now), Some((418, RetryAfter::Seconds(Duration::from_secs(1_200)))));
    }
}
