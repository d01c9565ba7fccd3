//! What a message shard writes to its log, and the seam behind which the log stands.
//!
//! ```text
//! Enqueue   | count u16 | (queue u64, first u64) x count | messages, see message.rs   |
//! Settle    | queue u64 | (first u64, count u32) x n                                  |
//! Delivered | queue u64 | last u64                                                    |
//! Spilled   | queue u64 | segment: number u64, incarnation u64 | from: offset u64, sequence u64 |
//!           | to: offset u64, sequence u64 | (first u64, count u32) x n                |
//! Arrived   | queue u64 | (first u64, milliseconds since 1970 u64) x n                 |
//! Returned  | queue u64 | returns u16 | (first u64, count u32) x n                     |
//! Once      | queue u64 | first u64 | count u16 | seen x count | messages             |
//! Seen      | queue u64 | seen x n                                                    |
//!
//! seen      | number u64 | window u64 | id, 16 bytes | until u64, milliseconds since 1970 |
//! ```
//!
//! Integers are big-endian. All are version 1. Kinds from 32 on are of [streams](crate::stream::record); 16 is the
//! [meta shard's](crate::meta::KIND). A sequence number counts the messages of one queue; those of an Enqueue follow each
//! other in each of its queues.

use bytes::Bytes;

use crate::id::QueueId;
use crate::message::Messages;
use crate::page::{Extent, Place, Segment};
use crate::queue::{Mark, Seen};
use crate::stream;

/// A place in the log, in bytes since its beginning; grows, and is never given out twice.
pub type Position = u64;

/// Where records go. One node, a quorum or an available queue differ only in what is behind this.
pub trait Log {
    /// Adds a record whose payload is the concatenation of `payload`; returns its position.
    /// It is committed when the log says that everything below some later position is.
    fn append(&mut self, kind: u8, payload: &[&[u8]]) -> Position;
}

/// Version of all records of this module.
pub const VERSION: u8 = 1;

/// Messages of a queue: `count` of them, at least one, from sequence number `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First sequence number.
    pub first: u64,
    /// How many follow each other.
    pub count: u32,
}

/// One record of a message shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Messages entered queues.
    Enqueue {
        /// Queue, and sequence number of the first message there.
        targets: Vec<(QueueId, u64)>,
        /// The messages.
        messages: Messages,
    },
    /// Messages left a queue for good.
    Settle {
        /// The queue.
        queue: QueueId,
        /// Which messages.
        spans: Vec<Span>,
    },
    /// Messages up to `last` may have been given to a consumer: should they come back, they are redelivered.
    Delivered {
        /// The queue.
        queue: QueueId,
        /// Highest sequence number given out.
        last: u64,
    },
    /// Messages are durable in a segment: what earlier records hold of them does not matter any more.
    Spilled {
        /// The queue.
        queue: QueueId,
        /// Where in which segment.
        extent: Extent,
        /// Which messages; others there do not survive.
        spans: Vec<Span>,
    },
    /// When messages arrived.
    Arrived {
        /// The queue.
        queue: QueueId,
        /// From which number on when.
        marks: Vec<Mark>,
    },
    /// Messages were given back.
    Returned {
        /// The queue.
        queue: QueueId,
        /// How often, by now.
        returns: u16,
        /// Which.
        spans: Vec<Span>,
    },
    /// Messages entered one queue, which takes no copy of them.
    Once {
        /// The queue.
        queue: QueueId,
        /// Sequence number of the first message.
        first: u64,
        /// What is remembered of them.
        seen: Vec<Seen>,
        /// The messages.
        messages: Messages,
    },
    /// What is remembered of messages, most of which are gone.
    Seen {
        /// The queue.
        queue: QueueId,
        /// What.
        seen: Vec<Seen>,
    },
    /// Of a stream.
    Stream(stream::record::Record),
}

/// Kind of [`Record::Enqueue`] in the log.
pub const ENQUEUE: u8 = 1;
/// Kind of [`Record::Settle`] in the log.
pub const SETTLE: u8 = 2;
/// Kind of [`Record::Delivered`] in the log.
pub const DELIVERED: u8 = 3;
/// Kind of [`Record::Spilled`] in the log.
pub const SPILLED: u8 = 4;
/// Kind of [`Record::Arrived`] in the log.
pub const ARRIVED: u8 = 5;
/// Kind of [`Record::Returned`] in the log.
pub const RETURNED: u8 = 6;
/// Kind of [`Record::Once`] in the log.
pub const ONCE: u8 = 7;
/// Kind of [`Record::Seen`] in the log.
pub const SEEN: u8 = 8;

