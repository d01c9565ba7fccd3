//! How long something took, for millions of messages.

use std::ops::Range;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in nanoseconds: ten minutes.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// Latencies of messages by the time at which they were **due**, not sent: if the server stalls, the messages
/// that could not be sent meanwhile count as late too (no coordinated omission).
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    /// Nanoseconds on the run's clock. What was due outside is warm-up or too late to tell.
    due_within: Range<u64>,
}

impl Latencies {
    /// None yet. Those due outside `due_within` (nanoseconds of the run) will be left out.
    pub(crate) fn new(due_within: Range<u64>) -> Latencies {
        Latencies {
            histogram: Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)
                .expect("bounds and digits are in range"),
            due_within,
        }
    }

    /// Notes one latency; both in nanoseconds of the run.
    pub(crate) fn record(&mut self, due: u64, done: u64) {
        if self.due_within.contains(&due) {
            self.histogram.saturating_record(done.saturating_sub(due));
        }
    }

    /// The percentiles of several threads together, or nothing if nothing was noted.
    pub(crate) fn summary_of<'a>(threads: impl IntoIterator<Item = &'a Latencies>) -> Option<Summary> {
        let mut all = Latencies::new(0..u64::MAX);
        for thread in threads {
            all.histogram.add(&thread.histogram).expect("all histograms have the same bounds");
        }
        all.summary()
    }

    fn summary(&self) -> Option<Summary> {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |percentile: f64| us(self.histogram.value_at_percentile(percentile));
        (!self.histogram.is_empty()).then(|| Summary {
            messages: self.histogram.len(),
            min: us(self.histogram.min()),
            mean: self.histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p99_9: at(99.9),
            p99_99: at(99.99),
            max: us(self.histogram.max()),
        })
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub(crate) struct Summary {
    /// How many messages were timed.
    pub(crate) messages: u64,
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: f64,
    #[serde(rename = "p99.99")]
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut latencies = Latencies::new(0..u64::MAX);
        for us in 1..=10_000 {
            latencies.record(5, 5 + us * 1000);
        }
        let summary = latencies.summary().unwrap();
        let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 1000.0;
        assert!(near(summary.p50, 5000.0), "{summary:?}");
        assert!(near(summary.p99, 9900.0), "{summary:?}");
        assert!(near(summary.p99_9, 9990.0), "{summary:?}");
        assert!(near(summary.max, 10_000.0), "{summary:?}");
        assert_eq!(summary.messages, 10_000);
    }

    #[test]
    fn warm_up_and_what_was_due_after_the_end_do_not_count() {
        let mut latencies = Latencies::new(100..200);
        for due in [99, 100, 199, 200] {
            latencies.record(due, 1000);
        }
        assert_eq!(latencies.summary().map(|summary| summary.messages), Some(2));
    }

    #[test]
    fn a_stall_makes_late_what_was_due_during_it() {
        let mut latencies = Latencies::new(0..u64::MAX);
        // One message a millisecond is due; the server answers all of the first second at its end.
        for ms in 0..1000 {
            latencies.record(ms * 1_000_000, 1_000_000_000);
        }
        let p50 = latencies.summary().unwrap().p50;
        assert!((499_000.0..=502_000.0).contains(&p50), "{p50} us");
    }

    #[test]
    fn threads_add_up_and_the_longest_saturates() {
        assert_eq!(Latencies::summary_of([]), None);
        let mut one = Latencies::new(0..u64::MAX);
        one.record(0, u64::MAX);
        let summary = Latencies::summary_of([&one, &one]).unwrap();
        assert_eq!(summary.messages, 2);
        assert!(summary.max >= 600e6, "{summary:?}");
    }
}
