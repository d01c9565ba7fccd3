//! A queue with message groups and several consumers. The model does not say what comes next, only what may: the first
//! message of a group that is free, to a consumer that can take it, before its time is over. And what must: nothing
//! waits that a consumer could take, nothing is lost or comes twice, and at the end all is drained.

mod disk;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use amqp::properties::PropertiesBuilder;
use amqp::table::TableBuilder;
use broker::id::{ConnectionId, QueueId};
use broker::message::{Message, Messages, Parts};
use broker::page::Limits;
use broker::queue::{Options, Subscription};
use broker::record::{Record, Span, VERSION};
use broker::shard::{Batch, Command, Delivery, Effect, Forward, Publish, Reason, Reply, Request, Shard};
use broker::topology::{DelayedRetry, DelayedRetryOf, Duplicates, MessageGroups, QueueKind, Settings};
use broker::window::Window;
use bytes::BytesMut;
use disk::{Journal, Pager};
use proptest::option;
use proptest::prelude::*;

const QUEUE: QueueId = QueueId(7);

/// Who publishes and gets; consumers have higher numbers.
const CLIENT: ConnectionId = ConnectionId(1);

/// Room for a few messages.
const LIMITS: Limits = Limits {
    queue: 400,
    keep: 150,
    tail: 150,
    spill: 300,
    front: 150,
    in_flight: 600,
    hold: 9000,
    busy: 0,
    idle: 900,
    share: 100,
};

#[derive(Clone, Debug)]
struct New {
    group: Option<u8>,
    ttl: Option<u64>,
    size: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<New>),
    Consume {
        prefetch: u32,
        no_ack: bool,
        priority: i32,
    },
    Kill(usize),
    Get {
        no_ack: bool,
    },
    Ack(usize),
    Nack(usize),
    Reject(usize),
    Wait(u64),
    /// What was forwarded is where it was sent.
    Arrive,
    Purge,
    CopyForward,
    Restart,
}

fn new() -> impl Strategy<Value = New> {
    let size = prop_oneof![9 => 0..40usize, 1 => 4000..9000usize];
    (option::weighted(0.8, 0..4u8), option::weighted(0.1, 0..30u64), size)
        .prop_map(|(group, ttl, size)| New { group, ttl, size })
}

fn step() -> impl Strategy<Value = Step> {
    let consumer = (0..4u32, proptest::bool::weighted(0.1), 0..2i32);
    prop_oneof![
        8 => proptest::collection::vec(new(), 1..8).prop_map(Step::Publish),
        3 => consumer.prop_map(|(prefetch, no_ack, priority)| Step::Consume { prefetch, no_ack, priority }),
        1 => any::<usize>().prop_map(Step::Kill),
        3 => any::<bool>().prop_map(|no_ack| Step::Get { no_ack }),
        8 => any::<usize>().prop_map(Step::Ack),
        4 => any::<usize>().prop_map(Step::Nack),
        1 => any::<usize>().prop_map(Step::Reject),
        2 => (0..15u64).prop_map(Step::Wait),
        1 => Just(Step::Arrive),
        1 => Just(Step::CopyForward),
        1 => prop_oneof![3 => Just(Step::Restart), 1 => Just(Step::Purge)],
    ]
}

prop_compose! {
    fn retry()(min_ms in 1..20u64, max_ms in 1..50u64, exponential: bool) -> DelayedRetry {
        DelayedRetry { of: DelayedRetryOf::All, min_ms, max_ms: max_ms.max(min_ms), exponential, jitter_percent: 0 }
    }
}

