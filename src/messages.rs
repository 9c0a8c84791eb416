//! The journal's MESSAGE_IDs: one for each event that an operator may filter by or want explained.
//!
//! `systemd/tapekeeper.catalog` holds the text that `journalctl -x` shows for each id (a test compares the two). An id
//! never changes its meaning and is never reused.

/// The service is ready.
pub const STARTED: &str = "3b339a6cd1b34fbeb4b4827492eabab2";
/// The stop has begun.
pub const STOPPING: &str = "c7e88d7bfbb343b2bfb44d550d0dbd42";
/// The stop is complete and the stores are closed.
pub const STOPPED: &str = "ceb2d5c6c3e845f0b64a2c4e1c4c49bd";
/// A recording task failed.
pub const RECORDING_TASK_FAILED: &str = "84870bd5532a4f7c92ab62e62a9df840";
/// A reload succeeded.
pub const RELOADED: &str = "9461bb715a284edea69ca31df824a444";
/// A reload was refused and changed nothing.
pub const RELOAD_REFUSED: &str = "520faccf17b1401093f52ed82852d17d";
/// A gap was found.
pub const GAP_FOUND: &str = "71771b54ea8545afa822fa9e8d9d7a9a";
/// The numbering of a symbol's trades began again.
pub const EPOCH_BEGAN: &str = "ae00828be7344f7b885e994e2580fef1";
/// One position has two contents.
pub const CONFLICT: &str = "5a36629412d14335a75c9743c9e52508";
/// A gap is filled.
pub const GAP_FILLED: &str = "fbdb7d4c0d7544489b8dfb2b4fa55def";
/// A gap is closed without its rows.
pub const GAP_CLOSED: &str = "6116f1214e2d4b86854fddb954987d07";
/// A job's run failed.
pub const JOB_FAILED: &str = "c9f15a6801f04435ae7eadaa1fb4b87c";
/// A job did not run when it was due.
pub const JOB_SKIPPED: &str = "64f4f05b38064860b9c6763693eedd99";
/// A run waits for its requirements.
pub const JOB_DEFERRED: &str = "0189c967bf0e4a989b20e1bdfddf328b";
/// A job is paused because it failed too often.
pub const JOB_PAUSED: &str = "bb7e3091914e4bf9ad7fd6a215ebde4b";
/// A critical job has not succeeded for too long.
pub const JOB_SILENT: &str = "fd2bb1e6b3a849e7b17d5ec7c320d8b1";
/// A job whose `on_failure` asks for an alert failed, and the runner does not retry it.
pub const JOB_ALERT: &str = "2cb765e301bf45f3b3eec29a1b3494cf";
/// A connection to the exchange ended.
pub const CONNECTION_LOST: &str = "e596464b602147328c18fd3af8bbe7d1";
/// The exchange bans this address.
pub const BANNED: &str = "3c3d2fc2b3a943988d95a6ee4f2e923d";
/// The log does not accept frames.
pub const LOG_REFUSES: &str = "a078b43bf5a84613951f9eb0456b20ca";
/// History does not accept rows.
pub const HISTORY_UNAVAILABLE: &str = "faa8c484960940c3870eb2f6aed84e22";
/// The cache does not accept values.
pub const CACHE_UNAVAILABLE: &str = "5a555f2aebbb4602a25b195b447cb55e";
/// A frame became a dead letter.
pub const DEAD_LETTER: &str = "618239ff14d64258aa043e479b8fbefd";
/// A loop is stuck.
pub const LOOP_STUCK: &str = "84187f0e25da43519c8a197362075fd9";
/// The watchdog ended the previous process.
pub const WATCHDOG_RESTARTED: &str = "e6efd0e6b6c146c48d30fe2224e0841d";
/// A panic.
pub const PANICKED: &str = "84c98fd2c9044487b75b01f20ab6b605";
/// The journal did not accept log lines in time.
pub const LINES_DROPPED: &str = "d7457232bb6749a19f2bb3481c649d13";
/// `TAPEKEEPER_FAULTS` is set.
pub const FAULTS_ON: &str = "263493a688bd4842bbae980ff2831384";
