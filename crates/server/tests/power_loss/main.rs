//! Simulated power loss: the lines that the server runs, on a disk that keeps any part of what was not synced.
//!
//! Every seed is a broker with several lives. Clients publish, consume, ack, requeue, purge and disconnect; the journal
//! is written and synced at random distances and shortened all the time; each life ends with a power cut or a kill,
//! often inside a call and sometimes again during recovery. After each, everything confirmed is there, in order, and
//! nothing else is. With syncing off the same runs lose, which shows that they would notice.
//!
//! `LEVERET_POWER_LOSS_SEEDS` is how many seeds, or which: `20000` or `17..18`.

mod clients;
mod meta;
mod oracle;
mod streams;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use oracle::Wrong;
use store::sim::SimDisk;
use world::{Counts, World};

const SEEDS: u64 = 2000;
const LIVES: u64 = 5;

/// Says which seed it was when a run panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("power loss, again: LEVERET_POWER_LOSS_SEEDS={}..{}", self.0, self.0 + 1);
        }
    }
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("LEVERET_POWER_LOSS_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.trim().parse::<u64>().expect("LEVERET_POWER_LOSS_SEEDS: 20000 or 17..18");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

/// Runs `run` for each seed, on all cores.
fn for_each_seed<T: Send>(seeds: Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut results = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return results;
            }
            let _named = Seed(seed);
            results.push(run(seed));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("see above")).collect()
    })
}

/// Several lives, a drain, and a last crash after which nothing comes back.
fn run_honest(seed: u64) -> Counts {
    let mut world = World::new(seed, SimDisk::new());
    for life in 0..LIVES {
        assert_eq!(world.live(), Wrong::default(), "after life {life}");
    }
    world.stay_alive();
    while world.settle_down().and_then(|()| world.drain()).is_err() {
        assert_eq!(world.end_and_recover(), Wrong::default(), "after a power cut while draining");
    }
    assert_eq!(world.end_and_recover(), Wrong::default(), "after the drain");
    assert!(
        world.oracle.queues.values().all(|queue| queue.ready.is_empty()),
        "what was acked for good came back"
    );
    world.counts
}

#[test]
fn power_loss_loses_nothing_confirmed() {
    let seeds = seeds();
    let all = for_each_seed(seeds.clone(), run_honest);
    let mut sum = Counts::default();
    all.iter().for_each(|counts| sum.add(counts));
    println!(
        "power loss: seeds {seeds:?}, lost 0, unexpected 0, disordered 0, misflagged 0, damaged 0, {sum:?}"
    );
    assert!(
        sum.in_flight * 2 > sum.lives,
        "void: {} of {} lives ended with messages in flight",
        sum.in_flight,
        sum.lives
    );
    for happened in [
        sum.inside_calls,
        sum.in_recovery,
        sum.torn,
        sum.shortened,
        sum.files_forgotten,
        sum.redelivered,
        sum.spilled,
        sum.paged_in,
        sum.removed,
        sum.segments,
        sum.refused,
        sum.full,
    ] {
        assert!(happened > 0 || seeds.end - seeds.start < 50, "void: {sum:?}");
    }
}

/// The control: the same runs on a disk whose syncs do nothing. Up to the first life after which anything is wrong.
fn run_without_sync(seed: u64) -> u64 {
    let mut world = World::new(seed, SimDisk::without_sync());
    let wrong = (0..LIVES).map(|_| world.live()).find(|wrong| *wrong != Wrong::default());
    wrong.map_or(0, |wrong| wrong.lost)
}

#[test]
fn power_loss_without_syncing_loses_confirmed_messages() {
    let seeds = 0..200;
    let lost = for_each_seed(seeds, run_without_sync);
    let losing = lost.iter().filter(|lost| **lost > 0).count();
    println!(
        "power loss without syncing: seeds {}, losing {losing}, lost {}",
        lost.len(),
        lost.iter().sum::<u64>()
    );
    assert!(losing * 2 > lost.len(), "only {losing} of {} seeds lost anything", lost.len());
}

#[test]
fn power_loss_keeps_every_change_of_the_topology_that_was_told() {
    let run = |seed| {
        let mut world = meta::World::new(seed, SimDisk::new());
        for life in 0..LIVES {
            assert!(world.live(), "after life {life}: no state that the topology had since what was told");
        }
        [world.lives, world.changes, world.compactions]
    };
    let counts = for_each_seed(0..500, run);
    let [lives, changes, compactions] = [0, 1, 2].map(|at| counts.iter().map(|count| count[at]).sum::<u64>());
    println!("power loss, topology: lives {lives}, changes {changes}, compactions {compactions}, lost 0");
}

#[test]
fn power_loss_without_syncing_loses_topology() {
    let loses = |seed| {
        let mut world = meta::World::new(seed, SimDisk::without_sync());
        (0..LIVES).any(|_| !world.live())
    };
    let losing = for_each_seed(0..100, loses).into_iter().filter(|loses| *loses).count();
    println!("power loss without syncing, topology: seeds 100, losing {losing}");
    assert!(losing > 50, "only {losing} of 100 seeds lost anything");
}

#[test]
fn power_loss_keeps_streams_as_they_were_confirmed_and_trimmed() {
    let run = |seed| {
        let mut world = streams::World::new(seed, SimDisk::new(), true);
        for life in 0..LIVES {
            world.live();
            assert_eq!((world.counts.lost, world.counts.resurrected), (0, 0), "after life {life}");
        }
        world.counts
    };
    let seeds = seeds();
    let mut sum = streams::Counts::default();
    for_each_seed(seeds.clone(), run).iter().for_each(|counts| sum.add(counts));
    println!("power loss, streams: seeds {seeds:?}, {sum:?}");
    for happened in [
        sum.confirmed,
        sum.delivered,
        sum.appended,
        sum.windows,
        sum.trimmed,
        sum.removed,
        sum.shortened,
        sum.tracked,
        sum.recovered,
    ] {
        assert!(happened > 0 || seeds.end - seeds.start < 50, "void: {sum:?}");
    }
}

#[test]
fn power_loss_without_syncing_loses_messages_of_streams() {
    let loses = |seed| {
        let mut world = streams::World::new(seed, SimDisk::without_sync(), false);
        (0..LIVES).any(|_| {
            world.live();
            world.counts.lost + world.counts.resurrected > 0
        })
    };
    let losing = for_each_seed(0..100, loses).into_iter().filter(|loses| *loses).count();
    println!("power loss without syncing, streams: seeds 100, losing {losing}");
    assert!(losing > 50, "only {losing} of 100 seeds lost anything");
}
