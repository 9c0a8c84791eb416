//! Rotation: one connection replaces the other, without a moment between them.

use super::*;

const SHUTDOWN: &str = r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}"#;

#[tokio::test]
async fn a_connection_closes_only_when_its_successor_has_delivered_what_it_had_delivered() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut old = accept(&listener).await;
    acknowledge(&mut old).await;
    running.connected().await;
    old.send(Message::text(trade(1))).await.unwrap();
    old.send(Message::text(SHUTDOWN)).await.unwrap();
    let mut new = accept(&listener).await;
    acknowledge(&mut new).await;
    assert_eq!(running.connected().await, (8, vec![stream("AAA")]));
    old.send(Message::text(trade(2))).await.unwrap();
    new.send(Message::text(trade(3))).await.unwrap();
    // The old one has not reached 3: both stay open.
    let mut received = Vec::new();
    while received.len() < 2 {
        match running.next().await {
            SocketEvent::Frames { connection, frames } => {
                received.extend(frames.into_iter().map(|frame| (connection, frame.1)))
            }
            other => panic!("{other:?}"),
        }
    }
    received.sort();
    assert_eq!(received, [(7, Bytes::from(trade(2))), (8, Bytes::from(trade(3)))]);
    old.send(Message::text(trade(3))).await.unwrap();
    let (payloads, end) = running.next_but_frames().await;
    assert_eq!(payloads, [Bytes::from(trade(3))]);
    assert!(matches!(end, SocketEvent::Replaced { connection: 7, by: 8, .. }), "{end:?}");
    let closed = tokio::time::timeout(DEADLINE, old.next()).await.expect("the old one is closed");
    assert!(matches!(closed, Some(Ok(Message::Close(_))) | None), "{closed:?}");
    new.send(Message::text(trade(4))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { connection: 8, .. }));
    let rows = running.connections.snapshot();
    assert_eq!((rows.len(), rows[0].reconnects, rows[0].rotations, rows[0].connection), (1, 0, 1, Some(8)));
    running.stopped().await;
}

#[tokio::test]
async fn a_silent_connection_is_replaced_before_its_lifetime_ends() {
    let (listener, base) = listen().await;
    let (lifetime, overlap_max) = (Some(Duration::from_millis(300)), Duration::from_millis(50));
    let mut running = start(base, SocketOptions { lifetime, overlap_max, ..quick() }, vec![stream("AAA")], 64);
    let mut old = accept(&listener).await;
    acknowledge(&mut old).await;
    running.connected().await;
    for number in 7..9 {
        let mut new = accept(&listener).await;
        acknowledge(&mut new).await;
        assert_eq!(running.connected().await.0, number + 1);
        let (_, end) = running.next_but_frames().await;
        assert!(matches!(end, SocketEvent::Replaced { connection, .. } if connection == number), "{end:?}");
        old = new;
    }
    drop(old);
    running.stopped().await;
}

#[tokio::test]
async fn a_successor_without_one_of_the_streams_does_not_take_over() {
    let (listener, base) = listen().await;
    let options = SocketOptions { overlap_max: Duration::from_millis(100), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut old = accept(&listener).await;
    acknowledge(&mut old).await;
    running.connected().await;
    old.send(Message::text(SHUTDOWN)).await.unwrap();
    let mut new = accept(&listener).await;
    acknowledge(&mut new).await;
    assert_eq!(running.connected().await.0, 8);
    old.send(Message::text(trade(1))).await.unwrap();
    let (payloads, end) = running.next_but_frames().await;
    assert_eq!(payloads.last(), Some(&Bytes::from(trade(1))));
    assert!(matches!(end, SocketEvent::Disconnected { connection: 8, .. }), "{end:?}");
    old.send(Message::text(trade(2))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { connection: 7, .. }));
    running.stopped().await;
}

#[tokio::test]
async fn a_connection_that_is_cut_before_its_successor_takes_over_is_reported_as_lost() {
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 64);
    let mut old = accept(&listener).await;
    acknowledge(&mut old).await;
    running.connected().await;
    old.send(Message::text(SHUTDOWN)).await.unwrap();
    let mut new = accept(&listener).await;
    acknowledge(&mut new).await;
    assert_eq!(running.connected().await.0, 8);
    // A trade that only the old one delivered: later ones may be lost.
    old.send(Message::text(trade(1))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { connection: 7, .. }));
    drop(old);
    assert_eq!(running.disconnected().await.0, 7);
    new.send(Message::text(trade(5))).await.unwrap();
    assert!(matches!(running.next().await, SocketEvent::Frames { connection: 8, .. }));
    running.stopped().await;
}

#[tokio::test]
async fn a_connection_is_replaced_on_demand_and_only_the_one_with_the_number() {
    let (listener, base) = listen().await;
    let options = SocketOptions { overlap_max: Duration::from_millis(100), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut old = accept(&listener).await;
    acknowledge(&mut old).await;
    assert_eq!(running.connected().await.0, 7);
    running.commands.send(SocketCommand::Rotate(6)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err(), "6 is another one");
    running.commands.send(SocketCommand::Rotate(7)).await.unwrap();
    let mut new = accept(&listener).await;
    acknowledge(&mut new).await;
    assert_eq!(running.connected().await.0, 8);
    // The old one is silent, so the new one takes over after a while.
    let (_, end) = running.next_but_frames().await;
    assert!(matches!(end, SocketEvent::Replaced { connection: 7, by: 8, .. }), "{end:?}");
    running.stopped().await;
}
