//! `TAPEKEEPER_FAULTS`: makes loops of this process get stuck, to show on a real machine that the watchdog restarts the
//! service and reports why. Off unless the variable is set; the start warns about it.

use std::time::Duration;

use tracing::warn;

use crate::config;
use crate::heartbeat::Heartbeats;
use crate::messages;

/// The loops that the variable may name.
const LOOPS: [&str; 3] = ["ingest", "consume", "scheduler"];

/// The heartbeats of this process, with the faults that the variable's text requests.
pub fn heartbeats(requested: Option<&str>) -> anyhow::Result<Heartbeats> {
    let Some(text) = requested.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(Heartbeats::default()) };
    let stuck = read(text).map_err(|why| anyhow::anyhow!("TAPEKEEPER_FAULTS: {why}"))?;
    for (name, after) in &stuck {
        warn!(
            MESSAGE_ID = messages::FAULTS_ON,
            "TAPEKEEPER_FAULTS is set: the loop {name} gets stuck {} s after its start, on purpose",
            after.as_secs_f64()
        );
    }
    Ok(Heartbeats::with_stuck(stuck))
}

fn read(text: &str) -> Result<Vec<(String, Duration)>, String> {
    let mut stuck = Vec::new();
    for fault in text.split(',').map(str::trim) {
        let usage = || format!("`{fault}` is not wedge:LOOP@DURATION with one of the loops {}", LOOPS.join(", "));
        let (name, after) = fault.strip_prefix("wedge:").ok_or_else(usage)?.split_once('@').ok_or_else(usage)?;
        let known = LOOPS.iter().find(|known| **known == name).ok_or_else(usage)?;
        stuck.push(((*known).to_owned(), config::parse_duration(after).ok_or_else(usage)?));
    }
    Ok(stuck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_parsed_and_anything_else_is_refused() {
        let faults = read("wedge:ingest@5s, wedge:scheduler@1m").unwrap();
        assert_eq!(faults[0], ("ingest".to_owned(), Duration::from_secs(5)));
        assert_eq!(faults[1], ("scheduler".to_owned(), Duration::from_secs(60)));
        for wrong in ["ingest", "wedge:ingest", "wedge:admin@5s", "wedge:ingest@5", "wedge:ingest@5s,"] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains("wedge:LOOP@DURATION") && why.contains("scheduler"), "{why}");
        }
    }

    #[test]
    fn an_unset_variable_asks_for_no_fault() {
        for nothing in [None, Some(""), Some(" ")] {
            heartbeats(nothing).unwrap().watch("ingest").beat();
        }
        assert!(heartbeats(Some("everything")).unwrap_err().to_string().starts_with("TAPEKEEPER_FAULTS: `everything`"));
    }
}
