//! kill -9 of the real binary, again and again on one data directory, with a real client (lapin).
//!
//! Three publishers with confirms, windows of 1, 100 and 1,000 messages; two consumers with manual ack and one that
//! polls with basic.get; durable queues, some messages to all of them. What was confirmed must be delivered, intact, in
//! order; nothing else may be; a redelivery must have a reason and say what it is.
//!
//! `LEVERET_KILL_ROUNDS` is how often the broker is killed (default 25).

mod broker;
mod history;
mod streams;
mod traffic;

use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use broker::Broker;
use history::{Counts, mix};
use tokio::sync::watch;
use tokio::task::JoinSet;
use traffic::{Shared, WINDOWS};

const ROUNDS: usize = 25;

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the broker may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How a life of the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Terminate,
    TerminateTwice,
    TerminateAndKill,
}

/// Clients that run.
struct Clients {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Clients {
    fn start(address: &str, history: &Shared, publishing: bool) -> Clients {
        let mut tasks = JoinSet::new();
        let (stop, stopped) = watch::channel(false);
        for (publisher, window) in (1..).zip(WINDOWS).filter(|_| publishing) {
            tasks.spawn(traffic::publish(
                address.to_owned(),
                publisher,
                window,
                history.clone(),
                stopped.clone(),
            ));
        }
        for queue in 0..2 {
            tasks.spawn(traffic::consume(address.to_owned(), queue, history.clone(), stopped.clone()));
        }
        tasks.spawn(traffic::get(address.to_owned(), 2, history.clone(), stopped));
        Clients { tasks, stop }
    }

    /// Tells all to stop and waits for them.
    async fn join(mut self) {
        self.stop.send_replace(true);
        let all =
            async { while self.tasks.join_next().await.transpose().expect("no client panics").is_some() {} };
        tokio::time::timeout(PATIENCE, all).await.expect("clients notice the end of their connection");
    }
}

/// One life of the broker; true when it ended with publishes in flight.
async fn live(data_dir: &Path, history: &Shared, end: End, moment: Duration) -> bool {
    let broker = Broker::start(data_dir);
    let (connection, channel) = traffic::connect(&broker.address).await.expect("a broker that listens");
    traffic::declare(&channel).await.expect("a broker that works");
    let confirmed = history.lock().confirmed();
    let unknown = history.lock().unconfirmed();
    let clients = Clients::start(&broker.address, history, true);
    let traffic = tokio::time::timeout(PATIENCE, history.more_than(confirmed)).await;
    assert!(traffic.is_ok(), "still nothing is confirmed");
    // The moment of the kill is random in time and not an event.
    traffic::pass(moment).await;
    let in_flight = history.lock().unconfirmed() > unknown;
    match end {
        End::Kill => broker.kill(),
        End::TerminateAndKill => {
            broker.terminate();
            broker.kill();
        }
        End::Terminate | End::TerminateTwice => {
            broker.terminate();
            if end == End::TerminateTwice {
                broker.terminate();
            }
            let ended = tokio::task::spawn_blocking(|| broker.wait());
            let (status, took) = ended.await.expect("waiting does not panic");
            assert!(status.success() && took < STOP_TIMEOUT, "{status} after {took:?}");
        }
    }
    drop((connection, channel));
    clients.join().await;
    in_flight
}

/// The last life: everything is taken out, the broker stops by itself, and nothing is there when it starts again.
async fn drain(data_dir: &Path, history: &Shared) {
    let broker = Broker::start(data_dir);
    loop {
        let (connection, channel) = traffic::connect(&broker.address).await.expect("a broker that listens");
        if traffic::declare(&channel).await.expect("a broker that works") == 0 {
            break;
        }
        let clients = Clients::start(&broker.address, history, false);
        empty(&channel).await;
        clients.join().await;
        drop(connection);
    }
    broker.terminate();
    assert!(broker.wait().0.success());
    let broker = Broker::start(data_dir);
    let (_connection, channel) = traffic::connect(&broker.address).await.expect("a broker that listens");
    assert_eq!(
        traffic::declare(&channel).await.expect("a broker that works"),
        0,
        "what was acked for good came back"
    );
}

/// Waits until nothing is left; how long that takes depends on what there was, but it must become less.
async fn empty(channel: &lapin::Channel) {
    let mut least = u32::MAX;
    let mut progress = Instant::now();
    while least > 0 {
        let left = traffic::declare(channel).await.expect("a broker that works");
        if left < least {
            (least, progress) = (left, Instant::now());
        }
        assert!(progress.elapsed() < PATIENCE, "{left} messages are stuck in the queues");
    }
}

/// Lives with these ends, then a drain, then all checks.
async fn run(ends: &[End]) -> Counts {
    let seed = std::hash::RandomState::new().build_hasher().finish();
    let data_dir = tempfile::tempdir().expect("a directory for the test");
    let history = Shared::default();
    let mut in_flight = 0;
    for (round, end) in ends.iter().enumerate() {
        history.lock().round = round;
        let moment = Duration::from_millis(20 + mix(seed ^ round as u64) % 381);
        in_flight += usize::from(live(data_dir.path(), &history, *end, moment).await);
    }
    {
        let mut history = history.lock();
        history.round = ends.len();
        history.draining = true;
    }
    drain(data_dir.path(), &history).await;
    let counts = history.lock().counts();
    println!("kill -9: rounds {}, with publishes in flight {in_flight}, {counts:?}", ends.len());
    assert!(
        in_flight * 2 >= ends.len(),
        "void: only {in_flight} of {} ends hit publishes in flight",
        ends.len()
    );
    counts
}

fn check(counts: &Counts) {
    assert_eq!(counts.lost, 0, "confirmed messages are lost");
    assert_eq!(counts.unexpected, 0, "messages that nobody published");
    assert_eq!(counts.corrupt, 0, "messages that are not what was published");
    assert_eq!(counts.disordered, 0, "first deliveries out of order");
    assert_eq!(counts.resurrected, 0, "messages came back long after their ack");
    assert_eq!(counts.unflagged_for_no_reason, 0, "redeliveries that do not say so");
    assert_eq!(counts.flagged_late, 0, "flags behind unflagged messages");
    assert!(counts.confirmed > 0 && counts.delivered >= counts.confirmed, "void");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_confirmed() {
    let rounds =
        std::env::var("LEVERET_KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    check(&run(&vec![End::Kill; rounds]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_and_sigterm_under_load_lose_nothing_confirmed() {
    let counts = run(&[End::Terminate, End::TerminateTwice, End::TerminateAndKill, End::Terminate]).await;
    check(&counts);
}
