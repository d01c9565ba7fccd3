//! Clients who do whatever clients do, and what they know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::id::{ConnectionId, QueueId};
use broker::message::Messages;
use broker::queue::Subscription;
use broker::record::Span;
use broker::shard::{Batch, Command, Confirm, Delivery, Publish, Request};
use broker::topology::Duplicates;
use broker::window::Window;
use store::sim::Random;

use crate::oracle;
use crate::world::World;

#[derive(Debug, Default)]
struct Client {
    id: u64,
    consumers: Vec<Consumer>,
    held: Vec<Held>,
    unconfirmed: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Consumer {
    number: u32,
    channel: u16,
    queue: u64,
    no_ack: bool,
}

/// A delivery that was not settled yet.
#[derive(Clone, Copy, Debug)]
struct Held {
    queue: u64,
    sequence: u64,
    number: u64,
    channel: u16,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) enum Asked {
    Get { queue: u64, no_ack: bool },
    Purge { count: usize, settled: Vec<(u64, u64)> },
    Sync { settled: Vec<(u64, u64)> },
    Delete { queue: u64 },
    Consume,
    Cancel,
}

pub(crate) struct Clients {
    all: Vec<Client>,
    asked: BTreeMap<u64, (u64, Asked)>,
    last_connection: u64,
    last_consumer: u32,
    last_message: u64,
    last_token: u64,
    last_queue: u64,
    /// Chances in a hundred that a message is persistent, that it is confirmed, that a consumer needs no acks.
    chances: [u64; 3],
}

impl Clients {
    pub(crate) fn new(random: &mut Random) -> Clients {
        let mut clients = Clients {
            all: (0..2 + random.below(3)).map(|_| Client::default()).collect(),
            asked: BTreeMap::new(),
            last_connection: 0,
            last_consumer: 0,
            last_message: 0,
            last_token: 0,
            last_queue: 3,
            chances: [50 + random.below(51), 50 + random.below(51), random.below(50)],
        };
        clients.broker_ended();
        clients
    }

    /// All connections are lost, and everybody connects again.
    pub(crate) fn broker_ended(&mut self) {
        self.asked.clear();
        for client in &mut self.all {
            self.last_connection += 1;
            *client = Client { id: self.last_connection, ..Client::default() };
        }
    }

    pub(crate) fn queue_dropped(&mut self, queue: u64) {
        self.all.iter_mut().for_each(|client| client.held.retain(|held| held.queue != queue));
    }

    /// The places of all clients.
    pub(crate) fn all_disconnect(&self) -> Vec<usize> {
        (0..self.all.len()).collect()
    }

    /// How many confirms and answers somebody waits for.
    pub(crate) fn waiting(&self) -> usize {
        self.asked.len() + self.all.iter().map(|client| client.unconfirmed.len()).sum::<usize>()
    }

    pub(crate) fn answered(&mut self, token: u64) -> Asked {
        self.asked.remove(&token).expect("a request is answered once").1
    }

    pub(crate) fn confirmed(&mut self, connection: ConnectionId, number: u64) {
        assert!(
            self.find(connection).unconfirmed.remove(&number),
            "{number} is confirmed once, to its publisher"
        );
    }

    pub(crate) fn cancelled(&mut self, connection: ConnectionId, consumer: u32) {
        self.find(connection).consumers.retain(|it| it.number != consumer);
    }

    pub(crate) fn is_no_ack(&mut self, connection: ConnectionId, consumer: u32) -> bool {
        self.consumer(connection, consumer).no_ack
    }

    pub(crate) fn delivered(
        &mut self,
        connection: ConnectionId,
        delivery: &Delivery,
        number: u64,
        no_ack: bool,
    ) {
        if no_ack {
            return;
        }
        let channel = match delivery.consumer {
            0 => 1,
            consumer => self.consumer(connection, consumer).channel,
        };
        let held = Held { queue: delivery.queue.0, sequence: delivery.first, number, channel };
        self.find(connection).held.push(held);
    }

    fn find(&mut self, connection: ConnectionId) -> &mut Client {
        let found = self.all.iter_mut().find(|client| client.id == connection.0);
        found.expect("effects are only for who is connected")
    }

    fn consumer(&mut self, connection: ConnectionId, number: u32) -> Consumer {
        let consumers = &self.find(connection).consumers;
        *consumers.iter().find(|it| it.number == number).expect("a known consumer")
    }

