//! Power cuts at any moment against a model: what was synced is there, in order, and nothing else.

use std::path::Path;

use proptest::prelude::*;

use crate::sim::{Call, Fault, Random, SimDisk};
use crate::testing::{Journal, Kept, small_files};
use crate::{Error, Lsn, Round};

#[derive(Clone, Debug)]
enum Step {
    Append {
        size: usize,
    },
    Write,
    Sync,
    WriteMark,
    Prepare,
    /// Forgets what lies below the record at this place of all, in percent.
    Forget {
        percent: usize,
    },
    Kill,
    Crash,
    /// The power will go during the nth call from now, whatever that is.
    CrashDuring {
        nth: u64,
    },
    /// The process will be killed there instead.
    KillDuring {
        nth: u64,
    },
}

/// What happened in a run; a property that was never in danger proves nothing.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    torn: u64,
    lost_unsynced: u64,
    rolls: u64,
    reused: u64,
    crashed_recoveries: u64,
}

struct Run {
    disk: SimDisk,
    random: Random,
    journal: Journal<SimDisk>,
    /// Everything appended that was not lost, oldest first.
    model: Vec<Kept>,
    /// What lies below must survive whatever happens.
    durable: Lsn,
    /// What lies below must survive the death of the process.
    written: Lsn,
    /// What lies below was perhaps written.
    attempted: Lsn,
    forgotten: Lsn,
    /// Whether a planned fault is the end of the process and not of the power.
    kill: bool,
    seen: Seen,
}

const DIR: &str = "/journal";

