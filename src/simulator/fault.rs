//! Faults, their schedule, and the text form of both: `cut@10s,drop:BTCUSDT:40@15s`. Pure. `lies` holds the faults in
//! which the exchange says something wrong.

use std::str::FromStr;
use std::time::Duration;

use super::lies::numbering::Numbering;
use super::lies::rest::RestLie;
use super::lies::socket::SocketLie;
use crate::market::Symbol;

/// A fault. Without a symbol it concerns every symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `cut`: every WebSocket connection ends with a TCP reset.
    Cut,
    /// `cut:1`: this many WebSocket connections end with a TCP reset, those that are open for longest.
    CutOldest(usize),
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
    /// `clock:+1h:5s`, `clock:-1h:5s`: the server's time and the event times jump by this much for this time. Trade
    /// times and klines stay right.
    Clock(i64, Duration),
    /// A lie of REST, for this time.
    Lie(RestLie, Duration),
    /// A lie of the WebSocket.
    Socket(SocketLie),
    /// The ids begin again, or a kline is corrected.
    Numbering(Numbering),
    /// `delist:BTCUSDT`: the exchange does not list the symbol any more: it does not trade, and REST does not know it.
    Delist(Symbol),
    /// `list:BTCUSDT`: the exchange lists the symbol again; its ids continue.
    List(Symbol),
}

/// Most frames to reorder at once.
pub const REORDER_MAX: u64 = 1_000;
/// The longest lag of the database. The truth remembers its growth for this time.
pub const LAG_MAX: Duration = Duration::from_secs(120);

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `hide=BTCUSDT:1-9:5s` reads like `hide:BTCUSDT:1-9:5s`.
        let text = text.trim();
        let kind_end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
        let (kind, rest) = text.split_at(kind_end);
        let mut parts = vec![kind];
        let wrong = || format!("cannot read the fault `{text}`");
        match rest.strip_prefix([':', '=']) {
            Some(rest) => parts.extend(rest.split(':')),
            None if rest.is_empty() => {}
            None => return Err(wrong()),
        }
        let named = |message: String| format!("{}: {message}", wrong());
        if let Some((lie, time)) = RestLie::parse(&parts).map_err(named)? {
            return Ok(Self::Lie(lie, time));
        }
        if let Some(lie) = SocketLie::parse(&parts).map_err(named)? {
            return Ok(Self::Socket(lie));
        }
        if let Some(change) = Numbering::parse(&parts)? {
            return Ok(Self::Numbering(change));
        }
        match parts.as_slice() {
            ["cut"] => Ok(Self::Cut),
            ["cut", count] => Ok(Self::CutOldest(count.parse().map_err(|_| wrong())?)),
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
            ["delist", symbol] => Ok(Self::Delist(Symbol::new(symbol))),
            ["list", symbol] => Ok(Self::List(Symbol::new(symbol))),
            ["shutdown", time] => Ok(Self::Shutdown(duration(time)?)),
            ["stall", time] => Ok(Self::Stall(duration(time)?)),
            ["clock", jump, time] => Ok(Self::Clock(jump_us(jump).ok_or_else(wrong)?, duration(time)?)),
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

/// Reads `+1h` or `-1h` as microseconds.
fn jump_us(text: &str) -> Option<i64> {
    let (sign, time) = text.split_at_checked(1)?;
    let micros = i64::try_from(duration(time).ok()?.as_micros()).ok()?;
    match sign {
        "+" => Some(micros),
        "-" => Some(-micros),
        _ => None,
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
    use super::super::lies::rest::Rows;
    use super::super::lies::rest_rows::{AnswerLie, Endpoint, PageLie};
    use super::super::lies::socket::{AckLie, Extent, FrameKind, Poison};
    use super::super::lies::{EVER, Position};
    use super::*;
    use crate::market::{Channel, Interval};

    fn check(text: &str, expected: Fault) {
        assert_eq!(text.parse(), Ok(expected));
    }

    #[test]
    fn every_fault_has_a_text_form() {
        let symbol = Some(Symbol::new("BTCUSDT"));
        let five = Duration::from_secs(5);
        check("cut", Fault::Cut);
        check("cut:1", Fault::CutOldest(1));
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
        check("delist:BTCUSDT", Fault::Delist(Symbol::new("BTCUSDT")));
        check("list:BTCUSDT", Fault::List(Symbol::new("BTCUSDT")));
        check("shutdown:5s", Fault::Shutdown(five));
        check("stall:250ms", Fault::Stall(Duration::from_millis(250)));
    }

    #[test]
    fn every_lie_has_a_text_form() {
        let symbol = || Symbol::new("BTCUSDT");
        let five = Duration::from_secs(5);
        let ten = Rows::Trades(Position::Ahead(0), Position::Ahead(9));
        check("hide:BTCUSDT:+0-+9:5s", Fault::Lie(RestLie::Hide(symbol(), ten), five));
        check("hide=BTCUSDT:+0-+9:5s", Fault::Lie(RestLie::Hide(symbol(), ten), five));
        let minutes = Rows::Klines(Interval::M1, 60_000, 120_000);
        check("hide:BTCUSDT:1m:60000-120000:ever", Fault::Lie(RestLie::Hide(symbol(), minutes), EVER));
        check("empty:5s", Fault::Lie(RestLie::Empty(None), five));
        check("page:short:5s", Fault::Lie(RestLie::Page(PageLie::Short, Endpoint::Any), five));
        check("answer:hang:time:5s", Fault::Lie(RestLie::Answer(AnswerLie::Hang, Endpoint::Time), five));
        check("mute:BTCUSDT:kline_1m:5s", Fault::Socket(SocketLie::Mute(symbol(), Channel::Kline(Interval::M1), five)));
        check("ack:absent:5s", Fault::Socket(SocketLie::Ack(AckLie::Absent, five)));
        check("foreign:9", Fault::Socket(SocketLie::Foreign(9)));
        check("rollback:BTCUSDT:5", Fault::Numbering(Numbering::Rollback(symbol(), 5)));
        check("clock:-1h:5s", Fault::Clock(-3_600_000_000, five));
        let poison = Poison {
            symbol: None,
            kind: FrameKind::Trade,
            edits: "t=0".parse().unwrap(),
            extent: Extent::Time(five),
            is_copy: true,
        };
        check("poisoncopy:trade.t=0:5s", Fault::Socket(SocketLie::Poison(poison)));
    }

    #[test]
    fn other_text_is_not_a_lie() {
        for (text, reason) in [
            ("hide:BTCUSDT:9", "cannot read"),
            ("hide:BTCUSDT:2m:1-2:5s", "`2m` is not an interval"),
            ("page:upside:5s", "none of duplicates, conflicts"),
            ("answer:html:nowhere:5s", "none of any, ping"),
            ("poison:BTCUSDT:trade:1", "cannot read"),
            ("poison:BTCUSDT:t=0:1", "cannot read"),
            ("row:BTCUSDT:7:price:5s", "`price` is not an edit"),
            ("refuse:200:5s:5s", "`200` is not a status"),
            ("refuse:418:soon:5s", "`soon` is not a duration"),
            ("rollback:BTCUSDT:0", "cannot read"),
            ("clock:1h:5s", "cannot read"),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn other_text_is_not_a_fault() {
        for text in [
            "cuts",
            "cut now",
            "cut-5s",
            "drop",
            "drop:many",
            "silent:8",
            "rest:200:5s",
            "lag:10h",
            "outage:",
            "stall:5x",
        ] {
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
