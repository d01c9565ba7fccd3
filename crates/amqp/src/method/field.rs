//! How each type of field stands in a method. Consecutive bits share an octet, the first in the lowest bit.

use crate::error::Result;
use crate::table::Table;
use crate::wire::{Reader, put_long_string, put_short_string};

/// Reads fields. `next_bit` is the mask of the next bit in `octet`; zero when the next bit opens an octet.
pub(super) struct Decoder<'a> {
    reader: Reader<'a>,
    octet: u8,
    next_bit: u8,
}

impl<'a> Decoder<'a> {
    #[inline]
    pub(super) fn new(reader: Reader<'a>) -> Self {
        Self { reader, octet: 0, next_bit: 0 }
    }

    #[inline]
    pub(super) fn finish(self) -> Result<()> {
        self.reader.finish()
    }

    #[inline]
    fn whole(&mut self) -> &mut Reader<'a> {
        self.next_bit = 0;
        &mut self.reader
    }

    #[inline]
    fn bit(&mut self) -> Result<bool> {
        if self.next_bit == 0 {
            self.octet = self.reader.bits()?;
            self.next_bit = 1;
        }
        let bit = self.octet & self.next_bit != 0;
        self.next_bit <<= 1;
        Ok(bit)
    }
}

/// Writes fields. `next_bit` is as in [`Decoder`]; the octet is the last that was written.
pub(super) struct Encoder<'o> {
    out: &'o mut Vec<u8>,
    next_bit: u8,
}

impl<'o> Encoder<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, next_bit: 0 }
    }

    fn whole(&mut self) -> &mut Vec<u8> {
        self.next_bit = 0;
        self.out
    }

    fn bit(&mut self, bit: bool) {
        if self.next_bit == 0 {
            self.out.push(0);
            self.next_bit = 1;
        }
        if let Some(octet) = self.out.last_mut()
            && bit
        {
            *octet |= self.next_bit;
        }
        self.next_bit <<= 1;
    }
}

/// A type of field. What is reserved is written as the type's default.
pub(super) trait Field<'a>: Sized {
    fn decode(decoder: &mut Decoder<'a>) -> Result<Self>;
    fn encode(self, encoder: &mut Encoder<'_>);
}

macro_rules! integers {
    ($($type:ident)*) => {
        $(impl<'a> Field<'a> for $type {
            #[inline]
            fn decode(decoder: &mut Decoder<'a>) -> Result<Self> {
                decoder.whole().$type()
            }

            fn encode(self, encoder: &mut Encoder<'_>) {
                encoder.whole().extend_from_slice(&self.to_be_bytes());
            }
        })*
    };
}

integers! { u8 u16 u32 u64 }

impl<'a> Field<'a> for bool {
    #[inline]
    fn decode(decoder: &mut Decoder<'a>) -> Result<Self> {
        decoder.bit()
    }

    fn encode(self, encoder: &mut Encoder<'_>) {
        encoder.bit(self);
    }
}

impl<'a> Field<'a> for &'a str {
    #[inline]
    fn decode(decoder: &mut Decoder<'a>) -> Result<Self> {
        decoder.whole().short_string()
    }

    fn encode(self, encoder: &mut Encoder<'_>) {
        put_short_string(encoder.whole(), self);
    }
}

impl<'a> Field<'a> for &'a [u8] {
    #[inline]
    fn decode(decoder: &mut Decoder<'a>) -> Result<Self> {
        decoder.whole().long_string()
    }

    fn encode(self, encoder: &mut Encoder<'_>) {
        put_long_string(encoder.whole(), self);
    }
}

impl<'a> Field<'a> for Table<'a> {
    #[inline]
    fn decode(decoder: &mut Decoder<'a>) -> Result<Self> {
        decoder.whole().table()
    }

    fn encode(self, encoder: &mut Encoder<'_>) {
        put_long_string(encoder.whole(), self.as_bytes());
    }
}
