//! A UTC day.

use std::fmt;

use crate::market::{DAY_US, Timestamp};

/// A UTC day; written `2026-11-27`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of an instant.
    pub const fn of(at: Timestamp) -> Self {
        Self(at.day())
    }

    /// Parses `2026-11-27`, and no other spelling of it.
    pub fn parse(text: &str) -> Option<Self> {
        // Four digits of the year: a later day would not fit into a timestamp.
        let day = Self::of(Timestamp::parse(text).filter(|_| text.len() == 10)?);
        (day.to_string() == text).then_some(day)
    }

    /// Its midnight.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0.saturating_mul(DAY_US))
    }

    /// The midnight after it.
    pub const fn end(self) -> Timestamp {
        self.next().start()
    }

    /// The day before.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The day after.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether an instant is in it.
    pub fn contains(self, at: Timestamp) -> bool {
        Self::of(at) == self
    }

    /// From this day to another, both included.
    pub fn to(self, last: Self) -> impl Iterator<Item = Self> {
        (self.0..=last.0).map(Self)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.start().rfc3339();
        f.write_str(text.split('T').next().unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_one_spelling() {
        let day = Day::parse("2026-11-27").unwrap();
        assert_eq!((day.to_string().as_str(), day.next().previous()), ("2026-11-27", day));
        assert!(day.contains(day.start()) && !day.contains(day.end()) && day.contains(day.end().plus_micros(-1)));
        for text in ["", "2026-11-7", "2026-11-27T00:00:00Z", "27.11.2026", "2026-02-30", "+22026-1-1", "20261127"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
        assert_eq!(day.to(day.next()).count(), 2);
    }
}
