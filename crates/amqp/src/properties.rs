//! The properties of a message, as they stand in its content header after the body size.
//!
//! ```text
//! flags u16 │ content-type s │ content-encoding s │ headers T │ delivery-mode u8 │ priority u8 │ correlation-id s
//!           │ reply-to s │ expiration s │ message-id s │ timestamp u64 │ type s │ user-id s │ app-id s │ cluster-id s
//! ```
//! Only fields whose flag is set are there, the first flag is the highest bit. Properties stay these bytes.

mod builder;

use crate::error::{Error, Result};
use crate::table::{Table, Value};
use crate::wire::Reader;
pub use builder::PropertiesBuilder;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const KIND: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;

/// Bits that no property of this version has: the second-lowest, and the mark of another word of flags.
const UNKNOWN: u16 = 0b11;

/// The delivery mode of a message that survives a restart.
const PERSISTENT: u8 = 2;

/// A validated, encoded property list.
///
/// Invariant: `bytes` are the flags and exactly the fields that they announce; headers are a valid table;
/// reply-to, expiration and user-id, on which a broker acts, are UTF-8. The other strings pass through as
/// they are, like in RabbitMQ; their getters yield `None` where they are not UTF-8. `delivery_mode` is 0 if
/// there is none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Properties<'a> {
    bytes: &'a [u8],
    flags: u16,
    delivery_mode: u8,
}

macro_rules! strings {
    ($($(#[$doc:meta])* $name:ident $flag:ident;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(self) -> Option<&'a str> {
                str::from_utf8(self.find($flag)?.short_bytes().ok()?).ok()
            }
        )*
    };
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Properties<'static> = Properties { bytes: &[0, 0], flags: 0, delivery_mode: 0 };

    /// Checks `bytes`: the flags, then the fields.
    ///
    /// # Errors
    /// `502 SYNTAX_ERROR` for unknown flags or a second word of them, fields that are cut short or left over.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u16()?;
        let mut properties = Self { bytes, flags, delivery_mode: 0 };
        if flags & UNKNOWN != 0 {
            return Err(Error::syntax_error(format!("property flags {flags:#06x} have unknown bits")));
        }
        if flags & DELIVERY_MODE != 0 {
            properties.delivery_mode = check_before(flags, DELIVERY_MODE, &mut reader)?.u8()?;
            check_fields(flags & (DELIVERY_MODE - 1), &mut reader)?;
        } else {
            check_fields(flags, &mut reader)?;
        }
        reader.finish()?;
        Ok(properties)
    }

    /// The flags and fields.
    #[must_use]
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is something that a broker has to look at before it may take the message: who published it, how
    /// long it lives, where replies go, where else it goes. May be true for nothing.
    #[must_use]
    #[inline]
    pub fn needs_a_look(self) -> bool {
        self.flags & (REPLY_TO | EXPIRATION | USER_ID) != 0 || (self.flags & HEADERS != 0 && self.may_copy())
    }

    /// Whether there may be a header CC or BCC, judged by its letters alone.
    fn may_copy(self) -> bool {
        let headers = self.find(HEADERS).and_then(|mut reader| reader.long_string().ok()).unwrap_or_default();
        let pairs = headers.iter().zip(headers.get(1..).unwrap_or_default());
        // Without an early end this takes many bytes at a time.
        pairs.fold(false, |found, (one, next)| found | ((*one == b'C') & (*next == b'C')))
    }

    /// Whether the message asks to survive a restart: delivery mode 2.
    #[must_use]
    #[inline]
    pub fn is_persistent(self) -> bool {
        self.delivery_mode == PERSISTENT
    }

    /// 1 is transient, 2 is persistent; other values have no meaning.
    #[must_use]
    #[inline]
    pub fn delivery_mode(self) -> Option<u8> {
        (self.flags & DELIVERY_MODE != 0).then_some(self.delivery_mode)
    }

    /// The headers.
    #[must_use]
    pub fn headers(self) -> Option<Table<'a>> {
        self.find(HEADERS)?.table().ok()
    }

    /// By convention 0 to 9; a queue decides what it means.
    #[must_use]
    pub fn priority(self) -> Option<u8> {
        self.find(PRIORITY)?.u8().ok()
    }

    /// Seconds since 1970, by the publisher's clock.
    #[must_use]
    pub fn timestamp(self) -> Option<u64> {
        self.find(TIMESTAMP)?.u64().ok()
    }

    strings! {
        /// MIME type of the body.
        content_type CONTENT_TYPE;
        /// Encoding of the body, such as `gzip`.
        content_encoding CONTENT_ENCODING;
        /// What connects a reply with its request.
        correlation_id CORRELATION_ID;
        /// The queue that replies go to.
        reply_to REPLY_TO;
        /// Milliseconds to live, in decimal.
        expiration EXPIRATION;
        /// The publisher's name for the message.
        message_id MESSAGE_ID;
        /// The application's type of message; the property is called `type`.
        kind KIND;
        /// The user that published.
        user_id USER_ID;
        /// The application that published.
        app_id APP_ID;
        /// Deprecated by the specification, passed through.
        cluster_id CLUSTER_ID;
    }

    /// Appends these properties with another reply-to.
    ///
    /// # Panics
    /// If `reply_to` is longer than 255 bytes.
    pub fn with_reply_to(self, reply_to: &str, out: &mut Vec<u8>) {
        self.splice(REPLY_TO, out, Some(|out: &mut Vec<u8>| crate::wire::put_short_string(out, reply_to)));
    }

    /// Appends these properties with other headers.
    pub fn with_headers(self, headers: Table<'_>, out: &mut Vec<u8>) {
        self.splice(
            HEADERS,
            out,
            Some(|out: &mut Vec<u8>| crate::wire::put_long_string(out, headers.as_bytes())),
        );
    }

    /// Appends these properties with one more header, an integer of 64 bits.
    ///
    /// # Panics
    /// If `key` is longer than 255 bytes.
    pub fn with_long_header(self, key: &str, value: i64, out: &mut Vec<u8>) {
        let headers = self.headers().map_or(&[][..], Table::as_bytes);
        let put = |out: &mut Vec<u8>| {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(headers);
            crate::wire::put_short_string(out, key);
            crate::table::put_value(out, Value::I64(value));
            let size = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
            out[at..at + 4].copy_from_slice(&size.to_be_bytes());
        };
        self.splice(HEADERS, out, Some(put));
    }

    /// Appends these properties without an expiration.
    pub fn without_expiration(self, out: &mut Vec<u8>) {
        self.splice(EXPIRATION, out, None::<fn(&mut Vec<u8>)>);
    }

    /// Appends these properties with one field replaced, or left out if there is nothing to `put`.
    fn splice(self, flag: u16, out: &mut Vec<u8>, put: Option<impl FnOnce(&mut Vec<u8>)>) {
        let mut reader = Reader::new(self.bytes.get(2..).unwrap_or_default());
        let fields = reader.rest();
        let valid = skip_fields(self.flags & above(flag), &mut reader);
        let before = fields.strip_suffix(reader.rest()).unwrap_or_default();
        let valid = valid.and_then(|()| skip_fields(self.flags & flag, &mut reader));
        debug_assert!(valid.is_ok(), "the properties were validated");
        let flags = if put.is_some() { self.flags | flag } else { self.flags & !flag };
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(before);
        if let Some(put) = put {
            put(out);
        }
        out.extend_from_slice(reader.rest());
    }

    /// A reader that stands at the field, if it is there.
    fn find(self, flag: u16) -> Option<Reader<'a>> {
        if self.flags & flag == 0 {
            return None;
        }
        let mut reader = Reader::new(self.bytes.get(2..)?);
        skip_fields(self.flags & above(flag), &mut reader).ok()?;
        Some(reader)
    }
}

