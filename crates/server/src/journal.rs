//! The thread that waits for the disk, one per journal.
//!
//! Rounds are handed over and the thread takes all that has gathered: it writes them, syncs once, and reports. So while
//! one sync runs the next group forms, and an idle broker syncs at once.
//!
//! When the disk is full the thread keeps what it was handed, says so, and tries again until there is room. The rounds
//! are as they were then; nobody has heard that they are durable.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use store::{Disk, Files, Kind, Lsn, Round};
use tracing::{info, warn};

/// Records that nobody waits for, acks above all, are synced after this time at the latest.
const SYNC_DELAY: Duration = Duration::from_millis(200);

/// After this time a full disk is tried again.
const FULL_DELAY: Duration = Duration::from_millis(200);

/// What has become of what was handed over.
#[derive(Debug)]
pub enum Progress {
    /// Everything below `synced` is durable; `written` are the emptied buffers of the rounds.
    Synced {
        /// Where durability ends.
        synced: Lsn,
        /// Where the oldest file begins.
        oldest: Lsn,
        /// To be used again.
        buffers: Vec<Vec<u8>>,
    },
    /// All that was handed over is durable, and nothing came for a while.
    Idle,
    /// The disk has no room for what was handed over, or hardly: it waits. Or it has room again.
    Full(bool),
    /// The disk failed. Nothing after the last `Synced` is durable, and nothing will be.
    Failed(store::Error),
}

enum Order {
    Write { round: Round, sync: bool },
    Forget(Lsn),
}

/// The way to the thread. When it is dropped, the thread syncs what it has and ends.
#[derive(Debug)]
pub struct Journal {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Starts the thread. `report` is called on it.
    pub fn start<D: Disk + Send + 'static>(
        name: &str,
        files: Files<D>,
        report: impl Fn(Progress) + Send + 'static,
    ) -> std::io::Result<Journal>
    where
        Files<D>: Send,
    {
        let (orders, inbox) = channel();
        let journal = name.to_owned();
        let thread = std::thread::Builder::new().name(format!("journal-{name}")).spawn(move || {
            let (buffers, waiting) = (Vec::new(), VecDeque::new());
            let unsynced = Unsynced::Nothing;
            Writer { journal, files, report, buffers, unsynced, waiting, full: None, idle: None }.run(&inbox);
        })?;
        Ok(Journal { orders: Some(orders), thread: Some(thread) })
    }

    /// Hands over a round. `sync`: somebody waits for it.
    pub fn write(&self, round: Round, sync: bool) {
        self.order(Order::Write { round, sync });
    }

    /// Files that lie wholly below `before` are not needed any more.
    pub fn forget(&self, before: Lsn) {
        self.order(Order::Forget(before));
    }

    /// Waits until everything that was handed over is durable, and ends the thread.
    pub fn finish(mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a journal thread has panicked");
        }
    }

    /// A thread that has failed has reported it: what comes after has nowhere to go.
    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }
}

struct Writer<D: Disk, R> {
    journal: String,
    files: Files<D>,
    report: R,
    buffers: Vec<Vec<u8>>,
    unsynced: Unsynced,
    /// What could not be written because the disk is full, and what came after it.
    waiting: VecDeque<Order>,
    /// The disk is full, and is tried again at this time.
    full: Option<Instant>,
    /// If nothing comes until then, the journal is idle.
    idle: Option<Instant>,
}

/// Whether somebody waits for what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsynced {
    Nothing,
    /// Nobody does, but at this time it is synced, however much is written before.
    Patient(Instant),
    Urgent,
}

