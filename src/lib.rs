//! Tapekeeper is a service that records an exchange's market data. It never loses a trade that it could have recorded,
//! and it reports honestly when the exchange itself cannot return one.
//!
//! > An [**exchange**](exchange) is [**ingest**](ingest)ed into the [**log**](log); [**consume**](consume) carries it
//! > to [**history**](history) and [**cache**](cache) and notices a [**gap**](gap); [**backfill**](backfill) fills
//! > it; [**jobs**](jobs) audit, sweep, preload and snapshot on schedule; the [**supervisor**](supervisor) keeps all
//! > of it running under [systemd], and [**admin**](admin) shows it.
//!
//! # Where things happen
//!
//! The **recording path** is ingest, log, consume and writer:
//!
//! ```text
//! exchange::socket -> ingest -> log -> consume -> writer -> history; then the offset is committed to the log
//!                                         |          |
//!                                         |          `-> cache (write-behind)
//!                                         `-> gap -> ledger -> backfill -> writer
//! ```
//!
//! | what happens | where |
//! |---|---|
//! | a frame arrives | `exchange/socket/session.rs`: the loop of one connection |
//! | a frame is appended to the log, as received | `ingest.rs`: [`ingest::run`] calls [`log::Log::append`] |
//! | a frame is decoded | `consume/reorder_buffer.rs`: [`consume::ReorderBuffer::push`] calls [`exchange::Dialect::decode`]; Binance's decoder is `exchange/binance/frames.rs`. During a rotation `exchange/socket/overlap.rs` decodes too, only to compare two connections |
//! | a jump in positions is noticed | `consume/router.rs`: [`gap::Tracker::observe`]; the items behind it are held |
//! | an id does not fit | `consume/router.rs` holds the trade and asks; `backfill/numbering.rs` compares the exchange's REST with history and says whether the numbering continues, came once more or began again (an epoch) |
//! | one position has two contents | `consume/known_rows.rs` notices it; `backfill/conflicts.rs` lets the exchange's REST decide |
//! | a gap is opened | [`consume::ReorderBuffer::declare_gaps`] gives up waiting for the missing positions; `open_gaps` in `consume/worker.rs` calls [`ledger::SharedLedger::open_with_rows`], and the gap's row goes to history in the same batch as the rows. Gaps that no frame reveals (sweep, audit, operator) are opened by [`ledger::SharedLedger::open`], those of the start by [`ledger::Ledger::open_unshared`] |
//! | a silent stream is probed | `backfill/tail.rs` sends a [`consume::Probe`] with positions that exist at the exchange |
//! | rows become durable | `writer.rs`: [`writer::Writer::write`] repeats [`history::RowStore::insert`] until it succeeds |
//! | an offset is committed | `consume/worker.rs`: `flush` calls [`log::Consumer::commit`], after the insert; [`consume::ReorderBuffer::take_ready`] decides up to which offset. At a Kafka rebalance the poll thread commits instead: `log/kafka/poller.rs` |
//! | a latest value is written | `cache/write_behind.rs` calls [`cache::Cache::apply`] |
//! | a gap is repaired and closed | `backfill/repair.rs` requests its pages over REST, writes them and counts them in history |
//! | a job becomes due | `jobs/planner/mod.rs`: [`jobs::planner::Planner::due`] decides for times (the arithmetic is in `planner/job.rs`), `Planner::event` for events; `jobs/runner.rs`: [`jobs::Runner::run`] calls it and starts the run |
//! | the service starts and stops | `app/mod.rs`: [`app::run`]; `app/main_loop.rs` runs between the two |
//!
//! # The modules
//!
//! Lowest layer first: a module uses only modules that are listed before it. `tests/it/tidy/edges.rs` holds the allowed
//! edges and fails on any other.
//!
//! | module | what it does |
//! |---|---|
//! | [market] | the vocabulary: [`Stream`](market::Stream), [`Trade`](market::Trade), [`Kline`](market::Kline), [`Frame`](market::Frame), [`Timestamp`](market::Timestamp). Pure |
//! | [histogram] | counts measurements in buckets. Pure |
//! | [retry] | delays between retries, and growing pauses |
//! | [gap] | what is missing: the [`Tracker`](gap::Tracker) finds it, the [plan](gap::next_page) orders its repair. Pure |
//! | [messages] | the journal's MESSAGE_IDs |
//! | [exit] | exit codes, and the [`Failure`](exit::Failure) that carries one |
//! | [faults] | injects faults into calls to the stores, for tests |
//! | [health] | the degraded parts and why, for `/healthz`, `/readyz` and STATUS |
//! | [heartbeat] | proof of progress: the recording loops beat, the watchdog reads the beats |
//! | [signals] | SIGTERM, SIGINT and SIGHUP as requests, with their sender |
//! | [atomic_file] | replaces a file atomically and durably |
//! | [sqlite] | opens and migrates an SQLite file, and reads it beside its writer |
//! | [supervisor] | starts tasks in groups, reports the first that fails, stops the groups in order |
//! | [systemd] | READY, STATUS, STOPPING, WATCHDOG, and the admin listener across restarts |
//! | [telemetry] | log lines, to stderr or the journal |
//! | [clock] | the only reader of the wall clock; the steady clock that nobody sets |
//! | [exchange] | the port [`Dialect`](exchange::Dialect) and its implementations (pure), the [socket](exchange::socket) loop, the [REST](exchange::rest) client |
//! | [log] | a trait with several backends: the durable event log between the sockets and everything else |
//! | [progress] | how far each stream is seen, consumed and durable |
//! | [history] | a trait with several backends: all trades, klines, gaps, dead letters and runs |
//! | [ledger] | the one door to gap rows: the open gaps in memory, the rules for opening, merging, claiming and closing them, and their writes |
//! | [cache] | a trait with several backends: the latest value of every stream |
//! | [parquet_file] | writes rows as Parquet, for `export` and sealed days |
//! | [state] | the snapshot: saved atomically to a file and to the cache, restored at start |
//! | [writer] | the only path of rows to history and cache |
//! | [ingest] | appends the sockets' frames and connection markers to the log |
//! | [consume] | reads the log, decodes, finds gaps, writes to history and cache, then commits |
//! | [backfill] | repairs gaps over REST and probes silent streams |
//! | [replay] | reads the log again through the present decoder |
//! | [audit] | compares cache, history and exchange, counts and repairs |
//! | [seal] | finished days as Parquet files with manifests, and their verification from the files alone |
//! | [jobs] | the planner (pure), the runner, the tasks |
//! | [admin] | HTTP API, status page, metrics |
//! | [config] | reads both files into every module's options; only app and cli know it |
//! | [app] | builds and runs the service: the only module that names concrete backends |
//! | [simulator] | an exchange on loopback, for `demo`, tests and dry runs |
//! | [cli] | the commands, one file per group |
//!
//! Some modules exist because several others need the same code and must not know each other: [writer] for live and
//! backfilled rows, [audit] for jobs, API and command line, [sqlite] for log and history, [faults] for the wrappers of
//! the three stores, [atomic_file] for the two state files, [retry] for every loop that repeats an operation.
//!
//! # The invariants, and where they are kept
//!
//! 1. **Durable before acknowledged.** [`consume::run`] commits an offset only when rows and gaps up to it are
//!    durable; [`consume::ReorderBuffer`] holds back everything behind a held frame; [sqlite] syncs every commit.
//! 2. **Idempotent by the exchange's own identity**: a trade id, an open time. [`history::RowStore::insert`] keeps one
//!    row per key, the one with the higher version: a live copy is above a backfilled one ([`history::row_version`]).
//! 3. **Raw first.** [`market::Frame`] holds the bytes as received, and [`ingest`] does not decode them. A frame that
//!    cannot be decoded becomes a [`history::DeadLetter`].
//! 4. **A gap is a row, not an error.** [`gap::Tracker`] finds it by id, [`gap::Gap`] is the row,
//!    [`gap::classify_absence`] decides about positions that do not come back, a count in history closes it, and
//!    [`gap::GapState`] is its outcome.
//! 5. **Backfill never enters the log.** [`backfill`] writes through [`writer::Writer`], flagged.
//! 6. **The cache only moves forward**: [`cache::tick_is_newer`] and [`cache::kline_is_newer`]. The store decides
//!    ([`cache::Cache::apply`]).
//! 7. **Everything has a bound.** Clippy bans unbounded channels; every limit is a constant or an option with its
//!    reason beside it. A full queue blocks the reader of the socket, and what the exchange then drops is a gap.
//! 8. **A feature may fail alone; the recording path may not.** The job [`runner`](jobs::Runner) records a panic as a
//!    failed run; [`supervisor::first_failure`] stops the process when a recording task fails.
//! 9. **The watchdog proves progress.** A loop calls [`heartbeat::Heartbeat::beat`] once per iteration, and
//!    [`heartbeat::Heartbeat::beat_while`] while it waits for an exchange or a store; [`systemd::feed_watchdog`] reads
//!    the beats. [`heartbeat::BEAT_INTERVAL_MAX`] is the longest time without one.
//! 10. **Exact numbers.** [`market::parse_decimal`] reads the text as sent, [`market::plain`] writes it; no float
//!     holds a price or a quantity.
//!
//! # Behaviour of the platform that the code works around
//!
//! *tokio-cron-scheduler* 0.15: a repeated job never fires again after one stall that is longer than its interval, and
//! a job's local time keeps the offset of the day on which the job was created. So the library decides nothing here:
//! the [planner](jobs::planner) does, and the library wakes the runner once a second, so that it notices clock steps.
//!
//! *croner*: 4.x only; 3.0 does not fire a `*/30` second job for an hour when summer time ends. It keeps the sub-second
//! part of its start, so [`jobs::planner::next_cron`] cuts it off. `0 0 0 31 2 *` parses and never fires: the
//! configuration computes a next run before it accepts a pattern.
//!
//! *sd-notify* does not sanitise: a newline in STATUS begins another assignment, and `...\nSTOPPING=1` stops the unit.
//! [systemd] replaces control characters in everything it sends. `WATCHDOG_USEC=0` means no watchdog; a timer panics on
//! an interval of zero.
//!
//! *journald* blocks its clients while it is stopped, and *tracing-journald* sends from the thread that logs. So
//! [telemetry] queues copies of the events, and only its own thread waits. systemd clears the status of a unit when it
//! starts again, also after an automatic restart: the watchdog's reason goes through a file.
//!
//! *SQLite*: WAL, `synchronous=FULL` (the log is synced at every commit), `busy_timeout` because others may read while
//! we write. `page_size` and `auto_vacuum` take effect only before the first table exists. A reader that stays in a
//! transaction prevents the reuse of the write-ahead log, so every read runs to its end, also when its caller is gone.
//!
//! *tungstenite* answers a ping only when the socket is read or flushed: one loop reads, writes and waits. A task per
//! message would reorder them. *reqwest* and tungstenite share one TLS configuration ([`exchange::tls_config`]),
//! because each would otherwise choose its own crypto provider, and one proxy rule ([`exchange::Proxy`]).
//!
//! *rand* 0.10: `random_range` is a method of `RngExt`. The sequence of its `StdRng` is the same only within one
//! version of the crate. The simulated market must repeat for a seed in every version, so the [simulator] has its own
//! generator.

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
pub mod parquet_file;
pub mod progress;
pub mod replay;
pub mod retry;
pub mod seal;
pub mod signals;
pub mod simulator;
pub mod sqlite;
pub mod state;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod writer;
