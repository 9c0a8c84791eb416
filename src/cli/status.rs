//! `status`: the whole service on one screen, with problems last, beside the prompt.

use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::admin::time_series;

/// Most recent errors printed; the API has all.
const ERRORS_MAX: usize = 4;
/// Most notices printed; the API has all.
const NOTICES_MAX: usize = 8;
/// Widest line; the message of an exchange or a store can be long.
const WIDTH_MAX: usize = 100;

/// The status document as text.
pub fn render(status: &Value, base: &str) -> String {
    let problems = problems(status);
    let state = match problems.len() {
        _ if status["wedged"].is_string() => "WEDGED",
        _ if status["stopping"] == true => "stopping",
        _ if status["ready"] != true => "starting",
        0 => "recording",
        1 => "recording, 1 problem",
        count => &format!("recording, {count} problems"),
    };
    let instance = match status["instance"].as_str() {
        None | Some("") => String::new(),
        Some(name) => format!(" {name}"),
    };
    let version = status["version"].as_str().unwrap_or_default();
    let uptime = format_seconds(status["uptime_s"].as_i64().unwrap_or_default());
    let mut lines = vec![format!("tapekeeper{instance} {version} is {state}, up {uptime}, status page {base}/")];
    let mut add_line = |name: &str, words: String| lines.push(shortened(&format!("{name:<13}{words}")));
    stores(status, &mut add_line);
    exchanges(status, &mut add_line);
    // Also errors of parts that work again: they show what happened during the night.
    for error in list(&status["last_errors"]).take(ERRORS_MAX) {
        let [part, error] = ["part", "error"].map(|name| error[name].as_str().unwrap_or_default());
        add_line("last error", format!("{part}: {error}"));
    }
    for notice in list(&status["notices"]).take(NOTICES_MAX) {
        let [part, why] = ["part", "why"].map(|name| notice[name].as_str().unwrap_or_default());
        add_line("notice", format!("{part}: {why}"));
    }
    let more = list(&status["notices"]).count().saturating_sub(NOTICES_MAX);
    if more > 0 {
        add_line("notice", format!("and {more} more symbols that do not trade: /api/v1/streams has all"));
    }
    for (part, why) in problems {
        add_line("PROBLEM", format!("{part}: {why}"));
    }
    lines.join("\n")
}

/// The number, or a question mark when the service does not know it.
fn number(value: &Value) -> String {
    value.as_i64().map_or("?".to_owned(), |number| number.to_string())
}

fn stores(status: &Value, add_line: &mut impl FnMut(&str, String)) {
    let (streams, gaps, frames) = (&status["streams"], &status["gaps"], &status["frames"]);
    let (log, jobs) = (&status["log"], &status["jobs"]);
    let lag = log["lag_s"].as_f64().map_or(String::new(), |lag| format!(", lag {lag:.1} s"));
    let states = states(&streams["states"]);
    let receiving = match &streams["states"] {
        Value::Null => &streams["receiving"],
        states => &json!(states["receiving"].as_u64().unwrap_or(0)),
    };
    let (receiving, total) = (number(receiving), number(&streams["total"]));
    add_line("streams", format!("{receiving} of {total} receiving{states}{lag}"));
    let [open, missing, found, filled, otherwise] =
        ["open", "missing", "found", "filled", "closed_otherwise"].map(|name| number(&gaps[name]));
    let in_doubt = match gaps["unconfirmed"].as_u64() {
        Some(count @ 1..) => format!(", {count} in doubt"),
        _ => String::new(),
    };
    let open = format!("{open} open ({missing} missing){in_doubt}");
    add_line("gaps", format!("{open}, {found} found, {filled} filled, {otherwise} closed otherwise"));
    let (waiting, received) = (number(&log["lag_frames"]), number(&frames["received"]));
    let unrequested = match frames["unrequested"].as_u64() {
        None | Some(0) => String::new(),
        Some(frames) => format!(", {frames} dropped of streams that nobody asked for"),
    };
    add_line(
        "log",
        format!("{waiting} frames waiting, {received} received{unrequested}{}", size(&log["usage"]["bytes"])),
    );
    let (rows, backfilled) = (number(&status["rows"]), number(&status["backfilled"]));
    let bytes = size(&status["history"]["bytes"]);
    add_line("history", format!("{rows} rows live and {backfilled} backfilled since start{bytes}"));
    add_line("cache", format!("{} keys wait to be written", number(&status["cache"]["waiting"])));
    add_line("disk", disk(&status["disk"]));
    add_line("dead letters", number(&status["dead_letters"]));
    let [total, running, paused] = ["total", "running", "paused"].map(|name| number(&jobs[name]));
    add_line("jobs", format!("{total}, {running} running, {paused} paused{}", next(&jobs["next"])));
}

