//! Messages on their way out: a method frame, a header frame and as many body frames as `frame_max` asks for.
//!
//! A message is encoded once, when it arrives; sending it is copying. What varies per recipient is a few
//! octets of the method.

use crate::frame::{END, HEAD_SIZE, Kind, OVERHEAD, payload_size_max, put_head};
use crate::wire::SHORT_STRING_SIZE_MAX;

/// Bytes of a header frame's payload before the properties: class, weight, body size.
const HEADER_FIXED_SIZE: usize = 12;

/// What all recipients of a message share, as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Exchange and routing key, two adjacent encoded short strings.
    pub exchange_and_key: &'a [u8],
    /// Encoded properties: flags and fields.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// The method fields of `basic.deliver` that are not the message's.
#[derive(Clone, Copy, Debug)]
pub struct Deliver<'a> {
    /// At most 255 bytes.
    pub consumer_tag: &'a str,
    /// Counts from 1 in each channel.
    pub delivery_tag: u64,
    /// Whether the message may have been delivered before.
    pub redelivered: bool,
}

/// The method fields of `basic.get-ok` that are not the message's.
#[derive(Clone, Copy, Debug)]
pub struct GetOk {
    /// Counts from 1 in each channel.
    pub delivery_tag: u64,
    /// Whether the message may have been delivered before.
    pub redelivered: bool,
    /// Messages that are still ready in the queue.
    pub message_count: u32,
}

/// The method fields of `basic.return` that are not the message's.
#[derive(Clone, Copy, Debug)]
pub struct Return<'a> {
    /// A reply code, 312 for `NO_ROUTE`.
    pub reply_code: u16,
    /// At most 255 bytes.
    pub reply_text: &'a str,
}

/// The method fields of `basic.publish` that are not the message's.
#[derive(Clone, Copy, Default, Debug)]
pub struct Publish {
    /// Whether an unroutable message comes back.
    pub mandatory: bool,
}

/// Appends a whole `basic.deliver`. A `frame_max` of 0 is no limit.
///
/// # Panics
/// If the consumer tag is longer than 255 bytes.
#[inline]
pub fn deliver(out: &mut Vec<u8>, channel: u16, method: Deliver<'_>, message: Message<'_>, frame_max: u32) {
    reserve(out, method.size(), message, message.body.len(), frame_max);
    method.put(out, channel, message);
    put_content(out, channel, message, frame_max);
}

/// Appends a `basic.deliver` up to the body of its only body frame, for a body that is written by reference.
/// The caller writes the body and then [`END`]; if the body is empty, nothing.
///
/// # Panics
/// If the body does not [fit one frame](fits_one_frame), or the consumer tag is longer than 255 bytes.
pub fn deliver_head(
    out: &mut Vec<u8>,
    channel: u16,
    method: Deliver<'_>,
    message: Message<'_>,
    frame_max: u32,
) {
    assert!(fits_one_frame(message.body.len(), frame_max), "a body written by reference fits one frame");
    reserve(out, method.size(), message, 0, frame_max);
    method.put(out, channel, message);
    put_header(out, channel, message);
    if !message.body.is_empty() {
        put_head(out, Kind::Body, channel, message.body.len());
    }
}

/// Whether a body of this many bytes needs no second frame.
#[must_use]
#[inline]
pub fn fits_one_frame(body_size: usize, frame_max: u32) -> bool {
    body_size <= payload_size_max(frame_max)
}

/// Appends a whole `basic.get-ok`. A `frame_max` of 0 is no limit.
pub fn get_ok(out: &mut Vec<u8>, channel: u16, method: GetOk, message: Message<'_>, frame_max: u32) {
    let method_size = 4 + 8 + 1 + 4;
    reserve(out, method_size, message, message.body.len(), frame_max);
    put_head(out, Kind::Method, channel, method_size + message.exchange_and_key.len());
    out.extend_from_slice(&[0, 60, 0, 71]);
    out.extend_from_slice(&method.delivery_tag.to_be_bytes());
    out.push(u8::from(method.redelivered));
    out.extend_from_slice(message.exchange_and_key);
    out.extend_from_slice(&method.message_count.to_be_bytes());
    out.push(END);
    put_content(out, channel, message, frame_max);
}

