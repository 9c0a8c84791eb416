//! Heartbeats that the client must send.

use super::*;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::okx::Okx;
use crate::exchange::spec::{Heartbeat, SocketSpec, Spec};

#[tokio::test]
async fn a_client_that_must_send_heartbeats_does_and_their_answers_are_no_data() {
    let dialect = ChangedDialect::new(Okx, |spec| {
        let heartbeat = Heartbeat::Client { every: Duration::from_millis(30), message: "ping" };
        let sockets: Vec<_> = spec.sockets.iter().map(|socket| SocketSpec { heartbeat, ..*socket }).collect();
        Spec { sockets: sockets.leak(), ..spec }
    });
    let (listener, base) = listen().await;
    let wanted = Stream::new(Exchange::named("okx"), Symbol::new("BTC-USDT"), Channel::BookTicker);
    let mut socket = start_as(Arc::new(dialect), base, quick(), vec![wanted.clone()], 16);
    let mut server = accept(&listener).await;
    let (mut pings, mut connected) = (0, false);
    while pings < 3 || !connected {
        tokio::select! {
            message = server.next() => {
                let Message::Text(text) = message.unwrap().unwrap() else { continue };
                let answer = match text.as_str() {
                    "ping" => {
                        pings += 1;
                        "pong".to_owned()
                    }
                    request => {
                        let request: serde_json::Value = serde_json::from_str(request).unwrap();
                        serde_json::json!({"event": "subscribe", "arg": request["args"][0], "connId": "1"}).to_string()
                    }
                };
                server.send(Message::text(answer)).await.unwrap();
            }
            event = socket.next() => match event {
                SocketEvent::Connected { streams, .. } => {
                    assert_eq!(streams, std::slice::from_ref(&wanted));
                    connected = true;
                }
                SocketEvent::Frames { .. } => {}
                other => panic!("{other:?}"),
            },
        }
    }
    socket.stopped().await;
}
