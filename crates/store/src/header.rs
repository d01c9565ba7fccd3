//! What a file of this crate begins with: 64 bytes with a magic and a version in front, a checksum behind, and in
//! between what the kind of file says of itself.

use crc_fast::crc32_iscsi;

/// Bytes of a header.
pub(crate) const FILE_HEADER_SIZE: usize = 64;

/// Where the checksum stands; it covers what is in front of it.
const CHECKSUM_AT: usize = 60;

/// What the first bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderRead<H> {
    Valid(H),
    /// Whole, but in a format that this version does not know.
    Newer(u16),
    Damaged,
}

/// A header as it stands on the disk; `fill` writes what is the file's own, from byte 8 on.
pub(crate) fn encode(
    magic: [u8; 4],
    version: u16,
    fill: impl FnOnce(&mut [u8; FILE_HEADER_SIZE]),
) -> [u8; FILE_HEADER_SIZE] {
    let mut bytes = [0; FILE_HEADER_SIZE];
    bytes[..4].copy_from_slice(&magic);
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    fill(&mut bytes);
    let checksum = crc32_iscsi(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads the header of a file that begins with `bytes` (fewer than 64 are a damaged header).
pub(crate) fn decode<H>(
    bytes: &[u8],
    magic: [u8; 4],
    version: u16,
    read: impl FnOnce(&[u8; FILE_HEADER_SIZE]) -> H,
) -> HeaderRead<H> {
    let Some(bytes) = bytes.first_chunk::<FILE_HEADER_SIZE>() else {
        return HeaderRead::Damaged;
    };
    if bytes[..4] != magic || crc32_iscsi(&bytes[..CHECKSUM_AT]).to_le_bytes() != bytes[CHECKSUM_AT..] {
        return HeaderRead::Damaged;
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found == version { HeaderRead::Valid(read(bytes)) } else { HeaderRead::Newer(found) }
}
