//! A shard, its journal and its segments on one simulated disk, driven step by step, and what must be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broker::id::{ConnectionId, QueueId};
use broker::message::{Messages, Parts};
use broker::page::{Answer, Limits, Order};
use broker::queue::Options;
use broker::shard::{Batch, Command, Confirm, Delivery, Effect, Publish, Reply, Request};
use broker::topology::Settings;
use bytes::BytesMut;
use server::ledger::{Budget, Ledger, Pending, Recovery};
use server::pager::{Journal, Pages};
use store::sim::SimDisk;
use store::{Files, Lsn, Recovered};

pub(crate) const JOURNAL: &str = "/journal";
pub(crate) const SEGMENTS: &str = "/segments";
pub(crate) const QUEUES: [u64; 3] = [1, 2, 3];

const FILE_SIZE: u64 = 8192;
const BLOCK_SIZE: usize = 700;
/// Messages of a block at the most, and of a record.
pub(crate) const TOGETHER: usize = 40;

const CLIENT: ConnectionId = ConnectionId(1);
const LIMITS: Limits = Limits {
    queue: 1500,
    keep: 500,
    tail: 500,
    spill: 1000,
    front: 500,
    in_flight: 4000,
    hold: 1 << 20,
    busy: 0,
    idle: 3000,
    share: 500,
};

/// What is known of the messages of a queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) attempted: BTreeSet<u64>,
    pub(crate) confirmed: BTreeSet<u64>,
    /// Somebody is done with them.
    pub(crate) settled: BTreeSet<u64>,
    /// The same, and it is durable.
    pub(crate) gone: BTreeSet<u64>,
}

/// The disk failed.
#[derive(Debug)]
pub(crate) struct Dead;

pub(crate) struct Node {
    ledger: Ledger,
    files: Files<SimDisk>,
    pages: Pages<SimDisk>,
    pub(crate) expected: BTreeMap<u64, Expected>,
    /// Queues that are not deleted.
    pub(crate) queues: BTreeSet<u64>,
    next: u64,
    pub(crate) spilled: u64,
    pub(crate) removed: u64,
    pub(crate) forgotten: u64,
}

/// What a restart finds.
pub(crate) struct Found {
    pub(crate) recovered: Recovered,
    pub(crate) messages: BTreeMap<u64, Vec<u64>>,
    /// Messages that were not what was published.
    pub(crate) wrong: u64,
    /// Messages that the shard says are lost.
    pub(crate) lost: u64,
}

fn message(queue: u64, number: u64) -> Messages {
    let mut body = format!("message {number} of queue {queue}: ").into_bytes();
    let len = body.len() + usize::try_from(number * 37 % 150).expect("small");
    body.resize(len, u8::try_from(number % 251).expect("a byte"));
    Parts { route: b"\0\x01q", properties: &[0x10, 0, 2], body: &body }.to_messages()
}

/// Which message of the queue this is, if it is one.
fn number_of(queue: u64, found: &Messages) -> Option<u64> {
    let text = String::from_utf8_lossy(found.first().body()).into_owned();
    let number = text.strip_prefix("message ")?.split(' ').next()?.parse().ok()?;
    (found.as_bytes() == message(queue, number).as_bytes()).then_some(number)
}

/// How large everything is.
#[derive(Clone)]
pub(crate) struct Sizes {
    pub(crate) files: store::Options,
    pub(crate) segments: store::segment::Options,
    pub(crate) limits: Limits,
    pub(crate) window: usize,
}

fn tiny() -> Sizes {
    let files = store::Options {
        file_size: FILE_SIZE,
        zero_ahead_min: 1024,
        zero_ahead_max: 4096,
        reserve: 2048,
        ..store::Options::default()
    };
    let segments = store::segment::Options { segment_size: 6000, block_size: BLOCK_SIZE, files_open_max: 8 };
    Sizes { files, segments, limits: LIMITS, window: 4096 }
}

fn life() -> u64 {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    LIVES.fetch_add(1, Ordering::Relaxed)
}

/// As the server does at start.
pub(crate) fn start(disk: &SimDisk, queues: &BTreeSet<u64>) -> store::Result<(Node, Recovered)> {
    start_with(disk, queues, tiny())
}

