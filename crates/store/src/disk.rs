//! The seam between this crate and a disk: what it asks for, and no more.

use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A file system, as much of it as a journal needs. Two implementations: [`RealDisk`](crate::RealDisk) and
/// [`sim::SimDisk`](crate::sim::SimDisk); both pass [`testing::log_suite`](crate::testing::log_suite).
///
/// What is created, renamed or removed is durable only after [`sync_dir`](Disk::sync_dir) of its directory.
pub trait Disk: Send + Debug {
    /// An open file of this disk.
    type File: File;

    /// Creates an empty file, open for reading and writing; an error if there is one.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading.
    fn open_to_read(&self, path: &Path) -> io::Result<Self::File>;
    /// Creates a directory and those above it, durably. It may exist already.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name in one step, in place of the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes durable what was created, renamed and removed in `dir`.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. What is written is durable only after [`sync`](File::sync).
pub trait File: Send + Debug {
    /// Writes all of `bytes` at `position`, growing the file where needed.
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads at `position` until `buffer` is full or the file ends; returns how many bytes it read.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Fills `len` bytes from `position` with zeros and reserves their blocks, growing the file.
    fn zero(&mut self, position: u64, len: u64) -> io::Result<()>;
    /// Reserves blocks for the first `len` bytes of an empty file, which grows to that length.
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        self.zero(0, len)
    }
    /// Makes durable what was written and as much of the metadata as reading it needs (fdatasync).
    fn sync(&mut self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is not a byte in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
