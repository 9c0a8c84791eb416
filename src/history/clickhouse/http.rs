//! The HTTP requests to a ClickHouse server, and the doubt about its answers.
//!
//! Between the recorder and the server there may be a proxy that answers in its place, and a server that fails after it
//! has sent the status. So an answer counts only when it is the server's own and whole: a status of 2xx, no exception in
//! header or body, and a body whose end is known.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use rustls::{ClientConfig, RootCertStore};

use super::failure;
use crate::history::{ClickhouseOptions, HistoryError};

/// ClickHouse closes a connection that is idle for 3 s, by default.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Time between two probes of a connection on which nothing arrives.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Longest attempt to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Where an exception may be in a body: behind rows that were sent before it.
const EXCEPTION_BYTES_MAX: usize = 64 << 10;
/// Characters of an unexpected body in a message.
const EXCERPT_CHARS: usize = 200;

/// Sends requests to one server.
pub(super) struct Http {
    client: reqwest::Client,
    url: String,
    user: String,
    password: Option<String>,
}

/// A whole answer of status 2xx without an exception.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body.
    pub(super) body: Bytes,
    /// Whether it has the header that ClickHouse adds to every answer: a proxy's own answer has none.
    pub(super) has_query_id: bool,
}

impl Http {
    pub(super) fn new(options: &ClickhouseOptions) -> Self {
        let client = reqwest::Client::builder()
            .user_agent(concat!("tapekeeper/", env!("CARGO_PKG_VERSION")))
            // The proxy of the environment is for exchanges.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .tcp_keepalive(KEEPALIVE)
            .tls_backend_preconfigured(tls())
            .build()
            .expect("the options of the client are constants");
        Self { client, url: options.url.clone(), user: options.user.clone(), password: options.password.clone() }
    }

    /// Sends a request with these parameters of the URL. Dropping the future closes the connection.
    pub(super) async fn post(&self, parameters: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, HistoryError> {
        let mut url = self.url()?;
        url.query_pairs_mut().clear().extend_pairs(parameters);
        self.send(url, body.into()).await
    }

    /// Sends a request with parameters that are encoded already.
    pub(super) async fn forward(&self, parameters: Option<&str>, body: Bytes) -> Result<Answer, HistoryError> {
        let mut url = self.url()?;
        url.set_query(parameters);
        self.send(url, body).await
    }

    fn url(&self) -> Result<Url, HistoryError> {
        Url::parse(&self.url).map_err(|error| HistoryError::Schema(format!("{} is not a URL: {error}", self.url)))
    }

    async fn send(&self, url: Url, body: Bytes) -> Result<Answer, HistoryError> {
        let mut request = self.client.post(url).header("X-ClickHouse-User", &self.user).body(body);
        if let Some(password) = &self.password {
            request = request.header("X-ClickHouse-Key", password);
        }
        let response = request.send().await.map_err(failure::of_network)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await;
        let code = headers.get("X-ClickHouse-Exception-Code").map(|code| String::from_utf8_lossy(code.as_bytes()));
        if !status.is_success() || code.is_some() {
            let text = body.map_or_else(|_cut| String::new(), |body| excerpt(&body, failure::TEXT_CHARS_MAX));
            return Err(failure::of_answer(status, code.as_deref(), &text));
        }
        let body = body.map_err(failure::of_network)?;
        refuse_doubtful(&headers, &body)?;
        Ok(Answer { body, has_query_id: headers.contains_key("X-ClickHouse-Query-Id") })
    }
}

impl Answer {
    /// Refuses a body: an insert or a change of a table has none.
    pub(super) fn refuse_body(&self) -> Result<(), HistoryError> {
        if self.body.is_empty() {
            return Ok(());
        }
        Err(not_clickhouse(&self.body))
    }
}

/// The error for an answer that is not ClickHouse's, with its first characters.
pub(super) fn not_clickhouse(body: &[u8]) -> HistoryError {
    let answered = match body {
        [] => "nothing".to_owned(),
        body => format!("{:?}", excerpt(body, EXCERPT_CHARS)),
    };
    HistoryError::Unavailable(format!("the answer is not what ClickHouse answers to this statement: {answered}"))
}

/// Refuses a body that may be a part only, or that ends in an exception.
fn refuse_doubtful(headers: &HeaderMap, body: &[u8]) -> Result<(), HistoryError> {
    let unavailable = |why: String| Err(HistoryError::Unavailable(why));
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| encoding.as_bytes() != b"identity") {
        return unavailable(format!("the answer is encoded as {encoding:?}, which was not asked for"));
    }
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        // It ends where the connection ends, for whatever reason.
        return unavailable(
            "the answer has no length and may be cut off: check the proxy before ClickHouse".to_owned(),
        );
    }
    let tag = headers.get("X-ClickHouse-Exception-Tag").map(|tag| tag.as_bytes());
    match exception(body, tag) {
        // An exception in an answer that claims success proves nothing about the rows.
        Some(text) => unavailable(format!("the answer ends in an exception: {}", excerpt(text, EXCERPT_CHARS))),
        None => Ok(()),
    }
}

/// The exception that a server wrote behind rows that it had already sent.
fn exception<'a>(body: &'a [u8], tag: Option<&[u8]>) -> Option<&'a [u8]> {
    let tail = &body[body.len().saturating_sub(EXCEPTION_BYTES_MAX)..];
    // Since 25.11: `__exception__`, the tag of the header, the text, and the same in reverse.
    if let Some(tag) = tag
        && let Some(at) = position(tail, &[b"__exception__\r\n", tag].concat())
    {
        return Some(&tail[at..]);
    }
    // Before: the text alone, up to the end. A text column may contain another answer's exception, but not as the last
    // bytes of the last row: every table ends in a number or in JSON.
    let at = (0..tail.len()).rev().find(|at| tail[*at..].starts_with(b"Code: "))?;
    let text = &tail[at..];
    (position(text, b"DB::").is_some() && position(text, b"Exception").is_some() && text.ends_with(b")\n"))
        .then_some(text)
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

fn excerpt(body: &[u8], chars: usize) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(chars * 4)]);
    text.trim().chars().take(chars).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// rustls on ring, with the machine's root certificates.
fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &[u8], tag: Option<&[u8]>) -> Option<String> {
        exception(body, tag).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    #[test]
    fn an_exception_behind_rows_is_found_in_both_formats() {
        let old = b"\x01\x05rows\xffCode: 241. DB::Exception: Memory limit exceeded (MEMORY) (version 24.8.1)\n";
        assert!(found(old, None).unwrap().starts_with("Code: 241"));
        let new =
            b"\x01\xff\r\n__exception__\r\nabcdef\r\nCode: 159. DB::Exception: late\n30 abcdef\r\n__exception__\r\n";
        assert!(found(new, Some(b"abcdef")).unwrap().contains("Code: 159"));
    }

    #[test]
    fn a_text_about_an_exception_inside_a_row_is_a_row() {
        assert_eq!(found(b"\x40Code: 241. DB::Exception: Memory limit exceeded (MEMORY)\n\x02{}", None), None);
        assert_eq!(found(b"", None), None);
        assert_eq!(found(b"Code: ", None), None);
    }

    #[test]
    fn a_message_shows_the_first_characters_on_one_line() {
        let page = not_clickhouse(b"<html>\r\n<body>down for maintenance</body>").to_string();
        assert!(page.contains("<html>  <body>down for maintenance"), "{page}");
        assert!(not_clickhouse(b"").to_string().ends_with(": nothing"));
    }
}
