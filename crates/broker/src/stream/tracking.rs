//! Offsets that the server keeps for readers, by their names.

use std::collections::{BTreeMap, BTreeSet};

/// Names that a stream keeps. The one that is furthest behind goes for another.
const NAMES_MAX: usize = 1024;

/// The next offset to read for each name.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    offsets: BTreeMap<Box<str>, u64>,
    changed: BTreeSet<Box<str>>,
}

impl Tracking {
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.offsets.get(name).copied()
    }

    pub(super) fn note(&mut self, name: &str, offset: u64) {
        if self.get(name) == Some(offset) {
            return;
        }
        self.offsets.insert(name.into(), offset);
        self.changed.insert(name.into());
        if self.offsets.len() > NAMES_MAX {
            let others = self.offsets.iter().filter(|(other, _)| ***other != *name);
            if let Some(last) = others.min_by_key(|(_, offset)| **offset).map(|(last, _)| last.clone()) {
                self.offsets.remove(&last);
                self.changed.remove(&last);
            }
        }
    }

    /// What has changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<(Box<str>, u64)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|name| self.get(&name).map(|offset| (name, offset))).collect()
    }

    pub(super) fn all(&self) -> Vec<(Box<str>, u64)> {
        self.offsets.iter().map(|(name, offset)| (name.clone(), *offset)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_furthest_behind_goes_for_another() {
        let mut tracking = Tracking::default();
        for number in 0..NAMES_MAX as u64 {
            tracking.note(&format!("reader {number}"), 1000 + number);
        }
        tracking.take_changed();
        tracking.note("new", 0);
        assert_eq!(
            (tracking.get("new"), tracking.get("reader 0"), tracking.get("reader 1")),
            (Some(0), None, Some(1001))
        );
        tracking.note("newer", 0);
        assert_eq!((tracking.get("new"), tracking.offsets.len()), (None, NAMES_MAX));
        assert_eq!(tracking.take_changed(), [("newer".into(), 0)]);
    }
}
