//! Memory and disk alarms: publishers wait, consumers go on, and what is confirmed is there.

use amqp::capabilities::Capabilities;
use amqp::method::Method;
use amqp::properties::PropertiesBuilder;

use crate::broker::Broker;
use crate::client::{Client, Options, consumer, durable, persistent, transient};
use crate::eventually;

const BLOCKED: (u16, u16) = (10, 60);
const UNBLOCKED: (u16, u16) = (10, 61);

/// Fills a queue called q with 10 messages. The last of them is the one that makes it more than the 100 KB allowed, so
/// all are taken.
async fn fill(publisher: &mut Client, properties: PropertiesBuilder<'_>) {
    let body = [b'x'; 20_000];
    for _ in 0..9 {
        publisher.publish_with(1, "", "q", properties, &body[..10_000]).await;
    }
    publisher.publish_with(1, "", "q", properties, body).await;
}

async fn drain(consumer: &mut Client, count: u64) {
    for number in 1..=count {
        let tag = consumer.delivery(1).await.tag;
        assert_eq!(tag, number);
        consumer.ack(1, tag, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_until_consumers_have_made_room() {
    let broker = Broker::start_with(|config| config.limits.message_bytes_max = 100_000).await;
    let mut publisher = Client::connect(broker.address).await;
    publisher.declare(durable("q")).await;
    publisher.select_confirms(1).await;
    fill(&mut publisher, persistent()).await;
    assert_eq!(publisher.expect(0, BLOCKED).await.text, "low on memory");
    publisher.confirmed(1, 1, 10).await;
    for _ in 11..=20 {
        publisher.publish_with(1, "", "q", persistent(), "late").await;
    }
    let mut bystander = Client::connect(broker.address).await;
    assert_eq!(bystander.counts("q").await, (10, 0), "what is sent now is not read");
    bystander.consume(1, consumer("q", "drain")).await;
    drain(&mut bystander, 20).await;
    publisher.expect(0, UNBLOCKED).await;
    publisher.confirmed(1, 11, 20).await;
    assert_eq!(publisher.counts("q").await, (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_understand_is_just_not_read() {
    let broker = Broker::start_with(|config| config.limits.message_bytes_max = 100_000).await;
    let mut first = Client::connect(broker.address).await;
    first.declare(transient("q")).await;
    fill(&mut first, PropertiesBuilder::default()).await;
    first.expect(0, BLOCKED).await;

    let deaf = Options { capabilities: Capabilities::default(), ..Options::default() };
    let mut publisher = Client::connect_with(broker.address, deaf).await;
    publisher.open(1).await;
    publisher.declare(transient("q")).await;
    publisher.publish("", "q", "the first is taken").await;
    let mut drainer = Client::connect(broker.address).await;
    eventually("the first message is there", async || (drainer.counts("q").await.0 == 11).then_some(()))
        .await;
    publisher.publish("", "q", "the second is not").await;
    publisher.send(1, Method::TxSelect(amqp::method::tx::Select {})).await;
    for _ in 0..100 {
        assert_eq!(drainer.counts("q").await.0, 11);
    }
    drainer.consume(1, consumer("q", "drain")).await;
    drain(&mut drainer, 12).await;
    assert_eq!(publisher.hear().await, crate::heard::Heard::Method(1, select_ok()));
}

fn select_ok() -> crate::heard::Plain {
    crate::heard::Plain { id: (90, 11), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_blocks_who_publishes_and_nobody_else() {
    let broker = Broker::start_with(|config| config.limits.disk_free_min = u64::MAX).await;
    let mut publisher = Client::connect(broker.address).await;
    publisher.declare(durable("q")).await;
    publisher.select_confirms(1).await;
    publisher.publish_with(1, "", "q", persistent(), "first").await;
    assert_eq!(publisher.expect(0, BLOCKED).await.text, "low on disk");
    publisher.confirmed(1, 1, 1).await;
    let mut consumer = Client::connect(broker.address).await;
    assert_eq!(consumer.drain("q").await, ["first"]);
    consumer.declare(transient("another")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_disconnects_while_blocked_leaves_nothing_behind() {
    let broker = Broker::start_with(|config| config.limits.message_bytes_max = 100_000).await;
    let beating = Options { heartbeat: 1, ..Options::default() };
    let mut publisher = Client::connect_with(broker.address, beating).await;
    publisher.open(1).await;
    publisher.declare(transient("q")).await;
    publisher.consume(1, consumer("q", "it takes all and acks nothing")).await;
    fill(&mut publisher, PropertiesBuilder::default()).await;
    publisher.expect(0, BLOCKED).await;
    drop(publisher);
    let mut drainer = Client::connect(broker.address).await;
    eventually("its messages are back", async || (drainer.counts("q").await == (10, 0)).then_some(())).await;
}
