//! The client of the running service's API. It finds the service through the same configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::admin::AdminOptions;
use crate::exit::{CONFIGURATION, Failure, INTERNAL, PERMISSION, TEMPORARY, UNAVAILABLE, USAGE};

/// Longest time for a response: more than the service allows a request.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Longest time to connect: the service is on this machine.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A client of the running service: through its unix socket if it exists, else over TCP.
pub struct Client {
    base: String,
    token: Option<String>,
    unix_socket: Option<UnixSocket>,
    http: reqwest::Client,
}

struct UnixSocket {
    path: PathBuf,
    http: reqwest::Client,
}

impl Client {
    /// A client of the service that uses this configuration.
    pub fn new(options: &AdminOptions) -> anyhow::Result<Self> {
        let unix_socket = options.socket.as_ref().map(|path| -> anyhow::Result<UnixSocket> {
            let http = builder().unix_socket(path.as_path()).build().context("set up the client of the unix socket")?;
            Ok(UnixSocket { path: path.clone(), http })
        });
        let base = format!("http://{}", options.listen);
        let http = builder().build().context("set up the HTTP client")?;
        Ok(Self { base, token: options.token.clone(), unix_socket: unix_socket.transpose()?, http })
    }

    /// Base URL of the status page and the API.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET of a path.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    /// GET with query parameters; those that are `None` are omitted.
    pub async fn query(&self, path: &str, parameters: &[(&str, Option<&str>)]) -> Result<Value, Failure> {
        self.send(self.http.get(format!("{}{path}", self.base)).query(&present(parameters))).await
    }

    /// POST with query parameters; those that are `None` are omitted.
    pub async fn post_query(&self, path: &str, parameters: &[(&str, Option<&str>)]) -> Result<Value, Failure> {
        self.send(self.http.post(format!("{}{path}", self.base)).query(&present(parameters))).await
    }

    /// POST of an action on a job, whose name may hold any character; parameters that are `None` are omitted.
    pub async fn post_job(
        &self,
        name: &str,
        action: &str,
        parameters: &[(&str, Option<&str>)],
    ) -> Result<Value, Failure> {
        let mut url = reqwest::Url::parse(&self.base).expect("the base is a valid URL");
        url.path_segments_mut().expect("an http URL has a path").extend(["api", "v1", "jobs", name, action]);
        self.send(self.http.post(url).query(&present(parameters))).await
    }

    /// POST with a JSON body.
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
        let response = self.execute(request).await?;
        let status = response.status().as_u16();
        let document: Value = response
            .json()
            .await
            .with_context(|| format!("read the response of {}: check that tapekeeper listens there", self.base))
            .map_err(|error| Failure::new(UNAVAILABLE, error))?;
        if (200..300).contains(&status) {
            return Ok(document);
        }
        let message = document["error"]["message"].as_str().unwrap_or("the service refused the request").to_owned();
        Err(Failure::new(exit_code(status), anyhow!(message)))
    }

    /// Sends through the unix socket; over TCP if there is no socket, or no process serves it.
    async fn execute(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let request = request.build().context("build the request")?;
        if let Some(unix_socket) = &self.unix_socket {
            let copy = request.try_clone().expect("a body in memory can be cloned");
            match unix_socket.http.execute(copy).await {
                Ok(response) => return Ok(response),
                Err(error) if !error.is_connect() => return Err(request_failed(error)),
                // With the token the request goes over TCP. Without it TCP might accept the request, but a user who may
                // not open the socket should not change anything.
                Err(error) if is_permission_denied(&error) && self.token.is_none() => {
                    return Err(not_a_member(&unix_socket.path));
                }
                Err(_not_served) => {}
            }
        }
        match self.http.execute(request).await {
            Ok(response) => Ok(response),
            Err(error) if error.is_connect() => {
                let help = "start it with `systemctl start tapekeeper` or `tapekeeper run`, or name its configuration with --config";
                Err(Failure::new(UNAVAILABLE, anyhow!("the service is not running at {}: {help}", self.address())))
            }
            Err(error) => Err(request_failed(error)),
        }
    }

    /// The addresses that it tries.
    fn address(&self) -> String {
        match &self.unix_socket {
            Some(unix_socket) => format!("{} or {}", unix_socket.path.display(), self.base),
            None => self.base.clone(),
        }
    }
}