prop_compose! {
    fn settings()(
        concurrency in (1..4u32).prop_filter_map("at least one", NonZeroU32::new),
        message_ttl_ms in option::weighted(0.3, 0..40u64),
        dead_letters: bool,
        max_length in option::weighted(0.3, 0..12u64),
        max_length_bytes in option::weighted(0.2, 0..300u64),
        quorum: bool,
        single_active_consumer in proptest::bool::weighted(0.1),
        delivery_limit in option::weighted(0.3, 0..3u64),
        delayed_retry in option::weighted(0.3, retry()),
    ) -> Settings {
        Settings {
            kind: if quorum { QueueKind::Quorum } else { QueueKind::Classic },
            groups: Some(MessageGroups { header: "group".into(), concurrency }),
            message_ttl_ms,
            dead_letter_exchange: dead_letters.then(|| Arc::from("dead")),
            max_length,
            max_length_bytes,
            single_active_consumer,
            delivery_limit,
            delayed_retry,
            ..Settings::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Who has it.
    Out(ConnectionId),
    /// It comes back then.
    Delayed(u64),
    /// It has to be forwarded now.
    Dying(Reason),
    /// It is on its way to another place.
    Leaving,
    Gone,
}

#[derive(Clone, Debug)]
struct Kept {
    group: Option<u8>,
    state: State,
    /// Until when it may wait.
    due: u64,
    size: u64,
    returns: u16,
    delivered: bool,
}

/// How messages are named to the shard.
type Named = Vec<(QueueId, Span)>;

#[derive(Clone, Copy, Debug)]
struct Consumer {
    connection: ConnectionId,
    prefetch: u32,
    no_ack: bool,
}

struct World {
    settings: Settings,
    durable: bool,
    /// By the number that stands in its body: messages are in the queue in this order.
    kept: BTreeMap<u64, Kept>,
    consumers: Vec<Consumer>,
    connections: u64,
    /// Who holds what: number in the queue and in the body.
    held: Vec<(ConnectionId, u64, u64)>,
    /// What was forwarded: number in the queue and in the body.
    leaving: Vec<(u64, u64)>,
    shard: Shard,
    journal: Journal,
    pager: Pager,
    now: u64,
    published: u64,
    reply: Option<Reply>,
}

fn number_of(message: Message<'_>) -> u64 {
    u64::from_be_bytes(*message.body().first_chunk().expect("a body begins with its number"))
}

impl World {
    fn new(settings: Settings, durable: bool) -> World {
        let mut world = World {
            settings,
            durable,
            kept: BTreeMap::new(),
            consumers: Vec::new(),
            connections: 10,
            held: Vec::new(),
            leaving: Vec::new(),
            shard: Shard::default(),
            journal: Journal::default(),
            pager: Pager::default(),
            now: 1000,
            published: 0,
            reply: None,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let (settings, durable) = (self.settings.clone(), self.durable);
        self.shard.limit_paging(LIMITS);
        self.shard.tick(self.now);
        let label = "the queue".to_owned();
        self.shard.open(QUEUE, Options { label, durable, auto_delete: false, settings });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(new) => self.publish(&new),
            Step::Consume { prefetch, no_ack, priority } => self.consume(prefetch, no_ack, priority),
            Step::Kill(pick) => {
                if let Some(at) = pick.checked_rem(self.consumers.len()) {
                    let connection = self.consumers.remove(at).connection;
                    for (_, _, number) in
                        self.held.extract_if(.., |(by, ..)| *by == connection).collect::<Vec<_>>()
                    {
                        self.comes_back(number);
                    }
                    self.send(connection, Command::Disconnect);
                }
            }
            Step::Get { no_ack } => self.get(no_ack),
            Step::Ack(pick) => {
                if let Some((by, number, spans)) = self.pick(pick) {
                    self.set(number, State::Gone);
                    self.send(by, Command::Settle(spans));
                }
            }
            Step::Nack(pick) => {
                if let Some((by, number, spans)) = self.pick(pick) {
                    self.comes_back(number);
                    self.send(by, Command::Requeue(spans));
                }
            }
            Step::Reject(pick) => {
                if let Some((by, number, spans)) = self.pick(pick) {
                    self.dies(number, Reason::Rejected);
                    self.send(by, Command::Reject(spans));
                }
            }
            Step::Wait(ms) => {
                self.now += ms;
                self.round();
            }
            Step::Arrive => {
                let arrived = std::mem::take(&mut self.leaving);
                arrived.iter().for_each(|(_, number)| self.set(*number, State::Gone));
                let spans = arrived.into_iter().map(|(first, _)| (QUEUE, Span::one(first))).collect();
                self.send(ConnectionId::FORWARDER, Command::Settle(spans));
            }
            Step::Purge => {
                self.send(CLIENT, Command::Request(1, Request::Purge(QUEUE)));
                for kept in self.kept.values_mut() {
                    if matches!(kept.state, State::Waiting | State::Delayed(_)) {
                        kept.state = State::Gone;
                    }
                }
            }
            Step::CopyForward => {
                let end = self.journal.end;
                self.shard.copy_forward(end, &mut self.journal);
                self.journal.records.retain(|(position, _, _)| *position >= end);
                self.round();
            }
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn set(&mut self, number: u64, state: State) {
        self.kept.get_mut(&number).expect("it was published").state = state;
    }

    fn dies(&mut self, number: u64, reason: Reason) {
        let forwarded = self.settings.dead_letter_exchange.is_some();
        self.set(number, if forwarded { State::Dying(reason) } else { State::Gone });
    }

    fn comes_back(&mut self, number: u64) {
        let kept = self.kept.get_mut(&number).expect("it was published");
        kept.returns += u16::from(self.settings.counts_returns());
        let returns = kept.returns;
        if self.settings.delivery_limit.is_some_and(|limit| u64::from(returns) > limit) {
            self.dies(number, Reason::DeliveryLimit);
        } else if let Some(retry) = self.settings.delayed_retry {
            self.set(number, State::Delayed(self.now + retry.delay_ms(returns, 0)));
        } else {
            self.set(number, State::Waiting);
        }
    }

    /// All at once, in one run.
    fn publish(&mut self, new: &[New]) {
        let mut bytes = BytesMut::new();
        for New { group, ttl, size } in new {
            self.published += 1;
            // Only where dead letters show which were dropped.
            let ttl = ttl.filter(|_| self.settings.dead_letter_exchange.is_some());
            let expiration = ttl.map(|ttl| ttl.to_string());
            let headers = group.map(|group| TableBuilder::new().with("group", i32::from(group)));
            let properties = PropertiesBuilder {
                headers: headers.as_ref().map(TableBuilder::as_table),
                expiration: expiration.as_deref(),
                ..PropertiesBuilder::default()
            };
            let mut body = self.published.to_be_bytes().to_vec();
            body.resize(8 + size, 0);
            Parts { route: b"\0\x01q", properties: &properties.to_bytes(), body: &body }.encode(&mut bytes);
            let ttl = [ttl, self.settings.message_ttl_ms].into_iter().flatten().min();
            let due = ttl.map_or(u64::MAX, |ttl| self.now + ttl);
            let (state, size) = (State::Waiting, body.len() as u64);
            let kept = Kept { group: *group, state, due, size, returns: 0, delivered: false };
            self.kept.insert(self.published, kept);
        }
        let messages = Messages::decode(bytes.freeze()).expect("messages that were just encoded");
        let expires = new.iter().any(|new| new.ttl.is_some());
        let duplicates = Duplicates::default();
        let run = Publish { messages, persistent: true, expires, duplicates, route: 0, confirm: None };
        let batch = Batch { routes: vec![Arc::from([QUEUE])], runs: vec![run], ..Batch::default() };
        self.send(CLIENT, Command::Publish(batch));
    }

    fn consume(&mut self, prefetch: u32, no_ack: bool, priority: i32) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let subscription = Subscription {
            consumer: 1,
            channel: 1,
            no_ack,
            exclusive: false,
            priority,
            prefetch,
            timeout_ms: None,
            window: Window::default(),
        };
        self.consumers.push(Consumer { connection, prefetch, no_ack });
        self.send(connection, Command::Request(1, Request::Consume(QUEUE, subscription)));
    }

    fn get(&mut self, no_ack: bool) {
        self.send(CLIENT, Command::Request(1, Request::Get { queue: QUEUE, channel: 1, no_ack }));
        assert!(matches!(self.reply, Some(Reply::Got(..))), "a get is answered");
    }

    /// One of the messages that are out: who holds it, its number, and how it is named.
    fn pick(&mut self, pick: usize) -> Option<(ConnectionId, u64, Named)> {
        let at = pick.checked_rem(self.held.len())?;
        let (by, first, number) = self.held.remove(at);
        Some((by, number, vec![(QUEUE, Span::one(first))]))
    }

    fn restart(&mut self) {
        self.shard = Shard::default();
        self.open();
        for (position, kind, payload) in &self.journal.records {
            let record = Record::decode(*kind, VERSION, payload).expect("what the shard wrote can be read");
            self.shard.recover(*position, record);
        }
        self.shard.recovered();
        self.pager.answers.clear();
        self.pager.life += 1;
        self.held.clear();
        self.leaving.clear();
        self.consumers.clear();
        for kept in self.kept.values_mut().filter(|kept| kept.state != State::Gone) {
            kept.state = if self.durable { State::Waiting } else { State::Gone };
        }
        self.round();
    }

    fn send(&mut self, from: ConnectionId, command: Command) {
        let no_ack = matches!(command, Command::Request(_, Request::Get { no_ack: true, .. }));
        self.shard.tick(self.now);
        self.shard.handle(from, command, &mut self.journal);
        self.finish(no_ack);
    }

    fn round(&mut self) {
        self.finish(false);
    }

    /// Rounds until nothing is left to do. `no_ack`: what somebody gets needs no ack.
    fn finish(&mut self, no_ack: bool) {
        for kept in self.kept.values_mut() {
            if matches!(kept.state, State::Delayed(until) if until <= self.now) {
                kept.state = State::Waiting;
            }
        }
        // Who may wait for no time at all can still be delivered.
        self.expire(self.now - 1);
        loop {
            self.shard.tick(self.now);
            self.shard.finish_round(&mut self.journal);
            self.shard.committed(self.journal.end);
            let (mut delivered, mut forwards) = (Vec::new(), Vec::new());
            while let Some((connection, effects)) = self.shard.poll_effects() {
                for effect in effects {
                    match effect {
                        Effect::Deliver(delivery) => delivered.push((connection, delivery)),
                        Effect::Forward(forward) => forwards.push(forward),
                        Effect::Reply(_, reply) => {
                            let reply = reply.expect("the queue exists");
                            if let Reply::Got(Some(got), _) = &reply {
                                delivered.push((connection, got.clone()));
                            }
                            self.reply = Some(reply);
                        }
                        other => panic!("unexpected: {other:?}"),
                    }
                }
            }
            while let Some(order) = self.shard.poll_page() {
                self.pager.carry_out(order, false);
            }
            let mut busy = !delivered.is_empty() || !forwards.is_empty();
            while let Some(answer) = self.pager.answers.pop_front() {
                self.shard.paged(answer, &mut self.journal);
                busy = true;
            }
            if !busy {
                self.expire(self.now);
                return self.trim();
            }
            let dropped: Vec<u64> =
                forwards.into_iter().filter_map(|forward| self.forwarded(forward)).collect();
            self.deliver(delivered, no_ack);
            let oldest = self.oldest();
            assert!(
                oldest.is_none_or(|oldest| dropped.iter().all(|it| *it < oldest)),
                "the oldest are dropped"
            );
        }
    }

    /// A dead letter; its number, if it was too much.
    fn forwarded(&mut self, forward: Forward) -> Option<u64> {
        let Forward { first, reason, messages, .. } = forward;
        assert_eq!(messages.count(), 1, "one by one");
        let number = number_of(messages.first());
        let kept = &self.kept[&number];
        match reason {
            Reason::Expired => assert!(kept.state == State::Waiting && kept.due <= self.now, "{kept:?}"),
            Reason::MaxLen => assert_eq!(kept.state, State::Waiting),
            Reason::Rejected | Reason::DeliveryLimit => assert_eq!(kept.state, State::Dying(reason)),
            Reason::Due => panic!("nothing is delayed by an exchange"),
        }
        self.set(number, State::Leaving);
        self.leaving.push((first.expect("it was in the queue"), number));
        let written = Command::Written(broker::shard::weight(&messages));
        self.shard.handle(ConnectionId::FORWARDER, written, &mut self.journal);
        (reason == Reason::MaxLen).then_some(number)
    }

    fn deliver(&mut self, deliveries: Vec<(ConnectionId, Delivery)>, get_no_ack: bool) {
        let mut last: BTreeMap<(ConnectionId, u8), u64> = BTreeMap::new();
        let mut came = Vec::new();
        for (connection, delivery) in deliveries {
            assert_eq!(delivery.messages.count(), 1, "one by one");
            let number = number_of(delivery.messages.first());
            if let Some(group) = self.kept[&number].group {
                let before = last.insert((connection, group), number);
                assert!(before.is_none_or(|before| before < number), "in order to one consumer");
            }
            self.shard.handle(connection, Command::Written(delivery.weight()), &mut self.journal);
            came.push((number, connection, delivery));
        }
        // Who is told first of a round is nobody's business.
        came.sort_by_key(|(number, ..)| *number);
        for (number, connection, delivery) in came {
            self.delivered(number, connection, &delivery, get_no_ack);
        }
    }

    fn delivered(&mut self, number: u64, to: ConnectionId, delivery: &Delivery, get_no_ack: bool) {
        let kept = &self.kept[&number];
        assert_eq!(kept.state, State::Waiting, "{number} is delivered");
        assert!(kept.due >= self.now, "{number} is too old");
        assert!(delivery.redelivered || !kept.delivered, "{number} comes again");
        assert_eq!(delivery.returns, kept.returns, "how often it came back");
        assert!(self.is_free(kept.group), "{number} goes out beside others of its group");
        let group = kept.group;
        let of_group = |kept: &Kept| kept.group == group && kept.state == State::Waiting;
        assert_eq!(self.numbers(of_group).next(), Some(number), "the first of its group goes out");
        let consumer = self.consumers.iter().find(|consumer| consumer.connection == to).copied();
        assert!(consumer.is_none_or(|consumer| self.has_credit(consumer)), "its consumer can take it");
        let no_ack = consumer.map_or(get_no_ack, |consumer| consumer.no_ack);
        self.set(number, if no_ack { State::Gone } else { State::Out(to) });
        self.kept.get_mut(&number).expect("it was published").delivered = true;
        if !no_ack {
            self.held.push((to, delivery.first, number));
        }
    }

    fn numbers(&self, wanted: impl Fn(&Kept) -> bool) -> impl Iterator<Item = u64> {
        self.kept.iter().filter(move |(_, kept)| wanted(kept)).map(|(number, _)| *number)
    }

    fn oldest(&self) -> Option<u64> {
        self.numbers(|kept| kept.state == State::Waiting).next()
    }

    fn is_free(&self, group: Option<u8>) -> bool {
        let at_work = |kept: &Kept| matches!(kept.state, State::Out(_) | State::Delayed(_));
        let concurrency = self.settings.groups.as_ref().map_or(0, |groups| groups.concurrency.get());
        group.is_none()
            || self.numbers(|kept| kept.group == group && at_work(kept)).count() < concurrency as usize
    }

    fn has_credit(&self, consumer: Consumer) -> bool {
        let held = self.held.iter().filter(|(by, ..)| *by == consumer.connection).count();
        consumer.no_ack || consumer.prefetch == 0 || held < consumer.prefetch as usize
    }

    /// What is too old goes without a word where there is nowhere to go.
    fn expire(&mut self, now: u64) {
        if self.settings.dead_letter_exchange.is_none() {
            let old = |kept: &&mut Kept| kept.state == State::Waiting && kept.due <= now;
            self.kept.values_mut().filter(old).for_each(|kept| kept.state = State::Gone);
        }
    }

    /// So does what is too much.
    fn trim(&mut self) {
        if self.settings.dead_letter_exchange.is_some() {
            return;
        }
        while self.is_too_full()
            && let Some(oldest) = self.oldest()
        {
            self.set(oldest, State::Gone);
        }
    }

    fn is_too_full(&self) -> bool {
        let waiting = || self.kept.values().filter(|kept| kept.state == State::Waiting);
        let Settings { max_length, max_length_bytes, .. } = self.settings;
        max_length.is_some_and(|max| waiting().count() as u64 > max)
            || max_length_bytes.is_some_and(|max| waiting().map(|kept| kept.size).sum::<u64>() > max)
    }

    fn check(&mut self) {
        self.shard.check();
        assert!(!self.is_too_full(), "what is too much is dropped");
        assert!(self.kept.values().all(|kept| !matches!(kept.state, State::Dying(_))), "dead letters arrive");
        let waiting = self.numbers(|kept| kept.state == State::Waiting).count();
        let credit = |consumer: &&Consumer| self.has_credit(**consumer);
        // One that is to take over waits until the one before holds nothing.
        let takes_over = self.settings.kind == QueueKind::Quorum && !self.held.is_empty();
        let served = match self.settings.single_active_consumer {
            true => {
                let all = self.consumers.iter().all(|consumer| credit(&consumer));
                !self.consumers.is_empty() && all && !takes_over
            }
            false => self.consumers.iter().any(|consumer| credit(&consumer)),
        };
        let could_go =
            self.kept.values().find(|kept| kept.state == State::Waiting && self.is_free(kept.group));
        assert!(!served || could_go.is_none(), "a consumer could take {could_go:?}");
        self.shard.handle(CLIENT, Command::Request(2, Request::Inspect(QUEUE)), &mut self.journal);
        self.round();
        let Some(Reply::Counts { ready, .. }) = self.reply.take() else { panic!("no answer to inspect") };
        assert_eq!(ready, waiting, "messages that wait");
    }

    fn drain(&mut self) {
        while !self.consumers.is_empty() {
            self.step(Step::Kill(0));
        }
        self.step(Step::Consume { prefetch: 2, no_ack: false, priority: 0 });
        self.step(Step::Wait(1000));
        while !self.held.is_empty() {
            self.step(Step::Ack(0));
        }
        self.step(Step::Arrive);
        assert!(self.kept.values().all(|kept| kept.state == State::Gone), "nothing is left");
        assert_eq!((self.shard.message_bytes(), self.shard.live_bytes()), (0, 0), "nothing is left");
    }
}

#[allow(clippy::disallowed_methods, reason = "a test may ask how long it shall run")]
fn cases() -> u32 {
    std::env::var("LEVERET_CASES").map_or(300, |cases| cases.parse().expect("LEVERET_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn groups_keep_their_order_and_their_limits(
        settings in settings(),
        durable: bool,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(settings, durable);
        for step in steps {
            world.step(step);
        }
        world.drain();
    }
}
