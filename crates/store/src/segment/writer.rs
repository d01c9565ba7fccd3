//! Appending to the segments of all queues of a shard.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crc_fast::crc32_iscsi;

use super::format::{BLOCK_HEADER_SIZE, BlockHeader, FileHeader, TableEntry};
use super::{Extent, Id, Name, Place, list};
use crate::disk::{Disk, File};
use crate::error::{Error, Result};
use crate::header::FILE_HEADER_SIZE;

/// A block ends after this many messages, so that a table stays below 32 KiB however small they are.
const BLOCK_COUNT_MAX: usize = 4096;
/// The buffer is given back after an append that was larger than this (8 MiB).
const BUFFER_SIZE_MAX: usize = 8 << 20;

/// How segments are cut.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes after which a segment is full, in front of the next append (default 16 MiB).
    pub segment_size: u64,
    /// Bytes of messages after which a block ends (default 64 KiB). A larger message is a block of its own.
    pub block_size: usize,
    /// Files that are open at once at the most, at least 1 (default 64).
    pub files_open_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_size: 16 << 20, block_size: 64 << 10, files_open_max: 64 }
    }
}

/// Messages with consecutive sequence numbers, to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewRun<'a> {
    /// The sequence number of the first.
    pub first: u64,
    /// The caller's business; read back with each part of the run.
    pub flags: u32,
    /// The bytes of all messages, back to back.
    pub bytes: &'a [u8],
    /// The length of each message in bytes; their sum is the length of `bytes`.
    pub lengths: &'a [u32],
}

/// The half that writes, for all queues of a directory. Its owner is the spilling thread.
///
/// [`append`](Writer::append) to as many queues as there are, then [`sync`](Writer::sync) and write down what
/// it returned; after that the messages need no journal any more. [`remove`](Writer::remove) a segment once it
/// was written down that nothing in it is wanted.
///
/// An append that failed changed nothing and may be repeated when there is room again, or another one made.
/// A sync that failed is final: every later append and sync returns its error, for a sync that succeeds after
/// it proves nothing. Stop, and append again, with another writer, what was not reported durable.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    disk: D,
    dir: PathBuf,
    options: Options,
    incarnation: u64,
    /// The number of the next segment.
    number: u64,
    /// The segment of each queue that is appended to.
    current: BTreeMap<u64, Segment<D::File>>,
    /// Segments that were full and are not synced yet.
    full: Vec<Segment<D::File>>,
    /// The queues whose current segment has grown since the last sync.
    touched: BTreeSet<u64>,
    files_open: usize,
    /// Whether a file was created since the directory was synced.
    created: bool,
    /// The bytes of one append.
    buffer: Vec<u8>,
    failed: Option<Error>,
}

/// A segment that is appended to.
#[derive(Debug)]
struct Segment<F> {
    id: Id,
    /// None while it is closed, which is only when it is synced.
    file: Option<F>,
    /// The sequence number of its first message.
    first: u64,
    /// Where the next append goes; offset 0 before the first one, which also writes the header.
    end: Place,
    /// Whether it was written to after its last sync.
    unsynced: bool,
}

impl<D: Disk> Writer<D> {
    /// A writer for the segments in `dir`, which is created if there is none. New segments get numbers above
    /// those in the directory and those in `known`, which are the segments of the journal, and carry
    /// `incarnation`, which no writer of this directory had before: best, 64 random bits, for then nobody can
    /// publish a message that passes for a block of its own.
    pub fn open(
        disk: D,
        dir: &Path,
        options: Options,
        incarnation: u64,
        known: impl IntoIterator<Item = Name>,
    ) -> Result<Writer<D>> {
        disk.create_dir(dir).map_err(|error| Error::io("create", dir, &error))?;
        let names = list(&disk, dir)?.into_iter().chain(known);
        let number = names.map(|name| name.number.saturating_add(1)).max().unwrap_or(0);
        Ok(Writer {
            disk,
            dir: dir.to_owned(),
            options,
            incarnation,
            number,
            current: BTreeMap::new(),
            full: Vec::new(),
            touched: BTreeSet::new(),
            files_open: 0,
            created: false,
            buffer: Vec::new(),
            failed: None,
        })
    }

