//! A stream under kill -9: no confirmed message is lost, no offset ever holds two messages, and a reader whose offset the
//! server keeps goes on about where it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer, Result};

use crate::broker::Broker;
use crate::history::mix;
use crate::{PATIENCE, traffic};

const STREAM: &str = "stream";
const ROUNDS: u64 = 8;
/// Messages on their way that are not confirmed.
const WINDOW: usize = 200;
/// Bytes of a body: some hundred messages are a segment.
const BODY_SIZE: usize = 500;
const PREFETCH: u16 = 100;

/// What is known for sure.
#[derive(Debug, Default)]
struct Known {
    next: u64,
    confirmed: BTreeSet<u64>,
    by_offset: BTreeMap<i64, u64>,
    deliveries: u64,
}

type Shared = Arc<Mutex<Known>>;

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

async fn declare(channel: &Channel) -> Result<u32> {
    let arguments = table(&[
        ("x-queue-type", AMQPValue::LongString("stream".into())),
        ("x-stream-max-segment-size-bytes", AMQPValue::LongInt(100_000)),
    ]);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(STREAM.into(), durable, arguments).await?.message_count())
}

fn number_of(body: &[u8]) -> u64 {
    let number = body.first_chunk().map(|number| u64::from_be_bytes(*number)).expect("a body has a number");
    assert_eq!(body, self::body(number), "the body of message {number}");
    number
}

fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BODY_SIZE, u8::try_from(number % 251).expect("below 251"));
    body
}

async fn publish(channel: &Channel, known: &Shared) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut pending = VecDeque::new();
    loop {
        while pending.len() < WINDOW {
            let number = {
                let mut known = known.lock().expect("no test thread panics");
                known.next += 1;
                known.next
            };
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            let confirm =
                channel.basic_publish("".into(), STREAM.into(), options, &body(number), properties).await?;
            pending.push_back((number, confirm));
        }
        if let Some((number, confirm)) = pending.pop_front() {
            confirm.await?;
            known.lock().expect("no test thread panics").confirmed.insert(number);
        }
    }
}

/// Starts to read from the first offset, or from where the server knows this reader to be.
async fn reader(channel: &Channel, tracked: bool) -> Result<Consumer> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let arguments = table(&[
        ("x-stream-offset", AMQPValue::LongString("first".into())),
        ("x-stream-automatic-offset-tracking", AMQPValue::Boolean(tracked)),
    ]);
    channel.basic_consume(STREAM.into(), "me".into(), BasicConsumeOptions::default(), arguments).await
}

async fn next(consumer: &mut Consumer) -> Option<Result<Delivery>> {
    poll_fn(|context| Pin::new(&mut *consumer).poll_next(context)).await
}

/// The offset of a delivery, which is noted and checked.
fn note(delivery: &Delivery, known: &Shared) -> i64 {
    let headers = delivery.properties.headers().as_ref().expect("a delivery of a stream has headers");
    let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else {
        panic!("no offset in {headers:?}");
    };
    let number = number_of(&delivery.data);
    let mut known = known.lock().expect("no test thread panics");
    let before = known.by_offset.insert(*offset, number).unwrap_or(number);
    assert_eq!(before, number, "offset {offset} held another message");
    known.deliveries += 1;
    *offset
}

async fn read(channel: &Channel, known: &Shared) -> Result<()> {
    let mut consumer = reader(channel, true).await?;
    while let Some(delivery) = next(&mut consumer).await {
        let delivery = delivery?;
        note(&delivery, known);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// One life of the broker, until it is killed.
async fn live(data_dir: &Path, known: &Shared, moment: Duration) {
    let broker = Broker::start(data_dir);
    let (_one, publisher) = traffic::connect(&broker.address).await.expect("a broker that listens");
    let (_other, consumer) = traffic::connect(&broker.address).await.expect("a broker that listens");
    declare(&publisher).await.expect("a broker that works");
    let clients = async { tokio::join!(publish(&publisher, known), read(&consumer, known)) };
    let kill = async {
        traffic::pass(moment).await;
        broker.kill();
    };
    let both = async { tokio::join!(clients, kill) };
    let _ = tokio::time::timeout(moment + Duration::from_secs(2), both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_keeps_streams() {
    let rounds = std::env::var("LEVERET_KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("rounds"));
    let data_dir = tempfile::tempdir().expect("a directory for the test");
    let known = Shared::default();
    for round in 0..rounds {
        live(data_dir.path(), &known, Duration::from_millis(200 + mix(round) % 400)).await;
    }
    let broker = Broker::start(data_dir.path());
    let (_connection, channel) = traffic::connect(&broker.address).await.expect("a broker that listens");
    let count = declare(&channel).await.expect("a broker that works");
    let mut consumer = reader(&channel, false).await.expect("a stream that can be read");
    for expected in 0..i64::from(count) {
        let delivery = tokio::time::timeout(PATIENCE, next(&mut consumer)).await.expect("a message");
        let delivery = delivery.expect("a consumer that goes on").expect("a delivery");
        assert_eq!(note(&delivery, &known), expected, "no offset is left out");
        delivery.acker.ack(BasicAckOptions::default()).await.expect("an ack");
    }
    let known = known.lock().expect("no test thread panics");
    let found: BTreeSet<u64> = known.by_offset.values().copied().collect();
    let lost = known.confirmed.difference(&found).count();
    let (confirmed, deliveries) = (known.confirmed.len(), known.deliveries);
    println!(
        "kill -9, streams: rounds {rounds}, confirmed {confirmed}, in the stream {count}, deliveries {deliveries}, lost {lost}"
    );
    assert_eq!(lost, 0, "confirmed messages are lost");
    assert_eq!(
        known.by_offset.len(),
        usize::try_from(count).expect("a small stream"),
        "nobody saw more than there is"
    );
    assert!(confirmed > 1000, "void: {confirmed} confirmed");
}
