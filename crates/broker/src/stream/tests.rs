//! A stream in its shard: act, then look at what readers get and what is asked of segments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use amqp::properties::Properties;
use amqp::table::TableBuilder;

use super::{Options, Reading, Retention, Start, Wanted};
use crate::id::{ConnectionId, QueueId};
use crate::message::{Messages, Parts};
use crate::page::{Answer, Extent, Limits, Order, Place, Run, Segment};
use crate::queue::Subscription;
use crate::record::{Log, Position, Record, Span, VERSION};
use crate::shard::{Batch, Command, Effect, Publish, Reply, Request, Shard};
use crate::window::Window;

const STREAM: QueueId = QueueId(4);
const CLIENT: ConnectionId = ConnectionId(1);
/// A run of four messages is about this large, and two of them are an append.
const LIMITS: Limits = Limits {
    queue: 1200,
    keep: 300,
    tail: 300,
    spill: 600,
    front: 300,
    in_flight: 10_000,
    hold: 50_000,
    busy: 0,
    idle: u64::MAX,
    share: 0,
};
/// Runs that a read gives.
const WINDOW: usize = 2;

#[derive(Default)]
struct Lines(Vec<(u8, Vec<u8>)>);

impl Log for Lines {
    fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
        self.0.push((kind, payload.concat()));
        self.0.len() as u64
    }
}

/// A shard with one stream, a log, and a disk that does all at once.
struct Story {
    shard: Shard,
    log: Lines,
    now_ms: u64,
    options: Options,
    segments: BTreeMap<Segment, Vec<Run>>,
    reads: usize,
    removed: usize,
    published: u64,
    got: VecDeque<(u32, u64, String)>,
    life: u64,
    /// The disk is full.
    refuses: bool,
}

impl Story {
    fn new(change: impl FnOnce(&mut Options)) -> Story {
        let mut options = Options { segment_size: 1500, ..Options::new("queue 's'".to_owned()) };
        change(&mut options);
        let mut story = Story {
            shard: Shard::default(),
            log: Lines::default(),
            now_ms: 1000,
            options,
            segments: BTreeMap::new(),
            reads: 0,
            removed: 0,
            published: 0,
            got: VecDeque::new(),
            life: 0,
            refuses: false,
        };
        story.restart();
        story
    }

    /// All that is in the log is applied to a new shard.
    fn restart(&mut self) {
        self.shard = Shard::default();
        self.life += 1;
        self.shard.limit_paging(LIMITS);
        self.shard.open(STREAM, self.options.clone());
        for (position, (kind, payload)) in (1..).zip(&self.log.0) {
            let record = Record::decode(*kind, VERSION, payload).expect("a record that was written");
            self.shard.recover(position, record);
        }
        self.shard.recovered();
        let known: Vec<Segment> = self.shard.segments().into_iter().map(|(_, segment)| segment).collect();
        self.segments.retain(|segment, _| known.contains(segment));
        self.round();
    }

    /// Publishes runs of four messages with bodies that count on, each a hundred bytes or so.
    fn publish(&mut self, runs: usize, value: Option<&str>) {
        for _ in 0..runs {
            self.publish_uncommitted(value);
            self.round();
        }
    }

    fn publish_uncommitted(&mut self, value: Option<&str>) {
        let mut properties = Vec::new();
        match value.map(|value| TableBuilder::new().with("x-stream-filter-value", value)) {
            Some(headers) => Properties::EMPTY.with_headers(headers.as_table(), &mut properties),
            None => properties.extend_from_slice(Properties::EMPTY.as_bytes()),
        }
        let mut bytes = Vec::new();
        for _ in 0..4 {
            let body = format!("{:050}", self.published);
            self.published += 1;
            let message = Parts { route: b"\0\x01s", properties: &properties, body: body.as_bytes() };
            bytes.extend_from_slice(message.to_messages().as_bytes());
        }
        let runs = vec![Publish {
            messages: Messages::encoded(bytes.into(), 4),
            persistent: false,
            expires: false,
            route: 0,
            confirm: None,
        }];
        let batch = Batch { routes: vec![Arc::from([STREAM])], runs, confirms: Vec::new() };
        self.handle(Command::Publish(batch));
    }

    fn handle(&mut self, command: Command) {
        self.shard.tick(self.now_ms);
        self.shard.handle(CLIENT, command, &mut self.log);
    }

    fn read(&mut self, consumer: u32, prefetch: u32, reading: Reading) {
        let subscription = Subscription {
            consumer,
            channel: 1,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch,
            timeout_ms: None,
            window: Window::default(),
        };
        self.handle(Command::Request(0, Request::Read(STREAM, subscription, Box::new(reading))));
        self.round();
    }

