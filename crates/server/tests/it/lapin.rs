//! lapin, as its users use it.

use lapin::message::{BasicReturnMessage, Delivery};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::broker::Broker;
use crate::{PATIENCE, within};

async fn connect(broker: &Broker) -> Connection {
    let uri = format!("amqp://guest:guest@{}/%2f", broker.address);
    within(PATIENCE, "lapin connects", Connection::connect(&uri, ConnectionProperties::default()))
        .await
        .unwrap()
}

async fn declare(channel: &Channel, queue: &str, options: QueueDeclareOptions) -> lapin::Queue {
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap()
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &str) -> Confirmation {
    publish_with(channel, exchange, key, body, BasicProperties::default().with_delivery_mode(2)).await
}

async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &str,
    properties: BasicProperties,
) -> Confirmation {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties);
    let confirm = publish.await.unwrap();
    within(PATIENCE, "a confirm", confirm).await.unwrap()
}

async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> (Consumer, UnboundedReceiver<Delivery>) {
    let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
    let consumer =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let (deliveries, inbox) = unbounded_channel();
    consumer.set_delegate(move |delivery: lapin::message::DeliveryResult| {
        // Not in the future: lapin runs those side by side.
        if let Ok(Some(delivery)) = delivery {
            let _ = deliveries.send(delivery);
        }
        std::future::ready(())
    });
    (consumer, inbox)
}

async fn next(inbox: &mut UnboundedReceiver<Delivery>) -> Delivery {
    within(PATIENCE, "a delivery", inbox.recv()).await.unwrap()
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.data).unwrap()
}

