//! The thread that keeps the backlog of a shard's queues in segments.
//!
//! It takes all orders that wait, appends what is to be spilled, syncs once, and reports. Only what is durable is
//! reported as spilled, so until then the messages are in memory and in the journal. A read that fails is tried again;
//! an append that fails is refused, and the shard hears when to try again. The thread starts with the first order: a
//! shard without a backlog has none.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broker::id::QueueId;
use broker::message::{Message, Messages};
use broker::page::{Answer, Extent, Order, Place, Run, Segment};
use store::segment::{Chunk, Id, Name, NewRun, Options, Reader, Writer};
use store::{Disk, Kind};
use tracing::{error, warn};

/// After this time what failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const WINDOW: usize = 256 << 10;

/// Segments that are open to be read.
const READERS_MAX: usize = 64;

/// Orders that are carried out with one sync.
const ROUND_MAX: usize = 64;

/// The segments of a shard, and what is to be done with them. Does I/O on whatever thread calls it.
#[derive(Debug)]
pub struct Pages<D: Disk> {
    disk: D,
    directory: PathBuf,
    options: Options,
    window: usize,
    known: Vec<Name>,
    random: fn() -> u64,
    /// None until it is needed, and after a failed sync.
    writer: Option<Writer<D>>,
    /// Behind which message the current segment of a queue ends.
    ends: HashMap<u64, u64>,
    readers: HashMap<Id, Reader<D::File>>,
    /// What must be tried again.
    failed: Vec<Order>,
    refused: bool,
}

impl<D: Disk + Clone> Pages<D> {
    /// The segments in `directory`. `known` are those that hold messages; the others are leftovers and removed. `random`
    /// gives each life of the broker a number that no other had.
    pub fn open(
        disk: D,
        directory: &Path,
        options: Options,
        known: Vec<(QueueId, Segment)>,
        random: fn() -> u64,
    ) -> store::Result<Pages<D>> {
        let known: Vec<Name> = known.into_iter().map(|(queue, segment)| name(queue, segment)).collect();
        let mut pages = Pages {
            disk,
            directory: directory.to_owned(),
            options,
            window: WINDOW,
            known,
            random,
            writer: None,
            ends: HashMap::new(),
            readers: HashMap::new(),
            failed: Vec::new(),
            refused: false,
        };
        pages.remove_leftovers()?;
        Ok(pages)
    }

    /// Reads so many bytes at once, instead of 256 KiB.
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Pages<D> {
        self.window = window;
        self
    }

    /// Carries out orders, with one sync, and calls `report` with each answer. What failed is kept for [`Pages::retry`].
    pub fn carry_out(&mut self, orders: impl IntoIterator<Item = Order>, mut report: impl FnMut(Answer)) {
        let mut spilled = Vec::new();
        let mut volatile = true;
        for order in orders {
            match order {
                Order::Spill { queue, token, runs } => match self.append(queue, &runs) {
                    Ok(extent) => {
                        volatile &= runs.iter().all(|run| run.flags & broker::page::TRANSIENT != 0);
                        spilled.push((queue, token, extent));
                    }
                    Err(why) => report(self.refuse(queue, token, &why)),
                },
                Order::Append { queue, token, runs, begins_segment } => {
                    if let Some(writer) = self.writer.as_mut().filter(|_| begins_segment) {
                        writer.close(queue.0);
                    }
                    match self.append(queue, &runs) {
                        Ok(extent) => {
                            volatile = false;
                            spilled.push((queue, token, extent));
                        }
                        Err(why) => report(self.refuse(queue, token, &why)),
                    }
                }
                Order::Read { queue, token, extent } => match self.read(queue, token, extent) {
                    Ok(answer) => report(answer),
                    Err(why) => {
                        error!(%queue, sequence = extent.from.sequence, %why, "cannot read a backlog; trying again");
                        self.failed.push(Order::Read { queue, token, extent });
                    }
                },
                Order::Remove { queue, segment } => self.remove(queue, segment),
            }
        }
        // What does not survive a restart need not be durable.
        let synced = if volatile { Ok(()) } else { self.sync() };
        for (queue, token, extent) in spilled {
            report(match synced {
                Ok(()) => Answer::Spilled { queue, token, extent },
                Err(()) => Answer::Refused { queue, token },
            });
        }
    }

