//! The thread that keeps the backlog of a shard's queues in segments.
//!
//! It takes all orders that wait, appends what is to be spilled, syncs once, and reports. Only what is durable is
//! reported as spilled, so until then the messages are in memory and in the journal. A read that fails is tried again,
//! and some times later gives what the disk does give; an append that fails is refused, and the shard hears when to try
//! again. The thread starts with the first order: a shard without a backlog has none.

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
use tracing::{error, info, warn};

/// After this time what failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// After this time without an order, buffers are given back.
const REST_AFTER: Duration = Duration::from_millis(200);

/// After so many tries a read gives what the disk gives, and the rest is lost.
pub const READ_TRIES_MAX: u32 = 5;

/// What the name of a segment ends with that was put aside.
pub const ORPHAN: &str = "orphan";

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
    readers_max: usize,
    retry_delay: Duration,
    known: Vec<Name>,
    random: fn() -> u64,
    /// None until it is needed, and after a failed sync.
    writer: Option<Writer<D>>,
    /// Behind which message the current segment of a queue ends.
    ends: HashMap<u64, u64>,
    readers: HashMap<Id, Reader<D::File>>,
    /// What must be tried again.
    failed: Vec<Wanted>,
    refused: bool,
    /// The log has said so.
    refusing: bool,
}

/// A window that is to be read.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    queue: QueueId,
    token: u64,
    extent: Extent,
    /// How often it was tried in vain.
    tries: u32,
}

/// Whether the journal that names the segments can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// It is as it was written: what it does not name is a leftover, and what it names must be there.
    Whole,
    /// Something of it is missing: what it does not name may hold messages, and what it names may be settled and gone.
    Damaged,
}

impl<D: Disk + Clone> Pages<D> {
    /// The segments in `directory`. `known` are those that hold messages, by what the `journal` says. The others are
    /// removed, or, if they might hold messages too, put aside. `random` gives each life of the broker a number that no
    /// other had.
    ///
    /// # Errors
    /// When a segment that holds messages is missing, or its file is another's: then nothing was changed.
    pub fn open(
        disk: D,
        directory: &Path,
        options: Options,
        known: &[(QueueId, Segment)],
        journal: Journal,
        random: fn() -> u64,
    ) -> store::Result<Pages<D>> {
        let pages = Pages {
            disk,
            directory: directory.to_owned(),
            options,
            window: WINDOW,
            readers_max: READERS_MAX,
            retry_delay: RETRY_DELAY,
            known: known.iter().map(|(queue, segment)| name(*queue, *segment)).collect(),
            random,
            writer: None,
            ends: HashMap::new(),
            readers: HashMap::new(),
            failed: Vec::new(),
            refused: false,
            refusing: false,
        };
        pages.verify(known, journal)?;
        let leftovers = pages.leftovers()?;
        match journal {
            Journal::Whole => pages.remove_all(&leftovers),
            Journal::Damaged => pages.put_aside(&leftovers)?,
        }
        Ok(pages)
    }

    /// Where the segments are.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Keeps so many segments open to write, and as many to read, instead of 64.
    #[must_use]
    pub fn with_open_max(mut self, files: usize) -> Pages<D> {
        self.options.files_open_max = files;
        self.readers_max = files;
        self
    }

