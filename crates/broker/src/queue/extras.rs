//! What some queues do beyond keeping messages in order: time to live, limits, priorities, groups, and what follows from
//! returns.
//! A plain queue has none of it, and pays for none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use amqp::properties::Properties;

use super::consumer::Sharing;
use super::groups::Groups;
use super::limits::limited_bytes;
use super::runs::Runs;
use super::seen::Windows;
use super::times::{Mark, Times};
use super::{Queue, Run};
use crate::message::Message;
use crate::record::Span;
use crate::sequence::Stretch;
use crate::shard::Bookmark;
use crate::topology::deduplication::digest;
use crate::topology::{Keeps, QueueKind, Settings, due_ms};

/// Priority from which a message of a quorum queue goes before others.
const QUORUM_URGENT: u8 = 5;

/// After so many of them comes one of the others.
const URGENT_IN_A_ROW: u32 = 2;

type Digest = [u8; 16];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// When messages arrived; kept if `timed`.
    times: Times,
    timed: bool,
    /// Some messages have their own time to live.
    expirations: bool,
    /// What waits with a priority above the lowest: the highest last.
    levels: Vec<Runs>,
    /// The lowest priority of each level.
    level_from: Vec<u8>,
    /// All that waits, where messages are grouped.
    pub(super) groups: Option<Box<Groups>>,
    /// How many urgent messages of a quorum queue went one after the other.
    urgent_in_a_row: u32,
    /// What was returned and waits for its time, by that time and its number.
    pub(super) delayed: BTreeMap<(u64, u64), Run>,
    /// Where in `delayed` messages are that can be called off: by the digests of their ids.
    ids: BTreeSet<(Digest, u64, u64)>,
    /// What was given back, and how often by then; not yet in the log.
    pub(super) returned: Vec<(u16, Span)>,
    /// How often messages came back whose segment does not know it.
    pub(super) returned_on_disk: BTreeMap<u64, u16>,
    /// Messages that it took and takes no copy of.
    pub(super) seen: Windows,
    /// Bytes that wait; counted where a limit asks for it.
    pub(super) ready_bytes: u64,
    /// When somebody last used the queue; kept if it expires.
    last_used: u64,
    had_consumers: bool,
    /// When the queue wants to be looked at, as its shard knows it.
    deadline: Option<u64>,
}

/// What a look at the clock found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// When to look again.
    pub(crate) next: Option<u64>,
    /// Nobody has used the queue for as long as it may go unused.
    pub(crate) expired: bool,
}

impl Extras {
    /// What a queue with these settings needs.
    fn of(settings: &Settings) -> Option<Box<Extras>> {
        let groups = settings.groups.as_ref().map(|groups| Box::new(Groups::new(groups.concurrency)));
        let level_from: Vec<u8> = match (settings.max_priority, settings.kind) {
            _ if groups.is_some() => Vec::new(),
            (Some(max), _) => (1..=max).collect(),
            (None, QueueKind::Quorum) => vec![QUORUM_URGENT],
            (None, QueueKind::Classic | QueueKind::Stream) => Vec::new(),
        };
        let plain = Settings {
            kind: settings.kind,
            single_active_consumer: settings.single_active_consumer,
            ..Settings::default()
        };
        if *settings == plain && level_from.is_empty() {
            return None;
        }
        let levels = level_from.iter().map(|_| Runs::default()).collect();
        Some(Box::new(Extras { levels, level_from, groups, ..Extras::default() }))
    }

    /// All messages that wait with a priority, in a group, or for their time; to change where the log holds them.
    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        let delayed = self.delayed.iter_mut().map(|((_, first), run)| (*first, run));
        let grouped = self.groups.iter_mut().flat_map(|groups| groups.iter_mut());
        self.levels.iter_mut().flat_map(Runs::iter_mut).chain(grouped).chain(delayed)
    }

    /// Messages that wait with a priority or in a group.
    pub(super) fn len(&self) -> usize {
        self.levels().map(Runs::len).sum::<usize>() + self.groups.as_ref().map_or(0, |groups| groups.len())
    }

    /// The first messages of all that wait in some order, but for the front.
    fn heads(&self) -> impl Iterator<Item = (u64, &Run)> {
        let of_groups = self.groups.iter().flat_map(|groups| [groups.first(), groups.next()]);
        self.levels().map(Runs::first).chain(of_groups).flatten()
    }

    /// What waits, the highest priority first, but for the lowest.
    fn levels(&self) -> impl Iterator<Item = &Runs> {
        self.levels.iter().rev()
    }

    /// The level of a message; `None`: the lowest.
    fn level(&self, message: Message<'_>) -> Option<usize> {
        let priority = Properties::new(message.properties()).ok()?.priority()?;
        self.level_from.partition_point(|from| *from <= priority).checked_sub(1)
    }

    /// When a message is too old, if ever.
    fn due(&self, ttl: Option<u64>, number: u64, message: Message<'_>) -> Option<u64> {
        let own = if self.expirations { expiration(message) } else { None };
        let ttl = [ttl, own].into_iter().flatten().min()?;
        Some(self.times.of(number).saturating_add(ttl))
    }
}

