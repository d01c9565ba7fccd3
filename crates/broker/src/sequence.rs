//! An ordered set of numbered things that mostly comes and goes at its ends.

use std::collections::VecDeque;

/// Values by ascending sequence number. Adding at the end, taking the first and removing near the front cost O(1);
/// removing in the middle leaves a hole, and holes are swept out once they outnumber the values.
#[derive(Debug)]
pub struct Sequence<T> {
    slots: VecDeque<(u64, Option<T>)>,
    len: usize,
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Sequence { slots: VecDeque::new(), len: 0 }
    }
}

impl<T> Sequence<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a value. A number that is there already keeps its place and takes the new value.
    pub fn insert(&mut self, number: u64, value: T) {
        let at_end = self.slots.back().is_none_or(|(last, _)| *last < number);
        if at_end {
            self.slots.push_back((number, Some(value)));
            self.len += 1;
            return;
        }
        match self.slots.binary_search_by_key(&number, |(n, _)| *n) {
            Ok(at) => {
                let slot = &mut self.slots[at].1;
                self.len += usize::from(slot.is_none());
                *slot = Some(value);
            }
            Err(at) => {
                self.slots.insert(at, (number, Some(value)));
                self.len += 1;
            }
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the value with the lowest number.
    pub fn pop_first(&mut self) -> Option<(u64, T)> {
        while let Some((number, value)) = self.slots.pop_front() {
            if let Some(value) = value {
                self.len -= 1;
                return Some((number, value));
            }
        }
        None
    }

    /// Takes the value with the lowest number, if that number is at most `last`.
    pub fn pop_first_up_to(&mut self, last: u64) -> Option<(u64, T)> {
        while let Some((number, value)) = self.slots.front() {
            if value.is_some() && *number > last {
                return None;
            }
            if value.is_some() {
                return self.pop_first();
            }
            self.slots.pop_front();
        }
        None
    }

    /// The value with this number.
    pub fn get(&self, number: u64) -> Option<&T> {
        let at = self.find(number)?;
        self.slots[at].1.as_ref()
    }

    /// Takes the value with this number.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.find(number)?;
        let value = self.slots[at].1.take()?;
        self.len -= 1;
        while let Some((_, None)) = self.slots.front() {
            self.slots.pop_front();
        }
        if self.slots.len() > 64 && self.slots.len() > 2 * self.len {
            self.slots.retain(|(_, value)| value.is_some());
        }
        Some(value)
    }

    /// Takes out all that `wanted` says yes to, in order.
    pub fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<(u64, T)> {
        let mut taken = Vec::new();
        self.slots.retain_mut(|(number, slot)| {
            if slot.as_ref().is_some_and(&mut wanted) {
                taken.extend(slot.take().map(|value| (*number, value)));
            }
            slot.is_some()
        });
        self.len = self.slots.len();
        taken
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().filter_map(|(number, value)| Some((*number, value.as_ref()?)))
    }

    /// The values in order, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.slots.iter_mut().filter_map(|(number, value)| Some((*number, value.as_mut()?)))
    }

    fn find(&self, number: u64) -> Option<usize> {
        match self.slots.front() {
            Some((first, _)) if *first == number => Some(0),
            _ => self.slots.binary_search_by_key(&number, |(n, _)| *n).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u8),
        Pop,
        PopUpTo(u64),
        Remove(u64),
        ExtractBelow(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200u64, any::<u8>()).prop_map(|(n, v)| Step::Insert(n, v)),
            2 => Just(Step::Pop),
            1 => (0..200u64).prop_map(Step::PopUpTo),
            4 => (0..200u64).prop_map(Step::Remove),
            1 => (0..40u8).prop_map(Step::ExtractBelow),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_ordered_by_number(steps in proptest::collection::vec(step(), 0..400)) {
            let mut model = BTreeMap::new();
            let mut sequence = Sequence::default();
            for step in steps {
                match step {
                    Step::Insert(n, v) => {
                        model.insert(n, v);
                        sequence.insert(n, v);
                    }
                    Step::Pop => prop_assert_eq!(sequence.pop_first(), model.pop_first()),
                    Step::PopUpTo(last) => {
                        let expected = model.first_key_value().filter(|(n, _)| **n <= last).map(|(n, _)| *n);
                        prop_assert_eq!(sequence.pop_first_up_to(last).map(|(n, _)| n), expected);
                        expected.map(|n| model.remove(&n));
                    }
                    Step::Remove(n) => prop_assert_eq!(sequence.remove(n), model.remove(&n)),
                    Step::ExtractBelow(limit) => {
                        let taken: Vec<_> = model.iter().filter(|(_, v)| **v < limit).map(|(n, v)| (*n, *v)).collect();
                        model.retain(|_, v| *v >= limit);
                        prop_assert_eq!(sequence.extract(|v| *v < limit), taken);
                    }
                }
                prop_assert_eq!(sequence.len(), model.len());
                prop_assert_eq!(sequence.iter().map(|(n, v)| (n, *v)).collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(sequence.get(100), model.get(&100));
                prop_assert!(sequence.slots.len() <= 64.max(2 * sequence.len() + 1) || sequence.slots.len() <= 200);
            }
        }
    }

    #[test]
    fn holes_are_swept_while_the_first_value_stays() {
        let mut sequence = Sequence::default();
        for n in 0..10_000 {
            sequence.insert(n, ());
            if n > 0 {
                sequence.remove(n);
            }
        }
        assert_eq!(sequence.len(), 1);
        assert!(sequence.slots.len() <= 65, "{} slots for one value", sequence.slots.len());
    }
}
