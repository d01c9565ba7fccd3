//! What a round costs.

use std::path::Path;

use crate::Options;
use crate::sim::{Call, SimDisk};
use crate::testing::Journal;

const CALLS: [Call; 10] = [
    Call::Create,
    Call::Open,
    Call::List,
    Call::Rename,
    Call::Remove,
    Call::SyncDir,
    Call::Write,
    Call::Read,
    Call::Zero,
    Call::Sync,
];

fn counts(disk: &SimDisk) -> [u64; 10] {
    CALLS.map(|call| disk.count(call))
}

#[test]
fn a_round_costs_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new("/j"), Options::default()).unwrap();
    journal.append(1, b"warm");
    journal.commit().unwrap();
    let before = counts(&disk);
    for _ in 0..100 {
        for _ in 0..10 {
            journal.append(1, &[1; 64]);
        }
        journal.commit().unwrap();
        journal.files.prepare().unwrap();
    }
    let spent: Vec<u64> = counts(&disk).iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(
        spent,
        [0, 0, 0, 0, 0, 0, 100, 0, 1, 100],
        "zeros are written ahead once, and have no sync of their own"
    );
}

#[test]
fn nothing_written_is_nothing_synced() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new("/j"), Options::default()).unwrap();
    for _ in 0..3 {
        journal.commit().unwrap();
    }
    assert_eq!((disk.count(Call::Write), disk.count(Call::Sync)), (0, 0));
}

#[test]
fn a_journal_that_is_opened_idle_is_not_extended() {
    let disk = SimDisk::new();
    for _ in 0..3 {
        let mut journal = Journal::open(disk.clone(), Path::new("/j"), Options::default()).unwrap();
        journal.files.prepare().unwrap();
        assert_eq!(journal.files.size(), 0);
    }
    assert_eq!(disk.count(Call::Create), 0);
}

#[test]
fn prepare_keeps_extending_off_the_way_of_a_round() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new("/j"), Options::default()).unwrap();
    journal.append(1, b"first");
    journal.commit().unwrap();
    let mut in_rounds = 0;
    for _ in 0..40 {
        journal.append(1, &[1; 100_000]);
        let before = disk.count(Call::Zero);
        journal.commit().unwrap();
        in_rounds += disk.count(Call::Zero) - before;
        journal.files.prepare().unwrap();
    }
    assert_eq!(in_rounds, 0);
    assert!(disk.count(Call::Zero) > 2);
}