/// Messages of which one record may say what is remembered.
pub(crate) const RECORD_SEEN_MAX: usize = 100;

/// Bytes that what is remembered of a message takes in a record.
pub(crate) const SEEN_SIZE: usize = 40;

/// Writes [`Record::Enqueue`] without building it, for messages of which the first comes `nth` after the one with these
/// sequence numbers. `scratch` is reused from call to call.
pub fn append_enqueue(
    log: &mut impl Log,
    scratch: &mut Vec<u8>,
    targets: &[(QueueId, u64)],
    nth: u32,
    messages: &[u8],
) -> Position {
    let count = u16::try_from(targets.len()).expect("a shard splits wider fan-outs");
    scratch.clear();
    scratch.extend_from_slice(&count.to_be_bytes());
    for (queue, sequence) in targets {
        scratch.extend_from_slice(&queue.0.to_be_bytes());
        scratch.extend_from_slice(&(sequence + u64::from(nth)).to_be_bytes());
    }
    log.append(ENQUEUE, &[scratch, messages])
}

/// Spans that one record may name: what is damaged is lost as a record, and a queue that was settled in no order has
/// millions. More of them take several records.
pub const RECORD_SPANS_MAX: usize = 4096;

/// Writes [`Record::Settle`] without building it, several if there are many spans; the position of the last.
pub fn append_settle(log: &mut impl Log, scratch: &mut Vec<u8>, queue: QueueId, spans: &[Span]) -> Position {
    let mut last = 0;
    for spans in spans.chunks(RECORD_SPANS_MAX) {
        scratch.clear();
        scratch.extend_from_slice(&queue.0.to_be_bytes());
        put_spans(scratch, spans);
        last = log.append(SETTLE, &[scratch]);
    }
    last
}

/// Writes [`Record::Spilled`] without building it, several if there are many spans; the positions of the first and the
/// last.
///
/// Each stands there twice, since it speaks of thousands of messages: one that is damaged costs nothing.
pub fn append_spilled(
    log: &mut impl Log,
    scratch: &mut Vec<u8>,
    queue: QueueId,
    extent: &Extent,
    spans: &[Span],
) -> (Position, Position) {
    let Extent { segment, from, to } = extent;
    let places = [from.offset, from.sequence, to.offset, to.sequence];
    let mut ends: Option<(Position, Position)> = None;
    for at in (0..spans.len().max(1)).step_by(RECORD_SPANS_MAX) {
        scratch.clear();
        for number in [queue.0, segment.number, segment.incarnation].into_iter().chain(places) {
            scratch.extend_from_slice(&number.to_be_bytes());
        }
        put_spans(scratch, &spans[at..spans.len().min(at + RECORD_SPANS_MAX)]);
        let first = log.append(SPILLED, &[scratch]);
        let last = log.append(SPILLED, &[scratch]);
        ends = Some((ends.map_or(first, |(first, _)| first), last));
    }
    ends.expect("there is at least one record")
}

/// Writes [`Record::Arrived`] without building it.
pub fn append_arrived(log: &mut impl Log, scratch: &mut Vec<u8>, queue: QueueId, marks: &[Mark]) -> Position {
    scratch.clear();
    scratch.extend_from_slice(&queue.0.to_be_bytes());
    for mark in marks {
        scratch.extend_from_slice(&mark.first.to_be_bytes());
        scratch.extend_from_slice(&mark.ms.to_be_bytes());
    }
    log.append(ARRIVED, &[scratch])
}

/// Writes [`Record::Returned`] without building it.
pub fn append_returned(
    log: &mut impl Log,
    scratch: &mut Vec<u8>,
    queue: QueueId,
    returns: u16,
    spans: &[Span],
) -> Position {
    scratch.clear();
    scratch.extend_from_slice(&queue.0.to_be_bytes());
    scratch.extend_from_slice(&returns.to_be_bytes());
    put_spans(scratch, spans);
    log.append(RETURNED, &[scratch])
}

