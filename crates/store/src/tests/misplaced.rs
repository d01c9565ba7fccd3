//! Whole files that are not where they should be, or not what.

use std::path::Path;

use super::damage::{DIR, Fixture, base, open};
use crate::format::{FileHeader, file_name};
use crate::{Disk, Kind, Lsn};

#[test]
fn a_missing_file_is_named() {
    let fixture = Fixture::new();
    let files = fixture.files();
    for path in &files[1..files.len() - 1] {
        let bytes = fixture.contents(path);
        fixture.disk.remove(path).unwrap();
        let opened = fixture.open();
        fixture.disk.overwrite(path, &bytes);
        assert!(opened.all_missing_are_named() && !opened.missing.is_empty());
        let [damage] = &opened.recovered.damaged[..] else { panic!("{:?}", opened.recovered) };
        assert_eq!(damage.file, file_name(Lsn(base(path))));
        assert_eq!(damage.why, "the file is missing");
    }
}

#[test]
fn two_files_that_swapped_names_lose_nothing() {
    let fixture = Fixture::new();
    let files = fixture.files();
    let (one, two) = (fixture.contents(&files[1]), fixture.contents(&files[2]));
    fixture.disk.overwrite(&files[1], &two);
    fixture.disk.overwrite(&files[2], &one);
    let opened = fixture.open();
    assert_eq!(opened.missing, []);
    assert_eq!(opened.recovered.damaged.len(), 2);
    assert!(opened.recovered.damaged[0].why.starts_with("the file holds what"));
}

#[test]
fn a_second_copy_of_a_file_is_left_out() {
    let fixture = Fixture::new();
    let files = fixture.files();
    fixture.disk.overwrite(&Path::new(DIR).join(file_name(Lsn(1))), &fixture.contents(&files[1]));
    let opened = fixture.open();
    assert_eq!(opened.missing, []);
    assert!(opened.recovered.damaged.iter().any(|damage| damage.why.starts_with("a second file")));
}

#[test]
fn an_old_copy_of_a_file_is_noticed() {
    let fixture = Fixture::new();
    let path = &fixture.files()[0];
    let mut bytes = fixture.contents(path);
    bytes[1500..].fill(0);
    let opened = fixture.with(path, &bytes);
    assert!(!opened.missing.is_empty() && opened.all_missing_are_named());
}

#[test]
fn a_sector_of_another_place_is_noticed() {
    let fixture = Fixture::new();
    let files = fixture.files();
    let mut bytes = fixture.contents(&files[1]);
    bytes.copy_within(1024..1536, 2048);
    let opened = fixture.with(&files[1], &bytes);
    assert!(!opened.missing.is_empty() && opened.all_missing_are_named());

    let other = fixture.contents(&files[0]);
    let mut bytes = fixture.contents(&files[1]);
    bytes[1024..1536].copy_from_slice(&other[1024..1536]);
    let opened = fixture.with(&files[1], &bytes);
    assert!(!opened.missing.is_empty() && opened.all_missing_are_named());
}

#[test]
fn a_newer_format_is_refused() {
    let fixture = Fixture::new();
    let path = &fixture.files()[2];
    let mut bytes = fixture.contents(path);
    bytes[4] = 2;
    let checksum = crc_fast::crc32_iscsi(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    fixture.disk.overwrite(path, &bytes);
    let error = open(&fixture.disk).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.text.ends_with(" has format 2; this version of Leveret reads format 1"), "{error}");
}

#[test]
fn another_journals_file_is_refused() {
    let fixture = Fixture::new();
    let header = FileHeader { journal: 7, base: Lsn(0), previous: Lsn(0), previous_end: Lsn(0) };
    fixture.disk.overwrite(&fixture.files()[0], &header.encode());
    let error = open(&fixture.disk).unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert!(error.text.ends_with(" belongs to journal 7, not to journal 0"), "{error}");
}
