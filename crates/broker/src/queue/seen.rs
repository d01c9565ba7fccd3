//! What a queue remembers of messages that it took, so that it takes no copy of them.
//!
//! What is remembered of a message stands in the record that brings it, so a crash keeps both or neither. It outlives the
//! message: when its record is old, it is written anew.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::Queue;
use crate::record::Position;
use crate::topology::{Duplicates, IDS_MAX, Identity};

/// Bytes that one takes in memory.
pub(crate) const SEEN_WEIGHT: u64 = 112;

/// What is remembered of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The message's sequence number in its queue.
    pub number: u64,
    /// Among which it is looked for.
    pub window: u64,
    /// The digest of its id.
    pub id: [u8; 16],
    /// Until when, in milliseconds since 1970.
    pub until: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    id: [u8; 16],
    until: u64,
    /// The record that says so; `None`: it goes with the broker, as its message does.
    position: Option<Position>,
}

/// Those of one exchange, or those of the queue: the numbers by their ids, and the other way round.
#[derive(Debug, Default)]
struct Window {
    numbers: FxHashMap<[u8; 16], u64>,
    kept: BTreeMap<u64, Kept>,
}

impl Window {
    /// The older of two with the same id counts no more. Whether there is one more now.
    fn insert(&mut self, number: u64, kept: Kept) -> bool {
        let known = self.numbers.insert(kept.id, number);
        match known {
            Some(known) if known > number => {
                self.numbers.insert(kept.id, known);
                return false;
            }
            Some(known) => drop(self.kept.remove(&known)),
            None => {}
        }
        self.kept.insert(number, kept);
        known.is_none()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, kept)) = self.kept.pop_first() {
            self.numbers.remove(&kept.id);
        }
    }

    fn last(&self) -> u64 {
        self.kept.last_key_value().map_or(0, |(number, _)| *number)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// None is empty.
    windows: BTreeMap<u64, Window>,
    /// The last number of each, and whose it is: the one that nothing came through for longest is the first.
    by_last: BTreeSet<(u64, u64)>,
    /// What all of them keep.
    len: usize,
}

impl Windows {
    fn len(&self) -> usize {
        self.len
    }

    /// What is remembered of a message with this identity, at a time.
    fn find(&self, identity: &Identity, now: u64) -> Option<Kept> {
        let window = self.windows.get(&identity.window)?;
        let kept = window.kept.get(window.numbers.get(&identity.id)?)?;
        (kept.until > now).then_some(*kept)
    }

    fn insert(&mut self, seen: &Seen, position: Option<Position>) {
        let Seen { number, window: name, id, until } = *seen;
        let window = self.windows.entry(name).or_default();
        let last = window.last();
        self.len += usize::from(window.insert(number, Kept { id, until, position }));
        if window.last() != last {
            let after = window.last();
            self.by_last.remove(&(last, name));
            self.by_last.insert((after, name));
        }
    }

    /// Forgets what is more than so many in all: in the window that nothing came through for longest.
    fn forget_beyond(&mut self, len_max: usize) {
        while self.len > len_max
            && let Some((_, window)) = self.by_last.first().copied()
        {
            self.forget_oldest(window);
        }
    }

    fn shorten(&mut self, identity: &Identity) {
        let too_long = |window: &Window| window.kept.len() > identity.size as usize;
        while self.windows.get(&identity.window).is_some_and(too_long) {
            self.forget_oldest(identity.window);
        }
    }

    fn forget_oldest(&mut self, name: u64) {
        let Some(window) = self.windows.get_mut(&name) else { return };
        let last = window.last();
        window.forget_oldest();
        self.len -= 1;
        if window.kept.is_empty() {
            self.windows.remove(&name);
            self.by_last.remove(&(last, name));
        }
    }

    fn check(&self) {
        let len: usize = self.windows.values().map(|window| window.kept.len()).sum();
        assert_eq!(self.len, len, "how many are remembered");
        let by_last = self.windows.iter().map(|(name, window)| (window.last(), *name));
        assert_eq!(self.by_last, by_last.collect(), "windows by their last numbers");
        for window in self.windows.values() {
            assert!(!window.kept.is_empty(), "no window is empty");
            assert_eq!(window.numbers.len(), window.kept.len(), "ids and numbers");
            for (number, kept) in &window.kept {
                assert_eq!(window.numbers.get(&kept.id), Some(number), "an id leads to its number");
            }
        }
    }
}

