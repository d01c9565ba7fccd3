//! Both disks tell the same stories.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{DIR, Message, append, message, messages, name, noise, read, small};
use crate::segment::{Extent, Name, Options, Place, Reader, Writer, list};
use crate::sim::{Random, SimDisk};
use crate::{Disk, RealDisk};

type Story<D> = fn(&D, &Path);

fn stories<D: Disk + Clone>() -> [Story<D>; 8] {
    [
        nothing_is_created_before_the_first_append,
        messages_come_back_in_order,
        reading_begins_in_the_middle,
        a_full_segment_is_followed_by_another,
        a_new_life_begins_new_segments,
        a_number_that_is_taken_is_passed_over,
        removed_segments_are_gone,
        more_queues_than_open_files,
    ]
}

#[test]
fn the_simulated_disk_passes() {
    for story in stories() {
        story(&SimDisk::new(), Path::new(DIR));
    }
}

#[test]
fn the_real_disk_passes() {
    for story in stories() {
        let home = tempfile::tempdir().unwrap();
        story(&RealDisk, &home.path().join("not/yet/there"));
    }
}

fn open<D: Disk + Clone>(disk: &D, dir: &Path, incarnation: u64, known: &[Name]) -> Writer<D> {
    Writer::open(disk.clone(), dir, small(), incarnation, known.iter().copied()).unwrap()
}

fn nothing_is_created_before_the_first_append<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    assert_eq!(writer.sync().unwrap(), []);
    assert_eq!(list(disk, dir).unwrap(), []);
}

fn messages_come_back_in_order<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    let first = [message(5, "one"), message(6, ""), message(9, "after a hole")];
    let second = [Message { flags: 3, ..message(10, vec![1; 1000]) }, message(11, "of other flags")];
    let one = append(&mut writer, 7, &first).unwrap();
    let two = append(&mut writer, 7, &second).unwrap();
    assert_eq!((one.from, one.to.sequence), (Place { offset: 64, sequence: 5 }, 10));
    assert_eq!((two.id, two.from.offset, two.to.sequence), (one.id, one.to.offset, 12));
    // Before they are durable, and in parts.
    assert_eq!(read(disk, dir, &one, 1).unwrap(), (first.to_vec(), vec![]));
    assert_eq!(read(disk, dir, &two, 1).unwrap(), (second.to_vec(), vec![]));
    let whole = Extent { id: one.id, from: one.from, to: two.to };
    assert_eq!(writer.sync().unwrap(), [whole]);
    assert_eq!(writer.sync().unwrap(), [], "nothing has grown");
    assert_eq!(
        read(disk, dir, &whole, 1 << 20).unwrap(),
        ([first.to_vec(), second.to_vec()].concat(), vec![])
    );
}

fn reading_begins_in_the_middle<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    let all = messages(&mut Random::new(1), 50, 60, 60);
    let extent = append(&mut writer, 1, &all).unwrap();
    for start in 0..=all.last().unwrap().sequence {
        let from = Place { sequence: start, ..extent.from };
        let wanted: Vec<Message> = all.iter().filter(|message| message.sequence >= start).cloned().collect();
        assert_eq!(read(disk, dir, &Extent { from, ..extent }, 4096).unwrap(), (wanted, vec![]));
    }
}

fn a_full_segment_is_followed_by_another<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    let mut all = Vec::new();
    for sequence in 0..50 {
        all.push(message(sequence, vec![7; 500]));
        append(&mut writer, 1, &all[all.len() - 1..]).unwrap();
    }
    let extents = writer.sync().unwrap();
    assert_eq!(extents.len(), 7, "8 messages fill a file");
    assert!(extents.iter().all(|extent| extent.to.offset < 4096 + 540));
    assert!(extents.is_sorted_by_key(|extent| (extent.id.name, extent.from.sequence)));
    let found = extents.iter().flat_map(|extent| read(disk, dir, extent, 4096).unwrap().0);
    assert_eq!(found.collect::<Vec<_>>(), all);
}

fn a_new_life_begins_new_segments<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    append(&mut writer, 1, &[message(0, "old")]).unwrap();
    let old = writer.sync().unwrap()[0];
    append(&mut writer, 1, &[message(1, "never synced")]).unwrap();
    drop(writer);

    let mut writer = open(disk, dir, 2, &[name(3, 70)]);
    let new = append(&mut writer, 1, &[message(1, "new")]).unwrap();
    assert_eq!((new.id.name, new.id.incarnation), (name(1, 71), 2));
    assert_eq!(list(disk, dir).unwrap(), [name(1, 0), name(1, 71)]);
    assert_eq!(read(disk, dir, &old, 4096).unwrap(), (vec![message(0, "old")], vec![]));
    assert_eq!(read(disk, dir, &new, 4096).unwrap(), (vec![message(1, "new")], vec![]));

    let third = append(&mut open(disk, dir, 3, &[]), 1, &[message(2, "newer")]).unwrap();
    assert_eq!(third.id.name, name(1, 72), "above those in the directory");
}

fn a_number_that_is_taken_is_passed_over<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    disk.create(&dir.join(name(1, 0).file_name())).unwrap();
    let error = append(&mut writer, 1, &[message(0, "x")]).unwrap_err();
    assert!(error.text.starts_with("cannot create "), "{error}");
    assert_eq!(append(&mut writer, 1, &[message(0, "x")]).unwrap().id.name, name(1, 1));
}

