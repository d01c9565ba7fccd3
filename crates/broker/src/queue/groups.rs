//! Messages that wait in groups: whose turn it is, and which groups wait for what of them is out.
//!
//! A group is a small queue of its own. It is *free* while fewer of its messages are out than may be at once. Free groups
//! with something to give take turns, by deficit round robin: a group whose turn it is gets credit for [`QUANTUM`] bytes if
//! it has too little for its first message, gives what it has credit for and may give, and goes to the end. So in each round
//! a group gives at most so many bytes, or one message; a larger one costs several rounds. A group that comes, or is free
//! again, goes to the end, too. No step looks at more groups than have had their turn.
//!
//! A message is put in with `insert`, and leaves through `pop_next` (it is out then) or `take` (it is gone). What is out is
//! put in again with `insert`, or `release`d. A group with nothing waiting and nothing out is forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Run;
use crate::record::Span;
use crate::sequence::Stretch;

/// Bytes of messages that a group may give in a turn.
const QUANTUM: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Groups {
    /// How many messages of a group may be out at once.
    concurrency: NonZeroU32,
    /// By the numbers that they were given when they came.
    groups: BTreeMap<u64, Group>,
    /// Their numbers by their keys.
    by_key: BTreeMap<Arc<[u8]>, u64>,
    /// The groups that have something to give, in the order of their turns.
    ///
    /// Invariant: the first one has credit for its first message.
    turns: BTreeMap<u64, u64>,
    /// Groups and turns that there have been.
    last_group: u64,
    last_turn: u64,
    /// The group of each message that waits.
    waiting: BTreeMap<u64, u64>,
    /// The group of each message that is out.
    out: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Group {
    key: Arc<[u8]>,
    /// By ascending numbers; each run is one message.
    waiting: VecDeque<(u64, Run)>,
    /// Messages that are out, and how many may be.
    out: u32,
    out_max: u32,
    /// Bytes that it may still give in its turn.
    credit: usize,
    /// Its place among the turns, if it has something to give.
    turn: Option<u64>,
}

impl Group {
    /// Bytes of what it would give next, if it may give anything.
    fn offer(&self) -> Option<usize> {
        let (_, run) = self.waiting.front().filter(|_| self.out < self.out_max)?;
        Some(run.messages.size())
    }
}

impl Groups {
    pub(super) fn new(concurrency: NonZeroU32) -> Groups {
        Groups {
            concurrency,
            groups: BTreeMap::new(),
            by_key: BTreeMap::new(),
            turns: BTreeMap::new(),
            last_group: 0,
            last_turn: 0,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
        }
    }

    /// Messages that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The message with the lowest number of all that wait.
    pub(super) fn first(&self) -> Option<(u64, &Run)> {
        let (_, group) = self.waiting.first_key_value()?;
        self.first_of(*group)
    }

    /// The message whose turn it is.
    pub(super) fn next(&self) -> Option<(u64, &Run)> {
        let (_, group) = self.turns.first_key_value()?;
        self.first_of(*group)
    }

    fn first_of(&self, group: u64) -> Option<(u64, &Run)> {
        self.groups.get(&group)?.waiting.front().map(|(number, run)| (*number, run))
    }

    /// A message waits, for the first time or again. All with an empty key are one group, which is always free.
    pub(super) fn insert(&mut self, number: u64, key: &[u8], run: Run) {
        debug_assert_eq!(run.count(), 1, "messages wait one by one");
        let id = self.group_of(key);
        if self.out.remove(&number).is_some() {
            self.group(id).out -= 1;
        }
        self.waiting.insert(number, id);
        let waiting = &mut self.group(id).waiting;
        let at = waiting.partition_point(|(other, _)| *other < number);
        waiting.insert(at, (number, run));
        self.changed(id);
    }

    /// Takes the message whose turn it is: it is out now.
    pub(super) fn pop_next(&mut self) -> Option<(u64, Run)> {
        let (_, id) = self.turns.first_key_value()?;
        let id = *id;
        let group = self.group(id);
        let (number, run) = group.waiting.pop_front()?;
        group.credit = group.credit.saturating_sub(run.messages.size());
        group.out += 1;
        let spent = group.offer().is_some_and(|size| size > group.credit);
        self.waiting.remove(&number);
        self.out.insert(number, id);
        if spent {
            self.end_turn();
        }
        self.changed(id);
        Some((number, run))
    }

    /// Takes a message that waits: it is gone.
    pub(super) fn take(&mut self, number: u64) -> Option<Run> {
        let id = self.waiting.remove(&number)?;
        let group = self.group(id);
        // What it has saved up for a large message is not for others.
        group.credit = group.credit.min(QUANTUM);
        let at = group.waiting.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        let (_, run) = group.waiting.remove(at)?;
        self.changed(id);
        Some(run)
    }

    /// A message does not count as out any more, if it did.
    pub(super) fn release(&mut self, number: u64) {
        if let Some(id) = self.out.remove(&number) {
            self.group(id).out -= 1;
            self.changed(id);
        }
    }

    /// Numbers of messages that wait.
    pub(super) fn numbers(&self, span: Span) -> Vec<u64> {
        self.waiting.range(span.first..span.end()).map(|(number, _)| *number).collect()
    }

    /// All messages that wait, group by group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.groups.values().flat_map(|group| &group.waiting).map(|(number, run)| (*number, run))
    }

    /// The same, to change what does not concern their groups.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        self.groups.values_mut().flat_map(|group| &mut group.waiting).map(|(number, run)| (*number, run))
    }

    fn group(&mut self, id: u64) -> &mut Group {
        self.groups.get_mut(&id).expect("a group with messages is known")
    }

    /// The group with a key, new if there is none.
    fn group_of(&mut self, key: &[u8]) -> u64 {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        self.last_group += 1;
        let key: Arc<[u8]> = key.into();
        let out_max = if key.is_empty() { u32::MAX } else { self.concurrency.get() };
        self.by_key.insert(Arc::clone(&key), self.last_group);
        // Most groups are small.
        let waiting = VecDeque::with_capacity(1);
        let group = Group { key, waiting, out: 0, out_max, credit: 0, turn: None };
        self.groups.insert(self.last_group, group);
        self.last_group
    }

    /// What a group has waiting or out is different: it takes part in the turns, or not, or is forgotten.
    fn changed(&mut self, id: u64) {
        let Groups { groups, by_key, turns, last_turn, .. } = self;
        let Some(group) = groups.get_mut(&id) else { return };
        match (group.offer(), group.turn) {
            (Some(_), None) => {
                *last_turn += 1;
                group.turn = Some(*last_turn);
                turns.insert(*last_turn, id);
            }
            (None, Some(turn)) => {
                group.turn = None;
                turns.remove(&turn);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if group.waiting.is_empty() && group.out == 0 {
            by_key.remove(&group.key);
            groups.remove(&id);
        }
        self.advance();
    }

    /// Until it is the turn of a group that has credit for its message, others go first.
    fn advance(&mut self) {
        while let Some((_, id)) = self.turns.first_key_value() {
            let group = self.groups.get_mut(id).expect("a group with messages is known");
            let size = group.offer().expect("it takes turns, so it has something to give");
            if group.credit < size {
                group.credit += QUANTUM;
            }
            if group.credit >= size {
                return;
            }
            self.end_turn();
        }
    }

    /// The group whose turn it is goes to the end.
    fn end_turn(&mut self) {
        let Some((_, id)) = self.turns.pop_first() else { return };
        self.last_turn += 1;
        self.turns.insert(self.last_turn, id);
        self.group(id).turn = Some(self.last_turn);
    }

    /// Panics where an invariant does not hold. `is_out`: whether the queue has given out a message.
    pub(super) fn check(&self, is_out: impl Fn(u64) -> bool) {
        assert!(self.out.keys().all(|number| is_out(*number)), "what counts as out is out");
        assert!(
            self.out.keys().all(|number| !self.waiting.contains_key(number)),
            "what is out does not wait"
        );
        assert_eq!(self.groups.len(), self.by_key.len(), "a key for each group");
        let mut waiting = BTreeMap::new();
        for (id, group) in &self.groups {
            assert_eq!(self.by_key.get(&group.key), Some(id), "a group is found by its key");
            assert!(!group.waiting.is_empty() || group.out > 0, "an empty group is forgotten");
            assert!(group.waiting.iter().is_sorted_by_key(|(number, _)| number), "a group is in order");
            waiting.extend(group.waiting.iter().map(|(number, _)| (*number, *id)));
            let out = self.out.values().filter(|of| *of == id).count();
            assert_eq!(group.out as usize, out, "count of messages that are out");
            assert!(group.out <= group.out_max, "{out} out of {} at once", group.out_max);
            assert_eq!(group.offer().is_some(), group.turn.is_some(), "who has something to give has a turn");
            assert!(group.turn.is_none_or(|turn| self.turns.get(&turn) == Some(id)), "a turn is its group's");
        }
        assert_eq!(self.waiting, waiting, "what waits, by number and by group");
        let turns = self.groups.values().filter(|group| group.turn.is_some()).count();
        assert_eq!(self.turns.len(), turns, "one turn for each");
        let ready = self.turns.first_key_value().and_then(|(_, id)| self.groups.get(id));
        assert!(
            ready.is_none_or(|group| group.offer().is_some_and(|size| size <= group.credit)),
            "the first has credit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;
    use expect_test::expect;

    const NONE: &[u8] = b"";

    /// A message that takes so many bytes: at least 14.
    fn run(size: usize) -> Run {
        let body = vec![0; size - 14];
        let parts = Parts { route: &[0, 0], properties: &[0, 0], body: &body };
        Run::new(parts.to_messages(), None)
    }

    fn groups(concurrency: u32) -> Groups {
        Groups::new(NonZeroU32::new(concurrency).unwrap())
    }

    fn fill(groups: &mut Groups, keys: &[&[u8]]) {
        (1..).zip(keys).for_each(|(number, key)| groups.insert(number, key, run(100)));
    }

    /// Numbers of what can go out now.
    fn pop_all(groups: &mut Groups) -> Vec<u64> {
        std::iter::from_fn(|| {
            let next = groups.next().map(|(number, _)| number);
            let popped = groups.pop_next().map(|(number, _)| number);
            assert_eq!(next, popped);
            groups.check(|_| true);
            popped
        })
        .collect()
    }

    #[test]
    fn a_group_waits_for_what_of_it_is_out_and_others_do_not() {
        let mut groups = groups(1);
        fill(&mut groups, &[b"a", b"a", b"b", NONE, b"a", NONE, b"b"]);
        assert_eq!(pop_all(&mut groups), [1, 3, 4, 6]);
        groups.release(3);
        groups.release(4);
        assert_eq!(pop_all(&mut groups), [7]);
        groups.release(1);
        groups.release(1);
        assert_eq!(pop_all(&mut groups), [2], "released once");
    }

    #[test]
    fn several_of_a_group_are_out_where_they_may() {
        let mut groups = groups(2);
        fill(&mut groups, &[b"a", b"a", b"a", b"a"]);
        assert_eq!(pop_all(&mut groups), [1, 2]);
        groups.release(2);
        assert_eq!(pop_all(&mut groups), [3]);
    }

    #[test]
    fn what_comes_back_goes_before_what_came_later() {
        let mut groups = groups(3);
        fill(&mut groups, &[b"a", b"a", b"a", b"a", b"a"]);
        assert_eq!(pop_all(&mut groups), [1, 2, 3]);
        groups.insert(2, b"a", run(100));
        assert_eq!(pop_all(&mut groups), [2]);
        groups.insert(3, b"a", run(100));
        groups.insert(1, b"a", run(100));
        groups.release(2);
        assert_eq!(pop_all(&mut groups), [1, 3, 4]);
    }

    #[test]
    fn the_oldest_is_the_oldest_whether_it_may_go_out_or_not() {
        let mut groups = groups(1);
        fill(&mut groups, &[b"a", b"a", b"b"]);
        assert_eq!(groups.pop_next().map(|(number, _)| number), Some(1));
        assert_eq!((groups.first().map(|(number, _)| number), groups.len()), (Some(2), 2));
        assert_eq!(groups.numbers(Span { first: 0, count: 3 }), [2]);
        assert!(groups.take(2).is_some() && groups.take(2).is_none() && groups.take(1).is_none());
        assert_eq!(groups.first().map(|(number, _)| number), Some(3));
        groups.check(|_| true);
    }

    #[test]
    fn a_group_with_nothing_is_forgotten() {
        let mut groups = groups(1);
        for number in 1..10_000 {
            groups.insert(number, number.to_string().as_bytes(), run(100));
            if number % 3 == 0 {
                groups.take(number);
            }
        }
        for number in pop_all_unchecked(&mut groups) {
            groups.release(number);
        }
        assert_eq!((groups.groups.len(), groups.by_key.len(), groups.turns.len()), (0, 0, 0));
        assert_eq!((groups.waiting.len(), groups.out.len()), (0, 0));
    }

    fn pop_all_unchecked(groups: &mut Groups) -> Vec<u64> {
        std::iter::from_fn(|| groups.pop_next().map(|(number, _)| number)).collect()
    }

    /// Each key has so many messages of a size, one key after the other. `workers` of them are out at once, and are settled
    /// in the order in which they went out. How many bytes of each have gone out when `bytes` have.
    fn shares(concurrency: u32, workers: usize, keys: &[(&[u8], usize, usize)], bytes: usize) -> Vec<usize> {
        let mut groups = groups(concurrency);
        let mut of = Vec::new();
        for (nth, (key, count, size)) in keys.iter().enumerate() {
            for _ in 0..*count {
                groups.insert(of.len() as u64, key, run(*size));
                of.push(nth);
            }
        }
        let (mut out, mut gone) = (VecDeque::new(), vec![0; keys.len()]);
        while gone.iter().sum::<usize>() < bytes {
            while out.len() < workers
                && let Some((number, run)) = groups.pop_next()
            {
                gone[of[usize::try_from(number).unwrap()]] += run.messages.size();
                out.push_back(number);
            }
            groups.release(out.pop_front().expect("something goes out"));
        }
        gone
    }

    #[test]
    fn what_floods_a_queue_gives_no_more_than_the_others() {
        // Key, number of messages, bytes of each.
        let flood: &[(&[u8], usize, usize)] = &[(b"a", 10_000, 100), (b"b", 300, 100), (b"c", 300, 100)];
        let uneven: &[(&[u8], usize, usize)] =
            &[(b"a", 10_000, 100), (b"b", 1000, 3000), (b"c", 100, 50_000)];
        let ungrouped: &[(&[u8], usize, usize)] = &[(NONE, 10_000, 100), (b"b", 1000, 1000)];
        let mut story = String::new();
        for (name, keys, bytes) in
            [("flood", flood, 60_000), ("uneven", uneven, 1_500_000), ("ungrouped", ungrouped, 600_000)]
        {
            for (concurrency, workers) in [(1, 1), (1, 2), (2, 2), (100, 10)] {
                let gone = shares(concurrency, workers, keys, bytes);
                story += &format!("{name}, {workers} at work, {concurrency} of a group: {gone:?}\n");
            }
        }
        expect![[r#"
            flood, 1 at work, 1 of a group: [20000, 20000, 20000]
            flood, 2 at work, 1 of a group: [20000, 20000, 20000]
            flood, 2 at work, 2 of a group: [20100, 20000, 19900]
            flood, 10 at work, 100 of a group: [20400, 20400, 19200]
            uneven, 1 at work, 1 of a group: [14600, 435000, 1100000]
            uneven, 2 at work, 1 of a group: [2900, 87000, 1450000]
            uneven, 2 at work, 2 of a group: [31000, 642000, 850000]
            uneven, 10 at work, 100 of a group: [503800, 501000, 500000]
            ungrouped, 1 at work, 1 of a group: [483000, 117000]
            ungrouped, 2 at work, 1 of a group: [483000, 117000]
            ungrouped, 2 at work, 2 of a group: [406000, 194000]
            ungrouped, 10 at work, 100 of a group: [301000, 299000]
        "#]]
        .assert_eq(&story);
    }

    #[test]
    fn a_million_messages_of_a_hundred_thousand_groups_take_a_turn_each() {
        let (keys, count) = (100_000, 1_000_000);
        let mut groups = groups(1);
        let message = run(1000);
        for number in 0..count {
            groups.insert(number, &(number * 7919 % keys).to_be_bytes(), message.clone());
        }
        let mut out: VecDeque<u64> = VecDeque::new();
        while groups.len() > 0 {
            while let Some((number, _)) = groups.pop_next() {
                out.push_back(number);
            }
            // Half of them stay out, so that groups come and go.
            out.drain(..out.len().div_ceil(2)).for_each(|number| groups.release(number));
        }
        assert!(groups.last_turn <= 2 * count, "{} turns for {count} messages", groups.last_turn);
        assert_eq!(groups.last_group, keys);
    }
}