impl<D: Disk, R: Fn(Progress)> Writer<D, R> {
    fn run(mut self, inbox: &Receiver<Order>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(inbox)));
        let panicked =
            || store::Error::new(store::Kind::Disk, "the journal thread has panicked: please report this");
        if let Err(error) = outcome.unwrap_or_else(|_| Err(panicked())) {
            (self.report)(Progress::Failed(error));
        }
    }

    fn work(&mut self, inbox: &Receiver<Order>) -> store::Result<()> {
        loop {
            match self.next(inbox) {
                Ok(order) => self.take_all(order, inbox)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
            if self.full.is_some_and(|retry| retry <= Instant::now()) {
                self.write_waiting()?;
            }
            if self.idle.take_if(|idle| *idle <= Instant::now()).is_some() {
                (self.report)(Progress::Idle);
            }
            // Not only when no order comes: acks may never pause.
            let due = matches!(self.unsynced, Unsynced::Patient(until) if until <= Instant::now());
            if due || self.unsynced == Unsynced::Urgent {
                self.sync()?;
                self.prepare()?;
            }
        }
    }

    /// Waits for an order, for as long as there is nothing else to do.
    fn next(&self, inbox: &Receiver<Order>) -> Result<Order, RecvTimeoutError> {
        let sync = if let Unsynced::Patient(until) = self.unsynced { Some(until) } else { None };
        match sync.into_iter().chain(self.full).chain(self.idle).min() {
            Some(until) => inbox.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Carries out all orders that wait.
    fn take_all(&mut self, first: Order, inbox: &Receiver<Order>) -> store::Result<()> {
        self.idle = None;
        let mut next = Some(first);
        while let Some(order) = next {
            // What lies below is durable elsewhere, whatever waits; and it makes room.
            if self.waiting.is_empty() || matches!(order, Order::Forget(_)) {
                self.carry_out(order)?;
            } else {
                self.waiting.push_back(order);
            }
            next = inbox.try_recv().ok();
        }
        Ok(())
    }

    /// Carries out an order, or puts it back in front of those that wait.
    fn carry_out(&mut self, order: Order) -> store::Result<()> {
        let (round, sync) = match order {
            Order::Forget(before) => return self.files.forget(before),
            Order::Write { round, sync } => (round, sync),
        };
        match self.files.write(&round) {
            Err(error) if error.kind == Kind::Full => {
                self.is_full(&error.text);
                self.waiting.push_front(Order::Write { round, sync });
                return Ok(());
            }
            outcome => outcome?,
        }
        self.buffers.push(round.into_buffer());
        if sync {
            self.unsynced = Unsynced::Urgent;
        } else if self.unsynced == Unsynced::Nothing {
            self.unsynced = Unsynced::Patient(Instant::now() + SYNC_DELAY);
        }
        Ok(())
    }

    /// Tries again what a full disk has refused.
    fn write_waiting(&mut self) -> store::Result<()> {
        self.full = self.full.map(|_| Instant::now() + FULL_DELAY);
        let mut waiting = self.waiting.len();
        while let Some(order) = self.waiting.pop_front() {
            self.carry_out(order)?;
            if self.waiting.len() >= waiting {
                return Ok(());
            }
            waiting = self.waiting.len();
        }
        self.prepare()
    }

    /// Makes room for the next rounds, as long as none waits for room.
    fn prepare(&mut self) -> store::Result<()> {
        if !self.waiting.is_empty() {
            return Ok(());
        }
        if !self.files.prepare()? {
            self.is_full("there is no room for the next rounds");
        } else if self.full.take().is_some() {
            info!(journal = self.journal, "the disk has room again");
            (self.report)(Progress::Full(false));
        }
        Ok(())
    }

    fn is_full(&mut self, why: &str) {
        if self.full.replace(Instant::now() + FULL_DELAY).is_none() {
            warn!(journal = self.journal, why, "the disk is full: nothing more is taken until there is room");
            (self.report)(Progress::Full(true));
        }
    }

    /// Nobody is there any more. What a full disk still refuses was never confirmed.
    fn finish(&mut self) -> store::Result<()> {
        self.write_waiting()?;
        self.sync()?;
        match self.waiting.len() {
            0 => Ok(()),
            left => {
                let what = format!("{left} rounds of the journal {} were not written", self.journal);
                Err(store::Error::new(Kind::Full, what + ": the disk is full"))
            }
        }
    }

    fn sync(&mut self) -> store::Result<()> {
        self.unsynced = Unsynced::Nothing;
        let synced = self.files.sync()?;
        let buffers = std::mem::take(&mut self.buffers);
        self.idle = self.waiting.is_empty().then(|| Instant::now() + SYNC_DELAY);
        (self.report)(Progress::Synced { synced, oldest: self.files.oldest(), buffers });
        Ok(())
    }
}