    /// Appends `runs`, which ascend, to the segment of `queue`, or to a new one if that is full; returns where
    /// they stand. They can be read at once and are durable after the next [`sync`](Writer::sync). One write,
    /// and a full sync of what is open when there are too many open files.
    ///
    /// # Panics
    /// When there is no run or an empty one, when lengths do not add up, and when a sequence number is not
    /// above all that were appended to the queue since its last segment was closed.
    pub fn append(&mut self, queue: u64, runs: &[NewRun<'_>]) -> Result<Extent> {
        self.check()?;
        check_runs(runs, self.current.get(&queue).map_or(0, |segment| segment.end.sequence));
        let mut segment = self.writable(queue)?;
        let outcome = self.write(&mut segment, runs);
        let id = segment.id;
        self.current.insert(queue, segment);
        let (from, to) = outcome?;
        self.touched.insert(queue);
        Ok(Extent { id, from, to })
    }

    /// Makes durable what was appended: one fdatasync for each segment that grew, and one of the directory if
    /// there are new ones. Returns those segments, each from its beginning to its durable end; those of one queue
    /// in their order.
    pub fn sync(&mut self) -> Result<Vec<Extent>> {
        self.check()?;
        self.sync_files()?;
        if self.created {
            let synced = self.disk.sync_dir(&self.dir);
            self.remember(synced.map_err(|error| Error::io("sync", &self.dir, &error)))?;
            self.created = false;
        }
        let full = std::mem::take(&mut self.full);
        self.files_open -= full.iter().filter(|segment| segment.file.is_some()).count();
        let touched = std::mem::take(&mut self.touched);
        let grown = touched.iter().filter_map(|queue| self.current.get(queue));
        Ok(full.iter().chain(grown).map(Segment::extent).collect())
    }

    /// Ends the current segment of `queue`, so that the next append begins another: when the queue was
    /// deleted, or to remove the segment. What of it was not synced is synced with the rest.
    pub fn close(&mut self, queue: u64) {
        let Some(segment) = self.current.remove(&queue) else {
            return;
        };
        if self.touched.remove(&queue) {
            self.full.push(segment);
        } else {
            self.files_open -= usize::from(segment.file.is_some());
        }
    }

    /// Removes a segment's file; none is as good. Write down first that nothing in it is wanted. If the power
    /// goes, the file may come back, as a leftover.
    pub fn remove(&mut self, name: Name) -> Result<()> {
        if self.current.get(&name.queue).is_some_and(|segment| segment.id.name == name) {
            self.close(name.queue);
        }
        if let Some(index) = self.full.iter().position(|segment| segment.id.name == name) {
            self.files_open -= usize::from(self.full.remove(index).file.is_some());
        }
        let path = self.path(name);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Gives the buffer of appends back: none comes for a while.
    pub fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Whether a sync has failed: nothing more is appended.
    pub fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The segments to which every append failed: nothing is in their files.
    pub fn unwritten(&self) -> impl Iterator<Item = Name> {
        let unwritten = self.current.values().filter(|segment| segment.end.offset == 0);
        unwritten.map(|segment| segment.id.name)
    }

    /// Holds after every call.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let segments = || self.full.iter().chain(self.current.values());
        let open = segments().filter(|segment| segment.file.is_some()).count();
        assert_eq!(self.files_open, open);
        assert!(open <= self.options.files_open_max.max(1), "{open} files are open");
        assert!(segments().all(|segment| segment.file.is_some() || !segment.unsynced));
        assert!(segments().all(|segment| segment.id.name.number < self.number));
        assert!(self.full.iter().all(|segment| segment.end.offset > 0), "nothing to report");
        assert!(self.touched.iter().all(|queue| self.current.contains_key(queue)));
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn remember<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.failed = outcome.as_ref().err().cloned();
        outcome
    }

    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(name.file_name())
    }

    /// Takes the segment of `queue` that the next append goes to, its file open.
    fn writable(&mut self, queue: u64) -> Result<Segment<D::File>> {
        let full = |segment: &Segment<_>| segment.end.offset >= self.options.segment_size;
        let sequence = self.current.get(&queue).map_or(0, |segment| segment.end.sequence);
        if self.current.get(&queue).is_some_and(full) {
            self.close(queue);
        }
        if self.current.get(&queue).is_none_or(|segment| segment.file.is_none()) {
            self.make_room()?;
        }
        match self.current.remove(&queue) {
            Some(segment) if segment.file.is_some() => Ok(segment),
            Some(segment) => self.reopen(segment),
            None => self.create(queue, sequence),
        }
    }

    /// Syncs and closes all files when no more may be open. They had to be synced anyway.
    fn make_room(&mut self) -> Result<()> {
        if self.files_open >= self.options.files_open_max.max(1) {
            self.sync_files()?;
            self.segments().for_each(|segment| segment.file = None);
            self.files_open = 0;
        }
        Ok(())
    }

    fn reopen(&mut self, mut segment: Segment<D::File>) -> Result<Segment<D::File>> {
        let path = self.path(segment.id.name);
        match self.disk.open(&path) {
            Ok(file) => {
                self.files_open += 1;
                segment.file = Some(file);
                Ok(segment)
            }
            Err(error) => {
                self.current.insert(segment.id.name.queue, segment);
                Err(Error::io("open", &path, &error))
            }
        }
    }

    /// Creates the next segment of `queue`, whose sequence numbers begin at `sequence` or later.
    fn create(&mut self, queue: u64, sequence: u64) -> Result<Segment<D::File>> {
        let name = Name { queue, number: self.number };
        let path = self.path(name);
        // A number is not used twice, even if its file could not be made.
        self.number = self.number.saturating_add(1);
        let file = self.disk.create(&path).map_err(|error| Error::io("create", &path, &error))?;
        self.files_open += 1;
        self.created = true;
        let id = Id { name, incarnation: self.incarnation };
        let end = Place { offset: 0, sequence };
        Ok(Segment { id, file: Some(file), first: sequence, end, unsynced: false })
    }