pub(crate) fn start_with(
    disk: &SimDisk,
    queues: &BTreeSet<u64>,
    sizes: Sizes,
) -> store::Result<(Node, Recovered)> {
    let mut recovery = Recovery::default();
    recovery.limit_paging(sizes.limits);
    for queue in queues {
        let label = format!("queue '{queue}'");
        let settings = Settings::default();
        recovery.open(QueueId(*queue), Options { label, durable: true, auto_delete: false, settings });
    }
    let file_size = sizes.files.file_size;
    let replay = &mut |record: store::Record<'_>| recovery.replay(&record);
    let (files, recovered) = Files::open(disk.clone(), Path::new(JOURNAL), sizes.files, replay)?;
    let budget = Budget { journal_size: 4 * file_size, step: 2 * file_size };
    let ledger = recovery.finish(files.oldest(), recovered.next, budget);
    let damaged = recovered.next == Lsn::ZERO || !recovered.damaged.is_empty();
    let journal = if damaged { Journal::Damaged } else { Journal::Whole };
    let known = ledger.segments();
    let pages = Pages::open(disk.clone(), Path::new(SEGMENTS), sizes.segments, &known, journal, life)?;
    let pages = pages.with_window(sizes.window);
    let node = Node {
        ledger,
        files,
        pages,
        expected: BTreeMap::new(),
        queues: queues.clone(),
        next: 0,
        spilled: 0,
        removed: 0,
        forgotten: 0,
    };
    Ok((node, recovered))
}

/// Starts and takes everything out, changing nothing on the disk but what a start changes.
pub(crate) fn find(disk: &SimDisk, queues: &BTreeSet<u64>) -> store::Result<Found> {
    let (mut node, recovered) = start(disk, queues)?;
    node.ledger.shard().check();
    let (mut messages, mut wrong) = (BTreeMap::new(), 0);
    for queue in queues {
        let found: &mut Vec<u64> = messages.entry(*queue).or_default();
        while let Some(delivery) = node.get(*queue).unwrap_or_default() {
            match number_of(*queue, &delivery.messages) {
                Some(number) => found.push(number),
                None => wrong += 1,
            }
        }
    }
    let lost = node.ledger.shard().lost();
    Ok(Found { recovered, messages, wrong, lost })
}

impl Node {
    /// Everything that a shard does: publishes, spills, reads back, settles, requeues nothing, shortens, purges, deletes a
    /// queue; then it falls idle.
    pub(crate) fn work(&mut self) -> Result<(), Dead> {
        for round in 0..14 {
            for queue in self.queues.clone() {
                self.publish(queue, 8)?;
            }
            for _ in 0..5 {
                self.take(1)?;
            }
            if round == 6 {
                self.purge(2)?;
            }
            if round == 9 {
                // The topology without it is durable.
                self.queues.remove(&3);
                self.ledger.drop_queue(QueueId(3));
                self.finish()?;
            }
        }
        let idle = self.ledger.idle();
        idle.map_or(Ok(()), |mark| self.commit(mark))
    }

    /// Publishes messages with this body, in one round.
    pub(crate) fn publish_alike(&mut self, queue: u64, count: u32, body: &[u8]) -> Result<(), Dead> {
        let mut bytes = BytesMut::new();
        let parts = Parts { route: b"\0\x01q", properties: &[0x10, 0, 2], body };
        (0..count).for_each(|_| parts.encode(&mut bytes));
        let messages = Messages::encoded(bytes.freeze(), count);
        let one = Publish { messages, persistent: true, expires: false, route: 0, confirm: None };
        let batch =
            Batch { routes: vec![Arc::from([QueueId(queue)])], runs: vec![one], confirms: Vec::new() };
        self.ledger.handle(CLIENT, Command::Publish(batch));
        self.finish_quickly()
    }

    /// Takes a message for good, whatever it is; whether there was one. Durable with the next round.
    pub(crate) fn take_any(&mut self, queue: u64) -> Result<bool, Dead> {
        Ok(self.get(queue)?.is_some())
    }

    /// Ends the round, without a look at all that there is.
    pub(crate) fn finish_quickly(&mut self) -> Result<(), Dead> {
        while let Some(pending) = self.ledger.finish_round() {
            self.commit(pending)?;
            self.page()?;
        }
        self.page().map(drop)
    }

    fn publish(&mut self, queue: u64, count: u64) -> Result<(), Dead> {
        let first = self.next;
        self.next += count;
        let expected = self.expected.entry(queue).or_default();
        expected.attempted.extend(first..self.next);
        let one = |number| Publish {
            messages: message(queue, number),
            persistent: true,
            expires: false,
            route: 0,
            confirm: None,
        };
        let batch = Batch {
            routes: vec![Arc::from([QueueId(queue)])],
            runs: (first..self.next).map(one).collect(),
            confirms: vec![Confirm {
                publisher: u32::try_from(queue).expect("small"),
                first,
                last: self.next - 1,
            }],
        };
        self.ledger.handle(CLIENT, Command::Publish(batch));
        self.finish()
    }

    /// Takes a message for good.
    fn take(&mut self, queue: u64) -> Result<(), Dead> {
        self.get(queue)?;
        self.finish()
    }

    fn purge(&mut self, queue: u64) -> Result<(), Dead> {
        let expected = self.expected.entry(queue).or_default();
        expected.settled = expected.attempted.clone();
        self.ledger.handle(CLIENT, Command::Request(1, Request::Purge(QueueId(queue))));
        self.finish()
    }

