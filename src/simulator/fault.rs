//! Faults, their schedule, and the text form of both: `cut@10s,drop:BTCUSDT:40@15s`. Pure.

use std::str::FromStr;
use std::time::Duration;

use crate::market::Symbol;

/// A fault. Without a symbol it concerns every symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `cut`: every WebSocket connection ends with a TCP reset.
    Cut,
    /// `close`: every WebSocket connection ends with a close frame.
    Close,
    /// `outage:5s`: every connection is cut, and for this time new ones are reset, those of REST too.
    Outage(Duration),
    /// `drop:40`, `drop:BTCUSDT:40`: the next 40 trade frames are never sent.
    Drop(Option<Symbol>, u64),
    /// `silent:8s`, `silent:BTCUSDT:8s`: frames of the symbol's streams are lost, and the connection stays open.
    Silent(Option<Symbol>, Duration),
    /// `duplicate:5`: the next 5 trade frames are sent twice.
    Duplicate(Option<Symbol>, u64),
    /// `reorder:10`: the next 10 trade frames (at most [`REORDER_MAX`]) are sent in reverse order.
    Reorder(Option<Symbol>, u64),
    /// `garbage:2`: before each of the next 2 trade frames comes a frame that is not JSON.
    Garbage(Option<Symbol>, u64),
    /// `losetail:BTCUSDT:1000`: trades from this id on are never sent. A negative number counts from the end of a
    /// capture: -50 loses its last 50 trades.
    LoseTail(Symbol, i64),
    /// `forget:BTCUSDT:2000`: REST serves only the symbol's trades from this id on, and klines from that trade's time
    /// on.
    Forget(Symbol, i64),
    /// `rest:503:5s`: REST answers with this status for this time.
    Rest(u16, Duration),
    /// `ratelimit:5s`: REST answers 429 with Retry-After for this time.
    RateLimit(Duration),
    /// `ban:5s`: REST answers 418 with Retry-After for this time.
    Ban(Duration),
    /// `lag:2s`: REST's database does not show the newest 2 s, until `lag:0s`; [`LAG_MAX`] at most.
    Lag(Duration),
    /// `shutdown:3s`: the server announces `serverShutdown` and ends the connections 3 s later.
    Shutdown(Duration),
    /// `stall:5s`: present connections stay open, but the server sends nothing on them, not even a ping.
    Stall(Duration),
}

