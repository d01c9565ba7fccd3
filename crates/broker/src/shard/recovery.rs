//! A shard after a restart, and the log kept short while it runs.

use std::collections::BTreeMap;

use super::Shard;
use super::publish::{RECORD_SIZE, count_of, overhead};
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
    /// How each message is held now.
    messages: BTreeMap<Written, Copied>,
}

/// See [`Stored`].
#[derive(Clone, Copy)]
struct Copied {
    targets: u32,
    overhead: u32,
}

impl Shard {
    /// Applies one record of the log, in the order of the log. Records of queues that are not open are skipped: those
    /// queues were deleted.
    pub fn recover(&mut self, position: Position, record: Record) {
        match record {
            Record::Enqueue { targets, messages } => {
                let shared = count_of(&targets);
                let overhead = overhead(1, shared, messages.count());
                let stored = Some(Stored::Log(Logged { position, nth: 0, targets: shared, overhead }));
                for (id, first) in targets {
                    // Another copy of them may have been read before.
                    self.forget(id, Span { first, count: messages.count() });
                    self.place(id, first, Run::new(messages.clone(), stored));
                    let joined = self.queues.get_mut(&id).and_then(Queue::join_recovered);
                    self.usage.joined(joined);
                }
            }
            Record::Settle { queue, spans } => spans.into_iter().for_each(|span| self.forget(queue, span)),
            Record::Delivered { queue: id, last } => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.saw_sequence(last + 1);
                    queue.recovered_delivered(last);
                }
            }
            Record::Arrived { queue, marks } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    marks.into_iter().for_each(|mark| queue.recover_mark(mark));
                }
            }
            Record::Returned { queue, returns, spans } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    spans.into_iter().for_each(|span| queue.recover_returns(span, returns));
                }
            }
            Record::Spilled { queue, extent, spans } => {
                let Some(queue) = self.queues.get_mut(&queue) else { return };
                for span in spans {
                    queue.saw_sequence(span.end());
                    queue.recover_spilled(extent, span, position, |run| self.usage.remove(run));
                }
            }
            Record::Stream(record) => self.recover_stream(position, record),
        }
    }

    /// Takes messages out where they are there.
    fn forget(&mut self, id: QueueId, span: Span) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.saw_sequence(span.end());
            queue.forget(span, |run| self.usage.remove(run));
        } else {
            self.forget_in_stream(id, span);
        }
    }

    /// All records are applied.
    pub fn recovered(&mut self) {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            if let Some(queue) = self.queues.get_mut(&id) {
                self.usage.joined(queue.join_rest());
                queue.flag_redelivered();
                queue.recovered_times(self.now);
            }
            self.touch(id);
        }
        self.streams.recovered();
    }

    /// The segments that hold messages: all others of the shard's are leftovers.
    pub fn segments(&self) -> Vec<(QueueId, Segment)> {
        let of_queue =
            |(id, queue): (&QueueId, &Queue)| queue.segments().map(|s| (*id, s)).collect::<Vec<_>>();
        self.queues.iter().flat_map(of_queue).chain(self.streams.segments()).collect()
    }

    /// Copies every message whose record may lie before `end` to the end of the log, so that the log can be cut there once
    /// the copies are committed. Returns the position of the last copy.
    pub fn copy_forward(&mut self, end: Position, log: &mut impl Log) -> Option<Position> {
        let moved = self.copy_shared(end, log);
        let mut queues = std::mem::take(&mut self.queues);
        for (id, queue) in &mut queues {
            queue.runs_mut().for_each(|(first, run)| self.copy_run((*id, first), run, end, &moved, log));
            for (segment, (extent, spans)) in queue.segments_before(end) {
                let (first, last) = record::append_spilled(log, &mut self.scratch, *id, &extent, &spans);
                self.append_at(last);
                queue.recorded_anew(segment, first);
            }
            let (marks, returned) = (queue.marks(), queue.returned());
            if !marks.is_empty() && queue.options.durable {
                let position = record::append_arrived(log, &mut self.scratch, *id, &marks);
                self.append_at(position);
            }
            for (returns, spans) in returned {
                let position = record::append_returned(log, &mut self.scratch, *id, returns, &spans);
                self.append_at(position);
            }
            let flags_matter = queue.has_backlog() || queue.runs().next().is_some();
            if flags_matter && queue.delivered_logged() > 0 {
                let position = record::append_delivered(log, *id, queue.delivered_logged());
                self.append_at(position);
            }
        }
        self.queues = queues;
        self.copy_streams(end, log, |shard, at, run, log| shard.copy_run(at, run, end, &moved, log));
        self.last_append
    }

    /// Copies messages of one queue or stream, unless they were copied with those of others.
    fn copy_run(
        &mut self,
        at: (QueueId, u64),
        run: &mut Run,
        end: Position,
        moved: &Moved,
        log: &mut impl Log,
    ) {
        let Some(old) = run.logged().filter(|logged| logged.position < end) else {
            return;
        };
        self.usage.remove(run);
        run.stored = Some(if old.targets == 1 {
            self.write(&[at], &run.messages, log).stored(1)
        } else {
            let records = (old.position, old.nth)..(old.position, old.nth + run.count());
            let copies = || moved.messages.range(records.clone()).map(|(_, copy)| *copy);
            Stored::Log(Logged {
                position: moved.positions[&old.position],
                nth: old.nth,
                targets: copies().map(|copy| copy.targets).min().unwrap_or(old.targets),
                overhead: copies().map(|copy| copy.overhead).max().unwrap_or(old.overhead),
            })
        });
        self.usage.add(run);
    }

    /// Copies messages that several queues share, each once. What was written together is copied together, so that a
    /// position and a count still name a message.
    fn copy_shared(&mut self, end: Position, log: &mut impl Log) -> Moved {
        let mut moved = Moved::default();
        let mut live = self.shared_before(end).into_iter().peekable();
        while let Some((first, (message, targets))) = live.next() {
            let mut record = message.as_bytes().to_vec();
            let mut count = 1;
            // Neighbours that are still in the same queues share a record again.
            while let Some((_, (next, _))) = live.next_if(|(written, (next, theirs))| {
                let follows =
                    *written == (first.0, first.1 + count) && record.len() + next.size() <= RECORD_SIZE;
                let same = |((queue, sequence), (other, theirs)): (&(QueueId, u64), &(QueueId, u64))| {
                    queue == other && sequence + u64::from(count) == *theirs
                };
                follows && targets.len() == theirs.len() && targets.iter().zip(theirs).all(same)
            }) {
                record.extend_from_slice(next.as_bytes());
                count += 1;
            }
            let position = record::append_enqueue(log, &mut self.scratch, &targets, 0, &record);
            self.append_at(position);
            moved.positions.entry(first.0).or_insert(position);
            let targets = count_of(&targets);
            let copy = Copied { targets, overhead: overhead(1, targets, count) };
            moved.messages.extend((first.1..first.1 + count).map(|nth| ((first.0, nth), copy)));
        }
        moved
    }

    /// The messages that several queues share and whose records may lie before `end`, and in which queues they still are.
    fn shared_before(&self, end: Position) -> BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> {
        let mut live: BTreeMap<Written, (Messages, Vec<(QueueId, u64)>)> = BTreeMap::new();
        let of_queues = self.queues.iter().flat_map(|(id, queue)| queue.runs().map(|run| (*id, run)));
        for (id, (first, run)) in of_queues.chain(self.streams.numbered_runs()) {
            let Some(stored) = run.logged().filter(|stored| stored.position < end && stored.targets > 1)
            else {
                continue;
            };
            for ((message, nth), sequence) in run.messages.singles().zip(stored.nth..).zip(first..) {
                let (_, targets) =
                    live.entry((stored.position, nth)).or_insert_with(|| (message, Vec::new()));
                targets.push((id, sequence));
            }
        }
        live
    }
}
