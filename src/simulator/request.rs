//! The requests of a client over the WebSocket, and their answers. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The streams of one connection, and the form of its frames.
#[derive(Debug)]
pub struct Subscriptions {
    /// Names of streams, such as `btcusdt@trade`.
    pub streams: BTreeSet<String>,
    /// Whether frames have the form `{"stream":...,"data":...}`.
    pub combined: bool,
    /// "A single connection can listen to a maximum of 1024 streams".
    pub streams_max: usize,
}

/// The changes that a request makes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// New streams.
    pub added: Vec<String>,
    /// Unsubscribed streams.
    pub removed: Vec<String>,
}

impl Subscriptions {
    /// Handles a request and returns its answer; `listed` checks a lower-case symbol.
    pub fn request(&mut self, text: &str, listed: &dyn Fn(&str) -> bool) -> (String, SubscriptionChange) {
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
            ("LIST_SUBSCRIPTIONS", _) => {
                (json!({"result": self.streams, "id": id}).to_string(), SubscriptionChange::default())
            }
            ("SET_PROPERTY", Some(params)) => match params.as_slice() {
                [Value::String(name), Value::Bool(value)] if name == "combined" => {
                    self.combined = *value;
                    accepted(&id, SubscriptionChange::default())
                }
                [Value::String(name), _] if name == "combined" => {
                    refused(1, "Invalid value type: expected Boolean", &id)
                }
                _ => refused(0, "Unknown property", &id),
            },
            ("GET_PROPERTY", Some(params)) if params.first().is_some_and(|name| name == "combined") => {
                (json!({"result": self.combined, "id": id}).to_string(), SubscriptionChange::default())
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
                        accepted(&id, SubscriptionChange { removed, ..SubscriptionChange::default() })
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
    fn subscribe(
        &mut self,
        streams: &[&str],
        id: &Value,
        listed: &dyn Fn(&str) -> bool,
    ) -> (String, SubscriptionChange) {
        for stream in streams {
            let symbol = stream.split_once('@').map(|(symbol, _)| symbol);
            if !symbol.is_some_and(listed) {
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
        accepted(id, SubscriptionChange { added, ..SubscriptionChange::default() })
    }
}

fn accepted(id: &Value, change: SubscriptionChange) -> (String, SubscriptionChange) {
    (json!({"result": null, "id": id}).to_string(), change)
}

fn refused(code: i64, message: &str, id: &Value) -> (String, SubscriptionChange) {
    (json!({"code": code, "msg": message, "id": id}).to_string(), SubscriptionChange::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriptions() -> Subscriptions {
        Subscriptions { streams: BTreeSet::new(), combined: true, streams_max: 3 }
    }

    fn check(subscriptions: &mut Subscriptions, request: &str, expected: Value) -> SubscriptionChange {
        let (answer, change) = subscriptions.request(request, &|symbol| symbol == "btcusdt");
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), expected);
        change
    }

    #[test]
    fn a_stream_is_subscribed_listed_and_unsubscribed() {
        let mut subscriptions = subscriptions();
        let subscribe = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade","btcusdt@trade"],"id":1}"#;
        let change = check(&mut subscriptions, subscribe, json!({"result": null, "id": 1}));
        assert_eq!(change.added, ["btcusdt@trade"]);
        let list = r#"{"method":"LIST_SUBSCRIPTIONS","id":"x"}"#;
        check(&mut subscriptions, list, json!({"result": ["btcusdt@trade"], "id": "x"}));
        let unsubscribe = r#"{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":null}"#;
        let change = check(&mut subscriptions, unsubscribe, json!({"result": null, "id": null}));
        assert_eq!(change.removed, ["btcusdt@trade"]);
    }

    #[test]
    fn an_unknown_symbol_changes_nothing() {
        let mut subscriptions = subscriptions();
        let request = r#"{"method":"SUBSCRIBE","params":["btcusdt@trade","nonsense@trade"],"id":2}"#;
        check(&mut subscriptions, request, json!({"code": -1121, "msg": "Invalid symbol: nonsense@trade", "id": 2}));
        assert!(subscriptions.streams.is_empty());
    }

    #[test]
    fn too_many_streams_are_refused() {
        let request = r#"{"method":"SUBSCRIBE","params":["btcusdt@a","btcusdt@b","btcusdt@c","btcusdt@d"],"id":3}"#;
        let expected = json!({"code": 2, "msg": "Invalid request: too many parameters", "id": 3});
        check(&mut subscriptions(), request, expected);
    }

    #[test]
    fn an_invalid_request_gets_an_error_with_a_code() {
        for (request, code) in [("{", 3), (r#"{"id":[]}"#, 2), (r#"{"method":"BUY","params":[],"id":1}"#, 2)] {
            let (answer, change) = subscriptions().request(request, &|_| true);
            assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["code"], code, "{request}");
            assert_eq!(change, SubscriptionChange::default());
        }
    }
}
