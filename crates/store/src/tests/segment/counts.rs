//! What an append, a sync and a read cost.

use std::path::Path;

use super::{DIR, append, message, read};
use crate::segment::{NewRun, Options, Reader, Writer};
use crate::sim::{Call, SimDisk};

const CALLS: [Call; 10] = [
    Call::Create,
    Call::Open,
    Call::List,
    Call::Rename,
    Call::Remove,
    Call::SyncDir,
    Call::Write,
    Call::Read,
    Call::Zero,
    Call::Sync,
];

/// The calls that `work` makes, in the order of [`CALLS`].
fn spent(disk: &SimDisk, work: impl FnOnce()) -> [u64; 10] {
    let before = CALLS.map(|call| disk.count(call));
    work();
    std::array::from_fn(|call| disk.count(CALLS[call]) - before[call])
}

fn open(disk: &SimDisk) -> Writer<SimDisk> {
    Writer::open(disk.clone(), Path::new(DIR), Options::default(), 1, []).unwrap()
}

#[test]
fn an_append_is_one_write_and_a_sync_is_one_sync() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    let run = |round: u64| (round * 2000..(round + 1) * 2000).map(|sequence| message(sequence, vec![1; 100]));
    let first = spent(&disk, || {
        append(&mut writer, 1, &run(0).collect::<Vec<_>>()).unwrap();
        writer.sync().unwrap();
    });
    assert_eq!(first, [1, 0, 0, 0, 0, 1, 1, 0, 0, 1], "a new file: created, and the directory synced");
    let later = spent(&disk, || {
        for round in 1..11 {
            append(&mut writer, 1, &run(round).collect::<Vec<_>>()).unwrap();
        }
        writer.sync().unwrap();
        writer.sync().unwrap();
    });
    assert_eq!(later, [0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
}

#[test]
fn many_new_segments_cost_one_sync_of_the_directory() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    let calls = spent(&disk, || {
        for queue in 0..10_000 {
            let run = NewRun { first: 0, flags: 0, bytes: b"hello", lengths: &[5] };
            writer.append(queue, &[run]).unwrap();
        }
        assert_eq!(writer.sync().unwrap().len(), 10_000);
        writer.check_invariants();
    });
    assert_eq!(calls, [10_000, 0, 0, 0, 0, 1, 10_000, 0, 0, 10_000]);
}

#[test]
fn opening_touches_no_segment() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    for queue in 0..100 {
        append(&mut writer, queue, &[message(0, "hello")]).unwrap();
    }
    writer.sync().unwrap();
    assert_eq!(spent(&disk, || drop(open(&disk))), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_message_costs_eight_bytes_and_a_block_thirty_two() {
    for (size, blocks) in [(4, 1), (100, 1), (1000, 7), (65_536, 400), (100_000, 400)] {
        let disk = SimDisk::new();
        let mut writer = open(&disk);
        let all: Vec<_> = (0..400).map(|sequence| message(sequence, vec![1; size])).collect();
        let extent = append(&mut writer, 1, &all).unwrap();
        let overhead = extent.to.offset - 64 - 400 * size as u64;
        assert_eq!(overhead, 400 * 8 + blocks * 32, "messages of {size} bytes");
    }
}

#[test]
fn a_block_has_at_most_4096_messages() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    let all: Vec<_> = (0..4097).map(|sequence| message(sequence, "")).collect();
    let extent = append(&mut writer, 1, &all).unwrap();
    assert_eq!(extent.to.offset, 64 + 4097 * 8 + 2 * 32);
    assert_eq!(super::read_sim(&disk, &extent), (all, vec![]));
}

#[test]
fn a_read_is_one_call_and_copies_nothing() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    let all: Vec<_> = (0..20_000).map(|sequence| message(sequence, vec![1; 100])).collect();
    let extent = append(&mut writer, 1, &all).unwrap();
    let calls = spent(&disk, || {
        read(&disk, Path::new(DIR), &extent, 512 << 10).unwrap();
    });
    // 2.2 MB in windows of half a megabyte, each up to a block short.
    assert_eq!(calls, [0, 1, 0, 0, 0, 0, 0, 1 + 5, 0, 0]);

    let reader = Reader::open(&disk, Path::new(DIR), extent.id).unwrap();
    let chunk = reader.read(extent.from, extent.to, 512 << 10).unwrap();
    assert!(chunk.runs.len() > 5);
    let place = |index: usize| chunk.runs[index].bytes.as_ptr() as u64;
    for index in 1..chunk.runs.len() {
        let distance = chunk.runs[index].offset - chunk.runs[0].offset;
        assert_eq!(place(index) - place(0), distance, "slices of one buffer");
    }
}

#[test]
fn a_block_larger_than_the_window_costs_one_call_more() {
    let disk = SimDisk::new();
    let mut writer = open(&disk);
    let extent = append(&mut writer, 1, &[message(1, vec![1; 1 << 20])]).unwrap();
    let reader = Reader::open(&disk, Path::new(DIR), extent.id).unwrap();
    let calls = spent(&disk, || {
        let chunk = reader.read(extent.from, extent.to, 64 << 10).unwrap();
        assert_eq!((chunk.runs.len(), chunk.next), (1, extent.to));
    });
    assert_eq!(calls, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
}
