//! The storage of a broker that does not run: looked at, counted, repaired.

use std::io;
use std::path::{Path, PathBuf};

use broker::id::QueueId;
use broker::page::Segment;
use store::segment::{Id, Name};
use store::{Files, Kind, RealDisk, Recovered};

use crate::ledger::{Ledger, Recovery};
use crate::pager::ORPHAN;
use crate::recovery::JournalOptions;
use crate::{Failure, boot, lock, meta, random, recovery};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What was done about it, one sentence each.
    pub repairs: Vec<String>,
    /// Each shard in turn.
    pub shards: Vec<ShardStats>,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// Its queues that survive a restart.
    pub queues: usize,
    /// Messages that wait in them.
    pub messages: u64,
    /// Records of its journal.
    pub records: u64,
    /// Bytes of its journal's files.
    pub journal_bytes: u64,
    /// Its segments.
    pub segments: usize,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Segments that were put aside, because nobody knows whether they are wanted.
    pub orphans: usize,
}

/// What is to be done beside counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Count,
    /// Every byte is read and checked.
    Check,
    /// Every byte is checked, and what keeps a broker from starting is given up.
    Repair,
}

/// Looks at a data directory. Only [`Work::Repair`] changes what is in it.
///
/// # Errors
/// When there is none, a broker is using it, or a journal cannot be read at all.
pub fn look(data_dir: &Path, work: Work) -> Result<Report, Failure> {
    let directory = data_dir.join("journal");
    if !directory.join("meta").is_dir() {
        return Err(Failure(format!("{} is no data directory: it has no journal/meta", data_dir.display())));
    }
    let _lock = lock::DirectoryLock::take(data_dir)
        .map_err(|error| Failure(format!("{error}; stop it first, its files are read and may be written")))?;
    let mut report = Report::default();
    let options = JournalOptions { journal: 0, file_size: boot::META_FILE_SIZE, reserve: 0 };
    let (_, meta_report) = recovery::open(&directory, "meta", options, &mut |_| Ok(()))?;
    note(&mut report, "meta", &meta_report);
    let topology = meta::recover(&directory, options)?;
    let shards = std::fs::read_to_string(directory.join("shards"))?;
    let count = boot::parse_shards(&shards)
        .ok_or_else(|| Failure(format!("{}: {shards:?} is no number of shards", directory.display())))?;
    for number in 0..count {
        let mut shard = Shard::open(data_dir, number, |recovery| {
            let of_it = topology.queues().filter(|(queue, _)| queue.shard(count) == number);
            of_it.map(|(queue, options)| recovery.open(queue, options)).count()
        })?;
        note(&mut report, &shard.name, &shard.recovered);
        shard.look(work, &mut report)?;
    }
    Ok(report)
}

fn note(report: &mut Report, journal: &str, recovered: &Recovered) {
    for damage in &recovered.damaged {
        let store::Damage { file, offset, from, to, why } = damage;
        report.problems.push(format!("journal {journal}, {file}, byte {offset}, {from} up to {to}: {why}"));
    }
    if let Some(torn) = &recovered.torn {
        let what = "the last write was cut off; nothing of it had been confirmed";
        report.problems.push(format!("journal {journal}, {}, byte {}: {what}", torn.file, torn.offset));
    }
}

struct Shard {
    name: String,
    segments: PathBuf,
    queues: usize,
    ledger: Ledger,
    files: Files<RealDisk>,
    recovered: Recovered,
}

impl Shard {
    fn open(
        data_dir: &Path,
        number: usize,
        open_queues: impl FnOnce(&mut Recovery) -> usize,
    ) -> Result<Shard, Failure> {
        let journal = u32::try_from(number + 1).map_err(|_| Failure("too many shards".to_owned()))?;
        let name = format!("shard-{number}");
        let options = JournalOptions { journal, file_size: 32 << 20, reserve: boot::RESERVE };
        let mut recovery = Recovery::default();
        let queues = open_queues(&mut recovery);
        let (files, recovered) = recovery::open(&data_dir.join("journal"), &name, options, &mut |record| {
            recovery.replay(&record)
        })?;
        let ledger = recovery.finish(files.oldest(), recovered.next, options.budget());
        let segments = data_dir.join("segments").join(&name);
        Ok(Shard { name, segments, queues, ledger, files, recovered })
    }

    fn look(&mut self, work: Work, report: &mut Report) -> Result<(), Failure> {
        let known = self.ledger.segments();
        let mut stats = ShardStats {
            queues: self.queues,
            messages: self.ledger.shard().ready(),
            records: self.recovered.records,
            journal_bytes: self.files.size(),
            segments: known.len(),
            segment_bytes: 0,
            orphans: self.orphans(),
        };
        for (queue, segment) in known {
            let path = self.segments.join(name(queue, segment).file_name());
            stats.segment_bytes += std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if work != Work::Count {
                self.check(queue, segment, &path, work, report)?;
            }
        }
        if stats.orphans > 0 {
            let aside = stats.orphans;
            report.problems.push(format!("{}: {aside} segments are put aside and not served", self.name));
        }
        report.shards.push(stats);
        Ok(())
    }

    fn orphans(&self) -> usize {
        let names = std::fs::read_dir(&self.segments).into_iter().flatten().flatten();
        names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == ORPHAN)).count()
    }

    fn check(
        &mut self,
        queue: QueueId,
        segment: Segment,
        path: &Path,
        work: Work,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let id = Id { name: name(queue, segment), incarnation: segment.incarnation };
        match store::segment::verify(&RealDisk, &self.segments, id) {
            Ok(()) => {
                let checked = store::dump::segment::print(&RealDisk, path, &mut io::sink())?;
                if checked.damages > 0 {
                    let (file, parts) = (path.display(), checked.damages);
                    report
                        .problems
                        .push(format!("{file}: {parts} damaged parts; `leveret dump` prints them"));
                }
                Ok(())
            }
            Err(error) if error.kind == Kind::Foreign => {
                report.problems.push(error.text);
                if work == Work::Repair { self.give_up(queue, segment, path, report) } else { Ok(()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the segment held is lost, and the journal says so from now on. A file in its place is put aside.
    fn give_up(
        &mut self,
        queue: QueueId,
        segment: Segment,
        path: &Path,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let lost = self.ledger.give_up_segment(queue, segment);
        while let Some(pending) = self.ledger.finish_round() {
            self.files.write(&pending.round)?;
            let synced = self.files.sync()?;
            let buffers = vec![pending.round.into_buffer()];
            self.ledger.synced(synced, self.files.oldest(), buffers);
        }
        if path.exists() {
            std::fs::rename(path, path.with_extension(format!("{:016x}.{ORPHAN}", random::number())))?;
        }
        let what = name(queue, segment);
        report.repairs.push(format!("{}: gave up {what}: {lost} messages are lost", self.name));
        Ok(())
    }
}

fn name(queue: QueueId, segment: Segment) -> Name {
    Name { queue: queue.0, number: segment.number }
}
