//! Which module may use which: DESIGN.md's direction as a table.

use super::source::{code, paths, without_tests};
use super::{File, assert_none, rust_files};

/// A module, the modules that it may use, and the reason where it is not obvious. From the bottom up: a module uses
/// only modules above it in this table, so there is no cycle. A new edge is a change of the design: say why in the
/// commit.
const MODULES: &[(&str, &[&str], &str)] = &[
    ("market", &[], "the vocabulary"),
    ("histogram", &[], "numbers only"),
    ("retry", &[], "delays only, never what is retried"),
    ("gap", &["market", "retry"], "how long a repair waits before the next attempt"),
    ("messages", &[], "ids only: whoever logs may name one"),
    ("exit", &[], "codes only"),
    ("faults", &[], "decides how a call goes wrong, never which"),
    ("health", &[], "names of parts"),
    ("heartbeat", &[], "names of loops"),
    ("signals", &[], ""),
    ("atomic_file", &[], "paths and bytes only; the snapshot and the scheduler's state use it"),
    ("sqlite", &[], "how a file is opened; log and history share it"),
    ("supervisor", &[], ""),
    ("systemd", &["atomic_file", "messages", "heartbeat"], "the watchdog is fed by the heartbeats"),
    ("telemetry", &["messages"], ""),
    ("clock", &["market"], "what it reads is a market::Timestamp: microseconds since 1970, no more of markets"),
    ("exchange", &["clock", "gap", "market", "messages", "retry"], "gap::Range is what a question asks for"),
    ("log", &["faults", "market", "sqlite"], ""),
    ("progress", &["histogram", "log", "market"], "measures how long batches take"),
    ("history", &["faults", "gap", "log", "market", "sqlite"], "a dead letter names its log partition"),
    (
        "ledger",
        &["gap", "histogram", "history", "market", "messages"],
        "the one door to gap rows: stores them; measures how long repairs take",
    ),
    (
        "cache",
        &["faults", "health", "history", "market", "messages", "heartbeat", "retry"],
        "an update is made from a batch of history's rows",
    ),
    ("parquet_file", &["exit", "market"], "columns and rows of any kind; a value that does not fit ends a command"),
    ("state", &["atomic_file"], "does not know what the numbers mean"),
    (
        "writer",
        &["cache", "health", "history", "log", "market", "messages", "heartbeat", "retry"],
        "the one way rows reach history and cache",
    ),
    (
        "ingest",
        &["clock", "exchange", "health", "log", "market", "messages", "heartbeat", "progress", "retry"],
        "stamps in progress what it has seen",
    ),
    (
        "consume",
        &[
            "cache",
            "clock",
            "exchange",
            "gap",
            "health",
            "history",
            "ledger",
            "log",
            "market",
            "messages",
            "heartbeat",
            "progress",
            "writer",
            "retry",
        ],
        "",
    ),
    (
        "backfill",
        &[
            "clock",
            "consume",
            "exchange",
            "gap",
            "health",
            "history",
            "ingest",
            "ledger",
            "market",
            "messages",
            "heartbeat",
            "progress",
            "retry",
            "supervisor",
            "writer",
        ],
        "supervisor reads what a panic said; progress, the ledger and ingest's connection events decide what to request; consume takes the probes",
    ),
    (
        "replay",
        &["consume", "exchange", "health", "history", "log", "market", "heartbeat", "writer"],
        "consume without commit",
    ),
    (
        "audit",
        &["backfill", "cache", "exchange", "gap", "history", "market"],
        "what jobs, API and command line all compare with",
    ),
    (
        "seal",
        &["atomic_file", "audit", "clock", "exchange", "exit", "gap", "history", "market", "parquet_file"],
        "audit finds a day's first trade and says what a numbering proves; the catalog, whether klines name their trades",
    ),
    (
        "jobs",
        &[
            "atomic_file",
            "audit",
            "backfill",
            "cache",
            "clock",
            "gap",
            "health",
            "history",
            "log",
            "market",
            "messages",
            "heartbeat",
            "retry",
            "seal",
            "supervisor",
        ],
        "supervisor reads what a panic said; a critical job that is silent is a degraded part of health; a backfill job's range is a gap::Range",
    ),
    (
        "admin",
        &[
            "audit",
            "backfill",
            "cache",
            "clock",
            "exchange",
            "gap",
            "health",
            "histogram",
            "history",
            "ingest",
            "jobs",
            "ledger",
            "log",
            "market",
            "heartbeat",
            "progress",
            "telemetry",
        ],
        "shows every module; of telemetry the lines that were dropped",
    ),
    ("config", &["admin", "cache", "exchange", "history", "jobs", "log", "market"], "knows every module's options"),
    (
        "app",
        &[
            "admin",
            "atomic_file",
            "backfill",
            "cache",
            "clock",
            "config",
            "consume",
            "exchange",
            "exit",
            "gap",
            "health",
            "history",
            "ingest",
            "jobs",
            "ledger",
            "log",
            "market",
            "messages",
            "heartbeat",
            "progress",
            "seal",
            "signals",
            "state",
            "supervisor",
            "systemd",
            "writer",
            "retry",
        ],
        "wires",
    ),
    (
        "simulator",
        &["clock", "exchange", "market"],
        "an exchange, which knows nothing of who records it; each venue's own side of its protocol is in exchange",
    ),
    (
        "cli",
        &[
            "admin",
            "app",
            "audit",
            "clock",
            "config",
            "exchange",
            "exit",
            "gap",
            "history",
            "jobs",
            "market",
            "parquet_file",
            "replay",
            "seal",
            "signals",
            "simulator",
            "telemetry",
        ],
        "",
    ),
    ("main", &["cli", "exit"], "parses, runs, exits"),
    ("lib", &[], "the map"),
];

