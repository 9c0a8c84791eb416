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

/// How long anything may take that takes a second on an idle machine.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tapekeeper");

/// A recorder from outside.
pub struct TestApp {
    directory: TempDir,
    /// Where it keeps its files.
    pub data_dir: PathBuf,
    listen: SocketAddr,
    /// More lines of `[admin]`.
    admin: String,
    environment: Vec<(String, String)>,
    arguments: Vec<&'static str>,
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
    /// A recorder of these feeds, not started yet.
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
            child: None,
            http,
        };
        app.configure(feeds);
        app
    }

    /// Writes the configuration: these feeds (or other top-level text), its directory and address.
    pub fn configure(&self, feeds: &str) {
        let text = format!(
            "data_dir = {:?}\n\n{feeds}\n[admin]\nlisten = \"{}\"\n{}",
            self.data_dir.display().to_string(),
            self.listen,
            self.admin
        );
        fs::write(self.config_path(), text).unwrap();
    }

    /// Puts more lines into `[admin]`; [`Self::configure`] writes them.
    pub fn admin(&mut self, lines: &str) {
        self.admin = lines.to_owned();
    }

    /// Listens beyond loopback; [`Self::configure`] writes it.
    pub fn listen_everywhere(&mut self) {
        self.listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }

    /// Sets a variable of the next process.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The next process logs objects, with all fields.
    pub fn log_objects(&mut self) {
        self.arguments.extend(["--log-format", "json"]);
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

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_until_ready().await;
    }

    /// Starts it.
    pub fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("run").arg("--config").arg(self.config_path()).args(&self.arguments);
        clear_environment(&mut command);
        let child = command.envs(self.environment.iter().cloned()).stderr(log).kill_on_drop(true).spawn().unwrap();
        self.child = Some(child);
    }

    /// Waits until `/readyz` says 200.
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

    /// SIGKILL, and gone.
    pub async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// SIGTERM; returns how it ended and how long that took.
    pub async fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        tapekeeper::signals::terminate(self.pid()).unwrap();
        (self.wait_for_exit().await, began.elapsed())
    }

    /// SIGTERM, and an exit with 0.
    pub async fn stop_cleanly(&mut self) {
        let (status, _) = self.stop().await;
        assert_eq!(status.code(), Some(0), "the recorder did not stop in order: {status}");
    }

    /// Waits until it has ended.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        tokio::time::timeout(WAIT_MAX, child.wait()).await.expect("the recorder does not end").unwrap()
    }

    /// Runs a command of the program with this configuration.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.config_path().display().to_string();
        run(&[arguments, &["--config", &config]].concat()).await
    }

    /// The status code of a page, when it answers.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = self.http.get(format!("{}{path}", self.base_url())).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// A document.
    pub async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.base_url())).send().await.unwrap().json().await.unwrap()
    }

    /// Asks for a change; status and document.
    pub async fn post(&self, path: &str) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.base_url())).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// What it has logged so far, colours left out.
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

/// How a command ended and what it printed.
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
    let ended = tokio::time::timeout(WAIT_MAX * 3, ended).await.expect("the command does not end").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// A user's own settings are not the test's.
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

/// An address that nobody else takes: below the ports that outgoing connections use.
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

/// Waits until `check` gives something.
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

/// Whether the long campaigns are asked for; says so when not.
pub fn soak() -> bool {
    let asked = std::env::var_os("TAPEKEEPER_SOAK").is_some();
    if !asked {
        eprintln!("soak only: set TAPEKEEPER_SOAK=1 to run it");
    }
    asked
}

/// A seed, printed, or the one in `TAPEKEEPER_SEED`.
pub fn seed() -> u64 {
    let seed = std::env::var("TAPEKEEPER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    eprintln!("seed {seed}: TAPEKEEPER_SEED={seed} repeats it");
    seed
}
