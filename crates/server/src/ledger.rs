//! A shard and the end of its journal: everything of a shard but its task and its thread.
//!
//! The server's shard task and the power-loss simulation drive the same lines: `handle` commands, `finish_round`, hand
//! the `Pending` round to the journal, say `synced` when it is durable, and carry out what the polls give.

use broker::id::{ConnectionId, QueueId};
use broker::page::{Answer, Limits, Order, Segment};
use broker::record::{self, Log, Position};
use broker::shard::{Command, Effect, Notice, Served, Shard};
use broker::topology::Settings;
use store::{Lsn, Record, Round, Tail};

/// When a journal is shortened, and by how much.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// A journal shorter than this is left alone, bytes.
    pub journal_size: u64,
    /// How much of its old end is looked at in one go, bytes: at least two files, so that one goes whole.
    pub step: u64,
}

/// Bytes that may be copied to shorten a journal while the disk is full.
const COPIED_WHEN_FULL_MAX: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    shard: Shard,
    log: TailLog,
    budget: Budget,
    synced: Lsn,
    oldest: Lsn,
    /// A sync was asked for of everything below.
    asked: Lsn,
    /// How much of the journal's old end is looked at next: more than a step when a step did not free a file, for one
    /// huge round makes a file that is longer.
    reach: u64,
    /// The last round is a mark alone if it ends here.
    marked: Lsn,
    /// The disk has no room.
    full: bool,
    /// The copies that a shortening made end here; files before the second position go once they are durable.
    shortening: Option<(Lsn, Lsn)>,
}

#[derive(Debug)]
struct TailLog(Tail);

impl Log for TailLog {
    fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
        self.0.append(kind, payload).0
    }
}

/// A round for the journal.
#[derive(Debug)]
pub struct Pending {
    /// The bytes.
    pub round: Round,
    /// Somebody waits for it to be durable.
    pub urgent: bool,
}

/// Why a record of the journal cannot be applied.
fn unknown(record: &Record<'_>) -> store::Error {
    let text = format!(
        "record of kind {} version {} at {:?} is not one that this version can read",
        record.kind, record.version, record.lsn
    );
    store::Error::new(store::Kind::Unsupported, text)
}

/// Recovers a shard: `open` its durable queues, `replay` the journal, then `finish`.
#[derive(Debug, Default)]
pub struct Recovery {
    shard: Shard,
}

impl Recovery {
    /// See [`Shard::tick`].
    pub fn tick(&mut self, now_ms: u64) {
        self.shard.tick(now_ms);
    }

    /// A queue that has survived.
    pub fn open(&mut self, queue: QueueId, options: impl Into<Served>) {
        self.shard.open(queue, options);
    }

    /// The next record of the journal.
    pub fn replay(&mut self, record: &Record<'_>) -> store::Result<()> {
        let decoded = record::Record::decode(record.kind, record.version, record.payload)
            .ok_or_else(|| unknown(record))?;
        self.shard.recover(record.lsn.0, decoded);
        Ok(())
    }

    /// How much of its queues the shard keeps in memory.
    pub fn limit_paging(&mut self, limits: Limits) {
        self.shard.limit_paging(limits);
    }

    /// All records were replayed; the journal goes on at `next`.
    pub fn finish(mut self, oldest: Lsn, next: Lsn, budget: Budget) -> Ledger {
        self.shard.recovered();
        self.shard.committed(next.0);
        Ledger {
            shard: self.shard,
            log: TailLog(Tail::new(next)),
            budget,
            synced: next,
            oldest,
            asked: next,
            reach: budget.step,
            marked: next,
            full: false,
            shortening: None,
        }
    }
}

impl Ledger {
    /// See [`Shard::tick`].
    pub fn tick(&mut self, now_ms: u64) {
        self.shard.tick(now_ms);
    }

    /// See [`Shard::open`].
    pub fn open(&mut self, queue: QueueId, options: impl Into<Served>) {
        self.shard.open(queue, options);
    }

    /// See [`Shard::configure`].
    pub fn configure(&mut self, queue: QueueId, settings: Settings) {
        self.shard.configure(queue, settings, &mut self.log);
    }

    /// See [`Shard::drop_queue`].
    pub fn drop_queue(&mut self, queue: QueueId) {
        self.shard.drop_queue(queue);
    }

