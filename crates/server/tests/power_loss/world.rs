//! A broker's shard on a disk that loses power: the server's own lines, with clients and a journal thread made of a seed.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use broker::id::{ConnectionId, QueueId};
use broker::page::{Answer, Limits, Order as PageOrder, Segment};
use broker::queue::Options;
use broker::shard::{Command, Confirm, Delivery, Effect, Reply, Request};
use broker::topology::Settings;
use server::ledger::{Budget, Ledger, Pending, Recovery};
use server::pager::{Journal, Pages};
use store::sim::{Call, Fault, Planned, Random, SimDisk};
use store::{Files, Lsn, Round};

use crate::clients::{Asked, Clients};
use crate::oracle::{Found, Oracle, Wrong};

const DIR: &str = "/journal";
const SEGMENTS: &str = "/segments";
/// Bytes of a segment that are read at once.
const WINDOW: usize = 4096;
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
    /// Spills that were durable, windows that were read, segments that went, segments that held messages after a crash.
    pub(crate) spilled: u64,
    pub(crate) paged_in: u64,
    pub(crate) removed: u64,
    pub(crate) segments: u64,
    /// Spills that the disk refused.
    pub(crate) refused: u64,
    /// Rounds that a full disk refused, until it had room.
    pub(crate) full: u64,
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
        self.spilled += other.spilled;
        self.paged_in += other.paged_in;
        self.removed += other.removed;
        self.segments += other.segments;
        self.refused += other.refused;
        self.full += other.full;
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

