//! Version 1 of the format as it was written once: it stays readable, and today's code writes the same bytes.

use std::path::{Path, PathBuf};

use crate::sim::SimDisk;
use crate::testing::{Journal, Kept};
use crate::{Lsn, Options};

const FIXTURE: &[u8] = include_bytes!("../../fixtures/v1.journal");
const DIR: &str = "/journal";

fn options() -> Options {
    Options {
        journal: 3,
        file_size: 1024,
        zero_ahead_min: 64,
        zero_ahead_max: 64,
        spares_max: 2,
        ..Options::default()
    }
}

fn path() -> PathBuf {
    Path::new(DIR).join("00000000000000000000.journal")
}

/// Three rounds: several records, a payload of no bytes, a payload beyond the fast path of the checksum.
fn write() -> (Vec<u8>, Vec<Kept>) {
    let disk = SimDisk::new();
    let mut journal = Journal::open(disk.clone(), Path::new(DIR), options()).unwrap();
    let mut kept = vec![journal.append(1, b"hello"), journal.append(2, b""), journal.append(255, b"\0\xff")];
    journal.commit().unwrap();
    let long: Vec<u8> = (0..200).collect();
    kept.push(journal.append(1, &long));
    journal.commit().unwrap();
    journal.commit_mark().unwrap();
    (disk.contents(&path()).unwrap(), kept)
}

#[test]
fn today_writes_the_fixture() {
    let (bytes, _) = write();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1.journal");
        std::fs::write(fixture, &bytes).unwrap();
    }
    assert_eq!(bytes, FIXTURE, "a change of the format needs a new version and a new fixture");
}

#[test]
fn the_fixture_is_readable() {
    let disk = SimDisk::new();
    disk.overwrite(&path(), FIXTURE);
    let journal = Journal::open(disk, Path::new(DIR), options()).unwrap();
    let (_, kept) = write();
    assert_eq!(journal.visited, kept);
    assert_eq!((journal.recovered.torn, journal.recovered.damaged), (None, vec![]));
    assert_eq!(journal.recovered.next, Lsn(4096));
}
