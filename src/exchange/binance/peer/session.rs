//! The requests of a client over the WebSocket, and their answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::render;
use crate::exchange::peer::{PeerSession, SessionReply};
use crate::market::Timestamp;

/// 1.3: "A SUBSCRIBE payload > 4,096 bytes -> close 3001 "illegal request"".
const REQUEST_BYTES_MAX: usize = 4_096;

/// The streams of one connection, and the form of its frames.
#[derive(Debug)]
pub(super) struct Session {
    /// Names of streams, such as `btcusdt@trade`.
    streams: BTreeSet<String>,
    /// Whether frames have the form `{"stream":...,"data":...}`.
    combined: bool,
    /// 1.2: "Streams <=1024 per connection".
    streams_max: usize,
}

/// A request's answer, and the streams that it adds and removes.
type Answered = (String, Change);

#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    added: Vec<String>,
    removed: Vec<String>,
}

impl PeerSession for Session {
    /// An unknown stream in the URL gets no error, because there is no request to answer: it stays silent.
    fn streams(&self) -> Vec<String> {
        self.streams.iter().cloned().collect()
    }

    fn receive(&mut self, text: &str, is_listed: &dyn Fn(&str) -> bool, _at: Timestamp) -> SessionReply {
        if text.len() > REQUEST_BYTES_MAX {
            return SessionReply { close: Some((3_001, "illegal request")), ..SessionReply::default() };
        }
        let (answer, change) = self.request(text, is_listed);
        SessionReply { messages: vec![answer], added: change.added, removed: change.removed, close: None }
    }

    fn shape(&self, frame: &str) -> Option<String> {
        (!self.combined).then(|| render::raw(frame).to_owned())
    }
}

impl Session {
    /// A connection to `/stream` (`combined`) or `/ws`, with the streams of its address.
    pub fn new(combined: bool, streams: impl Iterator<Item = String>, streams_max: usize) -> Self {
        Self { streams: streams.take(streams_max).collect(), combined, streams_max }
    }

