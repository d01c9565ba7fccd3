//! Queues that take no message twice: whatever the broker dies of, an id and its message are both there or both are not.

#[expect(dead_code, reason = "nothing here goes to a backlog")]
mod disk;

use std::sync::Arc;

use amqp::properties::PropertiesBuilder;
use amqp::table::TableBuilder;
use broker::id::{ConnectionId, QueueId};
use broker::message::Parts;
use broker::queue::Options;
use broker::record::{Log, Position, Record, VERSION};
use broker::shard::{Batch, Command, Confirm, Effect, Publish, Reply, Request, Shard};
use broker::topology::{Deduplication, Duplicates, Identity, Settings};
use disk::Journal;

const PLAIN: QueueId = QueueId(1);
const QUEUE: QueueId = QueueId(2);
const ONE: ConnectionId = ConnectionId(1);
const OTHER: ConnectionId = ConnectionId(2);

/// A shard with a plain queue and one that deduplicates.
fn shard() -> Shard {
    let mut shard = Shard::default();
    let deduplication = Some(Deduplication { size: 100, ttl_ms: None, header: "id".into() });
    let mut open = |queue, settings| {
        let label = "a queue".to_owned();
        shard.open(queue, Options { label, durable: true, auto_delete: false, settings });
    };
    open(PLAIN, Settings::default());
    open(QUEUE, Settings { deduplication, ..Settings::default() });
    shard
}

fn message(id: &str, duplicates: Duplicates) -> Publish {
    let headers = TableBuilder::new().with("id", id);
    let headers = Some(headers.as_table());
    let properties = PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes();
    let messages = Parts { route: b"\0\x01q", properties: &properties, body: b"x" }.to_messages();
    Publish { messages, persistent: true, expires: false, duplicates, route: 0, confirm: None }
}

fn publish(
    shard: &mut Shard,
    log: &mut impl Log,
    from: ConnectionId,
    queues: &[QueueId],
    runs: Vec<Publish>,
) {
    let confirms = vec![Confirm { publisher: 1, first: 1, last: runs.len() as u64 }];
    let batch = Batch { routes: vec![Arc::from(queues)], runs, confirms };
    shard.handle(from, Command::Publish(batch), log);
    shard.finish_round(log);
    shard.check();
}

/// Who has been told that its messages are safe.
fn confirmed(shard: &mut Shard) -> Vec<ConnectionId> {
    let effects = std::iter::from_fn(|| shard.poll_effects());
    let confirmed = effects.filter(|(_, effects)| effects.iter().any(|it| matches!(it, Effect::Confirm(_))));
    confirmed.map(|(connection, _)| connection).collect()
}

fn count(shard: &mut Shard, queue: QueueId) -> usize {
    shard.handle(ONE, Command::Request(1, Request::Inspect(queue)), &mut NoLog);
    while let Some((_, effects)) = shard.poll_effects() {
        for effect in effects {
            if let Effect::Reply(1, Ok(Reply::Counts { ready, .. })) = effect {
                return ready;
            }
        }
    }
    panic!("no answer to inspect")
}

struct NoLog;

impl Log for NoLog {
    fn append(&mut self, _: u8, _: &[&[u8]]) -> Position {
        panic!("counting writes nothing")
    }
}

#[test]
fn a_duplicate_is_confirmed_when_the_first_is_safe() {
    let (mut shard, mut journal) = (shard(), Journal::default());
    publish(&mut shard, &mut journal, ONE, &[QUEUE], vec![message("a", Duplicates::AsQueuesSay)]);
    let end = journal.end;
    publish(&mut shard, &mut journal, OTHER, &[QUEUE], vec![message("a", Duplicates::AsQueuesSay)]);
    assert_eq!((journal.end, count(&mut shard, QUEUE)), (end, 1), "the second is not taken");
    assert_eq!(confirmed(&mut shard), [], "the first is not on the disk, and so neither is");
    shard.committed(end);
    assert_eq!(confirmed(&mut shard), [ONE, OTHER]);
    publish(&mut shard, &mut journal, OTHER, &[QUEUE], vec![message("a", Duplicates::AsQueuesSay)]);
    assert_eq!(confirmed(&mut shard), [OTHER], "nothing to wait for");
}

#[test]
fn a_duplicate_does_not_hurry_the_confirms_of_others() {
    let (mut shard, mut journal) = (shard(), Journal::default());
    publish(&mut shard, &mut journal, ONE, &[QUEUE], vec![message("a", Duplicates::AsQueuesSay)]);
    shard.committed(journal.end);
    assert_eq!(confirmed(&mut shard), [ONE]);
    let runs = ["b", "a"].map(|id| message(id, Duplicates::AsQueuesSay)).to_vec();
    publish(&mut shard, &mut journal, ONE, &[QUEUE], runs);
    assert_eq!(confirmed(&mut shard), []);
    shard.committed(journal.end);
    assert_eq!(confirmed(&mut shard), [ONE]);
}

#[test]
fn the_broker_may_move_what_it_took_before() {
    let (mut shard, mut journal) = (shard(), Journal::default());
    for duplicates in [Duplicates::AsQueuesSay, Duplicates::Keep, Duplicates::AsQueuesSay] {
        publish(&mut shard, &mut journal, ONE, &[QUEUE], vec![message("a", duplicates)]);
    }
    assert_eq!(count(&mut shard, QUEUE), 2, "a dead letter that comes back is no duplicate");
}

/// The journal is cut after each of its records, as a crash can: then all is published again.
#[test]
fn wherever_a_crash_cuts_the_log_each_queue_has_each_message_once() {
    let through = |id: &str| {
        let mut bytes = [0; 16];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        Duplicates::Drop(Identity { window: 5, id: bytes, size: 100, ttl_ms: None })
    };
    let (mut before, mut journal) = (shard(), Journal::default());
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        publish(&mut before, &mut journal, ONE, &[PLAIN, QUEUE], vec![message(id, through(id))]);
        before.committed(journal.end);
    }
    // What is copied stands in the log twice until the first is cut off.
    let copied = journal.records[journal.records.len() / 2].0;
    before.copy_forward(copied, &mut journal);
    let shortened = journal.records.iter().position(|(position, _, _)| *position >= copied).unwrap();
    let whole = journal.records.len();
    let cuts = (0..=whole).map(|end| (0, end)).chain([(shortened, whole)]);
    for (start, end) in cuts {
        let mut shard = shard();
        for (position, kind, payload) in &journal.records[start..end] {
            shard.recover(*position, Record::decode(*kind, VERSION, payload).unwrap());
        }
        shard.recovered();
        let mut log = Journal { end: journal.end, ..Journal::default() };
        for id in ids {
            publish(&mut shard, &mut log, ONE, &[PLAIN, QUEUE], vec![message(id, through(id))]);
        }
        let counts = [PLAIN, QUEUE].map(|queue| count(&mut shard, queue));
        assert_eq!(counts, [ids.len(), ids.len()], "records {start} to {end}");
    }
}
