//! Bits rot, files vanish: what is hit is missing and named, the rest is served, nothing is made up.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::format::{MARK_SIZE, file_name};
use crate::header::FILE_HEADER_SIZE;
use crate::sim::{Random, SimDisk};
use crate::testing::{Journal, Kept, small_files};
use crate::{Disk, Lsn, Options, Recovered, Result};

pub(super) const DIR: &str = "/journal";

/// A journal of two runs and several files, closed with a mark, and all that was appended to it.
pub(super) struct Fixture {
    pub(super) disk: SimDisk,
    pub(super) kept: Vec<Kept>,
}

impl Fixture {
    pub(super) fn new() -> Fixture {
        let disk = SimDisk::new();
        let mut kept = Vec::new();
        let mut random = Random::new(1);
        for _ in 0..2 {
            let mut journal = open(&disk).unwrap();
            for round in 0..60 {
                let count = 1 + random.index(3);
                kept.extend((0..count).map(|_| journal.append(1, &vec![round; random.index(120)])));
                journal.commit().unwrap();
            }
            journal.commit_mark().unwrap();
        }
        Fixture { disk, kept }
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.disk.list(Path::new(DIR)).unwrap().iter().map(|name| Path::new(DIR).join(name)).collect()
    }

    pub(super) fn contents(&self, path: &Path) -> Vec<u8> {
        self.disk.contents(path).unwrap()
    }

    /// What is found when the file at `path` holds `bytes`; then puts the old bytes back.
    pub(super) fn with(&self, path: &Path, bytes: &[u8]) -> Opened {
        let sound = self.contents(path);
        self.disk.overwrite(path, bytes);
        let opened = self.open();
        self.disk.overwrite(path, &sound);
        opened
    }

    pub(super) fn open(&self) -> Opened {
        let journal = open(&self.disk).unwrap();
        let missing = self.kept.iter().filter(|kept| !journal.visited.contains(kept)).cloned().collect();
        let invented: Vec<&Kept> = journal.visited.iter().filter(|kept| !self.kept.contains(kept)).collect();
        assert!(invented.is_empty(), "never appended: {invented:?}");
        assert!(journal.visited.is_sorted_by_key(|record| record.lsn), "out of order");
        Opened { missing, recovered: journal.recovered }
    }
}

/// A recovery of a damaged journal; its records are known to be a part of what was appended.
pub(super) struct Opened {
    pub(super) missing: Vec<Kept>,
    pub(super) recovered: Recovered,
}

impl Opened {
    /// Every missing record lies in a part that is named as lost.
    pub(super) fn all_missing_are_named(&self) -> bool {
        let torn = self.recovered.torn.as_ref().map_or(Lsn(u64::MAX), |torn| torn.lsn);
        let named = |lsn| self.recovered.damaged.iter().any(|part| part.from <= lsn && lsn < part.to);
        self.missing.iter().all(|record| named(record.lsn) || record.lsn >= torn)
    }
}

pub(super) fn open(disk: &SimDisk) -> Result<Journal<SimDisk>> {
    Journal::open(disk.clone(), Path::new(DIR), small_files())
}

#[test]
fn a_sound_journal_has_no_damage() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    assert!(opened.missing.is_empty() && opened.recovered.damaged.is_empty());
    assert_eq!(opened.recovered.torn, None);
    assert!(fixture.files().len() >= 5, "{:?}", fixture.files());
}

#[test]
fn a_flipped_bit_costs_the_record_that_it_hits() {
    let fixture = Fixture::new();
    let (mut flips, mut hits) = (0, 0);
    for path in fixture.files() {
        let mut bytes = fixture.contents(&path);
        for offset in (0..bytes.len()).step_by(5) {
            let bit = 1 << (offset % 8);
            bytes[offset] ^= bit;
            let opened = fixture.with(&path, &bytes);
            bytes[offset] ^= bit;
            flips += 1;
            hits += opened.missing.len();
            assert!(opened.missing.len() <= 1, "offset {offset} of {path:?}: {:?}", opened.missing);
            assert!(opened.all_missing_are_named(), "offset {offset} of {path:?}: {:?}", opened.recovered);
            for record in &opened.missing {
                let at = FILE_HEADER_SIZE as u64 + record.lsn.0 - base(&path);
                let end = at + 12 + record.payload.len() as u64;
                assert!((at..end).contains(&(offset as u64)), "offset {offset} hit {record:?}");
            }
        }
    }
    assert!(flips > 1000 && hits > flips / 2, "{hits} of {flips}");
}

#[test]
fn a_flipped_bit_in_a_file_header_is_named_and_costs_nothing() {
    let fixture = Fixture::new();
    for path in fixture.files() {
        let mut bytes = fixture.contents(&path);
        for offset in 0..FILE_HEADER_SIZE {
            bytes[offset] ^= 4;
            let opened = fixture.with(&path, &bytes);
            bytes[offset] ^= 4;
            assert_eq!(opened.missing, []);
            assert_eq!(opened.recovered.damaged[0].file, path.file_name().unwrap().to_str().unwrap());
        }
    }
}

