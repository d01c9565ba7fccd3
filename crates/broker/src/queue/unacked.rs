//! What of a queue is out with consumers and others who will settle it or give it back.

use std::collections::BTreeMap;

use super::{Place, Run};
use crate::sequence::{Sequence, Stretch};

/// Who holds unacked messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its connection's place in the shard.
    pub(crate) connection: usize,
    pub(crate) channel: u16,
    /// Place and number; `None` when basic.get took it.
    pub(crate) consumer: Option<(Place, u32)>,
    /// Since when, in milliseconds since 1970.
    pub(crate) since: u64,
}

/// Messages, and who holds them.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) run: Run,
    pub(super) holder: Holder,
}

impl Stretch for Held {
    fn count(&self) -> u32 {
        self.run.count()
    }

    fn split_to(&mut self, count: u32) -> Held {
        Held { run: self.run.split_to(count), holder: self.holder }
    }

    fn stays(&mut self) {
        self.run.stays();
    }
}

/// All of them, by number.
#[derive(Debug)]
pub(super) enum Unacked {
    /// They are given out in order, or nearly.
    InOrder(Sequence<Held>),
    /// They are given out one by one, and in no order: a sequence would have to move those behind each.
    InNoOrder(BTreeMap<u64, Held>),
}

impl Unacked {
    pub(super) fn insert(&mut self, first: u64, held: Held) {
        match self {
            Unacked::InOrder(sequence) => sequence.insert(first, held),
            Unacked::InNoOrder(map) => {
                debug_assert_eq!(held.count(), 1, "one by one");
                map.insert(first, held);
            }
        }
    }

    /// The lowest number.
    pub(super) fn first(&self) -> Option<u64> {
        match self {
            Unacked::InOrder(sequence) => sequence.first().map(|(first, _)| first),
            Unacked::InNoOrder(map) => map.first_key_value().map(|(number, _)| *number),
        }
    }

    /// Takes all from `first` to `last`, piece by piece, where `wanted` says yes to who holds them.
    pub(super) fn remove(
        &mut self,
        first: u64,
        last: u64,
        wanted: impl Fn(Holder) -> bool,
        mut take: impl FnMut(u64, Held),
    ) {
        match self {
            Unacked::InOrder(sequence) => sequence.remove(first, last, |held| wanted(held.holder), take),
            Unacked::InNoOrder(map) => {
                map.extract_if(first..=last, |_, held| wanted(held.holder))
                    .for_each(|(n, held)| take(n, held));
            }
        }
    }

    /// Takes all where `wanted` says yes to who holds them, in order.
    pub(super) fn extract(&mut self, wanted: impl Fn(Holder) -> bool) -> Vec<(u64, Held)> {
        match self {
            Unacked::InOrder(sequence) => sequence.extract(|held| wanted(held.holder)),
            Unacked::InNoOrder(map) => map.extract_if(.., |_, held| wanted(held.holder)).collect(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        let (sequence, map) = match self {
            Unacked::InOrder(sequence) => (Some(sequence), None),
            Unacked::InNoOrder(map) => (None, Some(map)),
        };
        let of_map = map.into_iter().flatten().map(|(number, held)| (*number, held));
        sequence.into_iter().flat_map(Sequence::iter).chain(of_map)
    }

    /// To change where the log holds them, and since when they are held.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Held)> {
        let (sequence, map) = match self {
            Unacked::InOrder(sequence) => (Some(sequence), None),
            Unacked::InNoOrder(map) => (None, Some(map)),
        };
        let of_map = map.into_iter().flatten().map(|(number, held)| (*number, held));
        sequence.into_iter().flat_map(Sequence::iter_mut).chain(of_map)
    }
}