    /// Handles a request and returns its answer.
    fn request(&mut self, text: &str, listed: &dyn Fn(&str) -> bool) -> Answered {
        let request: Value = match serde_json::from_str(text) {
            Ok(request) => request,
            Err(error) => return refused(3, &format!("Invalid JSON: {error}"), &Value::Null),
        };
        let id = &request["id"];
        // "id: 64-bit signed integer, alphanumeric string of at most 36 characters, or null".
        if !(id.is_null() || id.is_i64() || id.as_str().is_some_and(|id| id.len() <= 36)) {
            return refused(2, "Invalid request: request ID must be an integer, a short string or null", &Value::Null);
        }
        let id = id.clone();
        let Some(method) = request["method"].as_str() else {
            return refused(2, "Invalid request: missing field `method`", &id);
        };
        let params = request["params"].as_array();
        match (method, params) {
            ("LIST_SUBSCRIPTIONS", _) => (json!({"result": self.streams, "id": id}).to_string(), Change::default()),
            ("SET_PROPERTY", Some(params)) => match params.as_slice() {
                [Value::String(name), Value::Bool(value)] if name == "combined" => {
                    self.combined = *value;
                    accepted(&id, Change::default())
                }
                [Value::String(name), _] if name == "combined" => {
                    refused(1, "Invalid value type: expected Boolean", &id)
                }
                _ => refused(0, "Unknown property", &id),
            },
            ("GET_PROPERTY", Some(params)) if params.first().is_some_and(|name| name == "combined") => {
                (json!({"result": self.combined, "id": id}).to_string(), Change::default())
            }
            ("GET_PROPERTY", Some(_)) => refused(0, "Unknown property", &id),
            ("SUBSCRIBE" | "UNSUBSCRIBE", Some(params)) => {
                let streams: Option<Vec<&str>> = params.iter().map(Value::as_str).collect();
                match streams {
                    Some(streams) if method == "SUBSCRIBE" => self.subscribe(&streams, &id, listed),
                    Some(streams) => {
                        let known = |stream: &&&str| self.streams.contains(**stream);
                        let removed: Vec<String> =
                            streams.iter().filter(known).map(|&stream| stream.to_owned()).collect();
                        removed.iter().for_each(|stream| {
                            self.streams.remove(stream);
                        });
                        accepted(&id, Change { removed, ..Change::default() })
                    }
                    None => refused(2, "Invalid request: params must be strings", &id),
                }
            }
            ("SUBSCRIBE" | "UNSUBSCRIBE" | "SET_PROPERTY" | "GET_PROPERTY", None) => {
                refused(2, "Invalid request: missing field `params`", &id)
            }
            _ => {
                let known = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`";
                refused(2, &format!("Invalid request: unknown variant `{method}`, expected one of {known}"), &id)
            }
        }
    }

    /// Subscribes to all of the streams or to none: a request with an error changes nothing.
    fn subscribe(&mut self, streams: &[&str], id: &Value, listed: &dyn Fn(&str) -> bool) -> Answered {
        for stream in streams {
            if !render::symbol_of(stream).is_some_and(|symbol| listed(&symbol)) {
                return refused(-1121, &format!("Invalid symbol: {stream}"), id);
            }
        }
        let mut added: Vec<String> = streams.iter().map(|&stream| stream.to_owned()).collect();
        added.sort();
        added.dedup();
        added.retain(|stream| !self.streams.contains(stream));
        if self.streams.len() + added.len() > self.streams_max {
            return refused(2, "Invalid request: too many parameters", id);
        }
        self.streams.extend(added.iter().cloned());
        accepted(id, Change { added, ..Change::default() })
    }
}

fn accepted(id: &Value, change: Change) -> Answered {
    (json!({"result": null, "id": id}).to_string(), change)
}

fn refused(code: i64, message: &str, id: &Value) -> Answered {
    (json!({"code": code, "msg": message, "id": id}).to_string(), Change::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(true, std::iter::empty(), 3)
    }

    fn check(session: &mut Session, request: &str, expected: Value) -> Change {
        let (answer, change) = session.request(request, &|symbol| symbol == "BTCUSDT");
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected);
        change
    }

    #[test]
    fn a_stream_is_subscribed_listed_and_unsubscribed() {
        let mut session = session();
        let subscribe = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade","btcusdt@trade"],"id":1}"#;
        let change = check(&mut session, subscribe, json!({"result": null, "id": 1}));
        assert_eq!(change.added, ["btcusdt@trade"]);
        let list = r#"{"method":"LIST_SUBSCRIPTIONS","id":"x"}"#;
        check(&mut session, list, json!({"result": ["btcusdt@trade"], "id": "x"}));
        let unsubscribe = r#"{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":null}"#;
        let change = check(&mut session, unsubscribe, json!({"result": null, "id": null}));
        assert_eq!(change.removed, ["btcusdt@trade"]);
    }

    #[test]
    fn an_unknown_symbol_changes_nothing() {
        let mut session = session();
        let request = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade","nonsense@trade"],"id":2}"#;
        check(&mut session, request, json!({"code": -1121, "msg": "Invalid symbol: nonsense@trade", "id": 2}));
        assert!(session.streams.is_empty());
    }

    #[test]
    fn too_many_streams_are_refused() {
        let request = r#"{"method":"SUBSCRIBE","params":["btcusdt@a","btcusdt@b","btcusdt@c","btcusdt@d"],"id":3}"#;
        let expected = json!({"code": 2, "msg": "Invalid request: too many parameters", "id": 3});
        check(&mut session(), request, expected);
    }

    #[test]
    fn an_invalid_request_gets_an_error_with_a_code() {
        for (request, code) in [("{", 3), (r#"{"id":[]}"#, 2), (r#"{"method":"BUY","params":[],"id":1}"#, 2)] {
            let (answer, change) = session().request(request, &|_| true);
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["code"], code, "{request}");
            assert_eq!(change, Change::default());
        }
    }
}