impl Run {
    fn new(disk: SimDisk, seed: u64) -> Run {
        let journal = Journal::open(disk.clone(), Path::new(DIR), small_files()).unwrap();
        Run {
            disk,
            random: Random::new(seed),
            journal,
            model: Vec::new(),
            durable: Lsn::ZERO,
            written: Lsn::ZERO,
            attempted: Lsn::ZERO,
            forgotten: Lsn::ZERO,
            kill: false,
            seen: Seen::default(),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let outcome = match step {
            Step::Append { size } => {
                self.append(*size);
                Ok(())
            }
            Step::Write => self.write(),
            Step::WriteMark => {
                let round = self.journal.tail.take_mark();
                self.write_round(&round)
            }
            Step::Sync => self.journal.sync().map(|synced| self.durable = synced),
            Step::Prepare => self.journal.files.prepare().map(drop),
            Step::Forget { percent } => self.forget(*percent),
            Step::Kill => return self.die(true),
            Step::Crash => return self.die(false),
            Step::CrashDuring { nth } => {
                self.plan(*nth, false);
                Ok(())
            }
            Step::KillDuring { nth } => {
                self.plan(*nth, true);
                Ok(())
            }
        };
        if outcome.is_err() { self.die(self.kill) } else { Ok(()) }
    }

    /// The process ends during the nth call from now.
    fn plan(&mut self, nth: u64, kill: bool) {
        self.kill = kill;
        self.disk.fail(nth, None, Fault::PowerCut);
    }

    fn append(&mut self, size: usize) {
        let fill = self.random.next_u64().to_le_bytes()[0];
        let kept = self.journal.append(1 + fill % 3, &vec![fill; size]);
        self.model.push(kept);
    }

    fn write(&mut self) -> Result<(), Error> {
        let round = self.journal.tail.take();
        self.write_round(&round)?;
        self.journal.tail.give_back(round.into_buffer());
        Ok(())
    }

    fn write_round(&mut self, round: &Round) -> Result<(), Error> {
        let calls = [Call::Create, Call::Open, Call::Rename, Call::Zero, Call::Sync];
        let before = calls.map(|call| self.disk.count(call));
        let outcome = self.journal.files.write(round);
        let [created, opened, renamed, zeroed, synced] =
            std::array::from_fn(|call| self.disk.count(calls[call]) - before[call]);
        // A power cut in the write itself leaves perhaps all of it; one in a call before it leaves nothing.
        if outcome.is_ok() || created + opened + renamed + zeroed + synced == 0 {
            self.attempted = round.end();
        }
        outcome?;
        self.written = round.end();
        self.seen.rolls += renamed;
        self.seen.reused += renamed - created;
        Ok(())
    }

    fn forget(&mut self, percent: usize) -> Result<(), Error> {
        let Some(record) = self.model.get(self.model.len() * percent / 101) else {
            return Ok(());
        };
        self.forgotten = self.forgotten.max(record.lsn);
        self.journal.files.forget(self.forgotten)
    }

    /// The process ends, perhaps for want of power. What was written and not synced outlives only the process.
    fn die(&mut self, kill: bool) -> Result<(), String> {
        let must = self.end(kill);
        self.reopen(must)
    }

    /// Returns below what everything must be found.
    fn end(&mut self, kill: bool) -> Lsn {
        if kill {
            self.disk.kill();
            return self.written;
        }
        self.seen.crashes += 1;
        self.disk.crash(self.random.next_u64());
        self.durable
    }

    /// Opens the journal, which must have all below `must`; now and then the process ends on the way.
    fn reopen(&mut self, mut must: Lsn) -> Result<(), String> {
        let mut kill = self.random.below(2) == 0;
        if self.random.below(4) == 0 {
            let nth = 1 + self.random.below(8);
            self.plan(nth, kill);
        }
        loop {
            match Journal::open(self.disk.clone(), Path::new(DIR), small_files()) {
                Ok(journal) => self.journal = journal,
                Err(_) => {
                    self.seen.crashed_recoveries += 1;
                    must = must.min(self.end(kill));
                    kill = false;
                    continue;
                }
            }
            return self.check(must);
        }
    }

    /// Compares what was visited with the model, which then forgets what was lost.
    fn check(&mut self, must: Lsn) -> Result<(), String> {
        let visited = &self.journal.visited;
        let recovered = &self.journal.recovered;
        if !recovered.damaged.is_empty() {
            return Err(format!("a power cut is no damage: {recovered:?}"));
        }
        if recovered.next < self.attempted {
            return Err(format!("{} is used twice: {} was written", recovered.next, self.attempted));
        }
        let first = visited.first().map_or(Lsn(u64::MAX), |record| record.lsn);
        let start = self.model.iter().position(|record| record.lsn >= first).unwrap_or(self.model.len());
        let end = start + visited.len();
        if self.model.get(start..end) != Some(&visited[..]) {
            return Err(format!("visited is no part of what was appended: {visited:?} {:?}", self.model));
        }
        let missing = self.model[..start].iter().chain(&self.model[end..]);
        let mut lost = missing.filter(|record| record.lsn >= self.forgotten && record.lsn < must);
        if let Some(lost) = lost.next() {
            return Err(format!("lost {} below {must}", lost.lsn));
        }
        self.seen.torn += u64::from(recovered.torn.is_some());
        self.seen.lost_unsynced += (self.model.len() - end) as u64;
        self.model = visited.clone();
        self.durable = recovered.next;
        self.written = recovered.next;
        Ok(())
    }
}

/// Takes every step, then crashes once more, so that nothing is left unchecked.
fn run(disk: SimDisk, steps: &[Step], seed: u64) -> Result<Seen, String> {
    let mut run = Run::new(disk, seed);
    for step in steps {
        run.step(step)?;
    }
    run.die(false)?;
    Ok(run.seen)
}

fn steps(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let count = 10 + random.index(60);
    (0..count).map(|_| step(&mut random)).collect()
}

fn step(random: &mut Random) -> Step {
    match random.below(100) {
        0..30 => Step::Append { size: random.index(300) },
        30..35 => Step::Append { size: random.index(6000) },
        35..55 => Step::Write,
        55..72 => Step::Sync,
        72..75 => Step::WriteMark,
        75..80 => Step::Prepare,
        80..87 => Step::Forget { percent: random.index(101) },
        87..90 => Step::Kill,
        90..94 => Step::Crash,
        94..97 => Step::KillDuring { nth: 1 + random.below(12) },
        _ => Step::CrashDuring { nth: 1 + random.below(12) },
    }
}

const SEEDS: u64 = 4_000;

#[test]
fn a_crash_loses_nothing_that_was_synced() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let seen = run(SimDisk::new(), &steps(seed), seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        all.crashes += seen.crashes;
        all.torn += seen.torn;
        all.lost_unsynced += seen.lost_unsynced;
        all.rolls += seen.rolls;
        all.reused += seen.reused;
        all.crashed_recoveries += seen.crashed_recoveries;
    }
    println!("{SEEDS} seeds: {all:?}");
    let dangers = [all.crashes, all.torn, all.lost_unsynced, all.rolls, all.reused, all.crashed_recoveries];
    assert!(dangers.iter().all(|count| *count > SEEDS / 50), "{all:?}");
}

/// The control: on a disk that does not sync, the same runs must lose something, or they could not see it.
#[test]
fn a_disk_that_lies_loses() {
    let lost = (0..500).filter(|seed| run(SimDisk::without_sync(), &steps(*seed), *seed).is_err()).count();
    assert!(lost > 250, "only {lost} of 500 runs lost something");
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..700).prop_map(|size| Step::Append { size }),
        4 => Just(Step::Write),
        3 => Just(Step::Sync),
        1 => Just(Step::WriteMark),
        1 => Just(Step::Prepare),
        2 => (0usize..=100).prop_map(|percent| Step::Forget { percent }),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash),
        1 => (1u64..12).prop_map(|nth| Step::CrashDuring { nth }),
        1 => (1u64..12).prop_map(|nth| Step::KillDuring { nth }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_keeps_what_was_synced(
        steps in prop::collection::vec(any_step(), 1..80),
        seed: u64,
    ) {
        run(SimDisk::new(), &steps, seed).map_err(TestCaseError::fail)?;
    }
}