    fn ask(&mut self, client: usize, asked: Asked) -> u64 {
        self.last_token += 1;
        self.asked.insert(self.last_token, (self.all[client].id, asked));
        self.last_token
    }
}

impl World {
    /// Somebody does something.
    pub(crate) fn act(&mut self) {
        let client = self.random.index(self.clients.all.len());
        let queues: Vec<u64> = self.oracle.queues.keys().copied().collect();
        let queue = queues[self.random.index(queues.len())];
        match self.random.below(100) {
            0..35 => self.publish(client, &queues),
            35..45 => self.consume(client, queue),
            45..47 => self.cancel(client),
            47..55 => {
                let no_ack = self.random.below(3) == 0;
                self.get(client, queue, no_ack);
            }
            55..80 => self.settle(client),
            80..86 => self.requeue(client),
            86..88 => self.purge(client, queue),
            88..91 => {
                self.oracle.appended_all();
                let settled = self.oracle.unsynced_settles(None);
                self.request(client, Asked::Sync { settled }, Request::Sync);
            }
            91..93 => self.close_channel(client),
            93..96 => self.disconnect(client),
            96..97 => self.delete(client, queue),
            97..98 => self.settle_of_others(client),
            _ => self.send(client, Command::Written(10_000)),
        }
    }

    fn send(&mut self, client: usize, command: Command) {
        let id = ConnectionId(self.clients.all[client].id);
        self.handle(id, command);
    }

    fn request(&mut self, client: usize, asked: Asked, request: Request) {
        let token = self.clients.ask(client, asked);
        self.send(client, Command::Request(token, request));
    }

    fn publish(&mut self, client: usize, queues: &[u64]) {
        let routes: Vec<Vec<u64>> = (0..1 + self.random.below(2)).map(|_| self.some_of(queues)).collect();
        let named = |route: &Vec<u64>| route.iter().copied().map(QueueId).collect::<Arc<[QueueId]>>();
        let mut batch = Batch { routes: routes.iter().map(named).collect(), ..Batch::default() };
        let [persistent, confirmed, _] = self.clients.chances;
        for _ in 0..1 + self.random.below(6) {
            self.clients.last_message += 1;
            let number = self.clients.last_message;
            let route = self.random.index(routes.len());
            let persistent = self.random.below(100) < persistent;
            let confirm = self.random.below(100) < confirmed;
            routes[route].iter().for_each(|queue| self.oracle.publish(*queue, number, persistent));
            if confirm {
                self.clients.all[client].unconfirmed.insert(number);
                batch.confirms.push(Confirm { publisher: 1, first: number, last: number });
            }
            let one = Publish {
                messages: oracle::message(number),
                persistent,
                expires: false,
                duplicates: Duplicates::default(),
                route,
                confirm: None,
            };
            match batch.runs.last_mut() {
                Some(run) if run.route == route && run.persistent == persistent => join(run, &one.messages),
                _ => batch.runs.push(one),
            }
            self.counts.published += 1;
        }
        self.send(client, Command::Publish(batch));
    }

    fn some_of(&mut self, queues: &[u64]) -> Vec<u64> {
        let one = self.random.index(queues.len());
        let more = self.random.below(3) == 0;
        let wanted = |at: usize, random: &mut Random| at == one || (more && random.below(2) == 0);
        (0..queues.len()).filter(|at| wanted(*at, &mut self.random)).map(|at| queues[at]).collect()
    }

    fn consume(&mut self, client: usize, queue: u64) {
        if self.clients.all[client].consumers.len() > 3 {
            return;
        }
        let no_ack = self.random.below(100) < self.clients.chances[2];
        let channel = if self.random.below(2) == 0 { 1 } else { 2 };
        self.clients.last_consumer += 1;
        let number = self.clients.last_consumer;
        self.clients.all[client].consumers.push(Consumer { number, channel, queue, no_ack });
        let subscription = Subscription {
            consumer: number,
            channel,
            no_ack,
            exclusive: false,
            priority: 0,
            prefetch: [0, 1, 2, 10][self.random.index(4)],
            timeout_ms: None,
            window: Window::default(),
        };
        self.request(client, Asked::Consume, Request::Consume(QueueId(queue), subscription));
    }