    fn credit(&mut self, consumer: u32, first: u64, count: u32) {
        self.handle(Command::Credit(vec![(STREAM, consumer, Span { first, count })]));
        self.round();
    }

    /// Rounds, commits and answers of the disk until nothing happens any more.
    fn round(&mut self) {
        loop {
            self.shard.tick(self.now_ms);
            self.shard.finish_round(&mut self.log);
            self.shard.committed(self.log.0.len() as u64 + 1);
            self.shard.finish_round(&mut self.log);
            self.take_effects();
            self.shard.check();
            let orders: Vec<Order> = std::iter::from_fn(|| self.shard.poll_page()).collect();
            if orders.is_empty() {
                break;
            }
            for order in orders {
                if let Some(answer) = self.carry_out(order) {
                    self.shard.paged(answer, &mut self.log);
                }
            }
        }
    }

    fn take_effects(&mut self) {
        while let Some((_, effects)) = self.shard.poll_effects() {
            for effect in effects {
                let Effect::Deliver(delivery) = effect else { continue };
                for (offset, message) in (delivery.first..).zip(delivery.messages.iter()) {
                    let body = String::from_utf8_lossy(message.body()).trim_start_matches('0').to_owned();
                    self.got.push_back((delivery.consumer, offset, body));
                }
            }
        }
    }

    /// Places are indexes of runs.
    fn carry_out(&mut self, order: Order) -> Option<Answer> {
        match order {
            Order::Append { queue, token, .. } if self.refuses => Some(Answer::Refused { queue, token }),
            Order::Append { queue, token, runs, begins_segment } => {
                let last = self.segments.keys().next_back().copied().filter(|it| it.incarnation == self.life);
                let number = self.segments.keys().next_back().map_or(1, |last| last.number + 1);
                let segment = last.filter(|_| !begins_segment);
                let segment = segment.unwrap_or(Segment { number, incarnation: self.life });
                let there = self.segments.entry(segment).or_default();
                let size = |runs: &[Run]| runs.iter().map(|run| run.messages.size() as u64).sum::<u64>();
                let from = Place { offset: size(there), sequence: runs[0].first };
                there.extend(runs);
                let last = there.last().expect("something was appended");
                let sequence = last.first + u64::from(last.messages.count());
                let to = Place { offset: size(there), sequence };
                Some(Answer::Spilled { queue, token, extent: Extent { segment, from, to } })
            }
            Order::Read { queue, token, extent } => {
                self.reads += 1;
                let mut offset = 0;
                let mut runs = Vec::new();
                let mut next = extent.to;
                for run in &self.segments[&extent.segment] {
                    if offset >= extent.to.offset {
                        break;
                    }
                    if offset >= extent.from.offset && runs.len() == WINDOW {
                        next = Place { offset, sequence: run.first.max(extent.from.sequence) };
                        break;
                    }
                    if offset >= extent.from.offset {
                        runs.push(run.clone());
                    }
                    offset += run.messages.size() as u64;
                }
                Some(Answer::Read { queue, token, runs, next })
            }
            Order::Remove { segment, .. } => {
                self.removed += 1;
                self.segments.remove(&segment);
                None
            }
            Order::Spill { .. } => panic!("a stream appends"),
        }
    }

    /// The offsets that a reader got since the last look; the body of each message is its offset.
    fn offsets(&mut self, consumer: u32) -> Vec<u64> {
        let mut offsets = Vec::new();
        self.got.retain(|(of, offset, body)| {
            let body = if body.is_empty() { 0 } else { body.parse().expect("a number") };
            assert_eq!(body, *offset, "the message at an offset");
            if *of == consumer {
                offsets.push(*offset);
            }
            *of != consumer
        });
        offsets
    }

    fn len(&mut self) -> usize {
        self.handle(Command::Request(7, Request::Inspect(STREAM)));
        while let Some((_, effects)) = self.shard.poll_effects() {
            for effect in effects {
                if let Effect::Reply(7, Ok(Reply::Counts { ready, .. })) = effect {
                    return ready;
                }
            }
        }
        panic!("no answer");
    }
}

fn reading(start: Start) -> Reading {
    Reading { start, tracked: None, wanted: None }
}

fn wanted(value: &str) -> Option<Wanted> {
    Some(Wanted { values: vec![value.as_bytes().into()], unfiltered: false })
}

