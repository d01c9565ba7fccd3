//! A queue with all that its arguments can ask of it, against a model that is as plain as can be: a `VecDeque` for each
//! priority. One command at a time, so that the model knows what must come out: every message that is taken, every dead
//! letter and why, every refusal. Memory is tiny, time runs, the broker restarts, and at the end all is drained.

mod disk;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use amqp::properties::PropertiesBuilder;
use amqp::table::TableBuilder;
use broker::id::{ConnectionId, QueueId};
use broker::message::{Message, Messages, Parts};
use broker::page::Limits;
use broker::queue::Options;
use broker::record::{Record, Span, VERSION};
use broker::shard::{Batch, Browse, Command, Confirm, Effect, Publish, Reason, Reply, Request, Shard};
use broker::topology::{
    Deduplication, DelayedRetry, DelayedRetryOf, Duplicates, Identity, Keeps, Overflow, QueueKind, Settings,
};
use bytes::BytesMut;
use disk::{Journal, Pager};
use proptest::option;
use proptest::prelude::*;

const QUEUE: QueueId = QueueId(7);
const CLIENT: ConnectionId = ConnectionId(1);

/// The window of an exchange, and what it remembers.
const WINDOW: u64 = 9;
const THROUGH: Identity = Identity { window: WINDOW, id: [0; 16], size: 3, ttl_ms: Some(50) };

/// Bytes that an id takes in memory and in the log.
const SEEN_MEMORY: u64 = 112;
const SEEN_LOG: u64 = 40;

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
    priority: Option<u8>,
    ttl: Option<u64>,
    /// What it shall be remembered by, and whether it comes through an exchange that deduplicates, too.
    id: Option<(u8, bool)>,
    size: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<New>),
    Get { no_ack: bool },
    Ack(usize),
    Nack(usize),
    Fail(usize),
    Reject(usize),
    Wait(u64),
    Purge,
    CopyForward,
    Restart,
}

fn new() -> impl Strategy<Value = New> {
    (
        option::of(0..10u8),
        option::weighted(0.2, 0..30u64),
        option::of((0..6u8, proptest::bool::weighted(0.3))),
        0..40usize,
    )
        .prop_map(|(priority, ttl, id, size)| New { priority, ttl, id, size })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(new(), 1..5).prop_map(Step::Publish),
        4 => any::<bool>().prop_map(|no_ack| Step::Get { no_ack }),
        1 => any::<usize>().prop_map(Step::Ack),
        2 => any::<usize>().prop_map(Step::Nack),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::Reject),
        2 => (0..15u64).prop_map(Step::Wait),
        1 => Just(Step::CopyForward),
        1 => prop_oneof![3 => Just(Step::Restart), 1 => Just(Step::Purge)],
    ]
}

prop_compose! {
    fn retry()(
        of in prop_oneof![Just(DelayedRetryOf::All), Just(DelayedRetryOf::Failed), Just(DelayedRetryOf::Returned)],
        min_ms in 1..20u64, max_ms in 1..50u64, exponential: bool) -> DelayedRetry {
        DelayedRetry { of, min_ms, max_ms: max_ms.max(min_ms), exponential, jitter_percent: 0 }
    }
}

prop_compose! {
    fn settings()(
        message_ttl_ms in option::of(0..40u64),
        dead_letters: bool,
        max_length in option::of(0..8u64),
        max_length_bytes in option::weighted(0.2, 0..200u64),
        overflow in prop_oneof![Just(Overflow::DropHead), Just(Overflow::RejectPublish), Just(Overflow::RejectPublishDlx)],
        quorum: bool,
        max_priority in option::weighted(0.3, 0..5u8),
        delivery_limit in option::of(0..3u64),
        delayed_retry in option::weighted(0.3, retry()),
        deduplication in option::weighted(0.4, (1..5u32, option::of(0..40u64))),
    ) -> Settings {
        Settings {
            kind: if quorum && max_priority.is_none() { QueueKind::Quorum } else { QueueKind::Classic },
            message_ttl_ms,
            dead_letter_exchange: dead_letters.then(|| Arc::from("dead")),
            max_length,
            max_length_bytes,
            overflow,
            max_priority,
            delivery_limit,
            delayed_retry,
            deduplication: deduplication.map(|(size, ttl_ms)| Deduplication { size, ttl_ms, header: "id".into() }),
            ..Settings::default()
        }
    }
}

