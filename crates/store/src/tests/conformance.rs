//! Both disks tell the same stories.

use std::path::PathBuf;

use crate::sim::SimDisk;
use crate::{RealDisk, testing};

#[test]
fn the_simulated_disk_passes() {
    testing::log_suite(|| (SimDisk::new(), PathBuf::from("/journal")));
}

#[test]
fn the_real_disk_passes() {
    let home = tempfile::tempdir().unwrap();
    let mut stories = 0;
    testing::log_suite(|| {
        stories += 1;
        (RealDisk, home.path().join(format!("story-{stories}/journal")))
    });
}