#[test]
fn readers_far_back_and_at_the_tail_get_everything() {
    let mut story = Story::new(|_| ());
    story.read(1, 1000, reading(Start::Next));
    story.publish(100, None);
    assert_eq!(story.offsets(1), (0..400).collect::<Vec<_>>());
    assert!(story.segments.len() > 10, "{} segments", story.segments.len());
    assert!(story.shard.message_bytes() < 3 * LIMITS.queue, "{} bytes", story.shard.message_bytes());
    story.read(2, 1000, reading(Start::First));
    story.read(3, 1000, reading(Start::Offset(201)));
    story.read(4, 1000, reading(Start::Last));
    assert_eq!(story.offsets(2), (0..400).collect::<Vec<_>>());
    assert_eq!(story.offsets(3), (201..400).collect::<Vec<_>>());
    assert_eq!(story.offsets(4), [399]);
    assert!(story.reads < 90, "{} windows of two runs for two readers", story.reads);
}

#[test]
fn credit_bounds_what_a_reader_holds_and_what_is_read_for_it() {
    let mut story = Story::new(|_| ());
    story.publish(100, None);
    story.read(1, 3, reading(Start::First));
    assert_eq!((story.offsets(1), story.reads), (vec![0, 1, 2], 1));
    story.credit(1, 1, 1);
    story.credit(1, 1, 1);
    assert_eq!(story.offsets(1), [3], "an ack counts once");
    story.credit(1, 0, 4);
    assert_eq!(story.offsets(1), [4, 5, 6]);
}

#[test]
fn what_is_not_committed_is_not_read() {
    let mut story = Story::new(|_| ());
    story.publish_uncommitted(None);
    assert_eq!(story.shard.awaited(), None, "nobody waits for that");
    story.round();
    story.read(1, 100, reading(Start::Next));
    story.publish_uncommitted(None);
    assert_eq!(story.shard.awaited(), Some(story.log.0.len() as u64), "a reader does");
    story.shard.finish_round(&mut story.log);
    story.take_effects();
    assert_eq!((story.offsets(1), story.len()), (vec![], 4));
    story.round();
    assert_eq!((story.offsets(1), story.len()), (vec![4, 5, 6, 7], 8));
}

#[test]
fn filters_keep_pieces_from_being_read() {
    let mut story = Story::new(|_| ());
    for round in 0..50 {
        story.publish(2, Some(if round == 20 { "rare" } else { "common" }));
    }
    story.read(1, 1000, Reading { wanted: wanted("rare"), ..reading(Start::First) });
    assert_eq!((story.offsets(1), story.reads <= 3), ((160..168).collect(), true), "{} reads", story.reads);
    story.read(2, 1000, Reading { wanted: wanted("never"), ..reading(Start::First) });
    story.publish(1, Some("never"));
    assert_eq!(story.offsets(2), (400..404).collect::<Vec<_>>());
}

#[test]
fn a_time_is_found_in_segments_and_in_memory() {
    let mut story = Story::new(|_| ());
    for _ in 0..100 {
        story.publish(1, None);
        story.now_ms += 10;
    }
    for (reader, (time_ms, first)) in
        (1..).zip([(0, 0), (1000, 0), (1001, 4), (1500, 200), (1990, 396), (1991, 400)])
    {
        story.read(reader, 1, reading(Start::Time(time_ms)));
        let found = story.offsets(reader).first().copied().unwrap_or(400);
        assert_eq!(found, first, "since {time_ms}");
    }
    story.read(9, 1, reading(Start::Ago(500)));
    assert_eq!(story.offsets(9), [200]);
}

