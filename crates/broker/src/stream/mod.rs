//! A stream: messages that stay where they are, in the order in which they came, for as many readers as there are.
//!
//! ```text
//!   index (segments on a disk)                        │ memory
//!   pieces, each an append of a few megabytes         │ cached (in a segment, too) │ fresh (in the journal)
//!   start … ───────────────────────────────────────────────────────────────────────────── readable … next
//! ```
//!
//! A message's offset is its number, from 0 on. What has gathered in `fresh` is appended to a segment; then the journal
//! need not hold it any more, and memory keeps it only while it is among the youngest. Readers see what is committed and
//! nothing else, so no two of them ever see different messages at one offset. A reader that is behind memory reads
//! windows of segments, each reader its own. Retention moves `start`, by whole segments.
//!
//! Like a queue, a stream decides nothing that must survive: its shard writes the record and then calls the method that
//! recovery calls too.

pub(crate) mod filter;
mod index;
mod options;
mod reader;
pub mod record;
mod stamps;
#[cfg(test)]
mod tests;
mod tracking;

use std::collections::VecDeque;

use slab::Slab;

pub use filter::Marks;
pub use filter::{FILTER_SIZE_MAX, FILTER_SIZE_MIN, Wanted};
pub use options::{Options, Retention, age_ms};
pub(crate) use reader::{Place as ReaderPlace, Reader, not_supported};
pub use reader::{Reading, Start};
pub use record::{Bounds, Piece};

use crate::message::Messages;
use crate::page::{self, Extent, Limits, Segment};
use crate::queue::{Run, Runs, Stored};
use crate::record::{Position, Span};
use crate::sequence::Stretch;
use index::Index;
use stamps::Stamps;
use tracking::Tracking;

/// How long age is not looked at again, at least.
const AGE_LOOK_MS: u64 = 1000;

/// Where the next messages of a reader are.
#[derive(Debug)]
pub(crate) enum Source {
    /// In memory.
    Memory(u64, Messages),
    /// In this part of a segment.
    Disk(Extent),
    /// Nowhere yet.
    Nowhere,
}

/// What retention takes away.
#[derive(Debug, Default)]
pub(crate) struct Trimmed {
    /// Segments of which nothing is wanted.
    pub(crate) segments: Vec<Segment>,
    /// What was in memory, and in no segment.
    pub(crate) runs: Vec<Run>,
}

impl Trimmed {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.runs.is_empty()
    }
}

/// Messages on their way to a segment.
#[derive(Debug)]
struct Appending {
    token: u64,
    bytes: u64,
    first: u64,
    end: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) options: Options,
    pub(crate) readers: Slab<Reader>,
    /// Being deleted: it takes no more requests.
    pub(crate) closing: bool,
    /// It is in its shard's list of streams to look at.
    pub(crate) touched: bool,
    /// When its age is to be looked at.
    pub(crate) due_ms: Option<u64>,
    /// The first offset that is kept, and the next that is given out.
    start: u64,
    next: u64,
    /// Everything below is committed.
    readable: u64,
    /// What is not: the last record of messages, and the offset behind them.
    uncommitted: VecDeque<(Position, u64)>,
    index: Index,
    cached: Runs,
    fresh: Runs,
    stamps: Stamps,
    appending: Option<Appending>,
    /// The segment that was appended to is gone: the next append begins another.
    begin_segment: bool,
    tracking: Tracking,
    /// The oldest record of the log that says something of this stream beside its messages and segments.
    recorded: Position,
}

impl Stream {
    pub(crate) fn new(options: Options) -> Stream {
        Stream {
            options,
            readers: Slab::new(),
            closing: false,
            touched: false,
            due_ms: None,
            start: 0,
            next: 0,
            readable: 0,
            uncommitted: VecDeque::new(),
            index: Index::default(),
            cached: Runs::default(),
            fresh: Runs::default(),
            stamps: Stamps::default(),
            appending: None,
            begin_segment: false,
            tracking: Tracking::default(),
            recorded: Position::MAX,
        }
    }

