//! Readers of single fields that every dialect shares: exact numbers, plausible ids and times, text for an address.
//!
//! Each takes the kind of input and the field's name, so that an error says what is wrong where.

use std::borrow::Cow;
use std::fmt::Write as _;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::DecodeError;
use super::json_parts::{array_elements, member};
use crate::market::{Interval, Timestamp, parse_decimal, scaled};

/// The highest id that we believe. Above it, sums of ids and counts might overflow.
const TRADE_ID_MAX: i64 = 1 << 62;
/// Most trades of one kline that we believe.
const TRADE_COUNT_MAX: i64 = 1 << 40;
/// 2200-01-01T00:00:00Z: no time of an exchange is later, whatever the clocks say. Microseconds sent as milliseconds
/// are thousands of years later.
pub(super) const TIME_MAX: Timestamp = Timestamp(7_258_118_400_000_000);

/// Reads JSON.
pub(super) fn read<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError { what, why: error.to_string() })
}

/// Reads a JSON object. A list is an error: serde would take its elements for the members in order.
pub(super) fn read_object<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, DecodeError> {
    match body.trim_ascii_start().first() {
        Some(b'{') => read(what, body),
        _ => Err(DecodeError { what, why: "it is not an object".to_owned() }),
    }
}

/// A number or a text of JSON as it is written. A number keeps its digits: it is never read as a binary float.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Written<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> Written<'a> {
    /// The digits of a number, or the content of a text without escapes.
    pub(super) fn text(self) -> &'a str {
        let raw = self.0.get();
        raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(raw)
    }

    /// An exact decimal; the error shows the text.
    pub(super) fn decimal(self, what: &'static str, name: &str) -> Result<Decimal, DecodeError> {
        decimal(what, name, self.text())
    }

    /// A whole number.
    pub(super) fn integer(self, what: &'static str, name: &str) -> Result<i64, DecodeError> {
        integer(what, name, self.text())
    }
}

/// A text of JSON: borrowed, unless it escapes a character (`\u5e01`).
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A whole number from its text.
pub(super) fn integer(what: &'static str, name: &str, text: &str) -> Result<i64, DecodeError> {
    text.parse().map_err(|_| DecodeError { what, why: format!("{name} {text:?} is not a whole number") })
}

/// Parses an exact decimal; the error shows the text.
pub(super) fn decimal(what: &'static str, name: &str, text: &str) -> Result<Decimal, DecodeError> {
    match parse_decimal(text) {
        Some(value) => Ok(value),
        None => Err(DecodeError { what, why: format!("{name} {text:?} is not an exact decimal") }),
    }
}

/// A decimal that every history holds: DECIMAL(38, 18).
pub(super) fn storable(what: &'static str, name: &str, text: &str) -> Result<Decimal, DecodeError> {
    let value = decimal(what, name, text)?;
    match scaled(value) {
        Some(_) => Ok(value),
        None => Err(DecodeError { what, why: format!("{name} {text:?} does not fit in DECIMAL(38, 18)") }),
    }
}

/// Checks a trade's id in a frame. Ids count up from 0: after a negative one every id up to the next trade would look
/// missing.
pub(super) fn trade_id(what: &'static str, name: &str, id: i64) -> Result<i64, DecodeError> {
    if id < 0 {
        return Err(DecodeError { what, why: format!("{name} {id} is not a trade's id") });
    }
    Ok(id)
}

/// Whether an id of a REST answer is one that we believe.
pub(super) fn is_plausible_id(id: i64) -> bool {
    (0..=TRADE_ID_MAX).contains(&id)
}

/// Checks a trade's id in a REST answer.
pub(super) fn plausible_id(what: &'static str, name: &str, id: i64) -> Result<i64, DecodeError> {
    match is_plausible_id(id) {
        true => Ok(id),
        false => Err(DecodeError { what, why: format!("{name} {id} is not a plausible trade id") }),
    }
}

/// Checks a kline's number of trades.
pub(super) fn trade_count(what: &'static str, count: i64) -> Result<i64, DecodeError> {
    match (0..=TRADE_COUNT_MAX).contains(&count) {
        true => Ok(count),
        false => Err(DecodeError { what, why: format!("{count} is not a plausible number of trades") }),
    }
}

/// Converts milliseconds; a time that does not fit in microseconds is an error.
pub(super) fn millis(what: &'static str, name: &str, ms: i64) -> Result<Timestamp, DecodeError> {
    match ms.checked_mul(1_000) {
        Some(us) => Ok(Timestamp(us)),
        None => Err(DecodeError { what, why: format!("{name} {ms} is not a time in milliseconds") }),
    }
}

/// Reads a time of RFC 3339 (`2021-04-17T05:30:00.123456Z`); more than six digits of a second are cut off.
pub(super) fn rfc3339(what: &'static str, name: &str, text: &str) -> Result<Timestamp, DecodeError> {
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(at) => Ok(Timestamp(at.timestamp_micros())),
        Err(_) => Err(DecodeError { what, why: format!("{name} {text:?} is not a time of RFC 3339") }),
    }
}

