//! The backlog of queues on a disk: messages that left memory, oldest first, in files of their own queue.
//!
//! ```text
//!   spilling thread                                           disk
//!   Writer::append(queue, runs) × n ─▶ one write ─▶ <queue>-<number>.segment
//!   Writer::sync ─▶ [Extent] ──────────▶ the caller's journal; only then are older records spare
//!
//!   Reader::read(from, to, window) ─▶ Chunk { runs, damages, next }   one read, messages are slices of it
//! ```
//!
//! A queue's segments have ascending sequence numbers, with holes where messages were settled before they were
//! moved. A segment is appended to in one life of the broker only: after a restart a queue goes on in a new
//! segment, and what stands in an old one beyond its durable end is never looked at. So nothing needs to be
//! opened or repaired at start, however many queues there are, and no byte that a power cut left behind can
//! come to stand behind new ones. The price is one short segment per queue and restart.
//!
//! All segments of a shard share one directory. A sync of a directory makes every new name in it durable,
//! so ten thousand queues that get their first segment cost one such sync; with a directory per queue it would
//! be twenty thousand, for the directories' own names must be durable too.
//!
//! What a message is does not matter here: bytes with a sequence number.

mod format;
mod reader;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::header::FILE_HEADER_SIZE;

pub use format::FORMAT_VERSION;
pub(crate) use format::FileHeader;
pub use reader::{Chunk, Reader, Run, verify};
pub use writer::{NewRun, Options, Writer};

/// What a segment's file is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The queue whose messages it holds.
    pub queue: u64,
    /// Grows with every segment of the directory, of whatever queue.
    pub number: u64,
}

/// Which segment this is, in which life of the broker: stands in the file and goes into each block's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// What its file is called after.
    pub name: Name,
    /// The life of the [`Writer`] that made it. Two files that ever had the same name differ in it.
    pub incarnation: u64,
}

/// A place between two blocks of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// Messages in front of this place have sequence numbers below, messages behind it do not. To begin reading
    /// in the middle of a block, give the block's offset and the first sequence number that is wanted.
    pub sequence: u64,
}

/// A part of a segment, or all of it: what its owner must remember to find the messages again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The segment.
    pub id: Id,
    /// Where it begins.
    pub from: Place,
    /// Where it ends.
    pub to: Place,
}

/// What is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The bytes, from the beginning of the file.
    pub offsets: Range<u64>,
    /// The messages that are lost, where the numbers are not settled ones that were never here. Empty when no
    /// message is lost.
    pub sequences: Range<u64>,
    /// What is wrong.
    pub why: String,
}

/// The segments whose files are in `dir`, by queue and number. Those that no journal names are leftovers of
/// a crash, for [`Writer::remove`].
pub fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<Name>> {
    let names = disk.list(dir).map_err(|error| Error::io("list", dir, &error))?;
    Ok(names.iter().filter_map(|name| Name::parse(name)).collect())
}

impl Name {
    /// The name of the file: 16 hexadecimal digits each, so that names sort by queue and then by age.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.segment", self.queue, self.number)
    }

    /// What a file of this name is called after; `None` for the name of anything else.
    pub fn parse(file_name: &str) -> Option<Name> {
        let (queue, number) = file_name.strip_suffix(".segment")?.split_once('-')?;
        let name = Name {
            queue: u64::from_str_radix(queue, 16).ok()?,
            number: u64::from_str_radix(number, 16).ok()?,
        };
        // One file has one name: no short form, no capitals, no sign.
        (name.file_name() == file_name).then_some(name)
    }
}

impl Extent {
    /// Whether it begins where the file does: nothing was appended before.
    pub fn begins_file(&self) -> bool {
        self.from.offset == FILE_HEADER_SIZE as u64
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} of queue {}", self.number, self.queue)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in incarnation {:#x}", self.name, self.incarnation)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { offsets, sequences, why } = self;
        write!(f, "bytes {} up to {}: {why}; ", offsets.start, offsets.end)?;
        match sequences.is_empty() {
            true => f.write_str("no message is lost"),
            false => write!(f, "messages {} to {} are lost", sequences.start, sequences.end - 1),
        }
    }
}