/// Most frames to reorder at once.
pub const REORDER_MAX: u64 = 1_000;
/// The longest lag of the database. The truth remembers its growth for this time.
pub const LAG_MAX: Duration = Duration::from_secs(120);

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let wrong = || format!("cannot read the fault `{text}`");
        match parts.as_slice() {
            ["cut"] => Ok(Self::Cut),
            ["close"] => Ok(Self::Close),
            ["outage", time] => Ok(Self::Outage(duration(time)?)),
            ["rest", status, time] => {
                let status = status.parse().ok().filter(|status| (400..600).contains(status));
                Ok(Self::Rest(status.ok_or_else(|| format!("{}: the status is 400 to 599", wrong()))?, duration(time)?))
            }
            ["ratelimit", time] => Ok(Self::RateLimit(duration(time)?)),
            ["ban", time] => Ok(Self::Ban(duration(time)?)),
            ["lag", time] => match duration(time)? {
                lag if lag > LAG_MAX => Err(format!("{}: the longest lag is {} s", wrong(), LAG_MAX.as_secs())),
                lag => Ok(Self::Lag(lag)),
            },
            ["shutdown", time] => Ok(Self::Shutdown(duration(time)?)),
            ["stall", time] => Ok(Self::Stall(duration(time)?)),
            ["silent", time] => Ok(Self::Silent(None, duration(time)?)),
            ["silent", symbol, time] => Ok(Self::Silent(Some(Symbol::new(symbol)), duration(time)?)),
            ["losetail", symbol, id] => Ok(Self::LoseTail(Symbol::new(symbol), id.parse().map_err(|_| wrong())?)),
            ["forget", symbol, id] => Ok(Self::Forget(Symbol::new(symbol), id.parse().map_err(|_| wrong())?)),
            [kind, count] => counted(kind, None, count).ok_or_else(wrong),
            [kind, symbol, count] => counted(kind, Some(Symbol::new(symbol)), count).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

fn counted(kind: &str, symbol: Option<Symbol>, count: &str) -> Option<Fault> {
    let count: u64 = count.parse().ok()?;
    match kind {
        "drop" => Some(Fault::Drop(symbol, count)),
        "duplicate" => Some(Fault::Duplicate(symbol, count)),
        "reorder" => Some(Fault::Reorder(symbol, count.min(REORDER_MAX))),
        "garbage" => Some(Fault::Garbage(symbol, count)),
        _ => None,
    }
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// The time after the opening of the market; zero means now.
    pub after: Duration,
    /// The fault.
    pub fault: Fault,
}

/// Reads a schedule: faults with commas between them, each with `@` and its time, or without a time for now. Returns
/// them in the order of their times.
pub fn parse_schedule(text: &str) -> Result<Vec<ScheduledFault>, String> {
    let mut schedule = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (fault, after) = match item.rsplit_once('@') {
            Some((fault, after)) => (fault, duration(after)?),
            None => (item, Duration::ZERO),
        };
        schedule.push(ScheduledFault { after, fault: fault.parse()? });
    }
    schedule.sort_by_key(|scheduled| scheduled.after);
    Ok(schedule)
}

/// Reads `250ms`, `8s`, `1m30s`, `24h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration, write it as 250ms, 8s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let letters = rest[digits..].find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = match &rest[digits..digits + letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[digits + letters..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Fault) {
        assert_eq!(text.parse(), Ok(expected));
    }

    #[test]
    fn every_fault_has_a_text_form() {
        let symbol = Some(Symbol::new("BTCUSDT"));
        let five = Duration::from_secs(5);
        check("cut", Fault::Cut);
        check("close", Fault::Close);
        check("outage:5s", Fault::Outage(five));
        check("drop:40", Fault::Drop(None, 40));
        check("drop:BTCUSDT:40", Fault::Drop(symbol.clone(), 40));
        check("silent:BTCUSDT:5s", Fault::Silent(symbol.clone(), five));
        check("duplicate:3", Fault::Duplicate(None, 3));
        check("reorder:BTCUSDT:3", Fault::Reorder(symbol, 3));
        check("garbage:1", Fault::Garbage(None, 1));
        check("losetail:BTCUSDT:-50", Fault::LoseTail(Symbol::new("BTCUSDT"), -50));
        check("rest:503:5s", Fault::Rest(503, five));
        check("ratelimit:5s", Fault::RateLimit(five));
        check("ban:5s", Fault::Ban(five));
        check("lag:1m30s", Fault::Lag(Duration::from_secs(90)));
        check("shutdown:5s", Fault::Shutdown(five));
        check("stall:250ms", Fault::Stall(Duration::from_millis(250)));
    }

    #[test]
    fn other_text_is_not_a_fault() {
        for text in ["cuts", "drop", "drop:many", "silent:8", "rest:200:5s", "lag:10h", "outage:", "stall:5x"] {
            assert!(text.parse::<Fault>().is_err(), "{text} was read");
        }
    }

    #[test]
    fn a_schedule_is_sorted() {
        let schedule = parse_schedule("drop:40@15s, cut@10s,close").unwrap();
        let times: Vec<u64> = schedule.iter().map(|scheduled| scheduled.after.as_secs()).collect();
        assert_eq!(times, [0, 10, 15]);
        assert_eq!(schedule[0].fault, Fault::Close);
        assert!(parse_schedule("cut@soon").is_err());
    }
}
