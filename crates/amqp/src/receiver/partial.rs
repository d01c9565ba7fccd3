//! A message that arrives in pieces.

use super::{BODY_SIZE_MAX, Limits, PROPERTIES_SIZE_MAX};
use crate::error::{Error, Result};
use crate::method::Method;
use crate::properties::Properties;
use crate::wire::Reader;

/// The payload of a header frame. The weight, which the specification leaves unused, is ignored.
pub(super) struct Header<'a> {
    pub(super) class: u16,
    pub(super) body_size: u64,
    pub(super) properties: &'a [u8],
}

impl<'a> Header<'a> {
    #[inline]
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(payload);
        let class = reader.u16()?;
        reader.u16()?;
        let body_size = reader.u64()?;
        Ok(Self { class, body_size, properties: reader.rest() })
    }
}

/// Invariants: `method` decodes; `properties` are valid once `body_size` is known; `body` is at most that
/// long.
#[derive(Debug)]
pub(super) struct Partial {
    id: (u16, u16),
    method: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
    body_size: Option<usize>,
}

impl Partial {
    /// A message of which the method has arrived.
    pub(super) fn new(id: (u16, u16), method: &[u8]) -> Self {
        Self { id, method: method.to_vec(), properties: Vec::new(), body: Vec::new(), body_size: None }
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.method.capacity() + self.properties.capacity() + self.body.capacity()
    }

    /// Takes the header; true if the message is complete because its body is empty.
    pub(super) fn take_header(&mut self, header: &Header<'_>, limits: &Limits) -> Result<bool> {
        if self.body_size.is_some() {
            let text = "expected content body, got non content body frame instead";
            return Err(Error::unexpected_frame(text).at(self.id));
        }
        self.check(header, limits).map_err(|error| error.at(self.id))?;
        self.properties = header.properties.to_vec();
        self.body_size = usize::try_from(header.body_size).ok();
        Ok(header.body_size == 0)
    }

    fn check(&self, header: &Header<'_>, limits: &Limits) -> Result<()> {
        let Header { class, body_size, properties } = *header;
        if class != self.id.0 {
            let expected = self.id.0;
            return Err(Error::unexpected_frame(format!(
                "expected content header for class {expected}, got one for class {class} instead"
            )));
        }
        if body_size > BODY_SIZE_MAX {
            return Err(Error::frame_error(format!(
                "content body of {body_size} bytes is larger than {BODY_SIZE_MAX}"
            )));
        }
        let max = limits.max_message_size;
        if body_size > max {
            return Err(Error::precondition_failed(format!(
                "message size {body_size} is larger than configured max size {max}"
            )));
        }
        if properties.len() > PROPERTIES_SIZE_MAX {
            let size = properties.len();
            return Err(Error::precondition_failed(format!(
                "message properties of {size} bytes are larger than max size {PROPERTIES_SIZE_MAX}"
            )));
        }
        Properties::new(properties).map(drop)
    }

    /// Takes a piece of the body; true if the message is complete.
    ///
    /// What is reserved doubles with what has arrived, whatever has been announced.
    pub(super) fn take_body(&mut self, piece: &[u8]) -> Result<bool> {
        let Some(body_size) = self.body_size else {
            let text = "expected content header, got non content header frame instead";
            return Err(Error::unexpected_frame(text).at(self.id));
        };
        let missing = body_size - self.body.len();
        if piece.len() > missing {
            let text = format!("content body is longer than the {body_size} bytes announced");
            return Err(Error::frame_error(text).at(self.id));
        }
        if piece.len() > self.body.capacity() - self.body.len() {
            self.body.reserve_exact(missing.min(piece.len().max(self.body.len())));
        }
        self.body.extend_from_slice(piece);
        Ok(piece.len() == missing)
    }

    /// Why a method must not arrive now.
    #[cold]
    pub(super) fn unexpected_method(&self) -> Error {
        let text = if self.body_size.is_some() {
            "expected content body, got non content body frame instead".to_owned()
        } else {
            format!("expected content header for class {}, got non content header frame instead", self.id.0)
        };
        Error::unexpected_frame(text).at(self.id)
    }

    /// The assembled message.
    pub(super) fn message(&self) -> Result<(Method<'_>, Properties<'_>, &[u8])> {
        Ok((Method::decode(&self.method)?, Properties::new(&self.properties)?, &self.body))
    }
}