/// Reads seconds since 1970 with a fraction (`1688669597.8277369`), exactly; more than six digits of a second are cut off.
pub(super) fn seconds(what: &'static str, name: &str, text: &str) -> Result<Timestamp, DecodeError> {
    let value = decimal(what, name, text)?;
    let scaled = 10_i128.pow(value.scale());
    let micros = value.mantissa().checked_mul(1_000_000).map(|micros| micros.div_euclid(scaled));
    match micros.and_then(|micros| i64::try_from(micros).ok()) {
        Some(us) => Ok(Timestamp(us)),
        None => Err(DecodeError { what, why: format!("{name} {text:?} is not a time in seconds") }),
    }
}

/// Checks a time in a REST answer: neither before 1970 nor later than `latest`.
pub(super) fn plausible_time(
    what: &'static str,
    name: &str,
    at: Timestamp,
    latest: Timestamp,
) -> Result<Timestamp, DecodeError> {
    match at {
        Timestamp(us) if us < 0 => Err(DecodeError { what, why: format!("{name} {at} is before 1970") }),
        at if at > TIME_MAX => Err(DecodeError { what, why: format!("{name} {at} is after the year 2199") }),
        at if at > latest => {
            Err(DecodeError { what, why: format!("{name} {at} is more than a day ahead of the exchange's clock") })
        }
        at => Ok(at),
    }
}

/// Checks that a time is the start of an interval, because it is a kline's position.
pub(super) fn open_time(what: &'static str, interval: Interval, at: Timestamp) -> Result<Timestamp, DecodeError> {
    match at.micros().rem_euclid(interval.micros()) {
        0 => Ok(at),
        _ => Err(DecodeError { what, why: format!("open time {at} is not the start of an interval") }),
    }
}

/// The text in the member `name` of an element; `None` when it is absent or anything else.
pub(super) fn text_in(what: &'static str, element: &[u8], name: &str) -> Option<String> {
    let Text(text) = serde_json::from_slice(member(what, element, name).ok()??).ok()?;
    Some(text.into_owned())
}

/// The plausible trade id in the member `name` of an element, for a row that is otherwise unreadable.
pub(super) fn readable_id(what: &'static str, element: &[u8], name: &str) -> Option<i64> {
    let id = member(what, element, name).ok().flatten().and_then(lenient_integer);
    id.filter(|id| is_plausible_id(*id))
}

/// The plausible open time (microseconds) in the first column, in milliseconds, of a row that is otherwise unreadable.
pub(super) fn readable_open_time(
    what: &'static str,
    element: &[u8],
    interval: Interval,
    latest: Timestamp,
) -> Option<i64> {
    let ms = lenient_integer(array_elements(what, element).ok()?.next()?.ok()?)?;
    let at = plausible_time(what, "open time", millis(what, "open time", ms).ok()?, latest).ok()?;
    open_time(what, interval, at).ok().map(Timestamp::micros)
}

/// An integer, also in quotes: enough to say which row is unreadable.
pub(super) fn lenient_integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim_matches('"').parse().ok()
}

/// Percent-encodes every character that a query value must not contain.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_from_its_text() {
        let read = |text: &'static str| {
            let written: Written<'_> = serde_json::from_str(text).unwrap();
            written.decimal("test", "price").map(|value| value.to_string())
        };
        assert_eq!(read("0.00005100").as_deref(), Ok("0.00005100"));
        assert_eq!(read("\"61234.10\"").as_deref(), Ok("61234.10"));
        assert_eq!(read("5.1e-5").as_deref(), Ok("0.000051"));
        assert_eq!(read("12345678901234567.12345678901").as_deref(), Ok("12345678901234567.12345678901"));
        assert!(read("null").is_err() && read("\"\"").is_err() && read("[1]").is_err());
    }

    #[test]
    fn a_time_in_seconds_is_read_to_the_microsecond() {
        let read = |text| seconds("test", "time", text);
        assert_eq!(read("1688669597.8277369"), Ok(Timestamp(1_688_669_597_827_736)));
        assert_eq!(read("1688669597.8999999"), Ok(Timestamp(1_688_669_597_899_999)), "never rounded up");
        assert_eq!(read("1688669597"), Ok(Timestamp(1_688_669_597_000_000)));
        assert_eq!(read("1.688669597e9"), Ok(Timestamp(1_688_669_597_000_000)));
        assert_eq!(read("-0.0000001"), Ok(Timestamp(-1)));
        for no_time in ["", "x", "1e20", "99999999999999.1", "null"] {
            assert!(read(no_time).is_err(), "{no_time}");
        }
    }

    #[test]
    fn a_time_of_rfc_3339_is_read_to_the_microsecond() {
        let read = |text| rfc3339("test", "time", text);
        assert_eq!(read("1970-01-01T00:00:01.000002Z"), Ok(Timestamp(1_000_002)));
        assert_eq!(read("1970-01-01T00:00:01Z"), Ok(Timestamp(1_000_000)));
        assert_eq!(read("1970-01-01T00:00:01.000002999Z"), Ok(Timestamp(1_000_002)));
        assert_eq!(read("1970-01-01T01:00:01.5+01:00"), Ok(Timestamp(1_500_000)));
        assert!(read("0001-01-01T00:00:00Z").is_ok_and(|at| at.micros() < 0));
        for no_time in ["", "yesterday", "1970-01-01", "1970-01-01T00:00:01", "1970-13-01T00:00:01Z"] {
            assert!(read(no_time).is_err(), "{no_time}");
        }
    }
}