#[test]
fn zeros_in_the_middle_cost_what_they_cover() {
    let fixture = Fixture::new();
    for path in fixture.files() {
        let mut bytes = fixture.contents(&path);
        bytes[512..1024].fill(0);
        let opened = fixture.with(&path, &bytes);
        assert!(!opened.missing.is_empty() && opened.missing.len() < 15, "{}", opened.missing.len());
        assert!(opened.all_missing_are_named());
        assert_eq!((opened.recovered.damaged.len(), opened.recovered.torn), (1, None));
    }
}

#[test]
fn a_file_cut_short_costs_its_end() {
    let fixture = Fixture::new();
    let files = fixture.files();
    for path in &files[..files.len() - 1] {
        for len in [0, 1, 63, 64, 65, 700, 1800] {
            let opened = fixture.with(path, &fixture.contents(path)[..len]);
            assert!(!opened.missing.is_empty() || len > 700, "{len} bytes of {path:?}");
            assert!(opened.all_missing_are_named(), "{len} bytes of {path:?}: {:?}", opened.recovered);
            assert!(opened.missing.iter().all(|record| record.lsn.0 >= base(path)));
        }
    }
}

/// Nothing proves that there was more in the last file, so this is what a lost suffix looks like.
#[test]
fn the_last_file_cut_to_nothing_is_named() {
    let fixture = Fixture::new();
    let path = fixture.files().pop().unwrap();
    let opened = fixture.with(&path, &[]);
    assert!(opened.missing.iter().all(|record| record.lsn.0 >= base(&path)));
    assert_eq!(opened.recovered.damaged.len(), 1);
    assert!(opened.recovered.next.0 > base(&path));
}

#[test]
fn a_damaged_journal_goes_on() {
    let fixture = Fixture::new();
    let path = fixture.files().pop().unwrap();
    let mut bytes = fixture.contents(&path);
    bytes[100] ^= 1;
    bytes[3] ^= 1;
    fixture.disk.overwrite(&path, &bytes);
    let before = fixture.open().missing;
    let mut journal = open(&fixture.disk).unwrap();
    let added = journal.append(2, b"after the damage");
    journal.commit().unwrap();
    let journal = open(&fixture.disk).unwrap();
    assert_eq!(journal.visited.last(), Some(&added));
    assert_eq!(journal.visited.len(), fixture.kept.len() - before.len() + 1);
}

#[test]
fn a_round_after_a_torn_one_of_two_marks_is_torn_with_it() {
    let disk = SimDisk::new();
    let mut journal = open(&disk).unwrap();
    let kept = [journal.append(1, b"synced")];
    journal.commit().unwrap();
    let torn = journal.append(1, b"written");
    journal.write().unwrap();
    journal.append(1, b"written, with a mark that knows no better");
    journal.write().unwrap();
    let path = Path::new(DIR).join(file_name(Lsn::ZERO));
    let mut bytes = disk.contents(&path).unwrap();
    bytes[FILE_HEADER_SIZE..][torn.lsn.since(Lsn::ZERO)..][..12].fill(0);
    disk.overwrite(&path, &bytes);
    let journal = open(&disk).unwrap();
    assert_eq!(journal.visited, kept);
    assert_eq!(journal.recovered.torn.map(|torn| torn.lsn), Some(torn.lsn));
}

#[test]
fn damage_in_front_of_a_payload_full_of_headers_is_passed_at_the_next_mark() {
    let disk = SimDisk::new();
    let options = Options { file_size: 1 << 22, ..small_files() };
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), options).unwrap();
    // Every 12 bytes a header that claims half a megabyte: without a limit, 90,000 long checksums.
    let trap = [1, 2, 3, 4, 0, 0, 8, 0, 9, 1, 0, 0].repeat(90_000);
    let hit = journal.append(1, &trap);
    journal.commit().unwrap();
    let kept = journal.append(1, b"behind it");
    journal.commit().unwrap();
    journal.commit_mark().unwrap();
    let path = Path::new(DIR).join(file_name(Lsn::ZERO));
    let mut bytes = disk.contents(&path).unwrap();
    bytes[FILE_HEADER_SIZE + MARK_SIZE + 5] ^= 1;
    disk.overwrite(&path, &bytes);
    let journal = open(&disk).unwrap();
    assert_eq!(journal.visited, [kept]);
    assert_eq!(journal.recovered.damaged[0].from, hit.lsn);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes in any file: no panic, nothing invented, and the journal can go on.
    #[test]
    fn any_damage_is_survived(wounds in prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()),
        1..6,
    )) {
        let fixture = Fixture::new();
        for (file, offset, junk, cut) in wounds {
            let path = file.get(&fixture.files()).clone();
            let mut bytes = fixture.contents(&path);
            let at = offset.index(bytes.len() + 1);
            if cut {
                bytes.truncate(at);
            }
            let end = bytes.len().min(at + junk.len());
            bytes.splice(at..end, junk);
            fixture.disk.overwrite(&path, &bytes);
        }
        fixture.open();
        let mut journal = open(&fixture.disk).unwrap();
        let added = journal.append(2, b"after");
        journal.commit().unwrap();
        let journal = open(&fixture.disk).unwrap();
        prop_assert_eq!(journal.visited.last(), Some(&added));
    }
}

/// The base in a file's name.
pub(super) fn base(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}
