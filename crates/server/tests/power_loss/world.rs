//! A broker's shard on a disk that loses power: the server's own lines, with clients and a journal thread made of a seed.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use broker::id::{ConnectionId, QueueId};
use broker::queue::Options;
use broker::shard::{Command, Confirm, Delivery, Effect, Reply, Request};
use server::ledger::{Budget, Ledger, Pending, Recovery};
use store::sim::{Fault, Random, SimDisk};
use store::{Files, Lsn, Round};

use crate::clients::{Asked, Clients};
use crate::oracle::{Found, Oracle, Wrong};

const DIR: &str = "/journal";
/// Who looks into a recovered broker before it goes on.
const INSPECTOR: ConnectionId = ConnectionId(u64::MAX);
/// How often a recovery may fail before the power stays on.
const FAILED_RECOVERIES_MAX: u64 = 4;

/// What happened, over all seeds: what never was in danger proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) redelivered: u64,
    pub(crate) lives: u64,
    /// How lives and recoveries ended.
    pub(crate) power_cuts: u64,
    pub(crate) kills: u64,
    /// Lives that ended inside a call, recoveries that did, lives that ended with records not yet durable.
    pub(crate) inside_calls: u64,
    pub(crate) in_recovery: u64,
    pub(crate) in_flight: u64,
    pub(crate) torn: u64,
    pub(crate) shortened: u64,
    pub(crate) files_forgotten: u64,
    /// Confirmed messages that a crash had to leave alone.
    pub(crate) at_stake: u64,
    pub(crate) recovered: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.published += other.published;
        self.confirmed += other.confirmed;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.lives += other.lives;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.inside_calls += other.inside_calls;
        self.in_recovery += other.in_recovery;
        self.in_flight += other.in_flight;
        self.torn += other.torn;
        self.shortened += other.shortened;
        self.files_forgotten += other.files_forgotten;
        self.at_stake += other.at_stake;
        self.recovered += other.recovered;
    }
}

enum Order {
    Write(Round, bool),
    Forget(Lsn),
}

struct Report {
    synced: Lsn,
    oldest: Lsn,
    buffers: Vec<Vec<u8>>,
}

/// How a broker ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    PowerCut,
    Kill,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) oracle: Oracle,
    pub(crate) clients: Clients,
    pub(crate) counts: Counts,
    disk: SimDisk,
    options: store::Options,
    budget: Budget,
    ledger: Ledger,
    files: Option<Files<SimDisk>>,
    /// What the shard has handed to the journal's thread, and what that thread has answered.
    orders: VecDeque<Order>,
    reports: VecDeque<Report>,
    buffers: Vec<Vec<u8>>,
    /// Somebody waits for what was written.
    urgent: bool,
    written: Lsn,
    synced: Lsn,
    oldest: Lsn,
    /// Parts of the journal that the last recovery found damaged.
    damaged: u64,
    /// Chances in a hundred that a step writes, syncs, hears of a sync.
    chances: [u64; 3],
}

/// The disk failed: the broker is dead.
pub(crate) struct Dead;

impl World {
    /// A fresh broker on an empty disk, with sizes that the seed chooses.
    pub(crate) fn new(seed: u64, disk: SimDisk) -> World {
        let mut random = Random::new(seed);
        let file_size = [512, 1024, 2048, 4096, 8192][random.index(5)];
        let options = store::Options {
            file_size,
            zero_ahead_min: [256, 512, 2048][random.index(3)],
            zero_ahead_max: 4096,
            spares_max: random.index(3),
            ..store::Options::default()
        };
        let budget = Budget { journal_size: file_size * [2, 4][random.index(2)], step: 2 * file_size };
        let mut world = World {
            chances: [10 + random.below(90), 5 + random.below(60), 10 + random.below(90)],
            clients: Clients::new(&mut random),
            random,
            oracle: Oracle::default(),
            counts: Counts::default(),
            disk,
            options,
            budget,
            ledger: Recovery::default().finish(Lsn::ZERO, Lsn::ZERO, budget),
            files: None,
            orders: VecDeque::new(),
            reports: VecDeque::new(),
            buffers: Vec::new(),
            urgent: false,
            written: Lsn::ZERO,
            synced: Lsn::ZERO,
            oldest: Lsn::ZERO,
            damaged: 0,
        };
        (0..4).for_each(|queue| world.open_queue(queue, queue > 0));
        assert_eq!(world.recover(), Wrong::default(), "an empty disk");
        world
    }

