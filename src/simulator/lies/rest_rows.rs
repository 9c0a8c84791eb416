//! What REST sends in place of the right answer: pages of wrong rows, an odd listing, or no JSON at all.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::edit::Edits;

/// A path of REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// All of them.
    Any,
    /// `/api/v3/ping`.
    Ping,
    /// `/api/v3/time`.
    Time,
    /// `/api/v3/exchangeInfo`.
    ExchangeInfo,
    /// `/api/v3/klines`.
    Klines,
    /// `/api/v3/aggTrades`.
    AggTrades,
    /// `/api/v3/historicalTrades`.
    HistoricalTrades,
    /// `/api/v3/trades`.
    Trades,
}

/// Every endpoint, with its name in paths.
pub const ENDPOINTS: [(Endpoint, &str, &str); 8] = [
    (Endpoint::Any, "any", "every path"),
    (Endpoint::Ping, "ping", ""),
    (Endpoint::Time, "time", ""),
    (Endpoint::ExchangeInfo, "exchangeInfo", ""),
    (Endpoint::Klines, "klines", ""),
    (Endpoint::AggTrades, "aggTrades", ""),
    (Endpoint::HistoricalTrades, "historicalTrades", ""),
    (Endpoint::Trades, "trades", ""),
];

impl Endpoint {
    /// Whether a lie about this endpoint concerns the other.
    pub fn includes(self, other: Self) -> bool {
        self == Self::Any || self == other
    }

    /// The field that identifies a row.
    const fn id_field(self) -> &'static str {
        match self {
            Self::AggTrades => "a",
            Self::Klines => "0",
            _ => "id",
        }
    }

    /// The field with a row's price.
    const fn price_field(self) -> &'static str {
        match self {
            Self::AggTrades => "p",
            Self::Klines => "4",
            _ => "price",
        }
    }
}

/// A page of wrong rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageLie {
    /// Each row comes twice.
    Duplicates,
    /// Each row comes a second time with another price.
    Conflicts,
    /// The newest row is the first.
    Descending,
    /// Every id is a billion higher.
    Foreign,
    /// Rows with the id 1 come first.
    Below,
    /// Every second row is missing.
    Holes,
    /// Only the first row comes.
    Short,
    /// A thousand rows behind the last one come too.
    More,
}

/// Every wrong page, with its name.
pub const PAGE_LIES: [(PageLie, &str, &str); 8] = [
    (PageLie::Duplicates, "duplicates", "each row comes twice"),
    (PageLie::Conflicts, "conflicts", "each row comes a second time with another price"),
    (PageLie::Descending, "descending", "the newest row is the first"),
    (PageLie::Foreign, "foreign", "every id is a billion higher"),
    (PageLie::Below, "below", "each row comes before the page too, with the id 1"),
    (PageLie::Holes, "holes", "every second row is missing"),
    (PageLie::Short, "short", "only the first row comes"),
    (PageLie::More, "more", "a thousand invented rows follow the last one"),
];

impl PageLie {
    /// The rows as REST sends them.
    pub fn rows(self, endpoint: Endpoint, rows: Vec<String>) -> Vec<String> {
        let (id, price) = (endpoint.id_field(), endpoint.price_field());
        let edited = |row: &String, edits: String| {
            let edits: Edits = edits.parse().expect("the edits of a page lie are valid");
            edits.apply(row, 0).unwrap_or_else(|| row.clone())
        };
        match self {
            Self::Duplicates => rows.into_iter().flat_map(|row| [row.clone(), row]).collect(),
            Self::Conflicts => {
                rows.into_iter().flat_map(|row| [row.clone(), edited(&row, format!("{price}=+1"))]).collect()
            }
            Self::Descending => rows.into_iter().rev().collect(),
            Self::Foreign => rows.iter().map(|row| edited(row, format!("{id}=+1000000000"))).collect(),
            Self::Below => {
                let below: Vec<String> = rows.iter().map(|row| edited(row, format!("{id}=1"))).collect();
                below.into_iter().chain(rows).collect()
            }
            Self::Holes => rows.into_iter().step_by(2).collect(),
            Self::Short => rows.into_iter().take(1).collect(),
            Self::More => {
                let last = rows.last().cloned();
                let invented = (1..=1_000).filter_map(|at| Some(edited(last.as_ref()?, format!("{id}=+{at}"))));
                rows.iter().cloned().chain(invented).collect()
            }
        }
    }
}

