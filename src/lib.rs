//! Tapekeeper keeps the tape: a service that records an exchange's market data and never loses a trade it could have
//! had, and says so honestly when the exchange itself cannot give one back.
//!
//! > An [**exchange**](exchange) is [**ingest**](ingest)ed into the [**log**](log); [**consume**](consume) carries it
//! > to [**history**](history) and [**cache**](cache) and notices a [**gap**](gap); [**backfill**](backfill) fills
//! > it; [**jobs**](jobs) audit, sweep, preload and snapshot on schedule; the [**supervisor**](supervisor) keeps all
//! > of it running under [systemd], and [**admin**](admin) shows it.
//!
//! # The rooms
//!
//! From the bottom up: a room knows only rooms that stand above it here. `tests/it/tidy/edges.rs` holds the table of
//! who knows whom, and fails on any other edge.
//!
//! | room | what it is |
//! |---|---|
//! | [market] | the vocabulary: [`Stream`](market::Stream), [`Trade`](market::Trade), [`Kline`](market::Kline), [`Frame`](market::Frame), [`Timestamp`](market::Timestamp). Pure |
//! | [histogram] | measurements counted in buckets. Pure |
//! | [gap] | what is missing: the [`Tracker`](gap::Tracker) notices, the [plan](gap::next_page) repairs. Pure |
//! | [ledger] | the open gaps in memory: who finds one opens a row, who repairs one closes it |
//! | [messages] | the journal's MESSAGE_IDs |
//! | [exit] | exit codes, and the [`Failure`](exit::Failure) that carries one |
//! | [faults] | decides how a call to a store goes wrong; the test wrappers of all three stores ask it |
//! | [health] | what is well and what copes, for `/healthz`, `/readyz` and STATUS |
//! | [heartbeat] | proof of progress: what the watchdog is fed with |
//! | [signals] | SIGTERM, SIGINT and SIGHUP, with who sent them |
//! | [sqlite] | how an SQLite file is opened, versioned and read beside its writer |
//! | [supervisor] | spawns tasks in groups, sees the first that fails, stops them in order |
//! | [systemd] | READY, STATUS, STOPPING, WATCHDOG, the admin listener over restarts |
//! | [telemetry] | log lines, to stderr or the journal |
//! | [clock] | the only reader of the wall clock |
//! | [exchange] | the port [`Dialect`](exchange::Dialect) and its dialects (pure), THE [socket](exchange::socket) loop, THE [REST](exchange::rest) client |
//! | [log] | port: the durable event log between the socket and everything else |
//! | [progress] | how far each stream is consumed and durable |
//! | [history] | port: everything that happened |
//! | [cache] | port: the latest value of everything |
//! | [state] | the snapshot: saved atomically to a file and to the cache, restored at start |
//! | [writer] | the one way rows reach history and cache |
//! | [ingest] | socket frames to the log, and connection markers |
//! | [consume] | the log to history, cache and tracker, then the commit |
//! | [backfill] | a gap to REST pages to history, flagged |
//! | [replay] | the log once more through today's decoder |
//! | [audit] | compares, recounts, repairs |
//! | [jobs] | the planner (pure), the runner, the tasks |
//! | [admin] | HTTP API, status page, metrics |
//! | [config] | both files to every room's options; no room knows it |
//! | [app] | wires: the only room that names concrete backends |
//! | [simulator] | an exchange on loopback, for `demo`, tests and dry runs |
//! | [cli] | one file per group of commands |
//!
//! Ten rooms are not in the design's sentence. [writer] because live and backfilled rows must be insisted upon,
//! bisected and set aside by the same code. [audit] because jobs, API and command line must compare alike. [replay] because it consumes without committing. [sqlite]
//! because log and history open their files with the same care. [faults] because the three stores' test wrappers
//! share one script. [histogram] because gaps and batches are measured alike. [health], [exit], [messages] and [signals] because each is spoken by rooms that must not know each other.
//!
//! # The invariants, and where they are kept
//!
//! 1. **Durable before acknowledged.** [`consume::run`] commits an offset only when rows and gaps up to it are
//!    durable; [`consume::ReorderBuffer`] holds back everything behind a held frame; [sqlite] syncs every commit.
//! 2. **Idempotent by the exchange's own identity**: a trade id, an open time. [`history::History::insert`] keeps one
//!    row a key by its version, [`history::VERSION_LIVE`] over [`history::VERSION_BACKFILLED`].
//! 3. **Raw first.** [`market::Frame`] is the bytes as received, and [`ingest`] does not decode them. What cannot be
//!    decoded is a [`history::DeadLetter`].
//! 4. **A gap is a row, not an error.** [`gap::Tracker`] finds it by id, [`gap::Gap`] is the row,
//!    [`gap::classify_absence`] says what did not come back, a count in history closes it, [`gap::GapState`] says how it ended.
//! 5. **Backfill never enters the log.** [`backfill`] writes through [`writer::Writer`], flagged.
//! 6. **The cache only moves forward**: [`cache::tick_is_newer`] and [`cache::kline_is_newer`], decided in the store
//!    ([`cache::Cache::apply`]).
//! 7. **Bounded everywhere.** Clippy bans unbounded channels; every limit is a constant or an option with its reason
//!    beside it. A full queue holds up the reader of the socket, and what the exchange then drops is a gap.
//! 8. **A feature may fail alone; the spine may not.** The job [`runner`](jobs::Runner) records a panic as a failed
//!    run; [`supervisor::first_failure`] makes a recording task's end the process's end.
//! 9. **The watchdog proves progress.** [`heartbeat::Heartbeat::beat`] once a turn, [`heartbeat::Heartbeat::beat_while`] where a loop
//!    waits for somebody else, [`systemd::feed_watchdog`] reads them. [`heartbeat::BEAT_INTERVAL_MAX`] is the longest silence.
//! 10. **Exact numbers.** [`market::parse_decimal`] reads the text as sent, [`market::plain`] writes it; no float
//!     holds a price or a quantity.
//!
//! # What the platform does, for the next person
//!
//! *tokio-cron-scheduler* 0.15: a repeated job never fires again after one stall that is longer than its interval, and
//! a job's local time is frozen to the offset of the day on which it was made. So it decides nothing here: the
//! [planner](jobs::planner) does, and the library wakes the runner once a second to see stepped clocks.
//!
//! *croner*: 4.x only; 3.0 leaves a `*/30` second job silent for an hour when summer time ends. It keeps the sub-second
//! part of where it begins, so [`jobs::planner::next_cron`] cuts it off. `0 0 0 31 2 *` parses and never fires: the
//! configuration computes a next run before it accepts a pattern.
//!
//! *sd-notify* does not sanitise: a newline in STATUS is another assignment, and `...\nSTOPPING=1` stops the unit.
//! [systemd] replaces control characters in everything it sends. `WATCHDOG_USEC=0` means no watchdog, and an interval
//! of nothing would panic the timer.
//!
//! *journald* stops whoever logs while it is stopped itself, and *tracing-journald* sends from the thread that logs: so
//! events are kept and queued by [telemetry], and said again on its own thread, which alone waits. The status of a unit is cleared when
//! it starts again, and an automatic restart does that at once: the watchdog's reason goes through a file.
//!
//! *SQLite*: WAL, `synchronous=FULL` (the log is synced at every commit), `busy_timeout` because others may read while
//! we write. `page_size` and `auto_vacuum` take effect only before the first table is made. A reader that stays in a
//! transaction keeps the write-ahead log from being reused, so reads end on their own when the caller goes away.
//!
//! *tungstenite* answers a ping with the ping's payload only when the socket is read or flushed: one loop reads, writes
//! and waits, and never a task per message, which would reorder. *reqwest* and tungstenite share one TLS
//! configuration ([`exchange::tls_config`]), because each would otherwise choose its own crypto provider, and one proxy
//! rule ([`exchange::Proxy`]).
//!
//! *rand* 0.10: `random_range` is a method of `RngExt`. The sequence of its `StdRng` is the same only within one version
//! of the crate, so the simulated market, which must repeat from a seed for ever, has eight lines of its own
//! ([simulator]).

pub mod admin;
pub mod app;
pub mod atomic_file;
pub mod audit;
pub mod backfill;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consume;
pub mod exchange;
pub mod exit;
pub mod faults;
pub mod gap;
pub mod health;
pub mod heartbeat;
pub mod histogram;
pub mod history;
pub mod ingest;
pub mod jobs;
pub mod ledger;
pub mod log;
pub mod market;
pub mod messages;
pub mod progress;
pub mod replay;
pub mod retry;
pub mod signals;
pub mod simulator;
pub mod sqlite;
pub mod state;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod writer;
