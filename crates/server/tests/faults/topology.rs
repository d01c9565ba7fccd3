//! Bytes of the meta journal change: a queue that was forgotten would take all its messages with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker::arguments::Arguments;
use broker::meta::{Change, DEFAULT_VHOST, DeclareQueue, Meta};
use server::topology_log::{self, Replay};
use store::sim::{Random, SimDisk};
use store::{Files, Kind, Lsn, Recovered, Tail};

use crate::setting;

const DIRECTORY: &str = "/meta";
const QUEUES: u64 = 60;

fn open(disk: &SimDisk) -> store::Result<(Files<SimDisk>, Meta, Recovered)> {
    // Several files.
    let options =
        store::Options { file_size: 4096, zero_ahead_min: 256, zero_ahead_max: 1024, ..Default::default() };
    let mut replay = Replay::default();
    let (files, report) =
        Files::open(disk.clone(), Path::new(DIRECTORY), options, &mut |record| replay.visit(&record))?;
    Ok((files, replay.finish(), report))
}

/// What a state comes to: the records that would rebuild it.
type Snapshot = Vec<Vec<u8>>;

fn snapshot(meta: &Meta) -> Snapshot {
    meta.snapshot_records().map(|record| record.encode()).collect()
}

/// The journal of a broker that declared and deleted queues and then had nothing to do, and what it holds.
fn lying() -> (Vec<(PathBuf, Vec<u8>)>, Snapshot) {
    let disk = SimDisk::new();
    let (mut files, mut meta, _) = open(&disk).expect("a disk without faults");
    let mut tail = Tail::new(Lsn::ZERO);
    for number in 0..QUEUES {
        let declare = DeclareQueue {
            vhost: DEFAULT_VHOST.into(),
            name: Arc::from(format!("queue {number}")),
            server_named: false,
            durable: true,
            auto_delete: false,
            owner: None,
            arguments: Arguments::default(),
        };
        let mut changes = vec![Change::DeclareQueue(declare)];
        let old = meta.topology().queues().next().map(|queue| queue.id).filter(|_| number % 3 == 2);
        changes.extend(old.map(|id| Change::DeleteQueue { id }));
        for change in changes {
            let decision = meta.decide(change).expect("it makes sense");
            for record in &decision.records {
                topology_log::append(&mut tail, record);
                meta.apply(record);
            }
            let round = tail.take();
            files.write(&round).expect("a disk without faults");
            tail.synced(files.sync().expect("a disk without faults"));
        }
    }
    files.write(&tail.take_mark()).expect("a disk without faults");
    files.sync().expect("a disk without faults");
    let names = store::Disk::list(&disk, Path::new(DIRECTORY)).expect("it is there");
    let paths = names.into_iter().map(|name| Path::new(DIRECTORY).join(name));
    let contents = paths.map(|path| (path.clone(), disk.contents(&path).expect("it is listed"))).collect();
    (contents, snapshot(&meta))
}

#[test]
fn flipped_bits_in_the_meta_journal_cost_nothing() {
    let (files, expected) = lying();
    let journals: Vec<usize> =
        (0..files.len()).filter(|at| files[*at].0.extension().is_some_and(|it| it == "journal")).collect();
    assert!(journals.len() > 3, "{} files", journals.len());
    let mut random = Random::new(1);
    for (class, range) in [("header", 0..64), ("body", 64..usize::MAX)] {
        let (mut named, mut harmless, mut refused) = (0, 0, 0);
        for _ in 0..setting("LEVERET_FLIPPED_BITS", 200) {
            let file = journals[random.index(journals.len())];
            let (path, mut bytes) = files[file].clone();
            let offset = range.start + random.index(bytes.len().min(range.end) - range.start);
            let bit = 1 << random.index(8);
            bytes[offset] ^= bit;
            let disk = SimDisk::new();
            store::Disk::create_dir(&disk, Path::new(DIRECTORY)).expect("a new disk");
            files.iter().for_each(|(path, bytes)| disk.overwrite(path, bytes));
            disk.overwrite(&path, &bytes);
            let what = format!("{class}: bit {bit:#x} of byte {offset} of {}", path.display());
            match open(&disk) {
                Ok((_, meta, report)) => {
                    assert_eq!(snapshot(&meta), expected, "{what}: {report:?}");
                    if report.damaged.is_empty() { harmless += 1 } else { named += 1 }
                }
                Err(error) => {
                    assert!(
                        matches!(error.kind, Kind::Foreign | Kind::Unsupported | Kind::Damaged),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
        println!(
            "meta journal {class}: {named} named, {harmless} harmless, {refused} by not starting, 0 missing"
        );
    }
}