    /// One life of the broker, up to and with its end. What the next one finds.
    pub(crate) fn live(&mut self) -> Wrong {
        let inside = self.random.below(2) == 0;
        if inside {
            let nth = 1 + self.random.below(80);
            self.disk.fail(nth, None, Fault::PowerCut);
        }
        let steps = self.random.below(50);
        let died = (0..steps).any(|_| self.step().is_err());
        self.counts.inside_calls += u64::from(died);
        assert!(!died || self.disk_is_down(), "only a power cut keeps the disk from working");
        self.end_and_recover()
    }

    /// Some steps; the power goes only if that is still planned.
    pub(crate) fn stay_alive(&mut self) {
        if (0..20).any(|_| self.step().is_err()) {
            assert_eq!(self.end_and_recover(), Wrong::default(), "after a power cut");
        }
    }

    /// Power cuts and kills, until a recovery comes through.
    pub(crate) fn end_and_recover(&mut self) -> Wrong {
        self.counts.lives += 1;
        self.counts.in_flight +=
            u64::from(self.oracle.owes_a_round() || self.written > self.synced || !self.orders.is_empty());
        self.counts.at_stake += self.oracle.confirmed() as u64;
        let end = self.end();
        let mut survives = if end == End::Kill { self.written } else { self.synced };
        self.files = None;
        for attempt in 0.. {
            if attempt < FAILED_RECOVERIES_MAX && self.random.below(4) == 0 {
                let nth = 1 + self.random.below(12);
                self.disk.fail(nth, None, Fault::PowerCut);
            }
            match self.try_recover() {
                Ok(found) => return self.recovered(found, survives),
                Err(error) => {
                    assert!(self.disk_is_down(), "only the disk can keep a broker from coming back: {error}")
                }
            }
            self.counts.in_recovery += 1;
            if self.end() == End::PowerCut {
                survives = self.synced;
            }
        }
        unreachable!("a recovery without a fault succeeds")
    }

    fn end(&mut self) -> End {
        if self.random.below(3) == 0 {
            self.counts.kills += 1;
            self.disk.kill();
            return End::Kill;
        }
        self.counts.power_cuts += 1;
        let seed = self.random.next_u64();
        self.disk.crash(seed);
        End::PowerCut
    }

    fn disk_is_down(&self) -> bool {
        use store::Disk;
        self.disk.list(Path::new(DIR)).is_err()
    }

    fn recover(&mut self) -> Wrong {
        let found = self.try_recover().unwrap_or_else(|error| panic!("a disk without faults: {error}"));
        self.recovered(found, self.synced)
    }

    /// Recovers twice from one reading: one ledger goes on, the other is emptied to see what it holds.
    fn try_recover(&mut self) -> store::Result<BTreeMap<u64, Found>> {
        let (mut live, mut copy) = (Recovery::default(), Recovery::default());
        for (id, queue) in &self.oracle.queues {
            live.open(QueueId(*id), options(*id, queue.durable));
            copy.open(QueueId(*id), options(*id, queue.durable));
        }
        let (disk, options) = (self.disk.clone(), self.options.clone());
        let (files, report) = Files::open(disk, Path::new(DIR), options, &mut |record| {
            live.replay(&record)?;
            copy.replay(&record)
        })?;
        self.damaged = report.damaged.len() as u64;
        self.counts.torn += u64::from(report.torn.is_some());
        (self.oldest, self.synced, self.written) = (files.oldest(), report.next, report.next);
        self.ledger = live.finish(files.oldest(), report.next, self.budget);
        self.files = Some(files);
        self.ledger.shard().check();
        let copy = copy.finish(self.oldest, report.next, self.budget);
        Ok(contents(copy, self.oracle.queues.keys().copied()))
    }

    fn recovered(&mut self, found: BTreeMap<u64, Found>, survives: Lsn) -> Wrong {
        self.counts.recovered += found.values().map(|found| found.len() as u64).sum::<u64>();
        self.orders.clear();
        self.reports.clear();
        self.buffers.clear();
        self.urgent = false;
        self.clients.broker_ended();
        Wrong { damaged: self.damaged, ..self.oracle.recover(found, survives) }
    }

