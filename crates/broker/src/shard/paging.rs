//! What moves between memory and the segments of a disk, and who waits for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use super::{Effect, Shard};
use crate::id::{ConnectionId, QueueId};
use crate::page::{Answer, Extent, Limits, Order, Place, Run, Segment};
use crate::queue::{Queue, to_page};
use crate::record::{self, Log, Position};

#[derive(Debug, Default)]
pub(super) struct Paging {
    pub(super) limits: Limits,
    pub(super) orders: VecDeque<Order>,
    pub(super) last_token: u64,
    /// Bytes of all spills that are on their way.
    in_flight: u64,
    /// Those of queues that are gone, by their tokens: until they are answered, the pager keeps them in memory.
    abandoned: BTreeMap<u64, u64>,
    /// Queues that would spill if fewer bytes were.
    wanting: BTreeSet<QueueId>,
    /// The last of them that had its turn.
    turn: Option<QueueId>,
    /// What was in memory when all queues were last looked at, if since then it has not been less.
    looked_at: u64,
    /// Queues that hold publishers back.
    pub(super) holding: BTreeSet<QueueId>,
    /// The disk took no spill: nothing is spilled until there may be room again.
    pub(super) refused: bool,
    /// Segments of which nothing is wanted once the log has committed the record at a position.
    doomed: VecDeque<(Position, QueueId, Segment)>,
    /// Who waits for a message that is on the disk.
    gets: Vec<Get>,
    /// Messages that could not be read.
    pub(super) lost: u64,
}

/// A request for one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get {
    pub(super) queue: QueueId,
    pub(super) from: ConnectionId,
    pub(super) token: u64,
    pub(super) channel: u16,
    pub(super) no_ack: bool,
}

impl Shard {
    /// How much of its queues the shard keeps in memory. To be said before there is anything in them.
    pub fn limit_paging(&mut self, limits: Limits) {
        self.paging.limits = limits;
    }

    /// What whoever keeps the backlog on the disk is to do next.
    pub fn poll_page(&mut self) -> Option<Order> {
        self.paging.orders.pop_front()
    }

    /// The disk is behind: nothing more should be published until it has answered.
    pub fn holds_publishers(&self) -> bool {
        !self.paging.refused && !self.paging.holding.is_empty()
    }

    /// Messages that were on a disk and could not be read.
    pub fn lost(&self) -> u64 {
        self.paging.lost
    }

    /// A segment cannot be had any more, and whoever keeps it says so: what it alone holds is lost, and is settled. How many
    /// messages that are.
    pub fn give_up_segment(&mut self, id: QueueId, segment: Segment) -> u64 {
        let lost = self.queues.get_mut(&id).map_or(0, |queue| queue.give_up_segment(segment));
        self.paging.lost += lost;
        self.touch(id);
        lost
    }

    /// Messages that wait in all queues.
    pub fn ready(&self) -> u64 {
        self.queues.values().map(|queue| queue.ready_len() as u64).sum()
    }

    /// An order was carried out, or not.
    pub fn paged(&mut self, answer: Answer, log: &mut impl Log) {
        let Some(answer) = self.stream_paged(answer, log) else { return };
        match answer {
            Answer::Spilled { queue, token, extent } => self.spilled(queue, token, extent, log),
            Answer::Refused { queue, token } => {
                self.paging.refused = true;
                self.paging.forget_abandoned(token);
                if let Some(spilling) = self.queues.get_mut(&queue) {
                    self.paging.in_flight -= spilling.spill_failed(token);
                    self.touch(queue);
                }
            }
            Answer::TryAgain => {
                self.paging.refused = false;
                self.look_at_all();
            }
            Answer::Read { queue, token, runs, next } => self.paged_in(queue, token, runs, next),
        }
    }

