//! What a queue remembers of messages that it took, so that it takes no copy of them.
//!
//! What is remembered of a message stands in the record that brings it, so a crash keeps both or neither. It outlives the
//! message: when its record is old, it is written anew.

use std::collections::BTreeMap;

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
    /// The older of two with the same id counts no more.
    fn insert(&mut self, number: u64, kept: Kept) {
        match self.numbers.insert(kept.id, number) {
            Some(known) if known > number => {
                self.numbers.insert(kept.id, known);
                return;
            }
            Some(known) => drop(self.kept.remove(&known)),
            None => {}
        }
        self.kept.insert(number, kept);
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
    windows: BTreeMap<u64, Window>,
}

impl Windows {
    fn len(&self) -> usize {
        self.windows.values().map(|window| window.kept.len()).sum()
    }

    /// What is remembered of a message with this identity, at a time.
    fn find(&self, identity: &Identity, now: u64) -> Option<Kept> {
        let window = self.windows.get(&identity.window)?;
        let kept = window.kept.get(window.numbers.get(&identity.id)?)?;
        (kept.until > now).then_some(*kept)
    }

    fn insert(&mut self, seen: &Seen, position: Option<Position>) {
        let Seen { number, window, id, until } = *seen;
        self.windows.entry(window).or_default().insert(number, Kept { id, until, position });
        while self.len() > IDS_MAX as usize
            && let Some(window) = self.windows.values_mut().min_by_key(|window| window.last())
        {
            window.forget_oldest();
            self.windows.retain(|_, window| !window.kept.is_empty());
        }
    }

    fn shorten(&mut self, identity: &Identity) {
        let Some(window) = self.windows.get_mut(&identity.window) else { return };
        while window.kept.len() > identity.size as usize {
            window.forget_oldest();
        }
    }

    fn check(&self) {
        for window in self.windows.values() {
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
            self.extras.get_or_insert_default().seen.insert(seen, position);
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
