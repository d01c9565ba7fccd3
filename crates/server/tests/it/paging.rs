//! Queues that are deeper than what memory keeps of them.

use amqp::method::basic;

use crate::broker::Broker;
use crate::client::{Client, consumer, durable, persistent};
use crate::eventually;

/// Messages of 100 bytes: some six times what a queue keeps in memory.
const COUNT: u64 = 200_000;
/// Confirms that may be missing, and what is unacked at once.
const WINDOW: u64 = 10_000;

fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(100, b' ');
    body
}

fn number(body: &[u8]) -> u64 {
    std::str::from_utf8(body).unwrap().trim_end().parse().unwrap()
}

/// Publishes `COUNT` messages to a queue, and waits until all are taken.
async fn fill(client: &mut Client, queue: &str, is_persistent: bool) {
    client.select_confirms(1).await;
    for first in (0..COUNT).step_by(usize::try_from(WINDOW).unwrap()) {
        let mut out = Vec::new();
        for number in first..first + WINDOW {
            let properties = if is_persistent { persistent() } else { Default::default() };
            let publish = amqp::content::Publish { mandatory: false };
            client.put_publish(&mut out, 1, ("", queue), publish, properties, &body(number));
        }
        client.write(&out).await;
        client.confirmed(1, first + 1, first + WINDOW).await;
    }
}

/// Consumes exactly these messages, with acks.
async fn take(client: &mut Client, queue: &str, expected: std::ops::Range<u64>) {
    client.qos(1, 2000, false).await;
    client.consume(1, basic::Consume { no_ack: false, ..consumer(queue, "c") }).await;
    for wanted in expected.clone() {
        let message = client.delivery(1).await;
        assert_eq!(number(&message.body), wanted, "in the order of publication");
        if message.tag % 500 == 0 || wanted + 1 == expected.end {
            client.ack(1, message.tag, true).await;
        }
    }
}

fn segments(broker: &Broker) -> usize {
    let directory = broker.directory().join("segments/shard-0");
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_queue_gives_all_in_order_and_leaves_nothing_on_the_disk() {
    let broker = Broker::start().await;
    for (queue, is_persistent) in [("kept", true), ("light", false)] {
        let mut client = Client::connect(broker.address).await;
        client.declare(durable(queue)).await;
        fill(&mut client, queue, is_persistent).await;
        assert!(segments(&broker) > 0, "most of it is on the disk");
        take(&mut client, queue, 0..COUNT).await;
        eventually("no segment is left", async || (segments(&broker) == 0).then_some(())).await;
        assert_eq!(client.counts(queue).await.0, 0);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_queue_is_purged_and_deleted_with_its_segments() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(durable("purged")).await;
    fill(&mut client, "purged", true).await;
    assert_eq!(u64::from(client.purge("purged").await), COUNT);
    eventually("no segment is left", async || (segments(&broker) == 0).then_some(())).await;
    let mut client = Client::connect(broker.address).await;
    client.declare(durable("deleted")).await;
    fill(&mut client, "deleted", true).await;
    assert_eq!(u64::from(client.delete("deleted").await), COUNT);
    eventually("no segment is left", async || (segments(&broker) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_queue_goes_on_after_a_restart_where_it_was() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(durable("kept")).await;
    fill(&mut client, "kept", true).await;
    take(&mut client, "kept", 0..COUNT / 2).await;
    client.close().await;
    let broker = broker.restart().await;
    let mut client = Client::connect(broker.address).await;
    assert_eq!(u64::from(client.counts("kept").await.0), COUNT / 2);
    let first = client.get("kept", false).await.unwrap();
    assert_eq!(number(&first.body), COUNT / 2, "the first that was not acked");
    client.ack(1, first.tag, false).await;
    let mut client = Client::connect(broker.address).await;
    take(&mut client, "kept", COUNT / 2 + 1..COUNT).await;
    eventually("no segment is left", async || (segments(&broker) == 0).then_some(())).await;
}
