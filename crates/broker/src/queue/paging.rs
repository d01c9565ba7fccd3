//! A queue between memory and its backlog.

use std::collections::BTreeMap;

use super::backlog::Spill;
use super::{Queue, Run, Stored, push_settled};
use crate::page::{self, Extent, Limits, Place, REDELIVERED, RETURNS_SHIFT, Segment, TRANSIENT};
use crate::record::{Position, Span, tidy};
use crate::sequence::Stretch;

impl Queue {
    /// Whether there is anything to move, or on the move.
    #[inline]
    pub(crate) fn needs_paging(&self, limits: &Limits) -> bool {
        (self.front.bytes() > limits.queue && self.may_spill()) || !self.backlog.is_idle()
    }

    /// Priorities and bytes are known of what is in memory only.
    fn may_spill(&self) -> bool {
        let settings = &self.options.settings;
        settings.max_priority.is_none() && settings.max_length_bytes.is_none()
    }

    /// Messages wait that must be read first.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.front.is_empty() && !self.backlog.is_empty()
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Bytes of messages that wait in memory.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.front.bytes() + self.behind.bytes()
    }

    pub(crate) fn is_spilling(&self) -> bool {
        self.backlog.spill.is_some()
    }

    /// Bytes of the spill that is on its way.
    pub(crate) fn spilling_bytes(&self) -> u64 {
        self.on_its_way().map_or(0, |(_, bytes)| bytes)
    }

    /// The token of the spill that is on its way, and its bytes.
    pub(crate) fn on_its_way(&self) -> Option<(u64, u64)> {
        self.backlog.spill.as_ref().map(|spill| (spill.token, spill.bytes))
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.backlog.read.is_some()
    }

    /// What is to be spilled now; nothing while a spill is on its way.
    pub(crate) fn plan_spill(&mut self, limits: &Limits) -> Vec<(u64, Run)> {
        if self.is_spilling() || !self.may_spill() {
            return Vec::new();
        }
        if self.behind.bytes() >= limits.tail
            && let Some((first, _)) = self.behind.first()
        {
            return self.behind.part(0, self.backlog.next_above(first), limits.spill);
        }
        if self.front.bytes() > limits.queue {
            return self.front.part(limits.keep, u64::MAX, limits.spill);
        }
        Vec::new()
    }

    /// These messages are on their way to a segment. They stay here, and can be given out, until they are there.
    pub(crate) fn spilling(&mut self, token: u64, bytes: u64, runs: &[(u64, Run)]) {
        let mut spans = runs.iter().map(|(first, run)| Span { first: *first, count: run.count() }).collect();
        tidy(&mut spans);
        self.backlog.spill = Some(Spill { token, bytes, spans, handed: 0 });
    }

    /// A spill has come to nothing; how many bytes it had.
    pub(crate) fn spill_failed(&mut self, token: u64) -> u64 {
        let bytes = self.backlog.spill.take_if(|spill| spill.token == token).map_or(0, |spill| spill.bytes);
        self.backlog.find_dead();
        bytes
    }

    /// Messages are durable in this extent: those that nobody was given since leave memory; `gone` hears of them. How many
    /// bytes the spill had, and what the log must know to be there.
    pub(crate) fn spilled(
        &mut self,
        token: u64,
        extent: Extent,
        limits: &Limits,
        mut gone: impl FnMut(&Run),
    ) -> (u64, Vec<Span>) {
        let Some(spill) = self.backlog.spill.take_if(|spill| spill.token == token) else {
            return (0, Vec::new());
        };
        self.backlog.know(extent);
        let mut taken = Vec::new();
        // Consumers that caught up would only have to wait for what was just written.
        let caught_up = !self.consumers.is_empty() && self.front.bytes() <= limits.queue / 2;
        if self.has_backlog() || !caught_up {
            for span in &spill.spans {
                let first = span.first.max(spill.handed + 1);
                if first < span.end() {
                    self.front.remove(first, span.end() - 1, |first, run| taken.push((first, run)));
                    self.behind.remove(first, span.end() - 1, |first, run| taken.push((first, run)));
                }
            }
        }
        taken.sort_unstable_by_key(|(first, _)| *first);
        let mut persistent = Vec::new();
        for (first, run) in &taken {
            let span = Span { first: *first, count: run.count() };
            self.backlog.add(span, run.stored.is_some(), extent);
            if let Some(Stored::Segment(before)) = run.stored {
                self.backlog.gone(before, run.count());
            }
            if run.stored.is_some() {
                push_settled(&mut persistent, span);
            }
            gone(run);
        }
        self.backlog.find_dead();
        self.rearrange();
        (spill.bytes, persistent)
    }

    /// What to read now, if front is short and somebody wants more of it.
    pub(crate) fn plan_read(&mut self, limits: &Limits, token: u64) -> Option<Extent> {
        if self.is_reading() || self.front.bytes() >= limits.front {
            return None;
        }
        let extent = self.backlog.next_read()?;
        self.backlog.read = Some((token, extent));
        Some(extent)
    }

    /// Messages were read; `come` hears of those that are in memory now. How many are lost.
    pub(crate) fn paged_in(
        &mut self,
        token: u64,
        runs: Vec<page::Run>,
        next: Place,
        mut come: impl FnMut(&Run),
    ) -> u64 {
        let Some((_, extent)) = self.backlog.read.take_if(|(asked, _)| *asked == token) else {
            return 0;
        };
        let segment = extent.segment;
        let mut wanted: Vec<(u64, Run)> = Vec::new();
        for run in runs {
            wanted.extend(self.wanted_of(run, segment));
        }
        let size: usize = wanted.iter().map(|(_, run)| run.messages.size()).sum();
        for (first, mut run) in wanted {
            // Few messages of a window must not keep all of it.
            if size < run.messages.buffer_size() / 8 {
                run.messages.move_out();
            }
            for (first, run) in self.with_returns(first, run) {
                come(&run);
                self.enqueue(first, run);
            }
        }
        let end = if next.offset >= extent.to.offset { extent.to.sequence } else { next.sequence };
        let lost = self.lose(extent.from.sequence, end, segment);
        self.backlog.read_up_to(segment, next);
        self.rearrange();
        lost
    }

    /// Takes the parts of a run out of the backlog that are wanted.
    fn wanted_of(&mut self, run: page::Run, segment: Segment) -> Vec<(u64, Run)> {
        let page::Run { first, flags, messages } = run;
        let mut parts = Vec::new();
        let flagged = self.flagged;
        let span = Span { first, count: messages.count() };
        self.backlog.cut(span, Some(segment), |span, persistent, _| {
            // What had been delivered when the broker ended comes back with a flag.
            let old = flagged.saturating_add(1).clamp(span.first, span.end());
            let cut = |from: u64, to: u64| Span { first: from, count: u32::try_from(to - from).unwrap_or(0) };
            for (span, old) in [(cut(span.first, old), true), (cut(old, span.end()), false)] {
                if span.count > 0 {
                    parts.push((span, persistent, old));
                }
            }
        });
        let mut rest = Some((first, messages));
        let mut wanted = Vec::new();
        for (span, persistent, old) in parts {
            let Some((at, mut messages)) = rest.take() else { break };
            if at < span.first {
                messages.split_to(short(span.first - at));
            }
            let part = if span.count < messages.count() {
                let part = messages.split_to(span.count);
                rest = Some((span.end(), messages));
                part
            } else {
                messages
            };
            if !persistent {
                self.backlog.gone(segment, span.count);
            }
            let stored = persistent.then_some(Stored::Segment(segment));
            let redelivered = old || flags & REDELIVERED != 0;
            let returns = u16::try_from(flags >> RETURNS_SHIFT).unwrap_or(u16::MAX);
            wanted.push((span.first, Run { messages: part, stored, redelivered, returns }));
        }
        wanted
    }

    /// What should be there and was not read is lost.
    fn lose(&mut self, from: u64, end: u64, segment: Segment) -> u64 {
        let mut lost = Vec::new();
        let mut from = from;
        while from < end {
            let span = Span { first: from, count: u32::try_from(end - from).unwrap_or(u32::MAX) };
            self.backlog
                .cut(span, Some(segment), |span, persistent, segment| lost.push((span, persistent, segment)));
            from = span.end();
        }
        let count = lost.iter().map(|(span, ..)| u64::from(span.count)).sum();
        self.settle_cut(lost);
        count
    }

    /// What was cut out of the backlog is settled.
    pub(super) fn settle_cut(&mut self, cut: Vec<(Span, bool, Segment)>) {
        for (span, persistent, segment) in cut {
            self.backlog.gone(segment, span.count);
            if persistent {
                push_settled(&mut self.settled, span);
            }
        }
    }

    /// What a segment holds is lost: how many messages that are.
    pub(crate) fn give_up_segment(&mut self, segment: Segment) -> u64 {
        let spans = self.backlog.spans_in(segment);
        let lost = spans.into_iter().map(|span| self.lose(span.first, span.end(), segment)).sum();
        self.rearrange();
        lost
    }

    /// Recovery: these messages are in a segment, and nowhere else.
    pub(crate) fn recover_spilled(
        &mut self,
        extent: Extent,
        span: Span,
        position: Position,
        gone: impl FnMut(&Run),
    ) {
        self.forget(span, gone);
        self.backlog.add(span, true, extent);
        self.backlog.recorded(extent.segment, position);
        self.rearrange();
    }

    /// Recovery: settled messages are not wanted.
    pub(super) fn forget_backlog(&mut self, span: Span) {
        let mut cut = Vec::new();
        self.backlog.cut(span, None, |span, _, segment| cut.push((span, segment)));
        if cut.is_empty() {
            return;
        }
        cut.into_iter().for_each(|(span, segment)| self.backlog.gone(segment, span.count));
        self.rearrange();
    }

    /// All that is on the disk is settled.
    pub(super) fn drop_backlog(&mut self) {
        self.drop_backlog_head(u64::MAX);
        self.backlog.read = None;
    }

    /// The log speaks of a segment of this queue at `position`.
    pub(crate) fn recorded(&mut self, segment: Segment, position: Position) {
        self.backlog.recorded(segment, position);
    }

    /// Segments of which the log speaks below `end`, with all that they alone hold.
    pub(crate) fn segments_before(&self, end: Position) -> BTreeMap<Segment, (Extent, Vec<Span>)> {
        if self.backlog.is_idle() {
            return BTreeMap::new();
        }
        let mut segments = self.backlog.recorded_before(end);
        if segments.is_empty() {
            return segments;
        }
        for (first, run) in self.runs() {
            if let Some(Stored::Segment(segment)) = run.stored
                && let Some((_, spans)) = segments.get_mut(&segment)
            {
                spans.push(Span { first, count: run.count() });
            }
        }
        segments.retain(|_, (_, spans)| !spans.is_empty());
        segments.values_mut().for_each(|(_, spans)| tidy(spans));
        segments
    }

    /// The log speaks of a segment at `position`, and what it said before does not matter.
    pub(crate) fn recorded_anew(&mut self, segment: Segment, position: Position) {
        self.backlog.recorded_anew(segment, position);
    }

    /// Segments of which nothing is wanted any more.
    pub(crate) fn take_dead(&mut self) -> Vec<Segment> {
        self.backlog.take_dead()
    }

    /// See [`super::backlog::Backlog::give_up`].
    pub(crate) fn give_up(&mut self, segment: Segment, committed: Position) -> bool {
        self.backlog.give_up(segment, committed)
    }

    /// See [`super::backlog::Backlog::doom`].
    pub(crate) fn doom(&mut self, segment: Segment, position: Position) {
        self.backlog.doom(segment, position);
    }

    /// All segments that may hold messages of this queue.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.backlog.segments()
    }

    /// The boundary has moved: what is below it is in front, what is above is behind.
    pub(super) fn rearrange(&mut self) {
        let boundary = self.backlog.first().unwrap_or(u64::MAX);
        while let Some((first, run)) = self.behind.first().filter(|(first, _)| *first < boundary) {
            let count = run.count();
            debug_assert!(first + u64::from(count) <= boundary, "no run lies across the boundary");
            if let Some((first, run)) = self.behind.pop_first(count) {
                self.front.insert(first, run);
            }
        }
        if boundary < u64::MAX {
            let mut above = Vec::new();
            self.front.remove(boundary, u64::MAX, |first, run| above.push((first, run)));
            // The highest first: each is put in front of the one before, at the end where that is cheap.
            above.into_iter().rev().for_each(|(first, run)| self.behind.insert(first, run));
        }
    }

    pub(super) fn check_backlog(&self) {
        self.front.check();
        self.behind.check();
        if let Some(boundary) = self.backlog.first() {
            let end = |(first, run): (u64, &Run)| first + u64::from(run.count());
            assert!(self.front.iter().all(|run| end(run) <= boundary), "front ends at the boundary");
            assert!(self.behind.iter().all(|(first, _)| first > boundary), "behind begins above it");
        } else {
            assert!(self.behind.is_empty(), "nothing is behind nothing");
        }
        for (first, run) in self.front.iter().chain(self.behind.iter()) {
            let mut numbers = first..first + u64::from(run.count());
            assert!(
                !numbers.any(|number| self.backlog.holds(number)),
                "{first} is in memory and on the disk"
            );
        }
        let mut in_memory = BTreeMap::new();
        for (_, run) in self.runs() {
            if let Some(Stored::Segment(segment)) = run.stored {
                *in_memory.entry(segment).or_default() += u64::from(run.count());
            }
        }
        self.backlog.check(in_memory);
    }
}

/// What goes to a segment.
pub(crate) fn to_page((first, run): (u64, Run)) -> page::Run {
    let transient = if run.stored.is_none() { TRANSIENT } else { 0 };
    let redelivered = if run.redelivered { REDELIVERED } else { 0 };
    let returns = u32::from(run.returns) << RETURNS_SHIFT;
    page::Run { first, flags: transient | redelivered | returns, messages: run.messages }
}

fn short(distance: u64) -> u32 {
    u32::try_from(distance).expect("a run counts with 32 bits")
}
