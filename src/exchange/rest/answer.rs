//! Reads one HTTP answer: its headers, its body within limits, and words that describe it in an error.

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode};

use super::outcome::{RestError, error_chain};
use crate::clock::Reading;
use crate::exchange::DecodeError;

/// Largest answer that is read: 1000 trades are 150 KiB; the whole listing of Binance Spot, with a set of permissions for
/// each symbol, comes to an estimated 14 to 18 MB.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Most characters of an answer that an error quotes.
const QUOTE_CHARS_MAX: usize = 120;

/// An answer whose body is read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    content_type: String,
    headers: HeaderMap,
    pub(super) sent_at: Reading,
    pub(super) answered_at: Reading,
}

impl Answer {
    pub(super) fn new(head: &Head, body: Bytes, sent_at: Reading, answered_at: Reading) -> Self {
        let (content_type, headers) = (head.content_type.clone(), head.headers.clone());
        Self { status: head.status, body, content_type, headers, sent_at, answered_at }
    }

    /// A header's text by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// `HTTP 200, text/html, 37 bytes: "<html>..."`.
    pub(super) fn description(&self) -> String {
        let content = match self.content_type.as_str() {
            "" => "no content type".to_owned(),
            content_type => quote(content_type.as_bytes()),
        };
        let head = format!("HTTP {}, {content}", self.status.as_u16());
        match &self.body[..] {
            [] => format!("{head}, an empty body"),
            // The magic number of gzip: a proxy has removed or forgotten the header.
            [0x1f, 0x8b, ..] if self.status.is_success() => {
                format!("{head}, {} bytes of gzip without Content-Encoding", self.body.len())
            }
            body => format!("{head}, {} bytes: \"{}\"", body.len(), quote(body)),
        }
    }

    /// Adds to a decode error what was answered instead.
    pub(super) fn undecodable(&self, error: &DecodeError) -> RestError {
        RestError::BadAnswer { text: format!("{error} (the answer is {})", self.description()) }
    }
}

/// What the headers of an answer say.
pub(super) struct Head {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    content_type: String,
    content_encoding: String,
    location: String,
}

impl Head {
    pub(super) fn of(response: &Response) -> Self {
        let headers = response.headers();
        Self {
            status: response.status(),
            headers: headers.clone(),
            content_type: text(headers, &CONTENT_TYPE),
            content_encoding: text(headers, &CONTENT_ENCODING),
            location: text(headers, &LOCATION),
        }
    }

    /// The error of an answer whose body must not be read: a redirect, or a compression that we did not ask for.
    pub(super) fn refusal(&self) -> Option<RestError> {
        if self.status.is_redirection() {
            let (status, to) = (self.status.as_u16(), quote(self.location.as_bytes()));
            let text = format!(
                "the exchange answered HTTP {status} and redirects to \"{to}\", which is not followed: if it has moved, \
                 set rest_url"
            );
            return Some(RestError::BadAnswer { text });
        }
        if self.status.is_success() && !matches!(self.content_encoding.to_ascii_lowercase().as_str(), "" | "identity") {
            let encoding = quote(self.content_encoding.as_bytes());
            let text = format!(
                "the answer is compressed (Content-Encoding: {encoding}) although no compression was requested: check \
                 the proxy between this machine and the exchange"
            );
            return Some(RestError::BadAnswer { text });
        }
        None
    }
}

/// The number in a header; `None` when it is absent or not one.
pub(super) fn number_in(headers: &HeaderMap, header: &str) -> Option<u64> {
    headers.get(header)?.to_str().ok()?.trim().parse().ok()
}

/// Reads a body of at most [`ANSWER_BYTES_MAX`] bytes. The client's timeout limits the time.
pub(super) async fn body_of(mut response: Response) -> Result<Bytes, RestError> {
    let too_large = || RestError::BadAnswer { text: format!("the answer is larger than {ANSWER_BYTES_MAX} bytes") };
    if response.content_length().is_some_and(|length| length > ANSWER_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| RestError::Unavailable { text: error_chain(&error) })?
    {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The first characters of a text from outside, safe to print: a control character, one that reorders text or a byte
/// that is no text becomes a dot, white space becomes one space.
pub(super) fn quote(bytes: &[u8]) -> String {
    // Four bytes hold any character; one more character shows that something was cut off.
    let start = &bytes[..bytes.len().min(4 * (QUOTE_CHARS_MAX + 1))];
    let mut quoted = String::new();
    let mut characters = 0;
    for c in String::from_utf8_lossy(start).chars() {
        let shown = match c {
            c if c.is_whitespace() => ' ',
            c if c.is_ascii_graphic() || c.is_alphanumeric() => c,
            _ => '.',
        };
        if shown == ' ' && (quoted.is_empty() || quoted.ends_with(' ')) {
            continue;
        }
        if characters == QUOTE_CHARS_MAX {
            quoted.push_str("...");
            break;
        }
        quoted.push(shown);
        characters += 1;
    }
    quoted.trim_end().to_owned()
}

fn text(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quote_is_short_and_printable() {
        assert_eq!(quote(b"<html>\r\n\t<b>\x1b[31m  x</b>"), "<html> <b>.[31m x</b>");
        assert_eq!(quote("\u{5e01}\u{202e}\u{fffd}".as_bytes()), "\u{5e01}..");
        assert_eq!(quote(b"\xff\xfe ok"), ".. ok");
        let long = quote("x".repeat(500).as_bytes());
        assert_eq!(long.len(), QUOTE_CHARS_MAX + 3);
        assert!(long.ends_with("x..."));
        assert_eq!(quote(b""), "");
    }

    proptest! {
        #[test]
        fn any_bytes_are_quoted(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let quoted = quote(&bytes);
            prop_assert!(quoted.chars().count() <= QUOTE_CHARS_MAX + 3);
            prop_assert!(quoted.chars().all(|c| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric()));
        }
    }
}
