//! The task that owns the topology: it decides on changes, has them committed, and publishes each new snapshot.
//!
//! Changes take effect in the order in which they come. One that needs no commit waits for those before it that do, so
//! nobody ever sees what a crash could undo.

mod unheeded;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker::error::Error;
use broker::id::{ConnectionId, QueueId};
use broker::meta::{Change, Effect, Meta, Record, Reply};
use broker::queue::Options;
use broker::shard::{Notice, Served};
use broker::stream;
use broker::topology::{Queue, Topology};
use store::{Lsn, Tail};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::audit::Audit;
use crate::journal::{Journal, Progress};
use crate::recovery::{self, JournalOptions};
use crate::topology_log::{self, Replay};
use crate::{Failure, Fatal, shard};
use unheeded::Unheeded;

/// Changes taken in one round.
const ROUND_MAX: usize = 256;

type Answer = Box<dyn FnOnce(Result<Reply, Error>) + Send>;

enum Input {
    Change(Change, Answer),
    Journal(Progress),
}

/// The topology's owner, as others see it.
#[derive(Clone)]
pub(crate) struct Handle {
    inbox: UnboundedSender<Input>,
    topology: watch::Receiver<Topology>,
    full: Arc<AtomicBool>,
}

impl Handle {
    /// Asks for a change. `answer` is called once it is committed and published, or refused.
    pub(crate) fn change(&self, change: Change, answer: impl FnOnce(Result<Reply, Error>) + Send + 'static) {
        let _ = self.inbox.send(Input::Change(change, Box::new(answer)));
    }

    /// Whether changes wait for room on the disk.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The exclusive queues of a connection that has ended go.
    pub(crate) fn end_connection(&self, connection: ConnectionId) {
        self.change(Change::DeleteConnectionQueues { connection }, |_| ());
    }

    /// The newest snapshot, now and later.
    pub(crate) fn topology(&self) -> watch::Receiver<Topology> {
        self.topology.clone()
    }
}

/// The topology as the journal has it, before anything runs.
pub(crate) struct Recovered {
    meta: Meta,
    files: store::Files<store::RealDisk>,
    next: Lsn,
    bytes: u64,
}

/// What its shard must know of a queue.
fn served(topology: &Topology, queue: &Queue) -> Served {
    if queue.is_stream() {
        return stream::Options::of(queue, &topology.settings(queue)).into();
    }
    let Queue { durable, auto_delete, .. } = *queue;
    let settings = topology.settings(queue);
    Options { label: queue.label(), durable, auto_delete, settings }.into()
}

/// Reads the meta journal.
pub(crate) fn recover(directory: &Path, journal: JournalOptions) -> Result<Recovered, Failure> {
    let mut replay = Replay::default();
    let (files, report) = recovery::open(directory, "meta", journal, &mut |record| replay.visit(&record))?;
    Ok(Recovered { meta: replay.finish().recovered(), files, next: report.next, bytes: report.bytes })
}

impl Recovered {
    /// The queues that have survived.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (QueueId, Served)> {
        self.meta.topology().queues().map(|queue| (queue.id, served(self.meta.topology(), queue)))
    }

    /// Starts the task. It ends when all handles are dropped.
    pub(crate) fn start(
        self,
        shards: Vec<shard::Handle>,
        notices: UnboundedReceiver<Notice>,
        audit: Audit,
        fatal: Fatal,
    ) -> Result<(Handle, tokio::task::JoinHandle<()>), Failure> {
        let (inbox, inputs) = unbounded_channel();
        let progress = inbox.downgrade();
        let journal = Journal::start("meta", self.files, move |news| {
            if let Some(inbox) = progress.upgrade() {
                let _ = inbox.send(Input::Journal(news));
            }
        })?;
        let (publisher, topology) = watch::channel(self.meta.topology().clone());
        let owner = fatal.clone();
        let mut task = Task {
            meta: self.meta,
            tail: Tail::new(self.next),
            marked: self.next,
            journal,
            held: VecDeque::new(),
            forget: None,
            inputs,
            notices,
            shards,
            publisher,
            full: Arc::default(),
            unheeded: Unheeded::default(),
            audit,
            fatal,
        };
        let full = Arc::clone(&task.full);
        task.compact(self.bytes);
        Ok((Handle { inbox, topology, full }, crate::spawn_owner("meta".to_owned(), owner, task.run())))
    }
}

/// A change that was applied and waits to be told.
struct Held {
    /// Committed once the journal is durable below this.
    end: Lsn,
    records: Vec<Record>,
    effects: Vec<Effect>,
    topology: Topology,
    answer: Answer,
    reply: Reply,
}

