//! What a run showed, for people and for programs.

use std::fmt;
use std::time::Duration;

use indicatif::HumanCount;
use serde::Serialize;

use super::latency::Summary;
use super::options::Load;
use super::run::Measured;

/// A run's figures; also what `--json` prints. Fields that mean nothing for this run are null.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Seconds of measuring.
    seconds: f64,
    published: Option<Rate>,
    confirmed: Option<Rate>,
    consumed: Option<Rate>,
    /// Microseconds from when a message was due to be sent until it was there.
    delivery_latency_us: Option<Summary>,
    /// Microseconds from when a message was due to be sent until it was confirmed.
    confirm_latency_us: Option<Summary>,
    /// Of the whole run: messages that had not arrived when nothing more came; only if that was waited for.
    missing: Option<u64>,
    /// Whether `--verify` looked at bodies and order; if it had found fault there would be no report.
    verified: bool,
    server: Option<Server>,
    /// Processors that this program kept busy: near 1 per thread, and it is the bottleneck itself.
    generator_cores: f64,
}

#[derive(Debug, Serialize)]
struct Rate {
    messages: u64,
    per_second: f64,
    /// Millions of bytes of bodies.
    megabytes_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Server {
    pid: u32,
    cpu_seconds: f64,
    cores: f64,
    /// Per message consumed, or published if nothing is consumed.
    cpu_us_per_message: Option<f64>,
}

/// What was noted beside the counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) delivery: Option<Summary>,
    pub(crate) confirm: Option<Summary>,
    pub(crate) missing: Option<u64>,
    pub(crate) verified: bool,
}

impl Report {
    pub(crate) fn new(load: &Load, measured: &Measured, noted: &Noted) -> Report {
        let messages = measured.messages;
        let seconds = measured.elapsed.as_secs_f64().max(1e-9);
        let size = load.size as f64;
        let rate = |messages: u64| Rate {
            messages,
            per_second: messages as f64 / seconds,
            megabytes_per_second: messages as f64 * size / seconds / 1e6,
        };
        let basis = if load.publish_only { messages.published } else { messages.consumed };
        let server = |(pid, time): (u32, Duration)| Server {
            pid,
            cpu_seconds: time.as_secs_f64(),
            cores: time.as_secs_f64() / seconds,
            cpu_us_per_message: (basis > 0).then(|| time.as_secs_f64() * 1e6 / basis as f64),
        };
        Report {
            seconds,
            published: (!load.consume_only).then(|| rate(messages.published)),
            confirmed: (!load.consume_only && load.confirm.is_some()).then(|| rate(messages.confirmed)),
            consumed: (!load.publish_only).then(|| rate(messages.consumed)),
            delivery_latency_us: noted.delivery,
            confirm_latency_us: noted.confirm,
            missing: noted.missing,
            verified: noted.verified,
            server: load.server_pid.zip(measured.server_time).map(server),
            generator_cores: measured.own_time.as_secs_f64() / seconds,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, rate) in
            [("published", &self.published), ("confirmed", &self.confirmed), ("consumed", &self.consumed)]
        {
            if let Some(rate) = rate {
                writeln!(out, "{name:<10} {rate} in {:.2} s", self.seconds)?;
            }
        }
        for (name, summary) in
            [("delivery", &self.delivery_latency_us), ("confirm", &self.confirm_latency_us)]
        {
            if let Some(summary) = summary {
                writeln!(out, "{name:<10} {summary}")?;
            }
        }
        if let Some(missing) = self.missing.filter(|missing| *missing > 0) {
            writeln!(out, "missing    {} messages that never arrived", HumanCount(missing))?;
        }
        if self.verified {
            writeln!(out, "verified   every body, the order, and that nothing came twice or is missing")?;
        }
        if let Some(server) = &self.server {
            write!(out, "server     {:.2} cores", server.cores)?;
            if let Some(cpu) = server.cpu_us_per_message {
                write!(out, ", {cpu:.3} µs of processor time per message")?;
            }
            writeln!(out)?;
        }
        writeln!(out, "generator  {:.2} cores", self.generator_cores)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = format!("{:.0}", self.per_second).parse().unwrap_or(u64::MAX);
        let (rate, messages) = (HumanCount(per_second), HumanCount(self.messages));
        write!(
            out,
            "{rate} messages/s, {:.1} MB/s of bodies ({messages} messages)",
            self.megabytes_per_second
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { min, p50, p90, p99, p99_9, p99_99, max, .. } = self;
        write!(
            out,
            "min {min:.0} µs, p50 {p50:.0} µs, p90 {p90:.0} µs, p99 {p99:.0} µs, p99.9 {p99_9:.0} µs, \
             p99.99 {p99_99:.0} µs, max {max:.0} µs"
        )
    }
}
