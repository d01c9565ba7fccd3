//! When the messages that are in memory were written.

use std::collections::VecDeque;

/// Times by the offset of the first message that was written then. Both ascend: a clock that goes back stands still.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    stamps: VecDeque<(u64, u64)>,
    last_ms: u64,
}

impl Stamps {
    pub(super) fn stamp(&mut self, first: u64, now_ms: u64) -> Option<u64> {
        if self.stamps.back().is_some_and(|(_, time)| *time >= now_ms) {
            return None;
        }
        self.last_ms = self.last_ms.max(now_ms);
        self.stamps.push_back((first, self.last_ms));
        Some(self.last_ms)
    }

    pub(super) fn recover(&mut self, first: u64, time_ms: u64) {
        self.last_ms = self.last_ms.max(time_ms);
        let at = self.stamps.partition_point(|(other, _)| *other < first);
        match self.stamps.get_mut(at) {
            Some(known) if known.0 == first => known.1 = time_ms,
            _ => self.stamps.insert(at, (first, time_ms)),
        }
    }

    pub(super) fn recover_last(&mut self, time_ms: u64) {
        self.last_ms = self.last_ms.max(time_ms);
    }

    pub(super) fn last_ms(&self) -> u64 {
        self.last_ms
    }

    /// When the message at an offset was written; that of the oldest known for older ones.
    pub(super) fn time_of(&self, offset: u64) -> u64 {
        let after = self.stamps.partition_point(|(first, _)| *first <= offset);
        let known = self.stamps.get(after.saturating_sub(1)).or(self.stamps.front());
        known.map_or(self.last_ms, |(_, time)| *time)
    }

    /// Whether messages are known here that were written before a time: then so are all that were not.
    pub(super) fn begin_before(&self, time_ms: u64) -> bool {
        self.stamps.front().is_some_and(|(_, time)| *time < time_ms)
    }

    /// The first message that was not written before a time.
    pub(super) fn since(&self, time_ms: u64) -> Option<u64> {
        let at = self.stamps.partition_point(|(_, time)| *time < time_ms);
        self.stamps.get(at).map(|(first, _)| *first)
    }

    /// Nobody asks for the time of older messages. The stamp of this one stays.
    pub(super) fn forget_below(&mut self, offset: u64) {
        while self.stamps.get(1).is_some_and(|(first, _)| *first <= offset) {
            self.stamps.pop_front();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.stamps.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ascend_whatever_the_clock_does() {
        let mut stamps = Stamps::default();
        assert_eq!([stamps.stamp(0, 10), stamps.stamp(3, 10), stamps.stamp(5, 7)], [Some(10), None, None]);
        assert_eq!(stamps.stamp(6, 20), Some(20));
        assert_eq!([0, 5, 6, 100].map(|offset| stamps.time_of(offset)), [10, 10, 20, 20]);
        assert_eq!(
            [0, 10, 11, 20, 21].map(|time| stamps.since(time)),
            [Some(0), Some(0), Some(6), Some(6), None]
        );
        stamps.forget_below(7);
        assert_eq!(stamps.iter().collect::<Vec<_>>(), [(6, 20)]);
        stamps.recover(6, 20);
        stamps.recover(2, 15);
        assert_eq!(stamps.iter().collect::<Vec<_>>(), [(2, 15), (6, 20)]);
    }
}
