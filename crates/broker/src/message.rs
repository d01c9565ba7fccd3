//! Messages, encoded once by the session that took them, in the order in which the wire wants them back.
//!
//! ```text
//!  0        4             6                  10
//! +--------+-------------+------------------+----------+-------------+--------- - - -+----- - - -+
//! | size   | route len   | properties len   | exchange | routing key | properties    | body      |
//! | u32    | u16         | u32              | short    | short       | flags, fields | bytes     |
//! +--------+-------------+------------------+----------+-------------+--------- - - -+----- - - -+
//!                                            \______ route _________/
//! ```
//!
//! Integers are big-endian, as everywhere in AMQP. `size` counts the whole message with its own four bytes, so that
//! messages lie back to back and travel in one piece: see [`Messages`]. `short` is a length byte and that many bytes of
//! UTF-8. The properties stand as in a content header: a flag word, then the fields. So a delivery is three copies, and
//! nothing is parsed.

use bytes::{BufMut, Bytes, BytesMut};

const HEAD: usize = 10;

/// The parts of a message before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Names of the exchange it was published to and of its routing key, as two adjacent short strings of UTF-8.
    pub route: &'a [u8],
    /// Encoded properties: flag word and fields.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// One encoded message, looked at where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Invariant: well formed, and nothing behind it.
    bytes: &'a [u8],
    properties_at: usize,
    body_at: usize,
}

/// Encoded messages, back to back in one buffer that they share with others: never none.
#[derive(Clone, Debug)]
pub struct Messages {
    bytes: Bytes,
    count: u32,
    /// Bytes of the buffer that these keep alive.
    buffer: usize,
}

impl PartialEq for Messages {
    fn eq(&self, other: &Messages) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Messages {}

impl Parts<'_> {
    /// Bytes that `encode` will append.
    pub fn encoded_len(&self) -> usize {
        HEAD + self.route.len() + self.properties.len() + self.body.len()
    }

    /// Appends the message to `out`.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        let size = u32::try_from(self.encoded_len()).expect("bodies are much smaller than 4 GiB");
        let route_len = u16::try_from(self.route.len()).expect("two short strings");
        let properties_len = u32::try_from(self.properties.len()).expect("properties came in one frame");
        out.reserve(self.encoded_len());
        let ([s0, s1, s2, s3], [r0, r1]) = (size.to_be_bytes(), route_len.to_be_bytes());
        let [p0, p1, p2, p3] = properties_len.to_be_bytes();
        out.put_slice(&[s0, s1, s2, s3, r0, r1, p0, p1, p2, p3]);
        out.put_slice(self.route);
        out.put_slice(self.properties);
        out.put_slice(self.body);
    }

    /// The message alone in a buffer of its own.
    pub fn to_messages(&self) -> Messages {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode(&mut out);
        Messages::encoded(out.freeze(), 1)
    }
}

impl<'a> Message<'a> {
    /// Reads the message at the front of `bytes`; also gives what is behind it. `None` when the lengths do not fit the
    /// bytes or the names are not UTF-8.
    pub fn decode(bytes: &'a [u8]) -> Option<(Message<'a>, &'a [u8])> {
        let size = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
        let (bytes, rest) = bytes.split_at_checked(size)?;
        let (properties_at, body_at) = layout(bytes)?;
        if properties_at > body_at || body_at > size {
            return None;
        }
        let message = Message { bytes, properties_at, body_at };
        let (exchange, names) = split_short(message.route())?;
        let (routing_key, behind) = split_short(names)?;
        let well_formed = behind.is_empty()
            && std::str::from_utf8(exchange).is_ok()
            && std::str::from_utf8(routing_key).is_ok();
        well_formed.then_some((message, rest))
    }

    /// The message at the front of `bytes`, which [`Parts::encode`] wrote or [`Message::decode`] has seen.
    #[inline]
    fn at_front(bytes: &'a [u8]) -> Option<(Message<'a>, &'a [u8])> {
        let size = u32::from_be_bytes(*bytes.first_chunk()?);
        let (bytes, rest) = bytes.split_at_checked(size as usize)?;
        let (properties_at, body_at) = layout(bytes)?;
        Some((Message { bytes, properties_at, body_at }, rest))
    }

