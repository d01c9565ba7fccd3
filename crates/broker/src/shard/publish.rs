//! From a session's batch into queues.

use super::{Batch, Confirm, Effect, Forward, Publish, Reason, Shard};
use crate::id::{ConnectionId, QueueId};
use crate::message::Messages;
use crate::queue::{Logged, Run, Stored};
use crate::record::{self, Log, Position, enqueue_overhead};
use crate::topology::Overflow;

/// Queues that one record may name; a wider fan-out takes several records.
const RECORD_QUEUES_MAX: usize = 10_000;

/// Bytes of messages that share a record. What is damaged is lost as a record, and a disk damages no less than this.
pub(super) const RECORD_SIZE: usize = 4 << 10;

/// Records that were written one after the other.
#[derive(Clone, Copy)]
pub(super) struct Written {
    first: Position,
    pub(super) last: Position,
    overhead: u32,
}

impl Written {
    /// Where the log holds what was written, from the first message on.
    pub(super) fn stored(self, targets: u32) -> Stored {
        Stored::Log(Logged { position: self.first, nth: 0, targets, overhead: self.overhead })
    }
}

/// Bytes per message that records for so many queues take beside the messages.
pub(super) fn overhead(records: u32, targets: u32, messages: u32) -> u32 {
    let bytes = u64::from(records) * enqueue_overhead(targets as usize) as u64;
    u32::try_from(bytes.div_ceil(messages.into())).unwrap_or(u32::MAX)
}

impl Shard {
    pub(super) fn publish(&mut self, from: ConnectionId, batch: Batch, log: &mut impl Log) {
        let Batch { routes, runs, confirms } = batch;
        let mut last = None;
        for publish in runs {
            let (route, confirm) = (&routes[publish.route], publish.confirm);
            self.refused = false;
            last = self.enqueue(publish, route, log).max(last);
            if let Some((publisher, number)) = confirm {
                let confirm = Confirm { publisher, first: number, last: number };
                let effect = if self.refused { Effect::Refused } else { Effect::Confirm };
                self.answer(last, from, effect(confirm));
            }
        }
        for effect in confirms.into_iter().map(Effect::Confirm) {
            self.answer(last, from, effect);
        }
    }

    /// Answers once a record is committed.
    fn answer(&mut self, position: Option<Position>, to: ConnectionId, effect: Effect) {
        match position {
            Some(position) => self.outbox.hold(position, to, effect),
            None => self.outbox.push(to, effect),
        }
    }

    /// Puts messages into the queues of their route; the position of their last record, if they needed one.
    fn enqueue(&mut self, publish: Publish, route: &[QueueId], log: &mut impl Log) -> Option<Position> {
        if let [id] = route {
            return self.enqueue_one(publish, *id, log);
        }
        let chunks = route.chunks(RECORD_QUEUES_MAX);
        chunks.fold(None, |last, route| self.enqueue_many(&publish, route, log).or(last))
    }

    fn enqueue_one(&mut self, publish: Publish, id: QueueId, log: &mut impl Log) -> Option<Position> {
        let Some(queue) = self.queues.get(&id) else {
            return self.enqueue_in_stream(&publish.messages, id, log);
        };
        if queue.deduplicates(publish.duplicates) {
            return self.enqueue_new(&publish, id, log);
        }
        let extras = queue.has_extras() || publish.expires;
        if extras && !self.admit(&publish, id) {
            return None;
        }
        let Publish { messages, persistent, expires, .. } = publish;
        let queue = self.queues.get_mut(&id)?;
        let first = queue.take_sequence(messages.count());
        let durable = persistent && queue.options.durable;
        if extras {
            self.arrived(id, first, expires, durable, log);
        }
        let written = durable.then(|| self.write(&[(id, first)], &messages, log));
        let stored = written.map(|written| written.stored(1));
        self.place(id, first, Run::new(messages, stored));
        written.map(|written| written.last)
    }

    /// Whether a queue takes messages; notes that it does not, and sends them where the queue wants them instead.
    pub(super) fn admit(&mut self, publish: &Publish, id: QueueId) -> bool {
        let admitted = publish.confirm.is_none() || self.admits(id);
        self.refused |= !admitted;
        if !admitted
            && let Some(settings) = self.queues.get(&id).map(|queue| &queue.options.settings)
            && settings.overflow == Overflow::RejectPublishDlx
            && settings.dead_letter_exchange.is_some()
        {
            let messages = publish.messages.clone();
            let letters = settings.dead_letters();
            let forward = Forward { queue: id, first: None, reason: Reason::MaxLen, letters, messages };
            self.outbox.push(ConnectionId::FORWARDER, Effect::Forward(forward));
        }
        admitted
    }

    /// The same records for all queues that keep the messages.
    fn enqueue_many(&mut self, publish: &Publish, route: &[QueueId], log: &mut impl Log) -> Option<Position> {
        let Publish { messages, persistent, expires, duplicates, .. } = publish;
        let mut last = None;
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        for id in route {
            let Some(queue) = self.queues.get(id) else {
                targets.extend(self.take_offsets(*id, messages.count(), log).map(|first| (*id, first)));
                continue;
            };
            if queue.deduplicates(*duplicates) {
                last = self.enqueue_new(publish, *id, log).max(last);
                continue;
            }
            let extras = queue.has_extras() || *expires;
            if extras && !self.admit(publish, *id) {
                continue;
            }
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let first = queue.take_sequence(messages.count());
            let durable = *persistent && queue.options.durable;
            if extras {
                self.arrived(*id, first, *expires, durable, log);
            }
            if durable {
                targets.push((*id, first));
            } else {
                self.place(*id, first, Run::new(messages.clone(), None));
            }
        }
        let written = (!targets.is_empty()).then(|| self.write(&targets, messages, log));
        if let Some(written) = written {
            let stored = Some(written.stored(count_of(&targets)));
            for (id, first) in &targets {
                self.place(*id, *first, Run::new(messages.clone(), stored));
                self.streams.written(*id, written.last, *first + u64::from(messages.count()));
            }
        }
        self.targets = targets;
        written.map(|written| written.last).max(last)
    }

    /// Writes messages, the first of which has these sequence numbers in its queues.
    pub(super) fn write(
        &mut self,
        targets: &[(QueueId, u64)],
        messages: &Messages,
        log: &mut impl Log,
    ) -> Written {
        let mut ends: Option<(Position, Position)> = None;
        let (mut nth, mut records) = (0, 0);
        for (chunk, count) in messages.chunks(RECORD_SIZE) {
            let last = record::append_enqueue(log, &mut self.scratch, targets, nth, chunk);
            ends = Some((ends.map_or(last, |(first, _)| first), last));
            nth += count;
            records += 1;
        }
        let (first, last) = ends.expect("messages are at least one");
        self.append_at(last);
        Written { first, last, overhead: overhead(records, count_of(targets), messages.count()) }
    }

    /// Puts messages into their queue.
    pub(super) fn place(&mut self, id: QueueId, first: u64, run: Run) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return self.place_in_stream(id, first, run);
        };
        self.usage.add(&run);
        if queue.has_extras() {
            queue.count_ready(&run);
        }
        queue.enqueue(first, run);
        queue.touch(&mut self.touched, id);
    }
}

/// How many queues share a record.
pub(super) fn count_of(targets: &[(QueueId, u64)]) -> u32 {
    u32::try_from(targets.len()).expect("a record names a bounded number of queues")
}
