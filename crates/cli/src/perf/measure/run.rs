//! One run from its first message to its last: threads, clock and figures.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::board::{Board, Totals};
use super::options::{Extent, Load};
use super::process_time::Process;
use super::progress::Progress;

/// How often the counters are looked at, and how exact the end of a counted run is.
const TICK: Duration = Duration::from_millis(1);
/// How long nothing may arrive of what must still arrive.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Stack of a thread, which keeps its buffers on the heap.
const STACK_SIZE: usize = 256 * 1024;

/// The threads of a run. Each leaves something of type `T` behind.
#[derive(Debug)]
pub(crate) struct Crew<T> {
    board: Arc<Board>,
    producers: Vec<JoinHandle<(T, Result<()>)>>,
    others: Vec<JoinHandle<(T, Result<()>)>>,
}

impl<T: Send + 'static> Crew<T> {
    /// Nobody yet.
    pub(crate) fn new(board: Arc<Board>) -> Crew<T> {
        Crew { board, producers: Vec::new(), others: Vec::new() }
    }

    /// Starts a thread that ends by itself when all is published.
    pub(crate) fn producer(
        &mut self,
        name: String,
        work: impl FnOnce() -> (T, Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.producers.push(start(&self.board, name, work)?);
        Ok(())
    }

    /// Starts a thread that goes on until the run is stopped.
    pub(crate) fn other(
        &mut self,
        name: String,
        work: impl FnOnce() -> (T, Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.others.push(start(&self.board, name, work)?);
        Ok(())
    }

    /// Waits for all and returns what they left behind, or what went wrong first.
    pub(crate) fn finish(self) -> Result<Vec<T>> {
        self.board.stop();
        let mut left = Vec::new();
        for thread in self.producers.into_iter().chain(self.others) {
            let (one, outcome) = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            outcome?;
            left.push(one);
        }
        Ok(left)
    }

    fn are_producers_done(&self) -> bool {
        self.producers.iter().all(JoinHandle::is_finished)
    }
}

/// Starts a thread whose failure stops the run; what fails because the run was stopped is no failure.
fn start<T: Send + 'static>(
    board: &Arc<Board>,
    name: String,
    work: impl FnOnce() -> (T, Result<()>) + Send + 'static,
) -> Result<JoinHandle<(T, Result<()>)>> {
    let board = Arc::clone(board);
    let guarded = move || {
        let (left, outcome) = work();
        if outcome.is_ok() || board.is_stopped() {
            return (left, Ok(()));
        }
        board.stop();
        (left, outcome)
    };
    let builder = std::thread::Builder::new().stack_size(STACK_SIZE);
    builder.name(name).spawn(guarded).context("cannot start a thread")
}

/// What one run showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    /// Of the measured time.
    pub(crate) messages: Totals,
    /// From the first message to the last.
    pub(crate) whole_run: Totals,
    pub(crate) server_time: Option<Duration>,
    pub(crate) own_time: Duration,
}

/// Looks on while the crew works, and stops it when the run is over. With `drain`, a run for a time goes on
/// after it until all that was published has arrived, or nothing more comes.
pub(crate) fn measure<T: Send + 'static>(crew: &Crew<T>, load: &Load, drain: bool) -> Result<Measured> {
    let watch = Watch {
        crew,
        load,
        server: load.server_pid.map(Process::new),
        progress: Progress::new(load.extent()),
    };
    let measured = match load.extent() {
        Extent::Time { warmup, measured } => watch.for_a_time(warmup, measured, drain),
        Extent::Count { published, consumed } => watch.until_count(published, consumed),
    };
    watch.progress.clear();
    crew.board.stop();
    measured
}

struct Watch<'a, T> {
    crew: &'a Crew<T>,
    load: &'a Load,
    server: Option<Process>,
    progress: Progress,
}

/// The figures at one moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    totals: Totals,
    server: Option<Duration>,
    own: Duration,
}

impl<T: Send + 'static> Watch<'_, T> {
    fn for_a_time(&self, warmup: Duration, measured: Duration, drain: bool) -> Result<Measured> {
        let start = Instant::now();
        self.wait(start + warmup);
        let before = self.read()?;
        self.wait(start + warmup + measured);
        let after = self.read()?;
        self.crew.board.end_publishing();
        if drain {
            let copies = u64::from(self.load.fanout.unwrap_or(1)) * u64::from(!self.load.publish_only);
            let all = |totals: Totals| {
                self.crew.are_producers_done() && totals.consumed >= totals.published * copies
            };
            self.wait_until(all);
        }
        Ok(self.between(before, after))
    }

    fn until_count(&self, published: u64, consumed: u64) -> Result<Measured> {
        let before = Reading { totals: Totals::default(), ..self.read()? };
        let all = |totals: Totals| {
            self.crew.are_producers_done() && totals.published >= published && totals.consumed >= consumed
        };
        let complete = self.wait_until(all);
        let after = self.read()?;
        if !complete && !self.crew.board.is_stopped() {
            let Totals { published, consumed: arrived, .. } = after.totals;
            bail!(
                "nothing arrived for {} s: {published} messages published, {arrived} of {consumed} arrived",
                SILENCE_MAX.as_secs()
            );
        }
        Ok(self.between(before, after))
    }

    /// Waits for a moment, or until a thread has failed.
    fn wait(&self, until: Instant) {
        let board = &self.crew.board;
        while !board.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Progress::PERIOD));
            self.progress.show(board.totals());
        }
    }

    /// Waits until the totals are as wished; gives up when a thread has failed or nothing moves any more.
    fn wait_until(&self, wished: impl Fn(Totals) -> bool) -> bool {
        let board = &self.crew.board;
        let (mut last, mut moved_at) = (board.totals(), Instant::now());
        while !board.is_stopped() {
            let totals = board.totals();
            if wished(totals) {
                return true;
            }
            if totals != last {
                (last, moved_at) = (totals, Instant::now());
            }
            if moved_at.elapsed() > SILENCE_MAX {
                break;
            }
            self.progress.show(totals);
            std::thread::sleep(TICK);
        }
        false
    }

    fn read(&self) -> Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            totals: self.crew.board.totals(),
            server: self.server.map(Process::time).transpose()?,
            own: Process::new(std::process::id()).time()?,
        })
    }

    fn between(&self, before: Reading, after: Reading) -> Measured {
        let server_time = before.server.zip(after.server);
        Measured {
            elapsed: after.at - before.at,
            messages: after.totals.since(before.totals),
            whole_run: self.crew.board.totals(),
            server_time: server_time.map(|(before, after)| after.saturating_sub(before)),
            own_time: after.own.saturating_sub(before.own),
        }
    }
}
