//! What a message costs in things that can be counted: allocations, system calls on sockets, bytes copied. The server
//! runs in this process; the client's own costs are left out. System calls on files are counted by `sync_counts`; how
//! often threads wake each other cannot be seen from here.
//!
//! The client sends a batch, takes all of it back, and sends the next, so that how much lies on the way does not depend
//! on who is faster. What the server does per batch is shared by the messages in it; a cost per message, of one
//! allocation or one call, would break its bound many times over. Each test prints what it found.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod allocator;
mod calls;
mod client;
mod meter;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use client::{Client, publishes};
use meter::Counts;
use server::Server;
use server::config::Config;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Messages that are counted, after [`WARM_UP`].
const MESSAGES: usize = 100_000;
const WARM_UP: usize = 20_000;

/// Messages of a batch.
const BATCH: usize = 1000;

/// Deliveries that are acknowledged at once, if any are.
const ACK_EVERY: usize = 100;

/// What may be done for 1,000 messages: half as much again as was found, or a little more where it depends on how the
/// bytes happen to arrive.
struct Bounds {
    allocations: u64,
    /// Calls that read from a socket, write to one, or wait for one.
    calls: u64,
    /// Kilobytes copied in memory. What was found differs by half a copy with how bytes arrive; a body of a kilobyte
    /// that is copied twice more is over the bound.
    copied_kb: u64,
}

const TRANSIENT_16: Bounds = Bounds { allocations: 50, calls: 20, copied_kb: 250 };
const TRANSIENT_1K: Bounds = Bounds { allocations: 120, calls: 30, copied_kb: 4000 };
const ACKED_16: Bounds = Bounds { allocations: 200, calls: 50, copied_kb: 400 };
const DURABLE_16: Bounds = Bounds { allocations: 250, calls: 50, copied_kb: 500 };
const DURABLE_1K: Bounds = Bounds { allocations: 320, calls: 60, copied_kb: 6300 };

/// What is asked of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Not stored, and forgotten when it is delivered.
    Transient,
    /// Not stored, and acknowledged a hundred at a time.
    Acked,
    /// Stored, confirmed, and acknowledged a hundred at a time.
    Durable,
}

/// Counters are the whole process's, so tests that share it take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A broker on two threads of its own, for as long as `work` takes.
fn with_broker(work: impl FnOnce(SocketAddr)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    meter::exempt_this_thread();
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::new(directory.path());
    config.amqp = SocketAddr::from(([127, 0, 0, 1], 0));
    config.shards = 1;
    config.limits.disk_free_min = 0;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime: Runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(config)).unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel();
    let running = runtime.spawn(server.run(async move { drop(stopped.await) }));
    work(address);
    stop.send(()).unwrap();
    runtime.block_on(running).unwrap().unwrap();
}

/// A producer and a consumer of one queue.
struct Line {
    producer: Client,
    consumer: Client,
    work: Work,
    batch: Vec<u8>,
    published: usize,
}

impl Line {
    fn open(address: SocketAddr, work: Work, body_size: usize) -> Line {
        let (mut producer, mut consumer) = (Client::connect(address), Client::connect(address));
        let durable = work == Work::Durable;
        producer.declare("q", durable);
        if durable {
            producer.select_confirms();
        }
        consumer.consume("q", work == Work::Transient, 0);
        let batch = publishes("q", BATCH, body_size, durable);
        Line { producer, consumer, work, batch, published: 0 }
    }

    /// Sends so many messages and takes them all back.
    fn pass(&mut self, messages: usize) {
        for _ in 0..messages / BATCH {
            self.producer.write(&self.batch);
            self.published += BATCH;
            for _ in 0..BATCH / ACK_EVERY {
                let tag = self.consumer.deliveries(ACK_EVERY);
                if self.work != Work::Transient {
                    self.consumer.ack(tag);
                }
            }
            if self.work == Work::Durable {
                self.producer.confirms(self.published as u64);
            }
        }
    }
}

fn check(work: Work, body_size: usize, bounds: &Bounds) {
    with_broker(|address| {
        let mut line = Line::open(address, work, body_size);
        line.pass(WARM_UP);
        let before = Counts::now();
        line.pass(MESSAGES);
        let counts = Counts::now().since(before);
        let Counts { allocations, reads, writes, waits, copied } = counts;
        println!("{work:?}, {body_size} B, {MESSAGES} messages in batches of {BATCH}: {counts:?}");
        assert!(
            reads > 0 && writes > 0 && waits > 0 && copied > 0,
            "the server does it with other calls: {counts:?}"
        );
        let thousands = (MESSAGES / 1000) as u64;
        let limit = bounds.allocations * thousands;
        assert!(allocations <= limit, "{allocations} allocations, expected at most {limit}");
        let (calls, limit) = (reads + writes + waits, bounds.calls * thousands);
        assert!(calls <= limit, "{reads} reads, {writes} writes and {waits} waits, expected at most {limit}");
        let (copied, limit) = (copied / 1000, bounds.copied_kb * thousands);
        assert!(copied <= limit, "{copied} KB copied, expected at most {limit}");
    });
}

#[test]
fn small_transient_messages() {
    check(Work::Transient, 16, &TRANSIENT_16);
}

#[test]
fn transient_messages_of_a_kilobyte() {
    check(Work::Transient, 1024, &TRANSIENT_1K);
}

#[test]
fn small_messages_that_are_acked() {
    check(Work::Acked, 16, &ACKED_16);
}

#[test]
fn small_durable_messages() {
    check(Work::Durable, 16, &DURABLE_16);
}

#[test]
fn durable_messages_of_a_kilobyte() {
    check(Work::Durable, 1024, &DURABLE_1K);
}