    /// The journal's thread and the shard's task get on in any order.
    fn step(&mut self) -> Result<(), Dead> {
        let [write, sync, hear] = self.chances;
        if self.random.below(100) < write {
            self.write_one()?;
        }
        if self.random.below(100) < sync {
            self.sync()?;
        }
        if self.random.below(100) < hear {
            self.hear();
        }
        self.round();
        Ok(())
    }

    /// Some commands, and the end of the round.
    fn round(&mut self) {
        for _ in 0..self.random.below(4) {
            self.act();
        }
        self.finish_round();
    }

    pub(crate) fn finish_round(&mut self) {
        let pending = self.ledger.finish_round();
        // What was delivered just now is in the round.
        self.take_effects();
        match pending {
            Some(pending) => self.order(pending, true),
            None => assert!(!self.oracle.owes_a_round(), "something must survive and is in no round"),
        }
        self.ledger.shard().check();
    }

    /// A command of a client; what it causes at once is taken at once.
    pub(crate) fn handle(&mut self, from: ConnectionId, command: Command) {
        self.ledger.handle(from, command);
        self.take_effects();
    }

    pub(crate) fn open_queue(&mut self, queue: u64, durable: bool) {
        self.ledger.open(QueueId(queue), options(queue, durable));
        self.oracle.queues.entry(queue).or_default().durable = durable;
    }

    /// The topology without the queue is durable: the shard hears of it.
    pub(crate) fn drop_queue(&mut self, queue: u64) {
        self.oracle.queues.remove(&queue);
        self.clients.queue_dropped(queue);
        self.ledger.drop_queue(QueueId(queue));
        self.take_effects();
    }

    fn order(&mut self, pending: Pending, finished: bool) {
        self.oracle.round(pending.round.end(), finished);
        self.orders.push_back(Order::Write(pending.round, pending.urgent));
    }