    fn spilled(&mut self, id: QueueId, token: u64, extent: Extent, log: &mut impl Log) {
        let Shard { queues, usage, paging, .. } = self;
        paging.forget_abandoned(token);
        match queues.get_mut(&id) {
            None => paging.orders.push_back(Order::Remove { queue: id, segment: extent.segment }),
            Some(queue) => {
                let (bytes, spans) = queue.spilled(token, extent, &paging.limits, |run| usage.remove(run));
                paging.in_flight -= bytes;
                // A log that never says anything could not be told from one that was lost with all it said.
                if !spans.is_empty() || self.last_append.is_none() {
                    let (first, last) = record::append_spilled(log, &mut self.scratch, id, &extent, &spans);
                    queue.recorded(extent.segment, first);
                    self.append_at(last);
                }
                self.touch(id);
            }
        }
    }

    fn paged_in(&mut self, id: QueueId, token: u64, runs: Vec<Run>, next: Place) {
        let Shard { queues, usage, paging, .. } = self;
        let Some(queue) = queues.get_mut(&id) else { return };
        paging.lost += queue.paged_in(token, runs, next, |run| usage.add(run));
        self.serve_waiting(id);
        self.touch(id);
    }

    /// Moves what is too much of a queue to the disk, and what will soon be wanted back.
    pub(super) fn page(&mut self, id: QueueId) {
        let Shard { queues, paging, usage, now, .. } = self;
        let all = queues.len();
        let Some(queue) = queues.get_mut(&id) else { return };
        let limits = paging.limits_of(queue, usage.messages, all);
        if queue.needs_paging(&limits) || paging.holding.contains(&id) {
            let busy = !queue.consumers.is_empty() && usage.messages < limits.busy;
            paging.spill(id, queue, &limits, busy);
            paging.read(id, queue, *now);
        }
    }

    /// Looks at all queues when what is in memory is too much and has grown: some may have got nothing for long.
    pub(super) fn make_room(&mut self) {
        let Shard { paging: Paging { limits, looked_at, .. }, usage, .. } = self;
        *looked_at = usage.messages.min(*looked_at);
        if usage.messages > limits.idle && usage.messages > *looked_at + limits.idle / 4 {
            *looked_at = usage.messages;
            self.look_at_all();
        }
    }

    /// Has the next queue looked at that would spill, if it can now.
    pub(super) fn touch_next_wanting(&mut self) -> Option<QueueId> {
        let id = self.paging.next_wanting()?;
        self.touch(id);
        Some(id)
    }

    fn look_at_all(&mut self) {
        let Shard { queues, touched, paging, usage, .. } = self;
        let all = queues.len();
        for (id, queue) in queues {
            if queue.needs_paging(&paging.limits_of(queue, usage.messages, all)) {
                queue.touch(touched, *id);
            }
        }
    }

    /// Whether a request must wait for the disk; then it does.
    pub(super) fn must_wait(&mut self, get: Get) -> bool {
        let Some(queue) = self.queues.get(&get.queue) else { return false };
        let waits = !queue.closing && queue.waits_for_disk();
        if waits {
            // Known from now on, so that its end is noticed.
            self.outbox.place(get.from);
            self.paging.gets.push(get);
            self.touch(get.queue);
        }
        waits
    }

    /// Answers those who waited for a message of a queue, as far as there are some.
    pub(super) fn serve_waiting(&mut self, id: QueueId) {
        while let Some(at) = self.paging.gets.iter().position(|get| get.queue == id) {
            // What was read may have become too old, and so may what stands behind what is given out.
            self.expire(id, self.now);
            if self.queues.get(&id).is_some_and(|queue| !queue.closing && queue.waits_for_disk()) {
                return;
            }
            let get = self.paging.gets.remove(at);
            let answer = self.get(get);
            self.outbox.push(get.from, Effect::Reply(get.token, answer));
        }
    }

    /// A channel, or with `None` the whole connection, does not wait any more.
    pub(super) fn stop_waiting(&mut self, from: ConnectionId, channel: Option<u16>) {
        self.paging
            .gets
            .retain(|get| get.from != from || channel.is_some_and(|channel| channel != get.channel));
    }