#[derive(Clone, Debug)]
struct Kept {
    number: u64,
    level: u8,
    arrived: u64,
    ttl: Option<u64>,
    size: u64,
    returns: u16,
    redelivered: bool,
}

/// What a queue should hold.
struct Model {
    settings: Settings,
    durable: bool,
    ready: BTreeMap<u8, VecDeque<Kept>>,
    unacked: Vec<Kept>,
    delayed: Vec<(u64, Kept)>,
    dead: Vec<(u64, Reason)>,
    /// How many urgent messages of a quorum queue went one after the other.
    urgent_in_a_row: u32,
    /// What is remembered, by window: ids, and until when.
    seen: BTreeMap<u64, VecDeque<(u8, u64)>>,
}

impl Model {
    fn level(&self, priority: Option<u8>) -> u8 {
        let priority = priority.unwrap_or(0);
        match (self.settings.max_priority, self.settings.kind) {
            (Some(max), _) => priority.min(max),
            (None, QueueKind::Quorum) => u8::from(priority >= 5),
            (None, QueueKind::Classic | QueueKind::Stream) => 0,
        }
    }

    fn put(&mut self, kept: Kept) {
        let level = self.ready.entry(kept.level).or_default();
        let at = level.partition_point(|other| other.number < kept.number);
        level.insert(at, kept);
    }

    fn len(&self) -> u64 {
        self.ready.values().map(|level| level.len() as u64).sum()
    }

    fn is_full(&self, more: u64) -> bool {
        let bytes: u64 = self.ready.values().flatten().map(|kept| kept.size).sum();
        let Settings { max_length, max_length_bytes, .. } = self.settings;
        max_length.is_some_and(|max| self.len() + more > max)
            || max_length_bytes.is_some_and(|max| bytes + more > max)
    }

    fn dies(&mut self, kept: &Kept, reason: Reason) {
        if self.settings.dead_letter_exchange.is_some() {
            self.dead.push((kept.number, reason));
        }
    }

    /// Takes the next message out.
    fn next(&mut self) -> Option<Kept> {
        if self.settings.kind == QueueKind::Quorum {
            let urgent = self.ready.get(&1).is_some_and(|level| !level.is_empty());
            let others = self.ready.get(&0).is_some_and(|level| !level.is_empty());
            let level = u8::from(urgent && !(others && self.urgent_in_a_row == 2));
            let next = self.ready.get_mut(&level)?.pop_front()?;
            self.urgent_in_a_row = if level == 1 { (self.urgent_in_a_row + 1).min(2) } else { 0 };
            return Some(next);
        }
        self.ready.values_mut().rev().find_map(VecDeque::pop_front)
    }

    /// What the clock and the limits do.
    fn look(&mut self, now: u64) {
        self.look_at_clock(now);
        self.expire(now);
        while self.settings.overflow == Overflow::DropHead && self.is_full(0) {
            while self.is_full(0)
                && let Some(kept) = self.next()
            {
                self.dies(&kept, Reason::MaxLen);
            }
            self.expire(now);
        }
    }

    /// What happens before somebody could be given a message: one that may not wait at all still can.
    fn look_at_clock(&mut self, now: u64) {
        self.delayed.sort_by_key(|(until, kept)| (*until, kept.number));
        while self.delayed.first().is_some_and(|(until, _)| *until <= now) {
            let (_, kept) = self.delayed.remove(0);
            self.put(kept);
        }
        self.expire(now - 1);
    }

    fn expire(&mut self, now: u64) {
        let queue_ttl = self.settings.message_ttl_ms;
        let old = |kept: &Kept| {
            let ttl = [queue_ttl, kept.ttl].into_iter().flatten().min();
            ttl.is_some_and(|ttl| kept.arrived + ttl <= now)
        };
        let mut expired = Vec::new();
        for level in self.ready.values_mut().rev() {
            while level.front().is_some_and(old) {
                expired.extend(level.pop_front());
            }
        }
        expired.iter().for_each(|kept| self.dies(kept, Reason::Expired));
    }

    /// The windows that look at a message with this id: their numbers, sizes and times.
    fn windows(&self, id: Option<(u8, bool)>) -> Vec<(u64, u32, Option<u64>)> {
        let of_queue = self.settings.deduplication.as_ref().map(|of| (0, of.size, of.ttl_ms));
        let of_exchange = (WINDOW, THROUGH.size, THROUGH.ttl_ms);
        match id {
            None => Vec::new(),
            Some((_, true)) => of_queue.into_iter().chain([of_exchange]).collect(),
            Some((_, false)) => of_queue.into_iter().collect(),
        }
    }

