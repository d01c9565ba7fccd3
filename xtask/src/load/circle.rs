//! A file that was full of zeros and is written from its beginning again when it is full.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Bytes of the file.
pub(super) const FILE_SIZE: u64 = 256 << 20;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The file. It is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Circle {
    file: File,
    path: PathBuf,
    position: u64,
}

impl Circle {
    /// Creates the file with all its zeros, durably: blocks that were written before cost no metadata when they are
    /// synced. A journal recycles its files for the same reason.
    pub(super) fn create(directory: &Path, name: &str) -> Result<Circle> {
        let path = directory.join(format!("{name}-{}", std::process::id()));
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let circle = Circle { file, path, position: 0 };
        for position in (0..FILE_SIZE).step_by(ZEROS.len()) {
            circle.file.write_all_at(&ZEROS, position)?;
        }
        circle.file.sync_all()?;
        Ok(circle)
    }

    /// Writes these bytes and syncs them: one write, one fdatasync.
    pub(super) fn commit(&mut self, bytes: &[u8]) -> Result<()> {
        let size = u64::try_from(bytes.len())?;
        ensure!(size <= FILE_SIZE, "{size} bytes at once, expected at most {FILE_SIZE}");
        if self.position + size > FILE_SIZE {
            self.position = 0;
        }
        self.file.write_all_at(bytes, self.position)?;
        self.file.sync_data()?;
        self.position += size;
        Ok(())
    }
}

impl Drop for Circle {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}
