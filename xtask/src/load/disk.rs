//! The bare disk: what a durable broker could do at best if it did nothing else.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use super::circle::{Circle, FILE_SIZE};
use super::measure::latency::{Latencies, Summary};
use super::measure::schedule::Schedule;

/// Measure the bare disk: write and fdatasync in a loop.
///
/// Without --rate, writes --window records at once and syncs them, over and over: group commit of as many
/// messages as may be unconfirmed. With --rate, writes each record when it is due, together with others that
/// are due by then, and syncs: the confirm latency of a broker that takes no time.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask disk-load --window 1000 --size 16\n  cargo xtask disk-load --rate 5000 --size 1024"
)]
pub(super) struct Disk {
    /// Directory for the file, on the disk that is to be measured
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,

    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    size: u32,

    /// Bytes that a record has besides its message
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    overhead: u32,

    /// Messages written before each sync
    #[arg(long, value_name = "MESSAGES", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    window: u32,

    /// Messages per second, and tell latencies [default: as fast as possible]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<NonZeroU64>,

    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    duration: f64,

    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    generator: &'static str,
    messages: u64,
    syncs: u64,
    per_second: f64,
    sync_latency_us: Option<Summary>,
}

impl Disk {
    pub(super) fn run(&self) -> Result<()> {
        ensure!(
            (0.0..=3600.0).contains(&self.duration),
            "--duration is {}, expected 0 to 3600 seconds",
            self.duration
        );
        ensure!(
            self.rate.is_none_or(|rate| rate.get() <= Schedule::RATE_MAX),
            "--rate is above {}",
            Schedule::RATE_MAX
        );
        let mut log = Log::create(self)?;
        let report = match self.rate {
            Some(rate) => self.at_rate(&mut log, Schedule::new(rate, 0, 1))?,
            None => self.flat_out(&mut log)?,
        };
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
            return Ok(());
        }
        println!(
            "written    {:.0} messages/s, {} syncs for {} messages",
            report.per_second, report.syncs, report.messages
        );
        if let Some(latency) = report.sync_latency_us {
            println!("durable    {latency}");
        }
        Ok(())
    }

    fn flat_out(&self, log: &mut Log) -> Result<Report> {
        let mut latencies = Latencies::new(0..u64::MAX);
        let (start, end) = (Instant::now(), Duration::from_secs_f64(self.duration));
        while start.elapsed() < end {
            let before = start.elapsed();
            log.commit(self.window.into())?;
            latencies.record(ns(before), ns(start.elapsed()));
        }
        Ok(log.report(start.elapsed(), &latencies))
    }

    fn at_rate(&self, log: &mut Log, schedule: Schedule) -> Result<Report> {
        Schedule::sharpen_sleep();
        let mut latencies = Latencies::new(0..u64::MAX);
        let (start, end) = (Instant::now(), Duration::from_secs_f64(self.duration));
        while start.elapsed() < end {
            let now = ns(start.elapsed());
            let due = schedule.due_by(now);
            if due == log.messages {
                schedule.wait_for(log.messages, now);
                continue;
            }
            let first = log.messages;
            log.commit((due - first).min(self.window.into()))?;
            let done = ns(start.elapsed());
            (first..log.messages).for_each(|message| latencies.record(schedule.due_at_ns(message), done));
        }
        Ok(log.report(start.elapsed(), &latencies))
    }
}

/// The records of a window, and the file that they go to.
#[derive(Debug)]
struct Log {
    file: Circle,
    records: Vec<u8>,
    record_size: usize,
    messages: u64,
    syncs: u64,
}

impl Log {
    fn create(disk: &Disk) -> Result<Log> {
        let record_size = usize::try_from(disk.size.saturating_add(disk.overhead))?;
        let size = record_size * usize::try_from(disk.window)?;
        ensure!(u64::try_from(size)? <= FILE_SIZE, "--window times --size is over {FILE_SIZE} bytes");
        Ok(Log {
            file: Circle::create(&disk.directory, "disk-load")?,
            records: (0..=u8::MAX).cycle().take(size).collect(),
            record_size,
            messages: 0,
            syncs: 0,
        })
    }

    fn commit(&mut self, messages: u64) -> Result<()> {
        let size = self.record_size * usize::try_from(messages)?;
        self.file.commit(self.records.get(..size).context("more messages than a window")?)?;
        self.messages += messages;
        self.syncs += 1;
        Ok(())
    }

    fn report(&self, elapsed: Duration, latencies: &Latencies) -> Report {
        Report {
            generator: "xtask disk-load",
            messages: self.messages,
            syncs: self.syncs,
            per_second: self.messages as f64 / elapsed.as_secs_f64().max(1e-9),
            sync_latency_us: Latencies::summary_of([latencies]),
        }
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