/// `, 1 not trading, 2 stalled`: every state but receiving and quiet.
fn states(states: &Value) -> String {
    let unusual =
        states.as_object().into_iter().flatten().filter(|(state, _)| !["receiving", "quiet"].contains(&state.as_str()));
    unusual.map(|(state, count)| format!(", {count} {}", state.replace('_', " "))).collect()
}

fn exchanges(status: &Value, add_line: &mut impl FnMut(&str, String)) {
    for socket in list(&status["connections"]) {
        let [exchange, state] = ["exchange", "state"].map(|name| socket[name].as_str().unwrap_or_default());
        let (streams, reconnects) = (&socket["streams"], &socket["reconnects"]);
        add_line("socket", format!("{exchange}: {state}, {streams} streams, {reconnects} reconnects"));
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        let offset = rest["clock_offset_us"].as_i64();
        let offset = offset.map_or(String::new(), |us| format!(", its clock {:+.1} ms", us as f64 / 1e3));
        add_line("rest", format!("{exchange}: weight {} of {} used{offset}", rest["used"], rest["limit"]));
        if let Some(until) = rest["limited_until"].as_str() {
            add_line("rest", format!("{exchange}: rate limited: no request before {until}"));
        }
    }
}

/// `81.2 GiB free, 2.2 GiB ours, growing by 1.5 MiB an hour, full in 41 days`.
fn disk(disk: &Value) -> String {
    let bytes = |name: &str| disk[name].as_u64().map_or("?".to_owned(), |bytes| HumanBytes(bytes).to_string());
    let growth = match disk["growth_bytes_per_hour"].as_f64() {
        None => "growth is known after half an hour".to_owned(),
        Some(growth) if growth >= 1.0 => format!("growing by {} an hour", HumanBytes(growth as u64)),
        Some(_) => "not growing".to_owned(),
    };
    let full = disk["full_in_s"]
        .as_f64()
        .map_or(String::new(), |seconds| format!(", full in {}", format_seconds(seconds as i64)));
    format!("{} free, {} ours, {growth}{full}", bytes("free_bytes"), bytes("kept_bytes"))
}

/// `, next state-snapshot at 10:50:00`.
fn next(next: &Value) -> String {
    let at = next["next_run"].as_str().and_then(|at| at.get(11..19));
    next["job"].as_str().zip(at).map_or(String::new(), |(job, at)| format!(", next {job} at {at}"))
}