/// Writes [`Record::Once`] without building it.
pub fn append_once(
    log: &mut impl Log,
    scratch: &mut Vec<u8>,
    (queue, first): (QueueId, u64),
    seen: &[Seen],
    messages: &[u8],
) -> Position {
    let count = u16::try_from(seen.len()).expect("a record brings few messages");
    scratch.clear();
    scratch.extend_from_slice(&queue.0.to_be_bytes());
    scratch.extend_from_slice(&first.to_be_bytes());
    scratch.extend_from_slice(&count.to_be_bytes());
    put_seen(scratch, seen);
    log.append(ONCE, &[scratch, messages])
}

/// Writes [`Record::Seen`] without building it.
pub fn append_seen(log: &mut impl Log, scratch: &mut Vec<u8>, queue: QueueId, seen: &[Seen]) -> Position {
    scratch.clear();
    scratch.extend_from_slice(&queue.0.to_be_bytes());
    put_seen(scratch, seen);
    log.append(SEEN, &[scratch])
}

fn put_seen(out: &mut Vec<u8>, seen: &[Seen]) {
    for Seen { number, window, id, until } in seen {
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&window.to_be_bytes());
        out.extend_from_slice(id);
        out.extend_from_slice(&until.to_be_bytes());
    }
}

fn put_spans(out: &mut Vec<u8>, spans: &[Span]) {
    for span in spans {
        out.extend_from_slice(&span.first.to_be_bytes());
        out.extend_from_slice(&span.count.to_be_bytes());
    }
}

/// Writes [`Record::Delivered`] without building it.
pub fn append_delivered(log: &mut impl Log, queue: QueueId, last: u64) -> Position {
    log.append(DELIVERED, &[&queue.0.to_be_bytes(), &last.to_be_bytes()])
}

/// Bytes of payload that [`append_enqueue`] writes for `targets` queues beside the messages.
pub fn enqueue_overhead(targets: usize) -> usize {
    2 + 16 * targets
}

impl Record {
    /// Reads a record. `None`: the kind is not one of this module, the version is newer, or the payload does not fit.
    pub fn decode(kind: u8, version: u8, payload: &[u8]) -> Option<Record> {
        if version != VERSION {
            return None;
        }
        match kind {
            ENQUEUE => decode_enqueue(payload),
            SETTLE => decode_settle(payload),
            DELIVERED => {
                let (queue, rest) = take_u64(payload)?;
                let (last, rest) = take_u64(rest)?;
                rest.is_empty().then_some(Record::Delivered { queue: QueueId(queue), last })
            }
            SPILLED => decode_spilled(payload),
            ARRIVED => decode_arrived(payload),
            RETURNED => {
                let (queue, rest) = take_u64(payload)?;
                let (returns, rest) = rest.split_first_chunk()?;
                let returns = u16::from_be_bytes(*returns);
                Some(Record::Returned { queue: QueueId(queue), returns, spans: take_spans(rest)? })
            }
            ONCE => decode_once(payload),
            SEEN => {
                let (queue, rest) = take_u64(payload)?;
                let (seen, rest) = take_seen(rest, rest.len() / SEEN_SIZE)?;
                rest.is_empty().then_some(Record::Seen { queue: QueueId(queue), seen })
            }
            _ => stream::record::Record::decode(kind, payload).map(Record::Stream),
        }
    }
}

fn decode_enqueue(payload: &[u8]) -> Option<Record> {
    let (count, mut rest) = payload.split_first_chunk()?;
    let count = u16::from_be_bytes(*count);
    let mut targets = Vec::new();
    for _ in 0..count {
        let (queue, after) = take_u64(rest)?;
        let (sequence, after) = take_u64(after)?;
        targets.push((QueueId(queue), sequence));
        rest = after;
    }
    let messages = Messages::decode(Bytes::copy_from_slice(rest))?;
    Some(Record::Enqueue { targets, messages })
}

fn decode_settle(payload: &[u8]) -> Option<Record> {
    let (queue, rest) = take_u64(payload)?;
    Some(Record::Settle { queue: QueueId(queue), spans: take_spans(rest)? })
}

fn decode_spilled(payload: &[u8]) -> Option<Record> {
    let ([queue, number, incarnation, from_offset, from_sequence, to_offset, to_sequence], rest) =
        take_numbers(payload)?;
    let extent = Extent {
        segment: Segment { number, incarnation },
        from: Place { offset: from_offset, sequence: from_sequence },
        to: Place { offset: to_offset, sequence: to_sequence },
    };
    Some(Record::Spilled { queue: QueueId(queue), extent, spans: take_spans(rest)? })
}

