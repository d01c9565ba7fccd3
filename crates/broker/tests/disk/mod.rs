//! What is behind a shard, as maps in memory: its log, and who keeps its backlog on a disk.

use std::collections::{BTreeMap, VecDeque};

use broker::id::QueueId;
use broker::page::{Answer, Extent, Order, Place, Run, Segment};
use broker::record::{Log, Position};

/// Messages after which a segment is full, and those that one read gives.
const SEGMENT_LEN: usize = 16;
const WINDOW: usize = 3;

#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<(Position, u8, Vec<u8>)>,
    pub(crate) end: Position,
}

impl Log for Journal {
    fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
        let position = self.end;
        let payload = payload.concat();
        self.end += 12 + payload.len() as u64;
        self.records.push((position, kind, payload));
        position
    }
}

/// Segments as they are on a disk, and who carries out what the shard wants of them.
#[derive(Default)]
pub(crate) struct Pager {
    pub(crate) segments: BTreeMap<(QueueId, Segment), Vec<Run>>,
    pub(crate) answers: VecDeque<Answer>,
    last_number: u64,
    pub(crate) life: u64,
}

impl Pager {
    pub(crate) fn carry_out(&mut self, order: Order, refuse: bool) {
        match order {
            Order::Spill { queue, token, .. } if refuse => {
                self.answers.push_back(Answer::Refused { queue, token });
                self.answers.push_back(Answer::TryAgain);
            }
            Order::Spill { queue, token, runs } => {
                let extent = self.append(queue, runs);
                self.answers.push_back(Answer::Spilled { queue, token, extent });
            }
            Order::Read { queue, token, extent } => {
                let segment = self.segments.get(&(queue, extent.segment)).expect("what is wanted is there");
                let from = usize::try_from(extent.from.offset).expect("a place is an index");
                let to = usize::try_from(extent.to.offset).expect("a place is an index").min(from + WINDOW);
                let wanted = |run: &&Run| run.first >= extent.from.sequence;
                let runs = segment[from..to].iter().filter(wanted).cloned().collect();
                let sequence = segment[to - 1].first + 1;
                let next = Place { offset: to as u64, sequence: sequence.max(extent.from.sequence) };
                self.answers.push_back(Answer::Read { queue, token, runs, next });
            }
            Order::Append { .. } => panic!("there are no streams here"),
            Order::Remove { queue, segment } => drop(self.segments.remove(&(queue, segment))),
        }
    }

    /// Adds messages, one by one, to the last segment of the queue, or to a new one.
    fn append(&mut self, queue: QueueId, runs: Vec<Run>) -> Extent {
        let of_it = |((of, segment), messages): &(&(QueueId, Segment), &Vec<Run>)| {
            let goes_on = messages.last().is_some_and(|last| last.first < runs[0].first);
            *of == queue && segment.incarnation == self.life && messages.len() < SEGMENT_LEN && goes_on
        };
        let found = self.segments.iter().filter(of_it).map(|((_, segment), _)| *segment).next_back();
        let segment = found.unwrap_or_else(|| {
            self.last_number += 1;
            Segment { number: self.last_number, incarnation: self.life }
        });
        let messages = self.segments.entry((queue, segment)).or_default();
        let from = Place { offset: messages.len() as u64, sequence: runs[0].first };
        for run in runs {
            for (first, one) in (run.first..).zip(run.messages.singles()) {
                assert!(messages.last().is_none_or(|last| last.first < first), "a segment ascends");
                messages.push(Run { first, flags: run.flags, messages: one });
            }
        }
        let sequence = messages.last().expect("there is a run").first + 1;
        Extent { segment, from, to: Place { offset: messages.len() as u64, sequence } }
    }
}
