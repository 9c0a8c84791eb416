//! `/metrics` is valid Prometheus text, and exports every metric that the alert rules and the dashboard use.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Served;
use crate::gap::{Evidence, Gap, GapState, Range};
use crate::heartbeat::StuckLoop;
use crate::market::{Stream, Timestamp};

const RULES: &str = include_str!("../../../packaging/prometheus-rules.yml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana-dashboard.json");

/// A recorder in which every event has happened once, so that every metric has a sample.
async fn seasoned() -> Served {
    let served = Served::start().await;
    served.store("binance:BTCUSDT:trade", 1..=5).await;
    served.state.health.degraded("cache", "redis is down");
    served.state.heartbeats.remember_stuck_loop(StuckLoop {
        name: "consume".to_owned(),
        at: 1_790_000_000,
        age_ms: 9_000,
    });
    served.state.reload_count.count(false);
    let second = std::time::Duration::from_secs(1);
    served.state.progress.count_batch(5, second / 50, Some(second / 10));
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let found = Gap::open(stream, Range { first: 10, last: 19 }, Evidence::default(), Timestamp(1_000_000));
    let mut gap = served.state.ledger.open(&*served.history, &found).await.unwrap().remove(0);
    assert!(gap.advance(GapState::Filled, "", Timestamp(4_000_000)));
    served.state.ledger.record(&*served.history, &gap, &[]).await.unwrap();
    served.post("/api/v1/jobs/state-snapshot/run?wait=true", "").await;
    served
}

/// The type of each metric, from the `# TYPE` lines.
fn kinds(text: &str) -> BTreeMap<&str, &str> {
    let mut kinds = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(kinds.insert(name, kind), None, "{name} is described twice");
    }
    kinds
}

/// The described metric that a sample belongs to.
fn described<'a>(sample: &'a str, kinds: &BTreeMap<&str, &str>) -> Option<&'a str> {
    if kinds.contains_key(sample) {
        return Some(sample);
    }
    let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| sample.strip_suffix(end))?;
    (kinds.get(family) == Some(&"histogram")).then_some(family)
}

/// Every metric name in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tapekeeper_") || word.starts_with("process_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_well_formed_and_named_once() {
    let served = seasoned().await;
    let text = served.text("/metrics").await;
    let kinds = kinds(&text);
    for (name, kind) in &kinds {
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        assert!(described(name, &kinds).is_some(), "{name} is not described");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for wanted in [
        "tapekeeper_build_info{version=",
        "tapekeeper_log_lag_frames 0",
        "tapekeeper_log_lag_seconds 0",
        "tapekeeper_gaps{state=\"open\"} 0",
        "tapekeeper_gaps_closed_total{state=\"filled\"} 1",
        "tapekeeper_gap_heal_seconds_bucket{le=\"2\"} 0",
        "tapekeeper_gap_heal_seconds_bucket{le=\"5\"} 1",
        "tapekeeper_insert_duration_seconds_bucket{le=\"0.025\"} 1",
        "tapekeeper_batch_delay_seconds_sum 0.1",
        "tapekeeper_watchdog_beat_age_seconds{loop=\"scheduler\"}",
        "tapekeeper_watchdog_beats_total{loop=\"scheduler\"}",
        "tapekeeper_config_reloads_total{outcome=\"refused\"} 1",
        "tapekeeper_config_last_reload_successful 0",
        "tapekeeper_log_lines_dropped_total",
        "tapekeeper_stream_last_received_timestamp_seconds{exchange=\"binance\",symbol=\"BTCUSDT\",channel=\"trade\"}",
        "tapekeeper_job_runs_total{job=\"state-snapshot\"} 1",
        "tapekeeper_job_outcomes_total{job=\"state-snapshot\",outcome=\"succeeded\"} 1",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_reports_nothing() {
    let text = seasoned().await.text("/metrics").await;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let promtool = promtool.spawn();
    let Ok(mut promtool) = promtool else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no promtool");
        println!("SKIPPED: there is no promtool here");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_rules_and_the_dashboard_is_exported() {
    let text = seasoned().await.text("/metrics").await;
    let kinds = kinds(&text);
    let exports = |name: &str| described(name, &kinds).is_some();
    for (file, content) in [("rules", RULES), ("dashboard", DASHBOARD)] {
        let names = named(content);
        assert!(names.len() > 15, "{file} names {names:?} only");
        let unknown: Vec<&str> = names.into_iter().filter(|name| !exports(name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which are not exported");
    }
    assert!(!exports("tapekeeper_frames") && !exports("tapekeeper_gaps_bucket"), "the check accepts any name");
}

#[test]
fn every_panel_of_the_dashboard_has_a_description_and_a_query() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "two panels are {}", panel["id"]);
        if panel["type"] == "row" {
            continue;
        }
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().is_some_and(|words| !words.is_empty()), "{title} has no description");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(!named(query).is_empty() && query.contains("$instance"), "{title}: {query}");
        }
    }
}
