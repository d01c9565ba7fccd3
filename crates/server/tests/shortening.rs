//! A journal whose messages are all acked stays short, whatever their sizes.

use std::path::Path;
use std::sync::Arc;

use broker::id::{ConnectionId, QueueId};
use broker::message::Parts;
use broker::queue::Options;
use broker::shard::{Batch, Command, Confirm, Publish, Request};
use broker::topology::Duplicates;
use server::ledger::{Budget, Ledger, Pending, Recovery};
use store::Files;
use store::sim::SimDisk;

const QUEUE: QueueId = QueueId(1);
const CLIENT: ConnectionId = ConnectionId(1);
const FILE_SIZE: u64 = 4096;

struct Broker {
    ledger: Ledger,
    files: Files<SimDisk>,
    end: u64,
}

impl Broker {
    fn start() -> Broker {
        let mut recovery = Recovery::default();
        recovery.open(
            QUEUE,
            Options {
                label: "queue 'q'".to_owned(),
                durable: true,
                auto_delete: false,
                settings: broker::topology::Settings::default(),
            },
        );
        let options = store::Options {
            file_size: FILE_SIZE,
            zero_ahead_min: 512,
            zero_ahead_max: 512,
            ..Default::default()
        };
        let opened = Files::open(SimDisk::new(), Path::new("/journal"), options, &mut |record| {
            recovery.replay(&record)
        });
        let (files, report) = opened.expect("an empty disk");
        let budget = Budget { journal_size: 4 * FILE_SIZE, step: 2 * FILE_SIZE };
        Broker { ledger: recovery.finish(files.oldest(), report.next, budget), files, end: 0 }
    }

    /// Publishes a message with a body of this size, takes it without ack, and syncs.
    fn pass_through(&mut self, size: usize) {
        let parts = Parts { route: b"\0\x01q", properties: &[0, 0], body: &vec![7; size] };
        let publish = Publish {
            messages: parts.to_messages(),
            persistent: true,
            expires: false,
            duplicates: Duplicates::default(),
            route: 0,
            confirm: None,
        };
        let confirms = vec![Confirm { publisher: 1, first: 1, last: 1 }];
        let batch = Batch { routes: vec![Arc::from([QUEUE])], runs: vec![publish], confirms };
        self.ledger.handle(CLIENT, Command::Publish(batch));
        let get = Request::Get { queue: QUEUE, channel: 1, no_ack: true };
        self.ledger.handle(CLIENT, Command::Request(1, get));
        let pending = self.ledger.finish_round().expect("a message was published");
        self.commit(pending);
        while self.ledger.poll_effects().is_some() {}
    }

    fn commit(&mut self, pending: Pending) {
        let mut next = Some(pending);
        while let Some(Pending { round, .. }) = next {
            self.files.write(&round).expect("a disk without faults");
            self.end = round.end().0;
            let synced = self.files.sync().expect("a disk without faults");
            let (forget, pending) = self.ledger.synced(synced, self.files.oldest(), Vec::new());
            if let Some(before) = forget {
                self.files.forget(before).expect("a disk without faults");
            }
            next = pending;
        }
    }

    fn length(&self) -> u64 {
        self.end - self.files.oldest().0
    }
}

#[test]
fn a_journal_of_acked_messages_stays_short() {
    let mut broker = Broker::start();
    for _ in 0..2000 {
        broker.pass_through(100);
    }
    let length = broker.length();
    assert!(length <= 6 * FILE_SIZE, "{length} bytes of journal and nothing in the queue");
}

/// A round is never split, so one huge message makes a huge file. It goes like any other.
#[test]
fn a_file_that_one_huge_message_blew_up_is_forgotten_too() {
    let mut broker = Broker::start();
    for _ in 0..3 {
        broker.pass_through(3 * usize::try_from(FILE_SIZE).expect("small"));
        for _ in 0..2000 {
            broker.pass_through(100);
        }
        let length = broker.length();
        assert!(length <= 6 * FILE_SIZE, "{length} bytes of journal and nothing in the queue");
    }
}