    /// Writes `runs` at the end of `segment`, which grows only if that succeeds. What a failed write left there
    /// lies beyond the end, is read by nobody, and is overwritten by the next.
    fn write(&mut self, segment: &mut Segment<D::File>, runs: &[NewRun<'_>]) -> Result<(Place, Place)> {
        let at = segment.end.offset;
        self.buffer.clear();
        if at == 0 {
            self.buffer.extend_from_slice(&FileHeader { id: segment.id }.encode());
        }
        let from = Place { offset: at + self.buffer.len() as u64, sequence: runs[0].first };
        for run in runs {
            encode(&mut self.buffer, &segment.id, at, run, self.options.block_size);
        }
        let file = segment.file.as_mut().expect("an append opens the file first");
        segment.unsynced = true;
        let written = file.write_at(at, &self.buffer);
        let to = Place { offset: at + self.buffer.len() as u64, sequence: end_of(&runs[runs.len() - 1]) };
        if self.buffer.capacity() > BUFFER_SIZE_MAX {
            self.buffer = Vec::new();
        }
        written.map_err(|error| Error::io("write to", &self.path(segment.id.name), &error))?;
        if at == 0 {
            segment.first = from.sequence;
        }
        segment.end = to;
        Ok((from, to))
    }

    fn sync_files(&mut self) -> Result<()> {
        let failed = self.segments().filter(|segment| segment.unsynced).find_map(|segment| {
            let file = segment.file.as_mut().expect("a file is closed only when it is synced");
            let outcome = file.sync();
            segment.unsynced = outcome.is_err();
            outcome.err().map(|error| (segment.id.name, error))
        });
        let outcome = failed.map_or(Ok(()), |(name, error)| Err(Error::io("sync", &self.path(name), &error)));
        self.remember(outcome)
    }

    fn segments(&mut self) -> impl Iterator<Item = &mut Segment<D::File>> {
        self.full.iter_mut().chain(self.current.values_mut())
    }
}

impl<F> Segment<F> {
    fn extent(&self) -> Extent {
        let from = Place { offset: FILE_HEADER_SIZE as u64, sequence: self.first };
        Extent { id: self.id, from, to: self.end }
    }
}

/// The sequence number after the last of `run`.
fn end_of(run: &NewRun<'_>) -> u64 {
    run.first.checked_add(run.lengths.len() as u64).expect("sequence numbers end before 64 bits do")
}

fn check_runs(runs: &[NewRun<'_>], mut sequence: u64) {
    assert!(!runs.is_empty(), "an append of no run");
    for run in runs {
        assert!(run.first >= sequence, "message {} comes after {sequence} messages", run.first);
        assert!(!run.lengths.is_empty(), "a run of no message");
        let sum: u64 = run.lengths.iter().map(|length| u64::from(*length)).sum();
        assert_eq!(sum, run.bytes.len() as u64, "the lengths of a run add up to its bytes");
        sequence = end_of(run);
    }
}

/// Appends the blocks of `run` to `buffer`, whose first byte will stand at `base` of the segment `id`.
fn encode(buffer: &mut Vec<u8>, id: &Id, base: u64, run: &NewRun<'_>, block_size: usize) {
    let (mut first, mut bytes, mut lengths) = (run.first, run.bytes, run.lengths);
    while !lengths.is_empty() {
        let (count, size) = next_block(lengths, block_size);
        let (block, rest) = bytes.split_at(size);
        let offset = base + buffer.len() as u64;
        encode_block(
            buffer,
            id,
            offset,
            &NewRun { first, flags: run.flags, bytes: block, lengths: &lengths[..count] },
        );
        (first, bytes, lengths) = (first + count as u64, rest, &lengths[count..]);
    }
}

/// How many of the messages go into the next block, at least one, and how many bytes they have.
fn next_block(lengths: &[u32], block_size: usize) -> (usize, usize) {
    let (mut count, mut size) = (0, 0);
    for length in lengths.iter().take(BLOCK_COUNT_MAX) {
        let length = *length as usize;
        if count > 0 && size + length > block_size {
            break;
        }
        (count, size) = (count + 1, size + length);
    }
    (count, size)
}

/// Appends `block` to `buffer`, to stand at `offset`.
fn encode_block(buffer: &mut Vec<u8>, id: &Id, offset: u64, block: &NewRun<'_>) {
    let at = buffer.len();
    buffer.extend_from_slice(&[0; BLOCK_HEADER_SIZE]);
    let mut rest = block.bytes;
    for length in block.lengths {
        let (message, after) = rest.split_at(*length as usize);
        buffer.extend_from_slice(&TableEntry::of(message).encode());
        rest = after;
    }
    let header = BlockHeader {
        first: block.first,
        count: u32::try_from(block.lengths.len()).expect("at most BLOCK_COUNT_MAX"),
        flags: block.flags,
        length: u32::try_from(block.bytes.len()).expect("a block size, or one message"),
        table_checksum: crc32_iscsi(&buffer[at + BLOCK_HEADER_SIZE..]),
    };
    buffer[at..at + BLOCK_HEADER_SIZE].copy_from_slice(&header.encode(id, offset));
    buffer.extend_from_slice(block.bytes);
}
