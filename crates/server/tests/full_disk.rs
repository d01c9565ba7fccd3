//! A journal on a disk that is full for a while.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use server::journal::{Journal, Progress};
use store::sim::{Call, Fault, Planned, SimDisk};
use store::{Files, Lsn, Options, Tail};

const DIR: &str = "/journal";
const FILE_SIZE: u64 = 8192;

fn options() -> Options {
    Options { file_size: FILE_SIZE, zero_ahead_min: 1024, zero_ahead_max: 4096, ..Options::default() }
}

struct Story {
    disk: SimDisk,
    tail: Tail,
    journal: Journal,
    progress: Receiver<Progress>,
}

impl Story {
    fn new() -> Story {
        let disk = SimDisk::new();
        let (files, recovered) =
            Files::open(disk.clone(), Path::new(DIR), options(), &mut |_| Ok(())).expect("an empty disk");
        let (report, progress) = channel();
        let journal = Journal::start("test", files, move |news| drop(report.send(news))).expect("a thread");
        Story { disk, tail: Tail::new(recovered.next), journal, progress }
    }

    /// A record of so many bytes; where it ends.
    fn write(&mut self, size: usize) -> Lsn {
        self.tail.append(1, &[&vec![7; size]]);
        let round = self.tail.take();
        let end = round.end();
        self.journal.write(round, true);
        end
    }

    fn fill(&self, call: Call) {
        let below = Some(DIR.into());
        self.disk.plan(Planned { nth: 1, only: Some(call), below, fault: Fault::Full, times: u64::MAX });
    }

    /// What is reported next, but for rooms that are made ahead in vain.
    fn hear(&self) -> Progress {
        self.progress.recv().expect("the journal goes on")
    }

    /// Everything up to `end` becomes durable; whether there was room again on the way.
    fn is_durable(&mut self, end: Lsn) -> bool {
        let mut had_room = false;
        loop {
            match self.hear() {
                Progress::Synced { synced, .. } if synced >= end => return had_room,
                Progress::Synced { .. } | Progress::Idle => {}
                Progress::Full(full) => had_room |= !full,
                Progress::Failed(error) => panic!("{error}"),
            }
        }
    }

    /// What a restart finds.
    fn records(self) -> usize {
        self.journal.finish();
        let mut count = 0;
        self.disk.crash(1);
        let (_, recovered) = Files::open(self.disk, Path::new(DIR), options(), &mut |_| {
            count += 1;
            Ok(())
        })
        .expect("a disk without faults");
        assert_eq!(recovered.damaged, []);
        count
    }
}

#[test]
fn a_full_disk_keeps_rounds_waiting_and_writes_them_when_there_is_room() {
    for call in [Call::Zero, Call::Write, Call::Create] {
        let mut story = Story::new();
        let first = story.write(100);
        story.is_durable(first);
        story.fill(call);
        // Too much for what is ahead, and for the file.
        let mut last = Lsn::ZERO;
        for _ in 0..6 {
            last = story.write(3000);
        }
        loop {
            match story.hear() {
                Progress::Full(true) => break,
                Progress::Synced { synced, .. } => {
                    assert!(synced < last, "{call:?}: there is no room for it")
                }
                Progress::Idle => {}
                other => panic!("{other:?}"),
            }
        }
        story.disk.forgive();
        let had_room = story.is_durable(last);
        // Also when nothing more comes.
        while !had_room && !matches!(story.hear(), Progress::Full(false)) {}
        let more = story.write(100);
        story.is_durable(more);
        assert_eq!(story.records(), 8, "{call:?}");
    }
}

#[test]
fn a_disk_that_fills_says_so_before_a_round_is_refused() {
    let mut story = Story::new();
    let first = story.write(100);
    story.is_durable(first);
    story.fill(Call::Zero);
    let (mut warned, mut records) = (false, 1);
    while !warned {
        let end = story.write(200);
        records += 1;
        loop {
            match story.hear() {
                Progress::Full(full) => warned |= full,
                Progress::Synced { synced, .. } if synced >= end => break,
                Progress::Synced { .. } | Progress::Idle => {}
                Progress::Failed(error) => panic!("{error}"),
            }
        }
        // It is said after what was written is durable.
        warned |= story.progress.try_iter().any(|news| matches!(news, Progress::Full(true)));
    }
    assert!(records < 12, "{records} records of 200 bytes fit what was made ahead");
    assert_eq!(story.records(), records);
}

#[test]
fn a_sync_that_fails_on_a_full_disk_ends_the_journal() {
    let mut story = Story::new();
    let first = story.write(100);
    story.is_durable(first);
    story.disk.fail(1, Some(Call::Sync), Fault::Full);
    story.write(100);
    loop {
        match story.hear() {
            Progress::Failed(error) => break assert_eq!(error.kind, store::Kind::Disk),
            Progress::Full(_) | Progress::Idle => {}
            Progress::Synced { synced, .. } => panic!("nothing is durable, and yet {synced}"),
        }
    }
}

#[test]
fn a_broker_that_stops_while_the_disk_is_full_has_lost_nothing_that_was_durable() {
    let mut story = Story::new();
    let first = story.write(100);
    story.is_durable(first);
    story.fill(Call::Zero);
    story.fill(Call::Create);
    for _ in 0..6 {
        story.write(3000);
    }
    while !matches!(story.hear(), Progress::Full(true)) {}
    let records = story.records();
    assert!((1..7).contains(&records), "{records}");
}
