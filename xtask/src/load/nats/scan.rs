//! NATS's text protocol from a socket, with as little work as possible.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

/// Bytes that one read may bring.
const READ_SIZE: usize = 256 * 1024;

/// What has been read from a socket and not been looked at.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
}

/// Something that the server said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// `MSG`, or `HMSG` with its headers in front of the payload.
    Message {
        reply: Option<&'a [u8]>,
        payload: &'a [u8],
    },
    Ping,
    Pong,
    /// `INFO` and `+OK`.
    Else,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox { bytes: vec![0; READ_SIZE], begin: 0, end: 0 }
    }

    /// Waits for more bytes. The end of the connection is an error.
    pub(super) fn read(&mut self, mut stream: &TcpStream) -> Result<()> {
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        match stream.read(self.bytes.get_mut(self.end..).unwrap_or_default()) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(size) => self.end += size,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the server did not answer")
            }
            Err(error) => return Err(error).context("the connection broke"),
        }
        Ok(())
    }

    /// Takes the next whole thing, if there is one.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Said<'_>>> {
        let unread = self.bytes.get(self.begin..self.end).unwrap_or_default();
        let Some((used, said)) = parse(unread)? else {
            return Ok(None);
        };
        self.begin += used;
        Ok(Some(said))
    }
}

/// The first thing in `input` and its size in bytes, if it is whole.
fn parse(input: &[u8]) -> Result<Option<(usize, Said<'_>)>> {
    let Some(line_size) = input.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let (line, rest) = input.split_at(line_size + 1);
    let said = match line.first_chunk::<4>() {
        Some(b"MSG " | b"HMSG") => {
            let (reply, size) = message_line(line)?;
            let Some(payload) = rest.get(..size).filter(|_| rest.len() >= size + 2) else {
                return Ok(None);
            };
            return Ok(Some((line.len() + size + 2, Said::Message { reply, payload })));
        }
        Some(b"PING") => Said::Ping,
        Some(b"PONG") => Said::Pong,
        Some(b"INFO" | b"+OK\r") => Said::Else,
        _ => bail!("the server said: {}", String::from_utf8_lossy(line).trim()),
    };
    Ok(Some((line.len(), said)))
}

/// `MSG subject sid [reply] size` or `HMSG subject sid [reply] header-size size`.
fn message_line(line: &[u8]) -> Result<(Option<&[u8]>, usize)> {
    let has_headers = line.starts_with(b"H");
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ').skip(3);
    let mut left = [None, None, None];
    for (place, word) in left.iter_mut().zip(&mut words) {
        *place = Some(word);
    }
    let (reply, size) = match (has_headers, left) {
        (false, [Some(size), None, None]) | (true, [Some(_), Some(size), None]) => (None, size),
        (false, [Some(reply), Some(size), None]) | (true, [Some(reply), Some(_), Some(size)]) => {
            (Some(reply), size)
        }
        _ => bail!("the server said: {}", String::from_utf8_lossy(line).trim()),
    };
    let number = size.iter().try_fold(0_usize, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    });
    Ok((reply, number.context("the server sent a size that is no number")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut input: &[u8]) -> Vec<Said<'_>> {
        let mut said = Vec::new();
        while let Some((used, one)) = parse(input).unwrap() {
            input = &input[used..];
            said.push(one);
        }
        said
    }

    #[test]
    fn messages_with_and_without_reply_and_headers() {
        let message = |reply: Option<&'static str>, payload: &'static str| Said::Message {
            reply: reply.map(str::as_bytes),
            payload: payload.as_bytes(),
        };
        let input = b"INFO {}\r\nMSG a 1 2\r\nhi\r\nMSG a 1 r.x 0\r\n\r\nHMSG a 1 3 5\r\nhhhhi\r\nHMSG a 1 r 3 3\r\nhhh\r\nPING\r\n";
        let expected = [
            Said::Else,
            message(None, "hi"),
            message(Some("r.x"), ""),
            message(None, "hhhhi"),
            message(Some("r"), "hhh"),
            Said::Ping,
        ];
        assert_eq!(all(input), expected);
    }

    #[test]
    fn what_is_not_whole_waits() {
        let whole = b"MSG a 1 2\r\nhi\r\n";
        for size in 0..whole.len() {
            assert_eq!(parse(&whole[..size]).unwrap(), None, "{size}");
        }
    }

    #[test]
    fn errors_are_told() {
        assert_eq!(
            parse(b"-ERR 'Slow Consumer'\r\n").unwrap_err().to_string(),
            "the server said: -ERR 'Slow Consumer'"
        );
        assert!(parse(b"MSG a 1 2x\r\n").is_err());
        assert!(parse(b"MSG a\r\n").is_err());
    }
}
