//! Bytes from a socket, without waiting.

use std::cell::RefCell;
use std::io::{self, ErrorKind};

use super::stream::Stream;

/// Most that one read takes, bytes.
pub(super) const READ_SIZE: usize = 256 << 10;

/// Most that one read takes from a stranger, bytes.
pub(super) const STRANGER_READ_SIZE: usize = 8 << 10;

thread_local! {
    /// Connections take turns on a thread, so one large buffer serves them all, and an idle one needs none.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 2 * READ_SIZE]);
}

/// What has arrived and was not yet understood.
#[derive(Debug, Default)]
pub(super) struct Input {
    left: Vec<u8>,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes.
    Some,
    /// Nothing yet.
    Nothing,
    /// The other side has gone.
    End,
}

impl Input {
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    /// Reads up to `size_max` bytes once and gives all there is to `parse`, which says how much it used.
    pub(super) fn read(
        &mut self,
        stream: &mut Stream,
        size_max: usize,
        parse: impl FnOnce(&[u8]) -> usize,
    ) -> io::Result<Read> {
        SCRATCH.with_borrow_mut(|scratch| {
            let left = self.left.len();
            if scratch.len() < left + size_max {
                // A frame that is larger than usual is left until all of it is there.
                scratch.resize(left + size_max, 0);
            }
            scratch[..left].copy_from_slice(&self.left);
            let size = match stream.try_read(&mut scratch[left..left + size_max]) {
                Ok(0) => return Ok(Read::End),
                Ok(size) => size,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(Read::Nothing);
                }
                Err(error) => return Err(error),
            };
            let input = &scratch[..left + size];
            let used = parse(input);
            self.keep(&input[used..]);
            Ok(Read::Some)
        })
    }

    /// Parses again what was left.
    pub(super) fn reparse(&mut self, parse: impl FnOnce(&[u8]) -> usize) {
        let used = parse(&self.left);
        self.left.drain(..used);
        if self.left.is_empty() {
            self.left = Vec::new();
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.left = Vec::new();
        } else {
            self.left.clear();
            self.left.extend_from_slice(rest);
        }
    }
}
