//! Reading a segment in its order, whatever happened to it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc_fast::crc32_iscsi;

use super::format::{
    BLOCK_HEADER_SIZE, BLOCK_MAGIC, BlockHeader, FORMAT_VERSION, FileHeader, TABLE_ENTRY_SIZE, TableEntry,
};
use super::{Damage, Id, Place};
use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};
use crate::header::{FILE_HEADER_SIZE, HeaderRead};

/// The smallest window: a header must fit in.
const WINDOW_MIN: usize = 4096;

/// What a disk reads or fails to read at once, bytes.
const SECTOR: usize = 4096;

/// An open segment, to be read. It keeps no position: who reads remembers [`Chunk::next`].
#[derive(Debug)]
pub struct Reader<F> {
    file: F,
    path: PathBuf,
    id: Id,
    damage: Option<Damage>,
}

/// What one read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// In ascending order of sequence numbers.
    pub runs: Vec<Run>,
    /// What could not be read, in the order of the file.
    pub damages: Vec<Damage>,
    /// Where the next read begins.
    pub next: Place,
    /// Bytes of the buffer that the runs share, and that each of them keeps alive.
    pub buffer: usize,
}

/// What is done about bytes that the disk does not give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    IsAnError,
    IsZeros,
}

/// Messages with consecutive sequence numbers, each exactly as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The sequence number of the first.
    pub first: u64,
    /// What was given with them.
    pub flags: u32,
    /// Where the bytes of the first stand in the file.
    pub offset: u64,
    /// The bytes of all messages, back to back: a slice of what was read, which it keeps alive as a whole.
    pub bytes: Bytes,
    /// The part of the block's table that speaks of them; of whole entries.
    table: Bytes,
}

impl Run {
    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.table.len() / TABLE_ENTRY_SIZE
    }

    /// The sequence number after the last.
    pub fn end(&self) -> u64 {
        self.first + self.count() as u64
    }

    /// The length of each message in bytes.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> {
        TableEntry::all(&self.table).map(|entry| entry.length as usize)
    }
}

impl<F: File> Reader<F> {
    /// A file that is known to be the segment `id`.
    pub(crate) fn of(file: F, path: &Path, id: Id) -> Reader<F> {
        Reader { file, path: path.to_owned(), id, damage: None }
    }

