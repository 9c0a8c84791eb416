//! Slow receivers, frames of megabytes, and servers that do not speak the protocol.

use super::*;

#[tokio::test]
async fn frames_of_megabytes_wait_outside_the_channel() {
    const FRAMES: usize = 24;
    let (listener, base) = listen().await;
    let (capacity, megabyte) = (16, Bytes::from(vec![b'x'; 1 << 20]));
    let mut running = start(base, quick(), vec![stream("AAA")], capacity);
    let mut server = accept(&listener).await;
    acknowledge(&mut server).await;
    running.connected().await;
    let sender = tokio::spawn(async move {
        for _ in 0..FRAMES {
            server.send(Message::binary(megabyte.clone())).await.unwrap();
        }
        server
    });
    let mut received = 0;
    while received < FRAMES {
        // An event of one megabyte needs room for five: at most three of them are in the channel.
        assert!(running.events.len() <= 3, "{} events", running.events.len());
        let SocketEvent::Frames { frames, .. } = running.next().await else { panic!("frames only") };
        assert_eq!(frames.len(), 1);
        received += 1;
        // Lets the socket fill the channel.
        tokio::task::yield_now().await;
    }
    sender.await.unwrap();
    running.stopped().await;
}

#[tokio::test]
async fn a_slow_receiver_loses_nothing_and_a_full_channel_does_not_delay_a_stop() {
    const FRAMES: usize = 100_000;
    let (listener, base) = listen().await;
    let mut running = start(base, quick(), vec![stream("AAA")], 1);
    let mut server = accept(&listener).await;
    acknowledge(&mut server).await;
    running.connected().await;
    let serving = tokio::spawn(async move {
        for n in 0..FRAMES {
            server.feed(Message::text(trade(n))).await.unwrap();
        }
        server.flush().await.unwrap();
        server
    });
    let mut next = 0;
    while next < FRAMES {
        let SocketEvent::Frames { frames, connection: 7 } = running.next().await else { panic!("frames only") };
        assert!(frames.len() <= 512);
        for (at, payload) in frames {
            assert!(at > Timestamp(0));
            assert_eq!(payload, trade(next).as_bytes());
            next += 1;
        }
    }
    let mut server = serving.await.unwrap();
    let flooding = tokio::spawn(async move { while server.send(Message::text(trade(0))).await.is_ok() {} });
    // The test receives no more events; the full channel must not keep the socket from stopping.
    running.stop.cancel();
    tokio::time::timeout(DEADLINE, running.task).await.expect("it stops").unwrap();
    tokio::time::timeout(DEADLINE, flooding).await.expect("its connection is closed").unwrap();
}

#[tokio::test]
async fn a_broken_tls_handshake_is_an_error_and_does_not_hang() {
    let (listener, base) = listen().await;
    let running = start(base.replace("ws://", "wss://"), quick(), vec![stream("AAA")], 64);
    let mut tcp = accept_tcp(&listener).await;
    tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    running.state_says("waiting: open a WebSocket to wss://").await;
    accept_tcp(&listener).await;
    running.stopped().await;
}

#[tokio::test]
async fn the_socket_leaves_servers_that_speak_no_http_or_say_nothing() {
    let (listener, base) = listen().await;
    let options = SocketOptions { connect_timeout: Duration::from_millis(100), ..quick() };
    let mut running = start(base, options, vec![stream("AAA")], 64);
    let mut garbage = accept_tcp(&listener).await;
    garbage.write_all(b"220 mail ready\r\n\r\n").await.unwrap();
    let _mute = accept_tcp(&listener).await;
    running.state_says("no answer within").await;
    acknowledge(&mut accept(&listener).await).await;
    running.connected().await;
    running.stopped().await;
}
