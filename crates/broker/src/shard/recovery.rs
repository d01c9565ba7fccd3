//! A shard after a restart, and the log kept short while it runs.

use std::collections::BTreeMap;

use super::Shard;
use super::publish::share;
use crate::id::QueueId;
use crate::message::Message;
use crate::queue::{Entry, Queue, Stored};
use crate::record::{self, Log, Position, Record};

impl Shard {
    /// Applies one record of the log, in the order of the log. Records of queues that are not open are skipped: those
    /// queues were deleted.
    pub fn recover(&mut self, position: Position, record: Record) {
        match record {
            Record::Enqueue { targets, message } => {
                let stored = Some(Stored { position, share: share(targets.len(), &message) });
                for (id, sequence) in targets {
                    self.recover_one(id, sequence);
                    self.place(id, sequence, Entry { message: message.clone(), stored, redelivered: false });
                }
            }
            Record::Settle { queue, spans } => {
                for span in spans {
                    for sequence in span.first..span.first.saturating_add(u64::from(span.count)) {
                        self.recover_one(queue, sequence);
                    }
                }
            }
            Record::Delivered { queue: id, last } => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.saw_sequence(last);
                    queue.recovered_delivered(last);
                }
            }
        }
    }

    /// Takes a message out, if it is there: it was settled, or its record was copied to the end of the log.
    fn recover_one(&mut self, id: QueueId, sequence: u64) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        queue.saw_sequence(sequence);
        if let Some(entry) = queue.forget(sequence) {
            self.usage.remove(&entry);
        }
    }

    /// All records are applied.
    pub fn recovered(&mut self) {
        self.queues.values_mut().for_each(Queue::flag_redelivered);
    }

    /// Copies every record that lies before `end` and still matters to the end of the log, so that the log can be cut
    /// there once the copies are committed. Returns the position of the last copy.
    pub fn copy_forward(&mut self, end: Position, log: &mut impl Log) -> Option<Position> {
        let mut live: BTreeMap<Position, (Message, Vec<(QueueId, u64)>)> = BTreeMap::new();
        for (id, queue) in &self.queues {
            for (sequence, entry) in queue.entries() {
                let Some(stored) = entry.stored.filter(|stored| stored.position < end) else {
                    continue;
                };
                let (_, targets) =
                    live.entry(stored.position).or_insert_with(|| (entry.message.clone(), Vec::new()));
                targets.push((*id, sequence));
            }
        }
        let mut moved: BTreeMap<(QueueId, u64), Stored> = BTreeMap::new();
        for (message, targets) in live.into_values() {
            let position = record::append_enqueue(log, &mut self.scratch, &targets, &message);
            self.append_at(position);
            let stored = Stored { position, share: share(targets.len(), &message) };
            moved.extend(targets.into_iter().map(|target| (target, stored)));
        }
        for (id, queue) in &mut self.queues {
            for (sequence, entry) in queue.entries_mut() {
                if entry.stored.is_none_or(|stored| stored.position >= end) {
                    continue;
                }
                let new = moved[&(*id, sequence)];
                self.usage.remove(entry);
                entry.stored = Some(new);
                self.usage.add(entry);
            }
            let flags_matter = queue.ready_len() + queue.unacked_len() > 0;
            if flags_matter && queue.delivered_logged() > 0 {
                let position = record::append_delivered(log, *id, queue.delivered_logged());
                self.last_append = Some(position);
            }
        }
        self.last_append
    }
}
