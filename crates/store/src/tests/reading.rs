//! Reading a journal that somebody else writes to.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::testing::{Journal, small_files};
use crate::{Options, RealDisk, Recovered, Result, read};

/// Rounds that the writer commits.
const ROUNDS: u64 = 3000;
/// It forgets what is older than so many rounds.
const KEPT: u64 = 200;

/// The numbers in the journal.
fn numbers(dir: &Path) -> Result<(Vec<u64>, Recovered)> {
    let mut numbers = Vec::new();
    let report = read(&RealDisk, dir, 0, &mut |record| {
        numbers.push(u64::from_le_bytes(record.payload[..8].try_into().unwrap()));
        Ok(())
    })?;
    Ok((numbers, report))
}

/// Commits the numbers from 0 on, in rounds of different sizes that span pages, and forgets old ones.
fn write(dir: &Path, committed: &AtomicU64) {
    let options = Options { file_size: 64 << 10, ..small_files() };
    let mut journal = Journal::open(RealDisk, dir, options).unwrap();
    let mut ends = Vec::new();
    for number in 0..ROUNDS {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + usize::try_from(number * 37 % 6000).unwrap(), 1);
        journal.append(1, &payload);
        ends.push(journal.commit().unwrap());
        committed.store(number + 1, Ordering::SeqCst);
        if number % 50 == 49 && number >= KEPT {
            journal.files.forget(ends[usize::try_from(number - KEPT).unwrap()]).unwrap();
        }
    }
}

#[test]
fn what_is_read_beside_a_writer_is_all_that_was_committed_or_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("j");
    std::fs::create_dir(&dir).unwrap();
    let committed = AtomicU64::new(0);
    let mut whole = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| write(&dir, &committed));
        loop {
            let before = committed.load(Ordering::SeqCst);
            if let Ok((numbers, report)) = numbers(&dir)
                && report.damaged.is_empty()
            {
                let first = numbers.first().copied().unwrap_or(0);
                let end = first + numbers.len() as u64;
                assert!(numbers.iter().copied().eq(first..end), "{numbers:?}");
                assert!(
                    first <= before.saturating_sub(KEPT) && end >= before,
                    "{first} to {end}, {before} before"
                );
                whole += 1;
            }
            if before == ROUNDS {
                break;
            }
        }
    });
    assert!(whole > 1, "most looks find the journal whole");
    let (numbers, report) = numbers(&dir).unwrap();
    assert_eq!((numbers.last(), report.torn, report.damaged), (Some(&(ROUNDS - 1)), None, vec![]));
}

#[test]
fn reading_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let listed = |dir: &Path| {
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.map(|path| (std::fs::read(&path).unwrap(), path)).collect();
        files.sort();
        files
    };
    let mut journal = Journal::open(RealDisk, dir.path(), small_files()).unwrap();
    journal.append(1, &7u64.to_le_bytes());
    journal.commit().unwrap();
    std::fs::write(dir.path().join("00000000000000999999.new"), "of a crash").unwrap();
    let before = listed(dir.path());
    assert_eq!(numbers(dir.path()).unwrap().0, [7]);
    assert!(listed(dir.path()) == before);
}