    /// See [`Shard::handle`].
    pub fn handle(&mut self, from: ConnectionId, command: Command) {
        self.shard.handle(from, command, &mut self.log);
    }

    /// Ends the round; what it appended, if anything.
    pub fn finish_round(&mut self) -> Option<Pending> {
        self.shard.finish_round(&mut self.log);
        self.take_round()
    }

    /// The journal is durable below `synced`, and its oldest file begins at `oldest`. The rounds whose buffers come back
    /// are filled again. Returns up to where the journal can be forgotten now, and a round if the journal is shortened.
    pub fn synced(
        &mut self,
        synced: Lsn,
        oldest: Lsn,
        buffers: Vec<Vec<u8>>,
    ) -> (Option<Lsn>, Option<Pending>) {
        self.synced = synced;
        if oldest > self.oldest {
            self.reach = self.budget.step;
        }
        self.oldest = oldest;
        self.log.0.synced(synced);
        buffers.into_iter().for_each(|buffer| self.log.0.give_back(buffer));
        self.shard.committed(synced.0);
        if let Some((copied, before)) = self.shortening {
            if synced < copied {
                return (None, None);
            }
            self.shortening = None;
            // Until it is known that a file went.
            self.reach = self.reach.saturating_mul(2);
            return (Some(before), None);
        }
        (None, self.shorten())
    }

    /// The journal's thread has nothing to do: writes down once that all is durable, so that a recovery can tell later damage
    /// of the last rounds from a torn tail.
    pub fn idle(&mut self) -> Option<Pending> {
        let is_idle = self.log.0.pending_bytes() == 0 && self.synced == self.log.0.next_lsn();
        if !is_idle {
            return None;
        }
        if self.marked == self.synced {
            self.log.0.rest();
            return None;
        }
        let round = self.log.0.take_mark();
        self.marked = round.end();
        Some(Pending { round, urgent: false })
    }

    /// Whether the disk has no room for more than what is small.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// See [`Shard::paged`]. What it appends is in the next round.
    pub fn paged(&mut self, answer: Answer) {
        self.shard.paged(answer, &mut self.log);
    }

    /// See [`Shard::poll_page`].
    pub fn poll_page(&mut self) -> Option<Order> {
        self.shard.poll_page()
    }

    /// See [`Shard::segments`].
    pub fn segments(&self) -> Vec<(QueueId, Segment)> {
        self.shard.segments()
    }

    /// See [`Shard::give_up_segment`].
    pub fn give_up_segment(&mut self, queue: QueueId, segment: Segment) -> u64 {
        self.shard.give_up_segment(queue, segment)
    }

    /// Bytes that were appended and are not yet durable.
    pub fn unsynced_bytes(&self) -> u64 {
        self.log.0.next_lsn().0 - self.synced.0
    }

    /// See [`Shard::poll_effects`].
    pub fn poll_effects(&mut self) -> Option<(ConnectionId, Vec<Effect>)> {
        self.shard.poll_effects()
    }

    /// See [`Shard::poll_notice`].
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.shard.poll_notice()
    }

    /// The shard, to look at.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// What was appended since the last round. A round without records is taken when somebody waits for older ones that
    /// were written without haste.
    fn take_round(&mut self) -> Option<Pending> {
        let urgent = self.shard.awaited().is_some_and(|position| position >= self.asked.0);
        if self.log.0.pending_bytes() == 0 && !urgent {
            return None;
        }
        let round = self.log.0.take_mark();
        if urgent {
            self.asked = round.end();
        }
        Some(Pending { round, urgent })
    }

    /// Copies what still matters of the journal's oldest part to its end, once less than half of the journal matters.
    fn shorten(&mut self) -> Option<Pending> {
        let size = self.log.0.next_lsn().0 - self.oldest.0;
        if size < self.budget.journal_size || self.shard.live_bytes() * 2 > size {
            return None;
        }
        if self.full && self.shard.live_bytes() > COPIED_WHEN_FULL_MAX {
            return None;
        }
        let before = Lsn(self.oldest.0 + self.reach.min(size / 2));
        self.shard.copy_forward(before.0, &mut self.log);
        let round = self.log.0.take_mark();
        self.asked = round.end();
        self.shortening = Some((round.end(), before));
        Some(Pending { round, urgent: true })
    }
}
