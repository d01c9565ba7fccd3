//! Reading a journal from its oldest file to its end, whatever happened to it.
//!
//! What does not validate is one of two things. *Damage*: bytes that were synced once, as a later mark or
//! the header of the next file proves; it is named, and reading goes on behind it. *A torn tail*: bytes that
//! nobody ever heard were durable, because the power went before a sync; reading ends in front of it.
//!
//! A torn tail is not overwritten. The records behind a hole in it may be whole, and a new record that ends
//! where one of them begins would bring it back. The journal goes on in a new file instead, whose base lies
//! beyond every byte of every file here, and whose header says where the old file ends. As files only grow
//! by synced zeros, every record that was ever written lies within those bytes, so no lsn is used twice.

use std::path::Path;

use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};
use crate::format::{FORMAT_VERSION, FileHeader, Lsn, MARK_KIND, Record, base_of, file_name};
use crate::header::{FILE_HEADER_SIZE, HeaderRead};
use crate::scan::{self, End, Found, Stop};

/// The base of a new file is the next multiple of this many bytes.
const BASE_STEP: u64 = 4096;

/// What [`Files::open`](crate::Files::open) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the journal goes on: for [`Tail::new`](crate::Tail::new).
    pub next: Lsn,
    /// How many records were visited.
    pub records: u64,
    /// How many bytes they have, with their headers.
    pub bytes: u64,
    /// Where the last round was cut off by a power cut, if one was. Nothing of it was ever confirmed.
    pub torn: Option<Torn>,
    /// What was durable once and is gone, in the order of the journal.
    pub damaged: Vec<Damage>,
}

/// The unfinished end of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The name of the file.
    pub file: String,
    /// The first byte that counts no more, from the beginning of the file.
    pub offset: u64,
    /// The same as a position in the journal.
    pub lsn: Lsn,
}

/// A part of a journal that cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The name of the file that is damaged or missing.
    pub file: String,
    /// Where the damage begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// The first lsn that is lost.
    pub from: Lsn,
    /// The lsn after the last that is lost; equal to `from` when no record can be.
    pub to: Lsn,
    /// What is wrong.
    pub why: String,
}

/// A file that is written no more.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) base: Lsn,
    /// Where its records end.
    pub(crate) end: Lsn,
    /// Bytes on the disk.
    pub(crate) len: u64,
    header: Option<FileHeader>,
}

impl Segment {
    /// A file that was just filled.
    pub(crate) fn filled(base: Lsn, end: Lsn, len: u64) -> Segment {
        Segment { name: file_name(base), base, end, len, header: None }
    }
}

