//! When each message of a fixed rate is due.

use std::num::NonZeroU64;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// The due times of one producer, which shares a rate with others: they take turns. Times are nanoseconds of
/// the run, at most ten days for the highest rate of [`Schedule::RATE_MAX`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Messages per second of all producers together.
    rate: NonZeroU64,
    producer: u64,
    producers: u64,
}

impl Schedule {
    /// Messages per second that can be asked for.
    pub(crate) const RATE_MAX: u64 = 10_000_000;

    /// That of one of so many producers.
    pub(crate) fn new(rate: NonZeroU64, producer: u64, producers: u64) -> Schedule {
        assert!(rate.get() <= Self::RATE_MAX && producer < producers, "checked by the options");
        Schedule { rate, producer, producers }
    }

    /// When this producer's message of this number is due; the first has number 0.
    pub(crate) fn due_at_ns(&self, message: u64) -> u64 {
        let of_all = message * self.producers + self.producer;
        let (seconds, rest) = (of_all / self.rate, of_all % self.rate);
        seconds * SECOND_NS + rest * SECOND_NS / self.rate
    }

    /// How many of this producer's messages are due at this time.
    pub(crate) fn due_by(&self, now_ns: u64) -> u64 {
        let (seconds, rest) = (now_ns / SECOND_NS, now_ns % SECOND_NS);
        let mut message = (seconds * self.rate.get() + rest * self.rate.get() / SECOND_NS) / self.producers;
        // Rounding may be one off either way.
        message = message.saturating_sub(1);
        while self.due_at_ns(message) <= now_ns {
            message += 1;
        }
        message
    }

    /// Sleeps until the message of this number is due, if it is not yet.
    pub(crate) fn wait_for(&self, message: u64, now_ns: u64) {
        let wait = self.due_at_ns(message).saturating_sub(now_ns);
        if wait > 0 {
            std::thread::sleep(Duration::from_nanos(wait));
        }
    }

    /// Lets this thread's sleeps end when they should, and not up to 50 us later as is Linux's habit.
    pub(crate) fn sharpen_sleep() {
        // Without it latencies are told a little too long, which does not mislead.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u64, producer: u64, producers: u64) -> Schedule {
        Schedule::new(NonZeroU64::new(rate).unwrap(), producer, producers)
    }

    #[test]
    fn producers_take_turns() {
        let (first, second) = (schedule(4, 0, 2), schedule(4, 1, 2));
        let due = |schedule: Schedule| [0, 1, 2].map(|message| schedule.due_at_ns(message) / 1_000_000);
        assert_eq!(due(first), [0, 500, 1000]);
        assert_eq!(due(second), [250, 750, 1250]);
    }

    #[test]
    fn due_by_is_the_inverse() {
        for rate in [1, 3, 7, 4999, 20_000, Schedule::RATE_MAX] {
            for producers in [1, 3] {
                let schedule = schedule(rate, producers - 1, producers);
                for message in [0, 1, 2, 10, 12_345] {
                    let due = schedule.due_at_ns(message);
                    assert_eq!(schedule.due_by(due), message + 1, "{schedule:?} {message}");
                    if due > 0 {
                        assert_eq!(schedule.due_by(due - 1), message, "{schedule:?} {message}");
                    }
                }
            }
        }
    }

    #[test]
    fn ten_days_do_not_overflow() {
        let schedule = schedule(Schedule::RATE_MAX, 0, 1);
        assert_eq!(schedule.due_at_ns(Schedule::RATE_MAX * 864_000), 864_000 * SECOND_NS);
        assert_eq!(schedule.due_by(864_000 * SECOND_NS), Schedule::RATE_MAX * 864_000 + 1);
    }
}
