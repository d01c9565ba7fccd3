//! What the pager says when the disk does not do what it should.

use std::path::Path;

use broker::id::QueueId;
use broker::message::{Messages, Parts};
use broker::page::{Answer, Extent, Order, Run};
use server::pager::Pages;
use store::segment::Options;
use store::sim::{Call, Fault, SimDisk};

const QUEUE: QueueId = QueueId(1);

fn message(number: u64) -> Messages {
    Parts { route: b"\0\x01q", properties: &[0, 0], body: &number.to_be_bytes() }.to_messages()
}

fn spill(first: u64, count: u64) -> Order {
    let runs = (first..first + count).map(|first| Run { first, flags: 0, messages: message(first) });
    Order::Spill { queue: QUEUE, token: first, runs: runs.collect() }
}

fn open(disk: &SimDisk) -> Pages<SimDisk> {
    Pages::open(disk.clone(), Path::new("/segments"), Options::default(), Vec::new(), || 7)
        .expect("an empty disk")
}

fn carry_out(pages: &mut Pages<SimDisk>, order: Order) -> Vec<Answer> {
    let mut answers = Vec::new();
    pages.carry_out([order], |answer| answers.push(answer));
    answers
}

fn retry(pages: &mut Pages<SimDisk>) -> Vec<Answer> {
    let mut answers = Vec::new();
    pages.retry(|answer| answers.push(answer));
    answers
}

fn spilled(answers: &[Answer]) -> Extent {
    let [Answer::Spilled { extent, .. }] = answers else { panic!("{answers:?}") };
    *extent
}

fn read(pages: &mut Pages<SimDisk>, extent: Extent) -> Vec<u64> {
    numbers(&carry_out(pages, Order::Read { queue: QUEUE, token: 1, extent }))
}

fn numbers(answers: &[Answer]) -> Vec<u64> {
    let [Answer::Read { runs, .. }] = answers else { panic!("{answers:?}") };
    runs.iter().flat_map(|run| run.first..run.first + u64::from(run.messages.count())).collect()
}

#[test]
fn a_full_disk_refuses_and_is_asked_again_later() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    for fault in [Fault::Full, Fault::Short, Fault::Io] {
        disk.fail(1, Some(Call::Write), fault);
        let answers = carry_out(&mut pages, spill(1, 10));
        assert!(matches!(answers[..], [Answer::Refused { queue: QUEUE, token: 1 }]), "{answers:?}");
        assert!(pages.wants_retry());
        assert!(matches!(retry(&mut pages)[..], [Answer::TryAgain]));
        assert!(!pages.wants_retry());
    }
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    assert_eq!(read(&mut pages, extent), (1..11).collect::<Vec<_>>());
}

#[test]
fn what_a_failed_sync_has_left_is_not_reported_and_others_go_on_in_a_new_segment() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let before = spilled(&carry_out(&mut pages, spill(1, 10)));
    disk.fail(1, Some(Call::Sync), Fault::Io);
    let answers = carry_out(&mut pages, spill(11, 10));
    assert!(matches!(answers[..], [Answer::Refused { .. }]), "{answers:?}");
    let after = spilled(&carry_out(&mut pages, spill(11, 10)));
    assert!(after.segment.number > before.segment.number);
    disk.crash(1);
    assert_eq!(read(&mut pages, before), (1..11).collect::<Vec<_>>());
    assert_eq!(read(&mut pages, after), (11..21).collect::<Vec<_>>());
}

#[test]
fn a_read_that_fails_is_tried_again() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    for call in [Call::Open, Call::Read] {
        disk.fail(1, Some(call), Fault::Io);
        let answers = carry_out(&mut pages, Order::Read { queue: QUEUE, token: 1, extent });
        assert!(answers.is_empty() && pages.wants_retry(), "{answers:?}");
        assert_eq!(numbers(&retry(&mut pages)), (1..11).collect::<Vec<_>>());
        pages = open_again(&disk, extent);
    }
}

/// Another life, with nothing open.
fn open_again(disk: &SimDisk, extent: Extent) -> Pages<SimDisk> {
    let known = vec![(QUEUE, extent.segment)];
    Pages::open(disk.clone(), Path::new("/segments"), Options::default(), known, || 8)
        .expect("a disk without faults")
}

#[test]
fn a_missing_segment_and_a_flipped_bit_cost_what_they_hit() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    let path = Path::new("/segments")
        .join(store::segment::list(&disk, Path::new("/segments")).unwrap()[0].file_name());
    let mut bytes = disk.contents(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    disk.overwrite(&path, &bytes);
    assert_eq!(read(&mut pages, extent), (1..10).collect::<Vec<_>>());
    let mut pages = open_again(&disk, extent);
    store::Disk::remove(&disk, &path).unwrap();
    assert_eq!(read(&mut pages, extent), Vec::<u64>::new());
}

#[test]
fn leftovers_of_a_crash_are_removed_at_start() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    open_again(&disk, extent);
    assert_eq!(store::segment::list(&disk, Path::new("/segments")).unwrap().len(), 1);
    open(&disk);
    assert_eq!(store::segment::list(&disk, Path::new("/segments")).unwrap().len(), 0);
}
