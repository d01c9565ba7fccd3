//! Memory and disk alarms: while one is on, publishers are blocked and consumers drain.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{meta, shard};

/// How often is looked, at least.
const INTERVAL_MAX: Duration = Duration::from_millis(250);

/// How often is looked, at most.
const INTERVAL_MIN: Duration = Duration::from_millis(5);

/// Bytes per second that a disk takes, and more: so soon may be gone what is free above the limit.
const DISK_SPEED: u64 = 4 << 30;

/// Which alarms are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alarms {
    /// Messages take more memory than they may.
    pub(crate) memory: bool,
    /// The disk of the data directory has less room than it must.
    pub(crate) disk: bool,
}

impl Alarms {
    pub(crate) fn any(self) -> bool {
        self.memory || self.disk
    }

    /// The reason, as connection.blocked gives it.
    pub(crate) fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & disk",
            (true, false) => "low on memory",
            _ => "low on disk",
        }
    }
}

/// Where the alarms are.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes that messages in memory may take.
    pub(crate) message_bytes_max: u64,
    /// Bytes that must be free on the data directory's disk.
    pub(crate) disk_free_min: u64,
    pub(crate) data_dir: PathBuf,
}

/// Watches until nobody listens.
pub(crate) async fn watch(
    limits: Limits,
    shards: Vec<shard::Handle>,
    meta: meta::Handle,
    alarms: watch::Sender<Alarms>,
) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = alarms.closed() => return,
        }
        let bytes: u64 = shards.iter().map(shard::Handle::message_bytes).sum();
        let full = shards.iter().any(shard::Handle::is_full) || meta.is_full();
        let free = free_bytes(&limits.data_dir);
        pause = pause_for(free, limits.disk_free_min);
        let before = *alarms.borrow();
        let now = Alarms {
            memory: is_over(before.memory, bytes, limits.message_bytes_max),
            disk: full || free.is_some_and(|free| free < limits.disk_free_min),
        };
        if now != before {
            report(before, now, bytes, &limits);
            alarms.send_replace(now);
        }
    }
}

/// How long to wait for the next look: the nearer the limit, the shorter.
fn pause_for(free: Option<u64>, limit: u64) -> Duration {
    let Some(free) = free else { return INTERVAL_MAX };
    // What is written per millisecond.
    let millis = free.abs_diff(limit) / (DISK_SPEED / 1000);
    Duration::from_millis(millis).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// An alarm that is on goes off at nine tenths of the limit, lest it flutter.
fn is_over(on: bool, value: u64, limit: u64) -> bool {
    if on { value > limit / 10 * 9 } else { value > limit }
}

fn report(before: Alarms, now: Alarms, bytes: u64, limits: &Limits) {
    if now.memory && !before.memory {
        warn!(
            bytes,
            limit = limits.message_bytes_max,
            "memory alarm: publishers are blocked until consumers catch up"
        );
    }
    if now.disk && !before.disk {
        warn!(free_min = limits.disk_free_min, dir = %limits.data_dir.display(), "disk alarm: publishers are blocked until there is room");
    }
    if !now.any() {
        info!("alarms are over: publishers go on");
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_goes_on_above_the_limit_and_off_well_below() {
        let over = |on, value| is_over(on, value, 1000);
        assert_eq!(
            [over(false, 1000), over(false, 1001), over(true, 950), over(true, 900)],
            [false, true, true, false]
        );
    }

    #[test]
    fn the_nearer_the_limit_the_sooner_is_looked_again() {
        let millis = |free| pause_for(free, 1 << 30).as_millis();
        let free = [None, Some(1 << 40), Some((1 << 30) + (400 << 20)), Some((1 << 30) + 1), Some(0)];
        assert_eq!(free.map(millis), [250, 250, 97, 5, 250]);
    }

    #[test]
    fn the_disk_says_how_much_is_free() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/no/such/place")), None);
    }
}
