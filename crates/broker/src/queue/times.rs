//! When the messages of a queue arrived.

use std::collections::VecDeque;

/// Marks that a queue keeps before it makes do with every second one.
const MARKS_MAX: usize = 1 << 14;

/// Marks that come before it is worth to ask which are still needed: as many as there are, and within these bounds.
const GROWTH_MIN: usize = 16;
const GROWTH_MAX: usize = MARKS_MAX / 16;

/// Messages from this number on, up to the next mark, arrived at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Sequence number.
    pub first: u64,
    /// Milliseconds since 1970.
    pub ms: u64,
}

/// Arrival times by sequence number: one mark for all that came in the same millisecond. A message never looks older than
/// it is; in a queue with many marks it can look a little younger.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Ascending, numbers and times.
    marks: VecDeque<Mark>,
    /// How many were needed when that was last asked for.
    needed: usize,
}

impl Times {
    /// Messages from a number on arrive at this time. True when that is news for the log.
    pub(crate) fn note(&mut self, mark: Mark) -> bool {
        let news = self.marks.back().is_none_or(|last| last.ms < mark.ms);
        if news {
            self.marks.push_back(mark);
            self.thin();
        }
        news
    }

    /// Recovery: the log may say the same more than once, and the older after the newer.
    pub(crate) fn recover(&mut self, mark: Mark) {
        let at = self.marks.partition_point(|known| known.first < mark.first);
        if self.marks.get(at).is_none_or(|known| known.first != mark.first) {
            self.marks.insert(at, mark);
            self.thin();
        }
    }

    /// Whether nothing is known of a number.
    pub(crate) fn begins_after(&self, number: u64) -> bool {
        self.marks.front().is_none_or(|mark| mark.first > number)
    }

    /// When a message arrived; what is older than all marks, when the first one did.
    pub(crate) fn of(&self, number: u64) -> u64 {
        let behind = self.marks.partition_point(|mark| mark.first <= number);
        self.marks.get(behind.saturating_sub(1)).map_or(u64::MAX, |mark| mark.ms)
    }

    /// The first number that arrived later than `ms`.
    pub(crate) fn first_after(&self, ms: u64) -> u64 {
        match self.marks.partition_point(|mark| mark.ms <= ms) {
            0 => 0,
            at => self.marks.get(at).map_or(u64::MAX, |mark| mark.first),
        }
    }

    /// Nobody asks for messages below this number any more.
    pub(crate) fn forget_below(&mut self, lowest: u64) {
        while self.marks.get(1).is_some_and(|second| second.first <= lowest) {
            self.marks.pop_front();
        }
        self.needed = self.marks.len();
    }

    /// Whether there are many more than were needed.
    pub(crate) fn have_grown(&self) -> bool {
        self.marks.len() >= self.needed + self.needed.clamp(GROWTH_MIN, GROWTH_MAX)
    }

    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.marks.iter().copied().collect()
    }

    /// Joins neighbours: the older one takes the time of the younger.
    fn thin(&mut self) {
        if self.marks.len() <= MARKS_MAX {
            return;
        }
        let marks: Vec<Mark> = self.marks.drain(..).collect();
        let pairs = marks.chunks(2).filter_map(|pair| {
            let (first, last) = (pair.first()?, pair.last()?);
            Some(Mark { first: first.first, ms: last.ms })
        });
        self.marks.extend(pairs);
        self.needed = self.needed.min(self.marks.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrived_at_the_mark_before_it() {
        let mut times = Times::default();
        assert!(times.note(Mark { first: 1, ms: 100 }));
        assert!(!times.note(Mark { first: 5, ms: 100 }), "the same millisecond");
        assert!(times.note(Mark { first: 7, ms: 103 }));
        assert_eq!([1, 6, 7, 99].map(|number| times.of(number)), [100, 100, 103, 103]);
        assert_eq!([99, 100, 102, 103].map(|ms| times.first_after(ms)), [0, 7, 7, u64::MAX]);
        assert_eq!(times.of(0), 100, "nothing looks older than it is");
        times.forget_below(6);
        assert_eq!(times.of(6), 100);
        times.forget_below(7);
        assert_eq!(times.marks(), [Mark { first: 7, ms: 103 }]);
    }

    #[test]
    fn what_is_needed_is_asked_for_seldom_and_often_enough() {
        let mut times = Times::default();
        let (mut asked, mut most) = (0, 0);
        for number in 0..100_000u64 {
            times.note(Mark { first: number, ms: number });
            most = most.max(times.marks.len());
            if times.have_grown() {
                asked += 1;
                times.forget_below(number.saturating_sub(5_000));
            }
        }
        assert!(asked < 200, "asked {asked} times");
        assert!(most <= 5_001 + GROWTH_MAX, "{most} marks");
    }

    #[test]
    fn what_the_log_repeats_in_another_order_is_the_same() {
        let mut times = Times::default();
        for (first, ms) in [(7, 103), (9, 104), (1, 100), (7, 103), (9, 104)] {
            times.recover(Mark { first, ms });
        }
        assert_eq!([1, 7, 9].map(|number| times.of(number)), [100, 103, 104]);
        assert_eq!(times.marks().len(), 3);
    }

    #[test]
    fn many_marks_make_messages_look_younger_and_never_older() {
        let mut times = Times::default();
        for number in 1..100_000 {
            times.note(Mark { first: number, ms: number * 2 });
        }
        assert!(times.marks().len() <= MARKS_MAX);
        assert!((1..100_000).all(|number| times.of(number) >= number * 2));
    }
}
