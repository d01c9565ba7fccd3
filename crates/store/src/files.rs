//! The files of a journal: written, synced, rolled, recycled.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};
use crate::format::{FileHeader, Lsn, Record, file_name};
use crate::header::FILE_HEADER_SIZE;
use crate::recovery::{self, Recovered, Segment};
use crate::tail::Round;

/// How a journal uses its directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which of the node's journals this is; stands in every file.
    pub journal: u32,
    /// Bytes of records after which a new file is begun, in front of the next round (default 64 MiB).
    pub file_size: u64,
    /// Bytes of zeros that are kept ahead of what is written, at least (default 256 KiB).
    pub zero_ahead_min: u64,
    /// The same, at most (default 16 MiB): in between, twice what was written between two syncs.
    pub zero_ahead_max: u64,
    /// Files that are kept for being written again instead of being deleted (default 2).
    pub spares_max: usize,
    /// Bytes of a file that is kept for when the disk is full (default 0, none): acks must still fit, for only what is
    /// acked makes room.
    pub reserve: u64,
}

/// What that file is called.
const RESERVE: &str = "journal.reserve";

impl Default for Options {
    fn default() -> Options {
        Options {
            journal: 0,
            file_size: 64 << 20,
            zero_ahead_min: 256 << 10,
            zero_ahead_max: 16 << 20,
            spares_max: 2,
            reserve: 0,
        }
    }
}

/// The half of a journal that waits for the disk. Its owner is the journal's own thread.
///
/// [`write`](Files::write) a round, [`sync`](Files::sync), tell everybody how far it got; and while nothing
/// waits, [`prepare`](Files::prepare) for the rounds to come. [`forget`](Files::forget) what is needed no
/// more. Nothing is created before the first round.
///
/// A full disk refuses a round and changes nothing: write the same one again when there is room. Any other error is
/// final: every later call returns it, for a sync that succeeds after one that failed proves nothing about the
/// bytes of the first. Stop, and recover by opening again.
///
/// ```text
/// <base>.journal   a file with records; created as NAME.new, or renamed from a spare, header synced first
/// <base>.spare     a file that was forgotten, full of stale bytes, to be written again
/// journal.reserve  blocks for when the disk is full
/// <base>.new       a file that a crash kept from becoming a journal file; removed on open
/// ```
#[derive(Debug)]
pub struct Files<D: Disk> {
    disk: D,
    dir: PathBuf,
    options: Options,
    /// Oldest first; durable.
    sealed: VecDeque<Segment>,
    /// The file that is written; none before the first round.
    current: Option<Current<D::File>>,
    /// Names of spare files.
    spares: Vec<String>,
    /// Whether there is a reserve.
    reserved: bool,
    /// Where the next round begins.
    end: Lsn,
    /// Bytes written since the last sync.
    written: u64,
    /// Bytes of zeros to have ahead.
    ahead: u64,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Current<F> {
    file: F,
    path: PathBuf,
    base: Lsn,
    /// Bytes after the header that are on the disk, as zeros or stale: writing them changes no metadata.
    allocated: u64,
    /// The same, but for the zeros behind `allocated` the next sync has yet to come.
    zeroed: u64,
    /// Whether a round was written after the last sync.
    unsynced: bool,
}

impl<D: Disk> Files<D> {
    /// Opens the journal in `dir`, creating the directory if there is none, and visits its records in order.
    /// What was visited is durable when this returns, not before. An error of the visitor ends it.
    ///
    /// Reads whole files, one at a time, into memory. A file that forgetting began to remove may come back
    /// after a power cut, so the visitor can see records again that it asked to forget, always a contiguous
    /// run in front of those it kept. Nothing here can tell that the *oldest* files were deleted by somebody
    /// else: compare [`oldest`](Files::oldest) with what you remember.
    pub fn open(
        disk: D,
        dir: &Path,
        options: Options,
        visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
    ) -> Result<(Files<D>, Recovered)> {
        disk.create_dir(dir).map_err(|error| Error::io("create", dir, &error))?;
        let names = disk.list(dir).map_err(|error| Error::io("list", dir, &error))?;
        let (segments, recovered) = recovery::recover(&disk, dir, &names, options.journal, visit)?;
        let mut files = Files {
            disk,
            dir: dir.to_owned(),
            sealed: segments.into(),
            current: None,
            spares: Vec::new(),
            reserved: false,
            end: recovered.next,
            written: 0,
            ahead: options.zero_ahead_min.max(1),
            failed: None,
            options,
        };
        files.tidy(names)?;
        Ok((files, recovered))
    }

