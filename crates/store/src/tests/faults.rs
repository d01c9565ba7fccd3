//! A disk that fails: the first error is final, unless the disk is full, and nothing is reported durable that is not.

use std::path::Path;

use crate::sim::{Call, Fault, Planned, SimDisk};
use crate::testing::{Journal, Kept, small_files};
use crate::{Error, Kind, Lsn, Result};

const DIR: &str = "/journal";

/// What was done to a journal until something failed.
#[derive(Default)]
struct Work {
    kept: Vec<Kept>,
    /// As far as a sync said that it got.
    synced: Lsn,
    forgotten: Lsn,
    /// How often a full disk refused a round, which was then written.
    refused: u64,
    error: Option<Error>,
}

/// Commits, rolls, prepares and forgets.
fn work(journal: &mut Journal<SimDisk>) -> Work {
    let Work { mut kept, mut synced, mut forgotten, mut refused, .. } = Work::default();
    let mut step = |journal: &mut Journal<SimDisk>, round: u8| -> Result<()> {
        kept.extend([journal.append(1, &[round; 150]), journal.append(2, &[round; 350])]);
        synced = match journal.commit() {
            Err(error) if error.kind == Kind::Full => {
                assert!(error.text.starts_with("cannot ") && error.text.contains(DIR), "{error}");
                refused += 1;
                journal.commit()
            }
            outcome => outcome,
        }?;
        journal.files.prepare()?;
        if round % 32 == 31 {
            forgotten = Lsn(synced.0 - 3000);
            journal.files.forget(forgotten)?;
        }
        Ok(())
    };
    let error = (0..64).find_map(|round| step(journal, round).err());
    Work { kept, synced, forgotten, refused, error }
}

/// What came of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There were not so many calls.
    Nothing,
    Final,
    /// All went on; a round may have been refused first.
    Survived {
        refused: u64,
    },
}

fn check(nth: u64, only: Option<Call>, fault: Fault) -> Outcome {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    disk.fail(nth, only, fault);
    let Work { kept, synced, forgotten, refused, error } = work(&mut journal);
    if disk.is_fault_pending() {
        return Outcome::Nothing;
    }
    if let Some(error) = &error {
        // Also of a sync: what it did not make durable may be lost though there is room again.
        assert_eq!(error.kind, Kind::Disk, "{error}");
        assert!(error.text.starts_with("cannot ") && error.text.contains(DIR), "{error}");
        journal.append(1, b"too late");
        assert_eq!(&journal.files.sync().unwrap_err(), error);
        assert_eq!(&journal.write().unwrap_err(), error);
        assert_eq!(&journal.files.prepare().unwrap_err(), error);
        assert_eq!(&journal.files.forget(Lsn(1)).unwrap_err(), error);
    } else {
        assert!(
            matches!(fault, Fault::Full | Fault::Short),
            "call {nth} failed with {fault:?} and nobody said so"
        );
    }

    disk.crash(nth);
    let journal = Journal::open(disk, Path::new(DIR), small_files()).unwrap();
    assert_eq!(journal.recovered.damaged, []);
    let must: Vec<&Kept> = kept.iter().filter(|kept| kept.lsn >= forgotten && kept.lsn < synced).collect();
    let visited = journal.visited.iter().filter(|record| record.lsn >= forgotten);
    assert_eq!(visited.take(must.len()).collect::<Vec<_>>(), must, "call {nth}, {fault:?}");
    if error.is_some() { Outcome::Final } else { Outcome::Survived { refused } }
}

fn check_all(only: Option<Call>, fault: Fault) -> Vec<Outcome> {
    (1..1000).map(|nth| check(nth, only, fault)).take_while(|outcome| *outcome != Outcome::Nothing).collect()
}

#[test]
fn every_call_may_fail() {
    for fault in [Fault::Io, Fault::Full, Fault::Short, Fault::PowerCut] {
        let outcomes = check_all(None, fault);
        assert!((200..900).contains(&outcomes.len()), "{} calls", outcomes.len());
        let refused = outcomes.iter().filter(|it| matches!(it, Outcome::Survived { refused: 1 })).count();
        assert_eq!(refused > 50, matches!(fault, Fault::Full | Fault::Short), "{fault:?}: {refused}");
    }
}

#[test]
fn every_sync_may_fail() {
    for call in [Call::Sync, Call::SyncDir, Call::Rename, Call::Remove, Call::Zero, Call::Create] {
        let outcomes = check_all(Some(call), Fault::Io);
        assert!(!outcomes.is_empty(), "{call:?} was never called");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Final));
    }
}

