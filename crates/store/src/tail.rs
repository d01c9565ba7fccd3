//! The end of a journal, in memory.

use crate::format::{self, Lsn, MARK_KIND, MARK_SIZE, PAYLOAD_SIZE_MAX, RECORD_HEADER_SIZE};

/// Buffers kept for the next rounds: one is filled while one is written and one is synced.
const SPARE_BUFFERS_MAX: usize = 3;
/// A buffer that grew larger than this (8 MiB) for one huge round is not kept.
const SPARE_BUFFER_SIZE_MAX: usize = 8 << 20;

/// Records that were appended and not yet handed to the disk. Pure; its owner is the shard's task.
///
/// [`append`](Tail::append) as many as there are, then [`take`](Tail::take) them as one [`Round`] for
/// [`Files::write`](crate::Files::write) and [`Files::sync`](crate::Files::sync). When the sync answers, tell
/// the tail with [`synced`](Tail::synced) and return the buffer with [`give_back`](Tail::give_back).
/// A record is durable once its lsn is below what the sync returned.
#[derive(Debug)]
pub struct Tail {
    /// Where `buffer[0]` will stand.
    first: Lsn,
    /// Empty, or room for a mark and then whole records.
    buffer: Vec<u8>,
    /// Everything below is durable; never above `first`.
    synced: Lsn,
    spare: Vec<Vec<u8>>,
}

/// What was appended between two [`Tail::take`]s: one write.
#[derive(Debug)]
pub struct Round {
    first: Lsn,
    /// The records, then [`RECORD_HEADER_SIZE`] zeros.
    bytes: Vec<u8>,
}

impl Tail {
    /// A tail that goes on at [`Recovered::next`](crate::Recovered::next), below which all is durable.
    pub fn new(next: Lsn) -> Tail {
        Tail { first: next, buffer: Vec::new(), synced: next, spare: Vec::new() }
    }

    /// Appends a record of `kind` (from 1) whose payload is `payload_parts`, one after the other; returns
    /// where it stands. Copies every byte once.
    ///
    /// # Panics
    /// When `kind` is 0, which is this crate's own, or the payload exceeds [`PAYLOAD_SIZE_MAX`].
    pub fn append(&mut self, kind: u8, payload_parts: &[&[u8]]) -> Lsn {
        assert_ne!(kind, MARK_KIND, "kind 0 is the journal's own");
        let size: usize = payload_parts.iter().map(|part| part.len()).sum();
        assert!(
            size <= PAYLOAD_SIZE_MAX,
            "a payload of {size} bytes; at most {PAYLOAD_SIZE_MAX} fit a record"
        );
        self.leave_room_for_mark();
        let at = self.buffer.len();
        // The zeros that end a round need no growth of their own then.
        self.buffer.reserve(size + 2 * RECORD_HEADER_SIZE);
        format::open_record(&mut self.buffer, kind, size);
        for part in payload_parts {
            self.buffer.extend_from_slice(part);
        }
        let lsn = self.first.plus(at);
        format::seal(&mut self.buffer[at..], lsn);
        lsn
    }

    /// The end of what was appended: everything so far lies below, every later record at or above.
    pub fn next_lsn(&self) -> Lsn {
        self.first.plus(self.buffer.len())
    }

    /// Bytes that wait for [`take`](Tail::take).
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Takes what was appended, perhaps nothing, as one round.
    pub fn take(&mut self) -> Round {
        let next = self.spare.pop().unwrap_or_default();
        let mut bytes = std::mem::replace(&mut self.buffer, next);
        let first = self.first;
        self.first = first.plus(bytes.len());
        if !bytes.is_empty() {
            // Filled in now and not at the first append: the later, the more is known to be synced.
            bytes[..MARK_SIZE].copy_from_slice(&format::mark(first, self.synced));
            bytes.extend_from_slice(&[0; RECORD_HEADER_SIZE]);
        }
        Round { first, bytes }
    }

    /// Takes a round even if nothing was appended: a mark alone. A recovery can tell damage from a torn tail
    /// only below the newest mark, so write one when a journal falls idle and when the broker stops.
    pub fn take_mark(&mut self) -> Round {
        self.leave_room_for_mark();
        self.take()
    }

    /// Everything below `lsn` is durable; what [`Files::sync`](crate::Files::sync) returned.
    pub fn synced(&mut self, lsn: Lsn) {
        assert!(lsn <= self.first, "synced up to {lsn}, but only bytes below {} were taken", self.first);
        self.synced = self.synced.max(lsn);
    }

    /// Recycles the buffer of a round that was written.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_SIZE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Gives the buffers back to the system: nothing comes for a while.
    pub fn rest(&mut self) {
        self.spare.clear();
        self.spare.shrink_to_fit();
        self.buffer.shrink_to_fit();
    }

    fn leave_room_for_mark(&mut self) {
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&[0; MARK_SIZE]);
        }
    }
}

impl Round {
    /// Where its first byte stands.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The lsn of the byte after its last record.
    pub fn end(&self) -> Lsn {
        self.first.plus(self.bytes.len().saturating_sub(RECORD_HEADER_SIZE))
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What goes to the disk: the records and the zeros after them, which tell a reader of a recycled file
    /// that nothing follows. The next round overwrites the zeros.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffer, for [`Tail::give_back`].
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
