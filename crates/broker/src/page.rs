//! What a shard asks of whoever keeps its backlog on a disk, and what it hears of it.
//!
//! A deep queue keeps its front and its tail in memory. What lies between was *spilled*: appended to a segment, which
//! is a file of that queue alone. The shard does no I/O: it emits [`Order`]s and takes [`Answer`]s, which may be late.

use crate::id::QueueId;
use crate::message::Messages;

/// The message does not survive a restart: a bit of [`Run::flags`].
pub const TRANSIENT: u32 = 1;
/// The message may have been delivered before: a bit of [`Run::flags`].
pub const REDELIVERED: u32 = 2;
/// From this bit of [`Run::flags`] on: how often the messages were given back.
pub const RETURNS_SHIFT: u32 = 16;

/// Which segment of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its number, which names the file.
    pub number: u64,
    /// The life of the broker in which it was made: another segment with this number has another.
    pub incarnation: u64,
}

/// A place between two blocks of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// Messages in front of this place have lower sequence numbers, messages behind it do not.
    pub sequence: u64,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The segment.
    pub segment: Segment,
    /// Where it begins.
    pub from: Place,
    /// Where it ends.
    pub to: Place,
}

/// Messages with consecutive sequence numbers, on their way to a segment or back.
#[derive(Clone, Debug)]
pub struct Run {
    /// Sequence number of the first.
    pub first: u64,
    /// [`TRANSIENT`] and [`REDELIVERED`].
    pub flags: u32,
    /// The messages.
    pub messages: Messages,
}

/// What is to be done, in this order.
#[derive(Clone, Debug)]
pub enum Order {
    /// Append to a segment of the queue, and make that durable: [`Answer::Spilled`] or [`Answer::Refused`].
    Spill {
        /// Whose messages.
        queue: QueueId,
        /// To be given back with the answer.
        token: u64,
        /// In ascending order.
        runs: Vec<Run>,
    },
    /// Append to a stream, and make that durable: [`Answer::Spilled`] or [`Answer::Refused`].
    Append {
        /// Which stream.
        queue: QueueId,
        /// To be given back with the answer.
        token: u64,
        /// In ascending order; their flags are the stream's own.
        runs: Vec<Run>,
        /// To a segment of its own.
        begins_segment: bool,
    },
    /// Read a window of a segment: [`Answer::Read`].
    Read {
        /// Whose segment.
        queue: QueueId,
        /// To be given back with the answer.
        token: u64,
        /// From where, and how far at most.
        extent: Extent,
    },
    /// Nothing in a segment is wanted any more. No answer.
    Remove {
        /// Whose segment.
        queue: QueueId,
        /// Which.
        segment: Segment,
    },
}

/// What became of an order.
#[derive(Clone, Debug)]
pub enum Answer {
    /// All runs of the order are durable in this part of a segment.
    Spilled {
        /// Of the order.
        queue: QueueId,
        /// Of the order.
        token: u64,
        /// Where they are.
        extent: Extent,
    },
    /// The messages could not be written and must stay in memory until [`Answer::TryAgain`].
    Refused {
        /// Of the order.
        queue: QueueId,
        /// Of the order.
        token: u64,
    },
    /// There may be room again.
    TryAgain,
    /// A window was read.
    Read {
        /// Of the order.
        queue: QueueId,
        /// Of the order.
        token: u64,
        /// All that could be read.
        runs: Vec<Run>,
        /// Where the next read begins: messages in front of it that are in no run are lost.
        next: Place,
    },
}

/// How much of a queue stays in memory, bytes of messages with what they cost beside their content.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// More than this and the queue spills.
    pub queue: u64,
    /// What stays in front when it does.
    pub keep: u64,
    /// What has gathered behind a backlog before it is spilled too.
    pub tail: u64,
    /// A spill ends when it has this much.
    pub spill: u64,
    /// Less than this in front and the next window is read.
    pub front: u64,
    /// What all spills of a shard may hold that are on their way.
    pub in_flight: u64,
    /// While all queues of a shard have less than this in memory, those with consumers do not spill: who takes messages
    /// would only have to wait for them.
    pub busy: u64,
    /// A queue with more than this that waits for its spill holds publishers back.
    pub hold: u64,
    /// When all queues of a shard have more than this in memory, each that has no consumers spills all
    /// it has when that is more than its share of this.
    pub idle: u64,
    /// The least that is a share: every queue has a file for what is more.
    pub share: u64,
}

impl Limits {
    /// For a queue that shares what may be idle with others: so many with itself.
    #[must_use]
    pub fn shared_by(self, queues: usize) -> Limits {
        let queue = (self.idle / (queues as u64).max(1)).max(self.share).min(self.queue);
        Limits { queue, keep: 0, tail: self.tail.min(queue), ..self }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queue: 4 << 20,
            keep: 1 << 20,
            tail: 1 << 20,
            spill: 2 << 20,
            front: 512 << 10,
            in_flight: 8 << 20,
            busy: 128 << 20,
            hold: 8 << 20,
            idle: 32 << 20,
            share: 8 << 10,
        }
    }
}