struct Task {
    meta: Meta,
    tail: Tail,
    /// The last round is a mark alone if it ends here.
    marked: Lsn,
    journal: Journal,
    held: VecDeque<Held>,
    /// The journal was compacted: what lies below the second goes once all below the first is durable.
    forget: Option<(Lsn, Lsn)>,
    inputs: UnboundedReceiver<Input>,
    notices: UnboundedReceiver<Notice>,
    shards: Vec<shard::Handle>,
    publisher: watch::Sender<Topology>,
    full: Arc<AtomicBool>,
    unheeded: Unheeded,
    audit: Audit,
    fatal: Fatal,
}

impl Task {
    async fn run(mut self) {
        let mut round = Vec::with_capacity(ROUND_MAX);
        loop {
            tokio::select! {
                count = self.inputs.recv_many(&mut round, ROUND_MAX) => {
                    if count == 0 {
                        break;
                    }
                }
                Some(Notice::Unused(id)) = self.notices.recv() => {
                    round.push(Input::Change(Change::DeleteQueue { id }, Box::new(|_| ())));
                }
            }
            for input in round.drain(..) {
                self.apply(input);
            }
            self.write();
        }
        self.journal.finish();
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Change(change, answer) => self.change(change, answer),
            Input::Journal(Progress::Synced { synced, buffers, .. }) => {
                self.tail.synced(synced);
                buffers.into_iter().for_each(|buffer| self.tail.give_back(buffer));
                self.release(synced);
                if let Some((_, before)) = self.forget.take_if(|(copied, _)| *copied <= synced) {
                    self.journal.forget(before);
                }
            }
            // Later damage of the last changes is told from a torn tail.
            Input::Journal(Progress::Idle) => {
                if self.tail.pending_bytes() == 0 && self.marked != self.tail.next_lsn() {
                    let round = self.tail.take_mark();
                    self.marked = round.end();
                    self.journal.write(round, false);
                }
            }
            // Whoever waits for a change waits longer.
            Input::Journal(Progress::Full(full)) => self.full.store(full, Ordering::Relaxed),
            Input::Journal(Progress::Failed(error)) => self.fatal.report(error.into()),
        }
    }

    fn change(&mut self, change: Change, answer: Answer) {
        let decision = match self.meta.decide(change) {
            Ok(decision) => decision,
            Err(error) => return answer(Err(error)),
        };
        let mut effects = Vec::new();
        for record in &decision.records {
            self.unheeded.look(record);
            if record.is_durable() {
                topology_log::append(&mut self.tail, record);
            }
            effects.extend(self.meta.apply(record));
        }
        let end = if decision.durable {
            self.tail.next_lsn()
        } else {
            self.held.back().map_or(Lsn::ZERO, |last| last.end)
        };
        let topology = self.meta.topology().clone();
        let held = Held { end, records: decision.records, effects, topology, answer, reply: decision.reply };
        if end == Lsn::ZERO {
            self.tell(held);
        } else {
            self.held.push_back(held);
        }
    }

    fn release(&mut self, synced: Lsn) {
        while let Some(held) = self.held.pop_front_if(|held| held.end <= synced) {
            self.tell(held);
        }
    }

    /// Shards first, then everybody, then who asked: whoever hears of a queue can use it.
    fn tell(&self, held: Held) {
        held.records.iter().for_each(|record| self.audit.change(record));
        for effect in held.effects {
            match effect {
                Effect::QueueOpened(queue) => {
                    self.shard(queue.id).open(queue.id, served(&held.topology, &queue));
                }
                Effect::QueueDropped(queue) => self.shard(queue.id).drop_queue(queue.id),
                Effect::QueueChanged(queue) => {
                    self.shard(queue.id).configure(queue.id, held.topology.settings(&queue));
                }
                // Sessions look at the new topology by themselves.
                Effect::VhostDropped(_) | Effect::AccessChanged(_) => {}
            }
        }
        self.publisher.send_if_modified(|topology| {
            let news = topology.version() != held.topology.version();
            *topology = held.topology;
            news
        });
        (held.answer)(Ok(held.reply));
    }

    fn shard(&self, queue: QueueId) -> &shard::Handle {
        &self.shards[queue.shard(self.shards.len())]
    }

    fn write(&mut self) {
        if self.tail.pending_bytes() > 0 {
            self.journal.write(self.tail.take(), true);
        }
    }

    /// Writes the whole state anew when what is in the journal is much more than that.
    fn compact(&mut self, journal_bytes: u64) {
        if journal_bytes < 1 << 20 {
            return;
        }
        let records: Vec<_> = self.meta.snapshot_records().collect();
        let size = |record: &Record| record.encode().len() + store::RECORD_HEADER_SIZE;
        let state_bytes = 2 * records.iter().map(size).sum::<usize>();
        if journal_bytes < 4 * state_bytes as u64 {
            return;
        }
        let before = self.tail.next_lsn();
        for record in &records {
            topology_log::append(&mut self.tail, record);
        }
        self.forget = Some((self.tail.next_lsn(), before));
        self.write();
    }
}
