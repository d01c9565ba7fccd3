//! Bytes change while nobody looks: what was hit is missing and named, everything else is served, and nothing is served
//! that was not published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use store::Kind;
use store::sim::{Random, SimDisk};

use crate::node::{Expected, QUEUES, TOGETHER, disk_of, files, find, start};
use crate::setting;

/// A shard after much work, as it lies on its disk.
struct Lying {
    files: Vec<(PathBuf, Vec<u8>)>,
    expected: BTreeMap<u64, Expected>,
    queues: BTreeSet<u64>,
}

fn lying() -> Lying {
    let disk = SimDisk::new();
    let (mut node, _) = start(&disk, &QUEUES.into()).expect("an empty disk");
    node.work().expect("a disk without faults");
    Lying { files: files(&disk), expected: node.expected, queues: node.queues }
}

type Change = Box<dyn Fn(&mut Vec<u8>)>;

/// What came of damage.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// It is said: in the report of the recovery, in the count of what is lost, or by not starting.
    detected: bool,
    /// The broker does not start.
    refused: bool,
    missing: usize,
    /// Settled messages that came back.
    back: usize,
    wrong: u64,
}

impl Lying {
    fn after(&self, damaged: &[(PathBuf, Vec<u8>)]) -> Outcome {
        let disk = disk_of(damaged);
        let found = match find(&disk, &self.queues) {
            Ok(found) => found,
            Err(error) => {
                assert!(matches!(error.kind, Kind::Foreign | Kind::Unsupported | Kind::Damaged), "{error}");
                return Outcome { detected: true, refused: true, ..Outcome::default() };
            }
        };
        let (mut missing, mut back) = (0, 0);
        for queue in &self.queues {
            let expected = &self.expected[queue];
            let there: BTreeSet<u64> = found.messages[queue].iter().copied().collect();
            missing +=
                expected.confirmed.difference(&expected.settled).filter(|it| !there.contains(it)).count();
            back += there.intersection(&expected.settled).count();
            assert!(there.is_subset(&expected.attempted));
            assert_eq!(there.len(), found.messages[queue].len(), "each once");
        }
        let report = &found.recovered;
        let detected = !report.damaged.is_empty() || report.torn.is_some() || found.lost > 0;
        Outcome { detected, refused: false, missing, back, wrong: found.wrong }
    }

    /// The files with one changed.
    fn with(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = self.files.clone();
        let (_, bytes) = files.iter_mut().find(|(at, _)| at == path).expect("one of them");
        change(bytes);
        files
    }

    fn of_kind(&self, extension: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let of_kind = |(path, _): &&(PathBuf, Vec<u8>)| path.extension().is_some_and(|it| it == extension);
        self.files.iter().filter(of_kind).cloned().collect()
    }
}

#[test]
fn flipped_bits_cost_what_they_hit_and_are_named() {
    let lying = lying();
    let flips = setting("LEVERET_FLIPPED_BITS", 50);
    let mut random = Random::new(1);
    let classes = [
        ("journal header", "journal", 0..64),
        ("journal body", "journal", 64..usize::MAX),
        ("segment header", "segment", 0..64),
        ("segment body", "segment", 64..usize::MAX),
        ("spare", "spare", 0..usize::MAX),
        ("reserve", "reserve", 0..usize::MAX),
    ];
    for (class, extension, range) in classes {
        let files = lying.of_kind(extension);
        if files.is_empty() && extension == "spare" {
            continue;
        }
        assert!(!files.is_empty(), "no {class}");
        let (mut detected, mut harmless, mut refused, mut worst, mut back) = (0, 0, 0, 0, 0);
        for _ in 0..flips {
            let (path, bytes) = &files[random.index(files.len())];
            let offset = range.start + random.index(bytes.len().min(range.end) - range.start);
            let bit = 1 << random.index(8);
            let outcome = lying.after(&lying.with(path, |bytes| bytes[offset] ^= bit));
            let what = format!("{class}: bit {bit:#x} of byte {offset} of {}: {outcome:?}", path.display());
            assert_eq!(outcome.wrong, 0, "{what}");
            assert!(outcome.detected || outcome.missing + outcome.back == 0, "{what}");
            assert!(outcome.missing <= TOGETHER, "{what}");
            detected += u64::from(outcome.detected);
            harmless += u64::from(!outcome.detected);
            refused += u64::from(outcome.refused);
            worst = worst.max(outcome.missing);
            back = back.max(outcome.back);
        }
        println!(
            "{class}: {flips} flips, {detected} detected ({refused} by not starting), {harmless} harmless, \
             at most {worst} messages missing, at most {back} settled ones back, 0 wrong"
        );
    }
}

