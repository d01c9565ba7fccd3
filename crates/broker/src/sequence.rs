//! An ordered set of numbered things that mostly comes and goes at its ends, and in stretches.

use std::collections::VecDeque;

/// Something that stands for one number, or for several that follow each other.
pub trait Stretch {
    /// For how many numbers: at least one.
    fn count(&self) -> u32;
    /// Takes off what stands for the first `count` numbers; some must be left.
    fn split_to(&mut self, count: u32) -> Self;
    /// It stays where others that it was one with have gone.
    fn stays(&mut self) {}
}

/// Stretches by ascending numbers. Adding at the end, taking from the front and removing near the front cost O(1);
/// removing in the middle leaves a hole, and holes are swept out once they outnumber the stretches.
#[derive(Debug)]
pub struct Sequence<T> {
    /// First number of each, in order, and without overlap.
    slots: VecDeque<(u64, Option<T>)>,
    /// Slots that are not holes.
    stretches: usize,
    /// Numbers that all stretches stand for.
    len: usize,
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Sequence { slots: VecDeque::new(), stretches: 0, len: 0 }
    }
}

impl<T: Stretch> Sequence<T> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a stretch whose first number is `first`. None of its numbers may be there already.
    pub fn insert(&mut self, first: u64, value: T) {
        self.len += value.count() as usize;
        self.stretches += 1;
        if self.slots.back().is_none_or(|(last, _)| *last < first) {
            self.slots.push_back((first, Some(value)));
            return;
        }
        let at = self.slots.partition_point(|(number, _)| *number < first);
        let end = first + u64::from(value.count());
        self.slots.insert(at, (first, Some(value)));
        // A number is looked for in the last slot that begins before it, which must not be a hole.
        while self.slots.get(at + 1).is_some_and(|(number, slot)| slot.is_none() && *number < end) {
            self.slots.remove(at + 1);
        }
    }

    /// The lowest number, and the stretch that begins there.
    pub fn first(&self) -> Option<(u64, &T)> {
        self.iter().next()
    }

    /// Takes the stretch with the lowest numbers, or the first `count_max` (at least one) of it.
    pub fn pop_first(&mut self, count_max: u32) -> Option<(u64, T)> {
        self.drop_holes();
        let (first, slot) = self.slots.front_mut()?;
        let value = slot.as_mut()?;
        let number = *first;
        if count_max < value.count() {
            *first += u64::from(count_max);
            self.len -= count_max as usize;
            return Some((number, value.split_to(count_max)));
        }
        let (_, value) = self.slots.pop_front()?;
        let value = value?;
        self.forget(&value);
        Some((number, value))
    }

    /// Takes the stretch with the highest numbers, if it is `wanted`.
    pub fn pop_last_if(&mut self, wanted: impl FnOnce(u64, &T) -> bool) -> Option<(u64, T)> {
        while let Some((_, None)) = self.slots.back() {
            self.slots.pop_back();
        }
        self.slots.back().filter(|(first, slot)| slot.as_ref().is_some_and(|value| wanted(*first, value)))?;
        let (first, value) = self.slots.pop_back()?;
        let value = value?;
        self.forget(&value);
        Some((first, value))
    }

    /// Gives back the room that was made for more.
    pub fn shrink_to_fit(&mut self) {
        self.slots.shrink_to_fit();
    }

    /// How many stretches there are.
    pub fn stretches(&self) -> usize {
        self.stretches
    }

    /// The stretch that holds a number, and its first number.
    pub fn get(&self, number: u64) -> Option<(u64, &T)> {
        let (first, value) = &self.slots[self.find(number)?];
        Some((*first, value.as_ref()?))
    }

    /// Takes all numbers from `first` to `last`, piece by piece, where `wanted` says yes to the stretch they are in.
    pub fn remove(
        &mut self,
        first: u64,
        last: u64,
        mut wanted: impl FnMut(&T) -> bool,
        mut take: impl FnMut(u64, T),
    ) {
        let mut at =
            self.find(first).unwrap_or_else(|| self.slots.partition_point(|(number, _)| *number < first));
        while let Some((start, slot)) = self.slots.get_mut(at).filter(|(start, _)| *start <= last) {
            if let Some(value) = slot.take_if(|value| wanted(value)) {
                let start = *start;
                let piece = self.carve(at, start, value, first, last);
                take(piece.0, piece.1);
            }
            at += 1;
        }
        self.sweep();
    }

    /// Cuts a stretch, just taken from its slot, to what lies between `first` and `last`; the rest goes back.
    fn carve(&mut self, at: usize, start: u64, mut value: T, first: u64, last: u64) -> (u64, T) {
        let end = start + u64::from(value.count());
        let keep_before = first.saturating_sub(start);
        let mut piece_at = start;
        if keep_before > 0 {
            let mut before = value.split_to(short(keep_before));
            before.stays();
            self.slots[at].1 = Some(before);
            self.stretches += 1;
            piece_at = first;
        }
        let keep_after = end.saturating_sub(last.saturating_add(1));
        self.len -= short(end - piece_at - keep_after) as usize;
        if keep_after == 0 {
            self.stretches -= 1;
            return (piece_at, value);
        }
        let piece = value.split_to(short(end - piece_at - keep_after));
        value.stays();
        let rest_at = end - keep_after;
        if keep_before > 0 {
            self.slots.insert(at + 1, (rest_at, Some(value)));
        } else {
            self.slots[at] = (rest_at, Some(value));
        }
        (piece_at, piece)
    }

    /// Takes out all stretches that `wanted` says yes to, in order.
    pub fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<(u64, T)> {
        let mut taken = Vec::new();
        self.slots.retain_mut(|(number, slot)| {
            if slot.as_ref().is_some_and(&mut wanted) {
                taken.extend(slot.take().map(|value| (*number, value)));
            }
            slot.is_some()
        });
        taken.iter().for_each(|(_, value)| self.forget(value));
        taken
    }

    /// The stretches in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().filter_map(|(number, value)| Some((*number, value.as_ref()?)))
    }

    /// The stretches in order, to change; their counts stay.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.slots.iter_mut().filter_map(|(number, value)| Some((*number, value.as_mut()?)))
    }

    /// The slot of the stretch that holds a number.
    fn find(&self, number: u64) -> Option<usize> {
        let holds = |at: usize| match self.slots.get(at) {
            Some((first, Some(value))) => *first <= number && number - first < value.count().into(),
            _ => false,
        };
        if holds(0) {
            return Some(0);
        }
        let behind = self.slots.partition_point(|(first, _)| *first <= number);
        behind.checked_sub(1).filter(|at| holds(*at))
    }

    fn forget(&mut self, value: &T) {
        self.len -= value.count() as usize;
        self.stretches -= 1;
    }

    fn sweep(&mut self) {
        self.drop_holes();
        if self.slots.len() > 64 && self.slots.len() > 2 * self.stretches {
            self.slots.retain(|(_, value)| value.is_some());
        }
    }

    fn drop_holes(&mut self) {
        while let Some((_, None)) = self.slots.front() {
            self.slots.pop_front();
        }
    }
}

