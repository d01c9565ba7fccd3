//! One error for the crate: the kind says what the caller can do, the text says what, where and why.

use std::fmt;
use std::io;
use std::path::Path;

/// What a function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a journal cannot go on. It can be cloned, for it is given to everybody who waits for a confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller can do.
    pub kind: Kind,
    /// What was tried, on which file, what was expected and what was found.
    pub text: String,
}

/// What the caller of a failed function can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The disk failed: stop the node. Nothing that was waiting for it may be confirmed.
    Disk,
    /// The disk is full, and nothing was changed: try again when there is room.
    Full,
    /// The machine is out of descriptors or memory: try again.
    Busy,
    /// The file was written by a newer version: upgrade.
    Unsupported,
    /// The file is not what it should be (another journal's, or no journal at all): put the right one there.
    Foreign,
    /// The file was whole once and is not any more: put a good copy there.
    Damaged,
    /// The visitor of a recovery refused a record.
    Rejected,
}

/// ENOMEM, ENFILE and EMFILE.
const BUSY: [i32; 3] = [12, 23, 24];

impl Error {
    /// An error of `kind` with its explanation.
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// An I/O error while `doing` ("write to", "sync") something to the file at `path`.
    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::OutOfMemory => Kind::Busy,
            _ if error.raw_os_error().is_some_and(|code| BUSY.contains(&code)) => Kind::Busy,
            _ => Kind::Disk,
        };
        Error::new(kind, format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl Error {
    /// A sync of `path` that failed, why ever: what it should have made durable may be lost, so it is never tried again.
    pub(crate) fn sync(path: &Path, error: &io::Error) -> Error {
        Error { kind: Kind::Disk, ..Error::io("sync", path, error) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
