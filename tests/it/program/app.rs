//! [`TestApp`]: a recorder's process with its directory, its configuration and its log.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tapekeeper::simulator::Simulator;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The longest wait for something that takes about a second on an idle machine.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tapekeeper");

/// A recorder's process as an operator sees it.
pub struct TestApp {
    directory: TempDir,
    /// The recorder's data directory.
    pub data_dir: PathBuf,
    listen: SocketAddr,
    /// More lines of `[admin]`.
    admin: String,
    environment: Vec<(String, String)>,
    arguments: Vec<&'static str>,
    /// A program that starts the recorder, with its arguments; empty for none.
    wrapper: Vec<String>,
    child: Option<Child>,
    http: reqwest::Client,
}

/// A `[[feed]]` of a simulated exchange.
pub fn feed(simulator: &Simulator, symbols: &[&str], channels: &[&str]) -> String {
    format!(
        "[[feed]]\nexchange = \"binance\"\nsymbols = {symbols:?}\nchannels = {channels:?}\nws_url = \"{}\"\n\
         rest_url = \"{}\"\n\n",
        simulator.ws_url(),
        simulator.rest_url()
    )
}

impl TestApp {
    /// A recorder of these feeds; it is not started yet.
    pub fn new(feeds: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(WAIT_MAX);
        let http = http.tls_backend_preconfigured((*tapekeeper::exchange::tls_config()).clone()).build().unwrap();
        let app = Self {
            data_dir: directory.path().join("data"),
            listen: free_address(),
            admin: String::new(),
            directory,
            environment: Vec::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            child: None,
            http,
        };
        app.configure(feeds);
        app
    }

    /// Writes the configuration: these feeds (or other top-level text), the data directory and the address.
    pub fn configure(&self, feeds: &str) {
        let text = format!(
            "data_dir = {:?}\n\n{feeds}\n[admin]\nlisten = \"{}\"\n{}",
            self.data_dir.display().to_string(),
            self.listen,
            self.admin
        );
        fs::write(self.config_path(), text).unwrap();
    }

    /// Adds lines to `[admin]`; [`Self::configure`] writes them.
    pub fn admin(&mut self, lines: &str) {
        self.admin = lines.to_owned();
    }

    /// Listens beyond loopback; [`Self::configure`] writes it.
    pub fn listen_everywhere(&mut self) {
        self.listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }

    /// Sets an environment variable of the next process.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Makes the next process log JSON objects with all fields.
    pub fn log_objects(&mut self) {
        self.arguments.extend(["--log-format", "json"]);
    }

    /// Makes the next process start through another program, which gets the arguments of the recorder.
    pub fn set_wrapper(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&part| part.to_owned()).collect();
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("tapekeeper.toml")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Starts the recorder and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_until_ready().await;
    }

    /// Starts the recorder.
    pub fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match &self.wrapper[..] {
            [] => Command::new(BINARY),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        command.arg("run").arg("--config").arg(self.config_path()).args(&self.arguments);
        clear_environment(&mut command);
        let child = command.envs(self.environment.iter().cloned()).stderr(log).kill_on_drop(true).spawn().unwrap();
        self.child = Some(child);
    }

    /// Waits until `/readyz` returns 200.
    pub async fn wait_until_ready(&mut self) {
        let until = Instant::now() + WAIT_MAX;
        while self.status("/readyz").await != Some(200) {
            assert!(self.is_alive(), "the recorder ended before it was ready");
            assert!(Instant::now() < until, "the recorder is not ready after {} s", WAIT_MAX.as_secs());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id().unwrap()).unwrap()
    }

    /// Sends SIGKILL and waits for the exit.
    pub async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// Sends SIGTERM; returns the exit status and how long the exit took.
    pub async fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        tapekeeper::signals::terminate(self.pid()).unwrap();
        (self.wait_for_exit().await, began.elapsed())
    }

    /// Sends SIGTERM and expects exit code 0.
    pub async fn stop_cleanly(&mut self) {
        let (status, _) = self.stop().await;
        assert_eq!(status.code(), Some(0), "the recorder did not stop in order: {status}");
    }

    /// Waits for the exit.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        tokio::time::timeout(WAIT_MAX, child.wait()).await.expect("the recorder does not exit").unwrap()
    }

    /// Runs a command of the program with this configuration.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config_path().display().to_string();
        run(&[arguments, &["--config", &config]].concat()).await
    }

    /// The status code of an answer; `None` when there is no answer.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = self.http.get(format!("{}{path}", self.base_url())).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// The JSON document at a path.
    pub async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base_url())).send().await.unwrap().json().await.unwrap()
    }

    /// Sends a POST; returns the status code and the JSON document.
    pub async fn post(&self, path: &str) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.base_url())).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("recorder.log")
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.start_kill()
        {
            eprintln!("cannot kill the recorder: {error}");
        }
        if std::thread::panicking() {
            eprintln!("---- the recorder's log ----\n{}---- end of the log ----", self.log());
        }
    }
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    clear_environment(&mut command);
    let ended = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(WAIT_MAX * 3, ended).await.expect("the command does not exit").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// Removes the user's own settings.
fn clear_environment(command: &mut Command) {
    for name in [
        "TAPEKEEPER_CONFIG",
        "TAPEKEEPER_JOBS",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "STATE_DIRECTORY",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
}

/// A free address that no other test uses, below the ports of outgoing connections.
fn free_address() -> SocketAddr {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let port = rand::random_range(12_000..30_000);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && TAKEN.lock().unwrap().get_or_insert_default().insert(port) {
            return address;
        }
    }
}

/// Waits until `check` returns something.
pub async fn wait_for<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A counter of a recorder; 0 while it does not answer.
pub async fn metric(app: &TestApp, name: &str) -> u64 {
    let Ok(answer) = app.http().get(format!("{}/metrics", app.base_url())).send().await else { return 0 };
    let text = answer.text().await.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Whether TAPEKEEPER_SOAK asks for the long campaigns; prints a note when it does not.
pub fn soak() -> bool {
    let is_soak = std::env::var_os("TAPEKEEPER_SOAK").is_some();
    if !is_soak {
        eprintln!("soak only: set TAPEKEEPER_SOAK=1 to run it");
    }
    is_soak
}

/// The seed in `TAPEKEEPER_SEED`, or a random one; prints it.
pub fn seed() -> u64 {
    let seed = std::env::var("TAPEKEEPER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    eprintln!("seed {seed}: TAPEKEEPER_SEED={seed} repeats it");
    seed
}

/// The CPU time of a process.
pub fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The resident memory of a process: `VmRSS` now, `VmHWM` at most.
pub fn resident_kib(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
