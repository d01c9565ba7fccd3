//! A disk that fails: the first error is final, and nothing is reported durable that is not.

use std::path::Path;

use crate::sim::{Call, Fault, SimDisk};
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
    error: Option<Error>,
}

/// Commits, rolls, prepares and forgets.
fn work(journal: &mut Journal<SimDisk>) -> Work {
    let Work { mut kept, mut synced, mut forgotten, .. } = Work::default();
    let mut step = |journal: &mut Journal<SimDisk>, round: u8| -> Result<()> {
        kept.extend([journal.append(1, &[round; 150]), journal.append(2, &[round; 350])]);
        synced = journal.commit()?;
        journal.files.prepare()?;
        if round % 32 == 31 {
            forgotten = Lsn(synced.0 - 3000);
            journal.files.forget(forgotten)?;
        }
        Ok(())
    };
    let error = (0..64).find_map(|round| step(journal, round).err());
    Work { kept, synced, forgotten, error }
}

fn check(nth: u64, only: Option<Call>, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
    disk.fail(nth, only, fault);
    let Work { kept, synced, forgotten, error } = work(&mut journal);
    let Some(error) = error else {
        assert!(disk.is_fault_pending(), "call {nth} failed with {fault:?} and nobody said so");
        return false;
    };
    assert_eq!(error.kind == Kind::Full, matches!(fault, Fault::Full | Fault::Short), "{error}");
    assert!(error.text.starts_with("cannot ") && error.text.contains(DIR), "{error}");
    journal.append(1, b"too late");
    assert_eq!(journal.files.sync().unwrap_err(), error);
    assert_eq!(journal.write().unwrap_err(), error);
    assert_eq!(journal.files.prepare().unwrap_err(), error);
    assert_eq!(journal.files.forget(Lsn(1)).unwrap_err(), error);

    disk.crash(nth);
    let journal = Journal::open(disk, Path::new(DIR), small_files()).unwrap();
    assert_eq!(journal.recovered.damaged, []);
    let must: Vec<&Kept> = kept.iter().filter(|kept| kept.lsn >= forgotten && kept.lsn < synced).collect();
    let visited = journal.visited.iter().filter(|record| record.lsn >= forgotten);
    assert_eq!(visited.take(must.len()).collect::<Vec<_>>(), must, "call {nth}, {fault:?}");
    true
}

#[test]
fn every_call_may_fail() {
    for fault in [Fault::Io, Fault::Full, Fault::Short, Fault::PowerCut] {
        let failed = (1..1000).take_while(|nth| check(*nth, None, fault)).count();
        assert!((200..900).contains(&failed), "{failed} calls");
    }
}

#[test]
fn every_sync_may_fail() {
    for call in [Call::Sync, Call::SyncDir, Call::Rename, Call::Remove, Call::Zero, Call::Create] {
        let failed = (1..1000).take_while(|nth| check(*nth, Some(call), Fault::Io)).count();
        assert!(failed > 0, "{call:?} was called {failed} times");
    }
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
