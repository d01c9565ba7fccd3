//! Frames: the envelope of everything after the protocol header.
//!
//! ```text
//! kind u8 │ channel u16 │ size u32 │ payload, size bytes │ 0xCE
//! ```

use crate::error::{Error, Result};
use crate::method::Method;
use crate::wire::size_u32;

/// What a client says first, before any frame; also a server's answer to all other versions.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// The octet that ends every frame.
pub const END: u8 = 0xCE;

/// Bytes before a frame's payload.
pub const HEAD_SIZE: usize = 7;

/// Bytes of a frame that are not payload.
pub const OVERHEAD: usize = HEAD_SIZE + 1;

/// Smallest `frame_max` that a peer may ask for, in bytes with overhead (the specification's minimum).
pub const SIZE_MIN: u32 = 4096;

/// `frame_max` until tuning is over, in bytes with overhead (RabbitMQ 4.1: 8192).
pub const SIZE_MAX_BEFORE_TUNE: u32 = 8192;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A method: 1.
    Method,
    /// A content header: 2.
    Header,
    /// A piece of content body: 3.
    Body,
    /// A sign of life: 8, empty, on channel 0.
    Heartbeat,
}

impl Kind {
    /// The octet on the wire.
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }

    const fn from_value(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The channel, 0 for the connection.
    pub channel: u16,
    /// The bytes between head and end.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    #[must_use]
    #[inline]
    pub fn size(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// The largest payload of a frame; a `frame_max` of 0 is no limit.
#[must_use]
#[inline]
pub fn payload_size_max(frame_max: u32) -> usize {
    match usize::try_from(frame_max) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(size) => size.saturating_sub(OVERHEAD).max(1),
    }
}

/// A frame's head, checked as far as it has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What the payload will be.
    pub kind: Kind,
    /// The channel.
    pub channel: u16,
    /// Bytes of payload announced.
    pub payload_size: usize,
}

/// Reads a frame's head, or `None` if it has not arrived whole.
///
/// # Errors
/// `501 FRAME_ERROR` for an unknown kind (as soon as its octet is there) or a frame larger than `frame_max`
/// by more than the 8 bytes that RabbitMQ tolerates; `505 UNEXPECTED_FRAME` for a heartbeat on a channel.
#[inline]
pub fn parse_head(input: &[u8], frame_max: u32) -> Result<Option<Head>> {
    let Some(&kind) = input.first() else {
        return Ok(None);
    };
    let kind = Kind::from_value(kind).ok_or_else(|| unknown_kind(kind))?;
    let Some(&[_, c0, c1, s0, s1, s2, s3]) = input.first_chunk::<HEAD_SIZE>() else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([c0, c1]);
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if frame_max != 0 && size > frame_max {
        return Err(too_large(size, frame_max));
    }
    if kind == Kind::Heartbeat && channel != 0 {
        return Err(heartbeat_on_channel(channel));
    }
    let payload_size = usize::try_from(size).map_err(|_| too_large(size, frame_max))?;
    Ok(Some(Head { kind, channel, payload_size }))
}

/// Reads the frame at the front of `input`, or `None` if it has not arrived whole.
///
/// # Errors
/// Those of [`parse_head`], and `501 FRAME_ERROR` if the frame does not end with [`END`] or a heartbeat is
/// not empty.
#[inline]
pub fn parse(input: &[u8], frame_max: u32) -> Result<Option<Frame<'_>>> {
    let Some(Head { kind, channel, payload_size }) = parse_head(input, frame_max)? else {
        return Ok(None);
    };
    let Some((payload, rest)) = input.get(HEAD_SIZE..).and_then(|rest| rest.split_at_checked(payload_size))
    else {
        return Ok(None);
    };
    let Some(&end) = rest.first() else { return Ok(None) };
    if end != END {
        return Err(bad_end(end));
    }
    if kind == Kind::Heartbeat && !payload.is_empty() {
        return Err(Error::frame_error("a heartbeat frame has a payload"));
    }
    Ok(Some(Frame { kind, channel, payload }))
}

/// The payload of the frame at the front of `input`, if that is whole and as expected. Says nothing about why
/// not, which makes it fast; [`parse`] does.
#[inline(always)]
pub(crate) fn expect(input: &[u8], kind: Kind, channel: u16, frame_max: u32) -> Option<&[u8]> {
    let (&[found, c0, c1, s0, s1, s2, s3], rest) = input.split_first_chunk::<HEAD_SIZE>()?;
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    let is_expected = found == kind.value() && u16::from_be_bytes([c0, c1]) == channel;
    if !is_expected || (frame_max != 0 && size > frame_max) {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    (*rest.first()? == END).then_some(payload)
}

#[cold]
fn unknown_kind(kind: u8) -> Error {
    Error::frame_error(format!("unknown frame type {kind}"))
}

#[cold]
fn too_large(size: u32, frame_max: u32) -> Error {
    Error::frame_error(format!("frame payload of {size} bytes is larger than frame_max {frame_max} allows"))
}

#[cold]
fn bad_end(end: u8) -> Error {
    Error::frame_error(format!("invalid frame end marker {end}, expected {END}"))
}

#[cold]
fn heartbeat_on_channel(channel: u16) -> Error {
    Error::unexpected_frame(format!("heartbeat on channel {channel}, expected channel 0"))
}

/// Appends a frame's head.
#[inline]
pub(crate) fn put_head(out: &mut Vec<u8>, kind: Kind, channel: u16, payload_size: usize) {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size_u32(payload_size).to_be_bytes();
    out.extend_from_slice(&[kind.value(), c0, c1, s0, s1, s2, s3]);
}

/// Appends a method frame.
///
/// # Panics
/// As [`Method::encode`].
pub fn method(out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
    let head = out.len();
    put_head(out, Kind::Method, channel, 0);
    let payload = out.len();
    method.encode(out);
    let size = size_u32(out.len() - payload).to_be_bytes();
    if let Some(field) = out.get_mut(head + 3..payload) {
        field.copy_from_slice(&size);
    }
    out.push(END);
}

/// Appends a `basic.ack` frame; one for every confirm, so it has its own short way.
#[inline]
pub fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    out.reserve(HEAD_SIZE + 14);
    put_head(out, Kind::Method, channel, 13);
    out.extend_from_slice(&[0, 60, 0, 80]);
    out.extend_from_slice(&delivery_tag.to_be_bytes());
    out.extend_from_slice(&[u8::from(multiple), END]);
}

/// Appends a heartbeat frame.
pub fn heartbeat(out: &mut Vec<u8>) {
    put_head(out, Kind::Heartbeat, 0, 0);
    out.push(END);
}
