//! The stories that every [`Disk`] must let a journal tell, and a journal in one piece to tell them with.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, File};
use crate::error::{Kind, Result};
use crate::files::{Files, Options};
use crate::format::{Lsn, RECORD_HEADER_SIZE};
use crate::header::FILE_HEADER_SIZE;
use crate::recovery::Recovered;
use crate::tail::{Round, Tail};

/// A record as a test remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it stands.
    pub lsn: Lsn,
    /// What it is.
    pub kind: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Both halves of a journal, used by one thread.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    /// The half in memory.
    pub tail: Tail,
    /// The half on the disk.
    pub files: Files<D>,
    /// A round that a full disk refused: it is written before all others.
    pub refused: Option<Round>,
    /// What opening found.
    pub recovered: Recovered,
    /// What opening visited.
    pub visited: Vec<Kept>,
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in `dir` and keeps what it visits.
    pub fn open(disk: D, dir: &Path, options: Options) -> Result<Journal<D>> {
        let mut visited = Vec::new();
        let (files, recovered) = Files::open(disk, dir, options, &mut |record| {
            visited.push(Kept { lsn: record.lsn, kind: record.kind, payload: record.payload.to_vec() });
            Ok(())
        })?;
        Ok(Journal { tail: Tail::new(recovered.next), files, refused: None, recovered, visited })
    }

    /// Appends one record.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Kept {
        Kept { lsn: self.tail.append(kind, &[payload]), kind, payload: payload.to_vec() }
    }

    /// Writes what was appended as one round.
    pub fn write(&mut self) -> Result<()> {
        let mut next = self.refused.take().or_else(|| Some(self.tail.take()));
        while let Some(round) = next {
            match self.files.write(&round) {
                Err(error) if error.kind == Kind::Full => {
                    self.refused = Some(round);
                    return Err(error);
                }
                written => written?,
            }
            self.tail.give_back(round.into_buffer());
            next = Some(self.tail.take()).filter(|round| !round.is_empty());
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub fn sync(&mut self) -> Result<Lsn> {
        let synced = self.files.sync()?;
        self.tail.synced(synced);
        Ok(synced)
    }

    /// Writes and syncs what was appended.
    pub fn commit(&mut self) -> Result<Lsn> {
        self.write()?;
        self.sync()
    }

    /// Writes and syncs a mark alone, as a broker does that stops.
    pub fn commit_mark(&mut self) -> Result<Lsn> {
        let round = self.tail.take_mark();
        self.files.write(&round)?;
        self.sync()
    }
}

/// Files of a few records, so that a story needs no megabytes.
pub fn small_files() -> Options {
    Options { file_size: 4096, zero_ahead_min: 512, zero_ahead_max: 2048, ..Options::default() }
}

/// Tells every story on a disk and in a directory of its own that `fresh` provides. Panics where one ends
/// otherwise than it should.
pub fn log_suite<D: Disk + Clone>(mut fresh: impl FnMut() -> (D, PathBuf)) {
    let stories: [fn(&D, &Path) -> Result<()>; 8] = [
        an_empty_directory_is_an_empty_journal,
        records_come_back_in_order,
        a_reopened_journal_goes_on,
        full_files_are_rolled,
        forgotten_files_are_written_again,
        a_huge_round_fits,
        a_torn_tail_is_said_and_stays_dead,
        damage_is_named_and_the_rest_is_served,
    ];
    for story in stories {
        let (disk, dir) = fresh();
        story(&disk, &dir).expect("a disk without faults fails no call");
    }
}

fn an_empty_directory_is_an_empty_journal<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.recovered, Recovered::default());
    assert_eq!((journal.files.oldest(), journal.files.size()), (Lsn::ZERO, 0));
    drop(journal);
    assert_eq!(names(disk, dir), [""; 0], "nothing is created before the first round");
    Ok(())
}

fn records_come_back_in_order<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    let mut kept = vec![journal.append(1, b"one"), journal.append(2, b"")];
    journal.commit()?;
    let lsn = journal.tail.append(3, &[b"in ", b"", b"parts"]);
    kept.push(Kept { lsn, kind: 3, payload: b"in parts".to_vec() });
    let end = journal.tail.next_lsn();
    assert_eq!(journal.commit()?, end);
    drop(journal);

    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited, kept);
    let Recovered { records, bytes, .. } = journal.recovered;
    assert_eq!((records, bytes), (3, 3 * RECORD_HEADER_SIZE as u64 + 11));
    assert_eq!((journal.recovered.torn, journal.recovered.damaged), (None, vec![]));
    Ok(())
}

fn a_reopened_journal_goes_on<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut kept = Vec::new();
    for round in 0..5 {
        let mut journal = Journal::open(disk.clone(), dir, small_files())?;
        assert_eq!(journal.visited, kept);
        assert_eq!((&journal.recovered.torn, &journal.recovered.damaged), (&None, &vec![]));
        kept.push(journal.append(1, &[round]));
        journal.commit()?;
    }
    Ok(())
}

