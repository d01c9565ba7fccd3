//! What has arrived and was not yet understood.

use std::io::{self, ErrorKind, Read as _};
use std::net::TcpStream;

/// Bytes of the buffer at first: room for a large read behind the largest usual frame.
const SIZE: usize = 256 << 10;

/// A buffer that is read into at one end and used at the other. It grows only for a frame that is larger than it.
///
/// Invariant: `start <= end <= buffer.len()`; between them stands what was not used.
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
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
    pub(super) fn new() -> Input {
        Input { buffer: vec![0; SIZE], start: 0, end: 0 }
    }

    /// What was not used yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The first `count` of [`Input::bytes`] are done with.
    pub(super) fn used(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "only what is there can be used");
        self.start += count;
    }

    /// Reads once.
    pub(super) fn read(&mut self, stream: &mut TcpStream) -> io::Result<Read> {
        self.make_room();
        match stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                self.end += count;
                Ok(Read::Some)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Read::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the bytes to the front, where the buffer is full; doubles it, where that makes no room.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        assert!(self.end < self.buffer.len(), "a read of no bytes would look like the end");
    }
}
