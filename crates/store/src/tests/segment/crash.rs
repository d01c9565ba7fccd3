//! Power cuts at any moment against a model: what was synced is there, and nothing else but what was written.

use std::collections::BTreeMap;
use std::path::Path;

use super::{DIR, Message, append, messages, read, small};
use crate::Error;
use crate::segment::{Extent, Id, Name, Writer, list};
use crate::sim::{Call, Fault, Random, SimDisk};

const QUEUES: usize = 6;

/// What happened; a property that was never in danger proves nothing.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    /// Extents that were not synced and not whole after a crash.
    lost: u64,
    /// Extents that were not synced and survived.
    kept: u64,
    leftovers: u64,
    retries: u64,
    segments: u64,
}

struct Run {
    disk: SimDisk,
    random: Random,
    writer: Writer<SimDisk>,
    incarnation: u64,
    /// What a journal would say: the segments that were reported durable, in order, by queue.
    durable: BTreeMap<Name, Extent>,
    /// All that was appended and not removed, in order of sequence numbers, by segment.
    model: BTreeMap<Id, Vec<Message>>,
    /// How far each segment was appended to.
    appended: BTreeMap<Id, Extent>,
    next: [u64; QUEUES],
    seen: Seen,
}

fn open(
    disk: &SimDisk,
    incarnation: u64,
    durable: &BTreeMap<Name, Extent>,
) -> Result<Writer<SimDisk>, Error> {
    let mut writer =
        Writer::open(disk.clone(), Path::new(DIR), small(), incarnation, durable.keys().copied())?;
    for leftover in list(disk, Path::new(DIR))?.into_iter().filter(|name| !durable.contains_key(name)) {
        writer.remove(leftover)?;
    }
    Ok(writer)
}

impl Run {
    fn new(disk: SimDisk, seed: u64) -> Run {
        let mut random = Random::new(seed);
        let incarnation = random.next_u64();
        let durable = BTreeMap::new();
        let writer = open(&disk, incarnation, &durable).unwrap();
        let (model, appended) = (BTreeMap::new(), BTreeMap::new());
        Run {
            disk,
            random,
            writer,
            incarnation,
            durable,
            model,
            appended,
            next: [0; 6],
            seen: Seen::default(),
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let outcome = match self.random.below(100) {
            0..60 => self.append(),
            60..80 => self.sync(),
            80..88 => self.remove(),
            88..90 => {
                self.writer.close(self.random.index(QUEUES) as u64);
                Ok(())
            }
            90..96 => {
                self.disk.fail(1 + self.random.below(12), None, Fault::PowerCut);
                Ok(())
            }
            _ => return self.crash(),
        };
        if outcome.is_err() { self.crash() } else { Ok(()) }
    }

    fn append(&mut self) -> Result<(), Error> {
        let index = self.random.index(QUEUES);
        let queue = index as u64;
        let (count, size_max) =
            (1 + self.random.index(12), if self.random.below(20) == 0 { 3000 } else { 80 });
        let new = messages(&mut self.random, self.next[index], count, size_max);
        // Now and then the disk is full, and the same append is made again.
        if self.random.below(10) == 0 && !self.disk.is_fault_pending() {
            self.disk.fail(1, Some(Call::Write), Fault::Short);
            append(&mut self.writer, queue, &new).unwrap_err();
            self.seen.retries += 1;
        }
        let part = append(&mut self.writer, queue, &new)?;
        self.next[index] = part.to.sequence;
        self.model.entry(part.id).or_default().extend(new);
        let whole = self.appended.entry(part.id).or_insert(part);
        let continues = whole.to.offset == part.from.offset && whole.to.sequence <= part.from.sequence;
        assert!(continues || *whole == part, "{part:?} is not behind {whole:?}");
        whole.to = part.to;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        for extent in self.writer.sync()? {
            assert_eq!(self.appended.get(&extent.id), Some(&extent), "all of it, and no more");
            self.durable.insert(extent.id.name, extent);
        }
        assert_eq!(self.durable.len(), self.appended.len(), "every segment was reported");
        Ok(())
    }

    /// Removes any segment: what is not wanted is forgotten first.
    fn remove(&mut self) -> Result<(), Error> {
        let ids: Vec<Id> = self.appended.keys().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.random.index(ids.len())];
        self.forget(id);
        self.writer.remove(id.name)
    }

    fn forget(&mut self, id: Id) {
        self.durable.remove(&id.name);
        self.appended.remove(&id);
        self.model.remove(&id);
    }

