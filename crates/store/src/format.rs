//! The bytes of a journal file. Integers are little endian; version 1 has the fixture `fixtures/v1.journal`.
//!
//! ```text
//! file     header (64 bytes) | record | record | … | zeros, or stale bytes of a recycled file
//!
//! header    0        4        6        8        12       16              24              32
//!          ┌────────┬────────┬────────┬────────┬────────┬───────────────┬───────────────┐
//!          │ "LEVJ" │ format │ 0      │ journal│ 0      │ base          │ previous      │
//!          │ 4 B    │ u16    │ u16    │ u32    │ u32    │ u64           │ u64           │
//!          ├────────┴────────┴────────┼────────┴────────┴───────────┬───┴───┬───────────┘
//!       32 │ previous end  u64        │ zeros, 20 B                 │ crc   │ u32 at 60, of bytes 0..60
//!          └──────────────────────────┴─────────────────────────────┴───────┘
//!
//! record   0        4        8      9         10         12
//!          ┌────────┬────────┬──────┬─────────┬──────────┬──────────────┐
//!          │ crc    │ length │ kind │ version │ reserved │ payload      │
//!          │ u32    │ u32    │ u8   │ u8      │ u16 = 0  │ length bytes │
//!          └────────┴────────┴──────┴─────────┴──────────┴──────────────┘
//!            crc = CRC-32C of (lsn of the record as u64, the record from `length` to its end)
//!
//! mark     a record of kind 0 whose payload is one u64: the lsn below which everything was synced
//! ```
//!
//! * `base` is the lsn of the byte after the header and also the file's name; a record's place in the file is
//!   `64 + (lsn - base)`. No two files of a journal ever have the same base, so the bytes of a recycled file,
//!   a torn tail or a misplaced block stand at another lsn than they were written for and do not validate.
//! * `previous` and `previous end` say which file came before (its base) and where its records end. They are
//!   written after that file was synced, which proves that everything below was durable, and that whatever
//!   stands in that file beyond is dead. The first file of a journal names itself.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

use crate::header::{self, FILE_HEADER_SIZE, HeaderRead};

/// The version of the file format that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// The version of the payloads that this crate's [`Tail`](crate::Tail) writes; a recovery hands it out.
pub const RECORD_VERSION: u8 = 1;
/// Bytes in front of every payload.
pub const RECORD_HEADER_SIZE: usize = 12;
/// The longest payload of a record, in bytes (1 GiB). Whoever accepts messages checks sizes long before.
pub const PAYLOAD_SIZE_MAX: usize = 1 << 30;

pub(crate) const MARK_KIND: u8 = 0;
pub(crate) const MARK_SIZE: usize = RECORD_HEADER_SIZE + MARK_PAYLOAD_SIZE;
const MARK_PAYLOAD_SIZE: usize = 8;
const MAGIC: [u8; 4] = *b"LEVJ";

/// Log sequence number: the position of a byte in a journal. Grows, has gaps where the broker restarted, and
/// no record is ever written at the position of another. Say how much is on the disk with
/// [`Files::size`](crate::Files::size), not with a difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Where a new journal begins.
    pub const ZERO: Lsn = Lsn(0);

    /// The position `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Lsn {
        Lsn(self.0 + bytes as u64)
    }

    /// Bytes from `base` to here; this must not lie below `base`.
    pub(crate) fn since(self, base: Lsn) -> usize {
        let distance = self.0.checked_sub(base.0).expect("callers compare positions before they subtract");
        usize::try_from(distance).expect("a file is smaller than the address space")
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A valid record as a recovery found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where its first byte stands: what [`Tail::append`](crate::Tail::append) returned.
    pub lsn: Lsn,
    /// What it is, from 1; its owner's business.
    pub kind: u8,
    /// The version of the payload's format.
    pub version: u8,
    /// What was appended, all parts in one.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// The lsn of the byte after it.
    pub fn end(&self) -> Lsn {
        self.lsn.plus(RECORD_HEADER_SIZE + self.payload.len())
    }

    /// What a mark says; `None` for any other record.
    pub(crate) fn mark(&self) -> Option<Lsn> {
        let payload = self.payload.try_into().ok()?;
        (self.kind == MARK_KIND).then(|| Lsn(u64::from_le_bytes(payload)))
    }
}

/// Appends a record's header to `buffer`, its checksum still to be [`seal`]ed.
pub(crate) fn open_record(buffer: &mut Vec<u8>, kind: u8, payload_len: usize) {
    let length = u32::try_from(payload_len).expect("Tail::append asserts PAYLOAD_SIZE_MAX");
    let mut header = [0; RECORD_HEADER_SIZE];
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8] = kind;
    header[9] = RECORD_VERSION;
    buffer.extend_from_slice(&header);
}

