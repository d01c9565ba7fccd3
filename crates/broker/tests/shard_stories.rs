//! What a shard says of itself: congestion; and what it takes.

use std::sync::Arc;

use amqp::properties::PropertiesBuilder;
use broker::id::{ConnectionId, QueueId};
use broker::message::Parts;
use broker::queue::{Options, Subscription};
use broker::record::{Log, Position, Span};
use broker::shard::{Batch, Command, Effect, Publish, Reply, Request, Shard};
use broker::topology::{Duplicates, Keeps, Overflow, Settings};
use broker::window::Window;

const QUEUE: QueueId = QueueId(1);
const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);

/// Nothing here is stored.
struct NoLog;

impl Log for NoLog {
    fn append(&mut self, kind: u8, _: &[&[u8]]) -> Position {
        panic!("a record of kind {kind} for transient messages")
    }
}

/// A round with one command; returns the bytes that were delivered.
fn round(shard: &mut Shard, from: ConnectionId, command: Command) -> usize {
    shard.handle(from, command, &mut NoLog);
    shard.finish_round(&mut NoLog);
    shard.check();
    let mut bytes = 0;
    while let Some((_, effects)) = shard.poll_effects() {
        for effect in effects {
            if let Effect::Deliver(delivery) = effect {
                bytes += delivery.weight();
            }
        }
    }
    bytes
}

fn publish(count: usize) -> Command {
    let parts = Parts { route: b"\0\x01q", properties: &[0, 0], body: &[7; 1024] };
    let one = Publish {
        messages: parts.to_messages(),
        persistent: false,
        expires: false,
        duplicates: Duplicates::default(),
        route: 0,
        confirm: None,
    };
    Command::Publish(Batch { routes: vec![Arc::from([QUEUE])], runs: vec![one; count], confirms: Vec::new() })
}

fn shard_with_consumer(no_ack: bool, prefetch: u32) -> Shard {
    let mut shard = Shard::default();
    shard.open(
        QUEUE,
        Options {
            label: "queue 'q'".to_owned(),
            durable: false,
            auto_delete: false,
            settings: Settings::default(),
        },
    );
    let consume = Request::Consume(QUEUE, subscription(no_ack, prefetch));
    round(&mut shard, CONSUMER, Command::Request(1, consume));
    shard
}

fn subscription(no_ack: bool, prefetch: u32) -> Subscription {
    Subscription {
        consumer: 1,
        channel: 1,
        no_ack,
        exclusive: false,
        priority: 0,
        prefetch,
        timeout_ms: None,
        window: Window::default(),
    }
}

#[test]
fn a_backlog_before_a_busy_consumer_is_congestion() {
    let mut shard = shard_with_consumer(true, 0);
    let unwritten = round(&mut shard, PUBLISHER, publish(4_000));
    assert!(!shard.is_congested(), "nobody has shown that he is busy");
    let more = round(&mut shard, CONSUMER, Command::Written(unwritten / 4));
    assert!(more > 0 && shard.is_congested(), "it took more, and a backlog remains");
    round(&mut shard, PUBLISHER, publish(1));
    assert!(!shard.is_congested(), "a consumer that stops reading slows nobody");
    let mut unwritten = unwritten - unwritten / 4 + more;
    while unwritten > 0 {
        unwritten = round(&mut shard, CONSUMER, Command::Written(unwritten));
    }
    assert!(!shard.is_congested(), "the backlog is gone");
}

#[test]
fn a_backlog_before_a_consumer_that_settles_fast_is_congestion() {
    let mut shard = shard_with_consumer(false, 100);
    let unwritten = round(&mut shard, PUBLISHER, publish(4_000));
    round(&mut shard, CONSUMER, Command::Written(unwritten));
    assert!(!shard.is_congested());
    round(&mut shard, CONSUMER, Command::Settle(vec![(QUEUE, Span { first: 1, count: 100 })]));
    assert!(shard.is_congested(), "it took a hundred more, and a backlog remains");
}