    /// Tries again after this time, instead of a second.
    #[must_use]
    pub fn with_retry_delay(mut self, delay: Duration) -> Pages<D> {
        self.retry_delay = delay;
        self
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
                    Err(why) => {
                        self.refuse(&why);
                        report(Answer::Refused { queue, token });
                    }
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
                        Err(why) => {
                            self.refuse(&why);
                            report(Answer::Refused { queue, token });
                        }
                    }
                }
                Order::Read { queue, token, extent } => {
                    self.try_read(Wanted { queue, token, extent, tries: 0 })
                        .into_iter()
                        .for_each(&mut report);
                }
                Order::Remove { queue, segment } => self.remove(queue, segment),
            }
        }
        // What does not survive a restart need not be durable.
        let failed = self.writer.as_ref().is_some_and(Writer::is_failed);
        let synced = if volatile && !failed { Ok(()) } else { self.sync() };
        if synced.is_err() {
            self.begin_anew(&spilled);
        }
        for (queue, token, extent) in spilled {
            report(match synced {
                Ok(()) => Answer::Spilled { queue, token, extent: from_extent(&extent) },
                Err(()) => Answer::Refused { queue, token },
            });
        }
    }

    /// Gives buffers back: nothing comes for a while.
    pub fn rest(&mut self) {
        self.writer.iter_mut().for_each(Writer::rest);
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
        for wanted in std::mem::take(&mut self.failed) {
            self.try_read(wanted).into_iter().for_each(&mut report);
        }
    }

    fn verify(&self, known: &[(QueueId, Segment)], journal: Journal) -> store::Result<()> {
        for (queue, segment) in known {
            match store::segment::verify(&self.disk, &self.directory, id(*queue, *segment)) {
                Err(why) if why.kind == Kind::Foreign && journal == Journal::Damaged => {
                    error!(%queue, %why, "a damaged journal names a segment that is not there");
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Segments that the journal does not name.
    fn leftovers(&self) -> store::Result<Vec<Name>> {
        let names = match self.disk.list(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                let what = format!("cannot list {}: {error}", self.directory.display());
                return Err(store::Error::new(Kind::Disk, what));
            }
        };
        let known: HashSet<Name> = self.known.iter().copied().collect();
        let names = names.iter().filter_map(|file| Name::parse(file));
        Ok(names.filter(|name| !known.contains(name)).collect())
    }

    fn remove_all(&self, names: &[Name]) {
        for name in names {
            if let Err(why) = self.disk.remove(&self.directory.join(name.file_name())) {
                warn!(%name, %why, "cannot remove a segment that nobody needs");
            }
        }
    }

    /// Gives segments a name under which nothing is done to them.
    fn put_aside(&self, names: &[Name]) -> store::Result<()> {
        for name in names {
            let file = self.directory.join(name.file_name());
            let aside = file.with_extension(format!("{:016x}.{ORPHAN}", (self.random)()));
            self.disk.rename(&file, &aside).map_err(|error| {
                let what = format!("cannot put {} aside: {error}", file.display());
                store::Error::new(Kind::Disk, what)
            })?;
            error!(
                %name,
                file = %aside.display(),
                "the journal is damaged or gone and does not name this segment, which may hold messages: put aside"
            );
        }
        Ok(())
    }

    fn append(&mut self, queue: QueueId, runs: &[Run]) -> store::Result<store::segment::Extent> {
        if self.writer.is_none() {
            let known = self.known.iter().copied();
            let (disk, options) = (self.disk.clone(), self.options.clone());
            self.writer = Some(Writer::open(disk, &self.directory, options, (self.random)(), known)?);
            self.ends.clear();
        }
        let writer = self.writer.as_mut().expect("just opened");
        let end = runs.last().map_or(0, |run| run.first + u64::from(run.messages.count()));
        if self.ends.get(&queue.0).is_some_and(|before| runs[0].first < *before) {
            // Messages that were put back: a segment ascends.
            writer.close(queue.0);
            self.ends.remove(&queue.0);
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
        self.ends.insert(queue.0, end);
        Ok(extent)
    }

    fn sync(&mut self) -> Result<(), ()> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        match writer.sync() {
            Ok(_) => {
                if std::mem::take(&mut self.refusing) {
                    info!(directory = %self.directory.display(), "backlogs go to the disk again");
                }
                Ok(())
            }
            Err(why) => {
                self.refuse(&why);
                Err(())
            }
        }
    }

    fn refuse(&mut self, why: &store::Error) {
        self.refused = true;
        if !std::mem::replace(&mut self.refusing, true) {
            warn!(%why, "backlogs stay in memory until the disk takes them");
        }
    }

    /// What a failed sync has left is not trusted, and nobody was told of it: new segments begin, and those that hold
    /// nothing else go.
    fn begin_anew(&mut self, spilled: &[(QueueId, u64, store::segment::Extent)]) {
        self.refused = true;
        let Some(writer) = self.writer.take() else { return };
        let begun =
            spilled.iter().filter(|(.., extent)| extent.begins_file()).map(|(.., extent)| extent.id.name);
        let useless: HashSet<Name> = begun.chain(writer.unwritten()).collect();
        drop(writer);
        self.readers.retain(|id, _| !useless.contains(&id.name));
        self.remove_all(&Vec::from_iter(useless));
    }

    /// The answer, unless it is to be tried again later.
    fn try_read(&mut self, wanted: Wanted) -> Option<Answer> {
        let Wanted { queue, extent, tries, .. } = wanted;
        let why = match self.read(wanted) {
            Ok(answer) => return Some(answer),
            Err(why) => why,
        };
        let sequence = extent.from.sequence;
        if why.kind != Kind::Busy && tries + 1 >= READ_TRIES_MAX {
            error!(%queue, sequence, %why, "cannot read a backlog; what the disk does not give is lost");
            return Some(self.salvage(wanted));
        }
        error!(%queue, sequence, %why, "cannot read a backlog; trying again");
        self.failed.push(Wanted { tries: tries.saturating_add(1), ..wanted });
        None
    }

    fn read(&mut self, wanted: Wanted) -> store::Result<Answer> {
        let Wanted { queue, token, extent, .. } = wanted;
        let id = id(queue, extent.segment);
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

    /// What can be had of a window.
    fn salvage(&mut self, wanted: Wanted) -> Answer {
        let Wanted { queue, token, extent, .. } = wanted;
        let id = id(queue, extent.segment);
        let reader = Reader::open_blindly(&self.disk, &self.directory, id);
        let read = reader.and_then(|it| it.salvage(to_store(extent.from), to_store(extent.to), self.window));
        match read {
            Ok(read) => answer(queue, token, read),
            Err(why) => {
                error!(%queue, %why, "all messages of a segment are lost");
                Answer::Read { queue, token, runs: Vec::new(), next: extent.to }
            }
        }
    }

    fn keep(&mut self, id: Id, reader: Reader<D::File>) {
        if let Some(damage) = reader.damage() {
            warn!(segment = %id, %damage, "the header of a segment is damaged");
        }
        if self.readers.len() >= self.readers_max {
            self.readers.clear();
        }
        self.readers.insert(id, reader);
    }

    fn remove(&mut self, queue: QueueId, segment: Segment) {
        let name = name(queue, segment);
        self.readers.remove(&id(queue, segment));
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
        let messages =
            Messages::decode_part(run.bytes, read.buffer).filter(|it| u64::from(it.count()) == end - first);
        if messages.is_none() {
            error!(%queue, first, end, "messages of a backlog make no sense and are lost");
        }
        Some(Run { first, flags: run.flags, messages: messages? })
    });
    Answer::Read { queue, token, runs: runs.collect(), next }
}

fn id(queue: QueueId, segment: Segment) -> Id {
    Id { name: name(queue, segment), incarnation: segment.incarnation }
}

fn name(queue: QueueId, segment: Segment) -> Name {
    Name { queue: queue.0, number: segment.number }
}

fn from_extent(extent: &store::segment::Extent) -> Extent {
    Extent {
        segment: Segment { number: extent.id.name.number, incarnation: extent.id.incarnation },
        from: from_store(extent.from),
        to: from_store(extent.to),
    }
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

    /// Hands over an order; an error when there can be no thread, or it has ended.
    pub fn order(&mut self, order: Order) -> std::io::Result<()> {
        if let Some(start) = self.start.take() {
            let (orders, inbox) = channel();
            self.thread = Some(start(inbox)?);
            self.orders = Some(orders);
        }
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(std::io::Error::other("the thread has ended")) }
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
        let until = retry_at.unwrap_or_else(|| Instant::now() + REST_AFTER);
        let first = match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) if retry_at.is_none() => {
                pages.rest();
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            first => first,
        };
        match first {
            Ok(first) => {
                let more = std::iter::from_fn(|| inbox.try_recv().ok()).take(ROUND_MAX);
                pages.carry_out(std::iter::once(first).chain(more), report);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Not only when no order comes: they may never pause.
        if retry_at.take_if(|at| *at <= Instant::now()).is_some() {
            pages.retry(report);
        }
        if retry_at.is_none() && pages.wants_retry() {
            retry_at = Some(Instant::now() + pages.retry_delay);
        }
    }
}