/// A distance within a stretch.
fn short(distance: u64) -> u32 {
    u32::try_from(distance).expect("a stretch counts with 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One value for each number, to see that none is mixed up.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Values(Vec<u8>);

    impl Stretch for Values {
        fn count(&self) -> u32 {
            u32::try_from(self.0.len()).unwrap()
        }

        fn split_to(&mut self, count: u32) -> Values {
            assert!(0 < count && count < self.count());
            let rest = self.0.split_off(count as usize);
            Values(std::mem::replace(&mut self.0, rest))
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, Vec<u8>),
        Pop(u32),
        Remove(u64, u64, u8),
        ExtractBelow(u8),
        PopLast(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..200u64, proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(n, v)| Step::Insert(n, v)),
            2 => (1..6u32).prop_map(Step::Pop),
            4 => (0..200u64, 0..20u64, any::<u8>()).prop_map(|(n, len, v)| Step::Remove(n, n + len, v)),
            1 => (0..40u8).prop_map(Step::ExtractBelow),
            1 => any::<bool>().prop_map(Step::PopLast),
        ]
    }

    fn singles(stretches: impl IntoIterator<Item = (u64, Values)>) -> Vec<(u64, u8)> {
        stretches.into_iter().flat_map(|(first, values)| (first..).zip(values.0)).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_ordered_by_number(steps in proptest::collection::vec(step(), 0..400)) {
            let mut model = BTreeMap::new();
            let mut sequence = Sequence::default();
            for step in steps {
                match step {
                    Step::Insert(first, mut values) => {
                        let room = model.range(first..).next().map_or(u64::MAX, |(next, _)| *next) - first;
                        values.truncate(usize::try_from(room.min(100)).unwrap());
                        if !values.is_empty() {
                            model.extend((first..).zip(values.iter().copied()));
                            sequence.insert(first, Values(values));
                        }
                    }
                    Step::PopLast(wanted) => {
                        for single in singles(sequence.pop_last_if(|_, _| wanted)).into_iter().rev() {
                            prop_assert!(wanted);
                            prop_assert_eq!(model.pop_last(), Some(single));
                        }
                    }
                    Step::Pop(count) => {
                        let popped = singles(sequence.pop_first(count));
                        prop_assert!(popped.len() <= count as usize && (popped.is_empty() == model.is_empty()));
                        for single in popped {
                            prop_assert_eq!(Some(single), model.pop_first());
                        }
                    }
                    Step::Remove(first, last, limit) => {
                        let wanted = |values: &Values| values.0[0] <= limit;
                        let mut taken = Vec::new();
                        let expected: Vec<(u64, u8)> = singles(sequence.iter().filter(|(_, v)| wanted(v)).map(|(n, v)| (n, v.clone())));
                        sequence.remove(first, last, wanted, |n, v| taken.push((n, v)));
                        let expected: Vec<_> = expected.into_iter().filter(|(n, _)| (first..=last).contains(n)).collect();
                        model.retain(|n, _| !expected.iter().any(|(removed, _)| removed == n));
                        prop_assert_eq!(singles(taken), expected);
                    }
                    Step::ExtractBelow(limit) => {
                        let taken = singles(sequence.extract(|v| v.0[0] < limit));
                        for (number, value) in taken {
                            prop_assert_eq!(model.remove(&number), Some(value));
                        }
                        prop_assert!(sequence.iter().all(|(_, v)| v.0[0] >= limit));
                    }
                }
                prop_assert_eq!(sequence.len(), model.len());
                prop_assert_eq!(singles(sequence.iter().map(|(n, v)| (n, v.clone()))), model.clone().into_iter().collect::<Vec<_>>());
                let found = sequence.get(100).map(|(first, v)| v.0[usize::try_from(100 - first).unwrap()]);
                prop_assert_eq!(found, model.get(&100).copied());
                prop_assert_eq!(sequence.stretches, sequence.iter().count());
            }
        }
    }

    #[test]
    fn holes_are_swept_while_the_first_value_stays() {
        let mut sequence = Sequence::default();
        for n in 0..10_000 {
            sequence.insert(n, Values(vec![0]));
            if n > 0 {
                sequence.remove(n, n, |_| true, |_, _| {});
            }
        }
        assert_eq!(sequence.len(), 1);
        assert!(sequence.slots.len() <= 65, "{} slots for one value", sequence.slots.len());
    }
}
