//! What a shard keeps on a disk, behind a small [`Disk`] seam: its journal, append-only files of checked
//! records; and the [`segment`]s, which hold the backlog of its queues.
//!
//! ```text
//!   shard task                     journal thread                      disk
//!   Tail::append × n ─┐
//!   Tail::take ───────┴─ Round ──▶ Files::write, Files::sync ──▶ <base lsn>.journal
//!   Tail::synced  ◀────── Lsn ────┘ everything below it is durable
//! ```
//!
//! [`Tail`] is the half in memory and does no I/O; [`Files`] is the half that waits for the disk. What a
//! record means is its owner's business: this crate gives bytes back in order, says which are damaged, and
//! never returns a byte that was not appended at that very position. It starts no thread, reads no clock and
//! takes no lock on the directory (its owner does, once for all journals).

mod error;
mod format;
mod header;
mod tail;

mod files;
mod recovery;
mod scan;

pub mod segment;

mod disk;
mod real;
pub mod sim;

pub mod dump;
pub mod testing;

pub use disk::{Disk, File};
pub use error::{Error, Kind, Result};
pub use files::{Files, Options};
pub use format::{FORMAT_VERSION, Lsn, PAYLOAD_SIZE_MAX, RECORD_HEADER_SIZE, RECORD_VERSION, Record};
pub use real::RealDisk;
pub use recovery::{Damage, Recovered, Torn, read};
pub use tail::{Round, Tail};

/// The checksum that all files of this crate use: CRC-32C.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests;