    fn get(&mut self, queue: u64) -> Result<Option<Delivery>, Dead> {
        let get = Request::Get { queue: QueueId(queue), channel: 1, no_ack: true };
        self.ledger.handle(CLIENT, Command::Request(2, get));
        loop {
            if let Some(got) = self.take_effects() {
                return Ok(got);
            }
            let pending = self.ledger.finish_round();
            pending.map_or(Ok(()), |pending| self.commit(pending))?;
            if let Some(got) = self.page()? {
                return Ok(got);
            }
        }
    }

    /// Ends the round, makes it durable, and does what is to be done with segments.
    fn finish(&mut self) -> Result<(), Dead> {
        while let Some(pending) = self.ledger.finish_round() {
            self.commit(pending)?;
            self.page()?;
        }
        self.page()?;
        self.ledger.shard().check();
        // What was settled before is durable: every round is.
        for expected in self.expected.values_mut() {
            expected.gone.clone_from(&expected.settled);
        }
        Ok(())
    }

    fn commit(&mut self, pending: Pending) -> Result<(), Dead> {
        let mut next = Some(pending);
        while let Some(pending) = next.take() {
            self.files.write(&pending.round).map_err(|_| Dead)?;
            let synced = self.files.sync().map_err(|_| Dead)?;
            self.files.prepare().map_err(|_| Dead)?;
            let buffers = vec![pending.round.into_buffer()];
            let (forget, shortening) = self.ledger.synced(synced, self.files.oldest(), buffers);
            if let Some(before) = forget {
                self.forgotten += 1;
                self.files.forget(before).map_err(|_| Dead)?;
            }
            next = shortening;
        }
        self.take_effects();
        Ok(())
    }

    /// Carries out what the shard wants of segments; what was got on the way.
    fn page(&mut self) -> Result<Option<Option<Delivery>>, Dead> {
        let mut got = None;
        loop {
            let orders: Vec<Order> = std::iter::from_fn(|| self.ledger.poll_page()).collect();
            if orders.is_empty() && !self.pages.wants_retry() {
                return Ok(got);
            }
            self.removed +=
                orders.iter().filter(|order| matches!(order, Order::Remove { .. })).count() as u64;
            let mut answers = Vec::new();
            self.pages.carry_out(orders, |answer| answers.push(answer));
            if store::Disk::list(&self.disk(), Path::new(JOURNAL)).is_err() {
                return Err(Dead);
            }
            if answers.is_empty() {
                self.pages.retry(|answer| answers.push(answer));
            }
            for answer in answers {
                self.spilled += u64::from(matches!(answer, Answer::Spilled { .. }));
                self.ledger.paged(answer);
                got = got.or(self.take_effects());
            }
            let pending = self.ledger.finish_round();
            got = got.or(self.take_effects());
            pending.map_or(Ok(()), |pending| self.commit(pending))?;
        }
    }

    fn disk(&self) -> SimDisk {
        self.pages.disk().clone()
    }

    /// Notes confirms; what basic.get was answered.
    fn take_effects(&mut self) -> Option<Option<Delivery>> {
        let mut got = None;
        while let Some((_, effects)) = self.ledger.poll_effects() {
            for effect in effects {
                match effect {
                    Effect::Confirm(Confirm { publisher, first, last }) => {
                        let expected = self.expected.entry(publisher.into()).or_default();
                        expected.confirmed.extend(first..=last);
                    }
                    Effect::Reply(2, reply) => {
                        let Ok(Reply::Got(delivery, _)) = reply else { panic!("{reply:?}") };
                        // It needs no ack, so it is settled whatever happens next.
                        if let Some(delivery) = &delivery {
                            let number = number_of(delivery.queue.0, &delivery.messages);
                            let expected = self.expected.entry(delivery.queue.0).or_default();
                            expected.settled.extend(number);
                        }
                        got = Some(delivery);
                    }
                    _ => {}
                }
            }
        }
        got
    }
}

/// All files of the disk.
pub(crate) fn files(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let in_directory = |directory: &str| {
        let names = store::Disk::list(disk, Path::new(directory)).unwrap_or_default();
        let paths = names.into_iter().map(|name| Path::new(directory).join(name));
        paths.map(|path| (path.clone(), disk.contents(&path).expect("it is listed"))).collect::<Vec<_>>()
    };
    [JOURNAL, SEGMENTS].into_iter().flat_map(in_directory).collect()
}

/// A disk with these files, all durable.
pub(crate) fn disk_of(files: &[(PathBuf, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    for directory in [JOURNAL, SEGMENTS] {
        store::Disk::create_dir(&disk, Path::new(directory)).expect("a new disk");
    }
    files.iter().for_each(|(path, bytes)| disk.overwrite(path, bytes));
    disk
}
