//! The task that takes messages from a queue to another place: dead letters, to the exchange that their queue names.
//!
//! A message stays in its queue, held by this task, until all queues that it was routed to have it for good. So a crash
//! on the way can double a dead letter and never lose it. What nobody wants is dropped, or tried again if its queue
//! asks for that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use amqp::properties::Properties;
use amqp::table::{Array, Value};
use broker::dead_letter::{self, Death, Letter};
use broker::id::{ConnectionId, QueueId};
use broker::message::{Message, Messages, Parts};
use broker::record::Span;
use broker::shard::{Batch, Command, Confirm, Effect, Forward, Publish, Reason};
use broker::topology::{DeadLetterStrategy, DeadLetters, Duplicates, Envelope, Queue, Topology};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::random::Random;
use crate::shard::{Handle, Mail};

/// Mails taken in one round.
const ROUND_MAX: usize = 256;

/// After this time, what nobody took is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A message on its way.
#[derive(Debug)]
struct Pending {
    origin: Origin,
    /// Shards that have not yet said that they have it.
    shards: usize,
    refused: bool,
}

/// Where a message comes from.
#[derive(Clone, Debug)]
struct Origin {
    shard: usize,
    queue: QueueId,
    /// Its number there; `None`: it never was in the queue.
    sequence: Option<u64>,
    /// What the shard counts for it.
    weight: usize,
    reason: Reason,
    letters: Option<DeadLetters>,
    /// It is tried again until somebody takes it.
    again: Option<Messages>,
}

/// See the module.
pub(crate) struct Forwarder {
    topology: watch::Receiver<Topology>,
    shards: Vec<Handle>,
    pending: HashMap<u64, Pending>,
    last_number: u64,
    random: Random,
    /// What goes to each shard when the round ends.
    parcels: Vec<Parcel>,
    /// What nobody took, and when to try again.
    waiting: Vec<(Instant, Origin)>,
}

#[derive(Debug, Default)]
struct Parcel {
    batch: Batch,
    bytes: usize,
    settle: Vec<(QueueId, Span)>,
    written: usize,
}

impl Forwarder {
    pub(crate) fn new(shards: Vec<Handle>, topology: watch::Receiver<Topology>) -> Forwarder {
        let parcels = shards.iter().map(|_| Parcel::default()).collect();
        Forwarder {
            topology,
            shards,
            pending: HashMap::new(),
            last_number: 0,
            random: Random::new(),
            parcels,
            waiting: Vec::new(),
        }
    }

    /// Runs until the server stops: what is on its way then stays in its queue.
    pub(crate) async fn run(mut self, mut mail: UnboundedReceiver<Mail>, mut stop: watch::Receiver<bool>) {
        let mut round = Vec::with_capacity(ROUND_MAX);
        loop {
            let retry = self.waiting.first().map(|(at, _)| *at);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                count = mail.recv_many(&mut round, ROUND_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                () = sleep_until(retry) => {}
            }
            for mail in round.drain(..) {
                if let Mail::Effects(shard, effects) = mail {
                    effects.into_iter().for_each(|effect| self.take(shard, effect));
                }
            }
            self.try_again();
            self.send().await;
        }
    }