/// Visits every valid record of the files `names` in `dir`, oldest first, then makes all of it durable.
pub(crate) fn recover<D: Disk>(
    disk: &D,
    dir: &Path,
    names: &[String],
    journal: u32,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<(Vec<Segment>, Recovered)> {
    let (segments, recovered) = visit_all(disk, dir, names, journal, visit)?;
    if let Some(last) = segments.last() {
        sync(disk, dir, last, Disk::open)?;
    }
    Ok((segments, recovered))
}

/// Visits every valid record of the journal in `dir`, oldest first, and changes nothing; what was visited is durable when
/// this returns. Its owner may be writing to it. Then what is in the middle of being written or removed can look damaged
/// or be an error: who reads again finds it whole, and what is damaged, damaged.
pub fn read<D: Disk>(
    disk: &D,
    dir: &Path,
    journal: u32,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<Recovered> {
    let names = disk.list(dir).map_err(|error| Error::io("list", dir, &error))?;
    let (segments, recovered) = visit_all(disk, dir, &names, journal, visit)?;
    if let Some(last) = segments.last() {
        sync(disk, dir, last, Disk::open_to_read)?;
    }
    Ok(recovered)
}

fn visit_all<D: Disk>(
    disk: &D,
    dir: &Path,
    names: &[String],
    journal: u32,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<(Vec<Segment>, Recovered)> {
    let mut recovery = Recovery { disk, dir, recovered: Recovered::default(), buffer: Vec::new() };
    let mut segments = recovery.segments(names, journal)?;
    for index in 0..segments.len() {
        let (done, rest) = segments.split_at_mut(index + 1);
        recovery.read(&mut done[index], rest.first(), visit)?;
    }
    recovery.recovered.next = next_base(&segments);
    Ok((segments, recovery.recovered))
}

/// A killed process leaves bytes that are not on the disk yet but were visited here. All files but the last were synced
/// before the next was made.
fn sync<D: Disk>(
    disk: &D,
    dir: &Path,
    last: &Segment,
    open: fn(&D, &Path) -> std::io::Result<D::File>,
) -> Result<()> {
    let path = dir.join(&last.name);
    let mut file = open(disk, &path).map_err(|error| Error::io("open", &path, &error))?;
    file.sync().map_err(|error| Error::io("sync", &path, &error))?;
    disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, &error))
}

/// The base of the next file: beyond every byte that is on the disk.
fn next_base(segments: &[Segment]) -> Lsn {
    let end = segments.iter().map(|segment| {
        let records = segment.len.saturating_sub(FILE_HEADER_SIZE as u64);
        let named = base_of(&segment.name).unwrap_or_default();
        segment.end.max(named).max(Lsn(segment.base.0 + records))
    });
    end.max().map_or(Lsn::ZERO, |end| Lsn((end.0 / BASE_STEP + 1) * BASE_STEP))
}

struct Recovery<'a, D> {
    disk: &'a D,
    dir: &'a Path,
    recovered: Recovered,
    /// The records of one file.
    buffer: Vec<u8>,
}

