//! What a message's body says about it.
//!
//! ```text
//! due u64, nanoseconds of the run │ producer u16 │ number u48 │ filling
//! ```
//! All big-endian; the number counts from 0 per producer. Only runs that tell latencies or verify stamp.

/// Bytes of a stamp, and the smallest body that has room for one.
pub(super) const STAMP_SIZE: usize = 16;

/// Largest number of a message.
const NUMBER_MAX: u64 = (1 << 48) - 1;

/// Who sent a message, which one it is, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) due_ns: u64,
    pub(super) producer: u16,
    pub(super) number: u64,
}

impl Stamp {
    pub(super) fn to_bytes(self) -> [u8; STAMP_SIZE] {
        let mut bytes = [0; STAMP_SIZE];
        let (due, rest) = bytes.split_at_mut(8);
        due.copy_from_slice(&self.due_ns.to_be_bytes());
        let identity = u64::from(self.producer) << 48 | (self.number & NUMBER_MAX);
        rest.copy_from_slice(&identity.to_be_bytes());
        bytes
    }

    /// Reads the stamp at the front of a body.
    pub(super) fn parse(body: &[u8]) -> Option<Stamp> {
        let (due, rest) = body.split_first_chunk::<8>()?;
        let identity = u64::from_be_bytes(*rest.first_chunk::<8>()?);
        Some(Stamp {
            due_ns: u64::from_be_bytes(*due),
            producer: u16::try_from(identity >> 48).ok()?,
            number: identity & NUMBER_MAX,
        })
    }
}

/// A body of this size, before it is stamped: every byte tells its place.
pub(super) fn filling(size: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(31) ^ 0x5a).take(size).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stamps_come_back(due_ns: u64, producer: u16, number in 0..=NUMBER_MAX) {
            let stamp = Stamp { due_ns, producer, number };
            prop_assert_eq!(Stamp::parse(&stamp.to_bytes()), Some(stamp));
        }
    }

    #[test]
    fn a_short_body_has_no_stamp() {
        assert_eq!(Stamp::parse(&[0; STAMP_SIZE - 1]), None);
    }

    #[test]
    fn fillings_have_their_size() {
        assert_eq!([0, 1, 300].map(|size| filling(size).len()), [0, 1, 300]);
    }
}