    fn write_one(&mut self) -> Result<(), Dead> {
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        match self.orders.pop_front() {
            Some(Order::Write(round, urgent)) => {
                files.write(&round).map_err(|_| Dead)?;
                self.written = round.end();
                self.urgent |= urgent;
                self.buffers.push(round.into_buffer());
            }
            Some(Order::Forget(before)) => {
                files.forget(before).map_err(|_| Dead)?;
                self.counts.files_forgotten += u64::from(files.oldest() > self.oldest);
                self.oldest = files.oldest();
            }
            None => {}
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Dead> {
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        self.synced = files.sync().map_err(|_| Dead)?;
        self.urgent = false;
        self.oracle.synced(self.synced);
        let buffers = std::mem::take(&mut self.buffers);
        self.reports.push_back(Report { synced: self.synced, oldest: files.oldest(), buffers });
        files.prepare().map_err(|_| Dead)
    }

    fn hear(&mut self) {
        let Some(Report { synced, oldest, buffers }) = self.reports.pop_front() else { return };
        let (forget, pending) = self.ledger.synced(synced, oldest, buffers);
        self.orders.extend(forget.map(Order::Forget));
        if let Some(pending) = pending {
            self.counts.shortened += 1;
            self.order(pending, false);
        }
        self.take_effects();
    }

    /// Nobody asks for anything any more. The thread syncs only what somebody waits for, and yet nobody may go on
    /// waiting.
    pub(crate) fn settle_down(&mut self) -> Result<(), Dead> {
        loop {
            self.finish_round();
            while !self.orders.is_empty() {
                self.write_one()?;
            }
            if self.urgent {
                self.sync()?;
            }
            if self.reports.is_empty() {
                break;
            }
            self.hear();
        }
        assert_eq!(self.clients.waiting(), 0, "confirms or answers that nobody gets");
        Ok(())
    }

    /// Everything is taken out and acked, and that is durable.
    pub(crate) fn drain(&mut self) -> Result<(), Dead> {
        self.clients.all_disconnect().into_iter().for_each(|client| self.disconnect(client));
        for queue in self.oracle.queues.keys().copied().collect::<Vec<_>>() {
            while !self.oracle.queues[&queue].ready.is_empty() {
                self.get(0, queue, true);
            }
        }
        self.settle_down()?;
        self.sync()?;
        let shard = self.ledger.shard();
        assert_eq!((shard.live_bytes(), shard.message_bytes()), (0, 0), "nothing stays behind");
        Ok(())
    }

    fn take_effects(&mut self) {
        let mut deliveries = Vec::new();
        while let Some((connection, effects)) = self.ledger.poll_effects() {
            let mut last = BTreeMap::new();
            for effect in effects {
                let Effect::Deliver(delivery) = effect else {
                    self.take_effect(connection, effect);
                    continue;
                };
                for (messages, first) in delivery.messages.singles().zip(delivery.first..) {
                    let before = last.insert(delivery.queue, first);
                    assert!(before < Some(first), "a connection gets the messages of a queue in order");
                    deliveries.push((connection, Delivery { first, messages, ..delivery }));
                }
            }
        }
        deliveries.sort_by_key(|(_, delivery)| (delivery.queue, delivery.first));
        for (connection, delivery) in deliveries {
            let no_ack = self.clients.is_no_ack(connection, delivery.consumer);
            self.delivered(connection, &delivery, no_ack);
        }
        assert!(self.ledger.poll_notice().is_none(), "no queue here is auto-delete");
    }

    fn take_effect(&mut self, connection: ConnectionId, effect: Effect) {
        match effect {
            Effect::Deliver(_) => unreachable!("taken before"),
            Effect::Confirm(Confirm { first, last, .. }) => {
                for number in first..=last {
                    self.clients.confirmed(connection, number);
                    self.oracle.confirm(number, self.synced);
                    self.counts.confirmed += 1;
                }
            }
            Effect::Cancelled(consumer) => self.clients.cancelled(connection, consumer),
            Effect::Reply(token, reply) => {
                let reply = reply.unwrap_or_else(|error| panic!("only what is right is asked: {error}"));
                self.answered(connection, token, reply);
            }
        }
    }

    fn answered(&mut self, connection: ConnectionId, token: u64, reply: Reply) {
        match (self.clients.answered(token), reply) {
            (Asked::Get { queue, no_ack }, Reply::Got(delivery, ready)) => {
                let first = self.oracle.queues[&queue].ready.keys().next().copied();
                let got = delivery.map(|delivery| self.delivered(connection, &delivery, no_ack));
                assert_eq!(got, first, "basic.get takes the oldest");
                assert_eq!(ready, self.oracle.queues[&queue].ready.len(), "what still waits");
            }
            (Asked::Purge { count, settled }, Reply::Purged(purged)) => {
                assert_eq!(purged, count);
                self.check_settled(&settled);
            }
            (Asked::Sync { settled }, Reply::Synced) => self.check_settled(&settled),
            (Asked::Consume, Reply::Consuming) | (Asked::Cancel, Reply::Cancelled) => {}
            (Asked::Delete { queue }, Reply::Deletable(ready)) => {
                assert_eq!(ready, self.oracle.queues[&queue].ready.len());
            }
            (asked, reply) => panic!("{reply:?} is no answer to {asked:?}"),
        }
    }

    fn delivered(&mut self, connection: ConnectionId, delivery: &Delivery, no_ack: bool) -> u64 {
        let number = self.oracle.deliver(delivery, no_ack);
        self.clients.delivered(connection, delivery, number, no_ack);
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(delivery.redelivered);
        number
    }

    fn check_settled(&self, settled: &[(u64, u64)]) {
        for (queue, number) in settled {
            let durable = self.oracle.is_settled_for_good(*queue, *number);
            assert!(durable, "answered before the settling of {number} of queue {queue} was durable");
        }
    }
}

fn options(queue: u64, durable: bool) -> Options {
    Options { label: format!("queue '{queue}'"), durable, auto_delete: false }
}

/// Takes everything out of a ledger.
fn contents(mut ledger: Ledger, queues: impl Iterator<Item = u64>) -> BTreeMap<u64, Found> {
    let mut all = BTreeMap::new();
    for queue in queues {
        let mut found = Vec::new();
        loop {
            let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack: true };
            ledger.handle(INSPECTOR, Command::Request(0, get));
            let (_, effects) = ledger.poll_effects().expect("an answer");
            let Some(Effect::Reply(_, Ok(Reply::Got(got, _)))) = effects.into_iter().next() else {
                panic!("an answer to basic.get");
            };
            let Some(delivery) = got else { break };
            found.push((delivery.messages, delivery.redelivered));
        }
        all.insert(queue, found);
    }
    ledger.finish_round();
    ledger.shard().check();
    assert_eq!(
        (ledger.shard().live_bytes(), ledger.shard().message_bytes()),
        (0, 0),
        "an emptied broker is empty"
    );
    all
}