    /// Writes a round, which must be the one after the last; begins a new file first where one is full.
    /// It is durable after the next [`sync`](Files::sync). [`Kind::Full`]: it must be written again.
    pub fn write(&mut self, round: &Round) -> Result<()> {
        self.check()?;
        if round.is_empty() {
            return Ok(());
        }
        assert_eq!(round.first(), self.end, "rounds are written in the order they were taken");
        let mut outcome = self.try_write(round);
        if self.reserved && outcome.as_ref().is_err_and(|error| error.kind == Kind::Full) {
            outcome = self.roll_to_reserve().and_then(|()| self.try_write(round));
        }
        self.remember(outcome)
    }

    /// Makes durable what was written: one fdatasync, none if nothing was. Everything below the returned lsn
    /// is durable.
    pub fn sync(&mut self) -> Result<Lsn> {
        self.check()?;
        let outcome = self.current.as_mut().map_or(Ok(()), Current::sync);
        self.remember(outcome)?;
        let (least, most) = (self.options.zero_ahead_min.max(1), self.options.zero_ahead_max);
        self.ahead = (self.written * 2).min(most).max(least);
        self.written = 0;
        Ok(self.end)
    }

    /// Extends the file by zeros before a round needs them, so that it need not wait: call it after a sync. They
    /// are synced together with what is written next, and used after that. Does nothing while enough lie ahead.
    ///
    /// False when the disk is full: some rounds may still fit, and the next may not.
    pub fn prepare(&mut self) -> Result<bool> {
        self.check()?;
        let (end, ahead, file_size) = (self.end, self.ahead, self.options.file_size);
        let Some(current) = &mut self.current else {
            return Ok(true);
        };
        let used = end.since(current.base) as u64;
        let is_prepared = current.zeroed >= file_size || current.zeroed.saturating_sub(used) >= ahead;
        let mut outcome = Ok(());
        if !is_prepared {
            outcome = current.zero((current.zeroed + ahead).min(file_size));
        }
        if !self.reserved && self.options.reserve > 0 {
            outcome = outcome.and_then(|()| self.make_reserve());
        }
        match outcome {
            Err(error) if error.kind == Kind::Full => Ok(false),
            outcome => self.remember(outcome.map(|()| true)),
        }
    }

    /// Removes the files all of whose records lie below `before`, or keeps them as spares. The file that is
    /// written stays.
    pub fn forget(&mut self, before: Lsn) -> Result<()> {
        self.check()?;
        let outcome = self.try_forget(before);
        self.remember(outcome)
    }

    /// Where the oldest file begins.
    pub fn oldest(&self) -> Lsn {
        let written = self.current.as_ref().map_or(self.end, |current| current.base);
        self.sealed.front().map_or(written, |segment| segment.base)
    }

    /// Bytes on the disk, with what is allocated ahead and without spares.
    pub fn size(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.len).sum();
        sealed + self.current.as_ref().map_or(0, Current::len)
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn remember<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.failed = outcome.as_ref().err().filter(|error| error.kind != Kind::Full).cloned();
        outcome
    }

    fn try_write(&mut self, round: &Round) -> Result<()> {
        let used = self.current.as_ref().map(|current| self.end.since(current.base) as u64);
        if used.is_none_or(|used| used >= self.options.file_size) {
            self.roll()?;
        }
        let current = self.current.as_ref().expect("a roll leaves a file to write");
        let position = round.first().since(current.base) as u64;
        self.allocate(position + round.bytes().len() as u64)?;
        let current = self.current.as_mut().expect("a roll leaves a file to write");
        current.unsynced = true;
        let written = current.file.write_at(FILE_HEADER_SIZE as u64 + position, round.bytes());
        written.map_err(|error| Error::io("write to", &current.path, &error))?;
        self.end = round.end();
        self.written += round.bytes().len() as u64;
        Ok(())
    }

