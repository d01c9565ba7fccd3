//! Every limit, at the limit and one above.

use amqp::method::{Method, basic, channel};
use amqp::properties::PropertiesBuilder;
use amqp::table::{TableBuilder, Value};

use crate::broker::Broker;
use crate::client::{Client, Options, consumer, content_header, raw_frame, transient};
use crate::heard::{Close, Heard};
use crate::{eventually, within};

#[tokio::test(flavor = "multi_thread")]
async fn connections() {
    let broker = Broker::start_with(|config| config.limits.connections_max = 2).await;
    let first = Client::connect(broker.address).await;
    let _second = Client::connect(broker.address).await;
    assert_eq!(Client::dial(broker.address).await.hear().await, Heard::End);
    first.close().await;
    eventually("a place is free", async || {
        let mut client = Client::dial(broker.address).await;
        client.write(&amqp::frame::PROTOCOL_HEADER).await;
        matches!(client.hear().await, Heard::Method(0, _)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels() {
    let broker = Broker::start_with(|config| config.limits.channel_max = 3).await;
    let options = Options { channel_max: 3, ..Options::default() };
    let mut client = Client::connect_with(broker.address, options.clone()).await;
    for channel in 1..=3 {
        client.open(channel).await;
    }
    client.send(4, Method::ChannelOpen(channel::Open {})).await;
    assert_eq!(client.connection_closed().await.code, 530);
    let mut client = Client::connect_with(broker.address, options).await;
    client.open(65535).await;
}

/// Sends a message whose body comes in one frame of this size, with its 8 bytes of overhead.
async fn publish_one_frame(client: &mut Client, size: usize) {
    let body = vec![b'x'; size - 8];
    let publish = basic::Publish { exchange: "", routing_key: "q", mandatory: false, immediate: false };
    client.send(1, Method::BasicPublish(publish)).await;
    client.write(&raw_frame(2, 1, &content_header(body.len() as u64))).await;
    client.write(&raw_frame(3, 1, &body)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames() {
    for frame_max in [4096_u32, 131_072, 1 << 20] {
        let size = frame_max as usize;
        let broker = Broker::start_with(|config| config.limits.frame_max = frame_max).await;
        let options = Options { frame_max, ..Options::default() };
        let mut client = Client::connect_with(broker.address, options).await;
        client.open(1).await;
        client.declare(transient("q")).await;
        publish_one_frame(&mut client, size).await;
        let got = client.get("q", true).await.unwrap();
        assert_eq!(got.body.len(), size - 8);
        // Eight more are tolerated, as by RabbitMQ.
        publish_one_frame(&mut client, size + 8).await;
        assert_eq!(client.counts("q").await, (1, 0));
        publish_one_frame(&mut client, size + 9).await;
        assert_eq!(client.connection_closed().await.code, 501, "{frame_max}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_size() {
    const MAX: usize = 16 << 20;
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.open(2).await;
    client.declare(transient("q")).await;
    client.select_confirms(1).await;
    let body = vec![b'x'; MAX + 1];
    client.publish("", "q", &body[..MAX]).await;
    client.confirmed(1, 1, 1).await;
    client.publish("", "q", &body).await;
    let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216";
    let close = Close { code: 406, text: text.to_owned(), method: (60, 40) };
    assert_eq!(client.channel_closed(1).await, close);
    client.qos(2, 1, false).await;
    assert_eq!(client.get("q", true).await.unwrap().body.len(), MAX);
    assert_eq!(client.get("q", true).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_size() {
    const MAX: usize = 64 << 10;
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    let text = "x".repeat(MAX);
    let mut publish = async |size: usize| {
        // Flags, length of the table, length and text of the key, type and length of the value.
        let headers =
            TableBuilder::new().with("h", Value::LongString(&text.as_bytes()[..size - 2 - 4 - 2 - 1 - 4]));
        let properties =
            PropertiesBuilder { headers: Some(headers.as_table()), ..PropertiesBuilder::default() };
        assert_eq!(properties.to_bytes().len(), size);
        client.publish_with(1, "", "q", properties, "body").await;
    };
    publish(MAX).await;
    publish(MAX + 1).await;
    let text = "PRECONDITION_FAILED - message properties of 65537 bytes are larger than max size 65536";
    assert_eq!(client.channel_closed(1).await.text, text);
    assert_eq!(client.drain("q").await, ["body"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_a_channel() {
    const MAX: u32 = 2048;
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    client.open(2).await;
    for _ in 0..MAX {
        let consume = basic::Consume { nowait: true, ..consumer("q", "") };
        client.send(2, Method::BasicConsume(consume)).await;
    }
    client.qos(2, 0, false).await;
    assert_eq!(client.counts("q").await, (0, MAX));
    client.consume(1, consumer("q", "of another channel")).await;
    client.send(2, Method::BasicConsume(consumer("q", "one too many"))).await;
    let close = client.connection_closed().await;
    let text = "NOT_ALLOWED - reached maximum (2048) of consumers per channel";
    assert_eq!(close, Close { code: 530, text: text.to_owned(), method: (60, 20) });
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_wait_for_a_client_that_does_not_read() {
    let broker = Broker::start().await;
    let mut client = Client::connect(broker.address).await;
    client.declare(transient("q")).await;
    let body = vec![b'x'; 1 << 20];
    const MESSAGES: usize = 40;
    for _ in 0..MESSAGES {
        client.publish("", "q", &body).await;
    }
    assert_eq!(client.counts("q").await.0, 40);
    // Many more questions than one read takes, and answers much larger than any buffer.
    let mut gets = Vec::new();
    amqp::frame::method(&mut gets, 1, &Method::BasicGet(basic::Get { queue: "q", no_ack: true }));
    let gets = gets.repeat(40_000);
    let count = 40_000;
    let Client { stream, .. } = &mut client;
    let (reader, mut writer) = stream.split();
    let writing = async move {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &gets).await.unwrap();
    };
    let reading = async move {
        let mut receiver = amqp::receiver::Receiver::new(
            amqp::receiver::Side::Client,
            amqp::receiver::Limits { frame_max: 0, channel_max: 0, max_message_size: 1 << 30 },
        );
        receiver.open(1);
        let (mut input, mut got, mut empty) = (Vec::new(), 0, 0);
        let mut reader = reader;
        while got + empty < count {
            let size = tokio::io::AsyncReadExt::read_buf(&mut reader, &mut input).await.unwrap();
            assert!(size > 0, "the server has gone after {got} messages and {empty} empty answers");
            let mut used = 0;
            while let Some((size, heard)) = crate::heard::next(&mut receiver, &input[used..]) {
                used += size;
                match heard {
                    Some(Heard::Got(..)) => got += 1,
                    Some(Heard::Method(1, _)) => empty += 1,
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
            input.drain(..used);
        }
        assert_eq!(got, MESSAGES);
    };
    within(crate::PATIENCE, "all answers", async { tokio::join!(writing, reading) }).await;
}