#[test]
fn retention_takes_whole_segments_for_good() {
    let keeps: [(&str, Retention); 3] = [
        ("bytes", Retention { bytes: Some(9000), ..Retention::default() }),
        ("count", Retention { count: Some(100), ..Retention::default() }),
        ("age", Retention { age_ms: Some(3000), ..Retention::default() }),
    ];
    for (what, retention) in keeps {
        let mut story = Story::new(|options| options.retention = retention);
        for _ in 0..100 {
            story.publish(1, None);
            story.now_ms += 100;
        }
        story.now_ms += 1000;
        story.round();
        let len = story.len();
        assert!((50..150).contains(&len) && story.removed > 5, "{what}: {len} messages are left");
        story.restart();
        assert_eq!(story.len(), len, "{what}: as many after a restart");
        story.read(1, 1000, reading(Start::First));
        assert_eq!(story.offsets(1), (400 - len as u64..400).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn age_takes_what_is_in_memory_too_and_offsets_go_on() {
    let age_ms = Some(3000);
    let mut story = Story::new(|options| options.retention = Retention { age_ms, ..Retention::default() });
    story.publish(10, None);
    let wakes_at_ms = story.shard.next_deadline().expect("there is something to look at");
    assert!(wakes_at_ms <= 4000 + 1000, "{wakes_at_ms}");
    story.now_ms = 6000;
    story.round();
    assert_eq!((story.len(), story.segments.len(), story.shard.message_bytes()), (0, 0, 0));
    story.restart();
    story.read(1, 10, reading(Start::First));
    story.publish(1, None);
    assert_eq!(story.offsets(1), [40, 41, 42, 43]);
}

#[test]
fn an_offset_is_kept_by_name_and_never_ahead_of_what_is_settled() {
    let tracked = |start| Reading { tracked: Some("me".into()), ..reading(start) };
    let mut story = Story::new(|_| ());
    story.publish(5, None);
    story.read(1, 10, tracked(Start::First));
    assert_eq!(story.offsets(1), (0..10).collect::<Vec<_>>());
    story.credit(1, 5, 2);
    story.restart();
    story.read(2, 1, tracked(Start::Next));
    assert_eq!(story.offsets(2), [0], "nothing below 5 was settled");
    story.credit(2, 0, 1);
    story.credit(2, 1, 1);
    story.restart();
    story.read(3, 1, tracked(Start::First));
    assert_eq!(story.offsets(3), [2]);
    story.read(4, 1, Reading { tracked: Some("other".into()), ..reading(Start::Next) });
    assert!(story.offsets(4).is_empty());
}

#[test]
fn a_shortened_log_says_the_same() {
    let mut story = Story::new(|_| ());
    let tracked = Reading { tracked: Some("me".into()), ..reading(Start::First) };
    story.read(1, 500, tracked.clone());
    for _ in 0..50 {
        story.publish(1, Some("value"));
        story.now_ms += 10;
    }
    story.credit(1, 0, 120);
    story.got.clear();
    let end = story.log.0.len() as u64 + 1;
    story.shard.copy_forward(end, &mut story.log);
    let cut = usize::try_from(end).expect("a short log") - 1;
    // What was cut off is replaced by records of nothing.
    let nothing = (crate::record::SETTLE, 77u64.to_be_bytes().to_vec());
    story.log.0[..cut].iter_mut().for_each(|record| *record = nothing.clone());
    story.restart();
    assert_eq!(story.len(), 200);
    story.read(2, 500, reading(Start::First));
    assert_eq!(story.offsets(2), (0..200).collect::<Vec<_>>());
    story.read(3, 500, tracked);
    assert_eq!(story.offsets(3), (120..200).collect::<Vec<_>>());
    story.read(4, 1, reading(Start::Time(1200)));
    assert_eq!(story.offsets(4), [80]);
    story.read(5, 10, Reading { wanted: wanted("none"), ..reading(Start::First) });
    assert!(story.offsets(5).is_empty());
}

#[test]
fn what_a_full_disk_refuses_stays_in_memory_and_is_appended_later() {
    let mut story = Story::new(|_| ());
    story.read(1, 1000, reading(Start::First));
    story.refuses = true;
    story.publish(50, None);
    assert_eq!((story.segments.len(), story.offsets(1)), (0, (0..200).collect()));
    assert!(!story.shard.holds_publishers(), "the disk alarm is for that");
    story.refuses = false;
    story.shard.paged(Answer::TryAgain, &mut story.log);
    story.round();
    assert!(story.segments.len() > 5 && story.shard.message_bytes() < 3 * LIMITS.queue);
    story.restart();
    story.read(2, 1000, reading(Start::First));
    assert_eq!(story.offsets(2), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_damaged_segment_costs_its_messages_and_readers_go_on() {
    let mut story = Story::new(|_| ());
    story.publish(50, None);
    let segment = story.segments.keys().nth(2).copied().expect("there are more");
    let runs = story.segments.get_mut(&segment).expect("it is there");
    let lost: Vec<u64> = runs.drain(1..2).flat_map(|run| run.first..run.first + 4).collect();
    story.read(1, 1000, reading(Start::First));
    let found = story.offsets(1);
    assert!(found.iter().all(|offset| !lost.contains(offset)));
    assert!(found.is_sorted() && found.last() == Some(&199) && story.shard.lost() >= 4, "{found:?}");
}

#[test]
fn a_deleted_stream_leaves_nothing() {
    let mut story = Story::new(|_| ());
    story.publish(50, None);
    story.read(1, 3, reading(Start::First));
    story.shard.drop_queue(STREAM);
    story.round();
    assert_eq!((story.segments.len(), story.shard.message_bytes(), story.shard.live_bytes()), (0, 0, 0));
    story.publish_uncommitted(None);
    story.credit(1, 0, 3);
}
