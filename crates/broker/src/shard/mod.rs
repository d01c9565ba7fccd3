//! A shard: the one owner of many queues, their messages, consumers and unacked deliveries.
//!
//! How to drive it, round by round:
//! 1. `handle` every command that waits, in order. What must survive goes to the `Log` on the way.
//! 2. `finish_round`: deliveries are made, and what the round settled goes to the log.
//! 3. `poll_effects` and `poll_notice` until they are empty, and carry out what they say.
//!    `poll_page` as well: orders for whoever keeps the backlog on a disk; its answers come in through `paged`.
//! 4. When the log has committed up to a position, say so with `committed`, then poll again: confirms come out.
//!
//! Before the first round of a restart: `open` every durable queue, `recover` every record of the log, `recovered`.
//! Live commands and recovery change a queue through the same methods.

mod care;
mod dispatch;
mod duplicates;
mod outbox;
mod paging;
mod publish;
mod recovery;
mod request;
mod streams;
mod usage;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::id::{ConnectionId, QueueId};
use crate::message::Messages;
use crate::queue::{Options, Queue, Subscription};
use crate::record::{Log, Position, Span};
use crate::stream::{self, Reading};
use crate::topology::{DeadLetters, Duplicates, Return};
use outbox::Outbox;
pub use outbox::weight;
use paging::Paging;
use streams::Streams;
use usage::Usage;

/// Messages that a session read in one go and that go to queues of one shard.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The sets of queues that the messages go to: few, and mostly one.
    pub routes: Vec<Arc<[QueueId]>>,
    /// The messages, for each queue in the order in which they came: those that share everything together.
    pub runs: Vec<Publish>,
    /// What to confirm when all of these messages are safe.
    pub confirms: Vec<Confirm>,
}

/// Confirm numbers of one publisher that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The session's own number for who published them.
    pub publisher: u32,
    /// Lowest number.
    pub first: u64,
    /// Highest number.
    pub last: u64,
}

/// Messages of a batch that share everything but their content.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The messages.
    pub messages: Messages,
    /// They must survive a restart, in queues that do.
    pub persistent: bool,
    /// Some of them have their own time to live.
    pub expires: bool,
    /// What is to be done if they came before.
    pub duplicates: Duplicates,
    /// Which of the batch's routes they take.
    pub route: usize,
    /// Publisher and number, if it is one message that a queue may refuse: then its publisher hears of it. Others are taken
    /// by full queues, too: whoever sent them may have been promised that already.
    pub confirm: Option<(u32, u64)>,
}

/// What a session asks of a shard without waiting for an answer, or with one.
#[derive(Clone, Debug)]
pub enum Command {
    /// Put messages into queues.
    Publish(Batch),
    /// Messages that this connection holds are done with.
    Settle(Vec<(QueueId, Span)>),
    /// A reader of a stream, by its number, is done with messages, whatever it did with them.
    Credit(Vec<(QueueId, u32, Span)>),
    /// Messages that this connection holds go back to their places.
    Requeue(Vec<(QueueId, Span)>),
    /// So do these, which it failed to handle.
    Fail(Vec<(QueueId, Span)>),
    /// Messages that this connection holds are not wanted: they leave their queue for its dead-letter exchange.
    Reject(Vec<(QueueId, Span)>),
    /// What this channel holds it may hold for as long as if it had just come.
    Extend(u16),
    /// So many bytes of deliveries have been written to the socket.
    Written(usize),
    /// The window of this channel has room again: consumers that stopped because of it go on.
    Resume,
    /// Open a volatile queue for the answers to this connection's requests. It goes with its consumer.
    OpenReplyQueue(QueueId),
    /// A channel has ended: its consumers go, what it holds goes back.
    CloseChannel(u16),
    /// A connection has ended, however it did.
    Disconnect,
    /// Something that is answered by [`Effect::Reply`] with the same token.
    Request(u64, Request),
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Request {
    /// Start a consumer.
    Consume(QueueId, Subscription),
    /// Start to read a stream.
    Read(QueueId, Subscription, Box<Reading>),
    /// Stop the consumer with this number.
    Cancel(QueueId, u32),
    /// Take one message, for this channel.
    Get {
        /// From which queue.
        queue: QueueId,
        /// Who will settle it.
        channel: u16,
        /// It is settled at once.
        no_ack: bool,
    },
    /// Drop all that waits.
    Purge(QueueId),
    /// Stop serving a queue, for it will be deleted.
    Delete {
        /// Which.
        queue: QueueId,
        /// Only when it has no consumer.
        if_unused: bool,
        /// Only when no message waits.
        if_empty: bool,
    },
    /// Show what waits, in the order in which it will go.
    Browse(Browse),
    /// Drop the messages with this id that wait for their time.
    CallOff {
        /// In which queue.
        queue: QueueId,
        /// Their publisher's name for them: the property message-id.
        id: String,
    },
    /// Count messages and consumers.
    Inspect(QueueId),
    /// Answer when all that was handled before is committed.
    Sync,
}

/// Which of the messages that wait are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Browse {
    /// In which queue.
    pub queue: QueueId,
    /// Behind this one; `None`: from the beginning.
    pub after: Option<Bookmark>,
    /// So many bytes, or one message.
    pub size_max: usize,
}

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bookmark {
    /// When it goes, in milliseconds since 1970; 0 where that does not depend on the time.
    pub due_ms: u64,
    /// Its number in its queue.
    pub number: u64,
}

