//! How much processor time a process took, from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};

/// A process whose processor time is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
    ticks_per_second: u64,
}

impl Process {
    /// The process of this id.
    pub(crate) fn new(pid: u32) -> Process {
        Process { pid, ticks_per_second: rustix::param::clock_ticks_per_second() }
    }

    /// User and system time of all its threads since it started, in steps of a clock tick (10 ms).
    pub(crate) fn time(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = ticks(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
        Ok(Duration::from_nanos(ticks * (1_000_000_000 / self.ticks_per_second)))
    }
}

/// utime + stime: fields 14 and 15, of which the second may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_be_anything() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn our_own_time_can_be_read() {
        let process = Process::new(std::process::id());
        assert!(process.time().unwrap() < Duration::from_secs(3600));
    }
}