    /// Whether something failed and is to be tried again later, with [`Pages::retry`].
    pub fn wants_retry(&self) -> bool {
        self.refused || !self.failed.is_empty()
    }

    /// Tries again what failed.
    pub fn retry(&mut self, mut report: impl FnMut(Answer)) {
        if std::mem::take(&mut self.refused) {
            report(Answer::TryAgain);
        }
        let failed = std::mem::take(&mut self.failed);
        self.carry_out(failed, report);
    }

    fn remove_leftovers(&mut self) -> store::Result<()> {
        let names = match self.disk.list(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let what = format!("cannot list {}: {error}", self.directory.display());
                return Err(store::Error::new(Kind::Disk, what));
            }
        };
        let known: HashSet<Name> = self.known.iter().copied().collect();
        for file in names {
            if Name::parse(&file).is_some_and(|name| !known.contains(&name))
                && let Err(why) = self.disk.remove(&self.directory.join(&file))
            {
                warn!(file, %why, "cannot remove a segment that nobody needs");
            }
        }
        Ok(())
    }

    fn refuse(&mut self, queue: QueueId, token: u64, why: &store::Error) -> Answer {
        warn!(%queue, %why, "a backlog stays in memory");
        self.refused = true;
        Answer::Refused { queue, token }
    }

    fn append(&mut self, queue: QueueId, runs: &[Run]) -> store::Result<Extent> {
        if self.writer.is_none() {
            let known = self.known.iter().copied();
            let (disk, options) = (self.disk.clone(), self.options.clone());
            self.writer = Some(Writer::open(disk, &self.directory, options, (self.random)(), known)?);
            self.ends.clear();
        }
        let writer = self.writer.as_mut().expect("just opened");
        let end = runs.last().map_or(0, |run| run.first + u64::from(run.messages.count()));
        if self.ends.insert(queue.0, end).is_some_and(|before| runs[0].first < before) {
            // Messages that were put back: a segment ascends.
            writer.close(queue.0);
        }
        let length = |message: Message<'_>| u32::try_from(message.size()).expect("a message is below 4 GiB");
        let lengths: Vec<Vec<u32>> =
            runs.iter().map(|run| run.messages.iter().map(length).collect()).collect();
        let runs: Vec<NewRun<'_>> = runs
            .iter()
            .zip(&lengths)
            .map(|(run, lengths)| NewRun {
                first: run.first,
                flags: run.flags,
                bytes: run.messages.as_bytes(),
                lengths,
            })
            .collect();
        let extent = writer.append(queue.0, &runs)?;
        Ok(Extent {
            segment: Segment { number: extent.id.name.number, incarnation: extent.id.incarnation },
            from: from_store(extent.from),
            to: from_store(extent.to),
        })
    }

    fn sync(&mut self) -> Result<(), ()> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        writer.sync().map(drop).map_err(|why| {
            error!(%why, "a backlog stays in memory");
            self.refused = true;
            // What a failed sync has left is not trusted, and nobody was told of it: begin new segments.
            self.writer = None;
        })
    }

    fn read(&mut self, queue: QueueId, token: u64, extent: Extent) -> store::Result<Answer> {
        let id = Id { name: name(queue, extent.segment), incarnation: extent.segment.incarnation };
        if !self.readers.contains_key(&id) {
            match Reader::open(&self.disk, &self.directory, id) {
                Ok(reader) => self.keep(id, reader),
                Err(why) if why.kind == Kind::Foreign => {
                    error!(%queue, %why, "all messages of a segment are lost");
                    return Ok(Answer::Read { queue, token, runs: Vec::new(), next: extent.to });
                }
                Err(why) => return Err(why),
            }
        }
        let reader = &self.readers[&id];
        let read = reader.read(to_store(extent.from), to_store(extent.to), self.window)?;
        Ok(answer(queue, token, read))
    }

    fn keep(&mut self, id: Id, reader: Reader<D::File>) {
        if let Some(damage) = reader.damage() {
            warn!(segment = %id, %damage, "the header of a segment is damaged");
        }
        if self.readers.len() >= READERS_MAX {
            self.readers.clear();
        }
        self.readers.insert(id, reader);
    }

    fn remove(&mut self, queue: QueueId, segment: Segment) {
        let name = name(queue, segment);
        self.readers.remove(&Id { name, incarnation: segment.incarnation });
        let removed = match &mut self.writer {
            Some(writer) => writer.remove(name),
            None => self
                .disk
                .remove(&self.directory.join(name.file_name()))
                .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
                .map_err(|error| store::Error::new(Kind::Disk, error.to_string())),
        };
        if let Err(why) = removed {
            warn!(%queue, %why, "cannot remove a segment that nobody needs");
        }
    }
}

