//! Messages that follow each other in a queue, and where they are kept.

use crate::message::Messages;
use crate::page::Segment;
use crate::record::Position;
use crate::sequence::Stretch;

/// What a message takes in memory beside its bytes: its share of a buffer's and a run's bookkeeping.
const MESSAGE_OVERHEAD: u64 = 32;

/// Where messages are that survive a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// In the log, written one after the other.
    Log(Logged),
    /// In a segment.
    Segment(Segment),
}

/// Where the log holds messages that were written one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Position of the first record that was written together with theirs.
    pub(crate) position: Position,
    /// How many were written from there to the first of these: with the position it names a message.
    pub(crate) nth: u32,
    /// Queues that share each record.
    pub(crate) targets: u32,
    /// Bytes of records per message, beside the message.
    pub(crate) overhead: u32,
}

/// Messages of a queue whose sequence numbers follow each other and that share everything else.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) messages: Messages,
    /// `None`: they are in memory only.
    pub(crate) stored: Option<Stored>,
    pub(crate) redelivered: bool,
    /// How often they were given back, where that is counted.
    pub(crate) returns: u16,
}

impl Stretch for Run {
    fn count(&self) -> u32 {
        self.messages.count()
    }

    fn split_to(&mut self, count: u32) -> Run {
        let first = Run { messages: self.messages.split_to(count), ..*self };
        if let Some(Stored::Log(logged)) = &mut self.stored {
            logged.nth += count;
        }
        first
    }

    fn stays(&mut self) {
        self.messages.move_out();
    }
}

impl Run {
    /// Messages that nobody has seen.
    pub(crate) fn new(messages: Messages, stored: Option<Stored>) -> Run {
        Run { messages, stored, redelivered: false, returns: 0 }
    }

    /// Whether a run, whose first number this is, and the next one can be joined: both are of their queue alone.
    pub(crate) fn goes_on_with(&self, first: u64, next: u64, after: &Run) -> bool {
        let alone = |run: &Run| run.logged().is_some_and(|logged| logged.targets == 1);
        let like = (self.redelivered, self.returns) == (after.redelivered, after.returns);
        like && first + u64::from(self.count()) == next && alone(self) && alone(after)
    }

    /// Runs that go on with each other as one, kept in the log where the oldest is.
    pub(crate) fn join(runs: &[(u64, Run)]) -> Option<Run> {
        let logged = runs.iter().filter_map(|(_, run)| run.logged());
        let position = logged.clone().map(|logged| logged.position).min()?;
        let overhead = logged.map(|logged| logged.overhead).max()?;
        let messages: Vec<&Messages> = runs.iter().map(|(_, run)| &run.messages).collect();
        let stored = Stored::Log(Logged { position, nth: 0, targets: 1, overhead });
        let (_, first) = runs.first()?;
        Some(Run { messages: Messages::join(&messages), stored: Some(stored), ..*first })
    }

    /// Bytes of memory.
    pub(crate) fn weight(&self) -> u64 {
        self.messages.size() as u64 + u64::from(self.messages.count()) * MESSAGE_OVERHEAD
    }

    /// Where the log holds them, if it does.
    pub(crate) fn logged(&self) -> Option<Logged> {
        match self.stored {
            Some(Stored::Log(logged)) => Some(logged),
            Some(Stored::Segment(_)) | None => None,
        }
    }
}
