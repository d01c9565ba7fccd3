//! Random commands against a shard and a plain model of it: invariants after every step, restarts from the log in
//! between, and a drain at the end that finds every message once. Memory is tiny, so that nearly all goes to a disk, which
//! is a map that answers late, and sometimes refuses.

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::id::{ConnectionId, QueueId};
use broker::message::{Message, Messages, Parts};
use broker::page::Limits;
use broker::queue::{Options, Subscription};
use broker::record::{Record, Span, VERSION};
use broker::shard::{Batch, Command, Confirm, Delivery, Effect, Publish, Reply, Request, Shard};
use broker::topology::Settings;
use broker::window::Window;
use disk::{Journal, Pager};
use proptest::prelude::*;

const QUEUES: u64 = 3;
const CONNECTIONS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Publish { connection: u64, queues: BTreeSet<u64>, persistent: bool, count: u8, run: u8 },
    Consume { connection: u64, queue: u64, prefetch: u32, no_ack: bool, priority: i32 },
    Cancel { connection: u64 },
    Get { connection: u64, queue: u64, no_ack: bool },
    Settle { connection: u64, pick: usize, count: u32 },
    Requeue { connection: u64, pick: usize, count: u32 },
    Purge { queue: u64 },
    CloseChannel { connection: u64 },
    Disconnect { connection: u64 },
    Written { connection: u64 },
    CopyForward,
    Carry { count: u8, refuse: bool },
    Hear { count: u8 },
    Restart,
}

/// Room for about six messages of a queue.
const LIMITS: Limits = Limits {
    queue: 330,
    keep: 110,
    tail: 110,
    spill: 220,
    front: 110,
    in_flight: 440,
    hold: 900,
    busy: 0,
    idle: 500,
    share: 110,
};

/// What a queue may hold in memory when the disk has caught up, bytes: its limit, and a run at each end.
const MEMORY_MAX: u64 = LIMITS.queue + LIMITS.tail + 2 * 9 * 55;

fn step() -> impl Strategy<Value = Step> {
    let connection = || 0..CONNECTIONS;
    let queue = || 0..QUEUES;
    prop_oneof![
        6 => (connection(), proptest::collection::btree_set(queue(), 1..=3), any::<bool>(), 1..20u8, 1..9u8)
            .prop_map(|(connection, queues, persistent, count, run)| Step::Publish { connection, queues, persistent, count, run }),
        3 => (connection(), queue(), 0..4u32, any::<bool>(), 0..3i32)
            .prop_map(|(connection, queue, prefetch, no_ack, priority)| Step::Consume { connection, queue, prefetch, no_ack, priority }),
        1 => connection().prop_map(|connection| Step::Cancel { connection }),
        2 => (connection(), queue(), any::<bool>()).prop_map(|(connection, queue, no_ack)| Step::Get { connection, queue, no_ack }),
        6 => (connection(), any::<usize>(), 1..6u32)
            .prop_map(|(connection, pick, count)| Step::Settle { connection, pick, count }),
        3 => (connection(), any::<usize>(), 1..6u32)
            .prop_map(|(connection, pick, count)| Step::Requeue { connection, pick, count }),
        1 => queue().prop_map(|queue| Step::Purge { queue }),
        1 => connection().prop_map(|connection| Step::CloseChannel { connection }),
        1 => connection().prop_map(|connection| Step::Disconnect { connection }),
        2 => connection().prop_map(|connection| Step::Written { connection }),
        1 => Just(Step::CopyForward),
        8 => (1..4u8, 0..8u8).prop_map(|(count, refuse)| Step::Carry { count, refuse: refuse == 0 }),
        8 => (1..4u8).prop_map(|count| Step::Hear { count }),
        1 => Just(Step::Restart),
    ]
}

/// A message of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    persistent: bool,
    delivered_before: bool,
}

#[derive(Default)]
struct World {
    shard: Shard,
    journal: Journal,
    pager: Pager,
    /// What must be in each queue, waiting or unacked: message number and what is known of it.
    alive: BTreeMap<u64, BTreeMap<u64, Waiting>>,
    /// What each connection holds: queue, sequence number, message number.
    held: BTreeMap<u64, Vec<(QueueId, u64, u64)>>,
    consumers: BTreeMap<u64, Vec<(u64, u32, bool)>>,
    unwritten: BTreeMap<u64, usize>,
    confirms: BTreeMap<u64, BTreeSet<u64>>,
    published: u64,
    confirmed: u64,
    next_consumer: u32,
}