    /// Makes sure that `needed` bytes after the header of the current file are on the disk. They are synced
    /// before they are used, so every record ever written lies within the length that survives a power cut;
    /// a recovery relies on it when it chooses the next base.
    fn allocate(&mut self, needed: u64) -> Result<()> {
        let (ahead, file_size) = (self.ahead, self.options.file_size);
        let Some(current) = self.current.as_mut().filter(|current| current.allocated < needed) else {
            return Ok(());
        };
        current.zero((needed + ahead).min(file_size).max(needed))?;
        current.sync()
    }

    /// Seals the current file and begins the next one.
    fn roll(&mut self) -> Result<()> {
        self.seal()?;
        let path = self.dir.join(file_name(self.end));
        let blank = self.blank(&path)?;
        self.begin(blank, path)
    }

    /// The same, where no block is free.
    fn roll_to_reserve(&mut self) -> Result<()> {
        self.seal()?;
        let reserve = self.dir.join(RESERVE);
        let file = self.disk.open(&reserve).map_err(|error| Error::io("open", &reserve, &error))?;
        self.reserved = false;
        self.begin((file, reserve), self.dir.join(file_name(self.end)))
    }

    fn seal(&mut self) -> Result<()> {
        // One without a round is replaced, for the next has its name.
        if let Some(mut full) = self.current.take().filter(|current| current.base < self.end) {
            // The next header claims that all below is durable.
            full.sync()?;
            self.sealed.push_back(Segment::filled(full.base, self.end, full.len()));
        }
        Ok(())
    }

    /// Begins the next file, at `path`, in a file that waits at another.
    fn begin(&mut self, (mut file, blank): (D::File, PathBuf), path: PathBuf) -> Result<()> {
        let base = self.end;
        let last = self.sealed.back().map_or((base, base), |segment| (segment.base, segment.end));
        let header =
            FileHeader { journal: self.options.journal, base, previous: last.0, previous_end: last.1 };
        let begun = write_header(&mut file, &header, &blank).and_then(|len| {
            self.publish(&blank, &path)?;
            Ok(len)
        });
        let len = begun.inspect_err(|_| self.give_back(&blank))?;
        let allocated = len - FILE_HEADER_SIZE as u64;
        self.current = Some(Current { file, path, base, allocated, zeroed: allocated, unsynced: false });
        Ok(())
    }

    /// Sets blocks aside. They need not be durable: after a power cut others are.
    fn make_reserve(&mut self) -> Result<()> {
        let path = self.dir.join(RESERVE);
        let created = self.disk.create(&path);
        let mut file = created.map_err(|error| Error::io("create", &path, &error))?;
        let reserved = file.reserve(self.options.reserve);
        reserved.map_err(|error| {
            self.give_back(&path);
            Error::io("extend", &path, &error)
        })?;
        self.reserved = true;
        Ok(())
    }

    /// Opens a spare, or creates a file with its first zeros, to become the one at `path`.
    fn blank(&mut self, path: &Path) -> Result<(D::File, PathBuf)> {
        if let Some(spare) = self.spares.pop() {
            let spare = self.dir.join(spare);
            let file = self.disk.open(&spare);
            return Ok((file.map_err(|error| Error::io("open", &spare, &error))?, spare));
        }
        let new = path.with_extension("new");
        let created = self.disk.create(&new);
        let mut file = created.map_err(|error| Error::io("create", &new, &error))?;
        let zeros = self.ahead.min(self.options.file_size).max(1);
        let zeroed = file.zero(FILE_HEADER_SIZE as u64, zeros);
        zeroed.map_err(|error| {
            self.give_back(&new);
            Error::io("extend", &new, &error)
        })?;
        Ok((file, new))
    }

