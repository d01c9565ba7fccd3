//! What the pager says when the disk does not do what it should.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use broker::id::QueueId;
use broker::message::{Messages, Parts};
use broker::page::{Answer, Extent, Order, Run};
use server::pager::{Journal, ORPHAN, Pager, Pages, READ_TRIES_MAX};
use store::segment::Options;
use store::sim::{Call, Fault, Planned, SimDisk};
use store::{Disk, Kind};

const QUEUE: QueueId = QueueId(1);

fn message(number: u64) -> Messages {
    Parts { route: b"\0\x01q", properties: &[0, 0], body: &number.to_be_bytes() }.to_messages()
}

fn spill(first: u64, count: u64) -> Order {
    let runs = (first..first + count).map(|first| Run { first, flags: 0, messages: message(first) });
    Order::Spill { queue: QUEUE, token: first, runs: runs.collect() }
}

fn open(disk: &SimDisk) -> Pages<SimDisk> {
    Pages::open(disk.clone(), Path::new("/segments"), Options::default(), &[], Journal::Whole, || 7)
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
    let known = &[(QUEUE, extent.segment)];
    Pages::open(disk.clone(), Path::new("/segments"), Options::default(), known, Journal::Whole, || 8)
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
    disk.remove(&path).unwrap();
    assert_eq!(read(&mut pages, extent), Vec::<u64>::new());
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new("/segments")).expect("there is one");
    names.iter().map(|name| Path::new("/segments").join(name)).collect()
}

#[test]
fn a_segment_that_should_be_there_and_is_not_keeps_the_broker_from_starting() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extents: Vec<Extent> = [1, 2]
        .map(|queue| {
            let Order::Spill { runs, .. } = spill(1, 5) else { unreachable!("it is one") };
            spilled(&carry_out(&mut pages, Order::Spill { queue: QueueId(queue), token: 1, runs }))
        })
        .into();
    let known = vec![(QueueId(1), extents[0].segment), (QueueId(2), extents[1].segment)];
    let open = |journal| {
        Pages::open(disk.clone(), Path::new("/segments"), Options::default(), &known, journal, || 8)
    };
    open(Journal::Whole).expect("both are there");
    let [one, two] = &files(&disk)[..] else { panic!("two segments") };
    let contents = [one, two].map(|path| disk.contents(path).unwrap());
    // Swapped, and gone.
    disk.overwrite(one, &contents[1]);
    disk.overwrite(two, &contents[0]);
    let error = open(Journal::Whole).unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert!(error.text.contains("says it is segment 1 of queue 2"), "{error}");
    disk.overwrite(one, &contents[0]);
    disk.remove(two).unwrap();
    let error = open(Journal::Whole).unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert!(error.text.contains("is missing; it should hold segment 1 of queue 2"), "{error}");
    // What says that it was settled may be what is damaged.
    let mut pages = open(Journal::Damaged).expect("a damaged journal may name what went");
    assert_eq!(read(&mut pages, extents[0]), (1..6).collect::<Vec<_>>());
    // A damaged header is not another's.
    let mut damaged = contents[0].clone();
    damaged[20] ^= 1;
    disk.overwrite(one, &damaged);
    disk.overwrite(two, &contents[1]);
    open(Journal::Whole).expect("each block proves whose it is");
}

#[test]
fn segments_that_a_damaged_journal_does_not_name_are_put_aside() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    spilled(&carry_out(&mut pages, spill(1, 10)));
    let contents = disk.contents(&files(&disk)[0]).unwrap();
    let directory = Path::new("/segments");
    Pages::open(disk.clone(), directory, Options::default(), &[], Journal::Damaged, || 8).unwrap();
    let [aside] = &files(&disk)[..] else { panic!("one file") };
    assert!(aside.extension().is_some_and(|extension| extension == ORPHAN), "{}", aside.display());
    assert_eq!(disk.contents(aside), Some(contents));
    open(&disk);
    assert_eq!(files(&disk).len(), 1, "nothing is done to it");
}

#[test]
fn a_disk_that_refuses_again_and_again_is_left_no_more_files() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    spilled(&carry_out(&mut pages, spill(11, 10)));
    // What comes before needs a segment of its own.
    for fault in [Fault::Full, Fault::Short, Fault::Io] {
        for _ in 0..3 {
            disk.fail(1, Some(Call::Write), fault);
            let answers = carry_out(&mut pages, spill(1, 10));
            assert!(matches!(answers[..], [Answer::Refused { .. }]), "{answers:?}");
        }
        assert!(files(&disk).len() <= 2, "{:?}", files(&disk));
    }
    for _ in 0..3 {
        disk.fail(1, Some(Call::Sync), Fault::Io);
        let answers = carry_out(&mut pages, spill(1, 10));
        assert!(matches!(answers[..], [Answer::Refused { .. }]), "{answers:?}");
        assert_eq!(files(&disk).len(), 1, "{:?}", files(&disk));
    }
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    assert_eq!(read(&mut pages, extent), (1..11).collect::<Vec<_>>());
}