/// Commits `bytes` in rounds of one record each.
fn fill<D: Disk>(journal: &mut Journal<D>, bytes: usize) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for byte in (0..=u8::MAX).cycle().take(bytes.div_ceil(200)) {
        kept.push(journal.append(1, &[byte; 200]));
        journal.commit()?;
        journal.files.prepare()?;
    }
    Ok(kept)
}

fn full_files_are_rolled<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    let kept = fill(&mut journal, 20_000)?;
    drop(journal);
    assert!(names(disk, dir).len() > 4, "{:?}", names(disk, dir));
    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited, kept);
    assert_eq!((journal.recovered.torn, journal.recovered.damaged), (None, vec![]));
    Ok(())
}

fn forgotten_files_are_written_again<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    fill(&mut journal, 30_000)?;
    let before = journal.tail.next_lsn();
    journal.files.forget(before)?;
    let spares = |names: Vec<String>| names.iter().filter(|name| name.ends_with(".spare")).count();
    assert_eq!(spares(names(disk, dir)), 2);
    assert!(journal.files.oldest() < before && journal.files.size() < 10_000);

    let oldest = journal.files.oldest();
    let kept = fill(&mut journal, 6_000)?;
    assert!(spares(names(disk, dir)) < 2, "a spare was used");
    drop(journal);
    let journal = Journal::open(disk.clone(), dir, small_files())?;
    let stale = journal.visited.len() - kept.len();
    assert_eq!(journal.visited[stale..], kept);
    assert!(journal.visited.iter().all(|record| record.lsn >= oldest));
    assert_eq!((journal.recovered.torn, journal.recovered.damaged), (None, vec![]));
    Ok(())
}

fn a_huge_round_fits<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    let kept = [journal.append(1, &[7; 100_000]), journal.append(2, b"small")];
    journal.commit()?;
    let next = journal.append(3, b"in the next file");
    journal.commit()?;
    drop(journal);
    assert_eq!(names(disk, dir).len(), 2);
    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited, [&kept[..], &[next]].concat());
    Ok(())
}

fn a_torn_tail_is_said_and_stays_dead<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    let first = journal.append(1, b"first");
    journal.commit()?;
    // This round was never synced. The power cut keeps its second record and not the first byte of the
    // first; a record of the same size in its place would bring the second one back.
    let torn = journal.append(1, b"torn");
    journal.append(1, b"must not come back");
    journal.write()?;
    drop(journal);
    invert_byte(disk, dir, 0, torn.lsn);

    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited.as_slice(), std::slice::from_ref(&first));
    assert_eq!(journal.recovered.damaged, []);
    let said = journal.recovered.torn.as_ref().map(|torn| (torn.file.as_str(), torn.lsn));
    assert_eq!(said, Some(("00000000000000000000.journal", torn.lsn)));
    assert!(journal.recovered.next > torn.lsn);
    let second = journal.append(1, b"nrot");
    journal.commit()?;
    drop(journal);

    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited, [first, second]);
    assert_eq!((journal.recovered.torn, journal.recovered.damaged), (None, vec![]));
    Ok(())
}

fn damage_is_named_and_the_rest_is_served<D: Disk + Clone>(disk: &D, dir: &Path) -> Result<()> {
    let mut journal = Journal::open(disk.clone(), dir, small_files())?;
    let mut kept = fill(&mut journal, 1_000)?;
    journal.commit_mark()?;
    drop(journal);
    let hit = kept.remove(1);
    invert_byte(disk, dir, 0, hit.lsn.plus(50));

    let journal = Journal::open(disk.clone(), dir, small_files())?;
    assert_eq!(journal.visited, kept);
    assert_eq!(journal.recovered.torn, None);
    let [damage] = &journal.recovered.damaged[..] else { panic!("{:?}", journal.recovered) };
    assert_eq!((damage.from, damage.to), (hit.lsn, hit.lsn.plus(RECORD_HEADER_SIZE + 200)));
    assert_eq!(damage.file, "00000000000000000000.journal");
    assert_eq!(damage.offset, FILE_HEADER_SIZE as u64 + hit.lsn.0);
    Ok(())
}

fn names<D: Disk>(disk: &D, dir: &Path) -> Vec<String> {
    disk.list(dir).expect("the directory was made by opening the journal")
}

/// Inverts the byte at `lsn` in the file whose base is `base`.
fn invert_byte<D: Disk>(disk: &D, dir: &Path, base: u64, lsn: Lsn) {
    let change = || {
        let mut file = disk.open(&dir.join(crate::format::file_name(Lsn(base))))?;
        let offset = FILE_HEADER_SIZE as u64 + lsn.0 - base;
        let mut byte = [0];
        file.read_at(offset, &mut byte)?;
        file.write_at(offset, &[!byte[0]])?;
        file.sync()
    };
    change().expect("a disk without faults fails no call");
}