/// Modules that decide and do not act: no runtime, no I/O, no clock.
const PURE: &[&str] = &[
    "src/market/",
    "src/gap/",
    "src/ledger.rs",
    "src/ledger/appeal",
    "src/ledger/settled",
    "src/exchange/binance",
    "src/jobs/calendar",
    "src/jobs/planner",
    "src/jobs/spec",
    "src/consume/reorder_buffer",
    "src/consume/router",
    "src/consume/stream_state",
    "src/consume/undecodable",
    "src/exchange/listing_state",
];
const IMPURE: &[&str] = &[
    "tokio",
    "async fn",
    ".await",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "crate::clock",
    "reqwest",
    "rusqlite",
    "tracing::",
];

/// Modules with backends, and the backends, which only app names.
const PORTS: [&str; 3] = ["log", "history", "cache"];
const BACKENDS: [&str; 4] = ["embedded", "kafka", "clickhouse", "redis"];

/// The modules that a file's code uses, as paths from the crate's root.
fn known_paths(file: &File) -> Vec<String> {
    let code = without_tests(&code(&file.text));
    let mut known = paths(&code, "crate");
    known.extend(paths(&code, "tapekeeper"));
    // `super::` repeated as often as the file is deep leads to the root as well.
    let depth = file.path.split('/').count() - 1 - usize::from(file.path.ends_with("/mod.rs"));
    known.extend(paths(&code, &vec!["super"; depth].join("::")));
    known
}

fn edges(file: &File) -> Vec<String> {
    let is_module = |name: &&str| MODULES.iter().any(|(module, ..)| module == name);
    let mut modules: Vec<String> = known_paths(file)
        .iter()
        .filter_map(|path| path.split("::").next())
        .filter(|name| is_module(name) && *name != file.module())
        .map(str::to_owned)
        .collect();
    modules.sort();
    modules.dedup();
    modules
}

fn forbidden_edges(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        let Some((_, allowed, _)) = MODULES.iter().find(|(module, ..)| *module == file.module()) else {
            found.push(format!(
                "{}: `{}` is not in the table of modules (tests/it/tidy/edges.rs)",
                file.path,
                file.module()
            ));
            continue;
        };
        for module in edges(file).iter().filter(|module| !allowed.contains(&module.as_str())) {
            found.push(format!("{}: `{}` must not use `{module}`", file.path, file.module()));
        }
    }
    found
}

