//! Talks to the running service over its API, found through the same configuration.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::admin::AdminOptions;
use crate::exit::{Failure, NO, UNAVAILABLE};

/// Longest answer: a job that is waited for, a coverage of everything.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// The running service.
pub struct Client {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// The service that this configuration would start.
    pub fn new(options: &AdminOptions) -> anyhow::Result<Self> {
        // The service is on this machine: a proxy meant for the exchange is not for it.
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).no_proxy();
        let http = http.tls_backend_preconfigured((*crate::exchange::tls_config()).clone()).build();
        let base = format!("http://{}", options.listen);
        Ok(Self { base, token: options.token.clone(), http: http.context("set up the HTTP client")? })
    }

    /// Where the status page is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Asks for a document.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    /// Asks for a change.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut request = self.http.post(format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                let help = "start it with `systemctl start tapekeeper` or `tapekeeper run`, or name its configuration with --config";
                return Err(Failure::new(UNAVAILABLE, anyhow!("the service is not running at {}: {help}", self.base)));
            }
            Err(error) => return Err(Failure::new(UNAVAILABLE, anyhow!(error).context("ask the service"))),
        };
        let status = answer.status();
        let document: Value = answer
            .json()
            .await
            .context("read the service's answer")
            .map_err(|error| Failure::new(UNAVAILABLE, error))?;
        if status.is_success() {
            return Ok(document);
        }
        let message = document["error"]["message"].as_str().unwrap_or("the service refused").to_owned();
        let code = match status.as_u16() {
            401 | 403 => crate::exit::PERMISSION,
            422 => crate::exit::CONFIGURATION,
            503 | 504 => crate::exit::TEMPORARY,
            _ => NO,
        };
        Err(Failure::new(code, anyhow!(message)))
    }
}
