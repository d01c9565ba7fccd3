//! What of a queue is on a disk and not in memory.
//!
//! ```text
//!   front (memory) │ pieces (segments)            │ behind (memory)
//!   1 … 120        │ 121 … 9000 │ 9010 … 20000    │ 20001 …
//!                  └ the boundary: only what is below is given to consumers
//! ```
//!
//! Memory and pieces never hold the same message. Between two pieces there can be messages in memory, since what is
//! unacked at a crash comes back where it was; they lie *behind* until the boundary has passed them.

use std::collections::BTreeMap;

use crate::page::{Extent, Place, Segment};
use crate::record::{Position, Span};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// By the number of their first message; they do not overlap.
    pieces: BTreeMap<u64, Piece>,
    /// Messages in all pieces.
    len: usize,
    segments: BTreeMap<Segment, Kept>,
    /// Segments of which nothing is wanted any more, since the last look.
    dead: Vec<Segment>,
    /// Where the last read ended.
    cursor: Option<(Segment, Place)>,
    /// A spill that was not answered yet.
    pub(crate) spill: Option<Spill>,
    /// A read that was not answered yet: its token, segment, and the first message it was for.
    pub(crate) read: Option<(u64, Extent)>,
}

/// Messages that follow each other in a queue and in a segment, and are all wanted.
#[derive(Clone, Copy, Debug)]
struct Piece {
    count: u32,
    /// They survive a restart.
    persistent: bool,
    /// Where they are, and perhaps others.
    extent: Extent,
}

/// A segment that holds messages of the queue: in a piece, or in memory and nowhere else on the disk.
#[derive(Clone, Copy, Debug)]
struct Kept {
    from: Place,
    to: Place,
    /// How many messages.
    live: u64,
    /// The oldest record of the log that speaks of it.
    recorded: Position,
    /// Nothing is wanted once the log has committed the record at this position; `None`: something is, or the log does not
    /// say so yet.
    doomed: Option<Position>,
}

/// Messages on their way to a segment.
#[derive(Debug)]
pub(crate) struct Spill {
    pub(crate) token: u64,
    pub(crate) bytes: u64,
    /// Which: what was taken out of the queue since does not count.
    pub(crate) spans: Vec<Span>,
    /// Highest number that was given out since.
    pub(crate) handed: u64,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Nothing on the disk, nothing on its way there or back.
    pub(crate) fn is_idle(&self) -> bool {
        self.spill.is_none() && self.segments.is_empty()
    }

    /// Messages.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The number of the first message.
    pub(crate) fn first(&self) -> Option<u64> {
        self.pieces.first_key_value().map(|(first, _)| *first)
    }

    /// The number of the first message above `number`, or the largest number.
    pub(crate) fn next_above(&self, number: u64) -> u64 {
        self.pieces.range(number..).next().map_or(u64::MAX, |(first, _)| *first)
    }

    /// Messages are in this extent.
    pub(crate) fn add(&mut self, span: Span, persistent: bool, extent: Extent) {
        self.len += span.count as usize;
        let kept = self.keep(extent);
        kept.live += u64::from(span.count);
        // It was given up too early: the log has not heard of these.
        kept.doomed = None;
        if let Some((first, last)) = self.pieces.range_mut(..span.first).next_back()
            && last.persistent == persistent
            && last.extent.segment == extent.segment
            && (last.extent.from.offset..=last.extent.to.offset).contains(&extent.from.offset)
            && first + u64::from(last.count) == span.first
            && let Some(count) = last.count.checked_add(span.count)
        {
            last.count = count;
            if extent.to.offset > last.extent.to.offset {
                last.extent.to = extent.to;
            }
            return;
        }
        self.pieces.insert(span.first, Piece { count: span.count, persistent, extent });
    }

    /// The segment of an extent is known, though perhaps nothing in it is wanted.
    pub(crate) fn know(&mut self, extent: Extent) {
        self.keep(extent);
    }