    fn is_duplicate(&self, id: Option<(u8, bool)>, now: u64) -> bool {
        self.windows(id).into_iter().any(|(window, _, _)| {
            let seen = self.seen.get(&window).into_iter().flatten();
            seen.into_iter().any(|(seen, until)| Some(*seen) == id.map(|(id, _)| id) && *until > now)
        })
    }

    fn remember(&mut self, id: Option<(u8, bool)>, now: u64) {
        for (window, size, ttl) in self.windows(id) {
            let seen = self.seen.entry(window).or_default();
            seen.retain(|(seen, _)| Some(*seen) != id.map(|(id, _)| id));
            seen.extend(id.map(|(id, _)| (id, ttl.map_or(u64::MAX, |ttl| now + ttl))));
            while seen.len() > size as usize {
                seen.pop_front();
            }
        }
    }

    /// Whether a message is taken, or was before.
    fn publish(&mut self, kept: Kept, id: Option<(u8, bool)>, now: u64) -> bool {
        if self.is_duplicate(id, now) {
            return true;
        }
        if self.settings.overflow != Overflow::DropHead && self.is_full(1) {
            self.look_at_clock(now);
            if self.is_full(1) {
                if self.settings.overflow == Overflow::RejectPublishDlx {
                    self.dies(&kept, Reason::MaxLen);
                }
                return false;
            }
        }
        self.remember(id, now);
        self.put(kept);
        true
    }

    fn give_back(&mut self, at: usize, other: DelayedRetryOf, now: u64) {
        let mut kept = self.unacked.remove(at);
        kept.redelivered = true;
        kept.returns += u16::from(self.settings.counts_returns());
        if self.settings.delivery_limit.is_some_and(|limit| u64::from(kept.returns) > limit) {
            self.dies(&kept, Reason::DeliveryLimit);
        } else if let Some(retry) = self.settings.delayed_retry.filter(|retry| retry.of != other) {
            self.delayed.push((now + retry.delay_ms(kept.returns, 0), kept));
        } else {
            self.put(kept);
        }
    }

    fn restart(&mut self) {
        self.urgent_in_a_row = 0;
        if !self.durable {
            self.ready.clear();
            self.unacked.clear();
            self.delayed.clear();
            self.seen.clear();
            return;
        }
        let back = self.unacked.drain(..).map(|kept| Kept { redelivered: true, ..kept });
        let back: Vec<Kept> = back.chain(self.delayed.drain(..).map(|(_, kept)| kept)).collect();
        back.into_iter().for_each(|kept| self.put(kept));
    }
}

struct World {
    model: Model,
    shard: Shard,
    journal: Journal,
    pager: Pager,
    /// Numbers in the queue of what the client holds.
    held: Vec<u64>,
    now: u64,
    published: u64,
    restarted: bool,
    /// What the round brought.
    got: Option<Reply>,
    dead: Vec<(u64, Reason)>,
    answers: BTreeMap<u64, bool>,
}

fn number_of(message: Message<'_>) -> u64 {
    u64::from_be_bytes(*message.body().first_chunk().expect("a body begins with its number"))
}

