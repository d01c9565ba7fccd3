//! What the log holds of a stream beside its messages, which stand in the records that queues have, too.
//!
//! ```text
//! Stamped  | stream u64 | (first u64, time u64) x n
//! Appended | stream u64 | segment: number u64, incarnation u64 | pieces
//! Bounds   | stream u64 | start u64 | next u64 | time u64
//! Tracked  | stream u64 | (name: size u8, UTF-8 | offset u64) x n
//!
//! piece    | from: offset u64, sequence u64 | to: offset u64, sequence u64 | first time u64 | last time u64
//!          | unfiltered u8 | size u8, bloom filter |
//! ```
//!
//! Integers are big-endian, times are milliseconds since 1970. All are version 1. A size of 0 is no message with a filter
//! value; `unfiltered` is 1 when there is one without.

use crate::id::QueueId;
use crate::page::{Place, Segment};
use crate::record::{Log, Position, take_numbers};

use super::filter::Marks;

/// Kind of [`Record::Stamped`] in the log.
pub const STAMPED: u8 = 32;
/// Kind of [`Record::Appended`] in the log.
pub const APPENDED: u8 = 33;
/// Kind of [`Record::Bounds`] in the log.
pub const BOUNDS: u8 = 34;
/// Kind of [`Record::Tracked`] in the log.
pub const TRACKED: u8 = 35;

/// One record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Messages from an offset on were written at a time.
    Stamped {
        /// The stream.
        stream: QueueId,
        /// Offset and time.
        stamps: Vec<(u64, u64)>,
    },
    /// Messages are durable in a segment: what earlier records hold of them does not matter any more.
    Appended {
        /// The stream.
        stream: QueueId,
        /// Where.
        segment: Segment,
        /// What of it.
        pieces: Vec<Piece>,
    },
    /// Where a stream begins and ends. What is below the start is gone for good.
    Bounds {
        /// The stream.
        stream: QueueId,
        /// Begin and end.
        bounds: Bounds,
    },
    /// Readers have settled everything below an offset.
    Tracked {
        /// The stream.
        stream: QueueId,
        /// Names and offsets.
        offsets: Vec<(Box<str>, u64)>,
    },
}

/// Where a stream begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that is kept.
    pub start: u64,
    /// The next that is given out.
    pub next: u64,
    /// When the last message was written.
    pub time_ms: u64,
}

/// A part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub from: Place,
    /// Where it ends.
    pub to: Place,
    /// When its first message was written.
    pub first_ms: u64,
    /// When its last message was.
    pub last_ms: u64,
    /// Which filter values may be in it.
    pub marks: Marks,
}

/// What the log must go on to know of a stream when it is shortened.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) bounds: Bounds,
    pub(crate) stamps: Vec<(u64, u64)>,
    pub(crate) tracked: Vec<(Box<str>, u64)>,
}

impl Piece {
    /// Bytes in the segment.
    pub fn size(&self) -> u64 {
        self.to.offset.saturating_sub(self.from.offset)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let Piece { from, to, first_ms, last_ms, marks } = self;
        put_all(out, [from.offset, from.sequence, to.offset, to.sequence, *first_ms, *last_ms]);
        out.push(u8::from(marks.unfiltered));
        out.push(u8::try_from(marks.bloom.len()).expect("a filter has at most 255 bytes"));
        out.extend_from_slice(&marks.bloom);
    }

    fn take(bytes: &[u8]) -> Option<(Piece, &[u8])> {
        let (numbers, rest) = take_numbers::<6>(bytes)?;
        let [from_offset, from_sequence, to_offset, to_sequence, first_ms, last_ms] = numbers;
        let ([unfiltered, size], rest) = rest.split_first_chunk()?;
        let (bloom, rest) = rest.split_at_checked(usize::from(*size))?;
        let piece = Piece {
            from: Place { offset: from_offset, sequence: from_sequence },
            to: Place { offset: to_offset, sequence: to_sequence },
            first_ms,
            last_ms,
            marks: Marks { unfiltered: *unfiltered != 0, bloom: bloom.into() },
        };
        let ascends = from_sequence < to_sequence && from_offset < to_offset && first_ms <= last_ms;
        ascends.then_some((piece, rest))
    }
}

/// Writes [`Record::Stamped`] without building it.
pub fn append_stamped(log: &mut impl Log, stream: QueueId, stamps: &[(u64, u64)]) -> Position {
    let mut out = Vec::with_capacity(8 + 16 * stamps.len());
    put_all(&mut out, [stream.0]);
    stamps.iter().for_each(|(first, time)| put_all(&mut out, [*first, *time]));
    log.append(STAMPED, &[&out])
}

/// Writes [`Record::Appended`] without building it.
pub fn append_appended(log: &mut impl Log, stream: QueueId, segment: Segment, pieces: &[Piece]) -> Position {
    let mut out = Vec::new();
    put_all(&mut out, [stream.0, segment.number, segment.incarnation]);
    pieces.iter().for_each(|piece| piece.put(&mut out));
    log.append(APPENDED, &[&out])
}

/// Writes [`Record::Bounds`] without building it.
pub fn append_bounds(log: &mut impl Log, stream: QueueId, bounds: Bounds) -> Position {
    let mut out = Vec::new();
    put_all(&mut out, [stream.0, bounds.start, bounds.next, bounds.time_ms]);
    log.append(BOUNDS, &[&out])
}

