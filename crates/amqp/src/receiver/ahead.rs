//! Looks whether a whole message lies in the input, right behind its method.
//!
//! Nothing is an error here: whatever is not as expected is [`Ahead::Apart`], and the way frame by frame says
//! why.

use super::partial::Header;
use super::{BODY_SIZE_MAX, Limits, PROPERTIES_SIZE_MAX};
use crate::frame::{self, Frame, HEAD_SIZE, Head, Kind, OVERHEAD};
use crate::properties::Properties;

/// What lies behind a method that has content.
pub(super) enum Ahead<'a> {
    /// The whole content.
    Whole(Content<'a>),
    /// The first part of a content that fits the caller's buffer, so it is worth waiting for the rest.
    Wait,
    /// Something else, or too much to wait for.
    Apart,
}

/// A whole content, borrowed from the input.
pub(super) struct Content<'a> {
    /// Bytes from the start of the method's frame to the end of the content.
    pub(super) used: usize,
    pub(super) properties: Properties<'a>,
    pub(super) body: &'a [u8],
}

/// The content behind the method's frame, which is the first `method_size` bytes of `input`, if it is whole.
#[inline(always)]
pub(super) fn content<'a>(
    input: &'a [u8],
    method_size: usize,
    channel: u16,
    limits: &Limits,
) -> Option<Content<'a>> {
    let rest = input.get(method_size..)?;
    let header = frame::expect(rest, Kind::Header, channel, limits.frame_max)?;
    let used = method_size + header.len() + OVERHEAD;
    let header = Header::parse(header).ok()?;
    let body_size = header.body_size_within(limits)?;
    let properties = Properties::new(header.properties).ok()?;
    if body_size == 0 {
        return Some(Content { used, properties, body: &[] });
    }
    let body = frame::expect(input.get(used..)?, Kind::Body, channel, limits.frame_max)?;
    (body.len() == body_size).then_some(Content { used: used + body_size + OVERHEAD, properties, body })
}

/// Looks behind the method's frame, which is the first `method_size` bytes of `input`.
pub(super) fn look<'a>(input: &'a [u8], method_size: usize, channel: u16, limits: &Limits) -> Ahead<'a> {
    if let Some(content) = content(input, method_size, channel, limits) {
        return Ahead::Whole(content);
    }
    let header_frame = match next(input, method_size, channel, Kind::Header, limits) {
        Ok(frame) => frame,
        Err(ahead) => return ahead,
    };
    let is_right = Header::parse(header_frame.payload).is_ok_and(|header| {
        header.body_size_within(limits).is_some() && Properties::new(header.properties).is_ok()
    });
    if !is_right {
        return Ahead::Apart;
    }
    match next(input, method_size + header_frame.size(), channel, Kind::Body, limits) {
        Ok(_) => Ahead::Apart,
        Err(ahead) => ahead,
    }
}

/// The frame at `offset`, if it is whole and of the right kind. If only its first part is there, waiting is
/// right when all of it will fit `frame_max` bytes together with what is before it: the caller's buffer holds
/// that much.
fn next<'a>(
    input: &'a [u8],
    offset: usize,
    channel: u16,
    kind: Kind,
    limits: &Limits,
) -> Result<Frame<'a>, Ahead<'a>> {
    let rest = input.get(offset..).unwrap_or_default();
    match frame::parse(rest, limits.frame_max) {
        Ok(Some(frame)) if frame.kind == kind && frame.channel == channel => Ok(frame),
        Ok(Some(_)) | Err(_) => Err(Ahead::Apart),
        Ok(None) => {
            let size = match frame::parse_head(rest, limits.frame_max) {
                Ok(Some(Head { payload_size, .. })) => payload_size.saturating_add(OVERHEAD),
                _ => HEAD_SIZE,
            };
            Err(if worth_waiting(offset.saturating_add(size), limits) { Ahead::Wait } else { Ahead::Apart })
        }
    }
}

fn worth_waiting(size: usize, limits: &Limits) -> bool {
    limits.frame_max == 0 || u32::try_from(size).is_ok_and(|size| size <= limits.frame_max)
}

impl Header<'_> {
    /// The body's size, if neither it nor the properties break a limit.
    #[inline]
    fn body_size_within(&self, limits: &Limits) -> Option<usize> {
        let is_within = self.class == 60
            && self.body_size <= limits.max_message_size.min(BODY_SIZE_MAX)
            && self.properties.len() <= PROPERTIES_SIZE_MAX;
        if is_within { usize::try_from(self.body_size).ok() } else { None }
    }
}
