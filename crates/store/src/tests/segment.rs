//! Segments, through their public face: messages go in, the same messages come out, or their names do.

mod conformance;
mod counts;
mod crash;
mod damage;
mod faults;
mod golden;
mod misplaced;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::segment::{Damage, Extent, Id, Name, NewRun, Options, Reader, Writer};
use crate::sim::{Random, SimDisk};
use crate::{Disk, Result};

const DIR: &str = "/segments";

/// A message as a test remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    sequence: u64,
    flags: u32,
    bytes: Vec<u8>,
}

fn message(sequence: u64, bytes: impl Into<Vec<u8>>) -> Message {
    Message { sequence, flags: 0, bytes: bytes.into() }
}

/// `count` messages from `first` on, of up to `size_max` bytes of noise, with holes and changing flags.
fn messages(random: &mut Random, first: u64, count: usize, size_max: usize) -> Vec<Message> {
    let (mut sequence, mut flags) = (first, 0);
    let mut next = || {
        if random.below(8) == 0 {
            sequence += random.below(5);
            flags = u32::try_from(random.below(3)).unwrap();
        }
        let bytes = noise(random, size_max);
        sequence += 1;
        Message { sequence: sequence - 1, flags, bytes }
    };
    (0..count).map(|_| next()).collect()
}

fn noise(random: &mut Random, size_max: usize) -> Vec<u8> {
    let size = random.index(size_max + 1);
    (0..size).map(|_| random.next_u64().to_le_bytes()[0]).collect()
}

/// Blocks and files of a few messages, so that a test needs no megabytes.
fn small() -> Options {
    Options { segment_size: 4096, block_size: 300, files_open_max: 4 }
}

fn writer(disk: &SimDisk) -> Writer<SimDisk> {
    Writer::open(disk.clone(), Path::new(DIR), small(), 0xfeed, []).unwrap()
}

/// Appends `messages` in one call, cut into runs where numbers or flags change.
fn append<D: Disk>(writer: &mut Writer<D>, queue: u64, messages: &[Message]) -> Result<Extent> {
    let mut owned: Vec<(u64, u32, Vec<u8>, Vec<u32>)> = Vec::new();
    for Message { sequence, flags, bytes } in messages {
        let length = u32::try_from(bytes.len()).unwrap();
        match owned.last_mut() {
            Some((first, old, run, lengths))
                if old == flags && *first + lengths.len() as u64 == *sequence =>
            {
                run.extend_from_slice(bytes);
                lengths.push(length);
            }
            _ => owned.push((*sequence, *flags, bytes.clone(), vec![length])),
        }
    }
    let runs = owned.iter().map(|(first, flags, bytes, lengths)| NewRun {
        first: *first,
        flags: *flags,
        bytes,
        lengths,
    });
    let appended = writer.append(queue, &runs.collect::<Vec<_>>());
    writer.check_invariants();
    appended
}

/// What is in an extent, read in steps of `window` bytes.
fn read<D: Disk>(
    disk: &D,
    dir: &Path,
    extent: &Extent,
    window: usize,
) -> Result<(Vec<Message>, Vec<Damage>)> {
    let reader = Reader::open(disk, dir, extent.id)?;
    let (mut messages, mut damages) = (Vec::new(), reader.damage().cloned().into_iter().collect::<Vec<_>>());
    let mut place = extent.from;
    while place.offset < extent.to.offset {
        let chunk = reader.read(place, extent.to, window)?;
        assert!(chunk.next.offset > place.offset && chunk.next.sequence >= place.sequence, "{chunk:?}");
        assert!(chunk.next.offset <= extent.to.offset, "{chunk:?}");
        for run in &chunk.runs {
            let (mut sequence, mut rest) = (run.first, &run.bytes[..]);
            assert!(run.count() > 0);
            for length in run.lengths() {
                let (bytes, after) = rest.split_at(length);
                messages.push(Message { sequence, flags: run.flags, bytes: bytes.to_vec() });
                (sequence, rest) = (sequence + 1, after);
            }
            assert_eq!((sequence, rest), (run.end(), &[][..]));
        }
        damages.extend(chunk.damages);
        place = chunk.next;
    }
    assert_eq!(place, extent.to);
    assert!(messages.is_sorted_by(|a, b| a.sequence < b.sequence), "out of order");
    Ok((messages, damages))
}

fn read_sim(disk: &SimDisk, extent: &Extent) -> (Vec<Message>, Vec<Damage>) {
    read(disk, Path::new(DIR), extent, 4096).unwrap()
}

fn path(id: Id) -> PathBuf {
    Path::new(DIR).join(id.name.file_name())
}

/// One segment on a disk, and all that was appended to it.
struct Fixture {
    disk: SimDisk,
    kept: Vec<Message>,
    extent: Extent,
}

impl Fixture {
    /// `appends` appends of a few messages each.
    fn new(seed: u64, appends: u64, size_max: usize) -> Fixture {
        let (disk, mut random) = (SimDisk::new(), Random::new(seed));
        let options = Options { segment_size: 64 << 20, ..small() };
        let mut writer = Writer::open(disk.clone(), Path::new(DIR), options, random.next_u64(), []).unwrap();
        let mut kept: Vec<Message> = Vec::new();
        for _ in 0..appends {
            let first = kept.last().map_or(100, |last| last.sequence + 1);
            let count = 1 + random.index(8);
            let new = messages(&mut random, first, count, size_max);
            append(&mut writer, 7, &new).unwrap();
            kept.extend(new);
        }
        let extents = writer.sync().unwrap();
        let [extent] = extents[..] else { panic!("{extents:?}") };
        Fixture { disk, kept, extent }
    }

    fn bytes(&self) -> Vec<u8> {
        self.disk.contents(&path(self.extent.id)).unwrap()
    }

    /// What is read when the file holds `bytes`: nothing that was not appended, and what is missing is named.
    fn with(&self, bytes: &[u8]) -> Opened {
        self.disk.overwrite(&path(self.extent.id), bytes);
        let (found, damages) = read_sim(&self.disk, &self.extent);
        let found: BTreeMap<u64, Message> =
            found.into_iter().map(|message| (message.sequence, message)).collect();
        let kept = |message: &&Message| found.get(&message.sequence) == Some(message);
        let missing: Vec<Message> = self.kept.iter().filter(|message| !kept(message)).cloned().collect();
        assert_eq!(found.len() + missing.len(), self.kept.len(), "something was made up");
        let named = |sequence| damages.iter().any(|damage| damage.sequences.contains(&sequence));
        assert!(missing.iter().all(|message| named(message.sequence)), "{missing:?} {damages:?}");
        assert!(!found.keys().any(|sequence| named(*sequence)), "served and said to be lost: {damages:?}");
        Opened { missing, damages }
    }
}

/// What became of a damaged segment.
#[derive(Debug)]
struct Opened {
    missing: Vec<Message>,
    damages: Vec<Damage>,
}

fn name(queue: u64, number: u64) -> Name {
    Name { queue, number }
}