/// Code and text of an error of AMQP.
fn refused<T: std::fmt::Debug>(result: Result<T, lapin::Error>) -> (u16, String) {
    let error = result.unwrap_err();
    match error.kind() {
        ErrorKind::ProtocolError(error) => (error.get_id(), error.get_message().to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_with_confirms_and_consumes_with_prefetch() {
    const COUNT: usize = 200;
    const PREFETCH: usize = 10;
    let broker = Broker::start_sharded().await;
    let connection = connect(&broker).await;
    let (publisher, taker) =
        (connection.create_channel().await.unwrap(), connection.create_channel().await.unwrap());
    declare(&publisher, "orders", durable()).await;
    let x = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    publisher.exchange_declare("shop".into(), ExchangeKind::Topic, x, FieldTable::default()).await.unwrap();
    let bind = publisher.queue_bind(
        "orders".into(),
        "shop".into(),
        "order.#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.unwrap();
    publisher.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for number in 0..COUNT {
        assert_eq!(
            publish(&publisher, "shop", "order.new", &number.to_string()).await,
            Confirmation::Ack(None)
        );
    }
    taker.basic_qos(u16::try_from(PREFETCH).unwrap(), BasicQosOptions::default()).await.unwrap();
    let (consumer, mut inbox) = consume(&taker, "orders", false).await;
    for first in (0..COUNT).step_by(PREFETCH) {
        let mut held = Vec::new();
        for number in first..first + PREFETCH {
            held.push(next(&mut inbox).await);
            assert_eq!(text(&held[number - first]), number.to_string());
        }
        // An answer on the same channel comes behind all deliveries.
        taker.basic_qos(u16::try_from(PREFETCH).unwrap(), BasicQosOptions::default()).await.unwrap();
        assert!(inbox.try_recv().is_err(), "more than {PREFETCH} outstanding");
        for delivery in held {
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
    }
    taker.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.unwrap();
    assert_eq!(declare(&publisher, "orders", durable()).await.message_count(), 0);
    connection.close(200, "bye".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_back_and_gets_again() {
    let broker = Broker::start().await;
    let connection = connect(&broker).await;
    let channel = connection.create_channel().await.unwrap();
    declare(&channel, "q", QueueDeclareOptions::default()).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for body in ["a", "b", "c"] {
        publish(&channel, "", "q", body).await;
    }
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let (_consumer, mut inbox) = consume(&channel, "q", false).await;
    let first = next(&mut inbox).await;
    assert_eq!((text(&first), first.redelivered), ("a", false));
    first.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
    let again = next(&mut inbox).await;
    assert_eq!((text(&again), again.redelivered), ("a", true));
    again.nack(BasicNackOptions { requeue: false, ..BasicNackOptions::default() }).await.unwrap();
    let second = next(&mut inbox).await;
    assert_eq!((text(&second), second.redelivered), ("b", false));
    channel.close(200, "".into()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let got = channel.basic_get("q".into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
    assert_eq!((&*got.data, got.redelivered, got.message_count), (&b"b"[..], true, 1));
    assert_eq!(channel.queue_purge("q".into(), QueuePurgeOptions::default()).await.unwrap(), 1);
    assert!(channel.basic_get("q".into(), BasicGetOptions { no_ack: true }).await.unwrap().is_none());
    assert_eq!(channel.queue_delete("q".into(), QueueDeleteOptions::default()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_back_what_nobody_wants() {
    let broker = Broker::start().await;
    let connection = connect(&broker).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let returned = publish(&channel, "amq.direct", "nobody", "lost").await.take_message();
    let BasicReturnMessage { reply_code, reply_text, delivery, .. } = returned.expect("it is mandatory");
    assert_eq!((reply_code, reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(
        (text(&delivery), delivery.exchange.as_str(), delivery.routing_key.as_str()),
        ("lost", "amq.direct", "nobody")
    );
}

/// Asks over `reply_queue`, which is consumed already, and answers itself.
async fn ask(channel: &Channel, replies: &mut UnboundedReceiver<Delivery>, reply_to: &str) {
    let properties =
        BasicProperties::default().with_reply_to(reply_to.into()).with_correlation_id("7".into());
    publish_with(channel, "", "rpc", "question", properties).await;
    let (_server, mut requests) = consume(channel, "rpc", true).await;
    let request = next(&mut requests).await;
    let address: ShortString = request.properties.reply_to().clone().unwrap();
    let id = request.properties.correlation_id().clone().unwrap();
    let answer = BasicProperties::default().with_correlation_id(id);
    publish_with(channel, "", address.as_str(), "answer", answer).await;
    let reply = next(replies).await;
    assert_eq!(text(&reply), "answer");
    assert_eq!(reply.properties.correlation_id().as_ref().unwrap().as_str(), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_is_answered() {
    let broker = Broker::start_sharded().await;
    let connection = connect(&broker).await;
    for direct in [false, true] {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "rpc", QueueDeclareOptions::default()).await;
        let name = if direct {
            "amq.rabbitmq.reply-to".to_owned()
        } else {
            let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            declare(&channel, "", exclusive).await.name().to_string()
        };
        let (_replies, mut inbox) = consume(&channel, &name, true).await;
        ask(&channel, &mut inbox, &name).await;
        channel.close(200, "".into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn understands_refusals() {
    let broker = Broker::start().await;
    let (connection, another) = (connect(&broker).await, connect(&broker).await);
    let owner = another.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    declare(&owner, "locked", exclusive).await;
    declare(&owner, "durable", durable()).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let cases = [
        (
            "amq.mine",
            QueueDeclareOptions::default(),
            403,
            "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        ),
        ("nothing", passive, 404, "NOT_FOUND - no queue 'nothing' in vhost '/'"),
        (
            "locked",
            QueueDeclareOptions::default(),
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'locked' in vhost '/'",
        ),
        (
            "durable",
            QueueDeclareOptions::default(),
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'durable' in vhost '/'",
        ),
    ];
    for (queue, options, code, start) in cases {
        let channel = connection.create_channel().await.unwrap();
        let refused = refused(channel.queue_declare(queue.into(), options, FieldTable::default()).await);
        assert_eq!(refused.0, code);
        assert!(refused.1.starts_with(start), "{}", refused.1);
    }
    let channel = connection.create_channel().await.unwrap();
    declare(&channel, "still here", QueueDeclareOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn works_on_many_channels_at_once() {
    let broker = Broker::start_sharded().await;
    let connection = connect(&broker).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let channel = connection.create_channel().await.unwrap();
        tasks.spawn(async move {
            let queue = format!("q{number}");
            let auto_delete = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
            declare(&channel, &queue, auto_delete).await;
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            let (_consumer, mut inbox) = consume(&channel, &queue, false).await;
            for body in 0..50 {
                publish(&channel, "", &queue, &body.to_string()).await;
                let delivery = next(&mut inbox).await;
                assert_eq!(text(&delivery), body.to_string());
                delivery.ack(BasicAckOptions::default()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}