    fn crash(&mut self) -> Result<(), String> {
        self.disk.crash(self.random.next_u64());
        self.seen.crashes += 1;
        self.check()?;
        self.look_beyond();
        let lost: Vec<Id> =
            self.appended.keys().filter(|id| !self.durable.contains_key(&id.name)).copied().collect();
        lost.into_iter().for_each(|id| self.forget(id));
        for (id, messages) in &mut self.model {
            let end = self.durable[&id.name].to.sequence;
            messages.retain(|message| message.sequence < end);
        }
        self.appended = self.durable.values().map(|extent| (extent.id, *extent)).collect();
        self.reopen();
        self.check()
    }

    /// Opening may be cut off too.
    fn reopen(&mut self) {
        self.incarnation += 1;
        self.seen.leftovers += (list(&self.disk, Path::new(DIR)).unwrap().len() - self.durable.len()) as u64;
        if self.random.below(4) == 0 {
            self.disk.fail(1 + self.random.below(4), None, Fault::PowerCut);
        }
        self.writer = open(&self.disk, self.incarnation, &self.durable).unwrap_or_else(|_| {
            self.disk.crash(self.random.next_u64());
            open(&self.disk, self.incarnation, &self.durable).unwrap()
        });
        if self.disk.is_fault_pending() {
            self.disk.kill();
        }
        let files = list(&self.disk, Path::new(DIR)).unwrap();
        assert_eq!(
            files,
            self.durable.keys().copied().collect::<Vec<_>>(),
            "leftovers are gone, the rest is there"
        );
        self.seen.segments += files.len() as u64;
        for (index, next) in self.next.iter_mut().enumerate() {
            let of_queue = self.durable.values().filter(|extent| extent.id.name.queue == index as u64);
            *next = of_queue.map(|extent| extent.to.sequence).max().unwrap_or(*next);
        }
    }

    /// All that was synced is there, whole.
    fn check(&self) -> Result<(), String> {
        for extent in self.durable.values() {
            let wanted: Vec<&Message> = self.model[&extent.id]
                .iter()
                .filter(|message| message.sequence < extent.to.sequence)
                .collect();
            let read = read(&self.disk, Path::new(DIR), extent, 4096);
            let (found, damages) = read.map_err(|error| error.to_string())?;
            if !damages.is_empty() || found.iter().collect::<Vec<_>>() != wanted {
                return Err(format!("{} is not what was synced: {damages:?}", extent.id));
            }
        }
        Ok(())
    }

    /// What was appended and not synced is there or is not, and never other than it was.
    fn look_beyond(&mut self) {
        for extent in self.appended.values() {
            let unsynced = self.durable.get(&extent.id.name).is_none_or(|durable| durable.to < extent.to);
            let present = self.disk.contents(&super::path(extent.id)).is_some();
            if !unsynced || !present {
                self.seen.lost += u64::from(unsynced);
                continue;
            }
            let (found, _) = read(&self.disk, Path::new(DIR), extent, 4096).unwrap();
            let model = &self.model[&extent.id];
            assert!(found.iter().all(|message| model.contains(message)), "made up: {}", extent.id);
            match found.len() == model.len() {
                true => self.seen.kept += 1,
                false => self.seen.lost += 1,
            }
        }
    }
}

fn run(disk: SimDisk, seed: u64) -> Result<Seen, String> {
    let mut run = Run::new(disk, seed);
    for _ in 0..80 {
        run.step()?;
    }
    run.crash()?;
    Ok(run.seen)
}

const SEEDS: u64 = 1_000;

#[test]
fn a_crash_loses_nothing_that_was_synced() {
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let seen = run(SimDisk::new(), seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        all.crashes += seen.crashes;
        all.lost += seen.lost;
        all.kept += seen.kept;
        all.leftovers += seen.leftovers;
        all.retries += seen.retries;
        all.segments += seen.segments;
    }
    println!("{SEEDS} seeds: {all:?}");
    let dangers = [all.crashes, all.lost, all.kept, all.leftovers, all.retries, all.segments];
    assert!(dangers.iter().all(|count| *count > SEEDS / 5), "{all:?}");
}

/// The control: on a disk that does not sync, the same runs must lose something, or they could not see it.
#[test]
fn a_disk_that_lies_loses() {
    let lost = |seed| {
        std::panic::catch_unwind(|| run(SimDisk::without_sync(), seed))
            .map_or(true, |outcome| outcome.is_err())
    };
    let lost = (0..200).filter(|seed| lost(*seed)).count();
    assert!(lost > 150, "only {lost} of 200 runs lost something");
}