fn answer(queue: QueueId, token: u64, read: Chunk) -> Answer {
    for damage in &read.damages {
        error!(%queue, %damage, "a backlog is damaged; the rest is served");
    }
    let next = from_store(read.next);
    let runs = read.runs.into_iter().filter_map(|run| {
        let (first, end) = (run.first, run.end());
        let messages = Messages::decode(run.bytes).filter(|it| u64::from(it.count()) == end - first);
        if messages.is_none() {
            error!(%queue, first, end, "messages of a backlog make no sense and are lost");
        }
        Some(Run { first, flags: run.flags, messages: messages? })
    });
    Answer::Read { queue, token, runs: runs.collect(), next }
}

fn name(queue: QueueId, segment: Segment) -> Name {
    Name { queue: queue.0, number: segment.number }
}

fn from_store(place: store::segment::Place) -> Place {
    Place { offset: place.offset, sequence: place.sequence }
}

fn to_store(place: Place) -> store::segment::Place {
    store::segment::Place { offset: place.offset, sequence: place.sequence }
}

/// Starts the thread.
type Start = Box<dyn FnOnce(Receiver<Order>) -> std::io::Result<JoinHandle<()>> + Send>;

/// The way to the thread. When it is dropped, the thread ends.
pub struct Pager {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    start: Option<Start>,
}

impl Pager {
    /// `report` is called on the thread, which starts with the first order; with `None` when it has panicked and nothing
    /// more will be answered.
    pub fn new<D: Disk + Clone + 'static>(
        shard: &str,
        pages: Pages<D>,
        report: impl Fn(Option<Answer>) + Send + 'static,
    ) -> Pager
    where
        D::File: Send,
    {
        let name = format!("pager-{shard}");
        let start = move |inbox: Receiver<Order>| {
            std::thread::Builder::new().name(name).spawn(move || {
                let answer = |answer| report(Some(answer));
                if catch_unwind(AssertUnwindSafe(|| work(pages, &inbox, &answer))).is_err() {
                    report(None);
                }
            })
        };
        Pager { orders: None, thread: None, start: Some(Box::new(start)) }
    }

    /// Hands over an order; an error when there can be no thread.
    pub fn order(&mut self, order: Order) -> std::io::Result<()> {
        if let Some(start) = self.start.take() {
            let (orders, inbox) = channel();
            self.thread = Some(start(inbox)?);
            self.orders = Some(orders);
        }
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
        Ok(())
    }

    /// Carries out what was ordered and ends the thread.
    pub fn finish(mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a pager thread has panicked");
        }
    }
}

fn work<D: Disk + Clone>(mut pages: Pages<D>, inbox: &Receiver<Order>, report: &impl Fn(Answer)) {
    let mut retry_at: Option<Instant> = None;
    loop {
        let first = match retry_at {
            Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(first) => {
                let more = std::iter::from_fn(|| inbox.try_recv().ok()).take(ROUND_MAX);
                pages.carry_out(std::iter::once(first).chain(more), report);
            }
            Err(RecvTimeoutError::Timeout) => {
                retry_at = None;
                pages.retry(report);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if retry_at.is_none() && pages.wants_retry() {
            retry_at = Some(Instant::now() + RETRY_DELAY);
        }
    }
}
