//! A disk that fails: an append is made whole or not at all, and nothing is reported durable that is not.

use std::path::Path;

use super::{DIR, Message, append, messages, path, read, writer};
use crate::segment::{Extent, Reader};
use crate::sim::{Call, Fault, Random, SimDisk};
use crate::{Error, Kind};

const QUEUES: u64 = 6;

/// What was done until something failed for good.
struct Work {
    kept: Vec<(Extent, Vec<Message>)>,
    /// What syncs said that is durable.
    durable: Vec<Extent>,
    retried: u64,
    error: Option<Error>,
}

/// Appends to several queues, more than may be open, with syncs in between; an append that fails is made again.
fn work(disk: &SimDisk) -> Work {
    let (mut writer, mut random) = (writer(disk), Random::new(1));
    let mut work = Work { kept: Vec::new(), durable: Vec::new(), retried: 0, error: None };
    for round in 0..15 {
        for queue in 0..QUEUES {
            let new = messages(&mut random, round * 1000, 5, 100);
            let mut outcome = append(&mut writer, queue, &new);
            if outcome.is_err() {
                work.retried += 1;
                outcome = append(&mut writer, queue, &new);
            }
            match outcome {
                Ok(extent) => work.kept.push((extent, new)),
                Err(error) => {
                    // What was appended before it may yet be made durable, unless it was a sync that failed.
                    work.durable.extend(writer.sync().unwrap_or_default());
                    work.error = Some(error);
                    return work;
                }
            }
        }
        if round % 3 == 2 {
            match writer.sync() {
                Ok(extents) => work.durable.extend(extents),
                Err(error) => {
                    let calls = [Call::Sync, Call::SyncDir, Call::Write].map(|call| disk.count(call));
                    assert_eq!(writer.sync().unwrap_err(), error);
                    assert_eq!(
                        append(&mut writer, 1, &messages(&mut random, 99_000, 1, 9)).unwrap_err(),
                        error
                    );
                    assert_eq!([Call::Sync, Call::SyncDir, Call::Write].map(|call| disk.count(call)), calls);
                    work.error = Some(error);
                    return work;
                }
            }
        }
    }
    work
}

/// Whether the nth call was reached.
fn check(nth: u64, only: Option<Call>, fault: Fault) -> Option<Work> {
    let disk = SimDisk::new();
    drop(writer(&disk));
    disk.fail(nth, only, fault);
    let work = std::panic::catch_unwind(|| work(&disk)).unwrap_or_else(|_| panic!("call {nth}, {fault:?}"));
    if disk.is_fault_pending() {
        return None;
    }
    // A process that goes on reads back exactly what it appended.
    if work.error.is_none() {
        for (extent, new) in &work.kept {
            assert_eq!(read(&disk, Path::new(DIR), extent, 4096).unwrap(), (new.clone(), vec![]));
        }
    }
    if let Some(error) = &work.error {
        assert_eq!(error.kind == Kind::Full, matches!(fault, Fault::Full | Fault::Short), "{error}");
        assert!(error.text.starts_with("cannot ") && error.text.contains(DIR), "{error}");
    }
    disk.crash(nth);
    for extent in &work.durable {
        let parts = work.kept.iter().filter(|(part, _)| part.id == extent.id && part.to <= extent.to);
        let wanted: Vec<Message> = parts.flat_map(|(_, new)| new.clone()).collect();
        assert_eq!(
            read(&disk, Path::new(DIR), extent, 4096).unwrap(),
            (wanted, vec![]),
            "call {nth}, {fault:?}"
        );
    }
    Some(work)
}

#[test]
fn every_call_may_fail() {
    for fault in [Fault::Io, Fault::Full, Fault::Short, Fault::PowerCut] {
        let (mut failed, mut survived, mut retried) = (0, 0, 0);
        // The first call lists the directory; opening fails before anything can be lost.
        for nth in 2..10_000 {
            let Some(work) = check(nth, None, fault) else { break };
            failed += u64::from(work.error.is_some());
            survived += u64::from(work.error.is_none());
            retried += work.retried;
        }
        println!("{fault:?}: {failed} final, {survived} survived, {retried} appends tried again");
        assert!(failed > 50, "{failed}");
        assert!((survived > 100) == (fault != Fault::PowerCut), "{survived}");
    }
}

#[test]
fn an_append_that_failed_is_made_again_at_the_same_place() {
    for (call, fault) in [
        (Call::Write, Fault::Short),
        (Call::Write, Fault::Full),
        (Call::Write, Fault::Io),
        (Call::Create, Fault::Full),
    ] {
        let disk = SimDisk::new();
        let mut writer = writer(&disk);
        let mut random = Random::new(1);
        let (one, two) = (messages(&mut random, 0, 20, 50), messages(&mut random, 500, 3, 20));
        for _ in 0..3 {
            disk.fail(1, Some(call), fault);
            append(&mut writer, 1, &one).unwrap_err();
        }
        assert_eq!(writer.sync().unwrap(), [], "nothing was registered");
        // A smaller one in its place: the rest of the larger is not brought back by anything that follows.
        let extent = append(&mut writer, 1, &two).unwrap();
        assert_eq!(extent.from.offset, 64);
        assert_eq!(writer.sync().unwrap(), [extent]);
        disk.crash(1);
        assert_eq!(read(&disk, Path::new(DIR), &extent, 4096).unwrap(), (two, vec![]));
    }
}

#[test]
fn a_failed_sync_on_the_way_of_an_append_is_final() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    let mut random = Random::new(1);
    for queue in 0..4 {
        append(&mut writer, queue, &messages(&mut random, 0, 1, 9)).unwrap();
    }
    disk.fail(1, Some(Call::Sync), Fault::Io);
    let error = append(&mut writer, 5, &messages(&mut random, 0, 1, 9)).unwrap_err();
    assert_eq!(writer.sync().unwrap_err(), error);
    assert!(error.text.starts_with("cannot sync /segments/"), "{error}");
}

#[test]
fn a_removal_that_failed_is_told_and_can_be_repeated() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    let extent = append(&mut writer, 1, &messages(&mut Random::new(1), 0, 9, 9)).unwrap();
    disk.fail(1, Some(Call::Remove), Fault::Io);
    let error = writer.remove(extent.id.name).unwrap_err();
    assert!(error.text.starts_with("cannot remove /segments/"), "{error}");
    writer.check_invariants();
    writer.remove(extent.id.name).unwrap();
    assert_eq!(disk.contents(&path(extent.id)), None);
}

#[test]
fn reading_says_which_file_failed() {
    let disk = SimDisk::new();
    let mut writer = writer(&disk);
    let extent = append(&mut writer, 1, &messages(&mut Random::new(1), 0, 9, 9)).unwrap();
    let expected = format!("cannot read {}: Input/output error (os error 5)", path(extent.id).display());
    disk.fail(1, Some(Call::Read), Fault::Io);
    assert_eq!(Reader::open(&disk, Path::new(DIR), extent.id).unwrap_err().text, expected);
    let reader = Reader::open(&disk, Path::new(DIR), extent.id).unwrap();
    disk.fail(1, Some(Call::Read), Fault::Io);
    assert_eq!(reader.read(extent.from, extent.to, 4096).unwrap_err().text, expected);
    disk.fail(1, Some(Call::Open), Fault::Io);
    let error = Reader::open(&disk, Path::new(DIR), extent.id).unwrap_err();
    assert_eq!((error.kind, error.text.starts_with("cannot open /segments/")), (Kind::Disk, true));
}
