//! The recorder of the demo: a child process that it starts, kills, restarts and stops.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::admin::AdminOptions;

use super::super::client::Client;
use super::market::Market;
use super::reporter::Reporter;

/// Longest time until the recorder is ready, and for its stop.
const READY_MAX: Duration = Duration::from_secs(30);

/// How long a simulated exchange is asked for ids that it does not serve: it hides nothing, and some ids never existed.
const CONFIRM_AFTER: &str = "5s";

/// The recorder's process, with a client of its API.
pub struct Recorder {
    directory: PathBuf,
    child: Child,
    client: Client,
}

impl Recorder {
    /// Writes a configuration for the simulated exchanges and starts the service on it.
    pub async fn start(directory: &Path, markets: &[Market]) -> anyhow::Result<Self> {
        let listen = free_address()?;
        let feeds: Vec<String> = markets.iter().map(Market::feed).collect();
        let config = format!(
            "data_dir = {:?}\n\n{}\n[backfill]\nconfirm_after = \"{CONFIRM_AFTER}\"\n\n[admin]\nlisten = \"{listen}\"\n",
            directory.join("data").display().to_string(),
            feeds.join("\n"),
        );
        std::fs::write(directory.join("tapekeeper.toml"), config).context("write the demo's configuration")?;
        let client = Client::new(&AdminOptions { listen, ..AdminOptions::default() })?;
        let child = spawn(directory)?;
        let mut recorder = Self { directory: directory.to_owned(), child, client };
        recorder.wait_ready().await?;
        Ok(recorder)
    }

    /// Starts the service again on the same data directory.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.directory)?;
        self.wait_ready().await
    }

    /// The client of its API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The configuration it runs on.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("tapekeeper.toml")
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!("cannot kill the recorder: {error}");
        }
    }

    /// An error when it has exited.
    pub fn ensure_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("get the state of the recorder")? {
            None => Ok(()),
            Some(status) => bail!("the recorder exited with {status}; see {}", self.log_path().display()),
        }
    }

    /// Stops it with SIGTERM and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.child.id().context("the recorder is not running")?;
        let process = i32::try_from(process).context("read the recorder's process id")?;
        crate::signals::terminate(process)?;
        let status = tokio::time::timeout(READY_MAX, self.child.wait()).await;
        let status = status.context("the recorder did not stop in time")?.context("wait for the recorder")?;
        ensure!(status.success(), "the recorder stopped with {status}; see {}", self.log_path().display());
        Ok(())
    }

    /// The gap ledger, newest first.
    pub async fn gaps(&self) -> anyhow::Result<Vec<Value>> {
        let gaps = self.client.get("/api/v1/gaps?limit=10000").await.map_err(|failure| failure.error)?;
        Ok(gaps.as_array().cloned().unwrap_or_default())
    }

    /// Waits until the recorder has everything the exchanges published, or for at most `limit`.
    pub async fn wait_recovered(
        &mut self,
        markets: &[Market],
        reporter: &Reporter,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        loop {
            self.ensure_alive()?;
            let gaps = self.gaps().await?;
            reporter.report_gaps(&gaps);
            let open = gaps.iter().any(|gap| gap["closed_at"].is_null());
            let streams = self.client.get("/api/v1/streams").await.map_err(|failure| failure.error)?;
            let streams = streams.as_array().cloned().unwrap_or_default();
            let behind = markets.iter().any(|market| is_behind(market, &streams));
            if (!open && !behind) || Instant::now() > until {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + READY_MAX;
        while self.client.get("/readyz").await.is_err() {
            self.ensure_alive()?;
            ensure!(Instant::now() < until, "the recorder is not ready; see {}", self.log_path().display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("recorder.log")
    }
}

/// Whether a trade that the exchange published is later than the last one of its stream.
fn is_behind(market: &Market, streams: &[Value]) -> bool {
    market.simulator.control.summary().into_iter().any(|published| {
        let last = streams.iter().find(|stream| {
            stream["exchange"] == market.exchange().as_str()
                && stream["symbol"] == published.symbol.as_str()
                && stream["channel"] == market.trades_channel().as_str()
        });
        published.count > 0
            && last.and_then(|stream| stream["last"].as_i64()) != Some(market.last_published(&published))
    })
}

fn spawn(directory: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("recorder.log"));
    let log = log.context("open the recorder's log")?;
    Command::new(std::env::current_exe().context("find this program")?)
        .arg("run")
        .arg("--config")
        .arg(directory.join("tapekeeper.toml"))
        // The demo must not use the user's schedule or proxy.
        .env_remove("TAPEKEEPER_JOBS")
        .env_remove("TAPEKEEPER_CONFIG")
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C in a terminal reaches the whole process group, but only the demo may stop the recorder.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("start the recorder")
}

/// The default address if it is free, else any free one.
fn free_address() -> anyhow::Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 8081));
    if TcpListener::bind(usual).is_ok() {
        return Ok(usual);
    }
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    any.local_addr().context("find a free port")
}