/// Something else in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLie {
    /// An error object with status 200.
    Error,
    /// A web page with status 200.
    Html,
    /// The first half of the answer.
    Truncated,
    /// `null`.
    Null,
    /// An object in place of a list.
    Object,
    /// No byte.
    Nothing,
    /// JSON of 100,000 levels.
    Deep,
    /// The answer, compressed, without the header that says so.
    Gzip,
    /// A list with 64 MiB of spaces in it.
    Huge,
    /// One byte a second, for as long as the lie lasts.
    Drip,
    /// Nothing at all, not even a header, for as long as the lie lasts.
    Hang,
    /// A redirection to the same address.
    Loop,
    /// A redirection to another host, which does not answer.
    Elsewhere,
}

/// Everything that comes in place of an answer, with its name.
pub const ANSWER_LIES: [(AnswerLie, &str, &str); 13] = [
    (AnswerLie::Error, "error", "an error object with status 200"),
    (AnswerLie::Html, "html", "a web page with status 200"),
    (AnswerLie::Truncated, "truncated", "the first half of the answer"),
    (AnswerLie::Null, "null", "`null`"),
    (AnswerLie::Object, "object", "an object in place of a list"),
    (AnswerLie::Nothing, "nothing", "an empty body"),
    (AnswerLie::Deep, "deep", "JSON of 100,000 levels"),
    (AnswerLie::Gzip, "gzip", "the answer compressed, without the header that says so"),
    (AnswerLie::Huge, "huge", "a list with 64 MiB of spaces"),
    (AnswerLie::Drip, "drip", "the headers, then one byte a second"),
    (AnswerLie::Hang, "hang", "nothing, not even a header"),
    (AnswerLie::Loop, "loop", "a redirection to the same address"),
    (AnswerLie::Elsewhere, "elsewhere", "a redirection to a host that does not answer"),
];

impl AnswerLie {
    /// The content type and the whole body, in place of the right one; `None` for lies that are not about the body.
    pub fn body(self, right: &str) -> Option<(&'static str, Vec<u8>)> {
        let json = "application/json;charset=UTF-8";
        let body = match self {
            Self::Error => {
                let message = "Too much request weight used; current limit is 6000 request weight per 1 MINUTE.";
                json!({"code": -1003, "msg": message}).to_string().into_bytes()
            }
            Self::Html => return Some(("text/html", b"<html><script>alert(1)</script>Maintenance</html>".to_vec())),
            Self::Truncated => right.as_bytes()[..right.len() / 2].to_vec(),
            Self::Null => b"null".to_vec(),
            Self::Object => b"{\"rows\":[]}".to_vec(),
            Self::Nothing => Vec::new(),
            Self::Deep => b"[".repeat(100_000),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(right.as_bytes()).expect("a vector takes everything");
                encoder.finish().expect("a vector takes everything")
            }
            Self::Huge | Self::Drip | Self::Hang | Self::Loop | Self::Elsewhere => return None,
        };
        Some((json, body))
    }
}

/// An odd listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoLie {
    /// The weight limit is null.
    LimitNull,
    /// The weight limit is 0.
    LimitZero,
    /// The weight limit is -5.
    LimitNegative,
    /// No limits are listed.
    NoLimits,
    /// A limit of an unknown kind, whose interval is null, is listed first.
    LimitUnknown,
    /// The first symbol's status is null.
    StatusNull,
    /// The first symbol's status is a new word.
    StatusUnknown,
    /// No symbol is listed.
    NoSymbols,
}

