//! A message, encoded once by the session that took it, in the order in which the wire wants it back.
//!
//! ```text
//!  0             2                  6
//! +-------------+------------------+----------+-------------+--------- - - -+----- - - -+
//! | route len   | properties len   | exchange | routing key | properties    | body      |
//! | u16         | u32              | short    | short       | flags, fields | bytes     |
//! +-------------+------------------+----------+-------------+--------- - - -+----- - - -+
//!                                   \______ route _________/
//! ```
//!
//! Integers are big-endian, as everywhere in AMQP. `short` is a length byte and that many bytes of UTF-8. The properties
//! stand as in a content header: a flag word, then the fields. So a delivery is three copies, and nothing is parsed.

use bytes::{BufMut, Bytes, BytesMut};

const HEAD: usize = 6;

/// An immutable message: a slice of the buffer in which its session encoded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
    shape: Shape,
}

/// Where the parts of an encoded message lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    route_len: u16,
    properties_len: u32,
}

/// The parts of a message before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Name of the exchange it was published to, at most 255 bytes.
    pub exchange: &'a str,
    /// Routing key, at most 255 bytes.
    pub routing_key: &'a str,
    /// Encoded properties: flag word and fields.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Parts<'_> {
    /// Bytes that `encode` will append.
    pub fn encoded_len(&self) -> usize {
        HEAD + 2 + self.exchange.len() + self.routing_key.len() + self.properties.len() + self.body.len()
    }

    /// Appends the message to `out`. Names longer than 255 bytes cannot come from a short string.
    pub fn encode(&self, out: &mut BytesMut) -> Shape {
        let exchange_len = u8::try_from(self.exchange.len()).expect("an exchange name was a short string");
        let key_len = u8::try_from(self.routing_key.len()).expect("a routing key was a short string");
        let properties_len = u32::try_from(self.properties.len()).expect("properties came in one frame");
        out.reserve(self.encoded_len());
        let route_len = 2 + u16::from(exchange_len) + u16::from(key_len);
        out.put_u16(route_len);
        out.put_u32(properties_len);
        out.put_u8(exchange_len);
        out.put_slice(self.exchange.as_bytes());
        out.put_u8(key_len);
        out.put_slice(self.routing_key.as_bytes());
        out.put_slice(self.properties);
        out.put_slice(self.body);
        Shape { route_len, properties_len }
    }

    /// The message in a buffer of its own.
    pub fn to_message(&self) -> Message {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        let shape = self.encode(&mut out);
        Message::encoded(out.freeze(), shape)
    }
}

impl Message {
    /// Reads the lengths of an encoded message; `None` when they do not fit the bytes or the names are not UTF-8.
    pub fn decode(bytes: Bytes) -> Option<Message> {
        let route_len = u16::from_be_bytes(*bytes.first_chunk()?);
        let properties_len = u32::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        let message = Message { bytes, shape: Shape { route_len, properties_len } };
        let body_at =
            HEAD.checked_add(usize::from(route_len))?.checked_add(usize::try_from(properties_len).ok()?)?;
        if body_at > message.bytes.len() {
            return None;
        }
        let (exchange, rest) = split_short(message.route())?;
        let (routing_key, rest) = split_short(rest)?;
        let well_formed = rest.is_empty()
            && std::str::from_utf8(exchange).is_ok()
            && std::str::from_utf8(routing_key).is_ok();
        well_formed.then_some(message)
    }

    /// The message that [`Parts::encode`] put into `bytes`, whose shape it said.
    pub fn encoded(bytes: Bytes, shape: Shape) -> Message {
        let message = Message { bytes, shape };
        debug_assert_eq!(Message::decode(message.bytes.clone()).as_ref(), Some(&message));
        message
    }

    /// The whole encoded message, as it goes to the log.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Exchange and routing key as two adjacent short strings, as basic.deliver wants them.
    pub fn route(&self) -> &[u8] {
        &self.bytes[HEAD..self.properties_at()]
    }

    /// Name of the exchange it was published to.
    pub fn exchange(&self) -> &str {
        self.names().0
    }

    /// Its routing key.
    pub fn routing_key(&self) -> &str {
        self.names().1
    }

    /// Encoded properties: flag word and fields.
    pub fn properties(&self) -> &[u8] {
        &self.bytes[self.properties_at()..self.body_at()]
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at()..]
    }

    /// Encoded length in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn properties_at(&self) -> usize {
        HEAD + usize::from(self.shape.route_len)
    }

    fn body_at(&self) -> usize {
        self.properties_at() + self.shape.properties_len as usize
    }

    fn names(&self) -> (&str, &str) {
        let (exchange, rest) = split_short(self.route()).expect("decode checked the route");
        let (routing_key, _) = split_short(rest).expect("decode checked the route");
        let text = |name| std::str::from_utf8(name).expect("decode checked the names");
        (text(exchange), text(routing_key))
    }
}

fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARTS: Parts<'_> =
        Parts { exchange: "x", routing_key: "a.b", properties: &[0x10, 0, 2], body: b"hello" };

    #[test]
    fn a_message_gives_back_its_parts() {
        let message = PARTS.to_message();
        assert_eq!((message.exchange(), message.routing_key()), ("x", "a.b"));
        assert_eq!((message.properties(), message.body()), (&[0x10, 0, 2][..], &b"hello"[..]));
        assert_eq!(message.route(), b"\x01x\x03a.b");
        assert_eq!(message.size(), PARTS.encoded_len());
    }

    #[test]
    fn damaged_lengths_are_refused() {
        let bytes = Bytes::copy_from_slice(PARTS.to_message().as_bytes());
        for (at, value) in [(0, 0xff), (1, 0), (1, 7), (2, 1), (5, 9), (6, 200), (6, 0), (8, 4)] {
            let mut damaged = bytes.to_vec();
            damaged[at] = value;
            assert_eq!(Message::decode(damaged.into()), None, "byte {at} = {value}");
        }
        assert_eq!(Message::decode(bytes.slice(..5)), None);
        assert_eq!(Message::decode(Bytes::new()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(message) = Message::decode(bytes.into()) {
                prop_assert_eq!(message.route().len() + message.properties().len() + message.body().len() + HEAD, message.size());
                let _ = (message.exchange(), message.routing_key());
            }
        }
    }
}
