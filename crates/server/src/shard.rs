//! The task that owns a shard, and the handle that others hold.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use broker::error::Error;
use broker::id::{ConnectionId, QueueId};
use broker::meta;
use broker::page;
use broker::shard::{Command, Effect, Notice, Served};
use broker::topology::Settings;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::journal::{Journal, Progress};
use crate::ledger::{Ledger, Pending, Recovery};
use crate::pager::{Pager, Pages};
use crate::{Failure, Fatal};
use crate::{clock, random, recovery};

/// Bytes of messages that may be on their way from sessions to one shard. When they are taken, sockets are not read.
/// Few, since whatever a consumer says waits behind them: this much is handled in some ten milliseconds.
const INBOX_BYTES_MAX: usize = 2 << 20;

/// Bytes that may wait for the disk before a shard stops taking commands.
const UNSYNCED_MAX: u64 = 64 << 20;

/// Commands taken in one round.
const ROUND_MAX: usize = 1024;

/// What reaches a session from the rest of the broker.
#[derive(Debug)]
pub(crate) enum Mail {
    /// From a shard, in order.
    Effects(usize, Vec<Effect>),
    /// The meta shard's answer to the request with this token.
    Meta(u64, Result<meta::Reply, Error>),
    /// Whether a login is right.
    Login(bool),
}

/// How a session is reached.
pub(crate) type Mailbox = UnboundedSender<Mail>;

enum Input {
    Connect(ConnectionId, Mailbox),
    Command(ConnectionId, Command, Option<OwnedSemaphorePermit>),
    Open(QueueId, Served),
    Configure(QueueId, Box<Settings>),
    Drop(QueueId),
    Journal(Progress),
    Page(Option<page::Answer>),
}

/// A shard, as sessions and the meta task see it. It runs as long as a handle is left.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    number: usize,
    inbox: UnboundedSender<Input>,
    permits: Arc<Semaphore>,
    message_bytes: Arc<AtomicU64>,
    congested: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl Handle {
    /// Whether consumers are busy and a backlog grows in front of them, as of the last round.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    /// Whether the disk has no room for the journal.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Introduces a connection: effects for it go to `mailbox` from now on, until it sends `Disconnect`.
    pub(crate) fn connect(&self, connection: ConnectionId, mailbox: Mailbox) {
        self.send(Input::Connect(connection, mailbox));
    }

    /// Sends a command that carries no messages.
    pub(crate) fn command(&self, from: ConnectionId, command: Command) {
        self.send(Input::Command(from, command, None));
    }

    /// Sends messages, for which room was reserved.
    pub(crate) fn publish(&self, from: ConnectionId, command: Command, room: OwnedSemaphorePermit) {
        self.send(Input::Command(from, command, Some(room)));
    }

    /// Room for so many bytes of messages, if there is any now.
    pub(crate) fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(clamp(bytes)).ok()
    }

    /// Room for so many bytes of messages, when there is.
    pub(crate) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.permits).acquire_many_owned(clamp(bytes)).await;
        permits.expect("the semaphore is never closed")
    }

    /// The shard serves a queue from now on.
    pub(crate) fn open(&self, queue: QueueId, served: Served) {
        self.send(Input::Open(queue, served));
    }

    /// What a queue does has changed.
    pub(crate) fn configure(&self, queue: QueueId, settings: Settings) {
        self.send(Input::Configure(queue, Box::new(settings)));
    }

    /// A queue is deleted.
    pub(crate) fn drop_queue(&self, queue: QueueId) {
        self.send(Input::Drop(queue));
    }

    /// Bytes of messages in memory, as of the last round.
    pub(crate) fn message_bytes(&self) -> u64 {
        self.message_bytes.load(Ordering::Relaxed)
    }

    /// A shard ends only when the node stops: what comes later has nowhere to go.
    fn send(&self, input: Input) {
        let _ = self.inbox.send(input);
    }
}

/// A batch larger than the whole inbox takes all of it.
fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes.min(INBOX_BYTES_MAX)).expect("the inbox is smaller than 4 GiB")
}

/// What a shard needs to start.
pub(crate) struct Start<'a> {
    pub(crate) number: usize,
    pub(crate) directory: &'a Path,
    /// Where the segments of all shards are.
    pub(crate) segments: &'a Path,
    /// How many it keeps open to write, and as many to read.
    pub(crate) segments_open_max: usize,
    pub(crate) journal: recovery::JournalOptions,
    /// Durable queues of this shard.
    pub(crate) queues: Vec<(QueueId, Served)>,
    /// Who hears of queues that nobody uses any more.
    pub(crate) notices: UnboundedSender<Notice>,
    /// Who takes messages from their queue to another place.
    pub(crate) forwarder: Mailbox,
    pub(crate) fatal: Fatal,
}

