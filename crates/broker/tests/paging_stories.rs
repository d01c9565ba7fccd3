//! A shard whose messages move to a disk and back, where something is in the way.

mod disk;

use std::sync::Arc;

use broker::id::{ConnectionId, QueueId};
use broker::message::{Messages, Parts};
use broker::page::{Answer, Extent, Limits, Order, Place, Run, Segment};
use broker::queue::{Options, Subscription};
use broker::record::Span;

use broker::shard::{Batch, Command, Effect, Publish, Reply, Request, Shard};
use broker::topology::{Duplicates, Identity, Settings};
use broker::window::Window;
use bytes::{Bytes, BytesMut};
use disk::{Journal, Pager};

const ONE: QueueId = QueueId(1);
const TWO: QueueId = QueueId(2);
const PUBLISHER: ConnectionId = ConnectionId(1);
const CONSUMER: ConnectionId = ConnectionId(2);
const READER: ConnectionId = ConnectionId(3);

/// What a message here weighs.
const WEIGHT: u64 = 10 + 3 + 2 + 100 + 32;
/// A queue keeps one message, spills from the fourth on, two at once; one spill of a shard is on its way.
const LIMITS: Limits = Limits {
    queue: 3 * WEIGHT,
    keep: WEIGHT,
    tail: WEIGHT,
    spill: 2 * WEIGHT,
    front: WEIGHT,
    in_flight: 1,
    hold: 100 * WEIGHT,
    busy: 0,
    idle: u64::MAX,
    share: 0,
};

fn message(number: u64) -> Messages {
    let mut body = [0; 100];
    body[..8].copy_from_slice(&number.to_be_bytes());
    Parts { route: b"\0\x01q", properties: &[0, 0], body: &body }.to_messages()
}

struct Story {
    shard: Shard,
    log: Journal,
}

impl Story {
    fn new() -> Story {
        let mut shard = Shard::default();
        shard.limit_paging(LIMITS);
        for (id, label) in [(ONE, "queue 'one'"), (TWO, "queue 'two'")] {
            shard.open(
                id,
                Options {
                    label: label.to_owned(),
                    durable: true,
                    auto_delete: false,
                    settings: Settings::default(),
                },
            );
        }
        Story { shard, log: Journal::default() }
    }

    fn round(&mut self, from: ConnectionId, command: Command) {
        self.shard.handle(from, command, &mut self.log);
        self.finish();
    }

    fn finish(&mut self) {
        self.shard.finish_round(&mut self.log);
        self.shard.check();
    }

    fn publish(&mut self, queue: QueueId, numbers: std::ops::Range<u64>) {
        let one = |number| Publish {
            messages: message(number),
            persistent: true,
            expires: false,
            duplicates: Duplicates::default(),
            route: 0,
            confirm: None,
        };
        let batch = Batch {
            routes: vec![Arc::from([queue])],
            runs: numbers.map(one).collect(),
            confirms: Vec::new(),
        };
        self.round(PUBLISHER, Command::Publish(batch));
    }