/// Writes [`Record::Tracked`] without building it.
pub fn append_tracked(log: &mut impl Log, stream: QueueId, offsets: &[(Box<str>, u64)]) -> Position {
    let mut out = Vec::new();
    put_all(&mut out, [stream.0]);
    for (name, offset) in offsets {
        out.push(u8::try_from(name.len()).expect("a name is a consumer tag, at most 255 bytes"));
        out.extend_from_slice(name.as_bytes());
        put_all(&mut out, [*offset]);
    }
    log.append(TRACKED, &[&out])
}

impl Record {
    /// Reads a record of version 1. `None`: the kind is not one of this module, or the payload does not fit.
    pub fn decode(kind: u8, payload: &[u8]) -> Option<Record> {
        match kind {
            STAMPED => {
                let ([stream], mut rest) = take_numbers(payload)?;
                let mut stamps = Vec::new();
                while !rest.is_empty() {
                    let ([first, time], after) = take_numbers(rest)?;
                    stamps.push((first, time));
                    rest = after;
                }
                Some(Record::Stamped { stream: QueueId(stream), stamps })
            }
            APPENDED => {
                let ([stream, number, incarnation], mut rest) = take_numbers(payload)?;
                let mut pieces = Vec::new();
                while !rest.is_empty() {
                    let (piece, after) = Piece::take(rest)?;
                    pieces.push(piece);
                    rest = after;
                }
                Some(Record::Appended {
                    stream: QueueId(stream),
                    segment: Segment { number, incarnation },
                    pieces,
                })
            }
            BOUNDS => {
                let ([stream, start, next, time_ms], rest) = take_numbers(payload)?;
                let fits = rest.is_empty() && start <= next;
                fits.then_some(Record::Bounds {
                    stream: QueueId(stream),
                    bounds: Bounds { start, next, time_ms },
                })
            }
            TRACKED => {
                let ([stream], mut rest) = take_numbers(payload)?;
                let mut offsets = Vec::new();
                while let Some((size, after)) = rest.split_first() {
                    let (name, after) = after.split_at_checked(usize::from(*size))?;
                    let ([offset], after) = take_numbers(after)?;
                    offsets.push((str::from_utf8(name).ok()?.into(), offset));
                    rest = after;
                }
                Some(Record::Tracked { stream: QueueId(stream), offsets })
            }
            _ => None,
        }
    }
}

fn put_all<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    struct Lines(Vec<(u8, Vec<u8>)>);

    impl Log for Lines {
        fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
            self.0.push((kind, payload.concat()));
            self.0.len() as u64
        }
    }

    fn written() -> Vec<(u8, Vec<u8>)> {
        let mut log = Lines(Vec::new());
        append_stamped(&mut log, QueueId(7), &[(3, 1000), (5, 1001)]);
        let piece = Piece {
            from: Place { offset: 64, sequence: 3 },
            to: Place { offset: 900, sequence: 10 },
            first_ms: 1000,
            last_ms: 1002,
            marks: Marks { unfiltered: true, bloom: [0xab; 16].into() },
        };
        append_appended(&mut log, QueueId(7), Segment { number: 3, incarnation: 0xabcd }, &[piece]);
        append_bounds(&mut log, QueueId(7), Bounds { start: 3, next: 12, time_ms: 1002 });
        append_tracked(&mut log, QueueId(7), &[("one".into(), 4), ("".into(), 5)]);
        log.0
    }

    /// The format is fixed: a change here is a new version.
    #[test]
    fn golden_bytes() {
        let mut text = String::new();
        for (kind, payload) in written() {
            text += &format!("{kind}:");
            for byte in payload {
                text += &format!(" {byte:02x}");
            }
            text.push('\n');
        }
        expect![[r#"
            32: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 03 e8 00 00 00 00 00 00 00 05 00 00 00 00 00 00 03 e9
            33: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 ab cd 00 00 00 00 00 00 00 40 00 00 00 00 00 00 00 03 00 00 00 00 00 00 03 84 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 03 e8 00 00 00 00 00 00 03 ea 01 10 ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab
            34: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 0c 00 00 00 00 00 00 03 ea
            35: 00 00 00 00 00 00 00 07 03 6f 6e 65 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 00 05
        "#]].assert_eq(&text);
    }

    #[test]
    fn what_was_written_is_read() {
        let read: Vec<_> = written().iter().map(|(kind, payload)| Record::decode(*kind, payload)).collect();
        expect![[r#"[Some(Stamped { stream: QueueId(7), stamps: [(3, 1000), (5, 1001)] }), Some(Appended { stream: QueueId(7), segment: Segment { number: 3, incarnation: 43981 }, pieces: [Piece { from: Place { offset: 64, sequence: 3 }, to: Place { offset: 900, sequence: 10 }, first_ms: 1000, last_ms: 1002, marks: Marks { unfiltered: true, bloom: [171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171, 171] } }] }), Some(Bounds { stream: QueueId(7), bounds: Bounds { start: 3, next: 12, time_ms: 1002 } }), Some(Tracked { stream: QueueId(7), offsets: [("one", 4), ("", 5)] })]"#]].assert_eq(&format!("{read:?}"));
    }

    #[test]
    fn a_record_cut_anywhere_is_refused_or_says_less() {
        for (kind, payload) in written() {
            let whole = Record::decode(kind, &payload);
            for end in 0..payload.len() {
                let read = Record::decode(kind, &payload[..end]);
                assert!(read.is_none() || read != whole, "kind {kind} cut at {end}");
            }
        }
        assert_eq!(Record::decode(99, &[]), None);
    }
}
