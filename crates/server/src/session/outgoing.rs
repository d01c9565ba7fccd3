//! What a session sends to shards: gathered while a read is handled, then packed into one command per shard and kind.

use std::sync::Arc;

use broker::id::QueueId;
use broker::message::{Messages, Parts};
use broker::record::Span;
use broker::shard::{Batch, Command, Confirm, Publish};

use super::drafts::{Draft, Drafts, Traits};

/// Who publishes without confirms, and still has to live with it that a queue refuses a message.
const NOBODY: (u32, u64) = (0, 0);

/// Written bytes of deliveries that are not yet reported; a quarter of what a shard lets be unwritten.
const REPORT_BYTES: usize = 256 << 10;

/// What a message counts on its way to a shard beside its encoded bytes.
const MESSAGE_OVERHEAD: usize = 32;

/// One command for a shard.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) shard: usize,
    pub(crate) command: Command,
    /// Bytes of messages in it, for which room is needed.
    pub(crate) bytes: usize,
}

/// Where a message goes.
pub(crate) type Route = Arc<Path>;

/// Queues that a message goes to.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// Per shard, its queues there.
    pub(super) shards: Box<[(usize, Arc<[QueueId]>)]>,
    /// One of the queues may refuse it.
    pub(super) refusable: bool,
    /// Nobody will get it: an exchange only remembers it.
    pub(super) unheard: bool,
}

impl Path {
    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }
}

/// What gathers for one shard.
#[derive(Debug, Default)]
struct Parcel {
    batch: Batch,
    bytes: usize,
    settle: Vec<(QueueId, Span)>,
    credit: Vec<(QueueId, u32, Span)>,
    requeue: Vec<(QueueId, Span)>,
    fail: Vec<(QueueId, Span)>,
    reject: Vec<(QueueId, Span)>,
    /// Bytes of deliveries written to the client and not reported.
    written: usize,
    /// The shard knows this connection.
    known: bool,
}

impl Parcel {
    fn add(&mut self, draft: &Draft, messages: Messages, queues: &Arc<[QueueId]>) {
        self.known = true;
        self.bytes += messages.size() + messages.count() as usize * MESSAGE_OVERHEAD;
        let Batch { routes, runs, .. } = &mut self.batch;
        if !routes.last().is_some_and(|last| Arc::ptr_eq(last, queues)) {
            routes.push(Arc::clone(queues));
        }
        let Traits { persistent, expires, duplicates } = draft.traits;
        let (route, confirm) = (routes.len() - 1, draft.confirm);
        runs.push(Publish { messages, persistent, expires, duplicates, route, confirm });
    }

    fn confirm(&mut self, publisher: u32, number: u64) {
        match self.batch.confirms.last_mut() {
            Some(last) if last.publisher == publisher && last.last + 1 == number => last.last = number,
            _ => self.batch.confirms.push(Confirm { publisher, first: number, last: number }),
        }
    }
}

#[derive(Debug)]
pub(super) struct Outgoing {
    shards: usize,
    /// Empty until something is sent.
    parcels: Vec<Parcel>,
    drafts: Drafts,
    posts: Vec<Post>,
}

impl Outgoing {
    pub(super) fn new(shards: usize) -> Outgoing {
        Outgoing { shards, parcels: Vec::new(), drafts: Drafts::default(), posts: Vec::new() }
    }

    /// The shard that owns a queue.
    pub(super) fn shard_of(&self, queue: QueueId) -> usize {
        queue.shard(self.shards)
    }

    /// Splits queues by shard.
    pub(super) fn path(&self, queues: &[QueueId]) -> Path {
        let mut shards: Vec<(usize, Arc<[QueueId]>)> = Vec::new();
        for shard in 0..self.shards {
            let here: Arc<[QueueId]> =
                queues.iter().copied().filter(|queue| self.shard_of(*queue) == shard).collect();
            if !here.is_empty() {
                shards.push((shard, here));
            }
        }
        Path { shards: shards.into(), ..Path::default() }
    }

    /// Encodes a message. This is the one copy of it until it is delivered. With `confirm`, the publisher's number and
    /// the message's.
    pub(super) fn publish(
        &mut self,
        route: &Route,
        parts: &Parts<'_>,
        traits: Traits,
        confirm: Option<(u32, u64)>,
    ) {
        if route.refusable {
            return self.drafts.add_alone(route, parts, traits, confirm.or(Some(NOBODY)));
        }
        self.drafts.add(route, parts, traits);
        if let Some((publisher, number)) = confirm {
            for (shard, _) in &route.shards {
                self.parcel(*shard).confirm(publisher, number);
            }
        }
    }

    pub(super) fn settle(&mut self, queue: QueueId, span: Span) {
        add(&mut self.parcel_of(queue).settle, queue, span);
    }

    pub(super) fn reject(&mut self, queue: QueueId, span: Span) {
        add(&mut self.parcel_of(queue).reject, queue, span);
    }

