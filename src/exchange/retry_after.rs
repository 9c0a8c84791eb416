//! How long a refusal asks us to wait: the one reader of `Retry-After`, for REST and for a refused WebSocket.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::market::Timestamp;

/// Longest wait that any answer can impose: the longest documented ban is three days, and one header must not end the
/// recording for ever.
pub const WAIT_MAX: Duration = Duration::from_secs(4 * 86_400);
/// Shortest wait after a refusal: an answer that names no time at all must not start a hot loop.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The wait that `Retry-After` names, between [`WAIT_MIN`] and [`WAIT_MAX`]. `None` when it is absent, empty, negative
/// or garbage: the caller then waits as long as its rule for such a refusal says.
///
/// RFC 9110, 10.2.3: "The Retry-After field value can be either an HTTP-date or a number of seconds". A date is measured
/// from the answer's own `Date`, so that our clock does not matter; `now` replaces an absent `Date`.
pub(super) fn requested_wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let answered_at = headers.get(DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or(now);
    let waits = headers.get_all(RETRY_AFTER).iter().filter_map(|value| wait(value.to_str().ok()?.trim(), answered_at));
    waits.max()
}

/// The wait until `deadline`, bounded like every other.
pub(super) fn wait_until(deadline: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(deadline.since(now)).unwrap_or(0)).clamp(WAIT_MIN, WAIT_MAX)
}

fn wait(text: &str, answered_at: Timestamp) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds are a number too: the longest wait.
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).clamp(WAIT_MIN, WAIT_MAX));
    }
    Some(wait_until(date(text)?, answered_at))
}

/// Reads an HTTP date in any of its three forms: IMF-fixdate, RFC 850 and asctime.
fn date(text: &str) -> Option<Timestamp> {
    let at: SystemTime = httpdate::parse_http_date(text.trim()).ok()?;
    Some(Timestamp(i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28T12:00:00Z.
    const NOW: Timestamp = Timestamp(1_795_867_200_000_000);

    fn check(retry_after: &str, date: Option<&str>, expected: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        let expected = expected.map(Duration::from_secs);
        assert_eq!(requested_wait(&headers, NOW), expected, "{retry_after:?} with the date {date:?}");
    }

    #[test]
    fn seconds_are_read_and_capped() {
        let max = WAIT_MAX.as_secs();
        check("120", None, Some(120));
        check(" 7 ", None, Some(7));
        check("0", None, Some(1));
        check("259200", None, Some(259_200));
        check("1000000000000", None, Some(max));
        check("18446744073709551615", None, Some(max));
        check("99999999999999999999999999", None, Some(max));
    }

    #[test]
    fn a_date_is_read_in_its_three_forms_and_capped() {
        check("Sat, 28 Nov 2026 12:20:00 GMT", None, Some(1_200));
        check("Saturday, 28-Nov-26 12:20:00 GMT", None, Some(1_200));
        check("Sat Nov 28 12:20:00 2026", None, Some(1_200));
        check("Fri, 01 Jan 2100 00:00:00 GMT", None, Some(WAIT_MAX.as_secs()));
        check("Sat, 28 Nov 2026 11:00:00 GMT", None, Some(1));
    }

    #[test]
    fn a_date_is_measured_from_the_answers_own_date() {
        // The exchange's clock is an hour behind ours.
        check("Sat, 28 Nov 2026 11:20:00 GMT", Some("Sat, 28 Nov 2026 11:00:00 GMT"), Some(1_200));
        check("Sat, 28 Nov 2026 12:20:00 GMT", Some("no date"), Some(1_200));
    }

    #[test]
    fn garbage_names_no_wait() {
        for text in ["", " ", "-1", "+5", "soon", "1.5", "0x10", "Sat, 31 Foo 2026 12:20:00 GMT", "120, 240"] {
            check(text, None, None);
        }
        assert_eq!(requested_wait(&HeaderMap::new(), NOW), None);
    }

    #[test]
    fn the_longest_of_several_headers_counts() {
        let mut headers = HeaderMap::new();
        headers.append(RETRY_AFTER, "5".parse().unwrap());
        headers.append(RETRY_AFTER, "soon".parse().unwrap());
        headers.append(RETRY_AFTER, "60".parse().unwrap());
        assert_eq!(requested_wait(&headers, NOW), Some(Duration::from_secs(60)));
    }
}