/// Writes the checksum into `record`, which is complete and stands at `lsn`.
pub(crate) fn seal(record: &mut [u8], lsn: Lsn) {
    let checksum = checksum(lsn, &record[4..]);
    record[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// A mark that says that everything below `synced` is durable, to stand at `lsn`.
pub(crate) fn mark(lsn: Lsn, synced: Lsn) -> [u8; MARK_SIZE] {
    let mut record = Vec::with_capacity(MARK_SIZE);
    open_record(&mut record, MARK_KIND, MARK_PAYLOAD_SIZE);
    record.extend_from_slice(&synced.0.to_le_bytes());
    seal(&mut record, lsn);
    record.try_into().expect("a mark has one size")
}

/// The checksum of a record at `lsn` whose bytes after the checksum are `covered`.
fn checksum(lsn: Lsn, covered: &[u8]) -> u32 {
    const TINY: usize = 128;
    let lsn = lsn.0.to_le_bytes();
    let size = lsn.len() + covered.len();
    if size <= TINY {
        // One call on one slice: setting up a digest costs more than copying so little.
        let mut bytes = [0; TINY];
        bytes[..lsn.len()].copy_from_slice(&lsn);
        bytes[lsn.len()..size].copy_from_slice(covered);
        return crc32_iscsi(&bytes[..size]);
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&lsn);
    digest.update(covered);
    u32::try_from(digest.finalize()).expect("CRC-32C has 32 bits")
}

/// The record that begins at `at` in `bytes`, if there is a valid one. `base` is the lsn of `bytes[0]`.
pub(crate) fn record_at(bytes: &[u8], at: usize, base: Lsn) -> Option<Record<'_>> {
    let size = plausible_size(bytes, at)?;
    let record = &bytes[at..at + size];
    let expected = u32::from_le_bytes(record[..4].try_into().ok()?);
    let lsn = base.plus(at);
    if checksum(lsn, &record[4..]) != expected {
        return None;
    }
    Some(Record { lsn, kind: record[8], version: record[9], payload: &record[RECORD_HEADER_SIZE..] })
}

/// The size of the record at `at` if its header can be one and it ends within `bytes`. Zeros cannot: they
/// would be a mark without a payload.
pub(crate) fn plausible_size(bytes: &[u8], at: usize) -> Option<usize> {
    let header = bytes.get(at..)?.first_chunk::<RECORD_HEADER_SIZE>()?;
    let [_, _, _, _, l0, l1, l2, l3, kind, _, r0, r1] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    let fits = length <= PAYLOAD_SIZE_MAX && length <= bytes.len() - at - RECORD_HEADER_SIZE;
    let mark_fits = kind != MARK_KIND || length == MARK_PAYLOAD_SIZE;
    (fits && mark_fits && r0 == 0 && r1 == 0).then_some(RECORD_HEADER_SIZE + length)
}

/// The first 64 bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// Which of the node's journals the file belongs to.
    pub(crate) journal: u32,
    /// The lsn of the byte after this header.
    pub(crate) base: Lsn,
    /// The file before this one, by its base.
    pub(crate) previous: Lsn,
    /// Where the records of the file before end.
    pub(crate) previous_end: Lsn,
}

impl FileHeader {
    /// The header as it stands on the disk.
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_SIZE] {
        header::encode(MAGIC, FORMAT_VERSION, |bytes| {
            bytes[8..12].copy_from_slice(&self.journal.to_le_bytes());
            bytes[16..24].copy_from_slice(&self.base.0.to_le_bytes());
            bytes[24..32].copy_from_slice(&self.previous.0.to_le_bytes());
            bytes[32..40].copy_from_slice(&self.previous_end.0.to_le_bytes());
        })
    }

    /// See [`header::decode`].
    pub(crate) fn decode(bytes: &[u8]) -> HeaderRead<FileHeader> {
        header::decode(bytes, MAGIC, FORMAT_VERSION, |bytes| {
            let lsn = |at: usize| Lsn(u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i])));
            let journal = u32::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
            FileHeader { journal, base: lsn(16), previous: lsn(24), previous_end: lsn(32) }
        })
    }
}

/// The name of the file whose records begin at `base`: 20 digits, so that names sort as positions do.
pub(crate) fn file_name(base: Lsn) -> String {
    format!("{base:020}.journal")
}

/// The base in a file's name; `None` for the name of anything else.
pub(crate) fn base_of(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(".journal").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok().map(Lsn))?
}
