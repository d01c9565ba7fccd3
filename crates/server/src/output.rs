//! Bytes for a client, on their way to its socket: most of them copied, large bodies by reference.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

use bytes::Bytes;

use crate::connection::Stream;

/// Bodies from this size on, bytes, are written from where they are.
pub(crate) const REFERENCED_FROM: usize = 4 << 10;

/// Pieces that one write gathers.
const PIECES_MAX: usize = 64;

/// A buffer that is idle keeps no more than this, bytes.
const IDLE_SIZE_MAX: usize = 4 << 10;

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// To be appended to.
    pub(crate) bytes: Vec<u8>,
    /// Bodies, and behind how many of `bytes` each belongs.
    bodies: VecDeque<(usize, Bytes)>,
    /// How many of `bytes` are written, and how many of the first body.
    written: usize,
    body_written: usize,
    /// Bytes of all bodies that are still here.
    referenced: usize,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.bytes.len() && self.bodies.is_empty()
    }

    /// Bytes that wait for the socket.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.referenced - self.body_written
    }

    /// Puts a body behind all that was appended. The bytes that end its frame must follow.
    pub(crate) fn refer(&mut self, body: Bytes) {
        self.referenced += body.len();
        self.bodies.push_back((self.bytes.len(), body));
    }

    /// Writes what the socket takes; true when something was written.
    pub(crate) fn flush(&mut self, stream: &mut Stream) -> io::Result<bool> {
        self.flush_with(|output| {
            if output.bodies.is_empty() {
                return stream.try_write(&output.bytes[output.written..]);
            }
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let count = output.pieces(&mut pieces);
            stream.try_write_vectored(&pieces[..count])
        })
    }

    /// Gives back memory while nothing happens.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.capacity() > IDLE_SIZE_MAX {
            self.bytes = Vec::new();
            self.bodies = VecDeque::new();
        }
    }

    fn flush_with(&mut self, mut write: impl FnMut(&Output) -> io::Result<usize>) -> io::Result<bool> {
        let before = self.len();
        while !self.is_empty() {
            match write(self) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(size) => self.advance(size),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.drop_written();
                    return Ok(self.len() < before);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.written = 0;
        Ok(before > 0)
    }

    /// Forgets what is written, once that is the larger part: a client that always leaves something unread must not make
    /// this grow.
    fn drop_written(&mut self) {
        if self.written > IDLE_SIZE_MAX && self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.bodies.iter_mut().for_each(|(behind, _)| *behind -= self.written);
            self.written = 0;
        }
    }

    /// What is to be written next, in order, as far as there is place; how many pieces.
    fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; PIECES_MAX]) -> usize {
        let (mut at, mut skip, mut count) = (self.written, self.body_written, 0);
        for (behind, body) in &self.bodies {
            if count + 2 > PIECES_MAX {
                return count;
            }
            pieces[count] = IoSlice::new(&self.bytes[at..*behind]);
            pieces[count + 1] = IoSlice::new(&body[skip..]);
            (at, skip, count) = (*behind, 0, count + 2);
        }
        if count < PIECES_MAX {
            pieces[count] = IoSlice::new(&self.bytes[at..]);
            count += 1;
        }
        count
    }

    /// So many bytes of what was next are written.
    fn advance(&mut self, mut size: usize) {
        while let Some((behind, body)) = self.bodies.front() {
            let before = behind - self.written;
            let left = body.len() - self.body_written;
            if size < before {
                break;
            }
            self.written = *behind;
            size -= before;
            if size < left {
                self.body_written += size;
                return;
            }
            size -= left;
            self.referenced -= body.len();
            self.body_written = 0;
            self.bodies.pop_front();
        }
        self.written += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the socket takes at a time, all arrives in order.
        #[test]
        fn everything_is_written_once_and_in_order(
            parts in proptest::collection::vec((any::<bool>(), 0..50usize), 0..120),
            takes in proptest::collection::vec(0..40usize, 1..20),
        ) {
            let (mut output, mut expected) = (Output::default(), Vec::new());
            for (number, (referenced, size)) in parts.into_iter().enumerate() {
                let bytes = vec![u8::try_from(number).unwrap(); size];
                expected.extend_from_slice(&bytes);
                if referenced {
                    output.refer(bytes.into());
                } else {
                    output.bytes.extend_from_slice(&bytes);
                }
            }
            prop_assert_eq!(output.len(), expected.len());
            let mut arrived = Vec::new();
            // Now and then nothing, but not for ever.
            let mut takes = takes.into_iter().chain([7]).collect::<Vec<_>>().into_iter().cycle();
            for _ in 0..10_000 {
                output
                    .flush_with(|output| {
                        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
                        let count = output.pieces(&mut pieces);
                        let all = pieces[..count].iter().flat_map(|piece| piece.iter().copied());
                        let before = arrived.len();
                        arrived.extend(all.take(takes.next().unwrap()));
                        if arrived.len() == before { Err(ErrorKind::WouldBlock.into()) } else { Ok(arrived.len() - before) }
                    })
                    .unwrap();
                prop_assert_eq!(output.len(), expected.len() - arrived.len());
                if output.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(arrived, expected);
        }
    }
}
