//! Every fault with its spelling and its effect: the help of `simulate --faults`, and what docs/simulator.md lists.

use std::fmt::Write as _;

use super::lies::rest_rows::{ANSWER_LIES, ENDPOINTS, INFO_LIES, PAGE_LIES};
use super::lies::socket::{ACK_LIES, FRAME_KINDS};

/// A group of faults: its title, and each spelling with its effect.
pub type Group = (&'static str, &'static [(&'static str, &'static str)]);

/// Every fault.
pub const GROUPS: [Group; 6] = [
    (
        "The network and the server",
        &[
            ("cut", "every WebSocket connection ends with a TCP reset"),
            ("cut:1", "one connection ends with a TCP reset, the one that is open for longest; `cut:2` is two of them"),
            ("close", "every WebSocket connection ends with a close frame"),
            ("outage:5s", "every connection is cut, and new ones are reset, those of REST too"),
            ("shutdown:3s", "the server announces its shutdown and ends the connections 3 s later"),
            ("stall:5s", "present connections stay open and send nothing, not even a ping"),
            ("clock:+1h:5s", "the server's time and the event times jump, forward or back (`-1h`)"),
        ],
    ),
    (
        "Frames",
        &[
            ("drop:BTCUSDT:40", "the next 40 trade frames are never sent; `drop:40` of any symbol"),
            ("silent:BTCUSDT:8s", "all frames of the symbol are lost; `silent:8s` of every symbol"),
            ("duplicate:5", "the next 5 trade frames are sent twice"),
            ("reorder:10", "the next 10 trade frames are sent in reverse order"),
            ("garbage:2", "a frame that is not JSON comes before each of the next 2 trade frames"),
            ("losetail:BTCUSDT:1000", "trades from this id on are never sent"),
            ("hole:BTCUSDT:10:12s", "the next 10 trade frames are lost, and REST hides the same trades for 12 s"),
            (
                "poison:BTCUSDT:trade.E=*1000:1",
                "the next trade frame is changed; without a symbol a frame of any symbol",
            ),
            ("poison:BTCUSDT:trade.t=0:30s", "every trade frame of 30 s is changed"),
            ("poisoncopy:BTCUSDT:kline.L=max&x=true:1", "a changed copy follows the next right kline frame"),
            ("foreign:200000", "frames of 200,000 symbols that nobody subscribed to"),
        ],
    ),
    (
        "Subscriptions",
        &[
            ("refusestream:BTCUSDT:trade:12s", "a subscription that contains the stream is answered with an error"),
            ("mute:BTCUSDT:trade:12s", "the stream is acknowledged, and its frames never come"),
            ("ack:wrong:12s", "requests get a wrong answer"),
            ("upgrade:429:20m:12s", "connections are refused with this status and Retry-After"),
        ],
    ),
    (
        "REST",
        &[
            ("rest:503:5s", "every answer has this status"),
            ("ratelimit:5s", "429 with the right Retry-After"),
            ("ban:5s", "418 with the right Retry-After"),
            ("refuse:418:date=20m:12s", "this status and Retry-After: `20m` in seconds, `date=20m`, `raw=-1`, `none`"),
            ("lag:2s", "the newest 2 s are not shown, until `lag:0s`"),
            ("forget:BTCUSDT:2000", "only trades from this id on are served, and klines from their time on"),
            ("young:BTCUSDT:2000:12s", "the same for 12 s"),
            ("hide:BTCUSDT:1060-1069:12s", "the neighbours of these trades are served and they are not"),
            ("hide:BTCUSDT:1m:1700000040000-1700000100000:12s", "the same for klines, by open time in milliseconds"),
            ("empty:12s", "every page of trades is `[]`; `empty:BTCUSDT:12s` of one symbol"),
            ("unknown:BTCUSDT:12s", "the symbol is unknown (-1121), and its frames come"),
            ("row:BTCUSDT:1080:qty=1e-8:12s", "rows of trades are changed"),
            ("row:BTCUSDT:1m:1700000040000:4=null:12s", "rows of klines are changed; their fields are numbers"),
            ("newest:BTCUSDT:1000000000000:12s", "the newest trade and aggregate claim to have this id"),
            ("page:descending:historicalTrades:12s", "pages are changed; without a path those of every path"),
            ("answer:html:12s", "something else comes in place of the answer; with a path only there"),
            ("info:limitnull:12s", "exchangeInfo is odd"),
        ],
    ),
    (
        "The numbering",
        &[
            ("renumber:BTCUSDT:1", "the next trade has this id, and REST serves only what follows"),
            ("rollback:BTCUSDT:5", "the last 5 ids come once more for other trades, and REST serves those"),
            ("wipe:BTCUSDT", "everything is deleted and ids begin at 1; `wipe` for every symbol"),
            ("correct:BTCUSDT:1m", "the last closed kline is sent again with a later event time and a higher close"),
        ],
    ),
    (
        "The listing",
        &[
            ("delist:BTCUSDT", "the symbol is not listed any more: it does not trade, and REST does not know it"),
            ("list:BTCUSDT", "the symbol is listed again, and its ids continue"),
        ],
    ),
];