impl World {
    fn new(settings: Settings, durable: bool) -> World {
        let model = Model {
            settings,
            durable,
            ready: BTreeMap::new(),
            unacked: Vec::new(),
            delayed: Vec::new(),
            dead: Vec::new(),
            urgent_in_a_row: 0,
            seen: BTreeMap::new(),
        };
        let mut world = World {
            model,
            shard: Shard::default(),
            journal: Journal::default(),
            pager: Pager::default(),
            held: Vec::new(),
            now: 1000,
            published: 0,
            restarted: false,
            got: None,
            dead: Vec::new(),
            answers: BTreeMap::new(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let (settings, durable) = (self.model.settings.clone(), self.model.durable);
        self.shard.limit_paging(LIMITS);
        self.shard.tick(self.now);
        let label = "the queue".to_owned();
        self.shard.open(QUEUE, Options { label, durable, auto_delete: false, settings });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(new) => self.publish(new),
            Step::Get { no_ack } => self.get(no_ack),
            Step::Ack(pick) => {
                if let Some((at, spans)) = self.pick(pick) {
                    self.model.unacked.remove(at);
                    self.send(Command::Settle(spans));
                }
            }
            Step::Nack(pick) => {
                if let Some((at, spans)) = self.pick(pick) {
                    self.model.give_back(at, DelayedRetryOf::Failed, self.now);
                    self.send(Command::Requeue(spans));
                }
            }
            Step::Fail(pick) => {
                if let Some((at, spans)) = self.pick(pick) {
                    self.model.give_back(at, DelayedRetryOf::Returned, self.now);
                    self.send(Command::Fail(spans));
                }
            }
            Step::Reject(pick) => {
                if let Some((at, spans)) = self.pick(pick) {
                    let kept = self.model.unacked.remove(at);
                    self.model.dies(&kept, Reason::Rejected);
                    self.send(Command::Reject(spans));
                }
            }
            Step::Wait(ms) => {
                self.now += ms;
                let due = self.shard.next_deadline().is_some_and(|at| at <= self.now);
                let before = self.model.len();
                self.model.look(self.now);
                assert!(due || before == self.model.len(), "the shard asks to be woken for what happens now");
                self.round();
            }
            Step::Purge => {
                self.model.look(self.now);
                self.model.ready.clear();
                self.model.delayed.clear();
                self.model.urgent_in_a_row = 0;
                self.send(Command::Request(1, Request::Purge(QUEUE)));
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

    fn publish(&mut self, new: Vec<New>) {
        let mut batch = Batch { routes: vec![Arc::from([QUEUE])], ..Batch::default() };
        let mut expected = BTreeMap::new();
        for New { priority, ttl, id, size } in new {
            self.published += 1;
            let number = self.published;
            let expiration = ttl.map(|ttl| ttl.to_string());
            let headers = id.map(|(id, _)| TableBuilder::new().with("id", id));
            let properties = PropertiesBuilder {
                priority,
                headers: headers.as_ref().map(TableBuilder::as_table),
                expiration: expiration.as_deref(),
                ..PropertiesBuilder::default()
            };
            let mut body = number.to_be_bytes().to_vec();
            body.resize(8 + size, 0);
            let parts = Parts { route: b"\0\x01q", properties: &properties.to_bytes(), body: &body };
            let (messages, expires) = (parts.to_messages(), ttl.is_some());
            let duplicates = match id {
                Some((id, true)) => Duplicates::Drop(Identity { id: [id; 16], ..THROUGH }),
                Some((_, false)) | None => Duplicates::AsQueuesSay,
            };
            let (persistent, confirm) = (true, Some((1, number)));
            batch.runs.push(Publish { messages, persistent, expires, duplicates, route: 0, confirm });
            let level = self.model.level(priority);
            let (arrived, size) = (self.now, body.len() as u64);
            let kept = Kept { number, level, arrived, ttl, size, returns: 0, redelivered: false };
            expected.insert(number, self.model.publish(kept, id, self.now));
        }
        self.model.look(self.now);
        self.send(Command::Publish(batch));
        assert_eq!(std::mem::take(&mut self.answers), expected, "which were taken");
    }

    fn get(&mut self, no_ack: bool) {
        self.model.look(self.now);
        let expected = self.model.next();
        let left = self.model.len();
        let request = Request::Get { queue: QUEUE, channel: 1, no_ack };
        self.send(Command::Request(1, request));
        let Some(Reply::Got(got, ready)) = self.got.take() else { panic!("no answer to a get") };
        assert_eq!(ready as u64, left, "left after a get");
        let seen = got.as_ref().map(|got| (number_of(got.messages.first()), got.returns));
        assert_eq!(seen, expected.as_ref().map(|kept| (kept.number, kept.returns)), "what is got");
        if let (Some(got), Some(kept)) = (got, expected) {
            // After a restart the broker knows no more than how far deliveries had come.
            assert!(
                got.redelivered >= kept.redelivered
                    && (self.restarted || got.redelivered == kept.redelivered)
            );
            if !no_ack {
                self.held.push(got.first);
                self.model.unacked.push(kept);
            }
        }
        self.model.look(self.now);
    }

    fn pick(&mut self, pick: usize) -> Option<(usize, Vec<(QueueId, Span)>)> {
        let at = pick.checked_rem(self.held.len())?;
        Some((at, vec![(QUEUE, Span::one(self.held.remove(at)))]))
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
        self.restarted = true;
        self.model.restart();
        self.model.look(self.now);
        self.round();
    }

    fn send(&mut self, command: Command) {
        self.shard.tick(self.now);
        self.shard.handle(CLIENT, command, &mut self.journal);
        self.round();
        self.model.look(self.now);
    }

    /// Rounds until nothing is left to do.
    fn round(&mut self) {
        loop {
            self.shard.tick(self.now);
            self.shard.finish_round(&mut self.journal);
            self.shard.committed(self.journal.end);
            let mut busy = self.take_effects();
            while let Some(order) = self.shard.poll_page() {
                self.pager.carry_out(order, false);
            }
            while let Some(answer) = self.pager.answers.pop_front() {
                self.shard.paged(answer, &mut self.journal);
                busy = true;
            }
            if !busy {
                return;
            }
        }
    }

    fn take_effects(&mut self) -> bool {
        let mut busy = false;
        while let Some((connection, effects)) = self.shard.poll_effects() {
            busy = true;
            for effect in effects {
                match effect {
                    Effect::Forward(forward) => {
                        assert_eq!(connection, ConnectionId::FORWARDER);
                        let numbers =
                            forward.messages.iter().map(|message| (number_of(message), forward.reason));
                        self.dead.extend(numbers);
                        let bytes = broker::shard::weight(&forward.messages);
                        let span = forward.first.map(|first| Span { first, count: forward.messages.count() });
                        let settled = span.map(|span| (QUEUE, span)).into_iter().collect();
                        for command in [Command::Settle(settled), Command::Written(bytes)] {
                            self.shard.handle(connection, command, &mut self.journal);
                        }
                    }
                    Effect::Confirm(Confirm { first, .. }) => drop(self.answers.insert(first, true)),
                    Effect::Refused(Confirm { first, .. }) => drop(self.answers.insert(first, false)),
                    Effect::Reply(_, reply) => self.got = Some(reply.expect("the queue exists")),
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        busy
    }

    fn check(&mut self) {
        self.shard.check();
        // What must be read from the disk first can have become too old where it was too much.
        let by_number = |dead: &mut Vec<(u64, Reason)>| -> BTreeMap<u64, bool> {
            dead.drain(..)
                .map(|(number, reason)| (number, matches!(reason, Reason::Expired | Reason::MaxLen)))
                .collect()
        };
        assert_eq!(by_number(&mut self.dead), by_number(&mut self.model.dead), "dead letters");
        self.shard.handle(CLIENT, Command::Request(2, Request::Inspect(QUEUE)), &mut self.journal);
        self.round();
        let Some(Reply::Counts { ready, .. }) = self.got.take() else { panic!("no answer to inspect") };
        assert_eq!(ready as u64, self.model.len(), "messages that wait");
    }

    fn drain(&mut self) {
        while !self.held.is_empty() {
            self.step(Step::Ack(0));
        }
        self.step(Step::Wait(1000));
        while self.model.len() > 0 {
            self.step(Step::Get { no_ack: true });
        }
        self.step(Step::Get { no_ack: true });
        let (memory, live) = (self.shard.message_bytes(), self.shard.live_bytes());
        let remembered = memory / SEEN_MEMORY;
        let logged = if self.model.durable { remembered * SEEN_LOG } else { 0 };
        assert_eq!((memory, live), (remembered * SEEN_MEMORY, logged), "only ids are left");
        // A restart brings back what the log still says, and not what was too old to be copied.
        if !self.restarted {
            let ids: usize = self.model.seen.values().map(VecDeque::len).sum();
            assert_eq!(remembered, ids as u64, "ids that are remembered");
        }
    }
}

/// A message with a delay and an id.
fn delayed_with_id(number: i64, id: &str) -> Publish {
    let headers = TableBuilder::new().with("x-delay", 1000 + number);
    let headers = Some(headers.as_table());
    let message_id = Some(id);
    let properties = PropertiesBuilder { headers, message_id, ..PropertiesBuilder::default() }.to_bytes();
    let messages =
        Parts { route: b"\0\x01q", properties: &properties, body: &number.to_be_bytes() }.to_messages();
    Publish { messages, ..delayed(0) }
}

/// A message with a delay of so many milliseconds.
fn delayed(ms: i64) -> Publish {
    let headers = TableBuilder::new().with("x-delay", ms);
    let headers = Some(headers.as_table());
    let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
    let body = ms.to_be_bytes();
    let messages = Parts { route: b"\0\x01q", properties: &properties, body: &body }.to_messages();
    Publish {
        messages,
        persistent: true,
        expires: false,
        duplicates: Duplicates::default(),
        route: 0,
        confirm: None,
    }
}

#[test]
fn a_message_that_waits_does_not_keep_the_buffer_of_those_that_came_with_it() {
    let mut world = World::new(Settings { keeps: Some(Keeps::Delayed), ..Settings::default() }, false);
    let mut bytes = BytesMut::new();
    (1..=100).for_each(|ms| bytes.extend_from_slice(delayed(ms).messages.as_bytes()));
    let bytes = bytes.freeze();
    let runs = vec![Publish { messages: Messages::encoded(bytes.clone(), 100), ..delayed(0) }];
    let batch = Batch { routes: vec![Arc::from([QUEUE])], runs, ..Batch::default() };
    world.send(Command::Publish(batch));
    world.now += 99;
    world.round();
    assert_eq!(world.dead.len(), 99, "all have gone but for one");
    assert!(bytes.is_unique(), "one keeps the buffer of a hundred");
}

#[test]
fn what_waits_for_its_time_still_does_after_a_restart() {
    let mut world = World::new(Settings { keeps: Some(Keeps::Delayed), ..Settings::default() }, true);
    let runs = vec![delayed(300), delayed(100)];
    let batch = Batch { routes: vec![Arc::from([QUEUE])], runs, ..Batch::default() };
    world.send(Command::Publish(batch));
    world.now += 50;
    let end = world.journal.end;
    world.shard.copy_forward(end, &mut world.journal);
    world.journal.records.retain(|(position, _, _)| *position >= end);
    world.restart();
    let mut sent_at = |ms: u64| {
        world.now = 1000 + ms;
        world.round();
        std::mem::take(&mut world.dead)
    };
    assert_eq!(sent_at(99), []);
    assert_eq!(sent_at(100), [(100, Reason::Due)]);
    assert_eq!(sent_at(299), []);
    assert_eq!(sent_at(300), [(300, Reason::Due)]);
    world.restart();
    assert_eq!(world.dead, [], "what has gone does not come back");
    assert_eq!((world.shard.message_bytes(), world.shard.live_bytes()), (0, 0), "nothing is left");
}

#[test]
fn what_waits_is_called_off_by_its_id_and_stays_so() {
    let mut world = World::new(Settings { keeps: Some(Keeps::Delayed), ..Settings::default() }, true);
    let runs =
        [(0, "a"), (1, "b"), (2, "a"), (3, "b")].map(|(number, id)| delayed_with_id(number, id)).to_vec();
    let batch = Batch { routes: vec![Arc::from([QUEUE])], runs, ..Batch::default() };
    world.send(Command::Publish(batch));
    let call_off = |world: &mut World, id: &str| {
        world.send(Command::Request(1, Request::CallOff { queue: QUEUE, id: id.to_owned() }));
        world.shard.check();
        world.got.take()
    };
    assert_eq!(call_off(&mut world, "a"), Some(Reply::CalledOff(2)));
    assert_eq!(call_off(&mut world, "a"), Some(Reply::CalledOff(0)));
    world.restart();
    assert_eq!(call_off(&mut world, "a"), Some(Reply::CalledOff(0)));
    let browse =
        |after, size_max| Command::Request(1, Request::Browse(Browse { queue: QUEUE, after, size_max }));
    let mut after = None;
    for expected in [1, 3] {
        world.send(browse(after, 1));
        let Some(Reply::Browsed(shown)) = world.got.take() else { panic!("no answer to a browse") };
        let [(place, message)] = &shown[..] else { panic!("not one message: {shown:?}") };
        assert_eq!(number_of(message.first()), expected);
        after = Some(*place);
    }
    world.send(browse(after, 1));
    assert_eq!(world.got.take(), Some(Reply::Browsed(Vec::new())));
    assert_eq!(call_off(&mut world, "b"), Some(Reply::CalledOff(2)));
    assert_eq!((world.shard.message_bytes(), world.shard.live_bytes()), (0, 0), "nothing is left");
}

#[allow(clippy::disallowed_methods, reason = "a test may ask how long it shall run")]
fn cases() -> u32 {
    std::env::var("LEVERET_CASES").map_or(500, |cases| cases.parse().expect("LEVERET_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_queue_does_what_its_settings_say(
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