fn decode_arrived(payload: &[u8]) -> Option<Record> {
    let (queue, mut rest) = take_u64(payload)?;
    let mut marks = Vec::new();
    while !rest.is_empty() {
        let (first, after) = take_u64(rest)?;
        let (ms, after) = take_u64(after)?;
        marks.push(Mark { first, ms });
        rest = after;
    }
    Some(Record::Arrived { queue: QueueId(queue), marks })
}

fn decode_once(payload: &[u8]) -> Option<Record> {
    let ([queue, first], rest) = take_numbers(payload)?;
    let (count, rest) = rest.split_first_chunk()?;
    let (seen, rest) = take_seen(rest, u16::from_be_bytes(*count).into())?;
    let messages = Messages::decode(Bytes::copy_from_slice(rest))?;
    Some(Record::Once { queue: QueueId(queue), first, seen, messages })
}

fn take_seen(mut rest: &[u8], count: usize) -> Option<(Vec<Seen>, &[u8])> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let ([number, window], after) = take_numbers(rest)?;
        let (id, after) = after.split_first_chunk()?;
        let (until, after) = take_u64(after)?;
        seen.push(Seen { number, window, id: *id, until });
        rest = after;
    }
    Some((seen, rest))
}

fn take_spans(mut rest: &[u8]) -> Option<Vec<Span>> {
    let mut spans = Vec::new();
    while !rest.is_empty() {
        let (first, after) = take_u64(rest)?;
        let (count, after) = after.split_first_chunk()?;
        let count = u32::from_be_bytes(*count);
        if count == 0 {
            return None;
        }
        spans.push(Span { first, count });
        rest = after;
    }
    Some(spans)
}

pub(crate) fn take_numbers<const N: usize>(mut bytes: &[u8]) -> Option<([u64; N], &[u8])> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        (*number, bytes) = take_u64(bytes)?;
    }
    Some((numbers, bytes))
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

impl Span {
    /// One message.
    pub fn one(sequence: u64) -> Span {
        Span { first: sequence, count: 1 }
    }

    /// The number after its last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count.into())
    }

    /// Adds a span that begins where this one ends; false when it does not.
    pub fn join(&mut self, next: Span) -> bool {
        match self.count.checked_add(next.count) {
            Some(count) if self.end() == next.first => {
                self.count = count;
                true
            }
            _ => false,
        }
    }
}

