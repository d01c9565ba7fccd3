//! A shard after a restart, and the log kept short while it runs.

use std::collections::BTreeMap;

use super::Shard;
use super::publish::count_of;
use crate::id::QueueId;
use crate::message::Messages;
use crate::page::Segment;
use crate::queue::{Logged, Queue, Run, Stored};
use crate::record::{self, Log, Position, Record, Span};
use crate::sequence::Stretch;

/// Where messages were written together, and which of them: names a message.
type Written = (Position, u32);

/// What became of messages that queues share.
#[derive(Default)]
struct Moved {
    /// New positions by old ones.
    positions: BTreeMap<Position, Position>,
    /// How many queues share each message now.
    records: BTreeMap<Written, u32>,
}

impl Shard {
    /// Applies one record of the log, in the order of the log. Records of queues that are not open are skipped: those
    /// queues were deleted.
    pub fn recover(&mut self, position: Position, record: Record) {
        match record {
            Record::Enqueue { targets, messages } => {
                let stored = Some(Stored::Log(Logged { position, nth: 0, targets: count_of(&targets) }));
                for (id, first) in targets {
                    // Another copy of them may have been read before.
                    self.forget(id, Span { first, count: messages.count() });
                    self.place(id, first, Run { messages: messages.clone(), stored, redelivered: false });
                }
            }
            Record::Settle { queue, spans } => spans.into_iter().for_each(|span| self.forget(queue, span)),
            Record::Delivered { queue: id, last } => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.saw_sequence(last + 1);
                    queue.recovered_delivered(last);
                }
            }
            Record::Spilled { queue, extent, spans } => {
                let Some(queue) = self.queues.get_mut(&queue) else { return };
                for span in spans {
                    queue.saw_sequence(span.end());
                    queue.recover_spilled(extent, span, position, |run| self.usage.remove(run));
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

    /// The segments that hold messages: all others of the shard's are leftovers.
    pub fn segments(&self) -> Vec<(QueueId, Segment)> {
        let of_queue =
            |(id, queue): (&QueueId, &Queue)| queue.segments().map(|s| (*id, s)).collect::<Vec<_>>();
        self.queues.iter().flat_map(of_queue).collect()
    }

    /// Copies every message whose record may lie before `end` to the end of the log, so that the log can be cut there once
    /// the copies are committed. Returns the position of the last copy.
    pub fn copy_forward(&mut self, end: Position, log: &mut impl Log) -> Option<Position> {
        let moved = self.copy_shared(end, log);
        let mut queues = std::mem::take(&mut self.queues);
        for (id, queue) in &mut queues {
            for (first, run) in queue.runs_mut() {
                let Some(old) = run.logged().filter(|logged| logged.position < end) else {
                    continue;
                };
                self.usage.remove(run);
                run.stored = Some(Stored::Log(if old.targets == 1 {
                    let written = self.write(&[(*id, first)], &run.messages, log);
                    Logged { position: written.first, nth: 0, targets: 1 }
                } else {
                    let records = (old.position, old.nth)..(old.position, old.nth + run.count());
                    let targets = moved.records.range(records).map(|(_, targets)| *targets).min();
                    let position = moved.positions[&old.position];
                    Logged { position, nth: old.nth, targets: targets.unwrap_or(old.targets) }
                }));
                self.usage.add(run);
            }
            for (segment, (extent, spans)) in queue.segments_before(end) {
                let position = record::append_spilled(log, &mut self.scratch, *id, &extent, &spans);
                self.append_at(position);
                queue.recorded_anew(segment, position);
            }
            let flags_matter = queue.ready_len() + queue.unacked_len() > 0;
            if flags_matter && queue.delivered_logged() > 0 {
                let position = record::append_delivered(log, *id, queue.delivered_logged());
                self.append_at(position);
            }
        }
        self.queues = queues;
        self.last_append
    }

    /// Copies messages that several queues share, each once. What was written together is copied together, so that a
    /// position and a count still name a message.
    fn copy_shared(&mut self, end: Position, log: &mut impl Log) -> Moved {
        let mut moved = Moved::default();
        for ((old, nth), (message, targets)) in self.shared_before(end) {
            let position = record::append_enqueue(log, &mut self.scratch, &targets, 0, message.as_bytes());
            self.append_at(position);
            moved.positions.entry(old).or_insert(position);
            moved.records.insert((old, nth), count_of(&targets));
        }
        moved
    }

    /// The messages that several queues share and whose records may lie before `end`, and in which queues they still are.
    fn shared_before(&self, end: Position) -> BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> {
        let mut live: BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> = BTreeMap::new();
        for (id, queue) in &self.queues {
            for (first, run) in queue.runs() {
                let Some(stored) = run.logged().filter(|stored| stored.position < end && stored.targets > 1)
                else {
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