#[test]
fn a_sync_that_fails_on_the_way_of_an_append_refuses_no_more_than_its_round() {
    let disk = SimDisk::new();
    let options = Options { files_open_max: 2, ..Options::default() };
    let mut pages =
        Pages::open(disk.clone(), Path::new("/segments"), options, &[], Journal::Whole, || 7).unwrap();
    let transient = |queue| {
        let run = Run { first: 1, flags: broker::page::TRANSIENT, messages: message(1) };
        Order::Spill { queue: QueueId(queue), token: queue, runs: vec![run] }
    };
    for queue in 1..3 {
        spilled(&carry_out(&mut pages, transient(queue)));
    }
    disk.fail(1, Some(Call::Sync), Fault::Io);
    let answers = carry_out(&mut pages, transient(3));
    assert!(matches!(answers[..], [Answer::Refused { .. }]), "{answers:?}");
    assert!(matches!(retry(&mut pages)[..], [Answer::TryAgain]));
    spilled(&carry_out(&mut pages, transient(3)));
}

#[test]
fn what_a_disk_does_not_give_is_lost_after_some_tries_and_the_rest_is_served() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extent = spilled(&carry_out(&mut pages, spill(1, 2000)));
    let mut pages = open_again(&disk, extent);
    disk.spoil(&files(&disk)[0], 40_000..40_001).unwrap();
    let mut answers = carry_out(&mut pages, Order::Read { queue: QUEUE, token: 1, extent });
    for _ in 1..READ_TRIES_MAX {
        assert!(answers.is_empty() && pages.wants_retry(), "{answers:?}");
        answers = retry(&mut pages);
    }
    let read = numbers(&answers);
    assert!(!pages.wants_retry());
    let lost: Vec<u64> = (1..2001).filter(|number| !read.contains(number)).collect();
    // Blocks of 63 bytes, in sectors of 4096.
    assert!((65..68).contains(&lost.len()), "{}", lost.len());
    assert!(lost.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{lost:?}");
}

#[test]
fn a_segment_that_cannot_be_opened_is_lost_after_some_tries() {
    let disk = SimDisk::new();
    let mut pages = open(&disk);
    let extent = spilled(&carry_out(&mut pages, spill(1, 10)));
    let mut pages = open_again(&disk, extent);
    let broken = Planned { nth: 1, only: Some(Call::Open), below: None, fault: Fault::Io, times: u64::MAX };
    disk.plan(broken);
    let mut answers = carry_out(&mut pages, Order::Read { queue: QUEUE, token: 1, extent });
    for _ in 1..READ_TRIES_MAX {
        assert!(answers.is_empty() && pages.wants_retry(), "{answers:?}");
        answers = retry(&mut pages);
    }
    assert_eq!(numbers(&answers), Vec::<u64>::new());
}

#[test]
fn what_failed_is_tried_again_though_orders_never_pause() {
    let disk = SimDisk::new();
    let pages = open(&disk).with_retry_delay(Duration::from_millis(20));
    let (answers, answered) = channel();
    let mut pager = Pager::new("test", pages, move |answer| answers.send(answer).unwrap());
    disk.fail(1, Some(Call::Write), Fault::Full);
    pager.order(spill(1, 10)).unwrap();
    assert!(matches!(answered.recv().unwrap(), Some(Answer::Refused { .. })));
    let segment = broker::page::Segment { number: 99, incarnation: 1 };
    while answered.try_recv().is_err() {
        (0..1000).for_each(|_| pager.order(Order::Remove { queue: QUEUE, segment }).unwrap());
    }
    pager.finish();
}

#[test]
fn a_thread_that_has_ended_takes_no_orders() {
    let (ended, has_ended) = channel();
    let report = move |answer: Option<Answer>| match answer {
        Some(_) => panic!("planted: what hears the answer panics"),
        None => ended.send(()).unwrap(),
    };
    let mut pager = Pager::new("test", open(&SimDisk::new()), report);
    pager.order(spill(1, 10)).unwrap();
    has_ended.recv().unwrap();
    while pager.order(spill(1, 10)).is_ok() {
        std::thread::yield_now();
    }
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