    fn keep(&mut self, extent: Extent) -> &mut Kept {
        let Extent { from, to, .. } = extent;
        let kept = self.segments.entry(extent.segment);
        let kept = kept.or_insert(Kept { from, to, live: 0, recorded: Position::MAX, doomed: None });
        if from.offset < kept.from.offset {
            kept.from = from;
        }
        if to.offset > kept.to.offset {
            kept.to = to;
        }
        kept
    }

    /// The log speaks of the segment at this position.
    pub(crate) fn recorded(&mut self, segment: Segment, position: Position) {
        if let Some(kept) = self.segments.get_mut(&segment) {
            kept.recorded = kept.recorded.min(position);
        }
    }

    /// So many messages of a segment are not wanted there any more.
    pub(crate) fn gone(&mut self, segment: Segment, count: u32) {
        if let Some(kept) = self.segments.get_mut(&segment) {
            kept.live -= u64::from(count);
            if kept.live == 0 {
                self.dead.push(segment);
            }
        }
    }

    /// Takes the messages of a span out of the pieces, of all segments or of one; `take` gets each part, whether it is
    /// persistent, and its segment. They still count as wanted in their segment.
    pub(crate) fn cut(
        &mut self,
        span: Span,
        only: Option<Segment>,
        mut take: impl FnMut(Span, bool, Segment),
    ) {
        if self.pieces.is_empty() {
            return;
        }
        let mut at = self.pieces.range(..=span.first).next_back().map_or(span.first, |(first, _)| *first);
        while at < span.end()
            && let Some((first, piece)) = self.pieces.range(at..span.end()).next()
        {
            let (first, piece) = (*first, *piece);
            let end = first + u64::from(piece.count);
            at = end;
            let (from, to) = (first.max(span.first), end.min(span.end()));
            if from >= to || only.is_some_and(|only| only != piece.extent.segment) {
                continue;
            }
            self.pieces.remove(&first);
            if first < from {
                self.pieces.insert(first, Piece { count: short(from - first), ..piece });
            }
            if to < end {
                self.pieces.insert(to, Piece { count: short(end - to), ..piece });
            }
            let taken = Span { first: from, count: short(to - from) };
            self.len -= taken.count as usize;
            take(taken, piece.persistent, piece.extent.segment);
        }
    }

    /// Where to read the first messages.
    pub(crate) fn next_read(&self) -> Option<Extent> {
        let (first, piece) = self.pieces.first_key_value()?;
        let mut extent = piece.extent;
        if let Some((segment, place)) = self.cursor
            && segment == extent.segment
            && place.sequence <= *first
            && (extent.from.offset..extent.to.offset).contains(&place.offset)
        {
            extent.from = place;
        }
        extent.from.sequence = *first;
        Some(extent)
    }

    /// A read ended here.
    pub(crate) fn read_up_to(&mut self, segment: Segment, next: Place) {
        self.cursor = Some((segment, next));
    }