fn builder() -> reqwest::ClientBuilder {
    // The service is on this machine: the proxy is for the exchange.
    let http = reqwest::Client::builder().timeout(ANSWER_MAX).connect_timeout(CONNECT_MAX).no_proxy();
    http.tls_backend_preconfigured((*crate::exchange::tls_config()).clone())
}

fn request_failed(error: reqwest::Error) -> Failure {
    Failure::new(UNAVAILABLE, anyhow!(error).context("send a request to the service"))
}

/// Whether the kernel refused this user the socket.
fn is_permission_denied(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn not_a_member(path: &Path) -> Failure {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "USER".to_owned());
    let help = format!("`sudo adduser {user} tapekeeper` and log in again, or use sudo");
    Failure::new(PERMISSION, anyhow!("this user may not open {}: {help}", path.display()))
}

/// The exit code of a command that the service refused with this status.
fn exit_code(status: u16) -> u8 {
    match status {
        400 | 404 => USAGE,
        401 | 403 => PERMISSION,
        409 | 503 | 504 => TEMPORARY,
        422 => CONFIGURATION,
        _ => INTERNAL,
    }
}

fn present<'a>(parameters: &[(&'a str, Option<&'a str>)]) -> Vec<(&'a str, &'a str)> {
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
    async fn a_service_that_does_not_run_is_reported_with_the_remedy() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = client(free).get("/api/v1/status").await.unwrap_err();
        let words = failure.error.to_string();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(words.starts_with(&format!("the service is not running at http://{free}")), "{words}");
        assert!(words.contains("systemctl start tapekeeper") && words.contains("tapekeeper run"), "{words}");
    }

    #[tokio::test]
    async fn tcp_is_used_when_no_process_serves_the_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Some(directory.path().join("admin.sock"));
        let who = |who: &'static str| Router::new().route("/who", post(async move || axum::Json(json!(who))));
        let port = serve(who("port")).await;
        let listen = port.base().trim_start_matches("http://").parse().unwrap();
        let client = Client::new(&AdminOptions { listen, socket: socket.clone(), token: None }).unwrap();
        assert_eq!(client.post("/who", Some(&json!(1))).await.unwrap(), "port", "there is no socket");
        let listener = tokio::net::UnixListener::bind(socket.as_deref().unwrap()).unwrap();
        let served = tokio::spawn(axum::serve(listener, who("socket")).into_future());
        assert_eq!(client.post("/who", Some(&json!(1))).await.unwrap(), "socket");
        served.abort();
        assert!(served.await.unwrap_err().is_cancelled());
        let killed = Client::new(&AdminOptions { listen, socket: socket.clone(), token: None }).unwrap();
        assert_eq!(killed.post("/who", None).await.unwrap(), "port", "no process serves the socket");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let stopped = Client::new(&AdminOptions { listen: free, socket, token: None }).unwrap();
        let failure = stopped.get("/who").await.unwrap_err();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(failure.error.to_string().contains("admin.sock or http://"), "{}", failure.error);
    }

    #[test]
    fn a_user_outside_the_group_learns_how_to_join() {
        let failure = not_a_member(std::path::Path::new("/run/tapekeeper/admin.sock"));
        let words = failure.error.to_string();
        assert_eq!(failure.code, PERMISSION);
        assert!(
            words.contains("/run/tapekeeper/admin.sock: `sudo adduser ") && words.contains(" tapekeeper`"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn names_and_parameters_arrive_unchanged() {
        let router = Router::new()
            .route("/api/v1/jobs/{name}/run", post(async |Path(name): Path<String>| axum::Json(json!(name))))
            .route("/echo", get(async |uri: Uri| axum::Json(json!(uri.query()))));
        let client = serve(router).await;
        assert_eq!(client.post_job("a/b?c d", "run", &[]).await.unwrap(), "a/b?c d");
        let query = client.query("/echo", &[("symbol", Some("A&B=C")), ("state", None)]).await.unwrap();
        assert_eq!(query, "symbol=A%26B%3DC");
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_message_of_the_service() {
        let refuse = async || (StatusCode::NOT_FOUND, axum::Json(json!({ "error": { "message": "no such job" } })));
        let client = serve(Router::new().route("/refuse", get(refuse)).route("/web", get(async || "<html>"))).await;
        let failure = client.get("/refuse").await.unwrap_err();
        assert_eq!((failure.code, failure.error.to_string()), (USAGE, "no such job".to_owned()));
        let failure = client.get("/web").await.unwrap_err();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(failure.error.to_string().contains("check that tapekeeper listens"), "{}", failure.error);
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