/// Messages with these numbers.
fn messages(numbers: impl Iterator<Item = u64>) -> Messages {
    let mut out = bytes::BytesMut::new();
    for number in numbers {
        Parts { route: b"\0\x01q", properties: &[0, 0], body: &number.to_be_bytes() }.encode(&mut out);
    }
    Messages::decode(out.freeze()).expect("just encoded")
}

fn number_of(message: Message<'_>) -> u64 {
    u64::from_be_bytes(message.body().try_into().expect("bodies are eight bytes"))
}

impl World {
    fn new() -> World {
        let mut world = World::default();
        world.open_queues();
        world
    }

    /// Queue 0 is transient, the others are durable.
    fn open_queues(&mut self) {
        self.shard.limit_paging(LIMITS);
        for queue in 0..QUEUES {
            let options = Options {
                label: format!("queue '{queue}'"),
                durable: queue > 0,
                auto_delete: false,
                settings: Settings::default(),
            };
            self.shard.open(QueueId(queue), options);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { connection, queues, persistent, count, run } => {
                self.publish(connection, &queues, persistent, count, run);
            }
            Step::Consume { connection, queue, prefetch, no_ack, priority } => {
                self.consume(connection, queue, prefetch, no_ack, priority);
            }
            Step::Cancel { connection } => {
                if let Some((queue, consumer, _)) = self.consumers.entry(connection).or_default().pop() {
                    self.send(connection, Command::Request(0, Request::Cancel(QueueId(queue), consumer)));
                }
            }
            Step::Get { connection, queue, no_ack } => {
                let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack };
                self.send(connection, Command::Request(u64::from(no_ack), get));
            }
            Step::Settle { connection, pick, count } => {
                if let Some((queue, span, numbers)) = self.pick(connection, pick, count) {
                    self.alive.entry(queue.0).or_default().retain(|number, _| !numbers.contains(number));
                    self.send(connection, Command::Settle(vec![(queue, span)]));
                }
            }
            Step::Requeue { connection, pick, count } => {
                if let Some((queue, span, _)) = self.pick(connection, pick, count) {
                    self.send(connection, Command::Requeue(vec![(queue, span)]));
                }
            }
            Step::Purge { queue } => {
                let held: BTreeSet<u64> =
                    self.held.values().flatten().filter(|h| h.0.0 == queue).map(|h| h.2).collect();
                self.alive.entry(queue).or_default().retain(|number, _| held.contains(number));
                self.send(99, Command::Request(0, Request::Purge(QueueId(queue))));
            }
            Step::CloseChannel { connection } => self.end(connection, Command::CloseChannel(1)),
            Step::Disconnect { connection } => {
                self.end(connection, Command::Disconnect);
                self.unwritten.remove(&connection);
                self.confirms.remove(&connection);
            }
            Step::Written { connection } => {
                let bytes = self.unwritten.remove(&connection).unwrap_or(0);
                self.send(connection, Command::Written(bytes));
            }
            Step::CopyForward => {
                let end = self.journal.end / 2;
                self.shard.copy_forward(end, &mut self.journal);
                self.journal.records.retain(|(position, _, _)| *position >= end);
                self.round();
            }
            Step::Carry { count, refuse } => {
                (0..count).all(|_| self.carry(refuse));
            }
            Step::Hear { count } => {
                (0..count).all(|_| self.hear());
            }
            Step::Restart => self.restart(),
        }
        self.shard.check();
    }

    fn carry(&mut self, refuse: bool) -> bool {
        let order = self.shard.poll_page();
        let any = order.is_some();
        order.into_iter().for_each(|order| self.pager.carry_out(order, refuse));
        any
    }

    fn hear(&mut self) -> bool {
        let answer = self.pager.answers.pop_front();
        let any = answer.is_some();
        answer.into_iter().for_each(|answer| self.shard.paged(answer, &mut self.journal));
        self.round();
        any
    }

    /// The disk has nothing left to do.
    fn settle_pager(&mut self) {
        while self.carry(false) || self.hear() {}
    }

    fn consume(&mut self, connection: u64, queue: u64, prefetch: u32, no_ack: bool, priority: i32) {
        self.next_consumer += 1;
        let consumer = self.next_consumer;
        self.consumers.entry(connection).or_default().push((queue, consumer, no_ack));
        let window = Window::default();
        let subscription = Subscription {
            consumer,
            channel: 1,
            no_ack,
            exclusive: false,
            priority,
            prefetch,
            timeout_ms: None,
            window,
        };
        self.send(connection, Command::Request(0, Request::Consume(QueueId(queue), subscription)));
    }

    /// `count` messages, of which `run` at a time lie in one piece.
    fn publish(&mut self, connection: u64, queues: &BTreeSet<u64>, persistent: bool, count: u8, run: u8) {
        let route: Arc<[QueueId]> = queues.iter().map(|queue| QueueId(*queue)).collect();
        let mut batch = Batch { routes: vec![route], ..Batch::default() };
        let numbers: Vec<u64> = (self.published + 1..).take(count.into()).collect();
        self.published += u64::from(count);
        for number in &numbers {
            for queue in queues {
                let stored = Waiting { persistent: persistent && *queue > 0, delivered_before: false };
                self.alive.entry(*queue).or_default().insert(*number, stored);
            }
            self.confirms.entry(connection).or_default().insert(*number);
        }
        for run in numbers.chunks(run.into()) {
            let messages = messages(run.iter().copied());
            batch.runs.push(Publish { messages, persistent, expires: false, route: 0, confirm: None });
            batch.confirms.push(Confirm { publisher: 1, first: run[0], last: run[0] + run.len() as u64 - 1 });
        }
        self.send(connection, Command::Publish(batch));
    }

    /// One of the messages that a connection holds and `count` in all from there on, whoever holds them; and the numbers
    /// of those that this connection holds.
    fn pick(&mut self, connection: u64, pick: usize, count: u32) -> Option<(QueueId, Span, BTreeSet<u64>)> {
        let held = self.held.entry(connection).or_default();
        let (queue, first, _) = *held.get(pick.checked_rem(held.len())?)?;
        let span = Span { first, count };
        let of_it =
            held.extract_if(.., |(q, sequence, _)| *q == queue && (first..span.end()).contains(sequence));
        let numbers = of_it.map(|(_, _, number)| number).collect();
        Some((queue, span, numbers))
    }

    fn end(&mut self, connection: u64, command: Command) {
        self.held.remove(&connection);
        self.consumers.remove(&connection);
        self.send(connection, command);
    }

    fn send(&mut self, connection: u64, command: Command) {
        self.shard.handle(ConnectionId(connection), command, &mut self.journal);
        self.round();
    }

    fn round(&mut self) {
        self.shard.finish_round(&mut self.journal);
        self.take_effects(false);
        self.shard.committed(self.journal.end);
        self.take_effects(true);
        assert!(self.confirms.values().all(BTreeSet::is_empty), "all that is committed is confirmed");
    }

    fn take_effects(&mut self, committed: bool) {
        while let Some((connection, effects)) = self.shard.poll_effects() {
            for effect in effects {
                self.take_effect(connection.0, effect, committed);
            }
        }
    }

    fn take_effect(&mut self, connection: u64, effect: Effect, committed: bool) {
        match effect {
            Effect::Deliver(delivery) => {
                let consumers = self.consumers.entry(connection).or_default();
                let no_ack = consumers
                    .iter()
                    .find(|(_, number, _)| *number == delivery.consumer)
                    .expect("a known consumer")
                    .2;
                *self.unwritten.entry(connection).or_default() += delivery.weight();
                self.take_delivery(connection, &delivery, no_ack);
            }
            Effect::Confirm(Confirm { first, last, .. }) => {
                assert!(committed || first <= last);
                for number in first..=last {
                    assert!(
                        self.confirms.entry(connection).or_default().remove(&number),
                        "{number} confirmed once"
                    );
                    self.confirmed += 1;
                }
            }
            Effect::Reply(token, reply) => {
                if let Reply::Got(Some(delivery), _) = reply.expect("queues exist") {
                    self.take_delivery(connection, &delivery, token == 1);
                }
            }
            Effect::Cancelled(_) => panic!("no queue is deleted here"),
            Effect::Refused(_) | Effect::Forward(_) | Effect::TimedOut(..) => panic!("queues are plain here"),
        }
    }

    fn take_delivery(&mut self, connection: u64, delivery: &Delivery, no_ack: bool) {
        for (message, sequence) in delivery.messages.iter().zip(delivery.first..) {
            self.take_message(connection, delivery, number_of(message), sequence, no_ack);
        }
    }

    fn take_message(
        &mut self,
        connection: u64,
        delivery: &Delivery,
        number: u64,
        sequence: u64,
        no_ack: bool,
    ) {
        let queue = self.alive.entry(delivery.queue.0).or_default();
        let waiting = queue.get_mut(&number).expect("only what is in the queue is delivered");
        assert_eq!(
            delivery.redelivered, waiting.delivered_before,
            "message {number} of queue {}",
            delivery.queue
        );
        waiting.delivered_before = true;
        if no_ack {
            queue.remove(&number);
        } else {
            self.held.entry(connection).or_default().push((delivery.queue, sequence, number));
        }
    }

    /// All that was committed comes back, all that was only in memory does not.
    fn restart(&mut self) {
        self.shard = Shard::default();
        self.open_queues();
        for (position, kind, payload) in &self.journal.records {
            let record = Record::decode(*kind, VERSION, payload).expect("what the shard wrote can be read");
            self.shard.recover(*position, record);
        }
        self.shard.recovered();
        let known: BTreeSet<_> = self.shard.segments().into_iter().collect();
        assert!(
            known.iter().all(|segment| self.pager.segments.contains_key(segment)),
            "a segment is missing"
        );
        self.pager.segments.retain(|segment, _| known.contains(segment));
        self.pager.answers.clear();
        self.pager.life += 1;
        self.held.clear();
        self.consumers.clear();
        self.unwritten.clear();
        self.confirms.clear();
        for queue in self.alive.values_mut() {
            queue.retain(|_, waiting| waiting.persistent);
            // Recovery knows how far deliveries had come, not which: what lies below counts as delivered.
            let last = queue.iter().filter(|(_, w)| w.delivered_before).map(|(number, _)| *number).max();
            queue.iter_mut().for_each(|(number, waiting)| waiting.delivered_before = Some(*number) <= last);
        }
        self.learn_flags();
    }

    /// The watermark may also lie above messages that are gone: take the flags of what came back as they are, having
    /// checked that nothing that had been delivered lost its flag. Order of delivery is order of publication.
    fn learn_flags(&mut self) {
        for queue in 0..QUEUES {
            let mut seen = Vec::new();
            loop {
                let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack: false };
                self.shard.handle(ConnectionId(77), Command::Request(0, get), &mut self.journal);
                let mut answer = self.shard.poll_effects();
                while answer.is_none() {
                    self.shard.finish_round(&mut self.journal);
                    while self.carry(false) {}
                    let paged = self.pager.answers.pop_front().expect("a read");
                    self.shard.paged(paged, &mut self.journal);
                    answer = self.shard.poll_effects();
                }
                let (_, effects) = answer.expect("just seen");
                let Some(Effect::Reply(_, Ok(Reply::Got(got, _)))) = effects.into_iter().next() else {
                    panic!("an answer")
                };
                let Some(delivery) = got else { break };
                seen.push((number_of(delivery.messages.first()), delivery.redelivered));
            }
            let alive = self.alive.entry(queue).or_default();
            assert_eq!(
                seen.iter().map(|s| s.0).collect::<Vec<_>>(),
                alive.keys().copied().collect::<Vec<_>>(),
                "queue {queue}"
            );
            for (number, redelivered) in seen {
                let waiting = alive.get_mut(&number).expect("just compared");
                assert!(
                    redelivered || !waiting.delivered_before,
                    "message {number} lost its redelivered flag"
                );
                waiting.delivered_before = true;
            }
        }
        self.send(77, Command::Disconnect);
    }

    /// Ends all connections and takes everything out: each message once, in order of publication.
    fn drain(&mut self) {
        for connection in 0..CONNECTIONS {
            self.step(Step::Disconnect { connection });
        }
        self.settle_pager();
        assert!(!self.shard.holds_publishers(), "a disk that has answered holds nobody");
        let in_memory = self.shard.message_bytes();
        assert!(in_memory <= QUEUES * MEMORY_MAX, "{in_memory} bytes in memory");
        for queue in 0..QUEUES {
            let expected: Vec<u64> = self.alive.entry(queue).or_default().keys().copied().collect();
            let mut drained = Vec::new();
            for _ in &expected {
                self.step(Step::Get { connection: 0, queue, no_ack: false });
                self.settle_pager();
                drained.extend(self.held[&0].last().map(|held| held.2));
                self.step(Step::Settle { connection: 0, pick: 0, count: 1 });
            }
            assert_eq!(drained, expected, "queue {queue}");
            assert!(self.alive[&queue].is_empty());
        }
        self.settle_pager();
        assert_eq!((self.shard.live_bytes(), self.shard.message_bytes()), (0, 0), "nothing stays behind");
        assert_eq!(self.shard.lost(), 0, "a disk without faults");
        assert!(
            self.pager.segments.is_empty(),
            "segments that nobody wants: {:?}",
            self.pager.segments.keys()
        );
    }
}

#[allow(clippy::disallowed_methods, reason = "a test may ask how long it shall run")]
fn cases() -> u32 {
    std::env::var("LEVERET_CASES").map_or(500, |cases| cases.parse().expect("LEVERET_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_message_is_neither_lost_nor_stuck(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain();
    }
}