    /// The whole encoded message, as it goes to the log.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Exchange and routing key as two adjacent short strings, as basic.deliver wants them.
    pub fn route(&self) -> &'a [u8] {
        &self.bytes[HEAD..self.properties_at]
    }

    /// Name of the exchange it was published to.
    pub fn exchange(&self) -> &'a str {
        self.names().0
    }

    /// Its routing key.
    pub fn routing_key(&self) -> &'a str {
        self.names().1
    }

    /// Encoded properties: flag word and fields.
    pub fn properties(&self) -> &'a [u8] {
        &self.bytes[self.properties_at..self.body_at]
    }

    /// The body.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body_at..]
    }

    /// Encoded length in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn names(&self) -> (&'a str, &'a str) {
        let (exchange, rest) = split_short(self.route()).expect("decode checked the route");
        let (routing_key, _) = split_short(rest).expect("decode checked the route");
        let text = |name| std::str::from_utf8(name).expect("decode checked the names");
        (text(exchange), text(routing_key))
    }
}

impl Messages {
    /// What [`Parts::encode`] put into `bytes`, `count` times.
    pub fn encoded(bytes: Bytes, count: u32) -> Messages {
        let messages = Messages { buffer: bytes.len(), bytes, count };
        debug_assert_eq!(Messages::decode(messages.bytes.clone()).as_ref(), Some(&messages));
        messages
    }

    /// Reads messages that lie back to back; `None` when there is none, or one is not well formed.
    pub fn decode(bytes: Bytes) -> Option<Messages> {
        let buffer = bytes.len();
        Messages::decode_part(bytes, buffer)
    }

    /// The same, of a part of a buffer of so many bytes, which they keep alive.
    pub fn decode_part(bytes: Bytes, buffer: usize) -> Option<Messages> {
        let (mut rest, mut count) = (&bytes[..], 0);
        while !rest.is_empty() {
            rest = Message::decode(rest)?.1;
            count += 1;
        }
        (count > 0).then_some(Messages { buffer, bytes, count })
    }

    /// Bytes of the buffer that these keep alive, with others or alone.
    pub fn buffer_size(&self) -> usize {
        self.buffer
    }

    /// All of them in one buffer, in this order; there must be some.
    pub fn join(all: &[&Messages]) -> Messages {
        let mut bytes = BytesMut::with_capacity(all.iter().map(|messages| messages.size()).sum());
        all.iter().for_each(|messages| bytes.put_slice(&messages.bytes));
        let count = all.iter().map(|messages| messages.count).sum();
        Messages { buffer: bytes.len(), bytes: bytes.freeze(), count }
    }

    /// How many there are: at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Their encoded length in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The encoded messages.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (message, behind) = Message::at_front(rest)?;
            rest = behind;
            Some(message)
        })
    }

    /// The encoded messages, in pieces of at most `size_max` bytes or one message; with each, how many it holds.
    pub fn chunks(&self, size_max: usize) -> impl Iterator<Item = (&[u8], u32)> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (mut size, mut count) = (0, 0);
            while let Some((message, _)) = Message::at_front(&rest[size..])
                && (count == 0 || size + message.size() <= size_max)
            {
                size += message.size();
                count += 1;
            }
            let (chunk, behind) = rest.split_at(size);
            rest = behind;
            (count > 0).then_some((chunk, count))
        })
    }

    /// One after the other, each on its own.
    pub fn singles(&self) -> impl Iterator<Item = Messages> {
        let mut at = 0;
        self.iter().map(move |message| {
            let bytes = self.bytes.slice(at..at + message.size());
            at += message.size();
            Messages { bytes, count: 1, buffer: self.buffer }
        })
    }

    /// A part of them, of which whoever gets it keeps the buffer alive.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    /// The first of them.
    pub fn first(&self) -> Message<'_> {
        self.iter().next().expect("there is at least one")
    }

    /// Takes the first `count` of them; some must be left.
    pub fn split_to(&mut self, count: u32) -> Messages {
        assert!(0 < count && count < self.count, "a split leaves messages on both sides");
        let size = self.iter().take(count as usize).map(|message| message.size()).sum();
        self.count -= count;
        Messages { bytes: self.bytes.split_to(size), count, buffer: self.buffer }
    }

    /// These will stay while most of what shared their buffer has gone: moves them to a buffer of their own if they are
    /// less than an eighth of it. So a buffer is never much larger than what it is kept for.
    pub fn move_out(&mut self) {
        if self.bytes.len() < self.buffer / 8 {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
            self.buffer = self.bytes.len();
        }
    }
}

