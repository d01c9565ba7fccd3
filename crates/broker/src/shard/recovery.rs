//! A shard after a restart, and the log kept short while it runs.

use std::collections::BTreeMap;

use super::Shard;
use super::publish::count_of;
use crate::id::QueueId;
use crate::message::Messages;
use crate::queue::{Queue, Run, Stored};
use crate::record::{self, Log, Position, Record, Span};
use crate::sequence::Stretch;

/// Records that were written together, and which of them: names a record.
type Written = (Position, u32);

impl Shard {
    /// Applies one record of the log, in the order of the log. Records of queues that are not open are skipped: those
    /// queues were deleted.
    pub fn recover(&mut self, position: Position, record: Record) {
        match record {
            Record::Enqueue { targets, message } => {
                let stored = Some(Stored { position, nth: 0, targets: count_of(&targets) });
                for (id, sequence) in targets {
                    // Another copy of its record may have been read before.
                    self.forget(id, Span::one(sequence));
                    self.place(id, sequence, Run { messages: message.clone(), stored, redelivered: false });
                }
            }
            Record::Settle { queue, spans } => spans.into_iter().for_each(|span| self.forget(queue, span)),
            Record::Delivered { queue: id, last } => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.saw_sequence(last + 1);
                    queue.recovered_delivered(last);
                }
            }
        }
    }

    /// Takes messages out where they are there.
    fn forget(&mut self, id: QueueId, span: Span) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.saw_sequence(span.end());
            queue.forget(span, |run| self.usage.remove(run));
        }
    }

    /// All records are applied.
    pub fn recovered(&mut self) {
        self.queues.values_mut().for_each(Queue::flag_redelivered);
    }

    /// Copies every record that lies before `end` and still matters to the end of the log, so that the log can be cut
    /// there once the copies are committed. Returns the position of the last copy.
    pub fn copy_forward(&mut self, end: Position, log: &mut impl Log) -> Option<Position> {
        // What was written together is copied together, so that a position and a count still name a record.
        let mut moved: BTreeMap<Position, Position> = BTreeMap::new();
        let mut shared: BTreeMap<Written, u32> = BTreeMap::new();
        for ((old, nth), (message, targets)) in self.written_before(end) {
            let position = record::append_enqueue(log, &mut self.scratch, &targets, 0, message.first());
            self.append_at(position);
            moved.entry(old).or_insert(position);
            shared.insert((old, nth), count_of(&targets));
        }
        for (id, queue) in &mut self.queues {
            for run in queue.runs_mut() {
                let Some(Stored { position, nth, .. }) = run.stored.filter(|stored| stored.position < end)
                else {
                    continue;
                };
                self.usage.remove(run);
                let records = shared.range((position, nth)..(position, nth + run.count()));
                let targets = records.map(|(_, targets)| *targets).min().unwrap_or(1);
                run.stored = Some(Stored { position: moved[&position], nth, targets });
                self.usage.add(run);
            }
            let flags_matter = queue.ready_len() + queue.unacked_len() > 0;
            if flags_matter && queue.delivered_logged() > 0 {
                let position = record::append_delivered(log, *id, queue.delivered_logged());
                self.last_append = Some(position);
            }
        }
        self.last_append
    }

    /// The messages whose records may lie before `end`, by record, and in which queues they are still.
    fn written_before(&self, end: Position) -> BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> {
        let mut live: BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> = BTreeMap::new();
        for (id, queue) in &self.queues {
            for (first, run) in queue.runs() {
                let Some(stored) = run.stored.filter(|stored| stored.position < end) else {
                    continue;
                };
                for ((message, nth), sequence) in run.messages.singles().zip(stored.nth..).zip(first..) {
                    let (_, targets) =
                        live.entry((stored.position, nth)).or_insert_with(|| (message, Vec::new()));
                    targets.push((*id, sequence));
                }
            }
        }
        live
    }
}
