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
        let Publish { message, persistent, .. } = publish;
        let mut stored_at = None;
        for route in route.chunks(RECORD_QUEUES_MAX) {
            let mut targets = std::mem::take(&mut self.targets);
            targets.clear();
            if persistent {
                targets.extend(route.iter().filter_map(|id| {
                    let queue = self.queues.get_mut(id).filter(|queue| queue.options.durable)?;
                    Some((*id, queue.take_sequence()))
                }));
            }
            if !targets.is_empty() {
                let position = record::append_enqueue(log, &mut self.scratch, &targets, &message);
                let stored = Stored { position, share: share(targets.len(), &message) };
                self.append_at(position);
                stored_at = Some(position);
                for (id, sequence) in &targets {
                    self.place_entry(
                        *id,
                        *sequence,
                        Entry { message: message.clone(), stored: Some(stored), redelivered: false },
                    );
                }
            }
            for id in route {
                let Some(queue) = self.queues.get_mut(id) else {
                    continue;
                };
                if persistent && queue.options.durable {
                    continue;
                }
                let sequence = queue.take_sequence();
                self.place_entry(
                    *id,
                    sequence,
                    Entry { message: message.clone(), stored: None, redelivered: false },
                );
            }
            self.targets = targets;
        }
        stored_at
    }

    /// Puts an entry into its queue: the one way in, live and in recovery.
    pub(super) fn place_entry(&mut self, id: QueueId, sequence: u64, entry: Entry) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        self.live_bytes += u64::from(entry.stored.map_or(0, |stored| stored.share));
        self.message_bytes += entry.message.size() as u64;
        queue.saw_sequence(sequence);
        queue.enqueue(sequence, entry);
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
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