/// The good answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The consumer runs: its deliveries follow.
    Consuming,
    /// The consumer has stopped: no delivery follows.
    Cancelled,
    /// A message, if one waited, and how many still wait.
    Got(Option<Delivery>, usize),
    /// So many messages were dropped.
    Purged(usize),
    /// The queue takes nothing more and can be deleted, with so many messages waiting in it.
    Deletable(usize),
    /// Copies of what waits, each on its own, with where to go on; nothing: that was all.
    Browsed(Vec<(Bookmark, Messages)>),
    /// So many messages were dropped.
    CalledOff(usize),
    /// What a queue holds.
    Counts {
        /// Messages that wait.
        ready: usize,
        /// Its consumers.
        consumers: usize,
    },
    /// All before is committed.
    Synced,
}

/// Messages on their way to a consumer, or to who asked for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The session's number of the consumer; 0 for basic.get.
    pub consumer: u32,
    /// Where they come from.
    pub queue: QueueId,
    /// The number of the first one there, the others follow: what to name when they are settled.
    pub first: u64,
    /// They may have been delivered before.
    pub redelivered: bool,
    /// How often they came back, in queues that count it.
    pub returns: u16,
    /// The messages.
    pub messages: Messages,
}

/// Messages for another place. Whoever takes them there settles them when they have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where they come from.
    pub queue: QueueId,
    /// The number of the first one there; `None`: they never were in it.
    pub first: Option<u64>,
    /// Why they go.
    pub reason: Reason,
    /// What their queue said of dead letters when they died.
    pub letters: Option<DeadLetters>,
    /// The messages.
    pub messages: Messages,
}

/// Why messages leave a queue without being consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A consumer does not want them.
    Rejected,
    /// They waited for too long.
    Expired,
    /// The queue is full.
    MaxLen,
    /// They came back too often.
    DeliveryLimit,
    /// It is their time.
    Due,
}

/// What happens at a connection because of what happened in the shard.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Deliver messages.
    Deliver(Delivery),
    /// Messages with these confirm numbers are safe.
    Confirm(Confirm),
    /// A queue has refused messages with these confirm numbers.
    Refused(Confirm),
    /// Take messages to another place: for the forwarder.
    Forward(Forward),
    /// This consumer has held a message for longer than so many milliseconds, as long as it may.
    TimedOut(u32, u64),
    /// The answer to a request.
    Reply(u64, Result<Reply, Error>),
    /// The queue of this consumer is gone, and so is the consumer.
    Cancelled(u32),
}

/// What the shard tells whoever owns the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An auto-delete queue has lost its last consumer and takes nothing more: delete it.
    Unused(QueueId),
}

/// What a shard serves under a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// A queue.
    Queue(Box<Options>),
    /// A stream.
    Stream(stream::Options),
}

impl From<Options> for Served {
    fn from(options: Options) -> Served {
        Served::Queue(Box::new(options))
    }
}

