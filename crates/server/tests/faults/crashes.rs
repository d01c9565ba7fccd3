//! The power goes in each call, some times each: all recover.

use std::collections::BTreeSet;

use store::sim::{Call, Fault, SimDisk};

use crate::node::{Expected, Found, QUEUES, find, start};
use crate::setting;

const CALLS: [Call; 10] = [
    Call::Create,
    Call::Open,
    Call::List,
    Call::Rename,
    Call::Remove,
    Call::SyncDir,
    Call::Write,
    Call::Read,
    Call::Zero,
    Call::Sync,
];

/// What of a queue is not as it must be after a crash.
pub(crate) fn check(queue: u64, expected: &Expected, found: &Found, what: &str) {
    let messages = &found.messages[&queue];
    assert!(
        messages.windows(2).all(|pair| pair[0] < pair[1]),
        "{what}: queue {queue} in order: {messages:?}"
    );
    let there: BTreeSet<u64> = messages.iter().copied().collect();
    let must: BTreeSet<u64> = expected.confirmed.difference(&expected.settled).copied().collect();
    let lost: Vec<_> = must.difference(&there).collect();
    assert!(lost.is_empty(), "{what}: queue {queue} lost {lost:?}");
    assert!(there.is_disjoint(&expected.gone), "{what}: queue {queue} brought back what was settled");
    assert!(there.is_subset(&expected.attempted), "{what}: queue {queue}");
}

/// The power goes in the nth call of a kind; the counts of what had happened before. `None` when there are not so many.
fn crash(only: Option<Call>, nth: u64, seed: u64, in_recovery: Option<u64>) -> Option<[u64; 3]> {
    let disk = SimDisk::new();
    let queues: BTreeSet<u64> = QUEUES.into();
    let (mut node, _) = start(&disk, &queues).expect("an empty disk");
    disk.fail(nth, only, Fault::PowerCut);
    let died = node.work().is_err();
    if !died && disk.is_fault_pending() {
        return None;
    }
    let (expected, queues) = (node.expected.clone(), node.queues.clone());
    let counts = [node.spilled, node.removed, node.forgotten];
    drop(node);
    disk.crash(seed);
    let what = format!("{only:?} {nth}, seed {seed}, in recovery {in_recovery:?}");
    if let Some(nth) = in_recovery {
        disk.fail(nth, None, Fault::PowerCut);
        if start(&disk, &queues).is_ok() && disk.is_fault_pending() {
            return None;
        }
        disk.crash(seed + 1);
    }
    let found = find(&disk, &queues).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((found.wrong, found.lost, &found.recovered.damaged[..]), (0, 0, &[][..]), "{what}");
    for queue in &queues {
        check(*queue, &expected.get(queue).cloned().unwrap_or_default(), &found, &what);
    }
    Some(counts)
}

#[test]
fn power_loss_in_every_call_of_every_kind_is_recovered_from() {
    let crashes = setting("LEVERET_CRASHES", 1);
    let (mut points, mut total, mut most) = (0, 0, [0; 3]);
    for call in CALLS {
        let mut of_call = 0;
        'calls: for nth in 1.. {
            for seed in 0..crashes {
                let Some(counts) = crash(Some(call), nth, seed, None) else { break 'calls };
                for (most, count) in most.iter_mut().zip(counts) {
                    *most = (*most).max(count);
                }
                total += 1;
            }
            of_call += 1;
        }
        println!("{call:?}: {of_call} places, {crashes} crashes each, all recovered");
        points += of_call;
    }
    println!("{points} places, {total} crashes, 0 lost, 0 back after a durable settle");
    assert!(points > 300, "{points}");
    assert!(most.iter().all(|count| *count > 3), "spills, removals and files forgotten: {most:?}");
}

#[test]
fn power_loss_in_every_call_of_a_recovery_is_recovered_from() {
    let (mut recoveries, mut total) = (0, 0);
    for nth in (20..1500).step_by(70) {
        for in_recovery in 1.. {
            if crash(None, nth, nth, Some(in_recovery)).is_none() {
                break;
            }
            total += 1;
        }
        recoveries += 1;
    }
    println!("{recoveries} crashes, and {total} in the calls of their recoveries, 0 lost");
    assert!(total > 100, "{total}");
}