/// Problems: a stuck loop, degraded parts, stores that do not answer, a full disk, failed jobs.
fn problems(status: &Value) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    if let Some(wedged) = status["wedged"].as_str() {
        problems.push((wedged.to_owned(), "this loop makes no progress".to_owned()));
    }
    for (part, why) in status["degraded"].as_object().into_iter().flatten() {
        problems.push((part.clone(), why.as_str().unwrap_or_default().to_owned()));
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        if let Some(until) = rest["banned_until"].as_str() {
            problems.push((exchange.clone(), format!("banned: no REST request before {until}")));
        }
    }
    for part in ["log", "history", "jobs"] {
        if let Some(why) = status[part]["error"].as_str() {
            problems.push((part.to_owned(), why.to_owned()));
        }
    }
    let disk = &status["disk"];
    let free = disk["free_bytes"].as_u64().filter(|free| *free < time_series::FREE_MIN);
    let full_in = disk["full_in_s"].as_f64().filter(|seconds| *seconds < time_series::FULL_SOON_S);
    match (free, full_in) {
        (_, Some(seconds)) => {
            problems.push((
                "disk".to_owned(),
                format!("full in {} as history and log grow", format_seconds(seconds as i64)),
            ));
        }
        (Some(free), None) => problems.push(("disk".to_owned(), format!("only {} are free", HumanBytes(free)))),
        (None, None) => {}
    }
    for job in list(&status["jobs"]["failing"]) {
        let name = job.as_str().unwrap_or_default();
        problems.push((format!("job {name}"), format!("its last run failed: `tapekeeper jobs history {name}`")));
    }
    problems
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn format_seconds(seconds: i64) -> String {
    match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 7_200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// `, 12.30 MiB on disk`, or nothing when the size is unknown.
fn size(bytes: &Value) -> String {
    bytes.as_u64().map_or(String::new(), |bytes| format!(", {} on disk", HumanBytes(bytes)))
}

fn shortened(line: &str) -> String {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= WIDTH_MAX {
        return line;
    }
    let kept: String = line.chars().take(WIDTH_MAX - 3).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "version": "0.1.0", "instance": "", "ready": true, "stopping": false, "wedged": null, "degraded": {},
            "uptime_s": 7_300, "streams": { "total": 14, "receiving": 13 },
            "log": { "lag_frames": 2, "lag_s": 0.21, "usage": { "bytes": 1_048_576 } }, "history": { "bytes": null },
            "cache": { "waiting": 0 }, "dead_letters": null, "frames": { "received": 9 }, "rows": 8, "backfilled": 1,
            "gaps": { "open": 1, "missing": 5, "found": 3, "filled": 2, "closed_otherwise": 0 },
            "disk": {
                "free_bytes": 2_147_483_648_u64, "kept_bytes": 1_048_576, "growth_bytes_per_hour": 1_536.7,
                "full_in_s": 3_600_000.0,
            },
            "jobs": {
                "total": 5, "running": 0, "paused": 1, "failing": [],
                "next": { "job": "gap-sweep", "next_run": "2026-11-24T10:50:00.000Z" },
            },
            "last_errors": [{ "part": "binance REST", "error": "answered 502" }],
            "connections": [{ "exchange": "binance", "state": "connected", "streams": 14, "reconnects": 2 }],
            "rest": { "binance": { "used": 40, "limit": 6_000, "clock_offset_us": -12_300 } },
        })
    }

    #[test]
    fn a_healthy_service_fits_one_screen_and_has_no_problem() {
        let text = render(&status(), "http://127.0.0.1:8081");
        assert!(
            text.starts_with("tapekeeper 0.1.0 is recording, up 2 h, status page http://127.0.0.1:8081/\n"),
            "{text}"
        );
        for line in [
            "streams      13 of 14 receiving, lag 0.2 s",
            "disk         2.00 GiB free, 1.00 MiB ours, growing by 1.50 KiB an hour, full in 41 days",
            "jobs         5, 0 running, 1 paused, next gap-sweep at 10:50:00",
            "last error   binance REST: answered 502",
            "gaps         1 open (5 missing), 3 found, 2 filled, 0 closed otherwise",
            "log          2 frames waiting, 9 received, 1.00 MiB on disk",
            "dead letters ?",
            "rest         binance: weight 40 of 6000 used, its clock -12.3 ms",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is missing in\n{text}");
        }
        assert!(!text.contains("PROBLEM") && text.lines().count() < 24, "{text}");
    }

    #[test]
    fn a_ban_and_a_rate_limit_are_shown_while_they_last() {
        let mut status = status();
        status["rest"]["binance"]["limited_until"] = json!("2023-11-14T22:13:20.000Z");
        let text = render(&status, "http://127.0.0.1:8081");
        assert!(text.contains("rate limited: no request before 2023-11-14T22:13:20"), "{text}");
        assert!(!text.contains("PROBLEM"), "{text}");
        status["rest"]["binance"]["banned_until"] = json!("2023-11-14T22:13:20.000Z");
        let text = render(&status, "http://127.0.0.1:8081");
        let line = "PROBLEM      binance: banned: no REST request before 2023-11-14T22:13:20";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn symbols_that_do_not_trade_are_notices_and_no_problem() {
        let mut status = status();
        let why = "binance does not list NEWUSDT (yet): it is recorded from its first trade on";
        status["notices"] = json!([{ "part": "binance:NEWUSDT", "why": why }]);
        status["streams"]["states"] = json!({ "receiving": 13, "not_trading": 1 });
        status["frames"]["unrequested"] = json!(7);
        let text = render(&status, "http://127.0.0.1:8081");
        assert!(text.contains("is recording, up"), "{text}");
        assert!(text.contains("13 of 14 receiving, 1 not trading, lag"), "{text}");
        assert!(text.contains("\nnotice       binance:NEWUSDT: binance does not list NEWUSDT (yet)"), "{text}");
        assert!(text.contains("7 dropped of streams that nobody asked for"), "{text}");
    }

    #[test]
    fn problems_are_printed_last() {
        let mut status = status();
        status["degraded"] = json!({ "history": "no space left on device ".repeat(20) });
        status["jobs"]["failing"] = json!(["gap-sweep"]);
        status["disk"]["full_in_s"] = json!(90_000);
        let text = render(&status, "http://127.0.0.1:8081");
        assert!(text.contains("is recording, 3 problems,"), "{text}");
        assert!(text.contains("\nPROBLEM      disk: full in 25 h as history and log grow\n"), "{text}");
        assert!(
            text.ends_with("PROBLEM      job gap-sweep: its last run failed: `tapekeeper jobs history gap-sweep`"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
    }
}
