//! A limit on unacked messages that all consumers of a channel share, wherever their queues live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// basic.qos with global=true. The session sets the limit and gives back, the shards take.
///
/// The consumers of one channel can be spread over all shards, and the limit is exact all the same, so this is the one
/// counter that two owners touch. Without a limit nothing is counted: most channels have none.
#[derive(Clone, Debug, Default)]
pub struct Window(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// 0: no limit.
    limit: AtomicU32,
    taken: AtomicU32,
}

/// More than any limit.
const CLOSED: u32 = u32::MAX;

impl Window {
    /// Sets the limit (0: none) at a moment when `unacked` messages are out.
    pub fn set_limit(&self, limit: u32, unacked: u32) {
        if self.0.limit.load(Ordering::Relaxed) == 0 || self.0.taken.load(Ordering::Relaxed) == CLOSED {
            self.0.taken.store(unacked, Ordering::Relaxed);
        }
        self.0.limit.store(limit, Ordering::Release);
    }

    /// Has nothing more taken until a limit is set. What is taken without a limit is not counted, and some of it can be
    /// on its way to the session: it has to arrive there before anybody can count.
    pub fn close(&self) {
        self.0.taken.store(CLOSED, Ordering::Relaxed);
        self.0.limit.store(1, Ordering::Release);
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.0.limit.load(Ordering::Acquire) != 0
    }

    /// Whether all is taken.
    pub fn is_full(&self) -> bool {
        self.is_limited() && self.0.taken.load(Ordering::Acquire) >= self.0.limit.load(Ordering::Acquire)
    }

    /// Takes the right to `wanted` more unacked messages, or to as many as are left; how many it took.
    pub fn take(&self, wanted: u32) -> u32 {
        let limit = self.0.limit.load(Ordering::Acquire);
        if limit == 0 {
            return wanted;
        }
        let room = |taken: u32| wanted.min(limit.saturating_sub(taken));
        let more = |taken: u32| (room(taken) > 0).then(|| taken + room(taken));
        self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).map_or(0, room)
    }

    /// Gives back what `count` messages had taken.
    pub fn give_back(&self, count: u32) {
        if self.is_limited() {
            let less = |taken: u32| Some(taken.saturating_sub(count));
            let _ = self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_up_to_the_limit_and_again_after_giving_back() {
        let window = Window::default();
        assert!((0..1000).all(|_| window.take(1) == 1), "no limit");
        window.set_limit(3, 1);
        assert_eq!([window.take(1), window.take(1), window.take(1)], [1, 1, 0]);
        window.give_back(1);
        assert_eq!([window.take(5), window.take(1)], [1, 0], "as many as are left");
        window.set_limit(4, 0);
        assert_eq!([window.take(1), window.take(1)], [1, 0], "a new limit keeps the count");
        window.give_back(100);
        assert_eq!([window.take(3), window.take(3)], [3, 1]);
    }

    #[test]
    fn a_closed_window_gives_nothing_until_a_limit_is_set() {
        let window = Window::default();
        assert_eq!(window.take(1), 1, "no limit, so it is not counted");
        window.close();
        assert!(window.is_full() && window.take(1) == 0);
        window.set_limit(3, 1);
        assert_eq!([window.take(1), window.take(1), window.take(1)], [1, 1, 0]);
    }
}