    /// A file did not come to be a journal's: another attempt will need it, or its place.
    fn give_back(&mut self, blank: &Path) {
        match blank.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.ends_with(".spare") => self.spares.push(name.to_owned()),
            // If it stays, the next attempt says so.
            _ => drop(self.disk.remove(blank)),
        }
    }

    /// Gives a finished file its name, durably.
    fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to).map_err(|error| Error::io("rename", from, &error))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        self.disk.sync_dir(&self.dir).map_err(|error| Error::sync(&self.dir, &error))
    }

    fn try_forget(&mut self, before: Lsn) -> Result<()> {
        while let Some(oldest) = self.sealed.front() {
            // The last file stays, for it says where the journal goes on.
            let last = self.current.is_none() && self.sealed.len() == 1;
            if last || oldest.end > before {
                return Ok(());
            }
            let (path, spare) = (self.dir.join(&oldest.name), format!("{:020}.spare", oldest.base));
            // Each removal is durable before the next, or a power cut could leave a hole in the journal, and
            // before a spare is written, or old names could come back over new bytes.
            let kept = self.is_worth_keeping(oldest) && self.keep_as(&path, &spare)?;
            if kept {
                self.spares.push(spare);
            } else {
                let removed = self.disk.remove(&path).map_err(|error| Error::io("remove", &path, &error));
                if removed.as_ref().is_err_and(|error| error.kind == Kind::Full) {
                    // On some file systems a removal needs room. It is asked for again.
                    return Ok(());
                }
                removed?;
                self.sync_dir()?;
            }
            self.sealed.pop_front();
        }
        Ok(())
    }

    /// Makes a spare of a file, if there is room for another name.
    fn keep_as(&self, path: &Path, spare: &str) -> Result<bool> {
        match self.publish(path, &self.dir.join(spare)) {
            Err(error) if error.kind == Kind::Full => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Whether a file can be a spare: of full length, and not blown up by one huge round.
    fn is_worth_keeping(&self, segment: &Segment) -> bool {
        let file_size = self.options.file_size;
        self.spares.len() < self.options.spares_max
            && (file_size..=file_size * 2).contains(&segment.len.saturating_sub(FILE_HEADER_SIZE as u64))
    }

    /// Whether a file has the length of the reserve that is wanted.
    fn is_reserve(&self, name: &str) -> Result<bool> {
        let path = self.dir.join(name);
        let file = self.disk.open_to_read(&path).map_err(|error| Error::io("open", &path, &error))?;
        let len = file.len().map_err(|error| Error::io("measure", &path, &error))?;
        Ok(self.options.reserve > 0 && len == self.options.reserve)
    }

    /// Removes what a crash left half made, and spares beyond the limit.
    fn tidy(&mut self, names: Vec<String>) -> Result<()> {
        for name in names {
            if name.ends_with(".spare") && self.spares.len() < self.options.spares_max {
                self.spares.push(name);
            } else if name == RESERVE && self.is_reserve(&name)? {
                self.reserved = true;
            } else if [".spare", ".new", ".reserve"].iter().any(|end| name.ends_with(end)) {
                let path = self.dir.join(&name);
                self.disk.remove(&path).map_err(|error| Error::io("remove", &path, &error))?;
            }
        }
        Ok(())
    }
}

/// Writes the header of the file at `path` and makes the file durable; returns its length.
fn write_header<F: File>(file: &mut F, header: &FileHeader, path: &Path) -> Result<u64> {
    let written = file.write_at(0, &header.encode());
    written.map_err(|error| Error::io("write the header of", path, &error))?;
    file.sync().map_err(|error| Error::sync(path, &error))?;
    file.len().map_err(|error| Error::io("measure", path, &error))
}

impl<F: File> Current<F> {
    fn len(&self) -> u64 {
        FILE_HEADER_SIZE as u64 + self.allocated
    }

    /// Has zeros up to `end`, not yet synced.
    fn zero(&mut self, end: u64) -> Result<()> {
        let Some(len) = end.checked_sub(self.zeroed).filter(|len| *len > 0) else {
            return Ok(());
        };
        let zeroed = self.file.zero(FILE_HEADER_SIZE as u64 + self.zeroed, len);
        zeroed.map_err(|error| Error::io("extend", &self.path, &error))?;
        self.zeroed = end;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        if self.unsynced || self.zeroed > self.allocated {
            self.file.sync().map_err(|error| Error::sync(&self.path, &error))?;
            self.unsynced = false;
            self.allocated = self.zeroed;
        }
        Ok(())
    }
}
