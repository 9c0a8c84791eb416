//! Microseconds since 1970 UTC, the only unit of time in storage.

use std::fmt;

/// An instant in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds in a day; ClickHouse partitions and coverage rows are UTC days.
pub const DAY_US: i64 = 86_400_000_000;

impl Timestamp {
    /// From milliseconds since 1970, as exchanges send them.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms * 1_000)
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The instant `us` microseconds later.
    pub const fn plus_micros(self, us: i64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to here; negative when `earlier` is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The UTC day of this instant, in days since 1970.
    pub const fn day(self) -> i64 {
        self.0.div_euclid(DAY_US)
    }

    /// The instant as a chrono type; `None` outside chrono's range of years.
    pub fn to_chrono(self) -> Option<chrono::DateTime<chrono::Utc>> {
        chrono::DateTime::from_timestamp_micros(self.0)
    }

    /// RFC 3339 in UTC with milliseconds, or the bare number when the year is out of range.
    pub fn rfc3339(self) -> String {
        match self.to_chrono() {
            Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            None => self.0.to_string(),
        }
    }

    /// Parses RFC 3339 with any offset, or a bare date, which means its midnight in UTC.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text) {
            return Some(Self(at.timestamp_micros()));
        }
        let date: chrono::NaiveDate = text.parse().ok()?;
        Some(Self(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_means_its_midnight_in_utc() {
        assert_eq!(Timestamp::parse("1970-01-02"), Some(Timestamp(DAY_US)));
    }

    #[test]
    fn an_offset_is_applied() {
        assert_eq!(Timestamp::parse("1970-01-01T01:00:00+01:00"), Some(Timestamp(0)));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn instants_before_1970_round_down() {
        assert_eq!(Timestamp(-1).millis(), -1);
        assert_eq!(Timestamp(-1).day(), -1);
    }
}
