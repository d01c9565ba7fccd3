//! The bytes of a segment. Integers are little endian; version 1 has the fixture `fixtures/v1.segment`.
//!
//! ```text
//! file     header (64 bytes) | block | block | … | perhaps bytes beyond the durable end, which nobody reads
//!
//! header   0        4        6        8             16             24              32          60
//!          ┌────────┬────────┬────────┬─────────────┬──────────────┬───────────────┬───────────┬───────┐
//!          │ "LEVS" │ format │ 0      │ queue       │ number       │ incarnation   │ zeros     │ crc   │
//!          │ 4 B    │ u16    │ u16    │ u64         │ u64          │ u64           │ 28 B      │ u32   │
//!          └────────┴────────┴────────┴─────────────┴──────────────┴───────────────┴───────────┴───────┘
//!            crc = CRC-32C of bytes 0..60
//!
//! block    0        4        8             16       20       24       28          32
//!          ┌────────┬────────┬─────────────┬────────┬────────┬────────┬───────────┬───────┬──────────┐
//!          │ "LEVB" │ crc    │ first       │ count  │ flags  │ length │ table crc │ table │ messages │
//!          │ 4 B    │ u32    │ u64         │ u32    │ u32    │ u32    │ u32       │ 8 B   │ length   │
//!          │        │        │             │        │        │        │           │ each  │ bytes    │
//!          └────────┴────────┴─────────────┴────────┴────────┴────────┴───────────┴───────┴──────────┘
//!            crc       = CRC-32C of (queue, number, incarnation, offset of the block, each u64; bytes 8..32)
//!            table crc = CRC-32C of the table
//!            table     = for each message: its length u32, CRC-32C of its bytes u32
//! ```
//!
//! * The messages of a block have the sequence numbers `first .. first + count`, and their bytes stand back to
//!   back. `length` is the sum of the lengths in the table.
//! * The checksums are a tree. The header of a block vouches for its place and for the table, the table for the
//!   messages. So whatever stands in a file or at an offset that it was not written for does not validate, and
//!   a flipped bit costs no more than what it hits: a message, or a block whose header or table it is in.
//! * The header of the file says nothing that the journal does not know. It is for people with a file in
//!   their hands, and to notice that a file is another's.

use crc_fast::crc32_iscsi;

use super::{Id, Name};
use crate::header::{self, FILE_HEADER_SIZE, HeaderRead};

/// The version of the segment format that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

pub(super) const BLOCK_HEADER_SIZE: usize = 32;
pub(super) const TABLE_ENTRY_SIZE: usize = 8;
const FILE_MAGIC: [u8; 4] = *b"LEVS";
pub(super) const BLOCK_MAGIC: [u8; 4] = *b"LEVB";

/// The first 64 bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) id: Id,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_SIZE] {
        header::encode(FILE_MAGIC, FORMAT_VERSION, |bytes| bytes[8..32].copy_from_slice(&identity(&self.id)))
    }

    /// See [`header::decode`].
    pub(crate) fn decode(bytes: &[u8]) -> HeaderRead<FileHeader> {
        header::decode(bytes, FILE_MAGIC, FORMAT_VERSION, |bytes| {
            let name = Name { queue: u64_at(bytes, 8), number: u64_at(bytes, 16) };
            FileHeader { id: Id { name, incarnation: u64_at(bytes, 24) } }
        })
    }
}

/// The first 32 bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// The sequence number of the first message.
    pub(super) first: u64,
    /// How many messages there are; not 0.
    pub(super) count: u32,
    /// The caller's business.
    pub(super) flags: u32,
    /// Bytes of all messages.
    pub(super) length: u32,
    pub(super) table_checksum: u32,
}

impl BlockHeader {
    /// The header as it stands at `offset` of the segment `id`.
    pub(super) fn encode(&self, id: &Id, offset: u64) -> [u8; BLOCK_HEADER_SIZE] {
        let mut bytes = [0; BLOCK_HEADER_SIZE];
        bytes[..4].copy_from_slice(&BLOCK_MAGIC);
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.flags.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..].copy_from_slice(&self.table_checksum.to_le_bytes());
        let checksum = checksum(id, offset, &bytes);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begin with, if it was written at `offset` of the segment `id`.
    pub(super) fn decode(bytes: &[u8], id: &Id, offset: u64) -> Option<BlockHeader> {
        let bytes = bytes.first_chunk::<BLOCK_HEADER_SIZE>()?;
        if bytes[..4] != BLOCK_MAGIC || u32_at(bytes, 4) != checksum(id, offset, bytes) {
            return None;
        }
        let header = BlockHeader {
            first: u64_at(bytes, 8),
            count: u32_at(bytes, 16),
            flags: u32_at(bytes, 20),
            length: u32_at(bytes, 24),
            table_checksum: u32_at(bytes, 28),
        };
        let numbered = header.first.checked_add(u64::from(header.count)).is_some();
        (header.count > 0 && numbered).then_some(header)
    }

    /// The sequence number after the last.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Bytes of the table.
    pub(super) fn table_size(&self) -> u64 {
        u64::from(self.count) * TABLE_ENTRY_SIZE as u64
    }

    /// Bytes of the whole block.
    pub(super) fn size(&self) -> u64 {
        BLOCK_HEADER_SIZE as u64 + self.table_size() + u64::from(self.length)
    }
}

/// What the table says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// Bytes of the message.
    pub(super) length: u32,
    pub(super) checksum: u32,
}

impl TableEntry {
    pub(super) fn of(message: &[u8]) -> TableEntry {
        let length = u32::try_from(message.len()).expect("a run's lengths are 32 bits wide");
        TableEntry { length, checksum: crc32_iscsi(message) }
    }

    pub(super) fn encode(self) -> [u8; TABLE_ENTRY_SIZE] {
        let ([l0, l1, l2, l3], [c0, c1, c2, c3]) = (self.length.to_le_bytes(), self.checksum.to_le_bytes());
        [l0, l1, l2, l3, c0, c1, c2, c3]
    }

    /// The entries of a table.
    pub(super) fn all(table: &[u8]) -> impl ExactSizeIterator<Item = TableEntry> {
        let (entries, _) = table.as_chunks::<TABLE_ENTRY_SIZE>();
        entries.iter().map(|[l0, l1, l2, l3, c0, c1, c2, c3]| TableEntry {
            length: u32::from_le_bytes([*l0, *l1, *l2, *l3]),
            checksum: u32::from_le_bytes([*c0, *c1, *c2, *c3]),
        })
    }

    pub(super) fn vouches_for(self, message: &[u8]) -> bool {
        crc32_iscsi(message) == self.checksum
    }
}

/// The checksum of a block's header at `offset` of the segment `id`.
fn checksum(id: &Id, offset: u64, header: &[u8; BLOCK_HEADER_SIZE]) -> u32 {
    // One call on one slice: setting up a digest costs more than copying so little.
    let mut covered = [0; 24 + 8 + 24];
    covered[..24].copy_from_slice(&identity(id));
    covered[24..32].copy_from_slice(&offset.to_le_bytes());
    covered[32..].copy_from_slice(&header[8..]);
    crc32_iscsi(&covered)
}

fn identity(id: &Id) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&id.name.queue.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.name.number.to_le_bytes());
    bytes[16..].copy_from_slice(&id.incarnation.to_le_bytes());
    bytes
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}
