//! Which parts of which segments hold the messages of a stream. One entry per append of a few megabytes.

use std::collections::VecDeque;

use super::record::Piece;
use crate::page::{Extent, Segment};
use crate::record::Position;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Oldest first; none is without a piece.
    segments: VecDeque<Kept>,
    /// Bytes of all pieces.
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    segment: Segment,
    pieces: Vec<Piece>,
    /// The oldest record of the log that speaks of it.
    recorded: Position,
}

/// What retention must know of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oldest {
    pub(super) segment: Segment,
    /// The offset behind its last message.
    pub(super) end: u64,
    /// When its last message was written.
    pub(super) last_ms: u64,
}

impl Kept {
    fn first(&self) -> u64 {
        self.pieces[0].from.sequence
    }

    fn last(&self) -> &Piece {
        self.pieces.last().expect("a segment has a piece")
    }
}

impl Index {
    pub(super) fn add(&mut self, segment: Segment, piece: Piece, position: Position) {
        let size = piece.size();
        let at = self.segments.partition_point(|kept| kept.segment < segment);
        match self.segments.get_mut(at).filter(|kept| kept.segment == segment) {
            Some(kept) => {
                kept.recorded = kept.recorded.min(position);
                let place = kept.pieces.partition_point(|other| other.from.sequence < piece.from.sequence);
                if kept.pieces.get(place).is_some_and(|other| other.from.sequence == piece.from.sequence) {
                    return;
                }
                kept.pieces.insert(place, piece);
            }
            None => self.segments.insert(at, Kept { segment, pieces: vec![piece], recorded: position }),
        }
        self.bytes += size;
    }

    /// The offset behind the last message in a segment.
    pub(super) fn end(&self) -> u64 {
        self.segments.back().map_or(0, |kept| kept.last().to.sequence)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn segments_len(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of the youngest segment.
    pub(super) fn last_size(&self) -> u64 {
        self.segments.back().map_or(0, |kept| kept.last().to.offset)
    }

    pub(super) fn oldest(&self) -> Option<Oldest> {
        let kept = self.segments.front()?;
        let Piece { to, last_ms, .. } = kept.last();
        Some(Oldest { segment: kept.segment, end: to.sequence, last_ms: *last_ms })
    }

    pub(super) fn drop_oldest(&mut self) {
        if let Some(kept) = self.segments.pop_front() {
            self.bytes -= kept.pieces.iter().map(Piece::size).sum::<u64>();
        }
    }

    pub(super) fn drop_below(&mut self, start: u64) {
        while self.segments.front().is_some_and(|kept| kept.last().to.sequence <= start) {
            self.drop_oldest();
        }
    }

    /// The piece that holds an offset, and the rest of its segment from the beginning of that piece on.
    pub(super) fn find(&self, offset: u64) -> Option<(Extent, &Piece)> {
        let after = self.segments.partition_point(|kept| kept.first() <= offset);
        let kept = self.segments.get(after.checked_sub(1)?)?;
        let after = kept.pieces.partition_point(|piece| piece.from.sequence <= offset);
        let piece = kept.pieces.get(after.checked_sub(1)?).filter(|piece| offset < piece.to.sequence)?;
        let mut from = piece.from;
        from.sequence = offset;
        Some((Extent { segment: kept.segment, from, to: kept.last().to }, piece))
    }

    /// The first offset above this one that a piece begins with.
    pub(super) fn next_above(&self, offset: u64) -> Option<u64> {
        let firsts =
            self.segments.iter().flat_map(|kept| kept.pieces.iter().map(|piece| piece.from.sequence));
        firsts.filter(|first| *first > offset).min()
    }

    /// The first piece with messages that were not written before a time.
    pub(super) fn since(&self, time_ms: u64) -> Option<&Piece> {
        let at = self.segments.partition_point(|kept| kept.last().last_ms < time_ms);
        let kept = self.segments.get(at)?;
        kept.pieces.get(kept.pieces.partition_point(|piece| piece.last_ms < time_ms))
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().map(|kept| kept.segment)
    }

    pub(super) fn recorded_before(&self, end: Position) -> Vec<(Segment, Vec<Piece>)> {
        let old = self.segments.iter().filter(|kept| kept.recorded < end);
        old.map(|kept| (kept.segment, kept.pieces.clone())).collect()
    }

    pub(super) fn recorded_anew(&mut self, segment: Segment, position: Position) {
        let at = self.segments.partition_point(|kept| kept.segment < segment);
        if let Some(kept) = self.segments.get_mut(at).filter(|kept| kept.segment == segment) {
            kept.recorded = position;
        }
    }

    pub(super) fn check(&self, start: u64) {
        let (mut end, mut bytes) = (0, 0);
        for kept in &self.segments {
            for piece in &kept.pieces {
                assert!(
                    piece.from.sequence >= end && piece.from.sequence < piece.to.sequence,
                    "pieces ascend"
                );
                assert!(piece.first_ms <= piece.last_ms, "times ascend");
                end = piece.to.sequence;
                bytes += piece.size();
            }
            assert!(end > start, "a segment of which nothing is wanted has gone");
        }
        assert_eq!(self.bytes, bytes, "bytes of all pieces");
    }
}