/// Where properties and body begin.
#[inline]
fn layout(bytes: &[u8]) -> Option<(usize, usize)> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let &[_, _, _, _, r0, r1, p0, p1, p2, p3] = head;
    let properties_at = HEAD + usize::from(u16::from_be_bytes([r0, r1]));
    let properties_len = usize::try_from(u32::from_be_bytes([p0, p1, p2, p3])).ok()?;
    Some((properties_at, properties_at.checked_add(properties_len)?))
}

fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARTS: Parts<'_> = Parts { route: b"\x01x\x03a.b", properties: &[0x10, 0, 2], body: b"hello" };

    #[test]
    fn a_message_gives_back_its_parts() {
        let messages = PARTS.to_messages();
        let message = messages.first();
        assert_eq!((message.exchange(), message.routing_key()), ("x", "a.b"));
        assert_eq!((message.properties(), message.body()), (&[0x10, 0, 2][..], &b"hello"[..]));
        assert_eq!(message.route(), b"\x01x\x03a.b");
        assert_eq!(message.size(), PARTS.encoded_len());
        assert_eq!((messages.count(), messages.size()), (1, PARTS.encoded_len()));
    }

    #[test]
    fn messages_are_split_between_two_of_them() {
        let mut out = BytesMut::new();
        for body in ["one", "", "three"] {
            Parts { body: body.as_bytes(), ..PARTS }.encode(&mut out);
        }
        let bodies = |messages: &Messages| {
            messages
                .iter()
                .map(|message| String::from_utf8_lossy(message.body()).into_owned())
                .collect::<Vec<_>>()
        };
        let mut messages = Messages::decode(out.freeze()).unwrap();
        assert_eq!(messages.count(), 3);
        let first = messages.split_to(1);
        assert_eq!(
            (bodies(&first), bodies(&messages)),
            (vec!["one".into()], vec!["".into(), "three".into()])
        );
        messages.split_to(1);
        assert_eq!((bodies(&messages), messages.count()), (vec!["three".to_owned()], 1));
    }

    #[test]
    fn what_stays_behind_leaves_a_large_buffer() {
        let mut out = BytesMut::new();
        (0..100).for_each(|_| PARTS.encode(&mut out));
        let mut messages = Messages::decode(out.freeze()).unwrap();
        let place = messages.bytes.as_ptr();
        let mut many = messages.split_to(50);
        many.move_out();
        assert_eq!(many.bytes.as_ptr(), place, "half of a buffer is worth keeping it");
        let mut few = messages.split_to(5);
        let (before, place) = (few.clone(), few.bytes.as_ptr());
        few.move_out();
        assert_ne!(few.bytes.as_ptr(), place);
        assert_eq!((&few, few.count(), few.buffer), (&before, 5, few.size()));
    }

    #[test]
    fn damaged_lengths_are_refused() {
        let bytes = PARTS.to_messages().bytes;
        let damages = [
            (0, 1),
            (3, 200),
            (3, 9),
            (4, 0xff),
            (5, 0),
            (5, 7),
            (6, 1),
            (9, 9),
            (10, 200),
            (10, 0),
            (12, 4),
        ];
        for (at, value) in damages {
            let mut damaged = bytes.to_vec();
            damaged[at] = value;
            assert_eq!(Messages::decode(damaged.into()), None, "byte {at} = {value}");
        }
        assert_eq!(Messages::decode(bytes.slice(..5)), None);
        assert_eq!(Messages::decode(Bytes::new()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            // A size that fits, mostly.
            let size = u32::try_from(bytes.len()).unwrap();
            if let Some(front) = bytes.first_chunk_mut() {
                *front = size.to_be_bytes();
            }
            if let Some(messages) = Messages::decode(bytes.into()) {
                let message = messages.first();
                prop_assert_eq!(message.route().len() + message.properties().len() + message.body().len() + HEAD, message.size());
                let _ = (message.exchange(), message.routing_key());
            }
        }
    }
}
