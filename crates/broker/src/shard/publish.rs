//! From a session's batch into queues.

use super::{Batch, Effect, Publish, Shard};
use crate::id::{ConnectionId, QueueId};
use crate::queue::{Entry, Stored};
use crate::record::{self, Log, Position};

/// Queues that one record may name; a wider fan-out takes several records.
const RECORD_QUEUES_MAX: usize = 10_000;

/// Confirm numbers of one publisher that follow each other and can be given together.
#[derive(Clone, Copy)]
struct Confirmable {
    publisher: u32,
    first: u64,
    last: u64,
    /// Position of the last record they rest on; `None`: nothing had to be stored.
    position: Option<Position>,
}

impl Shard {
    pub(super) fn publish(&mut self, from: ConnectionId, batch: Batch, log: &mut impl Log) {
        let mut run: Option<Confirmable> = None;
        let Batch { routes, messages } = batch;
        for publish in messages {
            let confirm = publish.confirm;
            let route = &routes[publish.route];
            let position = self.enqueue(publish, route, log);
            let Some((publisher, number)) = confirm else {
                continue;
            };
            match &mut run {
                Some(run) if run.publisher == publisher && run.last + 1 == number => {
                    run.last = number;
                    run.position = position.or(run.position);
                }
                _ => {
                    self.confirm(from, run.take());
                    run = Some(Confirmable { publisher, first: number, last: number, position });
                }
            }
        }
        self.confirm(from, run);
    }

    /// Puts a message into the queues of its route; the position of its record, if it needed one.
    fn enqueue(&mut self, publish: Publish, route: &[QueueId], log: &mut impl Log) -> Option<Position> {
        if let [id] = route {
            return self.enqueue_one(publish, *id, log);
        }
        let chunks = route.chunks(RECORD_QUEUES_MAX);
        chunks.fold(None, |last, route| self.enqueue_many(&publish, route, log).or(last))
    }

    fn enqueue_one(&mut self, publish: Publish, id: QueueId, log: &mut impl Log) -> Option<Position> {
        let Publish { message, persistent, .. } = publish;
        let queue = self.queues.get_mut(&id)?;
        let sequence = queue.take_sequence();
        let mut position = None;
        if persistent && queue.options.durable {
            position = Some(record::append_enqueue(log, &mut self.scratch, &[(id, sequence)], &message));
        }
        let stored = position.map(|position| Stored { position, share: share(1, &message) });
        let entry = Entry { message, stored, redelivered: false };
        self.usage.add(&entry);
        queue.enqueue(sequence, entry);
        queue.touch(&mut self.touched, id);
        self.last_append = position.or(self.last_append);
        position
    }

    /// One record for all queues that keep it.
    fn enqueue_many(&mut self, publish: &Publish, route: &[QueueId], log: &mut impl Log) -> Option<Position> {
        let Publish { message, persistent, .. } = publish;
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        for id in route {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let sequence = queue.take_sequence();
            if *persistent && queue.options.durable {
                targets.push((*id, sequence));
            } else {
                self.place(
                    *id,
                    sequence,
                    Entry { message: message.clone(), stored: None, redelivered: false },
                );
            }
        }
        let mut position = None;
        if !targets.is_empty() {
            let at = record::append_enqueue(log, &mut self.scratch, &targets, message);
            position = Some(at);
            self.append_at(at);
            let stored = Some(Stored { position: at, share: share(targets.len(), message) });
            for (id, sequence) in &targets {
                self.place(*id, *sequence, Entry { message: message.clone(), stored, redelivered: false });
            }
        }
        self.targets = targets;
        position
    }

    /// Puts an entry into its queue.
    pub(super) fn place(&mut self, id: QueueId, sequence: u64, entry: Entry) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        self.usage.add(&entry);
        queue.enqueue(sequence, entry);
        queue.touch(&mut self.touched, id);
    }

    fn confirm(&mut self, to: ConnectionId, run: Option<Confirmable>) {
        let Some(Confirmable { publisher, first, last, position }) = run else {
            return;
        };
        let effect = Effect::Confirm { publisher, first, last };
        match position {
            Some(position) => self.outbox.hold(position, to, effect),
            None => self.outbox.push(to, effect),
        }
    }
}

/// The bytes of the log that each of `targets` queues keeps alive.
pub(super) fn share(targets: usize, message: &crate::message::Message) -> u32 {
    let bytes = record::enqueue_len(targets, message) / targets.max(1);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
