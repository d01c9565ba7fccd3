//! How many syncs a confirm costs, counted and not timed: the server's ledger and journal thread on a real disk whose
//! calls are counted.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broker::id::{ConnectionId, QueueId};
use broker::message::Parts;
use broker::queue::{Options, Subscription};
use broker::record::Span;
use broker::shard::{Batch, Command, Confirm, Delivery, Effect, Publish, Reply, Request};
use broker::topology::Duplicates;
use broker::window::Window;
use server::journal::{Journal, Progress};
use server::ledger::{Budget, Ledger, Pending, Recovery};
use store::{Disk, File, Files, RealDisk};

const QUEUE: QueueId = QueueId(1);
const CLIENT: ConnectionId = ConnectionId(1);

/// Records that nobody waits for are synced after this time: the journal thread's own figure. On a machine that stands
/// still for longer it costs a sync.
const SYNC_DELAY: Duration = Duration::from_millis(200);

/// The machine's disk, with its syncs counted, and as slow as the test wants.
#[derive(Clone, Debug, Default)]
struct CountingDisk {
    syncs: Arc<AtomicU64>,
    gate: Gate,
}

/// While it is closed, each sync takes a ticket before it returns.
type Gate = Arc<Mutex<Option<Receiver<()>>>>;

#[derive(Debug)]
struct CountingFile {
    file: std::fs::File,
    disk: CountingDisk,
}

impl CountingDisk {
    fn count(&self, file: std::fs::File) -> CountingFile {
        CountingFile { file, disk: self.clone() }
    }

    /// From now on no sync returns without a ticket.
    fn close(&self) -> Sender<()> {
        let (tickets, gate) = channel();
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate);
        tickets
    }

    fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }
}

impl Disk for CountingDisk {
    type File = CountingFile;

    fn create(&self, path: &Path) -> io::Result<CountingFile> {
        RealDisk.create(path).map(|file| self.count(file))
    }
    fn open(&self, path: &Path) -> io::Result<CountingFile> {
        RealDisk.open(path).map(|file| self.count(file))
    }
    fn open_to_read(&self, path: &Path) -> io::Result<CountingFile> {
        RealDisk.open_to_read(path).map(|file| self.count(file))
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        RealDisk.sync_dir(dir)
    }
}

impl File for CountingFile {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        File::write_at(&mut self.file, position, bytes)
    }
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        File::read_at(&self.file, position, buffer)
    }
    fn zero(&mut self, position: u64, len: u64) -> io::Result<()> {
        File::zero(&mut self.file, position, len)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = self.disk.gate.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let _ = gate.recv();
        }
        File::sync(&mut self.file)
    }
    fn len(&self) -> io::Result<u64> {
        File::len(&self.file)
    }
}

/// A shard with its journal, and one client that publishes, consumes and acks.
struct Broker {
    disk: CountingDisk,
    ledger: Ledger,
    journal: Journal,
    progress: Receiver<Progress>,
    deliveries: Vec<Delivery>,
    published: u64,
    confirmed: u64,
    _dir: tempfile::TempDir,
}

impl Broker {
    /// With one file that is long enough and written with zeros from the beginning, so that what is counted is confirms.
    fn start() -> Broker {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let disk = CountingDisk::default();
        let mut recovery = Recovery::default();
        recovery.open(
            QUEUE,
            Options {
                label: "queue 'q'".to_owned(),
                durable: true,
                auto_delete: false,
                settings: broker::topology::Settings::default(),
            },
        );
        let size = 32 << 20;
        let options = store::Options {
            file_size: size,
            zero_ahead_min: size,
            zero_ahead_max: size,
            ..Default::default()
        };
        let opened = Files::open(disk.clone(), dir.path(), options, &mut |record| recovery.replay(&record));
        let (files, report) = opened.expect("an empty directory");
        let budget = Budget { journal_size: 4 * size, step: 2 * size };
        let ledger = recovery.finish(files.oldest(), report.next, budget);
        let (out, progress) = channel();
        let journal = Journal::start("test", files, move |news| drop(out.send(news))).expect("a thread");
        let mut broker = Broker {
            disk,
            ledger,
            journal,
            progress,
            deliveries: Vec::new(),
            published: 0,
            confirmed: 0,
            _dir: dir,
        };
        broker.publish(1);
        broker.wait_for(1);
        broker.consume();
        broker.ack();
        broker
    }

    fn handle(&mut self, command: Command) {
        self.ledger.handle(CLIENT, command);
        if let Some(pending) = self.ledger.finish_round() {
            self.write(pending);
        }
        self.take_effects();
    }

    fn write(&self, Pending { round, urgent }: Pending) {
        self.journal.write(round, urgent);
    }

