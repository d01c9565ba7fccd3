//! Signs of life, both ways.

use std::time::Duration;

use crate::broker::Broker;
use crate::client::{Client, Options, consumer, raw_frame, transient};
use crate::heard::Heard;

async fn connect(broker: &Broker) -> Client {
    let mut client =
        Client::connect_with(broker.address, Options { heartbeat: 1, ..Options::default() }).await;
    client.open(1).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_beats_and_drops_who_is_silent_for_two_intervals() {
    let broker = Broker::start().await;
    let mut client = connect(&broker).await;
    let mut beats = 0;
    loop {
        match client.hear().await {
            Heard::Heartbeat => beats += 1,
            Heard::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((2..=5).contains(&beats), "{beats} heartbeats before the silent client was dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_beats_back_stays() {
    let broker = Broker::start().await;
    let mut client = connect(&broker).await;
    for _ in 0..5 {
        assert_eq!(client.hear().await, Heard::Heartbeat);
        client.write(&raw_frame(8, 0, &[])).await;
    }
    client.declare(transient("q")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_but_beats_stays() {
    let broker = Broker::start().await;
    let mut client = connect(&broker).await;
    client.declare(transient("q")).await;
    client.publish("", "q", vec![b'x'; 16 << 20]).await;
    client.consume(1, consumer("q", "slow")).await;
    // The delivery does not fit the buffers of the sockets, and is not read for longer than two intervals.
    let mut beats = tokio::time::interval(Duration::from_millis(400));
    for _ in 0..12 {
        beats.tick().await;
        client.write(&raw_frame(8, 0, &[])).await;
    }
    assert_eq!(client.delivery(1).await.body.len(), 16 << 20);
    client.ack(1, 1, false).await;
    assert_eq!(client.counts("q").await, (0, 1));
}
