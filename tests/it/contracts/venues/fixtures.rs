//! Fixtures: frames and answers with what they mean, as `tests/fixtures/<venue>/*.json`, and recorded files.
//!
//! A fixture has `what` it shows, its `kind` (`frame`, `rest` or `symbol`), the `input`, and the lines that it means:
//! `expect`. An expected line that ends with `...` is the beginning of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tapekeeper::exchange::{Dialect, PageStart, Request, RestAnswer, RestReply, Series};
use tapekeeper::gap::Range;
use tapekeeper::market::{Channel, SpellingError, Timestamp};

use super::{each, text};

/// Names the recorded files of a venue, not a fixture.
const CAPTURES: &str = "captures.json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    what: String,
    kind: String,
    #[serde(default)]
    request: Asked,
    #[serde(default = "ok")]
    status: u16,
    input: String,
    expect: Vec<String>,
}

fn ok() -> u16 {
    200
}

/// A request in a fixture: only the members that its kind needs.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    ask: String,
    /// Of trades; `trade` without one.
    channel: Option<String>,
    symbol: String,
    interval: String,
    first: i64,
    last: i64,
    at: i64,
    /// The venue's time; 2100 without one.
    now: Option<i64>,
    symbols: Vec<String>,
}

impl Asked {
    fn request(&self) -> Request<'_> {
        let symbol = self.symbol.as_str();
        let channel = self.channel.as_ref().map_or(Channel::Trade, |name| name.parse().unwrap());
        let series = Series { symbol, channel };
        let range = Range { first: self.first, last: self.last };
        match self.ask.as_str() {
            "trades" => Request::Trades { series, range, after: Some(PageStart::At(Timestamp(self.at))) },
            "newest" => Request::Newest { series },
            "newest_fallback" => Request::NewestFallback { series },
            "trade_at" => Request::TradeAt { series, at: Timestamp(self.at) },
            "klines" => Request::Klines { symbol, interval: self.interval.parse().unwrap(), range },
            "time" => Request::Time,
            "listing" => Request::Listing { symbols: &self.symbols },
            other => panic!("no request is called {other:?}"),
        }
    }
}

fn directory(dialect: &dyn Dialect) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(dialect.exchange().as_str())
}

#[test]
fn every_fixture_means_what_it_should() {
    each(|dialect| {
        let found = std::fs::read_dir(directory(dialect)).map(|files| files.map(|file| file.unwrap().path()));
        let mut paths: Vec<PathBuf> = found.into_iter().flatten().collect();
        paths.retain(|path| path.file_name().is_some_and(|name| name != CAPTURES));
        paths.sort();
        assert!(!paths.is_empty(), "{} has no fixtures", dialect.exchange());
        for path in paths {
            let fixture: Fixture = serde_json::from_slice(&std::fs::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let lines = match fixture.kind.as_str() {
                "frame" => text::frame(dialect, fixture.input.as_bytes()),
                "rest" => rest(dialect, &fixture),
                "symbol" => symbol(dialect, &fixture.input),
                other => panic!("{}: no fixture is a {other:?}", path.display()),
            };
            let matches = |(line, expected): (&String, &String)| match expected.strip_suffix("...") {
                Some(beginning) => line.starts_with(beginning),
                None => line == expected,
            };
            let same = lines.len() == fixture.expect.len() && lines.iter().zip(&fixture.expect).all(matches);
            let (what, expected) = (&fixture.what, fixture.expect.join("\n"));
            assert!(same, "{}: {what}\nexpected:\n{expected}\nfound:\n{}", path.display(), lines.join("\n"));
        }
    });
}

/// The request, then what its answer says.
fn rest(dialect: &dyn Dialect, fixture: &Fixture) -> Vec<String> {
    let request = fixture.request.request();
    let Some(asked) = dialect.ask(&request) else { return vec!["not offered".to_owned()] };
    let mut lines = vec![format!("GET {} weight={} bucket={}", asked.path, asked.weight, asked.bucket)];
    let body = fixture.input.as_bytes();
    if let Some(refused) = dialect.judge(&RestReply { status: fixture.status, header: &|_| None, body }) {
        lines.push(text::refusal(&refused));
        return lines;
    }
    let now = Timestamp(fixture.request.now.unwrap_or(4_102_444_800_000_000));
    match dialect.answer(&request, &RestAnswer { body, now, latest: now }) {
        Ok(answer) => lines.extend(text::answer(&answer)),
        Err(failed) => lines.push(text::error(&failed)),
    }
    lines
}

fn symbol(dialect: &dyn Dialect, input: &str) -> Vec<String> {
    vec![match dialect.symbol(input) {
        Ok(symbol) => symbol.to_string(),
        Err(SpellingError::Respell(meant)) => format!("respelled {meant}"),
        Err(other) => format!("{other:?}"),
    }]
}

/// What a recorded file holds.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Held {
    /// Messages that are frames.
    frames: usize,
    /// Events in them.
    events: usize,
    /// Frames that cannot be decoded.
    #[serde(default)]
    errors: usize,
}

#[test]
fn recorded_frames_decode() {
    each(|dialect| {
        let Ok(list) = std::fs::read(directory(dialect).join(CAPTURES)) else { return };
        let files: BTreeMap<String, Held> = serde_json::from_slice(&list).unwrap();
        for (name, held) in files {
            let Some(bytes) = recorded(&name) else { return };
            let mut found = Held { frames: 0, events: 0, errors: 0 };
            for payload in messages(&name, &bytes) {
                found.frames += 1;
                if let Err(error) = dialect.decode(&payload, &mut |_| found.events += 1) {
                    found.errors += 1;
                    eprintln!("{name}: {error}: {}", String::from_utf8_lossy(&payload[..payload.len().min(200)]));
                }
            }
            assert_eq!(found, held, "{name}");
        }
    });
}

/// A file of the captures; `None` without captures on this machine.
fn recorded(name: &str) -> Option<Vec<u8>> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let directory =
        std::env::var_os("TAPEKEEPER_CAPTURES").map(PathBuf::from).or_else(|| beside.is_dir().then_some(beside));
    let Some(directory) = directory else {
        eprintln!("SKIPPED: no captures: set TAPEKEEPER_CAPTURES or put them at ../shared/captures");
        return None;
    };
    let path = directory.join(name);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display())))
}

/// The messages from a venue: one a file, one a line, or one a line after its time. Other lines are what the client did.
fn messages(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    if name.ends_with(".json") {
        return vec![bytes.to_vec()];
    }
    let text = String::from_utf8_lossy(bytes);
    let message = |line: &str| {
        let is_time = |text: &str| text.parse::<f64>().is_ok();
        let message = match line.split_once(": ") {
            Some((time, message)) if is_time(time) => message,
            _ => line,
        };
        message.starts_with(['{', '[']).then(|| message.as_bytes().to_vec())
    };
    text.lines().filter_map(message).collect()
}
