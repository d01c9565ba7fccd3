//! One small file that is replaced as a whole: what a shard must remember besides its journal.
//!
//! ```text
//! file     copy | zeros up to a multiple of 4096 | the same copy | the same zeros
//!
//! copy     0        4        6        8       12       16            24            28      32
//!          ┌────────┬────────┬────────┬───────┬────────┬─────────────┬─────────────┬───────┬──────────────┐
//!          │ "LEVC" │ format │ 0      │ shard │ length │ number      │ payload crc │ crc   │ payload      │
//!          │ 4 B    │ u16    │ u16    │ u32   │ u32    │ u64         │ u32         │ u32   │ length bytes │
//!          └────────┴────────┴────────┴───────┴────────┴─────────────┴─────────────┴───────┴──────────────┘
//!            payload crc = CRC-32C of the payload, crc = CRC-32C of bytes 0..28
//! ```
//!
//! Integers are little endian; version 1 has the fixture `fixtures/v1.checkpoint`.
//!
//! A checkpoint is written beside the old one, synced, and renamed into its place, so a crash leaves the old one
//! or the new one. There is nothing to fall back to if it is lost later, for the journal files that the older
//! ones needed are gone; so it stands in the file twice, in other blocks of the disk, and one of them will do.

use std::io;
use std::path::{Path, PathBuf};

use crc_fast::crc32_iscsi;

use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};

/// The version of the file format that this crate writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// The longest payload, in bytes (1 GiB).
pub const PAYLOAD_SIZE_MAX: usize = 1 << 30;

const HEADER_SIZE: usize = 32;
const MAGIC: [u8; 4] = *b"LEVC";
/// A copy begins at a multiple of this.
const ALIGNMENT: usize = 4096;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which of the node's shards it belongs to.
    pub shard: u32,
    /// Grows with each checkpoint of the shard. Who remembers it elsewhere notices that an old file was put back.
    pub number: u64,
    /// The caller's business.
    pub payload: Vec<u8>,
}

/// What [`read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest that is whole.
    pub checkpoint: Checkpoint,
    /// What is wrong with the other copy. Nothing is lost; the next [`write()`] makes two good ones again.
    pub damage: Option<String>,
}

/// Replaces the checkpoint at `path`, in a directory that exists, durably. After an error the old one or the
/// new one is there; of what a failed sync made durable nothing is known, so stop.
///
/// # Panics
/// When the payload exceeds [`PAYLOAD_SIZE_MAX`].
pub fn write<D: Disk>(disk: &D, path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let bytes = encode(checkpoint);
    let new = beside(path);
    create(disk, &new, &bytes).map_err(|error| Error::io("write", &new, &error))?;
    disk.rename(&new, path).map_err(|error| Error::io("rename", &new, &error))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, &error))
}

/// Reads the checkpoint of `shard` at `path`; `None` if there was none yet. [`Kind::Damaged`] if neither copy is
/// whole, [`Kind::Foreign`] if it is another shard's, [`Kind::Unsupported`] if it is of a newer version.
pub fn read<D: Disk>(disk: &D, path: &Path, shard: u32) -> Result<Option<Found>> {
    let bytes = match contents(disk, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(|error| Error::io("read", path, &error))?,
    };
    let found = choose(&bytes).map_err(|bad| bad.error(path))?;
    if found.checkpoint.shard != shard {
        let of = found.checkpoint.shard;
        let what = format!("{} is the checkpoint of shard {of}, not of shard {shard}", path.display());
        return Err(Error::new(Kind::Foreign, what));
    }
    Ok(Some(found))
}

/// Reads the checkpoint of whatever shard at `path`, for people.
pub(crate) fn read_any<D: Disk>(disk: &D, path: &Path) -> Result<Found> {
    let bytes = contents(disk, path).map_err(|error| Error::io("read", path, &error))?;
    choose(&bytes).map_err(|bad| bad.error(path))
}

fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let Checkpoint { shard, number, payload } = checkpoint;
    let size = payload.len();
    assert!(
        size <= PAYLOAD_SIZE_MAX,
        "a payload of {size} bytes; at most {PAYLOAD_SIZE_MAX} fit a checkpoint"
    );
    let length = u32::try_from(size).expect("it is below PAYLOAD_SIZE_MAX");
    let half = (HEADER_SIZE + size).next_multiple_of(ALIGNMENT);
    let mut bytes = Vec::with_capacity(2 * half);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&shard.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&crc32_iscsi(payload).to_le_bytes());
    bytes.extend_from_slice(&crc32_iscsi(&bytes).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(half, 0);
    bytes.extend_from_within(..);
    bytes
}

/// The file that a checkpoint is written to before it takes the name `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Creates the file at `path`, in place of one that a crash left there, durably but for its name.
fn create<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create(path)?
        }
        outcome => outcome?,
    };
    file.write_at(0, bytes)?;
    file.sync()
}

fn contents<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Why a copy cannot be used.
#[derive(Debug)]
enum Bad {
    Newer(u16),
    Damaged(String),
}

impl Bad {
    fn error(self, path: &Path) -> Error {
        let path = path.display();
        match self {
            Bad::Newer(format) => Error::new(
                Kind::Unsupported,
                format!("{path} has format {format}; this version of Leveret reads format {FORMAT_VERSION}"),
            ),
            Bad::Damaged(why) => Error::new(Kind::Damaged, format!("{path} is damaged: {why}")),
        }
    }
}

/// The newest whole copy in a file.
fn choose(bytes: &[u8]) -> std::result::Result<Found, Bad> {
    let half = bytes.len() / 2;
    let whole = |checkpoint, damage| Ok(Found { checkpoint, damage });
    match (decode(bytes, "the first copy"), decode(&bytes[half..], "the second copy")) {
        (Ok(first), Ok(second)) if first == second => whole(first, None),
        (Ok(first), Ok(second)) => {
            let why = format!("its copies have the numbers {} and {}", first.number, second.number);
            let newer = if second.number > first.number { second } else { first };
            whole(newer, Some(why))
        }
        (Ok(checkpoint), Err(Bad::Damaged(why))) | (Err(Bad::Damaged(why)), Ok(checkpoint)) => {
            whole(checkpoint, Some(why))
        }
        (Err(Bad::Newer(format)), _) | (_, Err(Bad::Newer(format))) => Err(Bad::Newer(format)),
        (Err(Bad::Damaged(first)), Err(Bad::Damaged(second))) => {
            Err(Bad::Damaged(format!("{first}; {second}")))
        }
    }
}

/// Reads the copy that begins with `bytes`, which `which` names.
fn decode(bytes: &[u8], which: &str) -> std::result::Result<Checkpoint, Bad> {
    let u32_at = |header: &[u8; HEADER_SIZE], at: usize| {
        u32::from_le_bytes(std::array::from_fn(|index| header[at + index]))
    };
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
        let what = format!("{which} has {} bytes, fewer than the {HEADER_SIZE} of a header", bytes.len());
        return Err(Bad::Damaged(what));
    };
    let (expected, found) = (u32_at(header, 28), crc32_iscsi(&header[..28]));
    if header[..4] != MAGIC {
        return Err(Bad::Damaged(format!("{which} does not begin with LEVC")));
    }
    if expected != found {
        let what =
            format!("the header of {which} says checksum {expected:#010x}, its bytes have {found:#010x}");
        return Err(Bad::Damaged(what));
    }
    let format = u16::from_le_bytes([header[4], header[5]]);
    if format != FORMAT_VERSION {
        return Err(Bad::Newer(format));
    }
    let length = u32_at(header, 12) as usize;
    let Some(payload) = rest.get(..length) else {
        let what =
            format!("{which} should have {length} bytes of payload, but the file ends after {}", rest.len());
        return Err(Bad::Damaged(what));
    };
    let (expected, found) = (u32_at(header, 24), crc32_iscsi(payload));
    if expected != found {
        let what =
            format!("the payload of {which} should have checksum {expected:#010x}, but has {found:#010x}");
        return Err(Bad::Damaged(what));
    }
    let number = u64::from_le_bytes(std::array::from_fn(|index| header[16 + index]));
    Ok(Checkpoint { shard: u32_at(header, 8), number, payload: payload.to_vec() })
}
