//! Messages that were published and that the broker has not yet confirmed.

use std::collections::VecDeque;

use anyhow::{Result, bail};

/// The publisher's half of confirms. Call [`Window::publish`] for each message, while the window [has
/// room](Window::has_room), and [`Window::answer`] for each basic.ack and basic.nack.
#[derive(Debug)]
pub(crate) struct Window {
    size: usize,
    /// Delivery tag of the first of `answered`.
    first: u64,
    /// Whether each message is answered, in the order of publishing.
    ///
    /// Invariant: the first is not.
    answered: VecDeque<bool>,
}

impl Window {
    /// At most `size` messages wait for their confirms.
    pub(crate) fn new(size: usize) -> Window {
        Window { size, first: 1, answered: VecDeque::with_capacity(size) }
    }

    /// Whether all messages are answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.answered.is_empty()
    }

    /// Whether another message may be published.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.answered.len() < self.size
    }

    /// A message was published.
    #[inline]
    pub(crate) fn publish(&mut self) {
        debug_assert!(self.has_room(), "whoever publishes looks for room first");
        self.answered.push_back(false);
    }

    /// The broker answered `tag`, and with `multiple` all before it. Returns how many messages that were.
    ///
    /// # Errors
    /// When there is no such message or it was answered before: the broker is confused.
    pub(crate) fn answer(&mut self, tag: u64, multiple: bool) -> Result<u64> {
        let index = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(index) = index.filter(|index| self.answered.get(*index) == Some(&false)) else {
            bail!("the broker confirmed message {tag}, which does not wait for that");
        };
        let from = if multiple { 0 } else { index };
        let mut count = 0;
        for answered in self.answered.range_mut(from..=index) {
            count += u64::from(!*answered);
            *answered = true;
        }
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.first += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_come_alone_together_and_out_of_order() {
        let mut window = Window::new(4);
        (0..4).for_each(|_| window.publish());
        assert!(!window.has_room());
        assert_eq!(window.answer(3, false).unwrap(), 1);
        assert!(!window.has_room(), "the oldest still waits");
        assert_eq!(window.answer(2, true).unwrap(), 2);
        assert!(window.has_room() && !window.is_empty());
        assert!(window.answer(3, false).is_err(), "answered before");
        assert!(window.answer(5, false).is_err(), "not published");
        assert!(window.answer(0, true).is_err());
        assert_eq!(window.answer(4, true).unwrap(), 1);
        assert!(window.is_empty());
    }

    proptest! {
        #[test]
        fn every_message_is_counted_once(order in Just((1..=20u64).collect::<Vec<_>>()).prop_shuffle(), multiple: u32) {
            let mut window = Window::new(20);
            (0..20).for_each(|_| window.publish());
            let mut count = 0;
            for tag in order {
                count += window.answer(tag, multiple >> tag & 1 == 1).unwrap_or(0);
            }
            prop_assert_eq!(count, 20);
            prop_assert!(window.is_empty());
        }
    }
}
