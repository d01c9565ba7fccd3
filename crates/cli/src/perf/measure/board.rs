//! Where the threads of a load generator count, and where they are told to stop.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

/// One thread's counters, on cache lines of their own. Only that thread writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Lane {
    published: AtomicU64,
    confirmed: AtomicU64,
    consumed: AtomicU64,
}

impl Lane {
    /// Messages given to the socket so far.
    pub(crate) fn set_published(&self, messages: u64) {
        self.published.store(messages, Ordering::Release);
    }

    /// Messages that the server confirmed so far.
    pub(crate) fn set_confirmed(&self, messages: u64) {
        self.confirmed.store(messages, Ordering::Release);
    }

    /// Messages that arrived whole so far.
    pub(crate) fn set_consumed(&self, messages: u64) {
        self.consumed.store(messages, Ordering::Release);
    }

    /// Messages that the server confirmed so far.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }
}

/// Messages of all threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) consumed: u64,
}

impl Totals {
    /// What was added since `before`.
    pub(crate) fn since(self, before: Totals) -> Totals {
        Totals {
            published: self.published - before.published,
            confirmed: self.confirmed - before.confirmed,
            consumed: self.consumed - before.consumed,
        }
    }
}

/// What all threads of one run share. A run goes through three phases, in this order: publishing, draining
/// (after [`Board::end_publishing`]), stopped (after [`Board::stop`]).
#[derive(Debug)]
pub(crate) struct Board {
    epoch: Instant,
    lanes: Vec<Arc<Lane>>,
    publishing_ended: AtomicBool,
    stopped: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Board {
    /// A board for so many threads, whose clock starts now.
    pub(crate) fn new(threads: usize) -> Board {
        Board {
            epoch: Instant::now(),
            lanes: (0..threads).map(|_| Arc::default()).collect(),
            publishing_ended: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            sockets: Mutex::default(),
        }
    }

    /// Nanoseconds since the run began: the clock of every stamp.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("no run lasts five hundred years")
    }

    /// The counters of the thread of this number.
    pub(crate) fn lane(&self, thread: usize) -> Arc<Lane> {
        self.lanes.get(thread).cloned().unwrap_or_default()
    }

    /// The sums of all lanes.
    pub(crate) fn totals(&self) -> Totals {
        self.lanes.iter().fold(Totals::default(), |sum, lane| Totals {
            published: sum.published + lane.published.load(Ordering::Acquire),
            confirmed: sum.confirmed + lane.confirmed(),
            consumed: sum.consumed + lane.consumed.load(Ordering::Acquire),
        })
    }

    /// Remembers a socket, to wake the thread that waits on it when the run stops.
    pub(crate) fn register(&self, socket: &TcpStream) -> Result<()> {
        let socket = socket.try_clone().context("cannot share a socket")?;
        if self.is_stopped() {
            socket.shutdown(Shutdown::Both).ok();
        }
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        Ok(())
    }

    /// Asks producers to publish no more.
    pub(crate) fn end_publishing(&self) {
        self.publishing_ended.store(true, Ordering::Release);
    }

    /// Whether producers shall publish no more.
    pub(crate) fn is_publishing_ended(&self) -> bool {
        self.publishing_ended.load(Ordering::Acquire)
    }

    /// Ends the run: what threads wait for on their sockets ends in an error that means nothing any more.
    pub(crate) fn stop(&self) {
        self.end_publishing();
        self.stopped.store(true, Ordering::Release);
        for socket in self.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// Whether the run is over.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
