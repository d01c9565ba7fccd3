//! Frames from a socket with as little work as possible: their heads are read, their contents are looked at
//! only where a run needs it.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use amqp::frame::{self, Frame};
use amqp::method::Method;
use anyhow::{Context, Result, bail};

use super::link::closed_channel;

/// Bytes that one read may bring.
const READ_SIZE: usize = 256 * 1024;

/// What has been read from a socket and not been looked at.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Where what is not looked at yet begins and ends.
    begin: usize,
    end: usize,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Something,
    /// Nothing within the socket's read timeout.
    Silence,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox { bytes: vec![0; READ_SIZE], begin: 0, end: 0 }
    }

    /// Waits for more bytes. The end of the connection is an error.
    pub(super) fn read(&mut self, mut stream: &TcpStream) -> Result<Heard> {
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.bytes.len() {
            // One frame is larger than all our room.
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        match stream.read(self.bytes.get_mut(self.end..).unwrap_or_default()) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(size) => {
                self.end += size;
                Ok(Heard::Something)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(Heard::Silence)
            }
            Err(error) => Err(error).context("the connection broke"),
        }
    }

    /// Takes the next whole frame, if there is one.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>> {
        let unread = self.bytes.get(self.begin..self.end).unwrap_or_default();
        let frame = frame::parse(unread, 0)
            .map_err(|error| anyhow::anyhow!("the server said nonsense: {}", error.reply_text()))?;
        self.begin += frame.as_ref().map_or(0, Frame::size);
        Ok(frame)
    }
}

/// A method that the raw loops wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// `basic.deliver`.
    Delivery { consumer_tag: &'a [u8], delivery_tag: u64 },
    /// `basic.ack`, or `basic.nack` if not `accepted`.
    Confirm { tag: u64, multiple: bool, accepted: bool },
    /// `connection.close-ok`.
    Goodbye,
    /// Nothing that concerns a load generator.
    Else,
}

/// Reads the payload of a method frame. What ends the channel or the connection is an error.
#[inline]
pub(super) fn method(payload: &[u8]) -> Result<Said<'_>> {
    let Some((id, fields)) = payload.split_first_chunk::<4>() else {
        bail!("the server sent a method without a number");
    };
    let said = match id {
        [0, 60, 0, 60] => delivery(fields),
        [0, 60, 0, 80] => confirm(fields, true),
        [0, 60, 0, 120] => confirm(fields, false),
        _ => return rare(payload),
    };
    said.context("the server sent a method that is too short")
}

#[inline]
fn delivery(fields: &[u8]) -> Option<Said<'_>> {
    let (&size, rest) = fields.split_first()?;
    let (consumer_tag, rest) = rest.split_at_checked(size.into())?;
    let delivery_tag = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    Some(Said::Delivery { consumer_tag, delivery_tag })
}

#[inline]
fn confirm(fields: &[u8], accepted: bool) -> Option<Said<'_>> {
    let (tag, bits) = fields.split_first_chunk::<8>()?;
    Some(Said::Confirm { tag: u64::from_be_bytes(*tag), multiple: bits.first()? & 1 == 1, accepted })
}

#[cold]
fn rare(payload: &[u8]) -> Result<Said<'_>> {
    match Method::decode(payload)
        .map_err(|error| anyhow::anyhow!("the server said nonsense: {}", error.reply_text()))?
    {
        Method::ChannelClose(close) => Err(closed_channel(&close)),
        Method::ConnectionClose(close) => {
            bail!("the server closed the connection: {} {}", close.reply_code, close.reply_text)
        }
        Method::BasicCancel(cancel) => bail!("the server cancelled the consumer '{}'", cancel.consumer_tag),
        Method::ConnectionCloseOk(_) => Ok(Said::Goodbye),
        _ => Ok(Said::Else),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use amqp::content::{Deliver, Message, deliver};
    use amqp::method::{basic, channel};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let mut bytes = Vec::new();
        let method = Deliver { consumer_tag: "07", delivery_tag: 9, redelivered: false };
        let body = vec![7; READ_SIZE + 100];
        let message = Message { exchange_and_key: b"\0\x01q", properties: &[0, 0], body: &body };
        deliver(&mut bytes, 1, method, message, 0);
        let (client, mut server) = pair();
        let (head, tail) = bytes.split_at(11);
        let (head, tail) = (head.to_vec(), tail.to_vec());
        let writer = std::thread::spawn(move || {
            server.write_all(&head).unwrap();
            server.write_all(&tail).unwrap();
        });
        let mut inbox = Inbox::new();
        let mut sizes = Vec::new();
        while sizes.len() < 3 {
            assert_eq!(inbox.read(&client).unwrap(), Heard::Something);
            while let Some(frame) = inbox.next().unwrap() {
                sizes.push(frame.payload.len());
            }
        }
        writer.join().unwrap();
        assert_eq!(sizes, [4 + 3 + 8 + 1 + 3, 14, body.len()]);
        assert!(inbox.read(&client).is_err());
    }

    fn payload(method: &Method<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        method.encode(&mut payload);
        payload
    }

    #[test]
    fn deliveries_and_confirms() {
        let deliver = payload(&Method::BasicDeliver(basic::Deliver {
            consumer_tag: "12",
            delivery_tag: 77,
            redelivered: true,
            exchange: "e",
            routing_key: "k",
        }));
        let expected = Said::Delivery { consumer_tag: b"12", delivery_tag: 77 };
        assert_eq!(method(&deliver).unwrap(), expected);
        let ack = payload(&Method::BasicAck(basic::Ack { delivery_tag: 5, multiple: true }));
        let expected = Said::Confirm { tag: 5, multiple: true, accepted: true };
        assert_eq!(method(&ack).unwrap(), expected);
        let nack =
            payload(&Method::BasicNack(basic::Nack { delivery_tag: 5, multiple: false, requeue: true }));
        let expected = Said::Confirm { tag: 5, multiple: false, accepted: false };
        assert_eq!(method(&nack).unwrap(), expected);
    }

    #[test]
    fn a_closed_channel_says_why() {
        let close = channel::Close {
            reply_code: 404,
            reply_text: "NOT_FOUND - no queue",
            class_id: 60,
            method_id: 20,
        };
        let said = method(&payload(&Method::ChannelClose(close))).unwrap_err();
        assert_eq!(said.to_string(), "the server closed the channel: 404 NOT_FOUND - no queue");
    }

    #[test]
    fn every_cut_method_is_an_error() {
        for whole in
            [&[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &[0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 1]]
        {
            assert!(method(whole).is_ok());
            for size in 0..whole.len() {
                assert!(method(whole.get(..size).unwrap()).is_err(), "{size} of {whole:?}");
            }
        }
    }
}