    /// Messages that can be read.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.readable.saturating_sub(self.start)).unwrap_or(usize::MAX)
    }

    /// The offset of the first of the next `count` messages.
    pub(crate) fn take_offsets(&mut self, count: u32) -> u64 {
        let first = self.next;
        self.next += u64::from(count);
        first
    }

    /// The time of messages that are written now, if it is not that of those before.
    pub(crate) fn stamp(&mut self, first: u64, now_ms: u64) -> Option<u64> {
        self.stamps.stamp(first, now_ms)
    }

    /// Recovery: messages from `first` on were written at this time.
    pub(crate) fn recover_stamp(&mut self, first: u64, time_ms: u64) {
        self.stamps.recover(first, time_ms);
    }

    /// Takes messages in; gives back those that are in a segment already or that nobody wants any more.
    pub(crate) fn enqueue(&mut self, first: u64, run: Run) -> Result<(), Run> {
        let end = first + u64::from(run.count());
        self.next = self.next.max(end);
        if first < self.start.max(self.index.end()) {
            return Err(run);
        }
        self.fresh.insert(first, run);
        Ok(())
    }

    /// Messages that end here are in the log up to this position.
    pub(crate) fn written(&mut self, position: Position, end: u64) {
        self.uncommitted.push_back((position, end));
    }

    /// The log is committed below a position; whether there is more to read.
    pub(crate) fn committed(&mut self, position: Position) -> bool {
        let before = self.readable;
        while let Some((_, end)) = self.uncommitted.pop_front_if(|(last, _)| *last < position) {
            self.readable = end;
        }
        self.readable > before
    }

    pub(crate) fn has_uncommitted(&self) -> bool {
        !self.uncommitted.is_empty()
    }

    /// The last record of messages that are not committed.
    pub(crate) fn awaited(&self) -> Option<Position> {
        self.uncommitted.back().map(|(position, _)| *position)
    }

    /// Recovery: another copy of these messages follows; `gone` hears of those that were there.
    pub(crate) fn forget(&mut self, span: Span, mut gone: impl FnMut(&Run)) {
        self.next = self.next.max(span.end());
        self.fresh.remove(span.first, span.end() - 1, |_, run| gone(&run));
    }

    /// Recovery is over: all that was found is durable.
    pub(crate) fn recovered(&mut self) {
        self.readable = self.next;
        self.forget_stamps();
    }

    /// Where the messages at an offset are, or the first ones behind it, for a reader with this wish. Also the offset from
    /// which on they are wanted.
    pub(crate) fn find(&self, offset: u64, wanted: Option<&Wanted>) -> (u64, Source) {
        let mut offset = offset.max(self.start);
        while offset < self.readable {
            let in_memory = self.cached.get(offset).or_else(|| self.fresh.get(offset));
            if let Some((first, run)) = in_memory {
                let mut messages = run.messages.clone();
                if offset > first {
                    messages.split_to(short(offset - first));
                }
                return (offset, Source::Memory(offset, messages));
            }
            if let Some((extent, piece)) = self.index.find(offset) {
                if wanted.is_none_or(|wanted| wanted.may_be_in(&piece.marks)) {
                    let to = if wanted.is_some() { piece.to } else { extent.to };
                    return (offset, Source::Disk(Extent { to, ..extent }));
                }
                offset = piece.to.sequence;
                continue;
            }
            // A hole, where the disk has lost something.
            let in_memory = self.runs().map(|(first, _)| first).find(|first| *first > offset);
            let above = [self.index.next_above(offset), in_memory].into_iter().flatten().min();
            offset = above.unwrap_or(self.readable).min(self.readable);
        }
        (offset, Source::Nowhere)
    }

    /// The time that the flags of what was read here from a segment count from.
    pub(crate) fn time_base(&self, offset: u64) -> u64 {
        self.index.find(offset).map_or(0, |(_, piece)| piece.first_ms)
    }

    /// Which offset a reader begins with, and before which time nothing is wanted.
    pub(crate) fn begin(&self, reading: &Reading, now_ms: u64) -> (u64, Option<u64>) {
        let kept = reading.tracked.as_deref().and_then(|name| self.tracking.get(name));
        if let Some(offset) = kept {
            return (offset, None);
        }
        match reading.start {
            Start::First => (self.start, None),
            Start::Last => (self.readable.saturating_sub(1).max(self.start), None),
            Start::Next => (self.readable, None),
            Start::Offset(offset) => (offset, None),
            Start::Time(time_ms) => self.since(time_ms),
            Start::Ago(ms) => self.since(now_ms.saturating_sub(ms)),
        }
    }

    fn since(&self, time_ms: u64) -> (u64, Option<u64>) {
        if !self.stamps.begin_before(time_ms)
            && let Some(piece) = self.index.since(time_ms)
        {
            return (piece.from.sequence, Some(time_ms).filter(|time| *time > piece.first_ms));
        }
        (self.stamps.since(time_ms).unwrap_or(self.readable).min(self.readable), None)
    }

    /// Who reads under a name has settled everything below an offset.
    pub(crate) fn track(&mut self, name: &str, offset: u64) {
        self.tracking.note(name, offset);
    }

    /// Names that the log must be told of.
    pub(crate) fn take_tracked(&mut self) -> Vec<(Box<str>, u64)> {
        self.tracking.take_changed()
    }

    /// What is to be appended to a segment now, and whether that is to be a new one. Only what is committed, since readers
    /// see all that is in a segment.
    pub(crate) fn plan_append(&mut self, limits: &Limits) -> Option<(Vec<(u64, Run)>, bool)> {
        let size = limits.spill.min(self.options.segment_size);
        if self.appending.is_some() || self.fresh.bytes() < size {
            return None;
        }
        let runs = self.fresh.part(0, self.readable, size);
        let full = self.index.last_size() >= self.options.segment_size;
        let enough = runs.iter().map(|(_, run)| run.weight()).sum::<u64>() >= size;
        enough.then_some((runs, full || self.begin_segment))
    }

    /// These messages are on their way to a segment. How the pages of the segment look.
    pub(crate) fn appending(&mut self, token: u64, bytes: u64, runs: Vec<(u64, Run)>) -> Vec<page::Run> {
        let first = runs.first().map_or(0, |(first, _)| *first);
        let end = runs.last().map_or(0, |(first, run)| first + u64::from(run.count()));
        self.appending = Some(Appending { token, bytes, first, end });
        let base = self.stamps.time_of(first);
        let age = |first| u32::try_from(self.stamps.time_of(first).saturating_sub(base)).unwrap_or(u32::MAX);
        let page = |(first, run): (u64, Run)| page::Run { first, flags: age(first), messages: run.messages };
        runs.into_iter().map(page).collect()
    }

    /// An append has come to nothing; how many bytes it had.
    pub(crate) fn append_failed(&mut self, token: u64) -> u64 {
        self.appending.take_if(|appending| appending.token == token).map_or(0, |it| it.bytes)
    }

    pub(crate) fn appending_bytes(&self) -> u64 {
        self.appending.as_ref().map_or(0, |appending| appending.bytes)
    }

    /// What stands in a segment now: the piece to log, and how many bytes were on their way.
    pub(crate) fn appended(&mut self, token: u64, extent: Extent) -> Option<(Piece, u64)> {
        let Appending { bytes, first, end, .. } =
            self.appending.take_if(|appending| appending.token == token)?;
        self.begin_segment = false;
        let part = self.fresh.iter().take_while(|(at, _)| *at < end).map(|(_, run)| &run.messages);
        let marks = Marks::of(part, self.options.filter_size);
        let (first_ms, last_ms) = (self.stamps.time_of(first), self.stamps.time_of(end - 1));
        Some((Piece { from: extent.from, to: extent.to, first_ms, last_ms, marks }, bytes))
    }

    /// Messages are durable in a segment, and the log says so at `position`. They stay in memory as far as there is
    /// room; `change` hears of what leaves the log and, with false, of what comes into memory alone.
    pub(crate) fn add_piece(
        &mut self,
        segment: Segment,
        piece: Piece,
        position: Position,
        mut change: impl FnMut(&Run, bool),
    ) {
        let end = piece.to.sequence;
        self.next = self.next.max(end);
        if end <= self.start {
            return;
        }
        self.index.add(segment, piece, position);
        let mut moved = Vec::new();
        self.fresh.remove(0, end - 1, |first, run| moved.push((first, run)));
        for (first, mut run) in moved {
            change(&run, true);
            run.stored = Some(Stored::Segment(segment));
            change(&run, false);
            self.cached.insert(first, run);
        }
    }

    /// Makes room in memory; `gone` hears of what went.
    pub(crate) fn shrink_cache(&mut self, limits: &Limits, mut gone: impl FnMut(&Run)) {
        while self.cached.bytes() > 0 && self.cached.bytes() + self.fresh.bytes() > limits.queue {
            if let Some((_, run)) = self.cached.pop_first(u32::MAX) {
                gone(&run);
            }
        }
    }

    /// Forgets when messages were written that are not in memory. Not while records are read: what is copied forward comes
    /// late.
    pub(crate) fn forget_stamps(&mut self) {
        let first = self.cached.first().or_else(|| self.fresh.first()).map_or(self.next, |(first, _)| first);
        self.stamps.forget_below(first);
    }

    /// Bytes that wait to be appended.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.fresh.bytes()
    }

    /// Takes away what is too old or too much: whole segments, the oldest first. Age also takes what is in no segment.
    pub(crate) fn retain(&mut self, now_ms: u64) -> Trimmed {
        let Retention { age_ms, bytes, count } = self.options.retention;
        let expired = |time_ms: u64| age_ms.is_some_and(|age| time_ms.saturating_add(age) <= now_ms);
        let mut trimmed = Trimmed::default();
        while let Some(oldest) = self.index.oldest() {
            let only = self.index.segments_len() == 1;
            let too_much = bytes.is_some_and(|max| self.index.bytes() + self.fresh.bytes() > max)
                || count.is_some_and(|max| self.readable.saturating_sub(self.start) > max);
            let goes = if only {
                self.appending.is_none() && expired(oldest.last_ms)
            } else {
                too_much || expired(oldest.last_ms)
            };
            if !goes {
                break;
            }
            let (segment, end) = (oldest.segment, oldest.end);
            self.index.drop_oldest();
            self.begin_segment |= only;
            self.start = self.start.max(end);
            trimmed.segments.push(segment);
        }
        if self.index.segments_len() == 0 && self.appending.is_none() {
            while let Some((first, run)) = self.fresh.first()
                && first + u64::from(run.count()) <= self.readable
                && expired(self.stamps.time_of(first))
            {
                let (first, run) = self.fresh.pop_first(u32::MAX).expect("there is a first");
                self.start = self.start.max(first + u64::from(run.count()));
                trimmed.runs.push(run);
            }
        }
        let oldest = self.index.oldest().map(|oldest| oldest.last_ms);
        let oldest = oldest.or_else(|| self.fresh.first().map(|(first, _)| self.stamps.time_of(first)));
        self.due_ms =
            age_ms.zip(oldest).map(|(age, oldest)| (oldest.saturating_add(age)).max(now_ms + AGE_LOOK_MS));
        trimmed
    }

    /// What is below the start leaves memory; `gone` hears of it.
    pub(crate) fn drop_below_start(&mut self, mut gone: impl FnMut(&Run)) {
        if let Some(last) = self.start.checked_sub(1) {
            self.cached.remove(0, last, |_, run| gone(&run));
            self.fresh.remove(0, last, |_, run| gone(&run));
        }
    }

    /// Where the stream begins and ends, for the log.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { start: self.start, next: self.next, time_ms: self.stamps.last_ms() }
    }

    /// Recovery: what the log says of where the stream begins and ends; `gone` hears of what is not wanted.
    pub(crate) fn recover_bounds(&mut self, bounds: Bounds, gone: impl FnMut(&Run)) {
        self.next = self.next.max(bounds.next);
        self.stamps.recover_last(bounds.time_ms);
        if bounds.start > self.start {
            self.start = bounds.start;
            self.index.drop_below(self.start);
            self.drop_below_start(gone);
        }
    }

    /// The log speaks of this stream at a position.
    pub(crate) fn recorded(&mut self, position: Position) {
        self.recorded = self.recorded.min(position);
    }

    /// All that the log must go on to know of this stream, if some of it may stand before `end`: bounds, times, names.
    pub(crate) fn state_before(&self, end: Position) -> Option<record::State> {
        let stamps = || self.stamps.iter().collect();
        (self.recorded < end).then(|| record::State {
            bounds: self.bounds(),
            stamps: stamps(),
            tracked: self.tracking.all(),
        })
    }

    /// That is at this position now, and what was said before does not matter.
    pub(crate) fn recorded_anew(&mut self, position: Position) {
        self.recorded = position;
    }

    /// Segments of which the log may speak before `end`, with all their pieces.
    pub(crate) fn segments_before(&mut self, end: Position) -> Vec<(Segment, Vec<Piece>)> {
        self.index.recorded_before(end)
    }

    /// The log speaks of a segment at this position, and what it said before does not matter.
    pub(crate) fn segment_recorded_anew(&mut self, segment: Segment, position: Position) {
        self.index.recorded_anew(segment, position);
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.index.segments()
    }

    /// All messages in memory.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, &Run)> {
        self.cached.iter().chain(self.fresh.iter())
    }

    /// The same, to change where the log holds them.
    pub(crate) fn runs_mut(&mut self) -> impl Iterator<Item = (u64, &mut Run)> {
        self.cached.iter_mut().chain(self.fresh.iter_mut())
    }

    /// Panics where an invariant does not hold.
    pub(crate) fn check(&self) {
        self.cached.check();
        self.fresh.check();
        assert!(self.start <= self.next && self.readable <= self.next, "the bounds are in order");
        self.index.check(self.start);
        if let (Some((cached, _)), Some((fresh, _))) = (self.cached.iter().last(), self.fresh.first()) {
            assert!(cached < fresh, "what is cached is older than what is fresh");
        }
        let floor = self.index.end().max(self.start);
        assert!(self.fresh.first().is_none_or(|(first, _)| first >= floor), "fresh is in no segment");
        for (_, reader) in &self.readers {
            reader.check();
        }
    }
}

pub(crate) fn short(distance: u64) -> u32 {
    u32::try_from(distance).expect("a run counts with 32 bits")
}
