//! The same for the topology: the meta state machine and its journal, driven as the server's meta task does.
//!
//! That task is asynchronous and drives a thread, so these lines are a copy of its order of doing things, and not it.

use std::path::Path;
use std::sync::Arc;

use broker::arguments::Arguments;
use broker::id::QueueId;
use broker::meta::{Change, DEFAULT_VHOST, DeclareExchange, DeclareQueue, Meta};
use broker::topology::{Binding, Destination, ExchangeKind};
use server::topology_log::{self, Replay};
use store::sim::{Fault, Random, SimDisk};
use store::{Files, Lsn, Tail};

/// What a state comes to: the records that would rebuild it.
type Snapshot = Vec<Vec<u8>>;

fn snapshot(meta: &Meta) -> Snapshot {
    meta.snapshot_records().map(|record| record.encode()).collect()
}

pub(crate) struct World {
    random: Random,
    disk: SimDisk,
    meta: Meta,
    tail: Tail,
    files: Files<SimDisk>,
    /// Every state since the last recovery and where the log ends with it, oldest first.
    states: Vec<(Lsn, Snapshot)>,
    written: Lsn,
    synced: Lsn,
    /// What lies below the second is forgotten once all below the first is durable.
    forget: Option<(Lsn, Lsn)>,
    pub(crate) lives: u64,
    pub(crate) compactions: u64,
    pub(crate) changes: u64,
}

impl World {
    pub(crate) fn new(seed: u64, disk: SimDisk) -> World {
        let files = open(&disk).expect("a disk without faults").0;
        World {
            random: Random::new(seed),
            disk,
            meta: Meta::new(),
            tail: Tail::new(Lsn::ZERO),
            files,
            states: vec![(Lsn::ZERO, snapshot(&Meta::new()))],
            written: Lsn::ZERO,
            synced: Lsn::ZERO,
            forget: None,
            lives: 0,
            compactions: 0,
            changes: 0,
        }
    }

    /// One life of the broker; true when what the next one finds is a state that the topology had, and nothing that
    /// anybody was told of is missing.
    pub(crate) fn live(&mut self) -> bool {
        self.lives += 1;
        self.meta = std::mem::take(&mut self.meta).recovered();
        if self.random.below(2) == 0 {
            let nth = 1 + self.random.below(40);
            self.disk.fail(nth, None, Fault::PowerCut);
        }
        if self.random.below(2) == 0 {
            self.compact();
        }
        let steps = self.random.below(80);
        let _ = (0..steps).any(|_| self.step().is_err());
        let mut survives = self.end();
        for attempt in 0.. {
            if attempt < 3 && self.random.below(4) == 0 {
                let nth = 1 + self.random.below(12);
                self.disk.fail(nth, None, Fault::PowerCut);
            }
            if self.recover().is_ok() {
                break;
            }
            survives = survives.min(self.end());
        }
        self.check(survives)
    }

    /// A power cut or a kill; below which end all must have survived.
    fn end(&mut self) -> Lsn {
        if self.random.below(3) == 0 {
            self.disk.kill();
            return self.written;
        }
        let seed = self.random.next_u64();
        self.disk.crash(seed);
        self.synced
    }

    fn recover(&mut self) -> store::Result<()> {
        let (files, meta, report) = open(&self.disk)?;
        (self.files, self.meta, self.tail) = (files, meta, Tail::new(report.next));
        Ok(())
    }

    fn check(&mut self, survives: Lsn) -> bool {
        let found = snapshot(&self.meta);
        let told = self.states.iter().rposition(|(end, _)| *end <= survives).unwrap_or(0);
        let known = self.states[told..].iter().any(|(_, state)| *state == found);
        if known {
            self.meta.check();
        }
        let next = self.tail.next_lsn();
        (self.states, self.forget) = (vec![(Lsn::ZERO, found)], None);
        (self.written, self.synced) = (next, next);
        known
    }

    fn step(&mut self) -> store::Result<()> {
        match self.random.below(10) {
            0..6 => self.change(),
            6..8 => {
                let round = self.tail.take();
                self.files.write(&round)?;
                self.written = round.end();
            }
            _ => {
                self.synced = self.files.sync()?;
                self.tail.synced(self.synced);
                if let Some((_, before)) = self.forget.take_if(|(copied, _)| *copied <= self.synced) {
                    self.files.forget(before)?;
                }
            }
        }
        Ok(())
    }

    fn change(&mut self) {
        let change = self.any_change();
        let Ok(decision) = self.meta.decide(change) else { return };
        self.changes += 1;
        // A power cut can leave the first records of a change that nobody was told of.
        for record in &decision.records {
            if record.is_durable() {
                topology_log::append(&mut self.tail, record);
            }
            self.meta.apply(record);
            self.states.push((self.tail.next_lsn(), snapshot(&self.meta)));
        }
    }

    /// The whole state again, so that what is older can go.
    fn compact(&mut self) {
        self.compactions += 1;
        let before = self.tail.next_lsn();
        let Self { meta, tail, .. } = self;
        meta.snapshot_records().for_each(|record| topology_log::append(tail, &record));
        self.forget = Some((self.tail.next_lsn(), before));
    }

    fn name(&mut self) -> Arc<str> {
        Arc::from(["a", "b", "c"][self.random.index(3)])
    }

    fn chance(&mut self) -> bool {
        self.random.below(2) == 0
    }

    fn any_change(&mut self) -> Change {
        let vhost: Arc<str> = DEFAULT_VHOST.into();
        let (name, arguments) = (self.name(), Arguments::default());
        match self.random.below(10) {
            0..2 => Change::DeclareExchange(DeclareExchange {
                vhost,
                name,
                kind: ExchangeKind::Fanout,
                durable: self.random.below(4) > 0,
                auto_delete: self.chance(),
                internal: false,
                arguments,
            }),
            2..4 => Change::DeclareQueue(DeclareQueue {
                vhost,
                name,
                server_named: false,
                durable: self.random.below(4) > 0,
                auto_delete: false,
                owner: None,
                arguments,
            }),
            4 => Change::DeleteExchange { vhost, name, if_unused: self.chance() },
            5 => {
                let ids: Vec<QueueId> = self.meta.topology().queues().map(|queue| queue.id).collect();
                let id = if ids.is_empty() { QueueId(0) } else { ids[self.random.index(ids.len())] };
                Change::DeleteQueue { id }
            }
            6..9 => Change::Bind { vhost, binding: self.binding(name), connection: None },
            _ => Change::Unbind { vhost, binding: self.binding(name), connection: None },
        }
    }

    fn binding(&mut self, source: Arc<str>) -> Binding {
        let name = self.name();
        let destination = if self.chance() { Destination::Queue(name) } else { Destination::Exchange(name) };
        Binding { source, routing_key: "k".into(), destination, arguments: Arguments::default() }
    }
}

fn open(disk: &SimDisk) -> store::Result<(Files<SimDisk>, Meta, store::Recovered)> {
    let options =
        store::Options { file_size: 512, zero_ahead_min: 256, zero_ahead_max: 1024, ..Default::default() };
    let mut replay = Replay::default();
    let (files, report) =
        Files::open(disk.clone(), Path::new("/meta"), options, &mut |record| replay.visit(&record))?;
    Ok((files, replay.finish(), report))
}
