//! Talks to the running service over its API, found through the same configuration.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::admin::AdminOptions;
use crate::exit::{CONFIGURATION, Failure, INTERNAL, PERMISSION, TEMPORARY, UNAVAILABLE, USAGE};

/// Longest answer: more than the service itself allows any request.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// How long the service may take to accept a connection; it is near.
const CONNECT_MAX: Duration = Duration::from_secs(5);

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
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).connect_timeout(CONNECT_MAX).no_proxy();
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

    /// Asks for a document with parameters; those that are `None` are left out.
    pub async fn ask(&self, path: &str, parameters: &[(&str, Option<&str>)]) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}{path}", self.base)).query(&given(parameters))).await
    }

    /// Asks for a change with parameters; those that are `None` are left out.
    pub async fn change(&self, path: &str, parameters: &[(&str, Option<&str>)]) -> Result<Value, Failure> {
        self.send(self.http.post(format!("{}{path}", self.base)).query(&given(parameters))).await
    }

    /// Asks for a change to a job, whatever characters its name has; parameters that are `None` are left out.
    pub async fn job(&self, name: &str, action: &str, parameters: &[(&str, Option<&str>)]) -> Result<Value, Failure> {
        let mut url = reqwest::Url::parse(&self.base).expect("the base is an address and nothing else");
        url.path_segments_mut().expect("http has a path").extend(["api", "v1", "jobs", name, action]);
        self.send(self.http.post(url).query(&given(parameters))).await
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
        let status = answer.status().as_u16();
        let document: Value = answer
            .json()
            .await
            .with_context(|| format!("read the answer of {}: is it tapekeeper that listens there?", self.base))
            .map_err(|error| Failure::new(UNAVAILABLE, error))?;
        if (200..300).contains(&status) {
            return Ok(document);
        }
        let message = document["error"]["message"].as_str().unwrap_or("the service refused").to_owned();
        Err(Failure::new(exit_code(status), anyhow!(message)))
    }
}

/// What a refusal means for whoever called the command.
fn exit_code(status: u16) -> u8 {
    match status {
        400 | 404 => USAGE,
        401 | 403 => PERMISSION,
        409 | 503 | 504 => TEMPORARY,
        422 => CONFIGURATION,
        _ => INTERNAL,
    }
}

fn given<'a>(parameters: &[(&'a str, Option<&'a str>)]) -> Vec<(&'a str, &'a str)> {
    parameters.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::extract::Path;
    use axum::http::{StatusCode, Uri};
    use axum::routing::{get, post};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn client(listen: SocketAddr) -> Client {
        Client::new(&AdminOptions { listen, ..AdminOptions::default() }).unwrap()
    }

    async fn serve(router: Router) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, router).into_future());
        client
    }

    #[tokio::test]
    async fn a_service_that_does_not_run_is_said_with_the_remedy() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = client(free).get("/api/v1/status").await.unwrap_err();
        let words = failure.error.to_string();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(words.starts_with(&format!("the service is not running at http://{free}")), "{words}");
        assert!(words.contains("systemctl start tapekeeper") && words.contains("tapekeeper run"), "{words}");
    }

    #[tokio::test]
    async fn names_and_parameters_arrive_as_they_are() {
        let router = Router::new()
            .route("/api/v1/jobs/{name}/run", post(async |Path(name): Path<String>| axum::Json(json!(name))))
            .route("/echo", get(async |uri: Uri| axum::Json(json!(uri.query()))));
        let client = serve(router).await;
        assert_eq!(client.job("a/b?c d", "run", &[]).await.unwrap(), "a/b?c d");
        let query = client.ask("/echo", &[("symbol", Some("A&B=C")), ("state", None)]).await.unwrap();
        assert_eq!(query, "symbol=A%26B%3DC");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_services_words() {
        let refuse = async || (StatusCode::NOT_FOUND, axum::Json(json!({ "error": { "message": "no such job" } })));
        let client = serve(Router::new().route("/refuse", get(refuse)).route("/web", get(async || "<html>"))).await;
        let failure = client.get("/refuse").await.unwrap_err();
        assert_eq!((failure.code, failure.error.to_string()), (USAGE, "no such job".to_owned()));
        let failure = client.get("/web").await.unwrap_err();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(failure.error.to_string().contains("is it tapekeeper"), "{}", failure.error);
    }

    #[test]
    fn every_status_has_its_exit_code() {
        let codes = [400, 401, 403, 404, 409, 422, 500, 503, 504].map(exit_code);
        assert_eq!(
            codes,
            [USAGE, PERMISSION, PERMISSION, USAGE, TEMPORARY, CONFIGURATION, INTERNAL, TEMPORARY, TEMPORARY]
        );
    }
}
