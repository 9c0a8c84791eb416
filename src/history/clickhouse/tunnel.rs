//! Carries the requests of the `clickhouse` crate inside this process to [`Http`], and only proven answers back.
//!
//! The crate makes the requests for reads and decodes the rows. It compares the names and types of the columns with the
//! fields of the struct, so an answer to another question never becomes rows. But it hides the headers of an answer: it
//! takes the rows before a cut as all rows, where the answer has no length. It also reserves memory for as many columns as
//! the first bytes of an answer claim; for a page in Chinese that is more than any machine has. So its connections end
//! here, and [`Http`] proves an answer before the crate reads it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

use super::http::{Http, not_clickhouse};
use crate::history::HistoryError;

/// Bytes that wait between the two ends.
const BUFFER_BYTES: usize = 256 << 10;
/// The crate needs a URL; [`Http`] has the server's.
const URL: &str = "http://tunnel";

/// A client whose requests go through `http`.
pub(super) fn client(http: &Arc<Http>) -> clickhouse::Client {
    let connections = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        // The connections that cost time are those of `Http`.
        .pool_max_idle_per_host(0)
        .build(Connector(http.clone()));
    clickhouse::Client::with_http_client(connections).with_url(URL)
}

/// Makes connections for the crate's HTTP client.
#[derive(Clone)]
struct Connector(Arc<Http>);

impl tower_service::Service<Uri> for Connector {
    type Response = Tunnel;
    type Error = Infallible;
    type Future = Ready<Result<Tunnel, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _url: Uri) -> Self::Future {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let http = self.0.clone();
        let service = service_fn(move |request| answer(http.clone(), request));
        let far_end = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let serve = async move {
            if let Err(error) = far_end.await {
                tracing::debug!(%error, "a query has ended early");
            }
        };
        ready(Ok(Tunnel { near: TokioIo::new(near), far_end: Some(Box::pin(serve)) }))
    }
}

/// A connection. Its far end runs while the near end is polled, so that dropping it ends the request.
struct Tunnel {
    near: TokioIo<DuplexStream>,
    far_end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Tunnel {
    fn near(&mut self, context: &mut Context<'_>) -> Pin<&mut TokioIo<DuplexStream>> {
        if self.far_end.as_mut().is_some_and(|far_end| far_end.as_mut().poll(context).is_ready()) {
            self.far_end = None;
        }
        Pin::new(&mut self.near)
    }
}

impl Read for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.near(context).poll_read(context, buffer)
    }
}

impl Write for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.near(context).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.near(context).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.near(context).poll_shutdown(context)
    }
}

impl Connection for Tunnel {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Sends a request to the server; an answer that is not proven becomes an error with its reason.
async fn answer(http: Arc<Http>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let sql = body.collect().await?.to_bytes();
    let answer = http.forward(head.uri.query(), sql).await.map(|answer| answer.body);
    let proven = answer.and_then(|body| if has_columns(&body) { Ok(body) } else { Err(not_clickhouse(&body)) });
    Ok(proven.map_or_else(refused, |body| Response::new(Full::new(body))))
}

fn refused(error: HistoryError) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(error.into_reason()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

/// Whether a body begins as RowBinaryWithNamesAndTypes does: a number of columns, their names, their types.
fn has_columns(body: &[u8]) -> bool {
    let Some((count @ 1..=127, mut rest)) = body.split_first() else { return false };
    (0..2 * usize::from(*count)).all(|_| skip_ascii(&mut rest).is_some())
}

/// Skips a text of ASCII, as all names and types of our queries are.
fn skip_ascii(bytes: &mut &[u8]) -> Option<()> {
    // LEB128 of at most two bytes.
    let (length, rest) = match **bytes {
        [length @ ..=127, ref rest @ ..] => (usize::from(length), rest),
        [low, high @ ..=127, ref rest @ ..] => (usize::from(low & 127) | usize::from(high) << 7, rest),
        _ => return None,
    };
    let (text, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    text.is_ascii().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_header_of_columns_reaches_the_crate() {
        assert!(has_columns(b"\x01\x01v\x06String\x0924.8.1.1\n"));
        assert!(has_columns(b"\x02\x01a\x01b\x05Int64\x06String"), "no rows are an answer");
        let long = [&b"\x01\x01v\x80\x02"[..], &[b'E'; 256]].concat();
        assert!(has_columns(&long));
        for foreign in [
            &b""[..],
            b"\x00",
            b"\x01\x01v\x06Stri",
            b"\x01\x01v\x06Stri\xc3\xa9",
            b"<html>down</html>",
            b"Ok.\n",
            b"Code: 241. DB::Exception: Memory limit exceeded (MEMORY_LIMIT)\n",
            // As LEB128 it claims 10 to the 14th columns and more.
            "系统维护中 please wait".as_bytes(),
            "\u{feff}<html>".as_bytes(),
            &[0xff; 12],
        ] {
            assert!(!has_columns(foreign), "{foreign:?}");
        }
    }
}
