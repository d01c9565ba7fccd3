//! What a session sends to shards: gathered while a read is handled, then packed into one command per shard and kind.

use std::sync::Arc;

use broker::id::QueueId;
use broker::message::{Message, Parts, Shape};
use broker::shard::{Batch, Command, Publish};
use bytes::BytesMut;

/// Written bytes of deliveries that are not yet reported; a quarter of what a shard lets be unwritten.
const REPORT_BYTES: usize = 256 << 10;

/// What a message counts on its way to a shard beside its encoded bytes.
const MESSAGE_OVERHEAD: usize = 128;

/// Places for messages that a session keeps between reads.
const IDLE_DRAFTS_MAX: usize = 64;

/// One command for a shard.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) shard: usize,
    pub(crate) command: Command,
    /// Bytes of messages in it, for which room is needed.
    pub(crate) bytes: usize,
}

/// Where a message goes: per shard, its queues there.
pub(crate) type Route = Arc<[(usize, Arc<[QueueId]>)]>;

/// A message that is encoded in the buffer.
#[derive(Clone, Copy, Debug)]
struct Draft {
    len: usize,
    shape: Shape,
    /// Place in `Outgoing::routes`.
    route: usize,
    persistent: bool,
    confirm: Option<(u32, u64)>,
}

/// What gathers for one shard.
#[derive(Debug, Default)]
struct Parcel {
    batch: Batch,
    bytes: usize,
    settle: Vec<(QueueId, u64)>,
    requeue: Vec<(QueueId, u64)>,
    /// Bytes of deliveries written to the client and not reported.
    written: usize,
    /// The shard knows this connection.
    known: bool,
}

impl Parcel {
    fn add(&mut self, message: Message, queues: &Arc<[QueueId]>, draft: Draft, expected: usize) {
        self.known = true;
        self.bytes += draft.len + MESSAGE_OVERHEAD;
        let Batch { routes, messages } = &mut self.batch;
        if !routes.last().is_some_and(|last| Arc::ptr_eq(last, queues)) {
            routes.push(Arc::clone(queues));
        }
        if messages.capacity() == 0 {
            messages.reserve(expected);
        }
        let Draft { persistent, confirm, .. } = draft;
        messages.push(Publish { message, persistent, route: routes.len() - 1, confirm });
    }
}

#[derive(Debug)]
pub(super) struct Outgoing {
    shards: usize,
    /// Empty until something is sent.
    parcels: Vec<Parcel>,
    buffer: BytesMut,
    /// How large the buffer became in the last round.
    size_hint: usize,
    drafts: Vec<Draft>,
    routes: Vec<Route>,
    posts: Vec<Post>,
}

impl Outgoing {
    pub(super) fn new(shards: usize) -> Outgoing {
        let (buffer, drafts) = (BytesMut::new(), Vec::new());
        Outgoing {
            shards,
            parcels: Vec::new(),
            size_hint: 0,
            buffer,
            drafts,
            routes: Vec::new(),
            posts: Vec::new(),
        }
    }

    /// The shard that owns a queue.
    pub(super) fn shard_of(&self, queue: QueueId) -> usize {
        queue.shard(self.shards)
    }

    /// Splits queues by shard.
    pub(super) fn route(&self, queues: &[QueueId]) -> Route {
        let mut route: Vec<(usize, Arc<[QueueId]>)> = Vec::new();
        for shard in 0..self.shards {
            let here: Arc<[QueueId]> =
                queues.iter().copied().filter(|queue| self.shard_of(*queue) == shard).collect();
            if !here.is_empty() {
                route.push((shard, here));
            }
        }
        route.into()
    }

    /// Encodes a message. This is the one copy of it until it is delivered.
    pub(super) fn publish(
        &mut self,
        route: &Route,
        parts: &Parts<'_>,
        persistent: bool,
        confirm: Option<(u32, u64)>,
    ) {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(self.size_hint.max(parts.encoded_len()));
        }
        let shape = parts.encode(&mut self.buffer);
        if !self.routes.last().is_some_and(|last| Arc::ptr_eq(last, route)) {
            self.routes.push(Arc::clone(route));
        }
        let (len, route) = (parts.encoded_len(), self.routes.len() - 1);
        self.drafts.push(Draft { len, shape, route, persistent, confirm });
    }

    pub(super) fn settle(&mut self, queue: QueueId, sequence: u64) {
        self.parcel_of(queue).settle.push((queue, sequence));
    }

    pub(super) fn requeue(&mut self, queue: QueueId, sequence: u64) {
        self.parcel_of(queue).requeue.push((queue, sequence));
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
            if !parcel.batch.messages.is_empty() {
                let (batch, bytes) = (std::mem::take(&mut parcel.batch), std::mem::take(&mut parcel.bytes));
                self.posts.push(Post { shard, command: Command::Publish(batch), bytes });
            }
            if !parcel.settle.is_empty() {
                let settle = std::mem::take(&mut parcel.settle);
                self.posts.push(Post { shard, command: Command::Settle(settle), bytes: 0 });
            }
            if !parcel.requeue.is_empty() {
                let requeue = std::mem::take(&mut parcel.requeue);
                self.posts.push(Post { shard, command: Command::Requeue(requeue), bytes: 0 });
            }
        }
    }

    pub(super) fn take_posts(&mut self) -> Vec<Post> {
        std::mem::take(&mut self.posts)
    }

    fn pack_messages(&mut self) {
        if self.drafts.is_empty() {
            return;
        }
        self.size_hint = self.buffer.len();
        // The whole buffer goes, so that the session and the shards do not count references to the same one.
        let mut bytes = std::mem::take(&mut self.buffer).freeze();
        let mut drafts = std::mem::take(&mut self.drafts);
        let routes = std::mem::take(&mut self.routes);
        let count = drafts.len();
        for draft in drafts.drain(..) {
            let message = Message::encoded(bytes.split_to(draft.len), draft.shape);
            if let [(shard, queues)] = &*routes[draft.route] {
                self.parcel(*shard).add(message, queues, draft, count);
                continue;
            }
            for (shard, queues) in &*routes[draft.route] {
                self.parcel(*shard).add(message.clone(), queues, draft, count);
            }
        }
        drafts.shrink_to(IDLE_DRAFTS_MAX);
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
