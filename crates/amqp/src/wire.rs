//! The primitive types of the wire: integers in network order, short and long strings, tables.
//!
//! Reading is bounds-checked and borrows; writing appends to a `Vec<u8>`.

use crate::error::{Error, Result};
use crate::table::Table;

/// Longest short string in bytes: its length is one octet.
pub const SHORT_STRING_SIZE_MAX: usize = 255;

/// Reads primitives from the front of a slice. Every failure is `502 SYNTAX_ERROR`.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read_integers {
    ($($type:ident)*) => {
        $(
            #[doc = concat!("The next `", stringify!($type), "`, in network byte order.")]
            #[inline]
            pub fn $type(&mut self) -> Result<$type> {
                Ok($type::from_be_bytes(self.array()?))
            }
        )*
    };
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    #[must_use]
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(taken)
    }

    read_integers! { u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 }

    /// A short string's bytes, which need not be UTF-8.
    #[inline]
    pub fn short_bytes(&mut self) -> Result<&'a [u8]> {
        let size = self.u8()?;
        self.take(usize::from(size))
    }

    /// A short string: one octet of length, then UTF-8.
    #[inline]
    pub fn short_string(&mut self) -> Result<&'a str> {
        str::from_utf8(self.short_bytes()?).map_err(|_| not_text())
    }

    /// A long string: four octets of length, then any bytes.
    #[inline]
    pub fn long_string(&mut self) -> Result<&'a [u8]> {
        let size = self.u32()?;
        self.take(usize::try_from(size).map_err(|_| cut_short())?)
    }

    /// A field table with its length in front, validated.
    #[inline]
    pub fn table(&mut self) -> Result<Table<'a>> {
        Table::new(self.long_string()?)
    }

    /// An octet of eight packed booleans, the first in the lowest bit.
    #[inline]
    pub fn bits(&mut self) -> Result<u8> {
        self.u8()
    }

    /// Promises that nothing is left.
    #[inline]
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(left_over(self.rest.len())) }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cold]
fn cut_short() -> Error {
    Error::syntax_error("a field ends after the bytes that hold it")
}

#[cold]
fn not_text() -> Error {
    Error::syntax_error("a short string is not UTF-8")
}

#[cold]
fn left_over(count: usize) -> Error {
    Error::syntax_error(format!("{count} bytes are left after the last field"))
}

/// Appends a short string.
///
/// # Panics
/// If `text` is longer than [`SHORT_STRING_SIZE_MAX`] bytes; whoever takes names from elsewhere checks them.
#[inline]
pub fn put_short_string(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("a short string has at most 255 bytes"));
    out.extend_from_slice(text.as_bytes());
}

/// Appends a long string, or a table or array with its length.
///
/// # Panics
/// If `bytes` is longer than 4 GiB.
#[inline]
pub fn put_long_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&size_u32(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A size as it goes into four octets; nothing that this crate writes is longer.
#[inline]
pub(crate) fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("an encoded field is shorter than 4 GiB")
}