impl<D: Disk> Recovery<'_, D> {
    /// The files by their headers, in order. Refuses before a record is read what must not be read at all.
    fn segments(&mut self, names: &[String], journal: u32) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        for (name, named) in names.iter().filter_map(|name| Some((name, base_of(name)?))) {
            segments.push(self.segment(name, named, journal)?);
        }
        // Of two files with one base, the one with the right name comes first.
        segments.sort_by_key(|segment| (segment.base, segment.name != file_name(segment.base)));
        segments.dedup_by(|second, first| {
            let copy = second.base == first.base;
            if copy {
                let why = format!("a second file with the records from {} on; it is left out", first.base);
                self.damage(&second.name, second.base, second.base..second.base, why);
            }
            copy
        });
        Ok(segments)
    }

    fn segment(&mut self, name: &str, named: Lsn, journal: u32) -> Result<Segment> {
        let path = self.dir.join(name);
        let file = self.disk.open_to_read(&path).map_err(|error| Error::io("open", &path, &error))?;
        let mut bytes = [0; FILE_HEADER_SIZE];
        let read = file.read_at(0, &mut bytes).map_err(|error| Error::io("read", &path, &error))?;
        let len = file.len().map_err(|error| Error::io("measure", &path, &error))?;
        let header = self.header(&bytes[..read], name, journal)?;
        let base = header.map_or(named, |header| header.base);
        let why = match header {
            None => Some("the file header is damaged; its records are read by the file's name".to_owned()),
            Some(_) if base != named => Some(format!("the file holds what {} should", file_name(base))),
            Some(_) => None,
        };
        if let Some(why) = why {
            self.damage(name, base, base..base, why);
        }
        Ok(Segment { name: name.to_owned(), base, end: base, len, header })
    }

    fn header(&self, bytes: &[u8], name: &str, journal: u32) -> Result<Option<FileHeader>> {
        let path = self.dir.join(name);
        match FileHeader::decode(bytes) {
            HeaderRead::Damaged => Ok(None),
            HeaderRead::Valid(header) if header.journal == journal => Ok(Some(header)),
            HeaderRead::Valid(header) => Err(Error::new(
                Kind::Foreign,
                format!("{} belongs to journal {}, not to journal {journal}", path.display(), header.journal),
            )),
            HeaderRead::Newer(format) => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{} has format {format}; this version of Leveret reads format {FORMAT_VERSION}",
                    path.display()
                ),
            )),
        }
    }

    /// Visits the records of one file and finds its end; `next` is the file after it.
    fn read(
        &mut self,
        segment: &mut Segment,
        next: Option<&Segment>,
        visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let end = end_of(segment, next);
        let limit = match end {
            End::At(lsn) => Some(lsn),
            End::Open => next.map(|next| next.base),
        };
        let mut bytes = std::mem::take(&mut self.buffer);
        self.load(segment, limit, &mut bytes)?;
        let stop = scan::walk(&bytes, segment.base, end, &mut |found| match found {
            Found::Record(record) => self.visit(record, visit),
            Found::Damaged { from, to } => {
                let why = "bytes that were synced are not valid any more".to_owned();
                self.damage(&segment.name, segment.base, from..to, why);
                Ok(())
            }
        })?;
        self.buffer = bytes;
        segment.end = stop.lsn;
        self.note_end(segment, next, end, stop);
        Ok(())
    }

    fn visit(&mut self, record: Record<'_>, visit: &mut dyn FnMut(Record<'_>) -> Result<()>) -> Result<()> {
        if record.kind == MARK_KIND {
            return Ok(());
        }
        self.recovered.records += 1;
        self.recovered.bytes += record.end().0 - record.lsn.0;
        visit(record)
    }

    /// Reads the bytes after the header, up to `limit`.
    fn load(&self, segment: &Segment, limit: Option<Lsn>, bytes: &mut Vec<u8>) -> Result<()> {
        let path = self.dir.join(&segment.name);
        let file = self.disk.open_to_read(&path).map_err(|error| Error::io("open", &path, &error))?;
        let records = Lsn(segment.base.0 + segment.len.saturating_sub(FILE_HEADER_SIZE as u64));
        let end = limit.map_or(records, |limit| limit.min(records));
        bytes.resize(end.since(segment.base), 0);
        let read = file.read_at(FILE_HEADER_SIZE as u64, bytes);
        bytes.truncate(read.map_err(|error| Error::io("read", &path, &error))?);
        Ok(())
    }

    /// Says what is wrong with the end of a file, where the next file does not vouch for it.
    fn note_end(&mut self, segment: &Segment, next: Option<&Segment>, end: End, stop: Stop) {
        let Some(next) = next else {
            if stop.torn {
                let offset = offset_of(stop.lsn, segment.base);
                self.recovered.torn = Some(Torn { file: segment.name.clone(), offset, lsn: stop.lsn });
            }
            return;
        };
        let (file, base, to, why) = match next.header {
            Some(header) => (file_name(header.previous), header.previous, header.previous_end, "is missing"),
            None => (next.name.clone(), next.base, next.base, "does not tell where the file before it ends"),
        };
        if end == End::Open && stop.lsn < to {
            self.damage(&file, base, stop.lsn..to, format!("the file {why}"));
        }
    }

    fn damage(&mut self, file: &str, base: Lsn, lsns: std::ops::Range<Lsn>, why: String) {
        let offset = if lsns.is_empty() { 0 } else { offset_of(lsns.start, base) };
        let (from, to) = (lsns.start, lsns.end);
        self.recovered.damaged.push(Damage { file: file.to_owned(), offset, from, to, why });
    }
}

/// Where the records of `segment` end, if the file after it was made as its successor.
fn end_of(segment: &Segment, next: Option<&Segment>) -> End {
    match next.and_then(|next| next.header) {
        Some(header) if header.previous == segment.base && header.previous_end >= segment.base => {
            End::At(header.previous_end)
        }
        _ => End::Open,
    }
}

fn offset_of(lsn: Lsn, base: Lsn) -> u64 {
    lsn.0.saturating_sub(base.0) + FILE_HEADER_SIZE as u64
}
