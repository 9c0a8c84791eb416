//! Frames of megabytes, and connections that end under load.

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