/// Appends a whole `basic.return`. A `frame_max` of 0 is no limit.
///
/// # Panics
/// If the reply text is longer than 255 bytes.
pub fn return_(out: &mut Vec<u8>, channel: u16, method: Return<'_>, message: Message<'_>, frame_max: u32) {
    let method_size = 4 + 2 + 1 + method.reply_text.len();
    reserve(out, method_size, message, message.body.len(), frame_max);
    put_head(out, Kind::Method, channel, method_size + message.exchange_and_key.len());
    out.extend_from_slice(&[0, 60, 0, 50]);
    out.extend_from_slice(&method.reply_code.to_be_bytes());
    crate::wire::put_short_string(out, method.reply_text);
    out.extend_from_slice(message.exchange_and_key);
    out.push(END);
    put_content(out, channel, message, frame_max);
}

/// Appends a whole `basic.publish`. A `frame_max` of 0 is no limit.
#[inline]
pub fn publish(out: &mut Vec<u8>, channel: u16, method: Publish, message: Message<'_>, frame_max: u32) {
    let method_size = 4 + 2 + 1;
    reserve(out, method_size, message, message.body.len(), frame_max);
    put_head(out, Kind::Method, channel, method_size + message.exchange_and_key.len());
    out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
    out.extend_from_slice(message.exchange_and_key);
    out.extend_from_slice(&[u8::from(method.mandatory), END]);
    put_content(out, channel, message, frame_max);
}

/// Appends exchange and routing key as [`Message::exchange_and_key`] wants them.
///
/// # Panics
/// If one is longer than 255 bytes.
pub fn put_exchange_and_key(out: &mut Vec<u8>, exchange: &str, routing_key: &str) {
    crate::wire::put_short_string(out, exchange);
    crate::wire::put_short_string(out, routing_key);
}

impl Deliver<'_> {
    #[inline]
    fn size(&self) -> usize {
        4 + 1 + self.consumer_tag.len() + 8 + 1
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>, channel: u16, message: Message<'_>) {
        debug_assert!(self.consumer_tag.len() <= SHORT_STRING_SIZE_MAX);
        put_head(out, Kind::Method, channel, self.size() + message.exchange_and_key.len());
        out.extend_from_slice(&[0, 60, 0, 60]);
        crate::wire::put_short_string(out, self.consumer_tag);
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.delivery_tag.to_be_bytes();
        out.extend_from_slice(&[t0, t1, t2, t3, t4, t5, t6, t7, u8::from(self.redelivered)]);
        out.extend_from_slice(message.exchange_and_key);
        out.push(END);
    }
}

/// Makes room for all frames at once, so that the copies that follow do not grow the buffer.
#[inline]
fn reserve(out: &mut Vec<u8>, method_size: usize, message: Message<'_>, body_size: usize, frame_max: u32) {
    let method = method_size + message.exchange_and_key.len() + OVERHEAD;
    let header = HEADER_FIXED_SIZE + message.properties.len() + OVERHEAD;
    let bodies = if fits_one_frame(body_size, frame_max) {
        1
    } else {
        body_size.div_ceil(payload_size_max(frame_max))
    };
    out.reserve(method + header + body_size + bodies * OVERHEAD);
}

#[inline]
fn put_header(out: &mut Vec<u8>, channel: u16, message: Message<'_>) {
    put_head(out, Kind::Header, channel, HEADER_FIXED_SIZE + message.properties.len());
    let size = u64::try_from(message.body.len()).unwrap_or(u64::MAX);
    let [s0, s1, s2, s3, s4, s5, s6, s7] = size.to_be_bytes();
    out.extend_from_slice(&[0, 60, 0, 0, s0, s1, s2, s3, s4, s5, s6, s7]);
    out.extend_from_slice(message.properties);
    out.push(END);
}

#[inline]
fn put_content(out: &mut Vec<u8>, channel: u16, message: Message<'_>, frame_max: u32) {
    put_header(out, channel, message);
    for piece in message.body.chunks(payload_size_max(frame_max)) {
        put_head(out, Kind::Body, channel, piece.len());
        out.extend_from_slice(piece);
        out.push(END);
    }
}

const _: () = assert!(HEAD_SIZE + 1 == OVERHEAD);