/// Stands for the id that the publisher gave the first of some messages.
fn id_of(run: &Run) -> Option<Digest> {
    let id = Properties::new(run.messages.first().properties()).ok()?.message_id()?;
    Some(digest(&[id.as_bytes()]))
}

/// Milliseconds that a message may wait, by its own account.
fn expiration(message: Message<'_>) -> Option<u64> {
    Properties::new(message.properties()).ok()?.expiration()?.parse().ok()
}

impl Queue {
    /// The settings have changed, or are known for the first time.
    ///
    /// A mark that the log has to know, if the queue is durable: what came before counts from now on.
    pub(crate) fn configure(&mut self, settings: Settings, now: u64) -> Option<Mark> {
        self.consumers.share(match (settings.single_active_consumer, settings.kind) {
            (false, _) => Sharing::All,
            (true, QueueKind::Quorum) => Sharing::OneByPriority,
            (true, QueueKind::Classic | QueueKind::Stream) => Sharing::One,
        });
        let ready_bytes = settings
            .max_length_bytes
            .map_or(0, |_| self.ready().map(|(_, run)| limited_bytes(&settings, run)).sum());
        if let Some(extras) = Extras::of(&settings)
            && self.extras.is_none()
        {
            self.extras = Some(extras);
        }
        self.options.settings = settings;
        let (lowest, next) = (self.lowest(), self.next_sequence);
        let extras = self.extras.as_deref_mut()?;
        extras.ready_bytes = ready_bytes;
        extras.last_used = extras.last_used.max(now);
        extras.timed |= self.options.settings.message_ttl_ms.is_some()
            || self.options.settings.keeps == Some(Keeps::Delayed);
        let mark = Mark { first: lowest, ms: now };
        (extras.timed && lowest < next && extras.times.begins_after(lowest)).then(|| {
            extras.times.recover(mark);
            mark
        })
    }

    /// Messages arrive. `expires`: some have their own time to live. A mark that the log has to know, if they are stored.
    pub(crate) fn arrive(&mut self, first: u64, now: u64, expires: bool) -> Option<Mark> {
        if expires {
            let extras = self.extras.get_or_insert_default();
            (extras.expirations, extras.timed) = (true, true);
        }
        let extras = self.extras.as_deref_mut().filter(|extras| extras.timed)?;
        let mark = Mark { first, ms: now };
        extras.times.note(mark).then_some(mark)
    }

    /// Recovery: messages from a number on arrived at a time.
    pub(crate) fn recover_mark(&mut self, mark: Mark) {
        self.saw_sequence(mark.first + 1);
        let extras = self.extras.get_or_insert_default();
        // Why is not in the log: some may have their own time to live.
        (extras.expirations, extras.timed) = (true, true);
        extras.times.recover(mark);
    }

    /// Recovery is over: what has no mark counts from now on, and what comes now has one of its own.
    pub(crate) fn recovered_times(&mut self, now: u64) {
        let (lowest, next) = (self.lowest(), self.next_sequence);
        if let Some(extras) = &mut self.extras
            && extras.timed
            && lowest < next
            && extras.times.begins_after(lowest)
        {
            extras.times.recover(Mark { first: lowest, ms: now.saturating_sub(1) });
        }
    }

