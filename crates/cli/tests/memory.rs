//! How much memory a broker takes: the real binary, real sockets, and what the kernel says about the process.
//!
//! A build with debug assertions takes about as much as a release does, except for its code, which is several times as
//! large; so what is bounded here is growth, and in a release also the whole.
//!
//! `LEVERET_CONNECTIONS` is how many idle connections there are (default 2,000).

#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "../../server/tests/counts/client.rs"]
mod client;
mod support;

use client::{Client, publishes, put_declare};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Broker;

const CONNECTIONS: usize = 2000;

const KB: u64 = 1000;
const MB: u64 = 1000 * KB;

/// A broker in which nothing happens. Nothing that takes more may happen on its start either: no password is hashed.
const IDLE_MAX: u64 = 14 * MB;
/// The same with the code of a debug build.
const IDLE_DEBUG_MAX: u64 = 24 * MB;
/// An idle connection with a channel.
const CONNECTION_MAX: u64 = 20 * KB;
/// A thousand durable queues.
const QUEUES_MAX: u64 = 5 * MB;
/// What a consumer that does not read its socket may hold up in the broker: what is on its way to it, once as messages
/// and once as the bytes that the socket does not take.
const STUCK_CONSUMER_MAX: u64 = 8 * MB;

fn mb(bytes: u64) -> f64 {
    bytes as f64 / MB as f64
}

/// A connection is a descriptor here too.
fn raise_descriptor_limit(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let enough = limit.maximum.is_none_or(|maximum| maximum > connections as u64 + 100);
    assert!(enough, "{connections} connections need more than {:?} descriptors", limit.maximum);
}

#[test]
fn an_idle_broker_is_small_and_was_never_large() {
    let directory = tempfile::tempdir().unwrap();
    let limit = if cfg!(debug_assertions) { IDLE_DEBUG_MAX } else { IDLE_MAX };
    for start in ["first", "second"] {
        let broker = Broker::start(directory.path(), &[]);
        let (now, peak) = (broker.memory(), broker.peak_memory());
        println!("{start} start: {:.1} MB, at most {:.1} MB", mb(now), mb(peak));
        assert!(peak <= limit, "{:.1} MB on the {start} start, expected at most {:.1}", mb(peak), mb(limit));
        broker.terminate();
    }
}

#[test]
fn an_idle_connection_takes_less_than_20_kilobytes() {
    let connections = std::env::var("LEVERET_CONNECTIONS");
    let connections = connections.map_or(CONNECTIONS, |text| text.parse().expect("a number of connections"));
    raise_descriptor_limit(connections);
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    // The first login is the one that costs; what any connection needs once is there from now on.
    drop(Client::connect(broker.address()));
    let before = broker.memory();
    let clients: Vec<_> = (0..connections).map(|_| Client::connect_small(broker.address())).collect();
    let after = broker.memory();
    let each = after.saturating_sub(before) / connections as u64;
    println!("{connections} connections: {:.1} MB → {:.1} MB, {each} bytes each", mb(before), mb(after));
    assert!(each <= CONNECTION_MAX, "{each} bytes for a connection, expected at most {CONNECTION_MAX}");
    drop(clients);
}

#[test]
fn a_thousand_queues_take_less_than_5_megabytes() {
    const QUEUES: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let mut client = Client::connect(broker.address());
    client.declare("first", true);
    let before = broker.memory();
    let mut declares = Vec::new();
    (0..QUEUES).for_each(|number| put_declare(&mut declares, &format!("queue-{number:04}"), true));
    client.write(&declares);
    (0..QUEUES).for_each(|_| drop(client.wait_for([0, 50, 0, 11])));
    let after = broker.memory();
    println!("{QUEUES} queues: {:.1} MB → {:.1} MB", mb(before), mb(after));
    assert!(after.saturating_sub(before) <= QUEUES_MAX, "{:.1} MB → {:.1} MB", mb(before), mb(after));
    drop(client);
    broker.terminate();
    // And as much when they come from the journal.
    let again = Broker::start(directory.path(), &[]);
    let after = again.memory();
    println!("after a restart: {:.1} MB", mb(after));
    assert!(after.saturating_sub(before) <= QUEUES_MAX, "{:.1} MB → {:.1} MB", mb(before), mb(after));
}

/// A consumer that does not read has its queue's messages wait in the queue, and nobody else notices.
#[test]
fn a_consumer_that_never_reads_holds_up_little_and_nobody() {
    const STUCK_BATCHES: usize = 64;
    const BATCHES: usize = 100;
    const BATCH: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path(), &[]);
    let (mut producer, mut consumer) = (Client::connect(broker.address()), Client::connect(broker.address()));
    producer.declare("drained", false);
    producer.declare("stuck", false);
    let batch = publishes("drained", BATCH, 1024, false);
    consumer.consume("drained", true, 0);
    let mut pass = |batches: usize| {
        for _ in 0..batches {
            producer.write(&batch);
            consumer.deliveries(BATCH);
        }
    };
    pass(BATCHES);
    let mut other = Client::connect(broker.address());
    let backlog = publishes("stuck", BATCH, 1024, false);
    (0..STUCK_BATCHES).for_each(|_| other.write(&backlog));
    // An answer to what was sent last: all of the backlog is in the queue.
    other.declare("stuck", false);
    let before = broker.memory();
    let mut stuck = Client::connect(broker.address());
    stuck.consume("stuck", true, 0);
    pass(BATCHES);
    let after = broker.memory();
    println!(
        "{} messages that nobody reads: {:.1} MB → {:.1} MB",
        STUCK_BATCHES * BATCH,
        mb(before),
        mb(after)
    );
    assert!(after.saturating_sub(before) <= STUCK_CONSUMER_MAX, "{:.1} MB → {:.1} MB", mb(before), mb(after));
    // Once it reads, it gets all of it.
    stuck.deliveries(STUCK_BATCHES * BATCH);
}