fn removed_segments_are_gone<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    let one = append(&mut writer, 1, &[message(0, "one")]).unwrap();
    let two = append(&mut writer, 2, &[message(0, "two")]).unwrap();
    writer.remove(one.id.name).unwrap();
    writer.remove(name(9, 9)).unwrap();
    writer.check_invariants();
    assert_eq!(list(disk, dir).unwrap(), [two.id.name]);
    assert_eq!(writer.sync().unwrap(), [two], "what was removed is not said to be durable");
    // The queue goes on in another segment, even from the beginning.
    let again = append(&mut writer, 1, &[message(0, "again")]).unwrap();
    assert!(again.id.name.number > two.id.name.number);
    writer.close(2);
    assert_ne!(append(&mut writer, 2, &[message(0, "closed")]).unwrap().id, two.id);
    let error = Reader::open(disk, dir, one.id).unwrap_err();
    assert_eq!(error.kind, crate::Kind::Foreign);
    assert!(error.text.contains("is missing; it should hold segment 0 of queue 1"), "{error}");
}

fn more_queues_than_open_files<D: Disk + Clone>(disk: &D, dir: &Path) {
    let mut writer = open(disk, dir, 1, &[]);
    for round in 0..3 {
        for queue in 0..10 {
            append(&mut writer, queue, &[message(round, vec![1; 100])]).unwrap();
        }
    }
    let extents = writer.sync().unwrap();
    writer.check_invariants();
    assert_eq!(extents.len(), 10);
    for extent in &extents {
        let (found, damages) = read(disk, dir, extent, 4096).unwrap();
        assert_eq!((found.len(), damages), (3, vec![]));
    }
}

#[test]
fn what_is_removed_leaves_the_rest_in_order() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    for sequence in 0..40 {
        append(&mut writer, 1, &[message(sequence, vec![7; 900])]).unwrap();
    }
    writer.remove(name(1, 0)).unwrap();
    let numbers: Vec<u64> = writer.sync().unwrap().iter().map(|extent| extent.id.name.number).collect();
    assert_eq!(numbers, (1..8).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "message 4 comes after 6 messages")]
fn sequence_numbers_that_go_back_are_a_bug() {
    let mut writer = super::writer(&SimDisk::new());
    append(&mut writer, 1, &[message(5, "x")]).unwrap();
    let _ = append(&mut writer, 1, &[message(4, "y")]);
}

#[test]
fn names_are_written_in_one_way() {
    assert_eq!(name(0xab, 12).file_name(), "00000000000000ab-000000000000000c.segment");
    for name in [name(0, 0), name(u64::MAX, 1), name(1, u64::MAX)] {
        assert_eq!(Name::parse(&name.file_name()), Some(name));
    }
    for other in [
        "00000000000000AB-000000000000000c.segment",
        "ab-c.segment",
        "+0000000000000ab-000000000000000c.segment",
        "00000000000000ab-000000000000000c.segment.new",
        "00000000000000000001.journal",
        ".segment",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

/// The hole in front of it, its flags and its bytes.
fn any_message() -> impl Strategy<Value = (u64, u32, Vec<u8>)> {
    let size_max = prop_oneof![4 => Just(50), 2 => Just(600), 1 => Just(20_000)];
    let hole = prop_oneof![6 => Just(0u64), 1 => 0u64..1000];
    let bytes = (size_max, any::<u64>()).prop_map(|(size_max, seed)| noise(&mut Random::new(seed), size_max));
    (hole, 0u32..3, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is appended comes back, from wherever an append began, through whatever window.
    #[test]
    fn what_is_appended_is_read(
        appends in prop::collection::vec(prop::collection::vec(any_message(), 1..30), 1..12),
        block_size in 1usize..3000,
        segment_size in 1u64..100_000,
        window in 1usize..40_000,
        start: u32,
    ) {
        let disk = SimDisk::new();
        let options = Options { segment_size, block_size, files_open_max: 1 };
        let mut writer = Writer::open(disk.clone(), &PathBuf::from(DIR), options, 5, []).unwrap();
        let mut sequence = u64::from(start);
        let mut appended = Vec::new();
        for new in appends {
            let new: Vec<Message> = new.into_iter().map(|(hole, flags, bytes)| {
                sequence += hole + 1;
                Message { sequence, flags, bytes }
            }).collect();
            appended.push((append(&mut writer, 1, &new).unwrap(), new));
        }
        let extents = writer.sync().unwrap();
        drop(writer);
        for extent in &extents {
            let parts = || appended.iter().filter(|(part, _)| part.id == extent.id);
            for (part, _) in parts() {
                let wanted = parts().filter(|(other, _)| other.from >= part.from);
                let wanted: Vec<Message> = wanted.flat_map(|(_, new)| new.clone()).collect();
                let extent = Extent { from: part.from, ..*extent };
                prop_assert_eq!(read(&disk, Path::new(DIR), &extent, window).unwrap(), (wanted, vec![]));
            }
        }
        let synced: u64 = extents.iter().map(|extent| extent.to.offset).sum();
        let files = list(&disk, Path::new(DIR)).unwrap();
        let on_disk = files.iter().map(|name| disk.contents(&Path::new(DIR).join(name.file_name())).unwrap().len() as u64);
        prop_assert_eq!(on_disk.sum::<u64>(), synced);
    }
}