    /// A reader of a stream is done with messages.
    pub(super) fn credit(&mut self, queue: QueueId, reader: u32, span: Span) {
        let credit = &mut self.parcel_of(queue).credit;
        let touches = |(last, of, before): &mut (QueueId, u32, Span)| {
            (*last, *of) == (queue, reader) && before.join(span)
        };
        if !credit.last_mut().is_some_and(touches) {
            credit.push((queue, reader, span));
        }
    }

    pub(super) fn requeue(&mut self, queue: QueueId, span: Span) {
        add(&mut self.parcel_of(queue).requeue, queue, span);
    }

    pub(super) fn fail(&mut self, queue: QueueId, span: Span) {
        add(&mut self.parcel_of(queue).fail, queue, span);
    }

    /// Bytes of a delivery are on their way to the client.
    pub(super) fn count_written(&mut self, shard: usize, bytes: usize) {
        self.parcel(shard).written += bytes;
    }

    /// All that was counted is written.
    pub(super) fn report_written(&mut self) {
        for (shard, parcel) in self.parcels.iter_mut().enumerate() {
            if parcel.written >= REPORT_BYTES {
                let bytes = std::mem::take(&mut parcel.written);
                self.posts.push(Post { shard, command: Command::Written(bytes), bytes: 0 });
            }
        }
    }

    /// Sends a command to the shard of a queue, after all that was published and settled before.
    pub(super) fn request(&mut self, queue: QueueId, command: Command) {
        self.send(self.shard_of(queue), command);
    }

    pub(super) fn send(&mut self, shard: usize, command: Command) {
        self.pack();
        self.parcel(shard).known = true;
        self.posts.push(Post { shard, command, bytes: 0 });
    }

    /// Sends a command to every shard that knows this connection.
    pub(super) fn send_to_known(&mut self, command: &Command) {
        self.pack();
        for shard in self.known() {
            self.posts.push(Post { shard, command: command.clone(), bytes: 0 });
        }
    }

    /// Shards that were ever sent something.
    pub(super) fn known(&self) -> Vec<usize> {
        let known = self.parcels.iter().enumerate().filter(|(_, parcel)| parcel.known);
        known.map(|(shard, _)| shard).collect()
    }

    /// Makes commands of what has gathered.
    pub(super) fn pack(&mut self) {
        self.pack_messages();
        for (shard, parcel) in self.parcels.iter_mut().enumerate() {
            if !parcel.batch.runs.is_empty() {
                let (batch, bytes) = (std::mem::take(&mut parcel.batch), std::mem::take(&mut parcel.bytes));
                self.posts.push(Post { shard, command: Command::Publish(batch), bytes });
            }
            if !parcel.settle.is_empty() {
                let settle = std::mem::take(&mut parcel.settle);
                self.posts.push(Post { shard, command: Command::Settle(settle), bytes: 0 });
            }
            if !parcel.credit.is_empty() {
                let credit = std::mem::take(&mut parcel.credit);
                self.posts.push(Post { shard, command: Command::Credit(credit), bytes: 0 });
            }
            if !parcel.requeue.is_empty() {
                let requeue = std::mem::take(&mut parcel.requeue);
                self.posts.push(Post { shard, command: Command::Requeue(requeue), bytes: 0 });
            }
            if !parcel.fail.is_empty() {
                let fail = std::mem::take(&mut parcel.fail);
                self.posts.push(Post { shard, command: Command::Fail(fail), bytes: 0 });
            }
            if !parcel.reject.is_empty() {
                let reject = std::mem::take(&mut parcel.reject);
                self.posts.push(Post { shard, command: Command::Reject(reject), bytes: 0 });
            }
        }
    }

    pub(super) fn take_posts(&mut self) -> Vec<Post> {
        std::mem::take(&mut self.posts)
    }

    fn pack_messages(&mut self) {
        let mut drafts = std::mem::take(&mut self.drafts);
        drafts.finish(|draft, messages| {
            for (shard, queues) in &draft.route.shards {
                self.parcel(*shard).add(draft, messages.clone(), queues);
            }
        });
        self.drafts = drafts;
    }

    fn parcel_of(&mut self, queue: QueueId) -> &mut Parcel {
        self.parcel(self.shard_of(queue))
    }

    fn parcel(&mut self, shard: usize) -> &mut Parcel {
        if self.parcels.is_empty() {
            self.parcels.resize_with(self.shards, Parcel::default);
        }
        &mut self.parcels[shard]
    }
}

/// Adds to what is settled, joined with what was before where they touch.
fn add(settled: &mut Vec<(QueueId, Span)>, queue: QueueId, span: Span) {
    let touches = |(last, before): &mut (QueueId, Span)| *last == queue && before.join(span);
    if !settled.last_mut().is_some_and(touches) {
        settled.push((queue, span));
    }
}
