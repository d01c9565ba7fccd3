//! One broker per data directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Held for as long as the broker runs; the kernel lets go of it whatever happens to the process.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory if there is none, for this user alone, and locks it.
    pub(crate) fn take(directory: &Path) -> io::Result<DirectoryLock> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirectoryLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = format!("another broker is using the data directory {}", directory.display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_broker_is_refused_until_the_first_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let first = DirectoryLock::take(&data).unwrap();
        let refused = DirectoryLock::take(&data).unwrap_err();
        assert!(refused.to_string().contains("another broker is using"), "{refused}");
        drop(first);
        DirectoryLock::take(&data).unwrap();
    }
}