fn named_backends(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_test() && file.module() != "app") {
        let code = without_tests(&code(&file.text));
        for port in PORTS.iter().filter(|port| **port != file.module()) {
            let named = known_paths(file)
                .into_iter()
                .filter_map(|path| path.strip_prefix(port)?.strip_prefix("::").map(str::to_owned));
            let named = named.chain(paths(&code, port));
            for path in named.filter(|path| path.split("::").next().is_some_and(|first| BACKENDS.contains(&first))) {
                found.push(format!("{}: names the backend {port}::{path}; only app does", file.path));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn impure(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.is_test() && PURE.iter().any(|pure| file.path.starts_with(pure))) {
        let code = without_tests(&code(&file.text));
        for word in IMPURE.iter().filter(|word| code.contains(**word)) {
            found.push(format!("{}: is pure and must not use `{word}`", file.path));
        }
    }
    found
}

#[test]
fn modules_use_only_the_modules_of_the_table() {
    assert_none(&forbidden_edges(&rust_files(&["src"])));
}

#[test]
fn the_table_of_modules_has_no_cycle_and_no_unused_edge() {
    let files = rust_files(&["src"]);
    let mut found = Vec::new();
    for (at, (module, allowed, _)) in MODULES.iter().enumerate() {
        for other in *allowed {
            if !MODULES[..at].iter().any(|(above, ..)| above == other) {
                found.push(format!("`{module}` uses `{other}`, which is not above it"));
            }
            let used = |file: &File| {
                !file.is_test() && file.module() == *module && edges(file).iter().any(|edge| edge == other)
            };
            if !files.iter().any(used) {
                found.push(format!("`{module}` may use `{other}` and does not"));
            }
        }
        if !files.iter().any(|file| file.module() == *module) {
            found.push(format!("there is no module `{module}`"));
        }
    }
    assert_none(&found);
}

#[test]
fn only_app_names_backends() {
    assert_none(&named_backends(&rust_files(&["src"])));
}

#[test]
fn pure_modules_do_no_io() {
    assert_none(&impure(&rust_files(&["src"])));
}

#[test]
fn the_rules_find_forbidden_edges_however_they_are_written() {
    let see = |path: &str, text: &str| forbidden_edges(&[File::example(path, text)]).len();
    assert_eq!(see("src/history/rows.rs", "use crate::config::Config;"), 1);
    assert_eq!(see("src/history/rows.rs", "use crate::{market::Trade, config};"), 1);
    assert_eq!(see("src/history/rows.rs", "fn f() { crate::app::run(); }"), 1);
    assert_eq!(see("src/history/rows.rs", "use super::super::config::Config;"), 1);
    assert_eq!(see("src/heartbeat.rs", "use super::market::Stream;"), 1);
    assert_eq!(see("src/utils/mod.rs", ""), 1);
    assert_eq!(
        see(
            "src/history/rows.rs",
            "use crate::market::Trade; // crate::config\n#[cfg(test)] mod tests { use crate::app; }"
        ),
        0
    );
}

#[test]
fn the_rules_find_backends_and_impure_code() {
    let backends = |path: &str, text: &str| named_backends(&[File::example(path, text)]).len();
    assert_eq!(backends("src/consume/mod.rs", "use crate::history::embedded::EmbeddedHistory;"), 1);
    assert_eq!(backends("src/admin/api.rs", "use crate::{log};\nlet log = log::kafka::open();"), 1);
    assert_eq!(backends("src/config/service.rs", "let b = log::Backend::Kafka; c.history.clickhouse"), 0);
    assert_eq!(backends("src/app/stores.rs", "use crate::history::embedded::EmbeddedHistory;"), 0);
    let seen = |path: &str, text: &str| impure(&[File::example(path, text)]).len();
    assert_eq!(seen("src/gap/plan.rs", "use tokio::time::sleep;"), 1);
    assert_eq!(seen("src/exchange/binance/rest.rs", "async fn ask() {}"), 1);
    assert_eq!(seen("src/exchange/rest.rs", "use tokio::time::sleep;"), 0);
}