    /// Nothing in a segment is wanted; when that is committed, its file can go.
    pub(super) fn doom(&mut self, id: QueueId, segment: Segment) {
        let position = self.last_append.unwrap_or(0);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.doom(segment, position);
        }
        self.paging.doomed.push_back((position, id, segment));
        self.remove_segments();
    }

    /// Has the files removed of which the log has committed that nothing is wanted.
    pub(super) fn remove_segments(&mut self) {
        let Shard { queues, paging, committed, last_append, .. } = self;
        let committed = if last_append.is_some() { *committed } else { Position::MAX };
        while let Some((_, id, segment)) =
            paging.doomed.pop_front_if(|(position, _, _)| *position < committed)
        {
            if queues.get_mut(&id).is_some_and(|queue| queue.give_up(segment, committed)) {
                paging.orders.push_back(Order::Remove { queue: id, segment });
            }
        }
    }

    pub(super) fn check_paging(&self) {
        let in_flight: u64 = self.queues.values().map(Queue::spilling_bytes).sum();
        let abandoned: u64 = self.paging.abandoned.values().sum();
        assert_eq!(self.paging.in_flight, in_flight + abandoned, "bytes of spills on their way");
        let waits = |get: &Get| self.queues.get(&get.queue).is_some_and(Queue::is_reading);
        assert!(self.paging.gets.iter().all(waits), "who waits, waits for a read");
    }
}

impl Paging {
    /// Whose turn it is of those that would spill, if there is room for more that are on their way.
    fn next_wanting(&mut self) -> Option<QueueId> {
        if self.in_flight >= self.limits.in_flight || self.refused {
            return None;
        }
        let after = (self.turn.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let next = self.wanting.range(after).next().or_else(|| self.wanting.first()).copied()?;
        self.wanting.remove(&next);
        self.turn = Some(next);
        Some(next)
    }

    /// A queue is gone: so are its segments, but for the one of a spill that is on its way.
    pub(super) fn dropped(&mut self, id: QueueId, queue: &Queue) {
        self.abandoned.extend(queue.on_its_way());
        self.wanting.remove(&id);
        self.holding.remove(&id);
        self.orders.extend(queue.segments().map(|segment| Order::Remove { queue: id, segment }));
    }

    /// The pager is done with a spill, perhaps one of a queue that is gone.
    fn forget_abandoned(&mut self, token: u64) {
        self.in_flight -= self.abandoned.remove(&token).unwrap_or(0);
    }

    /// What holds for a queue while so much is in memory of `all` queues.
    fn limits_of(&self, queue: &Queue, memory: u64, all: usize) -> Limits {
        if memory <= self.limits.idle || !queue.consumers.is_empty() {
            return self.limits;
        }
        let limits = self.limits.shared_by(all);
        // What was just read for somebody is not written again at once.
        if queue.has_backlog() { Limits { queue: self.limits.queue, ..limits } } else { limits }
    }

    /// `busy`: the queue has consumers, and its shard has room.
    fn spill(&mut self, id: QueueId, queue: &mut Queue, limits: &Limits, busy: bool) {
        self.wanting.remove(&id);
        if !self.refused && !queue.closing && !busy {
            if self.in_flight >= self.limits.in_flight {
                self.wanting.insert(id);
            } else {
                self.start_spill(id, queue, limits);
            }
        }
        let waits = queue.is_spilling() || self.wanting.contains(&id);
        if waits && queue.waiting_bytes() > self.limits.hold {
            self.holding.insert(id);
        } else {
            self.holding.remove(&id);
        }
    }

    fn start_spill(&mut self, id: QueueId, queue: &mut Queue, limits: &Limits) {
        let runs = queue.plan_spill(limits);
        if runs.is_empty() {
            return;
        }
        let bytes = runs.iter().map(|(_, run)| run.weight()).sum();
        self.last_token += 1;
        queue.spilling(self.last_token, bytes, &runs);
        self.in_flight += bytes;
        let runs = runs.into_iter().map(to_page).collect();
        self.orders.push_back(Order::Spill { queue: id, token: self.last_token, runs });
    }

    fn read(&mut self, id: QueueId, queue: &mut Queue, now: u64) {
        let wanted = !queue.consumers.is_empty()
            || queue.wants_head(now)
            || self.gets.iter().any(|get| get.queue == id);
        if !wanted || queue.closing {
            return;
        }
        self.last_token += 1;
        if let Some(extent) = queue.plan_read(&self.limits, self.last_token) {
            self.orders.push_back(Order::Read { queue: id, token: self.last_token, extent });
        }
    }
}
