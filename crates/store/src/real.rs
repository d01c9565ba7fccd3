//! The disk of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, File};

/// Zeros are written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The file system of the machine, through plain `pwrite` and `fdatasync`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    type File = fs::File;

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        // Bodies of messages and hashes of passwords are for this user alone.
        fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<fs::File> {
        fs::File::options().read(true).write(true).open(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<fs::File> {
        fs::File::open(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<PathBuf> =
            dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_path_buf).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // A new directory is durable when the directory that holds it was synced.
        for dir in missing.iter().rev() {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A name that is no text is not one of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

impl File for fs::File {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn zero(&mut self, position: u64, len: u64) -> io::Result<()> {
        reserve(self, position, len)?;
        // Reserved blocks are not enough: a sync that also has to mark blocks as written is twice as slow as
        // one that overwrites blocks which already hold zeros.
        let end = position + len;
        let mut at = position;
        while at < end {
            let piece = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.write_all_at(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn reserve(&mut self, len: u64) -> io::Result<()> {
        reserve(self, 0, len)?;
        // A file system that cannot reserve has said nothing.
        if self.metadata()?.len() < len { self.zero(0, len) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Reserves blocks in one piece, so that a full disk says so at once. Not every file system can.
#[cfg(target_os = "linux")]
fn reserve(file: &fs::File, position: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), position, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &fs::File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}
