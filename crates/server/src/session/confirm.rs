//! Publisher confirms of one channel: which messages are not yet safe, and what to tell the publisher.

use std::collections::{BTreeSet, VecDeque};

/// What still has to happen to a message before it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many shards have not yet answered.
    Waiting(u16),
    /// Safe, and the publisher does not know.
    Safe,
    /// The publisher knows, but one before it is still waiting.
    Told,
}

/// One basic.ack to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) number: u64,
    /// It is for all before it, too.
    pub(crate) multiple: bool,
}

/// `expect` every message that is published, `safe` what shards report, `acks` when there is something to write.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The number of `states[0]`.
    first: u64,
    states: VecDeque<State>,
    /// Numbers that became safe while one before them was not.
    early: Vec<u64>,
    /// Numbers that a shard has refused, the publisher does not know.
    refused: BTreeSet<u64>,
}

impl Default for Confirms {
    fn default() -> Self {
        Confirms { first: 1, states: VecDeque::new(), early: Vec::new(), refused: BTreeSet::new() }
    }
}

impl Confirms {
    /// Counts a message that `shards` shards must report, and returns its number.
    pub(crate) fn expect(&mut self, shards: usize) -> u64 {
        let shards = u16::try_from(shards).expect("shards are few");
        let number = self.first + self.states.len() as u64;
        self.states.push_back(if shards == 0 { State::Safe } else { State::Waiting(shards) });
        if shards == 0 && self.states.len() > 1 {
            self.early.push(number);
        }
        number
    }

    /// A shard reports messages `first` to `last` as safe.
    pub(crate) fn safe(&mut self, first: u64, last: u64) {
        for number in first..=last {
            let Some(at) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
                continue;
            };
            let Some(state) = self.states.get_mut(at) else {
                continue;
            };
            match *state {
                State::Waiting(1) => {
                    *state = State::Safe;
                    if at > 0 {
                        self.early.push(number);
                    }
                }
                State::Waiting(shards) => *state = State::Waiting(shards - 1),
                State::Safe | State::Told => {}
            }
        }
    }

    /// A shard has refused messages `first` to `last`.
    pub(crate) fn refused(&mut self, first: u64, last: u64) {
        self.refused.extend(first.max(self.first)..=last);
        self.safe(first, last);
    }

    /// The numbers that were refused and that all shards have answered for. To be told before `acks`.
    pub(crate) fn nacks(&mut self) -> Vec<u64> {
        let Confirms { first, states, refused, early } = self;
        let mut nacks = Vec::new();
        refused.retain(|number| {
            let state = number.checked_sub(*first).and_then(|at| states.get_mut(usize::try_from(at).ok()?));
            let Some(state) = state.filter(|state| **state == State::Safe) else { return true };
            *state = State::Told;
            early.retain(|early| early != number);
            nacks.push(*number);
            false
        });
        nacks
    }

    /// What to tell the publisher now: one ack for all from the first on, and single ones behind a gap.
    pub(crate) fn acks(&mut self, mut write: impl FnMut(Ack)) {
        let mut news = None;
        while let Some(state) = self.states.pop_front_if(|state| !matches!(state, State::Waiting(_))) {
            if state == State::Safe {
                news = Some(self.first);
            }
            self.first += 1;
        }
        if let Some(number) = news {
            write(Ack { number, multiple: true });
        }
        for number in self.early.drain(..) {
            let Some(at) = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
                continue;
            };
            if let Some(state) = self.states.get_mut(at) {
                *state = State::Told;
                write(Ack { number, multiple: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(confirms: &mut Confirms) -> Vec<(u64, bool)> {
        let mut acks = Vec::new();
        confirms.acks(|ack| acks.push((ack.number, ack.multiple)));
        acks
    }

    #[test]
    fn a_run_is_one_ack() {
        let mut confirms = Confirms::default();
        assert_eq!((0..5).map(|_| confirms.expect(1)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(acks(&mut confirms), []);
        confirms.safe(1, 3);
        assert_eq!(acks(&mut confirms), [(3, true)]);
        confirms.safe(4, 5);
        assert_eq!(acks(&mut confirms), [(5, true)]);
        assert_eq!(acks(&mut confirms), []);
    }

    #[test]
    fn behind_a_gap_each_is_told_once() {
        let mut confirms = Confirms::default();
        assert_eq!((0..4).map(|_| confirms.expect(1)).last(), Some(4));
        confirms.safe(2, 3);
        assert_eq!(acks(&mut confirms), [(2, false), (3, false)]);
        confirms.safe(1, 1);
        assert_eq!(acks(&mut confirms), [(1, true)], "2 and 3 are known");
        confirms.safe(4, 4);
        assert_eq!(acks(&mut confirms), [(4, true)]);
    }

    #[test]
    fn what_is_refused_is_told_once_all_have_answered() {
        let mut confirms = Confirms::default();
        for shards in [1, 2, 1] {
            confirms.expect(shards);
        }
        confirms.refused(2, 2);
        confirms.safe(1, 1);
        assert_eq!((confirms.nacks(), acks(&mut confirms)), (vec![], vec![(1, true)]));
        confirms.safe(2, 3);
        assert_eq!((confirms.nacks(), acks(&mut confirms)), (vec![2], vec![(3, true)]), "2 is told before");
        confirms.expect(1);
        confirms.expect(1);
        confirms.refused(5, 5);
        assert_eq!((confirms.nacks(), acks(&mut confirms)), (vec![5], vec![]));
        confirms.safe(4, 4);
        assert_eq!((confirms.nacks(), acks(&mut confirms)), (vec![], vec![(4, true)]));
    }

    #[test]
    fn a_message_for_two_shards_needs_both() {
        let mut confirms = Confirms::default();
        confirms.expect(2);
        confirms.expect(0);
        confirms.safe(1, 1);
        assert_eq!(acks(&mut confirms), [(2, false)]);
        confirms.safe(1, 1);
        assert_eq!(acks(&mut confirms), [(1, true)]);
        confirms.safe(1, 2);
        assert_eq!(acks(&mut confirms), [], "what is unknown changes nothing");
    }
}