/// Every odd listing, with its name.
pub const INFO_LIES: [(InfoLie, &str, &str); 8] = [
    (InfoLie::LimitNull, "limitnull", "the weight limit is null"),
    (InfoLie::LimitZero, "limitzero", "the weight limit is 0"),
    (InfoLie::LimitNegative, "limitnegative", "the weight limit is -5"),
    (InfoLie::NoLimits, "nolimits", "no limits are listed"),
    (InfoLie::LimitUnknown, "limitunknown", "a limit of an unknown kind comes first"),
    (InfoLie::StatusNull, "statusnull", "the first symbol's status is null"),
    (InfoLie::StatusUnknown, "statusunknown", "the first symbol's status is a new word"),
    (InfoLie::NoSymbols, "nosymbols", "no symbol is listed"),
];

impl InfoLie {
    /// Changes the answer.
    pub fn change(self, info: &mut Value) {
        let first_status = |info: &mut Value, status: Value| {
            if let Some(symbol) = info["symbols"].get_mut(0) {
                symbol["status"] = status;
            }
        };
        match self {
            Self::LimitNull => info["rateLimits"][0]["limit"] = Value::Null,
            Self::LimitZero => info["rateLimits"][0]["limit"] = json!(0),
            Self::LimitNegative => info["rateLimits"][0]["limit"] = json!(-5),
            Self::NoLimits => info["rateLimits"] = json!([]),
            Self::LimitUnknown => {
                if let Some(limits) = info["rateLimits"].as_array_mut() {
                    limits
                        .insert(0, json!({"rateLimitType": "MOONS", "interval": null, "intervalNum": 1, "limit": "x"}));
                }
            }
            Self::StatusNull => first_status(info, Value::Null),
            Self::StatusUnknown => first_status(info, json!("HALF_OPEN")),
            Self::NoSymbols => info["symbols"] = json!([]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lie: &str, endpoint: Endpoint, rows: &[&str]) -> Vec<String> {
        let lie = super::super::named(&PAGE_LIES, lie).unwrap();
        lie.rows(endpoint, rows.iter().map(|&row| row.to_owned()).collect())
    }

    const ROWS: [&str; 3] = [r#"{"id":5,"price":"1"}"#, r#"{"id":6,"price":"1"}"#, r#"{"id":7,"price":"1"}"#];

    #[test]
    fn a_page_is_wrong_in_every_way() {
        let ids = |lie: &str| {
            let id = |row: &String| serde_json::from_str::<Value>(row).unwrap()["id"].as_i64().unwrap();
            page(lie, Endpoint::HistoricalTrades, &ROWS).iter().map(id).collect::<Vec<i64>>()
        };
        assert_eq!(ids("duplicates"), [5, 5, 6, 6, 7, 7]);
        assert_eq!(ids("descending"), [7, 6, 5]);
        assert_eq!(ids("foreign"), [1_000_000_005, 1_000_000_006, 1_000_000_007]);
        assert_eq!(ids("below"), [1, 1, 1, 5, 6, 7]);
        assert_eq!(ids("holes"), [5, 7]);
        assert_eq!(ids("short"), [5]);
        assert_eq!((ids("more").len(), ids("more")[3]), (1_003, 8));
        assert_eq!(page("more", Endpoint::Trades, &[]), Vec::<String>::new());
        assert_eq!(page("conflicts", Endpoint::Trades, &ROWS)[1], r#"{"id":5,"price":"2"}"#);
    }

    #[test]
    fn klines_and_aggregates_have_other_fields() {
        assert_eq!(page("foreign", Endpoint::Klines, &[r#"[60000,"1"]"#]), [r#"[1000060000,"1"]"#]);
        assert_eq!(page("conflicts", Endpoint::AggTrades, &[r#"{"a":1,"p":"2"}"#])[1], r#"{"a":1,"p":"3"}"#);
    }

    #[test]
    fn an_answer_is_no_list() {
        for (lie, name, _) in ANSWER_LIES {
            let Some((_, body)) = lie.body("[1,2]") else { continue };
            assert!(serde_json::from_slice::<Vec<i64>>(&body).is_err(), "{name}");
        }
    }

    #[test]
    fn a_listing_is_odd_in_one_place() {
        for (lie, name, _) in INFO_LIES {
            let right =
                json!({"rateLimits": [{"limit": 6000}], "symbols": [{"status": "TRADING"}, {"status": "BREAK"}]});
            let mut info = right.clone();
            lie.change(&mut info);
            assert_ne!(info, right, "{name}");
        }
    }
}
