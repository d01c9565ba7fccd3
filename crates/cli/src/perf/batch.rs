//! Publishes that are encoded once and written over and over, many at a time.

use std::ops::Range;

use amqp::content::{Message, put_exchange_and_key};
use amqp::properties::PropertiesBuilder;

use super::link::Link;
use super::stamp::{STAMP_SIZE, Stamp};

/// Bytes of a batch: what goes to the socket in one call, and stays in the cache.
const BATCH_SIZE: usize = 128 * 1024;
/// Messages of a batch.
const MESSAGES_MAX: usize = 4096;

/// Ready-made publishes, used in a circle.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins, and behind the last one, where that ends.
    starts: Vec<usize>,
    /// How far behind its beginning a message's body begins.
    body_offset: usize,
    next: usize,
}

impl Batch {
    /// Encodes as many messages as fit, to the addresses in turn.
    pub(super) fn new(link: &Link, addresses: &[(&str, &str)], persistent: bool, body: &[u8]) -> Batch {
        let properties =
            PropertiesBuilder { delivery_mode: persistent.then_some(2), ..PropertiesBuilder::default() }
                .to_bytes();
        let mut batch = Batch { bytes: Vec::new(), starts: vec![0], body_offset: 0, next: 0 };
        while batch.starts.len() <= addresses.len() || !batch.is_full() {
            for (exchange, routing_key) in addresses {
                let mut exchange_and_key = Vec::new();
                put_exchange_and_key(&mut exchange_and_key, exchange, routing_key);
                let message = Message { exchange_and_key: &exchange_and_key, properties: &properties, body };
                link.encode_publish(&mut batch.bytes, message);
                batch.starts.push(batch.bytes.len());
            }
        }
        // Method frame, content header frame, head of the first body frame.
        let method =
            8 + 4 + 2 + 1 + addresses.first().map_or(0, |(exchange, key)| 2 + exchange.len() + key.len());
        batch.body_offset = method + 8 + 12 + properties.len() + 7;
        batch
    }

    /// The bytes of the next messages: `messages` of them, or as many as there are up to the end of the batch.
    /// Returns how many that is.
    pub(super) fn next(&mut self, messages: u64) -> (u64, &[u8]) {
        let range = self.advance(messages);
        (u64::try_from(range.len()).unwrap_or(u64::MAX), self.range(&range))
    }

    /// The same, with a stamp in each body, which must have room for it.
    pub(super) fn next_stamped(
        &mut self,
        messages: u64,
        mut stamp: impl FnMut(u64) -> Stamp,
    ) -> (u64, &[u8]) {
        let range = self.advance(messages);
        let mut count = 0;
        for message in range.clone() {
            let start = self.starts.get(message).map_or(0, |start| start + self.body_offset);
            let place = self.bytes.get_mut(start..start + STAMP_SIZE).expect("the size of bodies is checked");
            place.copy_from_slice(&stamp(count).to_bytes());
            count += 1;
        }
        (count, self.range(&range))
    }

    fn advance(&mut self, messages: u64) -> Range<usize> {
        let left = self.starts.len() - 1 - self.next;
        let count = usize::try_from(messages).map_or(left, |messages| messages.min(left));
        let range = self.next..self.next + count;
        self.next = if count == left { 0 } else { range.end };
        range
    }

    fn range(&self, messages: &Range<usize>) -> &[u8] {
        let at = |message: usize| self.starts.get(message).copied().unwrap_or_default();
        self.bytes.get(at(messages.start)..at(messages.end)).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        let messages = self.starts.len() - 1;
        let per_message = self.bytes.len() / messages.max(1);
        messages >= MESSAGES_MAX || self.bytes.len() + per_message > BATCH_SIZE
    }
}
