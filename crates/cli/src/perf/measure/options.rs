//! The options that every load generator here has, and what they mean together.

use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::schedule::Schedule;

/// Threads of each kind, each with a connection of its own.
const THREADS_MAX: u32 = 1000;
/// Bytes of a body.
const SIZE_MAX: usize = 512 << 20;
/// Messages that may await their confirm: small enough that the server can always write all its confirms
/// without our reading them.
const WINDOW_MAX: u32 = 50_000;
/// Seconds of a run.
const DURATION_MAX_S: f64 = 86_400.0;

/// What is published and consumed, by how many, for how long.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Load {
    /// Producers, each with a connection and a thread
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) producers: u32,

    /// Consumers, each with a connection and a thread
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) consumers: u32,

    /// Bytes of each body
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    pub(crate) size: usize,

    /// Have messages confirmed, at most so many waiting for it per producer [default: no confirms]
    #[arg(long, value_name = "MESSAGES")]
    pub(crate) confirm: Option<u32>,

    /// Acknowledge deliveries, all up to now after every so many [default: no acknowledgements]
    #[arg(long, value_name = "MESSAGES")]
    pub(crate) ack: Option<u32>,

    /// Deliveries that may wait for their acknowledgement per consumer; 0 is no limit
    #[arg(long, value_name = "MESSAGES", default_value_t = 1000)]
    pub(crate) prefetch: u16,

    /// Deliver each message to so many queues
    #[arg(long, value_name = "QUEUES")]
    pub(crate) fanout: Option<u32>,

    /// Messages per second of all producers together, and tell latencies [default: as fast as possible]
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<NonZeroU64>,

    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub(crate) duration: f64,

    /// Seconds to run before measuring; none with --count or --consume-only
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) warmup: f64,

    /// Publish so many messages in all and measure until the last one has come, instead of for a time
    #[arg(long, value_name = "MESSAGES")]
    pub(crate) count: Option<NonZeroU64>,

    /// Nobody consumes
    #[arg(long, conflicts_with = "consume_only")]
    pub(crate) publish_only: bool,

    /// Fill the queues first, then measure how fast they are emptied
    #[arg(long, requires = "prefill", conflicts_with_all = ["count", "rate", "fanout"])]
    pub(crate) consume_only: bool,

    /// Messages to fill the queues with, for --consume-only
    #[arg(long, value_name = "MESSAGES", requires = "consume_only")]
    pub(crate) prefill: Option<NonZeroU64>,

    /// Print the result as one line of JSON
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: bool,

    /// The server's process, to tell its processor time per message
    #[arg(long, value_name = "PID")]
    #[serde(skip)]
    pub(crate) server_pid: Option<u32>,
}

/// How long a run goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    /// Until the time is over.
    Time { warmup: Duration, measured: Duration },
    /// Until so many messages are published (0 if they are there already), and all their copies are there.
    Count { published: u64, consumed: u64 },
}

impl Load {
    /// Says which options do not go together or exceed a limit.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |name: &str, value: u64, min: u64, max: u64| {
            ensure!((min..=max).contains(&value), "--{name} is {value}, expected {min} to {max}");
            Ok(())
        };
        within("producers", self.producers.into(), 1, THREADS_MAX.into())?;
        within("consumers", self.consumers.into(), 1, THREADS_MAX.into())?;
        within("size", u64::try_from(self.size)?, 0, u64::try_from(SIZE_MAX)?)?;
        within("confirm", self.confirm.unwrap_or(1).into(), 1, WINDOW_MAX.into())?;
        within("fanout", self.fanout.unwrap_or(1).into(), 1, 10_000)?;
        within("rate", self.rate.map_or(1, NonZeroU64::get), 1, Schedule::RATE_MAX)?;
        let prefetch = if self.prefetch == 0 { u32::from(u16::MAX) } else { self.prefetch.into() };
        within("ack", self.ack.unwrap_or(1).into(), 1, prefetch.into())?;
        for (name, seconds) in [("duration", self.duration), ("warmup", self.warmup)] {
            if !(0.0..=DURATION_MAX_S).contains(&seconds) {
                bail!("--{name} is {seconds}, expected 0 to {DURATION_MAX_S} seconds");
            }
        }
        Ok(())
    }

    /// How long the run goes on.
    pub(crate) fn extent(&self) -> Extent {
        let copies = if self.publish_only { 0 } else { u64::from(self.fanout.unwrap_or(1)) };
        match (self.prefill, self.count) {
            (Some(prefill), _) => Extent::Count { published: 0, consumed: prefill.get() },
            (None, Some(count)) => Extent::Count { published: count.get(), consumed: count.get() * copies },
            (None, None) => Extent::Time {
                warmup: Duration::from_secs_f64(self.warmup),
                measured: Duration::from_secs_f64(self.duration),
            },
        }
    }

    /// Messages for this producer out of `--count`; as many as there is time for if there is none.
    pub(crate) fn share(&self, producer: u32) -> u64 {
        self.count.map_or(u64::MAX, |count| {
            let producers = u64::from(self.producers);
            count.get() / producers + u64::from(u64::from(producer) < count.get() % producers)
        })
    }

    /// The due times of this producer, if there is a rate.
    pub(crate) fn schedule(&self, producer: u32) -> Option<Schedule> {
        let rate = self.rate?;
        Some(Schedule::new(rate, producer.into(), self.producers.into()))
    }
}

impl Extent {
    /// When that which is measured is due, in nanoseconds of the run.
    pub(crate) fn due_within(self) -> Range<u64> {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match self {
            Extent::Time { warmup, measured } => ns(warmup)..ns(warmup + measured),
            Extent::Count { .. } => 0..u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: Load,
    }

    fn load(line: &str) -> Load {
        Line::try_parse_from(["load"].into_iter().chain(line.split_whitespace())).unwrap().load
    }

    fn check(line: &str) -> String {
        load(line).check().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn limits_are_told() {
        assert_eq!(check("--confirm 50000 --ack 1000 --producers 1000 --rate 10000000"), "");
        assert_eq!(check("--confirm 50001"), "--confirm is 50001, expected 1 to 50000");
        assert_eq!(check("--confirm 0"), "--confirm is 0, expected 1 to 50000");
        assert_eq!(check("--producers 1001"), "--producers is 1001, expected 1 to 1000");
        assert_eq!(check("--duration nan"), "--duration is NaN, expected 0 to 86400 seconds");
    }

    #[test]
    fn acks_that_would_never_be_sent() {
        assert_eq!(check("--ack 251 --prefetch 250"), "--ack is 251, expected 1 to 250");
        assert_eq!(check("--ack 60000 --prefetch 0"), "");
    }

    #[test]
    fn a_count_is_shared_out() {
        let load = load("--count 10 --producers 3");
        assert_eq!([0, 1, 2].map(|producer| load.share(producer)), [4, 3, 3]);
    }

    #[test]
    fn extents() {
        let count = |published, consumed| Extent::Count { published, consumed };
        assert_eq!(load("--count 10 --fanout 3").extent(), count(10, 30));
        assert_eq!(load("--count 10 --publish-only").extent(), count(10, 0));
        assert_eq!(load("--consume-only --prefill 7").extent(), count(0, 7));
        assert_eq!(load("--warmup 1 --duration 2").extent().due_within(), 1_000_000_000..3_000_000_000);
    }
}
