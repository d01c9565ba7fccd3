//! Messages for queues that take no message twice.

use amqp::properties::Properties;

use super::publish::overhead;
use super::{Publish, Shard};
use crate::id::QueueId;
use crate::message::Message;
use crate::queue::{Logged, Queue, Run, Seen, Stored};
use crate::record::{self, Log, Position};
use crate::topology::{Duplicates, Identity};

impl Shard {
    /// Puts messages into a queue, but for those that it has seen; what must be committed before they are confirmed.
    pub(super) fn enqueue_new(
        &mut self,
        publish: &Publish,
        id: QueueId,
        log: &mut impl Log,
    ) -> Option<Position> {
        let singles = publish.messages.singles();
        let singles = singles.map(|messages| Publish { messages, ..publish.clone() });
        singles.fold(None, |last, publish| self.enqueue_if_new(publish, id, log).max(last))
    }

    fn enqueue_if_new(&mut self, publish: Publish, id: QueueId, log: &mut impl Log) -> Option<Position> {
        let queue = self.queues.get_mut(&id)?;
        let identities = identities(queue, publish.duplicates, publish.messages.first());
        // After a restart more is remembered than was asked for.
        self.remember(id, |queue| queue.shorten_windows(&identities));
        let queue = self.queues.get_mut(&id)?;
        if let Some(position) = queue.has_seen(&identities, self.now) {
            // The one that came before may still wait for the disk, and its publisher may be another one.
            return position.filter(|position| *position >= self.committed).and(self.last_append);
        }
        if !self.admit(&publish, id) {
            return None;
        }
        let Publish { mut messages, persistent, expires, .. } = publish;
        // Those that it came with may not stay.
        messages.move_out();
        let queue = self.queues.get_mut(&id)?;
        let first = queue.take_sequence(1);
        let durable = persistent && queue.options.durable;
        self.arrived(id, first, expires, durable, log);
        let now = self.now;
        let seen: Vec<Seen> = identities.iter().map(|identity| see(identity, first, now)).collect();
        let position = durable
            .then(|| record::append_once(log, &mut self.scratch, (id, first), &seen, messages.as_bytes()));
        if let Some(position) = position {
            self.append_at(position);
        }
        self.remember(id, |queue| {
            queue.see(&seen, position);
            queue.shorten_windows(&identities);
        });
        let overhead = overhead(1, 1, 1);
        let stored = position.map(|position| Stored::Log(Logged { position, nth: 0, targets: 1, overhead }));
        self.place(id, first, Run::new(messages, stored));
        position
    }

    /// Changes what a queue remembers.
    pub(super) fn remember(&mut self, id: QueueId, change: impl FnOnce(&mut Queue)) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        self.usage.remove_seen(queue);
        change(queue);
        self.usage.add_seen(queue);
    }

    /// Writes anew what the log says below `end` of messages that a queue remembers.
    pub(super) fn copy_seen(&mut self, id: QueueId, queue: &mut Queue, end: Position, log: &mut impl Log) {
        for seen in queue.seen_before(end, self.now).chunks(record::RECORD_SEEN_MAX) {
            let position = record::append_seen(log, &mut self.scratch, id, seen);
            self.append_at(position);
            queue.see(seen, Some(position));
        }
    }
}

/// What a message is remembered by: for the exchange that it came through, and for the queue.
fn identities(queue: &Queue, duplicates: Duplicates, message: Message<'_>) -> Vec<Identity> {
    let through_exchange = match duplicates {
        Duplicates::Drop(identity) => Some(identity),
        Duplicates::AsQueuesSay | Duplicates::Keep => None,
    };
    let in_queue = || {
        let deduplication = queue.options.settings.deduplication.as_ref()?;
        deduplication.in_queue(Properties::new(message.properties()).ok()?)
    };
    through_exchange.into_iter().chain(in_queue()).collect()
}

fn see(identity: &Identity, number: u64, now: u64) -> Seen {
    let until = identity.ttl_ms.map_or(u64::MAX, |ttl| now.saturating_add(ttl));
    Seen { number, window: identity.window, id: identity.id, until }
}