#[test]
fn a_consumer_that_holds_all_it_may_is_no_congestion() {
    let mut shard = shard_with_consumer(false, 10);
    let unwritten = round(&mut shard, PUBLISHER, publish(4_000));
    round(&mut shard, CONSUMER, Command::Written(unwritten));
    assert!(!shard.is_congested());
    round(&mut shard, CONSUMER, Command::Settle(vec![(QUEUE, Span::one(1))]));
    assert!(!shard.is_congested());
}

/// Counts what is written.
#[derive(Default)]
struct Written(u64);

impl Log for Written {
    fn append(&mut self, _: u8, payload: &[&[u8]]) -> Position {
        let position = self.0;
        self.0 += 12 + payload.iter().map(|part| part.len() as u64).sum::<u64>();
        position
    }
}

#[test]
fn a_fan_out_counts_in_the_log_as_what_it_takes_there_and_is_copied_as_such() {
    let (mut shard, mut log) = (Shard::default(), Written::default());
    let queues: Arc<[QueueId]> = (0..100).map(QueueId).collect();
    for queue in &*queues {
        shard.open(
            *queue,
            Options {
                label: "a queue".to_owned(),
                durable: true,
                auto_delete: false,
                settings: Settings::default(),
            },
        );
    }
    let mut bytes = bytes::BytesMut::new();
    for _ in 0..1000 {
        Parts { route: b"\0\x01q", properties: &[0, 0], body: &[7; 16] }.encode(&mut bytes);
    }
    let messages = broker::message::Messages::encoded(bytes.freeze(), 1000);
    let runs = vec![Publish {
        messages,
        persistent: true,
        expires: false,
        duplicates: Duplicates::default(),
        route: 0,
        confirm: None,
    }];
    let batch = Batch { routes: vec![queues], runs, confirms: Vec::new() };
    shard.handle(PUBLISHER, Command::Publish(batch), &mut log);
    let (written, live) = (log.0, shard.live_bytes());
    assert!(
        live <= written * 11 / 10 && written <= live * 11 / 10,
        "{live} of {written} bytes count as live"
    );
    shard.copy_forward(written, &mut log);
    let copied = log.0 - written;
    assert!(copied <= written * 11 / 10, "{copied} bytes for {written}");
    shard.check();
}

#[test]
fn what_is_too_old_goes_though_nobody_takes_dead_letters() {
    let (mut shard, other) = (Shard::default(), QueueId(2));
    let ttl = |dead_letter_exchange: Option<&str>| Settings {
        message_ttl_ms: Some(10),
        dead_letter_exchange: dead_letter_exchange.map(Arc::from),
        ..Settings::default()
    };
    shard.tick(1000);
    for (queue, settings) in [(QUEUE, ttl(Some("dead"))), (other, ttl(None))] {
        let label = "a queue".to_owned();
        shard.open(queue, Options { label, durable: false, auto_delete: false, settings });
    }
    round(&mut shard, PUBLISHER, publish(4_000));
    let Command::Publish(batch) = publish(1) else { unreachable!() };
    let batch = Batch { routes: vec![Arc::from([other])], ..batch };
    round(&mut shard, PUBLISHER, Command::Publish(batch));
    shard.tick(1010);
    let mut counts = |queue| {
        shard.handle(PUBLISHER, Command::Request(1, Request::Inspect(queue)), &mut NoLog);
        shard.finish_round(&mut NoLog);
        let effects = std::iter::from_fn(|| shard.poll_effects()).flat_map(|(_, effects)| effects);
        let counts = effects.filter_map(|effect| match effect {
            Effect::Reply(_, Ok(Reply::Counts { ready, .. })) => Some(ready),
            _ => None,
        });
        counts.sum::<usize>()
    };
    assert!(counts(QUEUE) > 0, "the forwarder has enough to do");
    assert_eq!(counts(other), 0, "nobody has to take what goes nowhere");
}

