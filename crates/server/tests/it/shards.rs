//! Messages that go to several shards, and the order in which things happen on one channel.

use amqp::content;
use amqp::method::{Method, basic};
use amqp::properties::PropertiesBuilder;

use crate::broker::Broker;
use crate::client::{Client, consumer, durable, persistent, transient};
use crate::heard::Heard;

const QUEUES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

async fn fanout(broker: &Broker) -> Client {
    let mut client = Client::connect(broker.address).await;
    client.declare_exchange("all", "fanout").await;
    for queue in QUEUES {
        client.declare(durable(queue)).await;
        client.bind(queue, "all", "").await;
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_all_shards_is_confirmed_once() {
    let broker = Broker::start_sharded().await;
    let mut client = fanout(&broker).await;
    client.select_confirms(1).await;
    for _ in 0..200 {
        client.publish_with(1, "all", "", persistent(), "x").await;
        client.publish("", "a", "transient").await;
        client.publish("all", "", "transient, for all").await;
        client.publish("", "nobody", "unroutable").await;
    }
    client.confirmed(1, 1, 800).await;
    for queue in QUEUES {
        let expected = if queue == "a" { 600 } else { 400 };
        assert_eq!(client.counts(queue).await.0, expected, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_comes_before_its_confirm() {
    let broker = Broker::start_sharded().await;
    let mut client = fanout(&broker).await;
    client.select_confirms(1).await;
    for number in 1..=50_u64 {
        let mut out = Vec::new();
        let publish = content::Publish { mandatory: true };
        client.put_publish(&mut out, 1, ("", "nobody"), publish, PropertiesBuilder::default(), b"back");
        client.write(&out).await;
        match client.hear().await {
            Heard::Returned(1, message) => assert_eq!((message.text(), &*message.key), ("back", "nobody")),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.hear().await, Heard::Ack { channel: 1, number, multiple: true });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_channel_happens_in_order() {
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    for queue in QUEUES {
        client.declare(transient(queue)).await;
    }
    for round in 0..100 {
        for queue in QUEUES {
            client.publish("", queue, "purged").await;
            assert_eq!(client.purge(queue).await, 1, "{round}");
            client.publish("", queue, "got").await;
            assert_eq!(client.get(queue, true).await.unwrap().text(), "got");
            assert_eq!(client.get(queue, true).await, None);
            client.publish("", queue, "deleted").await;
            assert_eq!(client.delete(queue).await, 1);
            client.publish("", queue, "unroutable").await;
            assert_eq!(client.declare(transient(queue)).await.messages, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_start_before_and_stop_after_their_deliveries() {
    let broker = Broker::start().await;
    let mut publisher = Client::connect(broker.address).await;
    publisher.declare(transient("q")).await;
    let mut client = Client::connect(broker.address).await;
    let mut seen = 0;
    for _ in 0..50 {
        for number in 0..20 {
            publisher.publish("", "q", number.to_string()).await;
        }
        let mut out = Vec::new();
        let consume = basic::Consume { no_ack: true, ..consumer("q", "c") };
        amqp::frame::method(&mut out, 1, &Method::BasicConsume(consume));
        let cancel = basic::Cancel { consumer_tag: "c", nowait: false };
        amqp::frame::method(&mut out, 1, &Method::BasicCancel(cancel));
        client.write(&out).await;
        assert!(matches!(client.hear().await, Heard::Method(1, plain) if plain.id == (60, 21)));
        loop {
            match client.hear().await {
                Heard::Delivery(1, _) => seen += 1,
                Heard::Method(1, plain) if plain.id == (60, 31) => break,
                other => panic!("{other:?}"),
            }
        }
    }
    let left = publisher.drain("q").await.len();
    assert_eq!(seen + left, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_find_the_channel_that_asked() {
    let broker = Broker::start_sharded().await;
    let mut server = Client::connect(broker.address).await;
    server.declare(transient("requests")).await;
    server.consume(1, basic::Consume { no_ack: true, ..consumer("requests", "server") }).await;
    for _ in 0..20 {
        let mut client = Client::connect(broker.address).await;
        let replies = basic::Consume { no_ack: true, ..consumer("amq.rabbitmq.reply-to", "replies") };
        client.consume(1, replies).await;
        let asks =
            PropertiesBuilder { reply_to: Some("amq.rabbitmq.reply-to"), ..PropertiesBuilder::default() };
        client.publish_with(1, "", "requests", asks, "question").await;
        let request = server.delivery(1).await;
        let address = request.reply_to.unwrap();
        assert!(address.starts_with("amq.rabbitmq.reply-to."), "{address}");
        assert_eq!(server.counts(&address).await, (0, 1), "the requester is there");
        server.publish("", &address, "answer").await;
        let answer = client.delivery(1).await;
        assert_eq!((answer.text(), &*answer.consumer, &*answer.key), ("answer", "replies", &*address));
        client.close().await;
        server.publish("", &address, "too late").await;
    }
}