    fn take(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Forward(forward) => self.forward(shard, forward),
            Effect::Confirm(Confirm { first, last, .. }) => {
                (first..=last).for_each(|number| self.answered(number, false));
            }
            Effect::Refused(Confirm { first, last, .. }) => {
                (first..=last).for_each(|number| self.answered(number, true));
            }
            Effect::Deliver(_) | Effect::Reply(..) | Effect::Cancelled(_) | Effect::TimedOut(..) => {}
        }
    }

    fn forward(&mut self, shard: usize, forward: Forward) {
        let Forward { queue, first, reason, letters, messages } = forward;
        let topology = self.topology.borrow().clone();
        for (nth, message) in (0..).zip(messages.singles()) {
            let weight = broker::shard::weight(&message);
            let sequence = first.map(|first| first + nth);
            let letters = letters.clone();
            let origin = Origin { shard, queue, sequence, weight, reason, letters, again: None };
            self.forward_one(&topology, origin, &message);
        }
    }

    fn forward_one(&mut self, topology: &Topology, mut origin: Origin, message: &Messages) {
        // Who is gone does not wait for better times.
        let patient = topology.queue_by_id(origin.queue).is_some()
            && origin.letters.as_ref().is_some_and(|it| it.strategy == DeadLetterStrategy::AtLeastOnce);
        origin.again = patient.then(|| message.clone());
        let Some((letter, queues, duplicates)) = self.address(topology, &origin, message) else {
            return self.nobody_took(origin);
        };
        let properties = Properties::new(&letter.properties).unwrap_or(Properties::EMPTY);
        let (persistent, expires) = (properties.is_persistent(), properties.expiration().is_some());
        let parts =
            Parts { route: &letter.route, properties: &letter.properties, body: message.first().body() };
        let messages = parts.to_messages();
        self.last_number += 1;
        let number = self.last_number;
        let mut shards = 0;
        for (shard, parcel) in self.parcels.iter_mut().enumerate() {
            let count = self.shards.len();
            let here: Vec<QueueId> =
                queues.iter().copied().filter(|queue| queue.shard(count) == shard).collect();
            if here.is_empty() {
                continue;
            }
            shards += 1;
            parcel.bytes += messages.size();
            if parcel.batch.routes.last().is_none_or(|last| **last != *here) {
                parcel.batch.routes.push(Arc::from(here));
            }
            let route = parcel.batch.routes.len() - 1;
            let confirm = Some((0, number));
            let messages = messages.clone();
            parcel.batch.runs.push(Publish { messages, persistent, expires, duplicates, route, confirm });
        }
        self.pending.insert(number, Pending { origin, shards, refused: false });
    }

    /// The new address of a message and the queues it leads to; `None`: to none.
    fn address(
        &mut self,
        topology: &Topology,
        origin: &Origin,
        message: &Messages,
    ) -> Option<(Letter, Vec<QueueId>, Duplicates)> {
        let Origin { reason, letters, .. } = origin;
        if *reason == Reason::Due {
            let from = topology.queue_by_id(origin.queue)?;
            return self.address_due(topology, from, message.first());
        }
        let DeadLetters { from, exchange, routing_key, .. } = letters.as_ref()?;
        let (exchange, reason) = (&**exchange, *reason);
        let time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let death =
            Death { queue: &from.queue, reason, time_s, exchange, routing_key: routing_key.as_deref() };
        let letter = dead_letter::readdress(message.first(), &death);
        let keys: Vec<&str> = letter.routing_keys.iter().map(String::as_str).collect();
        let properties = Properties::new(&letter.properties).ok()?;
        let envelope = Envelope { routing_keys: &keys, properties, random: self.random.next(), due: false };
        let mut queues = Vec::new();
        topology.route(&from.vhost, exchange, &envelope, &mut queues).ok()?;
        queues.retain(|queue| {
            let target = topology.queue_by_id(*queue);
            !target.is_some_and(|target| dead_letter::is_cycle(&letter.properties, &target.name, reason))
        });
        (!queues.is_empty()).then_some((letter, queues, Duplicates::Keep))
    }

    /// Where a message goes whose time has come: as it is, to where its exchange sends it now.
    fn address_due(
        &mut self,
        topology: &Topology,
        from: &Queue,
        message: Message<'_>,
    ) -> Option<(Letter, Vec<QueueId>, Duplicates)> {
        let properties = Properties::new(message.properties()).ok()?;
        let copies = properties.headers().and_then(|headers| headers.get("CC")?.as_array());
        let copies = copies.into_iter().flat_map(Array::iter).filter_map(Value::as_str);
        let routing_keys: Vec<&str> = std::iter::once(message.routing_key()).chain(copies).collect();
        let exchange = topology.exchange(&from.vhost, from.delays_for()?)?;
        let identity = exchange.identify(properties);
        let random = identity.map_or_else(|| self.random.next(), |identity| identity.chance());
        let envelope = Envelope { routing_keys: &routing_keys, properties, random, due: true };
        let mut queues = Vec::new();
        topology.route(&from.vhost, &exchange.name, &envelope, &mut queues).ok()?;
        let letter = Letter {
            route: message.route().to_vec(),
            routing_keys: Vec::new(),
            properties: message.properties().to_vec(),
        };
        let duplicates = identity.map_or(Duplicates::AsQueuesSay, Duplicates::Drop);
        (!queues.is_empty()).then_some((letter, queues, duplicates))
    }

    /// A shard has a message, or has refused it.
    fn answered(&mut self, number: u64, refused: bool) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        pending.refused |= refused;
        pending.shards -= 1;
        if pending.shards > 0 {
            return;
        }
        if let Some(Pending { origin, refused, .. }) = self.pending.remove(&number) {
            if refused { self.nobody_took(origin) } else { self.done(&origin) }
        }
    }

    fn nobody_took(&mut self, origin: Origin) {
        if origin.again.is_some() {
            self.waiting.push((Instant::now() + RETRY_DELAY, origin));
        } else {
            self.done(&origin);
        }
    }

    /// A message leaves its queue.
    fn done(&mut self, origin: &Origin) {
        let parcel = &mut self.parcels[origin.shard];
        parcel.written += origin.weight;
        if let Some(sequence) = origin.sequence {
            let span = Span::one(sequence);
            let joined = parcel
                .settle
                .last_mut()
                .is_some_and(|(queue, last)| *queue == origin.queue && last.join(span));
            if !joined {
                parcel.settle.push((origin.queue, span));
            }
        }
    }

    fn try_again(&mut self) {
        let now = Instant::now();
        let due = self.waiting.partition_point(|(at, _)| *at <= now);
        if due == 0 {
            return;
        }
        let topology = self.topology.borrow().clone();
        let due: Vec<_> = self.waiting.drain(..due).collect();
        for (_, origin) in due {
            if let Some(message) = origin.again.clone() {
                self.forward_one(&topology, origin, &message);
            }
        }
    }

    async fn send(&mut self) {
        let id = ConnectionId::FORWARDER;
        for (parcel, shard) in self.parcels.iter_mut().zip(&self.shards) {
            let Parcel { batch, bytes, settle, written } = std::mem::take(parcel);
            if !batch.runs.is_empty() {
                let room = shard.reserve(bytes).await;
                shard.publish(id, Command::Publish(batch), room);
            }
            if !settle.is_empty() {
                shard.command(id, Command::Settle(settle));
            }
            if written > 0 {
                shard.command(id, Command::Written(written));
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