impl Queue {
    /// Whether it has to be asked for what it has seen.
    pub(crate) fn deduplicates(&self, duplicates: Duplicates) -> bool {
        match duplicates {
            Duplicates::AsQueuesSay => self.options.settings.deduplication.is_some(),
            Duplicates::Drop(_) => true,
            Duplicates::Keep => false,
        }
    }

    /// How many messages it remembers.
    pub(crate) fn seen_len(&self) -> usize {
        self.extras.as_ref().map_or(0, |extras| extras.seen.len())
    }

    /// Where the log says that a message with one of these identities was taken; `Some(None)`: it was, and no log knows.
    pub(crate) fn has_seen(&self, identities: &[Identity], now: u64) -> Option<Option<Position>> {
        let seen = &self.extras.as_deref()?.seen;
        let found = identities.iter().filter_map(|identity| seen.find(identity, now));
        found.map(|kept| kept.position).max()
    }

    /// Forgets what is too much in the windows of these.
    pub(crate) fn shorten_windows(&mut self, identities: &[Identity]) {
        if let Some(extras) = &mut self.extras {
            identities.iter().for_each(|identity| extras.seen.shorten(identity));
        }
    }

    /// Messages were taken, and the log says so here.
    pub(crate) fn see(&mut self, seen: &[Seen], position: Option<Position>) {
        for seen in seen {
            self.saw_sequence(seen.number + 1);
            let windows = &mut self.extras.get_or_insert_default().seen;
            windows.insert(seen, position);
            windows.forget_beyond(IDS_MAX as usize);
        }
    }

    /// What the log says below `end` and is still true: to be written anew.
    pub(crate) fn seen_before(&self, end: Position, now: u64) -> Vec<Seen> {
        let windows = self.extras.iter().flat_map(|extras| &extras.seen.windows);
        let all = windows.flat_map(|(window, of)| of.kept.iter().map(|kept| (*window, kept)));
        let old = all.filter(|(_, (_, kept))| kept.position.is_some_and(|position| position < end));
        let old = old.filter(|(_, (_, kept))| kept.until > now);
        old.map(|(window, (number, kept))| Seen { number: *number, window, id: kept.id, until: kept.until })
            .collect()
    }

    pub(super) fn check_seen(&self) {
        if let Some(extras) = &self.extras {
            extras.seen.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(windows: &mut Windows, number: u64, window: u64, id: u8) {
        windows.insert(&Seen { number, window, id: [id; 16], until: u64::MAX }, None);
        windows.check();
    }

    #[test]
    fn a_window_that_nothing_comes_through_any_more_goes_first_and_altogether() {
        let mut windows = Windows::default();
        for (number, window, id) in [(1, 7, 1), (2, 7, 2), (3, 8, 1), (4, 9, 1), (5, 8, 2)] {
            insert(&mut windows, number, window, id);
        }
        windows.forget_beyond(3);
        windows.check();
        assert_eq!(windows.windows.keys().copied().collect::<Vec<_>>(), [8, 9]);
        windows.forget_beyond(2);
        windows.check();
        assert_eq!(windows.windows.keys().copied().collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn an_id_counts_once_in_whatever_order_the_log_names_it() {
        let mut windows = Windows::default();
        for number in [2, 1, 2, 3] {
            insert(&mut windows, number, 7, 1);
            assert_eq!(windows.len(), 1);
        }
        windows.shorten(&Identity { window: 7, id: [1; 16], size: 0, ttl_ms: None });
        windows.check();
        assert_eq!((windows.len(), windows.windows.len()), (0, 0));
    }

    /// Neither may take time that grows with the windows: this would take hours.
    #[test]
    fn as_many_windows_as_ids_may_be_remembered() {
        let mut windows = Windows::default();
        for number in 1..=200_000 {
            windows.insert(&Seen { number, window: number, id: [1; 16], until: u64::MAX }, None);
            windows.forget_beyond(100_000);
        }
        assert_eq!((windows.len(), windows.windows.len()), (100_000, 100_000));
        windows.check();
    }
}
