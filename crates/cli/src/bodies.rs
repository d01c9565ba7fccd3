//! The bodies of messages to publish: from arguments, files or lines of standard input.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::vec;

use amqp::receiver::BODY_SIZE_MAX;
use anyhow::{Context, Result, bail};

/// Bytes of one read of standard input.
const READ_SIZE: usize = 64 << 10;

/// Call [`Bodies::next`] for one after the other.
pub(crate) enum Bodies {
    /// Each argument is a body.
    Arguments(vec::IntoIter<OsString>),
    /// The content of each file is a body; it is read when its turn comes.
    Files(vec::IntoIter<PathBuf>),
    /// Each line is a body.
    Lines(Lines),
}

/// What comes next.
pub(crate) enum Next<'a> {
    Body(Cow<'a, [u8]>),
    /// Nothing yet: wait until [`Bodies::input`] can be read, and [`Bodies::read`].
    Wait,
    End,
}

impl Bodies {
    pub(crate) fn next(&mut self) -> Result<Next<'_>> {
        let owned = match self {
            Bodies::Arguments(arguments) => arguments.next().map(OsString::into_vec),
            Bodies::Files(paths) => paths.next().map(|path| read_file(&path)).transpose()?,
            Bodies::Lines(lines) => return Ok(lines.next()),
        };
        Ok(owned.map_or(Next::End, |body| Next::Body(Cow::Owned(body))))
    }

    /// How many there are, if that is known.
    pub(crate) fn count(&self) -> Option<usize> {
        match self {
            Bodies::Arguments(arguments) => Some(arguments.len()),
            Bodies::Files(paths) => Some(paths.len()),
            Bodies::Lines(_) => None,
        }
    }

    /// What to wait for.
    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Bodies::Lines(lines) => Some(lines.input.as_fd()),
            Bodies::Arguments(_) | Bodies::Files(_) => None,
        }
    }

    /// Reads more, when there is more.
    pub(crate) fn read(&mut self) -> Result<()> {
        match self {
            Bodies::Lines(lines) => lines.read(),
            Bodies::Arguments(_) | Bodies::Files(_) => Ok(()),
        }
    }
}

/// Lines of standard input, without their ends. Read without the standard library's buffer, so that waiting for more is
/// not in vain.
pub(crate) struct Lines {
    input: File,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that were lines.
    used: usize,
    /// Bytes at the front of the buffer in which no further end of a line is.
    searched: usize,
    is_over: bool,
}

impl Lines {
    pub(crate) fn of_stdin() -> Result<Lines> {
        let input = stdin().as_fd().try_clone_to_owned().context("cannot read standard input")?;
        Ok(Lines { input: input.into(), buffer: Vec::new(), used: 0, searched: 0, is_over: false })
    }

    fn next(&mut self) -> Next<'_> {
        let start = self.used;
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let end = match end {
            Some(distance) => self.searched + distance,
            None if !self.is_over => {
                self.searched = self.buffer.len();
                return Next::Wait;
            }
            None if start == self.buffer.len() => return Next::End,
            None => self.buffer.len(),
        };
        self.used = (end + 1).min(self.buffer.len());
        self.searched = self.used;
        Next::Body(Cow::Borrowed(&self.buffer[start..end]))
    }

    fn read(&mut self) -> Result<()> {
        self.buffer.drain(..self.used);
        self.searched -= self.used;
        self.used = 0;
        let left = self.buffer.len();
        if left as u64 > BODY_SIZE_MAX {
            bail!("a line of standard input is longer than a body may be, {BODY_SIZE_MAX} bytes");
        }
        self.buffer.resize(left + READ_SIZE, 0);
        let size =
            read_some(&mut self.input, &mut self.buffer[left..]).context("cannot read standard input")?;
        self.buffer.truncate(left + size);
        self.is_over = size == 0;
        Ok(())
    }
}

fn read_some(input: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(BODY_SIZE_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > BODY_SIZE_MAX {
        bail!("{} is larger than a body may be, {BODY_SIZE_MAX} bytes", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    /// The lines of a file with this text.
    fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(text).unwrap();
        input.rewind().unwrap();
        let mut bodies =
            Bodies::Lines(Lines { input, buffer: Vec::new(), used: 0, searched: 0, is_over: false });
        let mut found = Vec::new();
        loop {
            match bodies.next().unwrap() {
                Next::Body(body) => found.push(body.into_owned()),
                Next::Wait => bodies.read().unwrap(),
                Next::End => return found,
            }
        }
    }

    #[test]
    fn a_line_is_what_ends_with_a_newline_or_the_file() {
        assert_eq!(lines(b""), Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"\n"), [b""]);
        assert_eq!(lines(b"a\n\nb"), [&b"a"[..], b"", b"b"]);
        assert_eq!(lines(b"a\r\n\xff\n"), [&b"a\r"[..], b"\xff"]);
    }

    #[test]
    fn lines_may_be_longer_than_a_read() {
        let long = vec![b'x'; 3 * READ_SIZE];
        let mut text = long.clone();
        text.extend_from_slice(b"\nshort\n");
        text.extend_from_slice(&long);
        assert_eq!(lines(&text), [&long[..], b"short", &long[..]]);
    }
}