/// Recovers a shard and starts its task. The task ends when all handles are dropped; then all is durable.
pub(crate) fn start(start: Start<'_>) -> Result<(Handle, tokio::task::JoinHandle<()>), Failure> {
    let mut recovered = Recovery::default();
    recovered.tick(clock::unix_ms());
    for (queue, options) in start.queues {
        recovered.open(queue, options);
    }
    let name = format!("shard-{}", start.number);
    let (files, report) =
        recovery::open(start.directory, &name, start.journal, &mut |record| recovered.replay(&record))?;
    let ledger = recovered.finish(files.oldest(), report.next, start.journal.budget());
    let (inbox, inputs) = unbounded_channel();
    // The thread must not keep the shard alive.
    let progress = inbox.downgrade();
    let journal = Journal::start(&name, files, move |news| {
        if let Some(inbox) = progress.upgrade() {
            let _ = inbox.send(Input::Journal(news));
        }
    })?;
    let pages = open_pages(&start.segments.join(&name), &ledger.segments(), recovery::trust(&report))?
        .with_open_max(start.segments_open_max);
    let answers = inbox.downgrade();
    let pager = Pager::new(&name, pages, move |answer| {
        if let Some(inbox) = answers.upgrade() {
            let _ = inbox.send(Input::Page(answer));
        }
    });
    let message_bytes = Arc::new(AtomicU64::new(ledger.shard().message_bytes()));
    let handle = Handle {
        number: start.number,
        inbox,
        permits: Arc::new(Semaphore::new(INBOX_BYTES_MAX)),
        message_bytes: Arc::clone(&message_bytes),
        congested: Arc::default(),
        full: Arc::default(),
    };
    let fatal = start.fatal.clone();
    let task = Task {
        number: handle.number,
        ledger,
        journal,
        pager,
        inputs,
        deferred: Deferred::default(),
        mailboxes: HashMap::from([(ConnectionId::FORWARDER, start.forwarder)]),
        notices: start.notices,
        message_bytes,
        congested: Arc::clone(&handle.congested),
        full: Arc::clone(&handle.full),
        fatal: start.fatal,
    };
    Ok((handle, crate::spawn_owner(name, fatal, task.run())))
}

/// The segments of a shard, of which the journal has said which hold messages.
fn open_pages(
    directory: &Path,
    known: &[(QueueId, page::Segment)],
    journal: crate::pager::Journal,
) -> Result<Pages<store::RealDisk>, Failure> {
    let options = store::segment::Options::default();
    let pages = Pages::open(store::RealDisk, directory, options, known, journal, random::number);
    pages.map_err(|error| match error.kind {
        store::Kind::Foreign => {
            let way_out = "put the right file there, or give up what it held with `leveret store repair`";
            Failure(format!("{error}: {way_out}"))
        }
        _ => error.into(),
    })
}

struct Task {
    number: usize,
    ledger: Ledger,
    journal: Journal,
    pager: Pager,
    inputs: UnboundedReceiver<Input>,
    deferred: Deferred,
    mailboxes: HashMap<ConnectionId, Mailbox>,
    notices: UnboundedSender<Notice>,
    message_bytes: Arc<AtomicU64>,
    congested: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    fatal: Fatal,
}

impl Task {
    async fn run(mut self) {
        let mut round = Vec::with_capacity(ROUND_MAX);
        // What recovery has left to do needs nobody who asks for it.
        self.apply(&mut round);
        while self.select(&mut round).await {
            self.apply(&mut round);
        }
        self.pager.finish();
        self.journal.finish();
    }

    /// Waits for inputs, or until the clock asks for a round without any; false: all handles are gone.
    async fn select(&mut self, round: &mut Vec<Input>) -> bool {
        if self.pace() == Pace::Free {
            self.deferred.release(round);
        }
        if !round.is_empty() {
            return true;
        }
        let receive = self.inputs.recv_many(round, ROUND_MAX);
        let Some(deadline) = self.ledger.shard().next_deadline() else {
            return receive.await > 0;
        };
        let wait = Duration::from_millis(deadline.saturating_sub(clock::unix_ms()));
        // Nothing in time: the round is for what was due.
        !tokio::time::timeout(wait, receive).await.is_ok_and(|count| count == 0)
    }

    fn apply(&mut self, round: &mut Vec<Input>) {
        let mut permits = Vec::new();
        self.ledger.tick(clock::unix_ms());
        for input in round.drain(..) {
            if let Some(input) = self.deferred.pass(self.pace(), input) {
                self.apply_one(input, &mut permits);
            }
        }
        let pending = self.ledger.finish_round();
        drop(permits);
        // First, since handing over to the journal takes a system call.
        self.emit();
        pending.into_iter().for_each(|pending| self.write(pending));
        self.congested.store(self.ledger.shard().is_congested(), Ordering::Relaxed);
        self.message_bytes.store(self.ledger.shard().message_bytes(), Ordering::Relaxed);
    }