    /// The segments of which nothing is wanted any more, since the last call.
    pub(crate) fn take_dead(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.dead)
    }

    /// Looks again at all segments of which nothing is wanted.
    pub(crate) fn find_dead(&mut self) {
        self.dead = self.segments.iter().filter(|(_, kept)| kept.live == 0).map(|(id, _)| *id).collect();
    }

    /// When the log has committed the record at this position, nothing in a segment is wanted.
    pub(crate) fn doom(&mut self, segment: Segment, position: Position) {
        if let Some(kept) = self.segments.get_mut(&segment).filter(|kept| kept.live == 0) {
            kept.doomed = Some(position);
        }
    }

    /// Gives up a segment, if the log has committed that nothing in it is wanted and nothing is on its way to it.
    pub(crate) fn give_up(&mut self, segment: Segment, committed: Position) -> bool {
        let doomed = self.segments.get(&segment).and_then(|kept| kept.doomed);
        let removable = doomed.is_some_and(|position| position < committed) && self.spill.is_none();
        if removable {
            self.segments.remove(&segment);
        }
        removable
    }

    /// Recovery: what nobody wants is not known any more.
    pub(crate) fn forget_dead(&mut self) {
        self.dead.clear();
        self.segments.retain(|_, kept| kept.live > 0);
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.keys().copied()
    }

    /// The segments of which the log speaks below `end`, and all that is persistent in their pieces.
    pub(crate) fn recorded_before(&self, end: Position) -> BTreeMap<Segment, (Extent, Vec<Span>)> {
        let old = self.segments.iter().filter(|(_, kept)| kept.live > 0 && kept.recorded < end);
        let whole = |segment: Segment, kept: &Kept| Extent { segment, from: kept.from, to: kept.to };
        let mut old: BTreeMap<_, _> = old.map(|(id, kept)| (*id, (whole(*id, kept), Vec::new()))).collect();
        if old.is_empty() {
            return old;
        }
        for (first, piece) in self.pieces.iter().filter(|(_, piece)| piece.persistent) {
            if let Some((_, spans)) = old.get_mut(&piece.extent.segment) {
                spans.push(Span { first: *first, count: piece.count });
            }
        }
        old
    }

    /// The log speaks of the segment at this position, and what it said before does not matter.
    pub(crate) fn recorded_anew(&mut self, segment: Segment, position: Position) {
        if let Some(kept) = self.segments.get_mut(&segment) {
            kept.recorded = position;
        }
    }

    /// The messages of the pieces in a segment.
    pub(crate) fn spans_in(&self, segment: Segment) -> Vec<Span> {
        let of_it = self.pieces.iter().filter(|(_, piece)| piece.extent.segment == segment);
        of_it.map(|(first, piece)| Span { first: *first, count: piece.count }).collect()
    }

    /// Whether a message is in a piece.
    pub(crate) fn holds(&self, number: u64) -> bool {
        let piece = self.pieces.range(..=number).next_back();
        piece.is_some_and(|(first, piece)| number - first < u64::from(piece.count))
    }

    /// Panics where an invariant does not hold. `in_memory`: how many messages of each segment are.
    pub(crate) fn check(&self, mut in_memory: BTreeMap<Segment, u64>) {
        let mut end = 0;
        for (first, piece) in &self.pieces {
            assert!(*first >= end && piece.count > 0, "pieces overlap at {first}");
            end = first + u64::from(piece.count);
            *in_memory.entry(piece.extent.segment).or_default() += u64::from(piece.count);
            let Extent { from, to, .. } = piece.extent;
            assert!(from.sequence <= *first && end <= to.sequence, "a piece lies in its extent");
        }
        let count: usize = self.pieces.values().map(|piece| piece.count as usize).sum();
        assert_eq!(self.len, count, "messages in pieces");
        for (segment, kept) in &self.segments {
            assert_eq!(kept.live, in_memory.remove(segment).unwrap_or(0), "wanted of {segment:?}");
        }
        assert!(in_memory.is_empty(), "messages of a segment that was given up: {in_memory:?}");
    }
}

fn short(distance: u64) -> u32 {
    u32::try_from(distance).expect("a piece counts with 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spills of a segment, each of several runs.
    #[test]
    fn messages_that_follow_each_other_in_a_segment_are_one_piece() {
        let segment = Segment { number: 1, incarnation: 1 };
        let place = |spill: u64| Place { offset: 64 + spill * 1000, sequence: 1 + spill * 30 };
        let mut backlog = Backlog::default();
        for spill in 0..4 {
            let extent = Extent { segment, from: place(spill), to: place(spill + 1) };
            for run in 0..3 {
                backlog.add(Span { first: 1 + spill * 30 + run * 10, count: 10 }, true, extent);
            }
        }
        backlog.check(BTreeMap::new());
        assert_eq!((backlog.pieces.len(), backlog.len()), (1, 120));
    }
}