/// How to write what the spellings contain.
pub const NOTES: [&str; 4] = [
    "A schedule separates faults with commas; `@15s` behind a fault is its time after the opening of the market.",
    "A time is written 250ms, 8s, 1m30s, 24h or (for lies) ever; the same lie of REST with 0s ends it.",
    "An id is written 1060, or +10, which counts from the next trade's id: hide:BTCUSDT:+0-+9:12s.",
    "A change names a field and its new value: max and min (the edges of i64), year3000, +5, *1000, null, true, \
     unquoted, quoted, absent, or any text; & joins several.",
];

/// The tables of names: title, and each name with its effect.
pub fn name_tables() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    fn names<T>(table: &[(T, &'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        table.iter().map(|(_, name, effect)| (*name, *effect)).collect()
    }
    vec![
        ("Frames of `poison`", names(&FRAME_KINDS)),
        ("Answers of `ack`", names(&ACK_LIES)),
        ("Pages of `page`", names(&PAGE_LIES)),
        ("Answers of `answer`", names(&ANSWER_LIES)),
        ("Listings of `info`", names(&INFO_LIES)),
        ("Paths", names(&ENDPOINTS)),
    ]
}

/// The help for people who write a schedule.
pub fn help() -> String {
    let mut text = "Faults:\n".to_owned();
    let mut put = |arguments: std::fmt::Arguments<'_>| text.write_fmt(arguments).expect("a string takes everything");
    for (title, faults) in GROUPS {
        put(format_args!("\n{title}:\n"));
        faults.iter().for_each(|(spelling, effect)| put(format_args!("  {spelling}\n          {effect}\n")));
    }
    put(format_args!("\n"));
    NOTES.iter().for_each(|note| put(format_args!("{note}\n")));
    for (title, names) in name_tables() {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        put(format_args!("{title}: {}\n", names.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fault::parse_schedule;
    use super::*;

    #[test]
    fn every_spelling_is_a_fault() {
        for (spelling, _) in GROUPS.iter().flat_map(|(_, faults)| *faults) {
            let scheduled = parse_schedule(&format!("{spelling}@5s")).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((scheduled.len(), scheduled[0].after.as_secs()), (1, 5), "{spelling}");
        }
    }

    #[test]
    fn the_documentation_lists_every_fault_and_name() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/simulator.md");
        let page = std::fs::read_to_string(path).unwrap();
        for (spelling, effect) in GROUPS.iter().flat_map(|(_, faults)| *faults) {
            assert!(page.contains(&format!("| `{spelling}` | {effect} |")), "docs/simulator.md lacks:\n{}", expected());
        }
        for (title, names) in name_tables() {
            for (name, _) in names {
                assert!(page.contains(&format!("`{name}`")), "docs/simulator.md lacks `{name}` of {title}");
            }
        }
    }

    /// The tables of the page.
    fn expected() -> String {
        let mut text = String::new();
        for (title, faults) in GROUPS {
            text.push_str(&format!("## {title}\n\n| fault | what it does |\n|---|---|\n"));
            faults.iter().for_each(|(spelling, effect)| text.push_str(&format!("| `{spelling}` | {effect} |\n")));
            text.push('\n');
        }
        text
    }

    #[test]
    fn the_help_names_everything() {
        let help = help();
        assert!(
            help.contains("rollback:BTCUSDT:5") && help.contains("conflicts") && help.contains("year3000"),
            "{help}"
        );
    }
}
