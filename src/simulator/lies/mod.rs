//! The lies of an exchange: answers and frames that look right and are wrong. Each has a text form, as faults have.
//!
//! Pure. `rest`, `connection` and the `faulty_link` act on them; `numbering` changes the market itself.

pub mod edit;
pub mod numbering;
pub mod rest;
pub mod rest_rows;
pub mod socket;

use std::time::Duration;

use super::fault::duration;
use crate::market::Timestamp;

/// As good as for ever: a hundred years.
pub const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Reads a duration, or `ever`.
pub fn lasting(text: &str) -> Result<Duration, String> {
    if text == "ever" { Ok(EVER) } else { duration(text) }
}

/// Finds a value by its name in a table of (value, name, description); the error lists the names.
pub fn named<T: Copy>(table: &[(T, &'static str, &'static str)], text: &str) -> Result<T, String> {
    let found = table.iter().find(|(_, name, _)| *name == text).map(|(value, ..)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(_, name, _)| *name).collect();
        format!("`{text}` is none of {}", names.join(", "))
    })
}

/// A position: `1060`, or `+10`, which counts from the next trade's id at the time of the injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// This id, or this open time in milliseconds.
    At(i64),
    /// This far behind the next id.
    Ahead(i64),
}

impl Position {
    /// The id, when the next one is `next`.
    pub const fn resolved(self, next: i64) -> i64 {
        match self {
            Self::At(id) => id,
            Self::Ahead(distance) => next.saturating_add(distance),
        }
    }
}

/// Reads `1060` or `+10`.
pub fn position(text: &str) -> Result<Position, String> {
    let number = |digits: &str| digits.parse::<i64>().ok().filter(|number| *number >= 0);
    let read = match text.strip_prefix('+') {
        Some(digits) => number(digits).map(Position::Ahead),
        None => number(text).map(Position::At),
    };
    read.ok_or_else(|| format!("`{text}` is not a position, write it as 1060 or +10"))
}

/// Reads `1060`, `1060-1069` or `+10-+19`.
pub fn positions(text: &str) -> Result<(Position, Position), String> {
    match text.split_once('-') {
        Some((first, last)) => Ok((position(first)?, position(last)?)),
        None => position(text).map(|one| (one, one)),
    }
}

/// The header Retry-After of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// `20m`: seconds.
    Seconds(Duration),
    /// `date=20m`: the HTTP date in 20 minutes.
    Date(Duration),
    /// `raw=-1`: this text.
    Raw(String),
    /// `none`: no header.
    Absent,
}

impl RetryAfter {
    /// Reads its text form.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("date", time)) => Ok(Self::Date(duration(time)?)),
            Some(("raw", text)) => Ok(Self::Raw(text.to_owned())),
            _ if text == "none" => Ok(Self::Absent),
            _ => Ok(Self::Seconds(duration(text)?)),
        }
    }

    /// The header's value at this time of the exchange; `None` without a header.
    pub fn value(&self, now: Timestamp) -> Option<String> {
        match self {
            Self::Seconds(wait) => Some(wait.as_secs().to_string()),
            // "Sun, 06 Nov 1994 08:49:37 GMT", RFC 9110, 5.6.7.
            Self::Date(wait) => {
                let at = now.plus_micros(wait.as_micros() as i64).to_chrono()?;
                Some(at.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
            }
            Self::Raw(text) => Some(text.clone()),
            Self::Absent => None,
        }
    }
}

/// Reads a status of a refusal.
pub fn status(text: &str) -> Result<u16, String> {
    let read = text.parse().ok().filter(|status| (400..600).contains(status));
    read.ok_or_else(|| format!("`{text}` is not a status from 400 to 599"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_fixed_or_count_from_the_next_id() {
        let ids = |text: &str| positions(text).map(|(first, last)| (first.resolved(500), last.resolved(500)));
        assert_eq!(ids("1060-1069"), Ok((1060, 1069)));
        assert_eq!(ids("+0-+9"), Ok((500, 509)));
        assert_eq!(ids("7"), Ok((7, 7)));
        assert!(ids("x").is_err() && ids("-5").is_err());
    }

    #[test]
    fn retry_after_has_every_form_that_servers_send() {
        let value = |text: &str| RetryAfter::parse(text).unwrap().value(Timestamp::from_millis(784_111_777_000));
        assert_eq!(value("20m").as_deref(), Some("1200"));
        assert_eq!(value("date=1m").as_deref(), Some("Sun, 06 Nov 1994 08:50:37 GMT"));
        assert_eq!(value("raw=18446744073709551615").as_deref(), Some("18446744073709551615"));
        assert_eq!(value("none"), None);
        assert!(RetryAfter::parse("soon").is_err());
    }
}
