//! Whole files and blocks that are not where they should be, or not what.

use std::path::Path;

use super::{DIR, Fixture, append, message, name, path, read, read_sim, small};
use crate::segment::{Extent, Id, Reader, Writer};
use crate::sim::SimDisk;
use crate::{Disk, Kind};

/// Reads `extent` after its file was replaced by `bytes`: nothing of it validates.
fn check_foreign(disk: &SimDisk, extent: &Extent, bytes: &[u8], says: &str) {
    disk.overwrite(&path(extent.id), bytes);
    let (found, damages) = read_sim(disk, extent);
    assert_eq!(found, []);
    assert!(damages[0].why.contains(says), "{damages:?}");
    assert_eq!(damages[1].sequences, extent.from.sequence..extent.to.sequence);
    assert_eq!(damages[1].offsets, 64..extent.to.offset);
}

/// Two queues with a message each, of the same bytes and sequence number.
fn two() -> (SimDisk, [Extent; 2]) {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    let extents = [1, 2].map(|queue| append(&mut writer, queue, &[message(5, "the same")]).unwrap());
    writer.sync().unwrap();
    (disk, extents)
}

#[test]
fn a_file_under_the_name_of_another_queue() {
    let (disk, [one, two]) = two();
    let bytes = disk.contents(&path(one.id)).unwrap();
    check_foreign(&disk, &two, &bytes, "the file says it is segment 0 of queue 1 in incarnation 0xfeed, not");
}

#[test]
fn a_file_of_another_number() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    let one = append(&mut writer, 1, &[message(5, "one")]).unwrap();
    writer.close(1);
    let two = append(&mut writer, 1, &[message(5, "two")]).unwrap();
    let bytes = disk.contents(&path(one.id)).unwrap();
    check_foreign(&disk, &two, &bytes, "the file says it is segment 0 of queue 1");
}

/// The directory was lost and numbers began again, or it was restored from a copy.
#[test]
fn a_file_of_another_life() {
    let (disk, [one, _]) = two();
    let mut writer = Writer::open(SimDisk::new(), Path::new(DIR), small(), 0xbeef, []).unwrap();
    let new = append(&mut writer, 1, &[message(5, "new life")]).unwrap();
    assert_eq!(new.id.name, one.id.name);
    let bytes = disk.contents(&path(one.id)).unwrap();
    check_foreign(
        &disk,
        &new,
        &bytes,
        "in incarnation 0xfeed, not segment 0 of queue 1 in incarnation 0xbeef",
    );
}

#[test]
fn an_old_copy_of_the_file() {
    let fixture = Fixture::new(1, 12, 60);
    let sound = fixture.bytes();
    let opened = fixture.with(&sound[..sound.len() / 2]);
    assert!(!opened.missing.is_empty() && opened.damages.len() <= 10, "{opened:?}");
}

#[test]
fn a_file_of_zeros_and_no_file() {
    let (disk, [one, _]) = two();
    let len = disk.contents(&path(one.id)).unwrap().len();
    check_foreign(&disk, &one, &vec![0; len], "the header of the file does not match its checksum");
    check_foreign(&disk, &one, &[], "the header of the file does not match its checksum");
    disk.remove(&path(one.id)).unwrap();
    let error = read(&disk, Path::new(DIR), &one, 4096).unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
}

#[test]
fn every_sector_in_the_place_of_every_other() {
    let fixture = Fixture::new(2, 40, 60);
    let sound = fixture.bytes();
    let sectors = sound.len() / 512;
    assert!(sectors > 6);
    for from in 0..sectors {
        for to in (0..sectors).filter(|to| *to != from) {
            let mut bytes = sound.clone();
            bytes.copy_within(from * 512..(from + 1) * 512, to * 512);
            assert!(!fixture.with(&bytes).missing.is_empty());
        }
    }
}

/// A block is valid at its own place only, even when it has the right size for another.
#[test]
fn two_blocks_that_swapped_places() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    let one = append(&mut writer, 1, &[message(1, "aaaa")]).unwrap();
    append(&mut writer, 1, &[message(2, "bbbb")]).unwrap();
    let extent = writer.sync().unwrap()[0];
    let mut bytes = disk.contents(&path(one.id)).unwrap();
    let (left, right) = bytes[64..].split_at_mut(44);
    left.swap_with_slice(right);
    disk.overwrite(&path(one.id), &bytes);
    let (found, damages) = read_sim(&disk, &extent);
    assert_eq!(found, []);
    assert_eq!(damages[0].sequences, 1..3);
}

#[test]
fn a_newer_format_is_refused() {
    let (disk, [one, _]) = two();
    let mut bytes = disk.contents(&path(one.id)).unwrap();
    bytes[4] = 2;
    let checksum = crc_fast::crc32_iscsi(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    disk.overwrite(&path(one.id), &bytes);
    let error = Reader::open(&disk, Path::new(DIR), one.id).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.text.ends_with(".segment has format 2; this version of Leveret reads format 1"), "{error}");
}

/// Bytes beyond the durable end are never given back, however valid they look.
#[test]
fn what_lies_beyond_the_end_is_not_read() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    append(&mut writer, 1, &[message(1, "durable")]).unwrap();
    let durable = writer.sync().unwrap()[0];
    append(&mut writer, 1, &[message(2, "not durable, though whole")]).unwrap();
    for window in [1, 1 << 20] {
        let found = read(&disk, Path::new(DIR), &durable, window).unwrap();
        assert_eq!(found, (vec![message(1, "durable")], vec![]));
    }
    // Nor when damage makes the reader look for a next block.
    let mut bytes = disk.contents(&path(durable.id)).unwrap();
    bytes[64] ^= 1;
    disk.overwrite(&path(durable.id), &bytes);
    assert_eq!(read_sim(&disk, &durable).0, []);
}

#[test]
fn the_identity_is_in_every_block() {
    let (disk, [one, _]) = two();
    for other in [
        Id { name: name(3, one.id.name.number), ..one.id },
        Id { name: name(1, 77), ..one.id },
        Id { incarnation: 1, ..one.id },
    ] {
        // With the header of the file forged, so that only the block can tell.
        let mut bytes = disk.contents(&path(one.id)).unwrap();
        bytes[..64].copy_from_slice(&crate::segment::FileHeader { id: other }.encode());
        disk.overwrite(&path(other), &bytes);
        let (found, damages) = read_sim(&disk, &Extent { id: other, ..one });
        assert_eq!((found, damages.len()), (vec![], 1));
    }
}