/// Sorts spans and joins those that touch.
pub fn tidy(spans: &mut Vec<Span>) {
    spans.sort_unstable_by_key(|span| span.first);
    spans.dedup_by(|next, span| span.join(*next));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;
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
        let mut scratch = Vec::new();
        let message = Parts { route: b"\0\x01q", properties: &[0, 0], body: b"hi" }.to_messages();
        let targets = [(QueueId(7), 1), (QueueId(9), 300)];
        append_enqueue(&mut log, &mut scratch, &targets, 0, message.as_bytes());
        let mut spans = [4, 1, 2, 9].map(Span::one).to_vec();
        tidy(&mut spans);
        append_settle(&mut log, &mut scratch, QueueId(7), &spans);
        append_delivered(&mut log, QueueId(7), 2);
        let (from, to) = (Place { offset: 64, sequence: 4 }, Place { offset: 900, sequence: 10 });
        let extent = Extent { segment: Segment { number: 3, incarnation: 0xabcd }, from, to };
        append_spilled(&mut log, &mut scratch, QueueId(7), &extent, &spans[1..]);
        let seen = [Seen { number: 9, window: 5, id: [6; 16], until: 1000 }];
        append_once(&mut log, &mut scratch, (QueueId(7), 9), &seen, message.as_bytes());
        append_seen(&mut log, &mut scratch, QueueId(7), &seen);
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
            1: 00 02 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00 00 00 00 01 2c 00 00 00 11 00 03 00 00 00 02 00 01 71 00 00 68 69
            2: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00 02 00 00 00 00 00 00 00 04 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00 01
            3: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 02
            4: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 ab cd 00 00 00 00 00 00 00 40 00 00 00 00 00 00 00 04 00 00 00 00 00 00 03 84 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 04 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00 01
            4: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 ab cd 00 00 00 00 00 00 00 40 00 00 00 00 00 00 00 04 00 00 00 00 00 00 03 84 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 04 00 00 00 01 00 00 00 00 00 00 00 09 00 00 00 01
            7: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 09 00 01 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00 05 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06 00 00 00 00 00 00 03 e8 00 00 00 11 00 03 00 00 00 02 00 01 71 00 00 68 69
            8: 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00 05 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06 06 00 00 00 00 00 00 03 e8
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn what_was_written_is_read() {
        let read: Vec<_> =
            written().iter().map(|(kind, payload)| Record::decode(*kind, VERSION, payload)).collect();
        expect![[r#"[Some(Enqueue { targets: [(QueueId(7), 1), (QueueId(9), 300)], messages: Messages { bytes: b"\0\0\0\x11\0\x03\0\0\0\x02\0\x01q\0\0hi", count: 1, buffer: 17 } }), Some(Settle { queue: QueueId(7), spans: [Span { first: 1, count: 2 }, Span { first: 4, count: 1 }, Span { first: 9, count: 1 }] }), Some(Delivered { queue: QueueId(7), last: 2 }), Some(Spilled { queue: QueueId(7), extent: Extent { segment: Segment { number: 3, incarnation: 43981 }, from: Place { offset: 64, sequence: 4 }, to: Place { offset: 900, sequence: 10 } }, spans: [Span { first: 4, count: 1 }, Span { first: 9, count: 1 }] }), Some(Spilled { queue: QueueId(7), extent: Extent { segment: Segment { number: 3, incarnation: 43981 }, from: Place { offset: 64, sequence: 4 }, to: Place { offset: 900, sequence: 10 } }, spans: [Span { first: 4, count: 1 }, Span { first: 9, count: 1 }] }), Some(Once { queue: QueueId(7), first: 9, seen: [Seen { number: 9, window: 5, id: [6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6], until: 1000 }], messages: Messages { bytes: b"\0\0\0\x11\0\x03\0\0\0\x02\0\x01q\0\0hi", count: 1, buffer: 17 } }), Some(Seen { queue: QueueId(7), seen: [Seen { number: 9, window: 5, id: [6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6], until: 1000 }] })]"#]]
        .assert_eq(&format!("{read:?}"));
    }

    #[test]
    fn many_spans_take_several_records() {
        let mut log = Lines(Vec::new());
        let mut scratch = Vec::new();
        let spans: Vec<Span> = (0..2 * RECORD_SPANS_MAX as u64 + 1).map(|at| Span::one(2 * at)).collect();
        append_settle(&mut log, &mut scratch, QueueId(7), &spans);
        let place = |offset| Place { offset, sequence: 0 };
        let segment = Segment { number: 3, incarnation: 1 };
        let extent = Extent { segment, from: place(64), to: place(900) };
        let ends = append_spilled(&mut log, &mut scratch, QueueId(7), &extent, &spans);
        assert_eq!((log.0.len(), ends), (9, (4, 9)));
        let (mut settled, mut spilled) = (Vec::new(), Vec::new());
        for (kind, payload) in &log.0 {
            match Record::decode(*kind, VERSION, payload) {
                Some(Record::Settle { spans, .. }) => settled.extend(spans),
                Some(Record::Spilled { spans, .. }) => spilled.extend(spans),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(settled, spans);
        tidy(&mut spilled);
        spilled.dedup();
        assert_eq!(spilled, spans);
    }

    #[test]
    fn a_record_cut_anywhere_is_refused_or_names_fewer_messages() {
        for (kind, payload) in written() {
            for end in 0..payload.len() {
                let read = Record::decode(kind, VERSION, &payload[..end]);
                let head = if kind == SPILLED { 56 } else { 8 };
                let size = match kind {
                    SETTLE | SPILLED => Some(12),
                    SEEN => Some(SEEN_SIZE),
                    _ => None,
                };
                let names_fewer = size.is_some_and(|size| end >= head && (end - head) % size == 0);
                assert_eq!(read.is_some(), names_fewer, "kind {kind} cut at {end}");
            }
        }
        assert_eq!(Record::decode(99, VERSION, &[]), None);
        assert_eq!(Record::decode(ENQUEUE, VERSION + 1, &written()[0].1), None);
    }
}
