//! How many bytes are written for a message.

use std::collections::BTreeSet;

use broker::page::Limits;
use store::sim::SimDisk;

use crate::node::{Node, Sizes, start_with};

/// Bytes that may be written for each byte of a durable message of a kilobyte that is consumed at once, and of one that
/// waits long, in hundredths. Room that is made ahead does not count: files are recycled.
const AT_ONCE_MAX: u64 = 115;
const AFTER_A_WAIT_MAX: u64 = 230;

const BODY: usize = 1024;
const COUNT: u64 = 24_000;
/// Messages of one round.
const ROUND: u32 = 16;

/// A sixteenth of everything.
fn sizes() -> Sizes {
    let whole = Limits::default();
    let limits = Limits {
        queue: whole.queue / 16,
        keep: whole.keep / 16,
        tail: whole.tail / 16,
        spill: whole.spill / 16,
        front: whole.front / 16,
        in_flight: whole.in_flight / 16,
        hold: whole.hold / 16,
        busy: 0,
        ..whole
    };
    let files = store::Options { file_size: 2 << 20, zero_ahead_max: 1 << 20, ..store::Options::default() };
    let segments = store::segment::Options { segment_size: 1 << 20, ..store::segment::Options::default() };
    Sizes { files, segments, limits, window: 64 << 10 }
}

/// Hundredths of a byte that are written per byte, when so many rounds wait before the first is consumed.
fn amplification(rounds_waiting: u64) -> u64 {
    let disk = SimDisk::new();
    let (mut node, _) = start_with(&disk, &BTreeSet::from([1]), sizes()).expect("an empty disk");
    let take = |node: &mut Node| {
        for _ in 0..ROUND {
            assert!(node.take_any(1).expect("a disk without faults"), "what was published is there");
        }
        node.finish_quickly().expect("a disk without faults");
    };
    for round in 0..COUNT / u64::from(ROUND) {
        node.publish_alike(1, ROUND, &[7; BODY]).expect("a disk without faults");
        if round >= rounds_waiting {
            take(&mut node);
        }
    }
    (0..rounds_waiting).for_each(|_| take(&mut node));
    assert!(!node.take_any(1).expect("a disk without faults"));
    println!(
        "{rounds_waiting} rounds wait: {} KiB written, {} KiB made ahead, {} spills, {} files forgotten",
        disk.bytes_written() >> 10,
        disk.bytes_zeroed() >> 10,
        node.spilled,
        node.forgotten
    );
    disk.bytes_written() * 100 / (COUNT * BODY as u64)
}

#[test]
fn a_message_is_written_once_or_twice() {
    let at_once = amplification(0);
    let after_a_wait = amplification(COUNT / u64::from(ROUND));
    println!("bytes written per byte, in hundredths: at once {at_once}, after a long wait {after_a_wait}");
    assert!(at_once <= AT_ONCE_MAX, "{at_once}");
    assert!(after_a_wait <= AFTER_A_WAIT_MAX, "{after_a_wait}");
}