/// What a client hears.
enum Happened {
    Replied(u64, Result<Reply, broker::error::Error>),
    Delivered(Delivery),
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
    limits: Limits,
    files: Option<Files<SimDisk>>,
    pages: Option<Pages<SimDisk>>,
    /// What the pager's thread was asked, and what it has answered.
    page_orders: VecDeque<PageOrder>,
    page_answers: VecDeque<Answer>,
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
    /// Chances in a hundred that a step carries out orders for segments, hears of them.
    page_chances: [u64; 2],
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
            reserve: [0, 3000][random.index(2)],
            ..store::Options::default()
        };
        let budget = Budget { journal_size: file_size * [2, 4][random.index(2)], step: 2 * file_size };
        let page_chances = [10 + random.below(90), 10 + random.below(90)];
        let limits = limits(&mut random);
        let mut world = World {
            page_chances,
            limits,
            pages: None,
            page_orders: VecDeque::new(),
            page_answers: VecDeque::new(),
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
        self.break_segments();
        self.fill_disk();
        let steps = self.random.below(50);
        let died = (0..steps).any(|_| self.step().is_err());
        self.counts.inside_calls += u64::from(died);
        assert!(!died || self.disk_is_down(), "only a power cut keeps the disk from working");
        self.end_and_recover()
    }

    /// Sometimes the disk takes no more segments for a while, because it is full or fails.
    fn break_segments(&mut self) {
        if self.random.below(3) > 0 {
            return;
        }
        // A read that fails is tried again, so it is the same as one that comes late.
        let calls = [Call::Create, Call::Write, Call::Sync, Call::SyncDir, Call::Remove, Call::Open];
        self.disk.plan(Planned {
            nth: 1 + self.random.below(10),
            only: Some(calls[self.random.index(calls.len())]),
            below: Some(SEGMENTS.into()),
            fault: [Fault::Io, Fault::Full, Fault::Short][self.random.index(3)],
            times: 1 + self.random.below(4),
        });
    }

    /// Sometimes there is no room for the journal for a while.
    fn fill_disk(&mut self) {
        if self.random.below(3) > 0 {
            return;
        }
        let calls = [Call::Create, Call::Write, Call::Zero, Call::Rename, Call::Remove];
        self.disk.plan(Planned {
            nth: 1 + self.random.below(10),
            only: Some(calls[self.random.index(calls.len())]),
            below: Some(DIR.into()),
            fault: [Fault::Full, Fault::Short][self.random.index(2)],
            times: 1 + self.random.below(4),
        });
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
        self.pages = None;
        for attempt in 0.. {
            if attempt < FAILED_RECOVERIES_MAX && self.random.below(4) == 0 {
                let nth = 1 + self.random.below(12);
                self.disk.fail(nth, None, Fault::PowerCut);
            }
            match self.try_recover() {
                Ok(found) => return self.recovered(found, survives),
                // All that a segment held, whose file is not there.
                Err(error) if error.kind == store::Kind::Foreign => {
                    return Wrong { lost: 1, ..Wrong::default() };
                }
                Err(error) => {
                    assert!(self.disk_is_down(), "only the disk can keep a broker from coming back: {error}")
                }
            }
            self.counts.in_recovery += 1;
            if self.end() == End::PowerCut {
                // A recovery that got as far as to sync what it read goes on behind all that there was.
                survives = survives.min(self.synced);
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
        live.limit_paging(self.limits);
        copy.limit_paging(self.limits);
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
        let known = self.ledger.segments();
        let mut pages = open_pages(&self.disk, &known)?;
        self.counts.segments += self.ledger.segments().len() as u64;
        let (found, lost) = contents(copy, &mut pages, self.oracle.queues.keys().copied());
        self.damaged += lost;
        if self.disk_is_down() {
            return Err(store::Error::new(
                store::Kind::Disk,
                "the power went while the broker was looked at",
            ));
        }
        self.pages = Some(pages);
        Ok(found)
    }

    fn recovered(&mut self, found: BTreeMap<u64, Found>, survives: Lsn) -> Wrong {
        self.counts.recovered += found.values().map(|found| found.len() as u64).sum::<u64>();
        self.orders.clear();
        self.page_orders.clear();
        self.page_answers.clear();
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
        let [carry_out, hear_page] = self.page_chances;
        if self.random.below(100) < carry_out {
            let count = 1 + self.random.index(4);
            self.carry_out(count)?;
        }
        if self.random.below(100) < carry_out / 4 {
            self.retry_pages()?;
        }
        if self.random.below(100) < hear_page {
            self.hear_page();
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
        self.take_pages();
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
                match files.write(&round) {
                    Err(error) if error.kind == store::Kind::Full => {
                        self.orders.push_front(Order::Write(round, urgent));
                        self.counts.full += 1;
                        return Ok(());
                    }
                    written => written.map_err(|_| Dead)?,
                }
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
        files.prepare().map(drop).map_err(|_| Dead)
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

    fn take_pages(&mut self) {
        while let Some(order) = self.ledger.poll_page() {
            self.page_orders.push_back(order);
        }
    }

    /// The pager's thread carries out some orders with one sync.
    pub(crate) fn carry_out(&mut self, count: usize) -> Result<(), Dead> {
        let Some(pages) = self.pages.as_mut() else { return Ok(()) };
        let count = count.min(self.page_orders.len());
        let removed = |order: &PageOrder| matches!(order, PageOrder::Remove { .. });
        let orders: Vec<PageOrder> = self.page_orders.drain(..count).collect();
        let removals = orders.iter().filter(|order| removed(order)).count() as u64;
        let answers = &mut self.page_answers;
        pages.carry_out(orders, |answer| answers.push_back(answer));
        if self.disk_is_down() {
            return Err(Dead);
        }
        self.counts.removed += removals;
        Ok(())
    }

    /// A second has gone by: the pager's thread tries again what failed.
    fn retry_pages(&mut self) -> Result<(), Dead> {
        let Some(pages) = self.pages.as_mut().filter(|pages| pages.wants_retry()) else { return Ok(()) };
        let answers = &mut self.page_answers;
        pages.retry(|answer| answers.push_back(answer));
        if self.disk_is_down() { Err(Dead) } else { Ok(()) }
    }

    pub(crate) fn hear_page(&mut self) {
        let Some(answer) = self.page_answers.pop_front() else { return };
        match answer {
            Answer::Spilled { .. } => self.counts.spilled += 1,
            Answer::Read { .. } => self.counts.paged_in += 1,
            Answer::Refused { .. } => self.counts.refused += 1,
            Answer::TryAgain => {}
        }
        self.ledger.paged(answer);
        self.take_effects();
        self.take_pages();
    }

    /// All that was asked of segments is done and heard of.
    fn settle_pages(&mut self) -> Result<(), Dead> {
        let wants_retry = |pages: &Option<Pages<SimDisk>>| pages.as_ref().is_some_and(Pages::wants_retry);
        while !self.page_orders.is_empty() || !self.page_answers.is_empty() || wants_retry(&self.pages) {
            self.carry_out(usize::MAX)?;
            self.retry_pages()?;
            self.hear_page();
            self.finish_round();
        }
        Ok(())
    }

    /// Nobody asks for anything any more. The thread syncs only what somebody waits for, and yet nobody may go on
    /// waiting.
    pub(crate) fn settle_down(&mut self) -> Result<(), Dead> {
        loop {
            self.finish_round();
            self.settle_pages()?;
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
                self.finish_round();
                self.settle_pages()?;
            }
        }
        self.settle_down()?;
        self.sync()?;
        let shard = self.ledger.shard();
        assert_eq!((shard.live_bytes(), shard.message_bytes()), (0, 0), "nothing stays behind");
        assert_eq!(shard.lost(), 0, "segments are as they were written");
        self.hear_all()?;
        let left = store::Disk::list(&self.disk, Path::new(SEGMENTS)).unwrap_or_default();
        assert!(left.is_empty() || self.disk_is_down(), "segments that nobody wants: {left:?}");
        Ok(())
    }

    /// The shard hears of all syncs, and what it then wants of segments is done.
    fn hear_all(&mut self) -> Result<(), Dead> {
        while !self.reports.is_empty() {
            self.hear();
        }
        self.finish_round();
        self.settle_pages()
    }

    fn take_effects(&mut self) {
        let (mut deliveries, mut replies) = (Vec::new(), Vec::new());
        while let Some((connection, effects)) = self.ledger.poll_effects() {
            let mut last = BTreeMap::new();
            for effect in effects {
                let delivery = match effect {
                    Effect::Deliver(delivery) => delivery,
                    Effect::Reply(token, reply) => {
                        replies.push((connection, token, reply));
                        continue;
                    }
                    other => {
                        self.take_effect(connection, &other);
                        continue;
                    }
                };
                for (messages, first) in delivery.messages.singles().zip(delivery.first..) {
                    let before = last.insert(delivery.queue, first);
                    assert!(before < Some(first), "a connection gets the messages of a queue in order");
                    deliveries.push((connection, Delivery { first, messages, ..delivery }));
                }
            }
        }
        // Consumers and those who waited for the disk are served in the order of the queue; last, who gets nothing.
        let got = |reply: &Result<Reply, _>| match reply {
            Ok(Reply::Got(Some(delivery), _)) => (1, delivery.queue, delivery.first),
            Ok(Reply::Got(None, _)) => (2, QueueId(0), 0),
            _ => (0, QueueId(0), 0),
        };
        let replied = |(connection, token, reply)| (got(&reply), connection, Happened::Replied(token, reply));
        let mut happened: Vec<_> = replies.into_iter().map(replied).collect();
        happened.extend(deliveries.into_iter().map(|(connection, delivery)| {
            ((1, delivery.queue, delivery.first), connection, Happened::Delivered(delivery))
        }));
        happened.sort_by_key(|(order, ..)| *order);
        for (_, connection, happened) in happened {
            match happened {
                Happened::Delivered(delivery) => {
                    let no_ack = self.clients.is_no_ack(connection, delivery.consumer);
                    self.delivered(connection, &delivery, no_ack);
                }
                Happened::Replied(token, Ok(reply)) => self.answered(connection, token, reply),
                Happened::Replied(token, Err(error)) => {
                    let asked = self.clients.answered(token);
                    let gone = |queue| !self.oracle.queues.contains_key(queue);
                    let waited = matches!(&asked, Asked::Get { queue, .. } if gone(queue));
                    assert!(waited, "only what is right is asked: {error}");
                }
            }
        }
        assert!(self.ledger.poll_notice().is_none(), "no queue here is auto-delete");
    }

    fn take_effect(&mut self, connection: ConnectionId, effect: &Effect) {
        match effect {
            Effect::Deliver(_) | Effect::Reply(..) => unreachable!("taken before"),
            Effect::Confirm(Confirm { first, last, .. }) => {
                for number in *first..=*last {
                    self.clients.confirmed(connection, number);
                    self.oracle.confirm(number, self.synced);
                    self.counts.confirmed += 1;
                }
            }
            Effect::Refused(_) | Effect::Forward(_) | Effect::TimedOut(..) => {
                unreachable!("queues are plain")
            }
            Effect::Cancelled(consumer) => self.clients.cancelled(connection, *consumer),
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
    Options { label: format!("queue '{queue}'"), durable, auto_delete: false, settings: Settings::default() }
}

/// Room for a few messages of a queue, or for many.
fn limits(random: &mut Random) -> Limits {
    let unit = [300, 1000, 4000][random.index(3)];
    let [queue, keep, tail, spill] = [3 * unit, unit, unit, 2 * unit];
    let (idle, share) = ([4 * unit, 100 * unit][random.index(2)], unit / 2);
    Limits {
        queue,
        keep,
        tail,
        spill,
        front: unit,
        in_flight: 6 * unit,
        hold: 12 * unit,
        busy: 0,
        idle,
        share,
    }
}

fn open_pages(disk: &SimDisk, known: &[(QueueId, Segment)]) -> store::Result<Pages<SimDisk>> {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    let options =
        store::segment::Options { segment_size: 6000, block_size: 700, ..store::segment::Options::default() };
    let life = || LIVES.fetch_add(1, Ordering::Relaxed);
    Ok(Pages::open(disk.clone(), Path::new(SEGMENTS), options, known, Journal::Whole, life)?
        .with_window(WINDOW))
}

/// Takes everything out of a ledger, and counts what should be in its segments and is not. It spills nothing and removes nothing: the other ledger goes on with its segments.
fn contents(
    mut ledger: Ledger,
    pages: &mut Pages<SimDisk>,
    queues: impl Iterator<Item = u64>,
) -> (BTreeMap<u64, Found>, u64) {
    let mut all = BTreeMap::new();
    for queue in queues {
        let mut found = Vec::new();
        loop {
            let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack: true };
            ledger.handle(INSPECTOR, Command::Request(0, get));
            let Some(effects) = answer(&mut ledger, pages) else { return (BTreeMap::new(), 0) };
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
    (all, ledger.shard().lost())
}

/// The answer to the inspector, once what must be read is read; `None` when the power went.
fn answer(ledger: &mut Ledger, pages: &mut Pages<SimDisk>) -> Option<Vec<Effect>> {
    loop {
        if let Some((_, effects)) = ledger.poll_effects() {
            return Some(effects);
        }
        ledger.finish_round();
        let orders = std::iter::from_fn(|| ledger.poll_page());
        let reads: Vec<_> = orders.filter(|order| matches!(order, PageOrder::Read { .. })).collect();
        let mut answers = Vec::new();
        pages.carry_out(reads, |answer| answers.push(answer));
        if answers.is_empty() {
            return None;
        }
        answers.into_iter().for_each(|answer| ledger.paged(answer));
    }
}
