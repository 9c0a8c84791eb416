//! Real servers, each in a directory of its own on a free port of loopback. They end with the tests.

pub mod clickhouse;
pub mod kafka;
pub mod redis;
pub mod redis_cluster;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to answer.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often a wait checks its condition.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Where the scripts are.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers")
}

/// The program that starts a server. Prints a note and returns `None` when it is not available; with `CI=true` that is
/// a failure.
fn prepare(name: &str) -> Option<PathBuf> {
    let answer = Command::new(scripts().join("prepare")).arg(name).output().unwrap();
    if answer.status.success() {
        return Some(PathBuf::from(String::from_utf8(answer.stdout).unwrap().trim()));
    }
    let why = String::from_utf8_lossy(&answer.stderr);
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no {name} server: {why}");
    // Written past the capture of `cargo test`, which would hide the line of a test that passes.
    let line = format!("SKIPPED: every test that needs a {name} server: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// A free port that no other test gets. It lies between the ports of the recorders under test and those of outgoing
/// connections, one of which could take a port before its server listens.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(30_000..32_768);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TAKEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A server that can be killed and started again on the same data and port.
pub struct Server {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    pub port: u16,
    pub directory: tempfile::TempDir,
    running: Mutex<Option<Running>>,
    answers: fn(u16) -> bool,
}

struct Running {
    /// `until-eof`, which ends the server when we drop its standard input.
    keeper: Child,
    server: Pid,
}

impl Server {
    /// Starts `program` with the arguments that `arguments` makes of the port and the directory, and waits
    /// until it `answers`.
    fn start(
        name: &'static str,
        program: PathBuf,
        arguments: impl FnOnce(u16, &Path) -> Vec<String>,
        answers: fn(u16) -> bool,
    ) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        // `until-eof` removes no directory without it.
        std::fs::write(directory.path().join("made-for-a-test-server"), "").unwrap();
        let arguments = arguments(port, directory.path());
        let server = Self { name, program, arguments, port, directory, running: Mutex::new(None), answers };
        server.restart();
        server
    }

    /// Kills the server, starts it again on the same directory and waits until it answers.
    pub fn restart(&self) {
        self.kill();
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut keeper = Command::new(scripts().join("until-eof"))
            .arg(self.directory.path())
            .arg(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let server = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        *self.running.lock().unwrap() = Some(Running { keeper, server });
        self.wait_for("answer", || (self.answers)(self.port));
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&self) {
        let Some(mut running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        kill_process(running.server, Signal::KILL).unwrap();
        // Keeps the directory: a restart needs it, and dropping the `Server` removes it.
        let mut keeper = running.keeper.stdin.take().unwrap();
        keeper.write_all(b"keep\n").unwrap();
        drop(keeper);
        running.keeper.wait().unwrap();
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + READY_MAX;
        while !condition() {
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} did not {what} in time:\n{}", self.name, log());
            std::thread::park_timeout(POLL_EVERY);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a server listens on this port.
fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}
