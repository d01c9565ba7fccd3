//! Messages of a queue in memory, by sequence number.

use crate::queue::Run;
use crate::sequence::{Sequence, Stretch};

/// Runs after which the last ones are joined.
const JOIN_EVERY: usize = 32;

/// Bytes of joined runs.
const JOINED_SIZE_MAX: usize = 16 << 10;

/// Runs in order, and what they take.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: Sequence<Run>,
    bytes: u64,
}

impl Runs {
    /// Messages.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn insert(&mut self, first: u64, run: Run) {
        self.bytes += run.weight();
        self.runs.insert(first, run);
    }

    pub(crate) fn first(&self) -> Option<(u64, &Run)> {
        self.runs.first()
    }

    pub(crate) fn get(&self, number: u64) -> Option<(u64, &Run)> {
        self.runs.get(number)
    }

    /// Joins the last runs, where they are many and small: what was read from the log, record by record. What they were,
    /// and what they are now.
    pub(crate) fn join_many(&mut self) -> Option<(Vec<(u64, Run)>, Run)> {
        if self.runs.stretches().is_multiple_of(JOIN_EVERY) { self.join_last() } else { None }
    }

    /// The same, however many they are.
    pub(crate) fn join_last(&mut self) -> Option<(Vec<(u64, Run)>, Run)> {
        let mut last: Vec<(u64, Run)> = Vec::new();
        let mut size = 0;
        while let Some((first, run)) = self.runs.pop_last_if(|first, run| {
            let fits = size + run.messages.size() <= JOINED_SIZE_MAX;
            fits && last.last().is_none_or(|(next, after)| run.goes_on_with(first, *next, after))
        }) {
            size += run.messages.size();
            last.push((first, run));
        }
        last.reverse();
        let joined = if last.len() < 2 { None } else { Run::join(&last) };
        let (Some(joined), Some((first, _))) = (joined, last.first()) else {
            last.into_iter().for_each(|(first, run)| self.runs.insert(first, run));
            return None;
        };
        self.bytes -= last.iter().map(|(_, run)| run.weight()).sum::<u64>();
        self.insert(*first, joined.clone());
        Some((last, joined))
    }

    /// See [`Sequence::pop_first`].
    pub(crate) fn pop_first(&mut self, count_max: u32) -> Option<(u64, Run)> {
        let (first, run) = self.runs.pop_first(count_max)?;
        self.bytes -= run.weight();
        Some((first, run))
    }

    /// Takes all from `first` to `last`, piece by piece.
    pub(crate) fn remove(&mut self, first: u64, last: u64, mut take: impl FnMut(u64, Run)) {
        let bytes = &mut self.bytes;
        self.runs.remove(
            first,
            last,
            |_| true,
            |first, run| {
                *bytes -= run.weight();
                take(first, run);
            },
        );
    }

    /// No more are coming as fast as before.
    pub(crate) fn shrink(&mut self) {
        self.runs.shrink_to_fit();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.runs.iter()
    }

    /// All up to the number `last` may have been delivered before.
    pub(crate) fn flag_redelivered(&mut self, last: u64) {
        // One run may lie across the end.
        if let Some((first, run)) = self.runs.get(last)
            && first + u64::from(run.count()) - 1 > last
        {
            let mut before = None;
            self.remove(first, last, |first, run| before = Some((first, run)));
            before.into_iter().for_each(|(first, run)| self.insert(first, run));
        }
        let delivered = self.runs.iter_mut().take_while(|(first, _)| *first <= last);
        delivered.for_each(|(_, run)| run.redelivered = true);
    }

    /// To change where the log holds them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        self.runs.iter_mut()
    }

    /// The runs behind the first `keep` bytes, up to the number `end`, until there are `size` bytes of them.
    pub(crate) fn part(&self, keep: u64, end: u64, size: u64) -> Vec<(u64, Run)> {
        let (mut passed, mut taken) = (0, 0);
        let mut part = Vec::new();
        for (first, run) in self.iter().take_while(|(first, _)| *first < end) {
            if passed < keep {
                passed += run.weight();
                continue;
            }
            if taken >= size {
                break;
            }
            taken += run.weight();
            part.push((first, run.clone()));
        }
        part
    }

    pub(crate) fn check(&self) {
        let bytes: u64 = self.iter().map(|(_, run)| run.weight()).sum();
        assert_eq!(self.bytes, bytes, "bytes in memory");
        let count: usize = self.iter().map(|(_, run)| run.count() as usize).sum();
        assert_eq!(self.len(), count, "messages in memory");
    }
}
