//! Which publishes the server has confirmed.

use std::collections::BTreeSet;

/// What awaits its confirm on one channel. Tags count from 1, as the server counts publishes.
#[derive(Clone, Debug, Default)]
pub(super) struct Confirms {
    /// All tags up to this one are settled.
    settled_up_to: u64,
    /// Settled tags above that: brokers may confirm out of order.
    ahead: BTreeSet<u64>,
}

impl Confirms {
    /// How many publishes are settled.
    pub(super) fn settled(&self) -> u64 {
        self.settled_up_to + u64::try_from(self.ahead.len()).unwrap_or(u64::MAX)
    }

    /// Takes a `basic.ack` or `basic.nack`; `newly` is told each tag that was not settled before.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool, mut newly: impl FnMut(u64)) {
        if multiple {
            let first = self.settled_up_to + 1;
            (first..=tag).filter(|tag| !self.ahead.contains(tag)).for_each(newly);
            if tag >= first {
                self.settled_up_to = tag;
                self.ahead = self.ahead.split_off(&(tag + 1));
            }
        } else if tag > self.settled_up_to && self.ahead.insert(tag) {
            newly(tag);
        }
        while self.ahead.remove(&(self.settled_up_to + 1)) {
            self.settled_up_to += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newly(confirms: &mut Confirms, tag: u64, multiple: bool) -> Vec<u64> {
        let mut tags = Vec::new();
        confirms.settle(tag, multiple, |tag| tags.push(tag));
        tags
    }

    #[test]
    fn in_any_order_each_counts_once() {
        let mut confirms = Confirms::default();
        assert_eq!(newly(&mut confirms, 3, false), [3]);
        assert_eq!(newly(&mut confirms, 3, false), [0; 0]);
        assert_eq!(newly(&mut confirms, 1, false), [1]);
        assert_eq!(confirms.settled(), 2);
        assert_eq!(newly(&mut confirms, 4, true), [2, 4]);
        assert_eq!(newly(&mut confirms, 2, true), [0; 0]);
        assert_eq!((confirms.settled(), confirms.ahead.len()), (4, 0));
    }

    #[test]
    fn a_gap_that_closes() {
        let mut confirms = Confirms::default();
        newly(&mut confirms, 2, false);
        newly(&mut confirms, 1, false);
        assert_eq!((confirms.settled_up_to, confirms.ahead.len()), (2, 0));
    }
}