    /// Opens the segment `id` in `dir` and looks at its header. [`Kind::Unsupported`] if it is of a newer
    /// version, [`Kind::Foreign`] if there is no such file: then all that the segment held is lost.
    ///
    /// A header that is damaged or another segment's is a [`damage`](Reader::damage) and no error, for each block
    /// proves by itself whose it is.
    pub fn open<D: Disk<File = F>>(disk: &D, dir: &Path, id: Id) -> Result<Reader<F>> {
        let path = dir.join(id.name.file_name());
        let file = disk.open_to_read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::Foreign, format!("{} is missing; it should hold {id}", path.display()))
            }
            _ => Error::io("open", &path, &error),
        })?;
        let mut header = [0; FILE_HEADER_SIZE];
        let read = file.read_at(0, &mut header).map_err(|error| Error::io("read", &path, &error))?;
        let why = match FileHeader::decode(&header[..read]) {
            HeaderRead::Valid(header) if header.id == id => None,
            HeaderRead::Valid(header) => Some(format!("the file says it is {}, not {id}", header.id)),
            HeaderRead::Damaged => Some("the header of the file does not match its checksum".to_owned()),
            HeaderRead::Newer(format) => return Err(newer(&path, format)),
        };
        let header_size = FILE_HEADER_SIZE as u64;
        let damage = why.map(|why| Damage { offsets: 0..header_size, sequences: 0..0, why });
        Ok(Reader { file, path, id, damage })
    }

    /// Opens the segment without a look at its header, which the disk may not give.
    pub fn open_blindly<D: Disk<File = F>>(disk: &D, dir: &Path, id: Id) -> Result<Reader<F>> {
        let path = dir.join(id.name.file_name());
        let file = disk.open_to_read(&path).map_err(|error| Error::io("open", &path, &error))?;
        Ok(Reader::of(file, &path, id))
    }

    /// What is wrong with the header of the file.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Reads messages from `from` on, as far as one read of `window` bytes (best 256 KiB to 1 MiB) has them
    /// whole, and not beyond `to`, which is the end of an [`Extent`](super::Extent). What is below
    /// `from.sequence` is passed over.
    ///
    /// [`Chunk::next`] lies behind `from` unless that is the end already. One call of the disk; a second if the
    /// first block is larger than the window; more only to find the next block behind a damaged header.
    ///
    /// Memory: the window, or the first block if that is larger. A lost end of the file counts as zeros.
    pub fn read(&self, from: Place, to: Place, window: usize) -> Result<Chunk> {
        self.read_by(from, to, window, Unreadable::IsAnError)
    }

    /// The same when a disk goes on to fail: what it does not give counts as zeros, in sectors of 4 KiB, so that only the
    /// messages there are lost.
    pub fn salvage(&self, from: Place, to: Place, window: usize) -> Result<Chunk> {
        self.read_by(from, to, window, Unreadable::IsZeros)
    }

    fn read_by(&self, from: Place, to: Place, window: usize, unreadable: Unreadable) -> Result<Chunk> {
        let mut chunk = Chunk { runs: Vec::new(), damages: Vec::new(), next: from, buffer: 0 };
        let mut bytes = Vec::new();
        self.fill(&mut bytes, from.offset, to.offset, window.max(WINDOW_MIN) as u64, unreadable)?;
        if let Some(first) = self.block_at(&bytes, from.offset, to) {
            self.fill(&mut bytes, from.offset, to.offset, first.size(), unreadable)?;
        }
        chunk.buffer = bytes.len();
        let window = Window { offset: from.offset, bytes: Bytes::from(bytes) };
        while chunk.next.offset < to.offset {
            let rest = window.at(chunk.next.offset);
            match self.block_at(rest, chunk.next.offset, to) {
                Some(header) if header.size() <= rest.len() as u64 => take(&mut chunk, &window, &header),
                Some(_) => break,
                None => match self.find(rest, chunk.next.offset, to) {
                    Some(found) => skip(&mut chunk, found),
                    None if chunk.next == from => {
                        let found = self.search(window.end(), to, window.bytes.len(), unreadable)?;
                        skip(&mut chunk, found);
                        break;
                    }
                    None => break,
                },
            }
        }
        Ok(chunk)
    }

    /// Reads more until `bytes`, which stand at `offset`, are `len`, or reach `to`.
    fn fill(
        &self,
        bytes: &mut Vec<u8>,
        offset: u64,
        to: u64,
        len: u64,
        unreadable: Unreadable,
    ) -> Result<()> {
        let len = len.min(to.saturating_sub(offset));
        let len = usize::try_from(len).map_err(|error| self.error(&io::Error::other(error)))?;
        let filled = bytes.len();
        if filled < len {
            bytes.resize(len, 0);
            let at = offset + filled as u64;
            let read = self.file.read_at(at, &mut bytes[filled..]);
            match read {
                Ok(_) => {}
                Err(_) if unreadable == Unreadable::IsZeros => self.fill_sectors(&mut bytes[filled..], at),
                Err(error) => return Err(self.error(&error)),
            }
        }
        Ok(())
    }

    /// Reads sector by sector; those that cannot be read are zeros.
    fn fill_sectors(&self, bytes: &mut [u8], mut offset: u64) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let to_boundary = SECTOR - usize::try_from(offset % SECTOR as u64).expect("below a sector");
            let (sector, behind) = rest.split_at_mut(to_boundary.min(rest.len()));
            if self.file.read_at(offset, sector).is_err() {
                sector.fill(0);
            }
            offset += sector.len() as u64;
            rest = behind;
        }
    }

    fn error(&self, error: &io::Error) -> Error {
        Error::io("read", &self.path, error)
    }

    /// The header that `bytes` begin with, if one of a block between `offset` and `to` does.
    fn block_at(&self, bytes: &[u8], offset: u64, to: Place) -> Option<BlockHeader> {
        let header = BlockHeader::decode(bytes, &self.id, offset)?;
        (header.size() <= to.offset.saturating_sub(offset) && header.end() <= to.sequence).then_some(header)
    }

    /// Where the next block begins behind the first byte of `bytes`, which stands at `offset`.
    fn find(&self, bytes: &[u8], offset: u64, to: Place) -> Option<Place> {
        let magics = bytes.windows(BLOCK_MAGIC.len()).enumerate().skip(1);
        let mut places = magics.filter(|(_, window)| *window == BLOCK_MAGIC).filter_map(|(at, _)| {
            let offset = offset + at as u64;
            let header = self.block_at(&bytes[at..], offset, to)?;
            Some(Place { offset, sequence: header.first })
        });
        places.next()
    }

    /// Where the next block begins, of which no header ends before `offset`; at the latest, `to`.
    fn search(&self, offset: u64, to: Place, window: usize, unreadable: Unreadable) -> Result<Place> {
        let (mut end, mut bytes) = (offset, Vec::new());
        while end < to.offset {
            // A header may begin in the last bytes that were looked at. `find` passes over one byte more.
            let offset = end - BLOCK_HEADER_SIZE as u64;
            bytes.clear();
            self.fill(&mut bytes, offset, to.offset, window.max(WINDOW_MIN) as u64, unreadable)?;
            if let Some(found) = self.find(&bytes, offset, to) {
                return Ok(found);
            }
            end = offset + bytes.len() as u64;
        }
        Ok(to)
    }
}

