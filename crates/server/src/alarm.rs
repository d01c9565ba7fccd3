//! Memory and disk alarms: while one is on, publishers are blocked and consumers drain.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::shard;

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(250);

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
pub(crate) async fn watch(limits: Limits, shards: Vec<shard::Handle>, alarms: watch::Sender<Alarms>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = alarms.closed() => return,
        }
        let bytes: u64 = shards.iter().map(shard::Handle::message_bytes).sum();
        let before = *alarms.borrow();
        let now = Alarms {
            memory: is_over(before.memory, bytes, limits.message_bytes_max),
            disk: free_bytes(&limits.data_dir).is_some_and(|free| free < limits.disk_free_min),
        };
        if now != before {
            report(before, now, bytes, &limits);
            alarms.send_replace(now);
        }
    }
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
    fn the_disk_says_how_much_is_free() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/no/such/place")), None);
    }
}
