//! Channels: their errors, their ends, and their numbers, which are used again.

use amqp::content;
use amqp::method::{Method, basic, channel, confirm, exchange, queue, tx};
use amqp::properties::PropertiesBuilder;
use amqp::table::{Table, TableBuilder};

use crate::broker::Broker;
use crate::client::{Client, consumer, durable, persistent, transient};
use crate::heard::{Close, Heard};

fn close() -> Method<'static> {
    Method::ChannelClose(channel::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_used_again_hears_nothing_of_the_one_before() {
    let broker = Broker::start_sharded().await;
    let mut client = Client::connect(broker.address).await;
    for queue in ["a", "b", "c", "d"] {
        client.declare(durable(queue)).await;
    }
    for round in 0..50 {
        client.open(2).await;
        client.select_confirms(2).await;
        for queue in ["a", "b", "c", "d"] {
            client.consume(2, consumer(queue, queue)).await;
        }
        let mut out = Vec::new();
        for queue in ["a", "b", "c", "d"] {
            for _ in 0..10 {
                let publish = content::Publish { mandatory: false };
                client.put_publish(&mut out, 2, ("", queue), publish, persistent(), b"old");
            }
        }
        // Confirms and deliveries of the old channel are under way while the new one opens.
        for method in [
            close(),
            Method::ChannelOpen(channel::Open {}),
            Method::ConfirmSelect(confirm::Select { nowait: false }),
        ] {
            amqp::frame::method(&mut out, 2, &method);
        }
        client.write(&out).await;
        client.note(2, &close());
        client
            .find("close-ok", |heard| {
                matches!(heard, Heard::Method(2, plain) if plain.id == (20, 41)).then_some(())
            })
            .await;
        client.note(2, &Method::ChannelOpen(channel::Open {}));
        client.expect(2, (85, 11)).await;
        client.deliveries_so_far(2);
        forget_confirms(&mut client, round).await;
        // All went back: the new channel can take it, and numbers its own messages from 1.
        for queue in ["a", "b", "c", "d"] {
            assert_eq!(client.counts(queue).await, (10, 0), "round {round}");
            assert_eq!(client.purge(queue).await, 10);
        }
        client.publish_with(2, "", "a", persistent(), "new").await;
        let first = client
            .find("a confirm", |heard| match heard {
                Heard::Ack { channel: 2, number, .. } => Some(*number),
                _ => None,
            })
            .await;
        assert_eq!(first, 1, "round {round}");
        assert_eq!(client.deliveries_so_far(2), []);
        assert_eq!(client.purge("a").await, 1);
        client.close_channel(2).await;
    }
}

/// Takes away what the old channel had been told before its close.
async fn forget_confirms(client: &mut Client, round: usize) {
    client.publish_with(1, "", "nobody", PropertiesBuilder::default(), round.to_string()).await;
    client.counts("a").await;
    client.forget(|heard| matches!(heard, Heard::Ack { channel: 2, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_takes_its_time_and_disturbs_nobody() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.open(2).await;
    client.publish("", "q", "x").await;
    client.consume(2, consumer("q", "c")).await;
    client.delivery(2).await;
    // One write: the error, and what a client still sends before it hears of it.
    let mut out = Vec::new();
    let publish = content::Publish { mandatory: false };
    client.put_publish(&mut out, 2, ("nowhere", "q"), publish, PropertiesBuilder::default(), b"lost");
    client.put_publish(&mut out, 2, ("", "q"), publish, PropertiesBuilder::default(), b"discarded");
    amqp::frame::method(&mut out, 2, &Method::BasicAck(basic::Ack { delivery_tag: 1, multiple: false }));
    amqp::frame::method(&mut out, 2, &Method::BasicAck(basic::Ack { delivery_tag: 77, multiple: false }));
    amqp::frame::method(&mut out, 2, &Method::QueueDeclare(transient("also discarded")));
    client.write(&out).await;
    let close = client.channel_closed(2).await;
    assert_eq!((close.code, &*close.text), (404, "NOT_FOUND - no exchange 'nowhere' in vhost '/'"));
    assert_eq!(close.method, (60, 40));
    assert_eq!(client.drain("q").await, ["x"]);
}

/// A broker with a durable queue called q and a durable topic exchange called x.
async fn start() -> (Broker, Client) {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(durable("q")).await;
    client.declare_exchange("x", "topic").await;
    (broker, client)
}

/// The exchange x as it is.
fn x() -> exchange::Declare<'static> {
    exchange::Declare {
        exchange: "x",
        kind: "topic",
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::default(),
    }
}

fn bind<'a>(queue: &'a str, exchange: &'a str) -> Method<'a> {
    Method::QueueBind(queue::Bind {
        queue,
        exchange,
        routing_key: "",
        nowait: false,
        arguments: Table::default(),
    })
}

/// Each method closes its channel with this code, and these words behind the code's name.
async fn check(client: &mut Client, code: u16, name: &str, cases: &[(Method<'_>, &str)]) {
    for (method, text) in cases {
        client.send(1, *method).await;
        let expected = Close { code, text: format!("{name} - {text}"), method: method.id() };
        assert_eq!(client.channel_closed(1).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_brokers_own_is_refused() {
    let (_broker, mut client) = start().await;
    let exchange = exchange::Declare { exchange: "amq.mine", ..x() };
    let default = exchange::Declare { exchange: "", passive: true, ..x() };
    let reserved = "name 'amq.mine' contains reserved prefix 'amq.*'";
    let cases = [
        (Method::QueueDeclare(transient("amq.mine")), &*format!("queue {reserved}")),
        (Method::ExchangeDeclare(exchange), &*format!("exchange {reserved}")),
        (bind("q", ""), "operation not permitted on the default exchange"),
        (Method::ExchangeDeclare(default), "operation not permitted on the default exchange"),
    ];
    check(&mut client, 403, "ACCESS_REFUSED", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let (_broker, mut client) = start().await;
    let (no_queue, no_exchange) = ("no queue 'none' in vhost '/'", "no exchange 'none' in vhost '/'");
    let passive_queue = queue::Declare { passive: true, ..transient("none") };
    let passive_exchange = exchange::Declare { exchange: "none", passive: true, ..x() };
    let cases = [
        (Method::QueueDeclare(passive_queue), no_queue),
        (Method::ExchangeDeclare(passive_exchange), no_exchange),
        (bind("none", "x"), no_queue),
        (bind("q", "none"), no_exchange),
        (Method::BasicConsume(consumer("none", "c")), no_queue),
        (Method::BasicGet(basic::Get { queue: "none", no_ack: true }), no_queue),
        (Method::QueuePurge(queue::Purge { queue: "none", nowait: false }), no_queue),
    ];
    check(&mut client, 404, "NOT_FOUND", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_a_failed_precondition() {
    let (_broker, mut client) = start().await;
    let arg = |key: &str, of: &str, received: &str, current: &str| {
        format!(
            "inequivalent arg '{key}' for {of} in vhost '/': received '{received}' but current is '{current}'"
        )
    };
    let auto_delete = queue::Declare { auto_delete: true, ..durable("q") };
    let fanout = exchange::Declare { kind: "fanout", ..x() };
    let cases = [
        (Method::QueueDeclare(transient("q")), &*arg("durable", "queue 'q'", "false", "true")),
        (Method::QueueDeclare(auto_delete), &*arg("auto_delete", "queue 'q'", "true", "false")),
        (Method::ExchangeDeclare(fanout), &*arg("type", "exchange 'x'", "fanout", "topic")),
        (Method::BasicAck(basic::Ack { delivery_tag: 1, multiple: false }), "unknown delivery tag 1"),
        (Method::TxCommit(tx::Commit {}), "channel is not transactional"),
    ];
    check(&mut client, 406, "PRECONDITION_FAILED", &cases).await;
    let ttl = TableBuilder::new().with("x-message-ttl", "soon");
    let strange_ttl = queue::Declare { arguments: ttl.as_table(), ..durable("t") };
    let strange_kind = exchange::Declare { exchange: "y", kind: "x-strange", ..x() };
    for method in [Method::QueueDeclare(strange_ttl), Method::ExchangeDeclare(strange_kind)] {
        client.send(1, method).await;
        assert_eq!(client.channel_closed(1).await.code, 406);
    }
    client.select_confirms(1).await;
    let cases = [(Method::TxSelect(tx::Select {}), "cannot switch from confirm to tx mode")];
    check(&mut client, 406, "PRECONDITION_FAILED", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn some_errors_end_the_connection() {
    let broker = Broker::start().await;
    let cases: [(Method<'_>, u16); 6] = [
        (Method::BasicQos(basic::Qos { prefetch_size: 1, prefetch_count: 0, global: false }), 540),
        (Method::ChannelFlow(channel::Flow { active: false }), 540),
        (Method::ChannelOpen(channel::Open {}), 504),
        (Method::BasicGetEmpty(basic::GetEmpty {}), 503),
        (Method::ConfirmSelectOk(confirm::SelectOk {}), 503),
        (
            Method::ConnectionTuneOk(amqp::method::connection::TuneOk {
                channel_max: 0,
                frame_max: 0,
                heartbeat: 0,
            }),
            503,
        ),
    ];
    for (method, code) in cases {
        let mut client = Client::connect(broker.address).await;
        client.send(1, method).await;
        let close = client.connection_closed().await;
        assert_eq!((close.code, close.method), (code, method.id()), "{}: {}", method.name(), close.text);
    }
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.consume(1, consumer("q", "c")).await;
    client.send(1, Method::BasicConsume(consumer("q", "c"))).await;
    let close = client.connection_closed().await;
    assert_eq!((close.code, &*close.text), (530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'"));
    let mut client = Client::connect(broker.address).await;
    client.send(9, Method::BasicGet(basic::Get { queue: "q", no_ack: true })).await;
    assert_eq!(client.connection_closed().await.code, 504, "channel 9 is not open");
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_of_a_message_are_checked() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    let none = PropertiesBuilder::default();
    let bad = [
        PropertiesBuilder { user_id: Some("somebody"), ..none },
        PropertiesBuilder { expiration: Some("soon"), ..none },
        PropertiesBuilder { expiration: Some("-1"), ..none },
        PropertiesBuilder { reply_to: Some("amq.rabbitmq.reply-to"), ..none },
    ];
    for properties in bad {
        client.publish_with(1, "", "q", properties, "refused").await;
        let close = client.channel_closed(1).await;
        assert_eq!((close.code, close.method), (406, (60, 40)), "{}", close.text);
    }
    let good = PropertiesBuilder { user_id: Some("guest"), expiration: Some("100000"), ..none };
    client.publish_with(1, "", "q", good, "taken").await;
    assert_eq!(client.drain("q").await, ["taken"]);
}
