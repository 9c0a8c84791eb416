//! What a row consists of: names and types of its columns, and their values. It knows no format.

use std::fmt::Write as _;

use rust_decimal::Decimal;

use crate::market::{Timestamp, plain};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text with few distinct values.
    Text,
    /// An id, a count, or microseconds.
    Integer,
    /// A time, in microseconds since 1970 UTC.
    Timestamp,
    /// An exact decimal of 38 digits, with this number of them behind the point.
    Decimal(u8),
    /// True or false.
    Boolean,
}

/// Names and types, in order.
pub type Columns = &'static [(&'static str, Kind)];

/// One value of a row.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// Of [`Kind::Text`].
    Text(&'a str),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Timestamp`].
    Timestamp(Timestamp),
    /// Of [`Kind::Decimal`].
    Decimal(Decimal),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
}

impl Cell<'_> {
    /// Appends the value as text, decimals and integers exactly as stored.
    pub fn push_to(&self, text: &mut String) {
        match *self {
            Self::Text(word) => text.push_str(word),
            Self::Timestamp(at) => text.push_str(&format_timestamp(at)),
            Self::Decimal(value) => text.push_str(&plain(value)),
            Self::Integer(value) => write!(text, "{value}").expect("a String accepts every write"),
            Self::Boolean(value) => text.push_str(if value { "true" } else { "false" }),
        }
    }
}

/// RFC 3339 with microseconds, or the bare number when the year is out of range.
fn format_timestamp(at: Timestamp) -> String {
    match at.to_chrono() {
        Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        None => at.micros().to_string(),
    }
}