#[test]
fn whole_parts_of_files_that_are_gone_are_named() {
    let lying = lying();
    let mut random = Random::new(2);
    let mut files = lying.of_kind("journal");
    files.extend(lying.of_kind("segment"));
    let last_journal = lying.of_kind("journal").pop().expect("there is one").0;
    for (path, bytes) in &files {
        let len = bytes.len();
        let middle = random.index(len);
        let end = (middle + 1 + random.index(2000)).min(len);
        let changes: [(&str, Change); 4] = [
            ("cut short", Box::new(move |bytes| bytes.truncate(middle))),
            ("zeros at the end", Box::new(move |bytes| bytes[middle..].fill(0))),
            ("zeros in the middle", Box::new(move |bytes| bytes[middle..end].fill(0))),
            ("empty", Box::new(Vec::clear)),
        ];
        for (change, apply) in changes {
            let outcome = lying.after(&lying.with(path, |bytes| apply(bytes)));
            let what = format!("{} {change} at {middle} of {len}: {outcome:?}", path.display());
            println!("{what}");
            assert_eq!(outcome.wrong, 0, "{what}");
            // Nothing vouches for the very end of the last file when its marks are gone too.
            let vouched = *path != last_journal || change == "zeros in the middle";
            assert!(outcome.detected || outcome.missing + outcome.back == 0 || !vouched, "{what}");
        }
    }
}

#[test]
fn a_segment_that_is_deleted_swapped_or_of_another_time_is_named() {
    let lying = lying();
    let segments = lying.of_kind("segment");
    assert!(segments.len() >= 2, "{}", segments.len());
    let (one, two) = (&segments[0], &segments[1]);
    let deleted: Vec<_> = lying.files.iter().filter(|(path, _)| *path != one.0).cloned().collect();
    let outcome = lying.after(&deleted);
    assert!(outcome.refused, "deleted: {outcome:?}");
    let mut swapped = lying.files.clone();
    for (path, bytes) in &mut swapped {
        if *path == one.0 {
            bytes.clone_from(&two.1);
        } else if *path == two.0 {
            bytes.clone_from(&one.1);
        }
    }
    let outcome = lying.after(&swapped);
    assert!(outcome.refused, "swapped: {outcome:?}");
    // A stale copy, of when half of it was written.
    let half = one.1.len() / 2;
    let outcome = lying.after(&lying.with(&one.0, |bytes| bytes.truncate(half)));
    assert!(outcome.detected && outcome.wrong == 0 && outcome.missing > 0, "half: {outcome:?}");
}

#[test]
fn a_journal_file_that_is_deleted_is_named() {
    let lying = lying();
    let journals = lying.of_kind("journal");
    assert!(journals.len() >= 3, "{}", journals.len());
    for (path, _) in &journals[1..journals.len() - 1] {
        let deleted: Vec<_> = lying.files.iter().filter(|(at, _)| at != path).cloned().collect();
        let outcome = lying.after(&deleted);
        assert!(outcome.detected && outcome.wrong == 0, "{}: {outcome:?}", path.display());
    }
    // All of it: segments are put aside, not removed.
    let none: Vec<_> = lying
        .files
        .iter()
        .filter(|(path, _)| path.extension().is_none_or(|it| it != "journal"))
        .cloned()
        .collect();
    let disk = disk_of(&none);
    find(&disk, &lying.queues).expect("a new journal");
    let aside =
        files(&disk).iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "orphan")).count();
    assert_eq!(aside, lying.of_kind("segment").len());
}