    /// All marks, for the log.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.extras.as_ref().map_or_else(Vec::new, |extras| extras.times.marks())
    }

    /// Splits messages by priority.
    pub(super) fn enqueue_by_priority(&mut self, first: u64, mut run: Run) {
        let mut first = first;
        loop {
            let Some(extras) = self.extras.as_deref_mut() else { return };
            let mut levels = run.messages.iter().map(|message| extras.level(message));
            let level = levels.next().flatten();
            let same = 1 + levels.take_while(|other| *other == level).count();
            let part_len = u32::try_from(same).unwrap_or(u32::MAX);
            let last = part_len >= run.count();
            let part = if last { run.clone() } else { run.split_to(part_len) };
            match level {
                Some(level) => extras.levels[level].insert(first, part),
                None => self.enqueue_last(first, part),
            }
            if last {
                return;
            }
            first += u64::from(part_len);
        }
    }

    /// Takes the oldest messages of those that go first: at most `count_max` that are in memory.
    pub(super) fn pop_oldest(&mut self, count_max: u32) -> Option<(u64, Run)> {
        self.pop_grouped().or_else(|| self.pop_head(count_max))
    }

    /// Where the next messages are, in a queue without groups.
    pub(super) fn head(&mut self) -> &mut Runs {
        let others_turn = self.is_turn_of_others();
        let Queue { extras, front, .. } = self;
        let level = extras
            .as_deref_mut()
            .filter(|_| !others_turn)
            .and_then(|extras| extras.levels.iter_mut().rev().find(|level| !level.is_empty()));
        level.unwrap_or(front)
    }

    /// Takes out messages at the head, as many as come one after the other.
    pub(super) fn pop_head(&mut self, count_max: u32) -> Option<(u64, Run)> {
        if self.extras.is_none() {
            return self.front.pop_first(count_max);
        }
        let count_max = count_max.min(self.head_len_max());
        let urgent = !self.is_turn_of_others() && self.levels().any(|level| !level.is_empty());
        let popped = self.head().pop_first(count_max)?;
        if let Some(extras) = &mut self.extras {
            let gone = if urgent { extras.urgent_in_a_row.saturating_add(popped.1.count()) } else { 0 };
            extras.urgent_in_a_row = gone.min(URGENT_IN_A_ROW);
        }
        Some(popped)
    }

    /// It was the turn of others than urgent messages.
    pub(super) fn others_went(&mut self) {
        if let Some(extras) = &mut self.extras {
            extras.urgent_in_a_row = 0;
        }
    }

    /// How many messages at the head come before it is the turn of others.
    pub(crate) fn head_len_max(&self) -> u32 {
        if self.alternates() { self.urgent_left().max(1) } else { u32::MAX }
    }

    fn is_turn_of_others(&self) -> bool {
        self.alternates() && self.urgent_left() == 0
    }

    /// Whether urgent messages and others take turns.
    fn alternates(&self) -> bool {
        self.extras.is_some()
            && self.options.settings.kind == QueueKind::Quorum
            && self.levels().any(|level| !level.is_empty())
            && !(self.front.is_empty() && self.backlog.is_empty())
    }

    /// How many urgent messages may go now though others wait.
    fn urgent_left(&self) -> u32 {
        let gone = self.extras.as_ref().map_or(0, |extras| extras.urgent_in_a_row);
        URGENT_IN_A_ROW.saturating_sub(gone)
    }

    /// What waits with a priority.
    pub(super) fn levels(&self) -> impl Iterator<Item = &Runs> {
        self.extras.iter().flat_map(|extras| extras.levels())
    }

    pub(super) fn levels_mut(extras: &mut Option<Box<Extras>>) -> impl Iterator<Item = &mut Runs> {
        extras.iter_mut().flat_map(|extras| extras.levels.iter_mut())
    }

    pub(super) fn has_levels(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.levels.is_empty())
    }

    /// What was returned and waits for its time.
    pub(super) fn delayed(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.extras.iter().flat_map(|extras| extras.delayed.iter().map(|((_, first), run)| (*first, run)))
    }

    /// What waits for its time, by that time, from behind a place on.
    pub(super) fn delayed_after(&self, after: Option<Bookmark>) -> impl Iterator<Item = (Bookmark, &Run)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded((after.due_ms, after.number)));
        let delayed =
            self.extras.iter().flat_map(move |extras| extras.delayed.range((from, Bound::Unbounded)));
        delayed.map(|((due_ms, number), run)| (Bookmark { due_ms: *due_ms, number: *number }, run))
    }

    /// Takes out what was returned and waits for its time, piece by piece.
    pub(super) fn pop_delayed(&mut self) -> Option<(u64, Run)> {
        let extras = self.extras.as_deref_mut()?;
        let ((due, first), run) = extras.delayed.pop_first()?;
        if !extras.ids.is_empty()
            && let Some(id) = id_of(&run)
        {
            extras.ids.remove(&(id, due, first));
        }
        Some((first, run))
    }

    /// Takes out a message with this id that waits for its time.
    pub(crate) fn call_off(&mut self, id: &str) -> Option<(u64, Run)> {
        let id = digest(&[id.as_bytes()]);
        let extras = self.extras.as_deref_mut()?;
        let place = extras.ids.range((id, 0, 0)..).next().copied().filter(|(found, ..)| *found == id)?;
        extras.ids.remove(&place);
        let (_, due, first) = place;
        let run = extras.delayed.remove(&(due, first))?;
        Some((first, run))
    }

    /// Where the shard keeps when it looks at the queue again.
    pub(crate) fn deadline(&mut self) -> Option<&mut Option<u64>> {
        self.extras.as_deref_mut().map(|extras| &mut extras.deadline)
    }

    pub(crate) fn deadline_was(&self) -> Option<u64> {
        self.extras.as_ref()?.deadline
    }

    pub(crate) fn has_extras(&self) -> bool {
        self.extras.is_some()
    }

    /// What has come is sorted by the time that each message asks for. Not before: a restart finds messages by their
    /// numbers, and learns late when they arrived.
    pub(crate) fn sort_by_due(&mut self) {
        while let Some((first, run)) = self.front.pop_first(u32::MAX) {
            self.keep_until_due(first, run);
        }
    }

    fn keep_until_due(&mut self, first: u64, mut run: Run) {
        let Some(extras) = self.extras.as_deref_mut() else { return };
        for number in first..first + u64::from(run.count()) {
            let mut part = if run.count() > 1 { run.split_to(1) } else { run.clone() };
            // It may wait for longer than those that came with it.
            part.stays();
            let properties = Properties::new(part.messages.first().properties());
            let arrived = extras.times.of(number);
            let due = properties.ok().and_then(|properties| due_ms(properties, arrived)).unwrap_or(arrived);
            extras.ids.extend(id_of(&part).map(|id| (id, due, number)));
            extras.delayed.insert((due, number), part);
        }
    }

    /// Takes out a message whose time has come.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<(u64, Run)> {
        let delayed = &mut self.extras.as_deref_mut()?.delayed;
        let due = delayed.first_key_value().is_some_and(|((due, _), _)| *due <= now);
        if due { self.pop_delayed() } else { None }
    }

    /// Puts back what has waited long enough.
    pub(crate) fn end_delays(&mut self, now: u64) {
        while let Some(extras) = &mut self.extras
            && let Some(entry) = extras.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ((_, first), run) = entry.remove_entry();
            self.count_ready(&run);
            self.enqueue(first, run);
        }
    }

    /// Takes out messages that are too old at `now`: one of several pieces, `None` when nothing is left.
    pub(crate) fn take_expired(&mut self, now: u64) -> Option<(u64, Run)> {
        let ttl = self.options.settings.message_ttl_ms;
        let Queue { extras, front, .. } = self;
        let extras = extras.as_deref_mut().filter(|extras| extras.timed)?;
        let Extras { times, expirations, levels, groups, .. } = extras;
        let before = ttl.and_then(|ttl| now.checked_sub(ttl));
        let dead_before = before.map_or(0, |ms| times.first_after(ms));
        let count_of = |(first, run): (u64, &Run)| {
            let by_ttl = dead_before.saturating_sub(first).min(run.count().into());
            let by_ttl = u32::try_from(by_ttl).unwrap_or(u32::MAX);
            if !*expirations || by_ttl > 0 {
                return by_ttl;
            }
            let old = |(number, message): &(u64, Message<'_>)| {
                expiration(*message).is_some_and(|own| times.of(*number).saturating_add(own) <= now)
            };
            let old = (first..).zip(run.messages.iter()).take_while(old).count();
            u32::try_from(old).unwrap_or(u32::MAX)
        };
        let taken = if let Some(groups) = groups {
            let heads = [groups.first(), groups.next()];
            let (number, _) = heads.into_iter().flatten().find(|head| count_of(*head) > 0)?;
            (number, groups.take(number)?)
        } else {
            levels.iter_mut().rev().chain([front]).find_map(|runs| {
                let count = runs.first().map_or(0, count_of);
                if count > 0 { runs.pop_first(count) } else { None }
            })?
        };
        self.count_taken(&taken.1);
        Some(taken)
    }

    /// Whether the message whose turn it is next is too old: where each may have its own time, it need not be the oldest.
    pub(crate) fn next_is_old(&self, now: u64) -> bool {
        let Some(extras) = self.extras.as_deref().filter(|extras| extras.timed) else { return false };
        if !extras.expirations && extras.groups.is_none() {
            return false;
        }
        let Some((number, run)) = self.next_ready() else { return false };
        let due = extras.due(self.options.settings.message_ttl_ms, number, run.messages.first());
        due.is_some_and(|due| due <= now)
    }

    /// The messages in memory whose turn it is.
    pub(super) fn next_ready(&self) -> Option<(u64, &Run)> {
        if let Some(groups) = self.groups() {
            return groups.next();
        }
        let urgent = self.levels().filter(|_| !self.is_turn_of_others()).find(|level| !level.is_empty());
        urgent.unwrap_or(&self.front).first()
    }

    /// How many messages at the head can go at once: what stands behind one may be too old though it is not.
    pub(super) fn run_len_max(&self) -> u32 {
        let each_has_its_time = self.extras.as_ref().is_some_and(|extras| extras.expirations);
        if each_has_its_time { 1 } else { self.head_len_max() }
    }

    /// The head is on the disk, and it is time to know it.
    pub(crate) fn wants_head(&self, now: u64) -> bool {
        let Some(extras) = &self.extras else { return false };
        let Some(first) = self.backlog.first().filter(|_| self.front.is_empty()) else { return false };
        let old = || {
            let ttl = self.options.settings.message_ttl_ms;
            extras.expirations || ttl.is_some_and(|ttl| extras.times.of(first).saturating_add(ttl) <= now)
        };
        (extras.timed && old()) || self.excess() > 0
    }

    /// The queue was used: somebody asked for it or for a message.
    pub(crate) fn used(&mut self, now: u64) {
        if let Some(extras) = &mut self.extras {
            extras.last_used = now;
        }
    }

    /// What the clock says.
    pub(crate) fn outlook(&mut self, now: u64) -> Outlook {
        self.forget_times();
        let busy = !self.consumers.is_empty();
        let settings = &self.options.settings;
        let Some(extras) = self.extras.as_deref_mut() else { return Outlook::default() };
        if busy || extras.had_consumers {
            extras.last_used = now;
        }
        extras.had_consumers = busy;
        let unused_until =
            settings.expires_ms.filter(|_| !busy).map(|ms| extras.last_used.saturating_add(ms));
        let ttl = settings.message_ttl_ms;
        let heads = extras.heads().chain(self.front.first()).filter(|_| extras.timed);
        let heads = heads.filter_map(|(first, run)| extras.due(ttl, first, run.messages.first()));
        let on_disk = self.backlog.first().filter(|_| self.front.is_empty() && extras.timed);
        let on_disk = on_disk.and_then(|first| ttl.map(|ttl| extras.times.of(first).saturating_add(ttl)));
        let delayed = extras.delayed.first_key_value().map(|((ms, _), _)| *ms);
        let next = heads.chain(on_disk).chain(delayed).chain(unused_until).min();
        Outlook { next, expired: unused_until.is_some_and(|ms| ms <= now) }
    }

    /// When messages arrived that are gone is of no use. To find out takes the longer the more wait for their time.
    fn forget_times(&mut self) {
        if self.extras.as_ref().is_some_and(|extras| extras.timed && extras.times.have_grown()) {
            let lowest = self.lowest();
            self.extras.iter_mut().for_each(|extras| extras.times.forget_below(lowest));
        }
    }

    /// The lowest number that is in the queue, or the next one.
    fn lowest(&self) -> u64 {
        let heads = self.extras.iter().flat_map(|extras| extras.heads()).chain(self.front.first());
        let firsts = heads.map(|(first, _)| first).chain(self.backlog.first()).chain(self.unacked.first());
        firsts.chain(self.delayed().map(|(first, _)| first)).min().unwrap_or(self.next_sequence)
    }

    pub(super) fn check_extras(&self) {
        self.levels().for_each(Runs::check);
        self.check_seen();
        let Some(extras) = &self.extras else { return };
        if let Some(groups) = &extras.groups {
            let out: BTreeSet<u64> = self.unacked.iter().map(|(number, _)| number).collect();
            let delayed: BTreeSet<u64> = self.delayed().map(|(number, _)| number).collect();
            groups.check(|number| out.contains(&number) || delayed.contains(&number));
        }
        for (id, due, first) in &extras.ids {
            let run = extras.delayed.get(&(*due, *first)).expect("an id leads to a message that waits");
            assert_eq!(id_of(run).as_ref(), Some(id), "an id leads to its message");
        }
        if self.options.settings.max_length_bytes.is_some() && self.backlog.is_empty() {
            let bytes: u64 = self.ready().map(|(_, run)| limited_bytes(&self.options.settings, run)).sum();
            assert_eq!(extras.ready_bytes, bytes, "bytes that wait");
        }
    }
}
