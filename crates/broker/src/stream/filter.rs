//! Filters: a publisher marks messages with a value, a reader asks for some values, and what cannot hold them is not read.

use amqp::properties::Properties;
use amqp::table::Value;

use crate::message::{Message, Messages};

/// The fewest bytes of a bloom filter.
pub const FILTER_SIZE_MIN: usize = 16;
/// The most bytes of a bloom filter.
pub const FILTER_SIZE_MAX: usize = 255;

/// The header that marks a message.
const VALUE: &str = "x-stream-filter-value";

/// Bits per value. With 16 bytes and ten values 0.5 % of the others seem to be there.
const HASHES: u64 = 4;

/// A bit of the first byte of properties: there are headers.
const HAS_HEADERS: u8 = 1 << 5;

/// The mark of a message, if it has one.
pub(crate) fn value_of<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let properties = message.properties();
    if properties.first()? & HAS_HEADERS == 0 {
        return None;
    }
    Properties::new(properties).ok()?.headers()?.get(VALUE)?.as_bytes()
}

/// What a reader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Messages with one of these values.
    pub values: Vec<Box<[u8]>>,
    /// Messages without a value.
    pub unfiltered: bool,
}

impl Wanted {
    /// Reads the arguments `x-stream-filter`, a string or an array of them, and `x-stream-match-unfiltered`.
    pub(crate) fn of(filter: Value<'_>, unfiltered: bool) -> Option<Wanted> {
        let values: Vec<Box<[u8]>> = match filter {
            Value::LongString(value) => vec![value.into()],
            Value::Array(values) => values.iter().filter_map(Value::as_bytes).map(Box::from).collect(),
            _ => return None,
        };
        Some(Wanted { values, unfiltered })
    }

    /// Whether the reader wants this message.
    pub(crate) fn takes(&self, message: &Message<'_>) -> bool {
        match value_of(message) {
            Some(value) => self.values.iter().any(|wanted| **wanted == *value),
            None => self.unfiltered,
        }
    }

    /// Whether some message may be wanted among those with these marks.
    pub(crate) fn may_be_in(&self, marks: &Marks) -> bool {
        (self.unfiltered && marks.unfiltered) || self.values.iter().any(|value| marks.may_hold(value))
    }
}

/// What is known of the values of many messages: a bloom filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// There is a message without a value.
    pub unfiltered: bool,
    /// Bits of the values; none when there is no value.
    pub bloom: Box<[u8]>,
}

impl Marks {
    /// Of all these messages, in a filter of `size` bytes.
    pub(crate) fn of<'a>(messages: impl Iterator<Item = &'a Messages>, size: usize) -> Marks {
        let (mut bloom, mut unfiltered) = (Vec::new(), false);
        for message in messages.flat_map(Messages::iter) {
            match value_of(&message) {
                Some(value) => {
                    bloom.resize(size.clamp(FILTER_SIZE_MIN, FILTER_SIZE_MAX), 0);
                    places(value, bloom.len()).for_each(|(byte, bit)| bloom[byte] |= bit);
                }
                None => unfiltered = true,
            }
        }
        Marks { unfiltered, bloom: bloom.into() }
    }

    fn may_hold(&self, value: &[u8]) -> bool {
        !self.bloom.is_empty()
            && places(value, self.bloom.len()).all(|(byte, bit)| self.bloom[byte] & bit != 0)
    }
}

/// The bits of a value in a filter of so many bytes: byte and mask. They stand in files, so they are fixed.
fn places(value: &[u8], size: usize) -> impl Iterator<Item = (usize, u8)> {
    let hash = hash(value);
    let (first, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    let bits = 8 * size as u64;
    (0..HASHES).map(move |nth| {
        let bit = (first + nth * step) % bits;
        let byte = usize::try_from(bit / 8).expect("below the size");
        (byte, 1 << (bit % 8))
    })
}

/// FNV-1a, mixed so that all bits depend on all bytes.
fn hash(value: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = value.iter().fold(0xcbf2_9ce4_8422_2325, add);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;
    use amqp::table::TableBuilder;

    fn message(value: Option<&str>) -> Messages {
        let mut properties = Vec::new();
        let headers = value.map(|value| TableBuilder::new().with("a", 1i32).with(VALUE, value));
        match &headers {
            Some(headers) => Properties::EMPTY.with_headers(headers.as_table(), &mut properties),
            None => properties.extend_from_slice(Properties::EMPTY.as_bytes()),
        }
        Parts { route: b"\0\x01q", properties: &properties, body: b"" }.to_messages()
    }

    fn wanted(values: &[&str], unfiltered: bool) -> Wanted {
        Wanted { values: values.iter().map(|value| value.as_bytes().into()).collect(), unfiltered }
    }

    #[test]
    fn a_reader_gets_what_it_asks_for() {
        let (red, blue, none) = (message(Some("red")), message(Some("blue")), message(None));
        let takes = |wanted: &Wanted| [&red, &blue, &none].map(|message| wanted.takes(&message.first()));
        assert_eq!(takes(&wanted(&["red"], false)), [true, false, false]);
        assert_eq!(takes(&wanted(&["red", "blue"], true)), [true, true, true]);
        assert_eq!(takes(&wanted(&[], true)), [false, false, true]);
    }

    #[test]
    fn what_is_there_is_found_and_hardly_anything_else() {
        for size in [FILTER_SIZE_MIN, FILTER_SIZE_MAX] {
            let there: Vec<Messages> =
                (0..10).map(|number| message(Some(&format!("value {number}")))).collect();
            let marks = Marks::of(there.iter(), size);
            let found = |number: u32| wanted(&[&format!("value {number}")], true).may_be_in(&marks);
            assert!((0..10).all(found));
            let wrong = (10..10_010).filter(|number| found(*number)).count();
            assert!(wrong < 200, "{wrong} of 10,000 in {size} bytes");
        }
        let marks = Marks::of([message(None)].iter(), FILTER_SIZE_MIN);
        assert!(!wanted(&["x"], false).may_be_in(&marks) && wanted(&["x"], true).may_be_in(&marks));
    }

    /// Filters stand in files.
    #[test]
    fn bits_are_fixed() {
        let marks = Marks::of([message(Some("red")), message(Some("blue"))].iter(), FILTER_SIZE_MIN);
        expect_test::expect![
            "Marks { unfiltered: false, bloom: [128, 0, 0, 64, 32, 0, 0, 1, 0, 0, 66, 0, 0, 8, 16, 0] }"
        ]
        .assert_eq(&format!("{marks:?}"));
    }
}