    fn apply_one(&mut self, input: Input, permits: &mut Vec<OwnedSemaphorePermit>) {
        match input {
            Input::Connect(connection, mailbox) => {
                self.mailboxes.insert(connection, mailbox);
            }
            Input::Command(from, command, permit) => {
                permits.extend(permit);
                let ended = matches!(command, Command::Disconnect);
                self.ledger.handle(from, command);
                if ended {
                    self.mailboxes.remove(&from);
                }
            }
            Input::Open(queue, options) => self.ledger.open(queue, options),
            Input::Configure(queue, settings) => self.ledger.configure(queue, *settings),
            Input::Drop(queue) => self.ledger.drop_queue(queue),
            Input::Journal(Progress::Synced { synced, oldest, buffers }) => {
                let (forget, pending) = self.ledger.synced(synced, oldest, buffers);
                forget.into_iter().for_each(|before| self.journal.forget(before));
                pending.into_iter().for_each(|pending| self.write(pending));
            }
            Input::Journal(Progress::Idle) => {
                let pending = self.ledger.idle();
                pending.into_iter().for_each(|pending| self.write(pending));
            }
            Input::Journal(Progress::Full(full)) => {
                self.full.store(full, Ordering::Relaxed);
                self.ledger.set_full(full);
            }
            Input::Journal(Progress::Failed(error)) => self.fatal.report(error.into()),
            Input::Page(Some(answer)) => self.ledger.paged(answer),
            Input::Page(None) => {
                let what = "the pager thread has panicked: please report this".to_owned();
                self.fatal.report(Failure(what));
            }
        }
    }

    fn write(&self, pending: Pending) {
        let urgent = pending.urgent || self.ledger.unsynced_bytes() > UNSYNCED_MAX / 8;
        self.journal.write(pending.round, urgent);
    }

    fn emit(&mut self) {
        while let Some((connection, effects)) = self.ledger.poll_effects() {
            if let Some(mailbox) = self.mailboxes.get(&connection) {
                let _ = mailbox.send(Mail::Effects(self.number, effects));
            }
        }
        while let Some(notice) = self.ledger.poll_notice() {
            let _ = self.notices.send(notice);
        }
        while let Some(order) = self.ledger.poll_page() {
            if let Err(error) = self.pager.order(order) {
                self.fatal.report(Failure(format!("cannot hand over work on the backlog: {error}")));
            }
        }
    }

    fn pace(&self) -> Pace {
        if self.ledger.unsynced_bytes() > UNSYNCED_MAX {
            Pace::Standing
        } else if self.ledger.shard().holds_publishers() || self.full.load(Ordering::Relaxed) {
            Pace::Holding
        } else {
            Pace::Free
        }
    }
}

/// What a shard takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Free,
    /// Only who has published nothing that waits: a queue waits for its segments, or the journal for room, and acks make
    /// both shorter.
    Holding,
    /// Nothing: the journal is too far behind.
    Standing,
}

/// What came while the disk was behind. Its permits bound it.
#[derive(Default)]
struct Deferred {
    inputs: Vec<Input>,
    /// Who sent it.
    connections: HashSet<ConnectionId>,
}

impl Deferred {
    /// Keeps an input that must wait for the disk, or for one before it that does; gives back one that need not.
    fn pass(&mut self, pace: Pace, input: Input) -> Option<Input> {
        let waits = match (pace, &input) {
            (_, Input::Journal(_) | Input::Page(_)) => false,
            (Pace::Standing, _) | (Pace::Holding, Input::Command(_, Command::Publish(_), _)) => true,
            // What a connection asks is done in its order.
            (_, Input::Command(from, ..)) => self.connections.contains(from),
            // Queues come and go ahead of messages, never behind.
            (_, Input::Connect(..) | Input::Open(..) | Input::Configure(..) | Input::Drop(_)) => {
                !self.inputs.is_empty() && pace == Pace::Free
            }
        };
        if !waits {
            return Some(input);
        }
        if let Input::Command(from, ..) = &input {
            self.connections.insert(*from);
        }
        self.inputs.push(input);
        None
    }

    /// The disk has caught up: all goes on, in order.
    fn release(&mut self, round: &mut Vec<Input>) {
        self.connections.clear();
        round.append(&mut self.inputs);
    }
}

#[cfg(test)]
mod tests {
    use broker::record::Span;
    use broker::shard::Batch;

    use super::*;

    const PUBLISHER: ConnectionId = ConnectionId(1);
    const CONSUMER: ConnectionId = ConnectionId(2);

    fn publish(from: ConnectionId) -> Input {
        Input::Command(from, Command::Publish(Batch::default()), None)
    }

    fn ack(from: ConnectionId) -> Input {
        Input::Command(from, Command::Settle(vec![(QueueId(1), Span::one(1))]), None)
    }

    #[test]
    fn acks_pass_publishers_that_wait_but_not_their_own() {
        let mut deferred = Deferred::default();
        let mut passes = |input| deferred.pass(Pace::Holding, input).is_some();
        assert!(passes(ack(PUBLISHER)));
        assert!(!passes(publish(PUBLISHER)));
        assert!(passes(ack(CONSUMER)));
        assert!(!passes(ack(PUBLISHER)), "it comes after what it published");
        assert!(passes(Input::Drop(QueueId(1))));
        let mut round = Vec::new();
        deferred.release(&mut round);
        assert_eq!(round.len(), 2);
        assert!(deferred.pass(Pace::Free, publish(PUBLISHER)).is_some());
        assert!(deferred.pass(Pace::Standing, ack(CONSUMER)).is_none());
        assert!(deferred.pass(Pace::Free, ack(CONSUMER)).is_none(), "it comes after the one before");
    }
}