/// The flags of all fields that stand before this one.
fn above(flag: u16) -> u16 {
    !(flag | (flag - 1))
}

#[inline]
fn check_before<'r, 'a>(flags: u16, flag: u16, reader: &'r mut Reader<'a>) -> Result<&'r mut Reader<'a>> {
    check_fields(flags & above(flag), reader)?;
    Ok(reader)
}

#[inline]
fn check_fields(flags: u16, reader: &mut Reader<'_>) -> Result<()> {
    each_field(flags, reader, |flag, reader| match flag {
        HEADERS => reader.table().map(drop),
        REPLY_TO | EXPIRATION | USER_ID => reader.short_string().map(drop),
        _ => skip_field(flag, reader),
    })
}

fn skip_fields(flags: u16, reader: &mut Reader<'_>) -> Result<()> {
    each_field(flags, reader, skip_field)
}

#[inline]
fn each_field(
    mut flags: u16,
    reader: &mut Reader<'_>,
    read: impl Fn(u16, &mut Reader<'_>) -> Result<()>,
) -> Result<()> {
    while flags != 0 {
        let flag = 0x8000 >> flags.leading_zeros();
        read(flag, reader)?;
        flags &= !flag;
    }
    Ok(())
}

#[inline]
fn skip_field(flag: u16, reader: &mut Reader<'_>) -> Result<()> {
    match flag {
        HEADERS => reader.long_string().map(drop),
        DELIVERY_MODE | PRIORITY => reader.u8().map(drop),
        TIMESTAMP => reader.u64().map(drop),
        _ => reader.short_bytes().map(drop),
    }
}