impl From<stream::Options> for Served {
    fn from(options: stream::Options) -> Served {
        Served::Stream(options)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Shard {
    queues: FxHashMap<QueueId, Queue>,
    outbox: Outbox,
    notices: VecDeque<Notice>,
    /// Queues to look at when the round ends.
    touched: Vec<QueueId>,
    /// Cancels of the last consumer of an auto-delete queue: answered when the queue is gone.
    waiting_for_drop: Vec<(QueueId, ConnectionId, u64)>,
    usage: Usage,
    paging: Paging,
    streams: Streams,
    /// In this round a connection that had been full took more deliveries, or a consumer settled many.
    progressed: bool,
    /// In the last round one did, and a backlog remained.
    congested: bool,
    last_append: Option<Position>,
    committed: Position,
    /// A queue has refused the messages that are being published.
    refused: bool,
    /// Milliseconds since 1970, as of the beginning of the round.
    now: u64,
    /// When queues want to be looked at.
    deadlines: BTreeSet<(u64, QueueId)>,
    /// When to look for consumers that hold messages for too long.
    timeouts_at: Option<u64>,
    scratch: Vec<u8>,
    targets: Vec<(QueueId, u64)>,
}

impl Shard {
    /// Starts to serve a queue. Messages reach it from now on.
    pub fn open(&mut self, queue: QueueId, served: impl Into<Served>) {
        let options = match served.into() {
            Served::Queue(options) => *options,
            Served::Stream(options) => return self.streams.open(queue, options),
        };
        let settings = options.settings.clone();
        let mut opened = Queue::new(options);
        opened.configure(settings, self.now);
        self.queues.insert(queue, opened);
        self.touch(queue);
    }

    /// A queue is deleted: its messages go, its consumers are told.
    pub fn drop_queue(&mut self, queue: QueueId) {
        if let Some(dropped) = self.queues.remove(&queue) {
            dropped.runs().for_each(|(_, run)| self.usage.remove(run));
            self.usage.remove_seen(&dropped);
            self.paging.dropped(queue, &dropped);
            if let Some(at) = dropped.deadline_was() {
                self.deadlines.remove(&(at, queue));
            }
            for (_, consumer) in dropped.consumers.iter() {
                self.outbox.push_at(consumer.connection, Effect::Cancelled(consumer.subscription.consumer));
            }
        }
        for (_, connection, token) in self.waiting_for_drop.extract_if(.., |(q, _, _)| *q == queue) {
            self.outbox.push(connection, Effect::Reply(token, Ok(Reply::Cancelled)));
        }
        self.serve_waiting(queue);
        self.drop_stream(queue);
    }

    /// Takes a command of a connection.
    pub fn handle(&mut self, from: ConnectionId, command: Command, log: &mut impl Log) {
        match command {
            Command::Publish(batch) => self.publish(from, batch, log),
            Command::Settle(messages) => self.settle(from, &messages),
            Command::Credit(messages) => self.credit(from, &messages),
            Command::Requeue(messages) => self.requeue(from, &messages, Return::Returned),
            Command::Fail(messages) => self.requeue(from, &messages, Return::Failed),
            Command::Reject(messages) => self.reject(from, &messages),
            Command::Extend(channel) => self.extend(from, channel),
            Command::Written(bytes) => self.written(from, bytes),
            Command::Resume => self.touch_queues_of(from),
            Command::OpenReplyQueue(queue) => self.open(queue, Options::of_reply_queue()),
            Command::CloseChannel(channel) => self.close(from, Some(channel)),
            Command::Disconnect => self.close(from, None),
            Command::Request(token, request) => self.request(from, token, request, log),
        }
    }

    /// Ends a round: makes deliveries, and logs what the round settled.
    pub fn finish_round(&mut self, log: &mut impl Log) {
        self.congested = false;
        self.make_room();
        let mut at = 0;
        // Serving one who waited may touch queues again.
        while let Some(id) = self.touched.get(at).copied().or_else(|| self.touch_next_wanting()) {
            at += 1;
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.touched = false;
            }
            self.dispatch(id);
            let has_extras = self.queues.get(&id).is_some_and(Queue::has_extras);
            if has_extras {
                self.after_dispatch(id);
            }
            // A message that came back may be what they wait for.
            self.serve_waiting(id);
            if has_extras {
                self.log_returns(id, log);
            }
            self.log_outcomes(id, log);
            self.page(id);
        }
        self.touched.clear();
        self.finish_streams(log);
        self.progressed = false;
    }

    /// Whether consumers were busy taking deliveries in the last round and a backlog remained: publishers do well to slow
    /// down a little. Consumers that take nothing do not count, nor do those that settle a few at a time.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// Everything below `position` is committed.
    pub fn committed(&mut self, position: Position) {
        self.committed = self.committed.max(position);
        self.outbox.release(self.committed);
        self.remove_segments();
        self.streams_committed();
    }

    /// What to do at a connection, in order; `None` when nothing is left.
    pub fn poll_effects(&mut self) -> Option<(ConnectionId, Vec<Effect>)> {
        self.outbox.poll()
    }

    /// What to tell the owner of the topology.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Up to which record somebody waits for the log to commit.
    pub fn awaited(&self) -> Option<Position> {
        self.outbox.awaited().max(self.streams.awaited())
    }

    /// Bytes of messages in memory, waiting and unacked.
    pub fn message_bytes(&self) -> u64 {
        self.usage.memory() + self.streams.window_bytes()
    }

    /// Bytes of the log that hold messages still in a queue.
    pub fn live_bytes(&self) -> u64 {
        self.usage.log()
    }

    /// Panics where an invariant does not hold, or where a message waits though a consumer could take it. Slow: for
    /// tests, between rounds.
    pub fn check(&self) {
        let mut usage = Usage::default();
        self.queues.values().flat_map(Queue::runs).for_each(|(_, run)| usage.add(run));
        self.queues.values().for_each(|queue| usage.add_seen(queue));
        self.streams.runs().for_each(|run| usage.add(run));
        assert_eq!(self.usage, usage, "what all messages take");
        for queue in self.queues.values() {
            queue.check();
            let free = queue.consumers.anyone_free(|connection| self.outbox.is_writable(connection));
            let stuck = free && !queue.closing && queue.has_next() && !queue.waits_for_disk();
            assert!(!stuck, "{}: a message waits though a consumer could take it", queue.options.label);
            let forgotten = free && !queue.closing && queue.waits_for_disk() && !queue.is_reading();
            assert!(!forgotten, "{}: nobody reads what a consumer could take", queue.options.label);
        }
        self.check_paging();
        self.check_streams();
        self.outbox.check();
    }

    /// Has a queue looked at when the round ends.
    fn touch(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.touch(&mut self.touched, id);
        } else {
            self.streams.touch(id);
        }
    }

    fn append_at(&mut self, position: Position) {
        self.last_append = Some(position);
    }
}