    fn cancel(&mut self, client: usize) {
        let Some(consumer) = self.clients.all[client].consumers.pop() else { return };
        self.request(client, Asked::Cancel, Request::Cancel(QueueId(consumer.queue), consumer.number));
    }

    /// What waits goes to consumers before anybody else, so the round is ended first: then it is known what is left.
    pub(crate) fn get(&mut self, client: usize, queue: u64, no_ack: bool) {
        self.finish_round();
        let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack };
        self.request(client, Asked::Get { queue, no_ack }, get);
    }

    /// Some of what a client holds, to settle or give back.
    fn pick(&mut self, client: usize) -> Vec<Held> {
        let held = &mut self.clients.all[client].held;
        if held.is_empty() {
            return Vec::new();
        }
        let from = self.random.index(held.len());
        let to = from + 1 + self.random.index(held.len() - from);
        held.drain(from..to).collect()
    }

    fn settle(&mut self, client: usize) {
        let picked = self.pick(client);
        picked.iter().for_each(|held| self.oracle.settle(held.queue, held.number));
        self.counts.acked += picked.len() as u64;
        self.send(client, Command::Settle(named(&picked)));
    }

    fn requeue(&mut self, client: usize) {
        let picked = self.pick(client);
        picked.iter().for_each(|held| self.oracle.requeue(held.queue, held.number));
        self.send(client, Command::Requeue(named(&picked)));
    }

    /// Nobody settles what somebody else holds.
    fn settle_of_others(&mut self, client: usize) {
        let others = (0..self.clients.all.len()).filter(|other| *other != client);
        let held: Vec<Held> = others.flat_map(|other| self.clients.all[other].held.iter().copied()).collect();
        self.send(client, Command::Settle(named(&held)));
    }

    fn purge(&mut self, client: usize, queue: u64) {
        self.finish_round();
        let count = self.oracle.purge(queue);
        let settled = self.oracle.unsynced_settles(Some(queue));
        self.request(client, Asked::Purge { count, settled }, Request::Purge(QueueId(queue)));
    }

    fn delete(&mut self, client: usize, queue: u64) {
        self.finish_round();
        let delete = Request::Delete { queue: QueueId(queue), if_unused: false, if_empty: false };
        self.request(client, Asked::Delete { queue }, delete);
        self.drop_queue(queue);
        self.clients.last_queue += 1;
        self.open_queue(self.clients.last_queue, self.random.clone().below(4) > 0);
    }

    fn close_channel(&mut self, client: usize) {
        let it = &mut self.clients.all[client];
        let back: Vec<Held> = it.held.extract_if(.., |held| held.channel == 1).collect();
        it.consumers.retain(|consumer| consumer.channel != 1);
        // Who waited for a message of the disk does not get it any more.
        let id = it.id;
        self.clients.asked.retain(|_, (of, asked)| *of != id || !matches!(asked, Asked::Get { .. }));
        back.iter().for_each(|held| self.oracle.requeue(held.queue, held.number));
        self.send(client, Command::CloseChannel(1));
    }

    /// The client's connection is lost, and it connects again.
    pub(crate) fn disconnect(&mut self, client: usize) {
        self.clients.last_connection += 1;
        let new = Client { id: self.clients.last_connection, ..Client::default() };
        let old = std::mem::replace(&mut self.clients.all[client], new);
        old.held.iter().for_each(|held| self.oracle.requeue(held.queue, held.number));
        self.clients.asked.retain(|_, (id, _)| *id != old.id);
        self.handle(ConnectionId(old.id), Command::Disconnect);
    }
}

/// Which messages these are, as a session says it: what touches is joined.
fn named(held: &[Held]) -> Vec<(QueueId, Span)> {
    let mut spans: Vec<(QueueId, Span)> = Vec::new();
    for held in held {
        let (queue, span) = (QueueId(held.queue), Span::one(held.sequence));
        let joins = |(last, before): &mut (QueueId, Span)| *last == queue && before.join(span);
        if !spans.last_mut().is_some_and(joins) {
            spans.push((queue, span));
        }
    }
    spans
}

/// Puts a message behind others, as a session does that reads them at once.
fn join(run: &mut Publish, next: &Messages) {
    let bytes = [run.messages.as_bytes(), next.as_bytes()].concat();
    run.messages = Messages::encoded(bytes.into(), run.messages.count() + next.count());
}