/// A sync that fails is final on a full disk too; everything else is only refused.
#[test]
fn a_full_disk_refuses_and_nothing_is_lost() {
    for call in [Call::Create, Call::Zero, Call::Write, Call::Rename] {
        for fault in [Fault::Full, Fault::Short] {
            let outcomes = check_all(Some(call), fault);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Survived { .. })), "{call:?}");
        }
    }
    assert!(check_all(Some(Call::Sync), Fault::Full).iter().all(|outcome| *outcome == Outcome::Final));
}

/// Linux forgets what a failed sync did not write: the next sync succeeds, and proves nothing.
#[test]
fn a_sync_is_never_tried_again() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    journal.append(1, b"durable");
    journal.commit().unwrap();
    journal.append(1, b"not durable");
    disk.fail(1, Some(Call::Sync), Fault::Io);
    let error = journal.commit().unwrap_err();
    assert_eq!(
        error.text,
        "cannot sync /journal/00000000000000000000.journal: Input/output error (os error 5)"
    );
    let syncs = disk.count(Call::Sync);
    assert_eq!(journal.sync().unwrap_err(), error);
    assert_eq!(disk.count(Call::Sync), syncs);
}

#[test]
fn opening_says_which_call_failed_and_can_be_repeated() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    let Work { kept, .. } = work(&mut journal);
    let mut failures = 0;
    for nth in 1.. {
        disk.kill();
        disk.fail(nth, None, Fault::Io);
        let outcome = Journal::open(disk.clone(), Path::new(DIR), small_files());
        let Err(error) = outcome else { break };
        assert_eq!(error.kind, Kind::Disk);
        failures += 1;
    }
    assert!(failures > 5, "{failures}");
    disk.kill();
    let journal = Journal::open(disk, Path::new(DIR), small_files()).unwrap();
    assert_eq!(journal.visited.last(), kept.last());
}

/// Only what is acked makes room, so acks must fit when nothing else does.
#[test]
fn a_full_disk_has_a_reserve() {
    let disk = SimDisk::new();
    let options = crate::Options { reserve: 3000, ..small_files() };
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), options.clone()).unwrap();
    let mut kept = vec![journal.append(1, b"before")];
    journal.commit().unwrap();
    assert!(journal.files.prepare().unwrap());
    for only in [Call::Zero, Call::Create] {
        disk.plan(Planned { nth: 1, only: Some(only), below: None, fault: Fault::Full, times: u64::MAX });
    }
    // The rest of the file, and then the reserve.
    let refusal = loop {
        let next = journal.append(1, &[7; 100]);
        match journal.commit() {
            Ok(_) => kept.push(next),
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind, Kind::Full);
    assert!((30..60).contains(&kept.len()), "{}", kept.len());
    assert!(!journal.files.prepare().unwrap(), "the disk is full");
    disk.crash(1);
    // What is full when the broker starts stays full until there is room.
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), options.clone()).unwrap();
    assert_eq!(journal.visited, kept);
    journal.append(1, b"after");
    journal.commit().unwrap();
    assert!(journal.files.prepare().unwrap());
    assert_eq!(disk.contents(&Path::new(DIR).join("journal.reserve")).map(|bytes| bytes.len()), Some(3000));
    // One that is kept is not made again, and one of another size goes.
    let creates = disk.count(Call::Create);
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), options).unwrap();
    assert!(journal.files.prepare().unwrap());
    assert_eq!(disk.count(Call::Create), creates);
    Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    assert_eq!(disk.contents(&Path::new(DIR).join("journal.reserve")), None);
}

/// A full disk must not keep a broker from starting: opening writes nothing.
#[test]
fn a_full_disk_can_be_opened() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    work(&mut journal);
    let calls = [Call::Create, Call::Write, Call::Zero, Call::Rename];
    let before = calls.map(|call| disk.count(call));
    Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    assert_eq!(calls.map(|call| disk.count(call)), before);
}

#[test]
fn a_visitor_that_refuses_ends_the_opening() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    journal.append(9, b"?");
    journal.commit().unwrap();
    let refusal = Error::new(Kind::Rejected, "no kind 9");
    let outcome = crate::Files::open(disk, Path::new(DIR), small_files(), &mut |_| Err(refusal.clone()));
    assert_eq!(outcome.unwrap_err(), refusal);
}