/// A session that has not heard of a new limit has counted these messages as confirmed when they are taken.
#[test]
fn a_full_queue_takes_what_cannot_be_refused_any_more() {
    let mut shard = Shard::default();
    let settings = Settings { max_length: Some(1), overflow: Overflow::RejectPublish, ..Settings::default() };
    let options = Options { label: "queue 'q'".to_owned(), durable: false, auto_delete: false, settings };
    shard.open(QUEUE, options);
    round(&mut shard, PUBLISHER, publish(3));
    assert_eq!(shard.ready(), 3);
    let Command::Publish(mut batch) = publish(2) else { unreachable!("it publishes") };
    batch.runs.iter_mut().for_each(|run| run.confirm = Some((1, 1)));
    round(&mut shard, PUBLISHER, Command::Publish(batch));
    assert_eq!(shard.ready(), 3);
}

/// Messages with these times to live, one after the other.
fn publish_expiring(ttls: &[Option<&str>]) -> Command {
    let mut bytes = bytes::BytesMut::new();
    for expiration in ttls {
        let properties = PropertiesBuilder { expiration: *expiration, ..PropertiesBuilder::default() };
        Parts { route: b"\0\x01q", properties: &properties.to_bytes(), body: b"x" }.encode(&mut bytes);
    }
    let count = u32::try_from(ttls.len()).expect("a few");
    let messages = broker::message::Messages::encoded(bytes.freeze(), count);
    let duplicates = Duplicates::default();
    let run = Publish { messages, persistent: false, expires: true, duplicates, route: 0, confirm: None };
    Command::Publish(Batch { routes: vec![Arc::from([QUEUE])], runs: vec![run], confirms: Vec::new() })
}

#[test]
fn what_is_too_old_behind_a_message_that_is_not_goes_to_nobody() {
    for no_ack in [false, true] {
        let mut shard = Shard::default();
        shard.tick(1000);
        let label = "a queue".to_owned();
        let settings = Settings::default();
        shard.open(QUEUE, Options { label, durable: false, auto_delete: false, settings });
        round(&mut shard, PUBLISHER, publish_expiring(&[None, Some("10"), None, Some("10"), Some("5000")]));
        shard.tick(2000);
        let consume = Request::Consume(QUEUE, subscription(no_ack, 0));
        shard.handle(CONSUMER, Command::Request(1, consume), &mut NoLog);
        shard.finish_round(&mut NoLog);
        shard.check();
        let effects = std::iter::from_fn(|| shard.poll_effects()).flat_map(|(_, effects)| effects);
        let delivered = effects.filter_map(|effect| match effect {
            Effect::Deliver(delivery) => Some((delivery.first, delivery.messages.count())),
            _ => None,
        });
        assert_eq!(delivered.collect::<Vec<_>>(), [(1, 1), (3, 1), (5, 1)]);
    }
}

#[test]
fn what_is_written_on_messages_counts_where_whole_messages_are_limited() {
    let (mut shard, size_max) = (Shard::default(), 1000);
    let settings = Settings {
        max_length: Some(10_000),
        max_length_bytes: Some(size_max),
        keeps: Some(Keeps::History),
        ..Settings::default()
    };
    let label = "a queue".to_owned();
    shard.open(QUEUE, Options { label, durable: false, auto_delete: false, settings });
    let message_id = "x".repeat(200);
    let properties =
        PropertiesBuilder { message_id: Some(&message_id), ..PropertiesBuilder::default() }.to_bytes();
    let messages = Parts { route: b"\0\x01q", properties: &properties, body: b"" }.to_messages();
    let size = messages.size() as u64;
    for _ in 0..10 {
        let Command::Publish(mut batch) = publish(1) else { unreachable!() };
        batch.runs[0].messages = messages.clone();
        round(&mut shard, PUBLISHER, Command::Publish(batch));
    }
    assert_eq!(shard.ready(), size_max / size);
}