    fn consume(&mut self, queue: QueueId, prefetch: u32) {
        let subscription = Subscription {
            consumer: 1,
            channel: 1,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch,
            window: Window::default(),
            timeout_ms: None,
        };
        self.round(CONSUMER, Command::Request(1, Request::Consume(queue, subscription)));
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.shard.poll_page()).collect()
    }

    /// All that there is to do on the disk is done.
    fn page(&mut self, pager: &mut Pager) {
        while let Some(order) = self.shard.poll_page() {
            pager.carry_out(order, false);
            while let Some(answer) = pager.answers.pop_front() {
                self.answer(answer);
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        self.shard.paged(answer, &mut self.log);
        self.finish();
    }

    fn got(&mut self) -> Vec<Option<u64>> {
        let mut got = Vec::new();
        while let Some((_, effects)) = self.shard.poll_effects() {
            for effect in effects {
                if let Effect::Reply(_, Ok(Reply::Got(delivery, _))) = effect {
                    got.push(delivery.map(|delivery| delivery.first));
                }
            }
        }
        got
    }
}

/// A spill that was written, as if the segment began with it.
fn written(order: &Order) -> (Answer, Extent) {
    let Order::Spill { queue, token, runs } = order else { panic!("{order:?}") };
    let end = runs.last().map(|run| run.first + u64::from(run.messages.count())).expect("a run");
    let extent = Extent {
        segment: Segment { number: *token, incarnation: 1 },
        from: Place { offset: 64, sequence: runs[0].first },
        to: Place { offset: 64 + runs.len() as u64, sequence: end },
    };
    (Answer::Spilled { queue: *queue, token: *token, extent }, extent)
}

#[test]
fn what_consumers_are_about_to_take_is_not_spilled_while_there_is_room() {
    let mut story = Story::new();
    story.shard.limit_paging(Limits { busy: 10 * WEIGHT, in_flight: 100 * WEIGHT, ..LIMITS });
    story.consume(ONE, 1);
    story.publish(ONE, 1..9);
    assert!(story.orders().is_empty(), "the consumer is slow, and there is memory");
    story.publish(TWO, 9..13);
    let spilled = |order: &Order| matches!(order, Order::Spill { queue, .. } if *queue == TWO);
    assert!(story.orders().iter().any(spilled), "nobody takes these");
    story.publish(ONE, 13..16);
    let spilled = |order: &Order| matches!(order, Order::Spill { queue, .. } if *queue == ONE);
    assert!(story.orders().iter().any(spilled), "now there is not");
}

#[test]
fn many_small_queues_that_nobody_reads_share_the_memory() {
    const QUEUES: u64 = 50;
    let mut story = Story::new();
    // Each may keep 30 messages, and all of them 200.
    let (idle, share) = (200 * WEIGHT, 2 * WEIGHT);
    let limits =
        Limits { queue: 30 * WEIGHT, keep: 8 * WEIGHT, in_flight: 40 * WEIGHT, idle, share, ..LIMITS };
    story.shard.limit_paging(limits);
    let queues = (10..10 + QUEUES).map(QueueId);
    for id in queues.clone() {
        let label = format!("queue {id:?}");
        let settings = Settings::default();
        story.shard.open(id, Options { label, durable: true, auto_delete: false, settings });
        // Who is published to first gets nothing later.
        story.publish(id, 0..10);
        while let orders = story.orders()
            && !orders.is_empty()
        {
            orders.iter().for_each(|order| story.answer(written(order).0));
        }
    }
    assert_eq!(story.shard.ready(), 10 * QUEUES);
    let kept = story.shard.message_bytes();
    assert!(kept <= idle + idle / 4, "{} messages are in memory", kept / WEIGHT);
}

#[test]
fn what_a_queue_remembers_makes_no_other_queue_spill() {
    let mut story = Story::new();
    let limits = Limits { queue: 30 * WEIGHT, idle: 10 * WEIGHT, share: WEIGHT, ..LIMITS };
    story.shard.limit_paging(limits);
    for id in 0..100u8 {
        let through = Identity { window: 5, id: [id; 16], size: 100, ttl_ms: None };
        let duplicates = Duplicates::Drop(through);
        let run = Publish {
            messages: message(id.into()),
            persistent: true,
            expires: false,
            duplicates,
            route: 0,
            confirm: None,
        };
        let batch = Batch { routes: vec![Arc::from([TWO])], runs: vec![run], confirms: Vec::new() };
        story.round(PUBLISHER, Command::Publish(batch));
        story.round(READER, Command::Request(1, Request::Purge(TWO)));
    }
    assert!(story.shard.message_bytes() > limits.idle, "ids count as what is in memory");
    story.publish(ONE, 0..6);
    let orders = story.orders();
    assert!(orders.is_empty(), "there is room for messages: {orders:?}");
}

#[test]
fn a_queue_that_goes_while_it_spills_lets_others_spill_when_its_messages_have_left_memory() {
    for answered in [true, false] {
        let mut story = Story::new();
        story.publish(ONE, 0..6);
        let first = story.orders();
        assert_eq!(first.len(), 1, "{first:?}");
        story.publish(TWO, 0..6);
        assert!(story.orders().is_empty(), "the pager has enough to write");
        story.shard.drop_queue(ONE);
        story.publish(TWO, 6..7);
        assert!(story.orders().is_empty(), "the messages of the queue that went are in memory still");
        let (spilled, _) = written(&first[0]);
        if answered {
            story.answer(spilled);
        } else {
            let Answer::Spilled { queue, token, .. } = spilled else { unreachable!("see above") };
            story.answer(Answer::Refused { queue, token });
            story.answer(Answer::TryAgain);
        }
        let orders = story.orders();
        assert!(orders.iter().any(|order| matches!(order, Order::Spill { queue: TWO, .. })), "{orders:?}");
    }
}

#[test]
fn who_waits_for_the_disk_gets_a_message_that_comes_back_before() {
    let mut story = Story::new();
    story.consume(ONE, 1);
    story.publish(ONE, 0..8);
    let spill = story.orders();
    let (spilled, _) = written(&spill[0]);
    story.answer(spilled);
    // What is in front of the backlog goes, until the disk must be read; it never answers.
    let get = |story: &mut Story| {
        let request = Request::Get { queue: ONE, channel: 1, no_ack: true };
        story.round(READER, Command::Request(7, request));
        story.got()
    };
    let mut last = None;
    while let [Some(first)] = get(&mut story)[..] {
        last = Some(first);
    }
    assert!(last.is_some() && story.orders().iter().any(|order| matches!(order, Order::Read { .. })));
    story.round(CONSUMER, Command::Disconnect);
    assert_eq!(story.got(), [Some(1)], "what the consumer had");
}

#[test]
fn a_few_messages_that_are_wanted_of_a_window_do_not_keep_it() {
    let mut story = Story::new();
    story.publish(ONE, 0..100);
    let mut extents = Vec::new();
    while let Some(order) = story.shard.poll_page() {
        let (spilled, extent) = written(&order);
        extents.push(extent);
        story.answer(spilled);
    }
    assert!(extents.len() > 20);
    let request = Request::Get { queue: ONE, channel: 1, no_ack: true };
    (0..4).for_each(|_| story.round(READER, Command::Request(7, request.clone())));
    story.got();
    let orders = story.orders();
    let Some(Order::Read { queue, token, extent }) =
        orders.into_iter().find(|order| matches!(order, Order::Read { .. }))
    else {
        panic!("somebody waits for the backlog")
    };
    let mut window = BytesMut::new();
    (extent.from.sequence..extent.to.sequence)
        .for_each(|number| window.extend_from_slice(message(number).as_bytes()));
    let size = window.len();
    window.resize(9 * size, 0);
    let window: Bytes = window.freeze();
    let messages = Messages::decode_part(window.slice(..size), window.len()).expect("messages");
    let runs = vec![Run { first: extent.from.sequence, flags: 0, messages }];
    story.answer(Answer::Read { queue, token, runs, next: extent.to });
    assert!(window.is_unique(), "a window is kept for an eighth of it");
}

/// As a power cut would show: what the log names must be there.
#[test]
fn a_segment_stays_until_the_log_knows_that_its_last_messages_are_gone() {
    let (mut story, mut pager) = (Story::new(), Pager::default());
    let settle = |first| Command::Settle(vec![(ONE, Span { first, count: 5 })]);
    story.publish(ONE, 0..5);
    story.page(&mut pager);
    story.consume(ONE, 100);
    story.page(&mut pager);
    story.round(CONSUMER, settle(1));
    let known = story.log.end;
    story.round(CONSUMER, Command::Disconnect);
    // More come to the same segment, and go, before the log has committed anything.
    story.publish(ONE, 5..10);
    story.page(&mut pager);
    story.consume(ONE, 100);
    story.page(&mut pager);
    assert_eq!(pager.segments.len(), 1);
    story.shard.handle(CONSUMER, settle(6), &mut story.log);
    story.shard.committed(known);
    assert!(story.orders().is_empty(), "the log does not know yet that the last five are gone");
    story.finish();
    story.shard.committed(story.log.end);
    story.page(&mut pager);
    assert!(pager.segments.is_empty(), "now it does");
}