/// Whether the file of the segment `id` in `dir` is there and is not another's: [`Kind::Foreign`] if not. A header that
/// is damaged says nothing against it.
pub fn verify<D: Disk>(disk: &D, dir: &Path, id: Id) -> Result<()> {
    let path = dir.join(id.name.file_name());
    let missing = || Error::new(Kind::Foreign, format!("{} is missing; it should hold {id}", path.display()));
    let file = disk.open_to_read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => Error::io("open", &path, &error),
    })?;
    let mut header = [0; FILE_HEADER_SIZE];
    // What cannot be read now is tried again when it is wanted.
    let read = file.read_at(0, &mut header).unwrap_or(0);
    match FileHeader::decode(&header[..read]) {
        HeaderRead::Valid(found) if found.id != id => Err(Error::new(
            Kind::Foreign,
            format!("{} says it is {}; it should be {id}", path.display(), found.id),
        )),
        HeaderRead::Newer(format) => Err(newer(&path, format)),
        HeaderRead::Valid(_) | HeaderRead::Damaged => Ok(()),
    }
}

/// What one read of the file gave.
struct Window {
    offset: u64,
    bytes: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn index(&self, offset: u64) -> usize {
        usize::try_from(offset - self.offset).expect("a place in the window is one in memory")
    }

    /// The bytes at `offset` and behind it.
    fn at(&self, offset: u64) -> &[u8] {
        &self.bytes[self.index(offset)..]
    }

    fn slice(&self, offsets: Range<u64>) -> Bytes {
        self.bytes.slice(self.index(offsets.start)..self.index(offsets.end))
    }
}

/// Moves `chunk` to the end of the block at its place, which is whole, and takes its messages.
fn take(chunk: &mut Chunk, window: &Window, header: &BlockHeader) {
    let place = chunk.next;
    let table_at = place.offset + BLOCK_HEADER_SIZE as u64;
    let table = window.slice(table_at..table_at + header.table_size());
    let end = Place { offset: place.offset + header.size(), sequence: header.end().max(place.sequence) };
    chunk.next = end;
    let sum: u64 = TableEntry::all(&table).map(|entry| u64::from(entry.length)).sum();
    if crc32_iscsi(&table) != header.table_checksum || sum != u64::from(header.length) {
        let sequences = header.first.max(place.sequence)..end.sequence;
        let why = "the table of a block does not match its checksum".to_owned();
        chunk.damages.push(Damage { offsets: place.offset..end.offset, sequences, why });
        return;
    }
    let messages = table_at + header.table_size();
    let mut run = OpenRun { header, window, table, index: 0, offset: messages };
    let (mut sequence, mut offset) = (header.first, messages);
    for entry in TableEntry::all(&run.table.clone()) {
        let after = offset + u64::from(entry.length);
        let wanted = sequence >= place.sequence;
        let whole = wanted && entry.vouches_for(&window.at(offset)[..entry.length as usize]);
        if !whole {
            run.end(chunk, sequence, offset, after);
        }
        if wanted && !whole {
            lose(chunk, offset..after, sequence);
        }
        (sequence, offset) = (sequence + 1, after);
    }
    run.end(chunk, sequence, offset, offset);
}

/// Names a message that is lost, together with those in front of it that are lost too.
fn lose(chunk: &mut Chunk, offsets: Range<u64>, sequence: u64) {
    match chunk.damages.last_mut() {
        Some(last) if last.offsets.end == offsets.start && last.sequences.end == sequence => {
            (last.offsets.end, last.sequences.end) = (offsets.end, sequence + 1);
        }
        _ => {
            let why = "messages do not match their checksums".to_owned();
            chunk.damages.push(Damage { offsets, sequences: sequence..sequence + 1, why });
        }
    }
}

/// A run that may go on.
struct OpenRun<'a> {
    header: &'a BlockHeader,
    window: &'a Window,
    table: Bytes,
    /// Its first message in the table.
    index: usize,
    /// Where its bytes begin.
    offset: u64,
}

impl OpenRun<'_> {
    /// Ends the run in front of the message `sequence`, which lies between `offset` and `after`; the next begins
    /// behind that.
    fn end(&mut self, chunk: &mut Chunk, sequence: u64, offset: u64, after: u64) {
        let end = usize::try_from(sequence - self.header.first).expect("a table is in memory");
        if end > self.index {
            chunk.runs.push(Run {
                first: self.header.first + self.index as u64,
                flags: self.header.flags,
                offset: self.offset,
                bytes: self.window.slice(self.offset..offset),
                table: self.table.slice(self.index * TABLE_ENTRY_SIZE..end * TABLE_ENTRY_SIZE),
            });
        }
        (self.index, self.offset) = (end + 1, after);
    }
}

/// Moves `chunk` over damage, to the next block or the end.
fn skip(chunk: &mut Chunk, to: Place) {
    let from = chunk.next;
    let sequence = to.sequence.max(from.sequence);
    chunk.next = Place { offset: to.offset, sequence };
    chunk.damages.push(Damage {
        offsets: from.offset..to.offset,
        sequences: from.sequence..sequence,
        why: "no block begins here: its header does not match its checksum".to_owned(),
    });
}

fn newer(path: &Path, format: u16) -> Error {
    let what = format!(
        "{} has format {format}; this version of Leveret reads format {FORMAT_VERSION}",
        path.display()
    );
    Error::new(Kind::Unsupported, what)
}
