//! The thread that waits for the disk, one per journal.
//!
//! Rounds are handed over and the thread takes all that has gathered: it writes them, syncs once, and reports. So while
//! one sync runs the next group forms, and an idle broker syncs at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use store::{Disk, Files, Lsn, Round};

/// Records that nobody waits for, acks above all, are synced after this time at the latest.
const SYNC_DELAY: Duration = Duration::from_millis(200);

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
        let thread = std::thread::Builder::new().name(format!("journal-{name}")).spawn(move || {
            Writer { files, report, buffers: Vec::new() }.run(&inbox);
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
    files: Files<D>,
    report: R,
    buffers: Vec<Vec<u8>>,
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
        let mut unsynced = Unsynced::Nothing;
        loop {
            let first = match unsynced {
                Unsynced::Patient(until) => {
                    inbox.recv_timeout(until.saturating_duration_since(Instant::now()))
                }
                Unsynced::Nothing | Unsynced::Urgent => {
                    inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
            };
            match first {
                Ok(order) => unsynced = self.take_all(order, inbox, unsynced)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            // Not only when no order comes: acks may never pause.
            let due = matches!(unsynced, Unsynced::Patient(until) if until <= Instant::now());
            if due || unsynced == Unsynced::Urgent {
                self.sync()?;
                unsynced = Unsynced::Nothing;
                self.files.prepare()?;
            }
        }
    }

    /// Carries out all orders that wait.
    fn take_all(
        &mut self,
        first: Order,
        inbox: &Receiver<Order>,
        mut unsynced: Unsynced,
    ) -> store::Result<Unsynced> {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Write { round, sync } => {
                    self.files.write(&round)?;
                    self.buffers.push(round.into_buffer());
                    if sync {
                        unsynced = Unsynced::Urgent;
                    } else if unsynced == Unsynced::Nothing {
                        unsynced = Unsynced::Patient(Instant::now() + SYNC_DELAY);
                    }
                }
                Order::Forget(before) => self.files.forget(before)?,
            }
            next = inbox.try_recv().ok();
        }
        Ok(unsynced)
    }

    fn sync(&mut self) -> store::Result<()> {
        let synced = self.files.sync()?;
        let buffers = std::mem::take(&mut self.buffers);
        (self.report)(Progress::Synced { synced, oldest: self.files.oldest(), buffers });
        Ok(())
    }
}