    fn take_effects(&mut self) {
        while let Some((_, effects)) = self.ledger.poll_effects() {
            for effect in effects {
                match effect {
                    Effect::Deliver(delivery) => self.deliveries.push(delivery),
                    Effect::Confirm(Confirm { first, last, .. }) => self.confirmed += last - first + 1,
                    Effect::Reply(_, reply) => assert_eq!(reply.expect("the queue exists"), Reply::Consuming),
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
    }

    fn publish(&mut self, count: u64) {
        let mut batch = Batch { routes: vec![Arc::from([QUEUE])], ..Batch::default() };
        let first = self.published + 1;
        for _ in 0..count {
            self.published += 1;
            let body = self.published.to_be_bytes();
            let parts = Parts { route: b"\0\x01q", properties: &[0, 0], body: &body };
            batch.runs.push(Publish {
                messages: parts.to_messages(),
                persistent: true,
                expires: false,
                duplicates: Duplicates::default(),
                route: 0,
                confirm: None,
            });
        }
        batch.confirms.push(Confirm { publisher: 1, first, last: self.published });
        self.handle(Command::Publish(batch));
    }

    fn consume(&mut self) {
        let subscription = Subscription {
            consumer: 1,
            channel: 1,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            timeout_ms: None,
            window: Window::default(),
        };
        self.handle(Command::Request(1, Request::Consume(QUEUE, subscription)));
    }

    /// Acks all that was delivered, one by one; how much that was.
    fn ack(&mut self) -> usize {
        let deliveries = std::mem::take(&mut self.deliveries);
        for delivery in &deliveries {
            self.handle(Command::Written(delivery.weight()));
            self.handle(Command::Settle(vec![(QUEUE, Span::one(delivery.first))]));
        }
        deliveries.len()
    }

    /// Waits until so many messages are confirmed.
    fn wait_for(&mut self, confirmed: u64) {
        while self.confirmed < confirmed {
            self.hear();
        }
    }

    fn hear(&mut self) {
        match self.progress.recv().expect("the journal goes on") {
            Progress::Synced { synced, oldest, buffers } => {
                let (forget, pending) = self.ledger.synced(synced, oldest, buffers);
                assert!(forget.is_none() && pending.is_none(), "this journal is too short to be shortened");
                self.take_effects();
            }
            Progress::Failed(error) => panic!("{error}"),
            Progress::Full(_) => panic!("a disk with room"),
            Progress::Idle => panic!("always something to do"),
        }
    }
}

/// Publish, confirm, delivery and ack of one message after the other: a sync for each confirm, and none for anything
/// else.
#[test]
fn at_window_1_a_confirm_costs_one_sync() {
    const COUNT: u64 = 500;
    let mut broker = Broker::start();
    let (before, begun) = (broker.disk.syncs(), Instant::now());
    let mut acked = 0;
    for _ in 0..COUNT {
        broker.publish(1);
        broker.wait_for(broker.published);
        acked += broker.ack();
    }
    let syncs = broker.disk.syncs() - before;
    let late = begun.elapsed().as_millis() / SYNC_DELAY.as_millis();
    println!("window 1: {COUNT} confirms, {acked} acks, {syncs} syncs");
    assert_eq!(acked, 500, "every message is delivered and acked");
    assert!(syncs >= COUNT, "{syncs} syncs for {COUNT} confirms: somebody was told too early");
    assert!(
        u128::from(syncs - COUNT) <= late,
        "{syncs} syncs for {COUNT} confirms: acks cost syncs of their own"
    );
}

/// A thousand messages on their way, on a disk that is slower than their publisher: what gathers while one sync runs
/// shares the next.
#[test]
fn at_window_1000_a_sync_serves_a_hundred_confirms() {
    const COUNT: u64 = 50_000;
    const WINDOW: u64 = 1000;
    /// What a session reads from its socket in one go, on a bad day.
    const BATCH: u64 = 50;
    let mut broker = Broker::start();
    let before = broker.disk.syncs();
    let first = broker.published;
    let tickets = broker.disk.close();
    let sync = || tickets.send(()).expect("the disk is there");
    while broker.published < first + COUNT {
        while broker.published - broker.confirmed + BATCH <= WINDOW {
            broker.publish(BATCH);
        }
        // Some syncs confirm nothing: acks are synced too when nothing else is for long.
        let confirmed = broker.confirmed;
        while broker.confirmed == confirmed {
            sync();
            broker.hear();
        }
        broker.ack();
    }
    drop(tickets);
    broker.wait_for(broker.published);
    let confirms = broker.published - first;
    let syncs = broker.disk.syncs() - before;
    println!("window 1000: {confirms} confirms, {syncs} syncs");
    assert!(syncs * 100 <= confirms, "{syncs} syncs for {confirms} confirms");
}

/// Acks that never end, with nobody waiting for them, are synced all the same: those of the last moment only can be
/// forgotten by a power cut.
#[test]
fn acks_that_keep_coming_are_synced() {
    let mut broker = Broker::start();
    broker.publish(2000);
    broker.wait_for(broker.published);
    let before = broker.disk.syncs();
    let deliveries = std::mem::take(&mut broker.deliveries);
    assert_eq!(deliveries.len(), 2000);
    for (acked, delivery) in deliveries.iter().enumerate() {
        broker.handle(Command::Settle(vec![(QUEUE, Span::one(delivery.first))]));
        // An ack every ten milliseconds, unless something happens before: twenty seconds if nothing ever does.
        if broker.progress.recv_timeout(SYNC_DELAY / 20).is_ok() {
            println!("{acked} acks until they were synced");
            assert!(broker.disk.syncs() > before);
            return;
        }
    }
    panic!("2000 acks in twenty seconds, and not one is durable");
}
