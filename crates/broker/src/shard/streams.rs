//! The streams of a shard: from publishers into them, from them to readers, to segments and back.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use super::{Delivery, Effect, Reply, Request, Shard};
use crate::error::{Error, Kind, precondition};
use crate::id::{ConnectionId, QueueId};
use crate::message::Messages;
use crate::page::{Answer, Extent, Limits, Order, Place, Run as Page, Segment};
use crate::queue::{Run, Subscription};
use crate::record::{Log, Position, Span};
use crate::stream::record::{self, Record};
use crate::stream::{Bounds, Options, Reader, ReaderPlace, Reading, Source, Stream, not_supported};
use crate::topology::Settings;

/// Bytes of messages that all streams of a shard keep in memory, about. Nobody takes messages out of a stream, so what they
/// keep must not grow with their number.
const MEMORY: u64 = 64 << 20;
/// Each keeps this much, however many there are.
const MEMORY_MIN: u64 = 32 << 10;

#[derive(Debug, Default)]
pub(super) struct Streams {
    all: FxHashMap<QueueId, Stream>,
    /// Streams to look at when the round ends.
    touched: Vec<QueueId>,
    /// Streams with messages that are not committed.
    uncommitted: BTreeSet<QueueId>,
    /// When the age of a stream is to be looked at.
    due: BTreeSet<(u64, QueueId)>,
    now_ms: u64,
    /// Bytes of all appends that are on their way.
    in_flight: u64,
    /// Streams that would append if fewer bytes were.
    wanting: BTreeSet<QueueId>,
    /// Who waits for the read with a token.
    reads: FxHashMap<u64, (QueueId, ReaderPlace, u32)>,
    /// Segments of which nothing is wanted once the log has committed the record at a position.
    doomed: VecDeque<(Position, QueueId, Segment)>,
    /// Bytes of windows that were read and not delivered.
    window_bytes: u64,
}

impl Streams {
    pub(super) fn open(&mut self, id: QueueId, options: Options) {
        self.all.insert(id, Stream::new(options));
    }

    /// The policies for a stream say something new.
    pub(super) fn configure(&mut self, id: QueueId, settings: &Settings) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.options.configure(settings);
            self.touch(id);
        }
    }

    /// It is so late: streams whose age is to be looked at are.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some((due_ms, id)) = self.due.first().copied().filter(|(due, _)| *due <= now_ms) {
            self.due.remove(&(due_ms, id));
            self.touch(id);
        }
    }

    /// When the age of a stream is to be looked at next.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    pub(super) fn touch(&mut self, id: QueueId) {
        if let Some(stream) = self.all.get_mut(&id).filter(|stream| !stream.touched) {
            stream.touched = true;
            self.touched.push(id);
        }
    }

    /// Messages that end here are in the log up to a position.
    pub(super) fn written(&mut self, id: QueueId, position: Position, end: u64) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.written(position, end);
            self.uncommitted.insert(id);
        }
    }

    pub(super) fn recovered(&mut self) {
        self.all.values_mut().for_each(Stream::recovered);
        // Their age is looked at as soon as it is known what time it is.
        let ids: Vec<QueueId> = self.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.touch(id));
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = (QueueId, Segment)> {
        self.all.iter().flat_map(|(id, stream)| stream.segments().map(|segment| (*id, segment)))
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.all.values().flat_map(Stream::runs).map(|(_, run)| run)
    }

    pub(super) fn numbered_runs(&self) -> impl Iterator<Item = (QueueId, (u64, &Run))> {
        self.all.iter().flat_map(|(id, stream)| stream.runs().map(|run| (*id, run)))
    }

    /// How much of each stream stays in memory, as there are so many.
    fn limits(&self, limits: Limits) -> Limits {
        let share = (MEMORY / (self.all.len() as u64).max(1)).max(MEMORY_MIN);
        Limits { queue: limits.queue.min(share), spill: limits.spill.min(share / 2), ..limits }
    }

    /// The last record that readers wait for.
    pub(super) fn awaited(&self) -> Option<Position> {
        let waiting = self.uncommitted.iter().filter_map(|id| self.all.get(id));
        waiting.filter(|stream| !stream.readers.is_empty()).filter_map(Stream::awaited).max()
    }

    pub(super) fn window_bytes(&self) -> u64 {
        self.window_bytes
    }
}

/// From publishers.
impl Shard {
    pub(super) fn enqueue_in_stream(
        &mut self,
        messages: &Messages,
        id: QueueId,
        log: &mut impl Log,
    ) -> Option<Position> {
        let first = self.take_offsets(id, messages.count(), log)?;
        let written = self.write(&[(id, first)], messages, log);
        let stored = Some(written.stored(1));
        self.place_in_stream(id, first, Run::new(messages.clone(), stored));
        self.streams.written(id, written.last, first + u64::from(messages.count()));
        Some(written.last)
    }

    /// The offset of the first of so many messages, if there is such a stream; the log hears what time it is.
    pub(super) fn take_offsets(&mut self, id: QueueId, count: u32, log: &mut impl Log) -> Option<u64> {
        let now_ms = self.streams.now_ms;
        let stream = self.streams.all.get_mut(&id)?;
        let first = stream.take_offsets(count);
        if let Some(time_ms) = stream.stamp(first, now_ms) {
            let position = record::append_stamped(log, id, &[(first, time_ms)]);
            stream.recorded(position);
            self.append_at(position);
        }
        Some(first)
    }

    pub(super) fn place_in_stream(&mut self, id: QueueId, first: u64, run: Run) {
        let Some(stream) = self.streams.all.get_mut(&id) else { return };
        self.usage.add(&run);
        if let Err(unwanted) = stream.enqueue(first, run) {
            self.usage.remove(&unwanted);
        }
        self.streams.touch(id);
    }
}

/// To readers.
impl Shard {
    /// Where a stream begins and ends, if there is one.
    pub fn stream_bounds(&self, id: QueueId) -> Option<Bounds> {
        self.streams.all.get(&id).map(Stream::bounds)
    }

    /// Answers a request if it is about a stream; else gives it back.
    pub(super) fn stream_request(
        &mut self,
        from: ConnectionId,
        token: u64,
        request: Request,
    ) -> Option<Request> {
        let id = match &request {
            Request::Consume(id, _) | Request::Read(id, ..) | Request::Cancel(id, _) => *id,
            Request::Get { queue: id, .. } | Request::Delete { queue: id, .. } => *id,
            Request::Purge(id) | Request::Inspect(id) => *id,
            Request::Browse(_) | Request::CallOff { .. } | Request::Sync => return Some(request),
        };
        let Some(stream) = self.streams.all.get_mut(&id) else { return Some(request) };
        let label = &stream.options.label;
        let answer = match request {
            _ if stream.closing => Err(Error::new(Kind::NotFound, format!("no {label}"))),
            Request::Consume(..) => Err(precondition(format!("{label} is a stream: its consumers read it"))),
            Request::Read(_, subscription, reading) => self.start_reading(from, id, subscription, *reading),
            Request::Cancel(_, number) => {
                let connection = self.outbox.find(from);
                self.remove_readers(id, |reader| {
                    Some(reader.connection) == connection && reader.subscription.consumer == number
                });
                Ok(Reply::Cancelled)
            }
            Request::Get { .. } => Err(not_supported("basic.get", label)),
            Request::Purge(_) => Err(not_supported("queue.purge", label)),
            Request::Delete { if_unused, .. } if if_unused && !stream.readers.is_empty() => {
                Err(precondition(format!("{label} in use")))
            }
            Request::Delete { if_empty, .. } if if_empty && stream.len() > 0 => {
                Err(precondition(format!("{label} not empty")))
            }
            Request::Delete { .. } => {
                stream.closing = true;
                Ok(Reply::Deletable(stream.len()))
            }
            Request::Inspect(_) => Ok(Reply::Counts { ready: stream.len(), consumers: stream.readers.len() }),
            Request::Browse(_) | Request::CallOff { .. } | Request::Sync => {
                unreachable!("given back above")
            }
        };
        self.outbox.push(from, Effect::Reply(token, answer));
        None
    }

    fn start_reading(
        &mut self,
        from: ConnectionId,
        id: QueueId,
        subscription: Subscription,
        reading: Reading,
    ) -> Result<Reply, Error> {
        let connection = self.outbox.place(from);
        let now_ms = self.streams.now_ms;
        let Some(stream) = self.streams.all.get_mut(&id) else { return Ok(Reply::Consuming) };
        let label = &stream.options.label;
        if subscription.prefetch == 0 {
            return Err(precondition(format!("consumer prefetch count is not set for '{label}'")));
        }
        if subscription.no_ack {
            return Err(not_supported("automatic acknowledgement", label));
        }
        let begin = stream.begin(&reading, now_ms);
        stream.readers.insert(Reader::new(connection, subscription, reading, begin));
        self.takes_part(connection, id);
        self.streams.touch(id);
        Ok(Reply::Consuming)
    }

    /// A channel, or with `None` the whole connection, reads no more.
    pub(super) fn stop_reading(&mut self, id: QueueId, connection: usize, channel: Option<u16>) {
        self.remove_readers(id, |reader| {
            reader.connection == connection && channel.is_none_or(|it| it == reader.subscription.channel)
        });
    }

    fn remove_readers(&mut self, id: QueueId, of_it: impl Fn(&Reader) -> bool) {
        let Streams { all, window_bytes, .. } = &mut self.streams;
        let Some(stream) = all.get_mut(&id) else { return };
        stream.readers.retain(|_, reader| {
            let goes = of_it(reader);
            if goes {
                *window_bytes -= reader.ready_bytes() as u64;
            }
            !goes
        });
    }

    /// Readers are done with messages.
    pub(super) fn credit(&mut self, from: ConnectionId, messages: &[(QueueId, u32, Span)]) {
        let Some(connection) = self.outbox.find(from) else { return };
        for (id, number, span) in messages {
            let Some(stream) = self.streams.all.get_mut(id) else { continue };
            let of_it =
                |reader: &Reader| reader.connection == connection && reader.subscription.consumer == *number;
            let Some((_, reader)) = stream.readers.iter_mut().find(|(_, reader)| of_it(reader)) else {
                continue;
            };
            reader.settle(*span);
            if let Some(name) = reader.reading.tracked.clone() {
                let settled = reader.settled();
                stream.track(&name, settled);
            }
            self.streams.touch(*id);
        }
    }

    /// Ends a round for streams: makes deliveries, logs how far named readers are, and moves what is to be moved.
    pub(super) fn finish_streams(&mut self, log: &mut impl Log) {
        if self.streams.touched.is_empty() {
            return;
        }
        self.log_tracked(log);
        let mut touched = std::mem::take(&mut self.streams.touched);
        for id in touched.drain(..) {
            if let Some(stream) = self.streams.all.get_mut(&id) {
                stream.touched = false;
                self.serve_readers(id);
                self.retain(id, log);
                self.append_stream(id);
            }
        }
        self.streams.touched = touched;
    }

    /// Has the log hear of what named readers have settled.
    pub(super) fn log_tracked(&mut self, log: &mut impl Log) {
        for id in &self.streams.touched {
            let Some(stream) = self.streams.all.get_mut(id) else { continue };
            let tracked = stream.take_tracked();
            if !tracked.is_empty() {
                let position = record::append_tracked(log, *id, &tracked);
                stream.recorded(position);
                self.last_append = Some(position);
            }
        }
    }

    fn serve_readers(&mut self, id: QueueId) {
        let Shard { streams, outbox, paging, .. } = self;
        let Streams { all, window_bytes, reads, .. } = streams;
        let Some(stream) = all.get_mut(&id).filter(|stream| !stream.closing) else { return };
        let mut readers = std::mem::take(&mut stream.readers);
        for (place, reader) in &mut readers {
            let before = reader.ready_bytes() as u64;
            while outbox.is_writable(reader.connection) && reader.credit() > 0 {
                if let Some((first, messages)) = reader.take(stream.bounds().start) {
                    let consumer = reader.subscription.consumer;
                    let delivery =
                        Delivery { consumer, queue: id, first, redelivered: false, returns: 0, messages };
                    outbox.push_at(reader.connection, Effect::Deliver(delivery));
                } else if !fetch(stream, reader) {
                    break;
                }
            }
            let reads_on = outbox.is_writable(reader.connection) && reader.credit() > 0;
            if reads_on
                && reader.wants_more()
                && let (offset, Source::Disk(extent)) =
                    stream.find(reader.next(), reader.reading.wanted.as_ref())
            {
                reader.skip_to(offset);
                paging.last_token += 1;
                let extent = reader.plan_read(paging.last_token, extent);
                reads.insert(paging.last_token, (id, place, reader.subscription.consumer));
                paging.orders.push_back(Order::Read { queue: id, token: paging.last_token, extent });
            }
            *window_bytes = *window_bytes + reader.ready_bytes() as u64 - before;
        }
        stream.readers = readers;
    }
}

/// Gives a reader what is next in memory; false when that is not in memory, or nowhere.
fn fetch(stream: &Stream, reader: &mut Reader) -> bool {
    if reader.is_reading() {
        return false;
    }
    let (offset, source) = stream.find(reader.next(), reader.reading.wanted.as_ref());
    match source {
        Source::Memory(first, messages) => {
            reader.fetch(first, messages);
            true
        }
        Source::Disk(_) | Source::Nowhere => {
            reader.skip_to(offset.min(stream.bounds().next));
            false
        }
    }
}

/// To segments, back, and away.
impl Shard {
    /// Takes an answer about a stream; else gives it back.
    pub(super) fn stream_paged(&mut self, answer: Answer, log: &mut impl Log) -> Option<Answer> {
        match answer {
            Answer::Spilled { queue, token, extent } if self.streams.all.contains_key(&queue) => {
                self.appended(queue, token, extent, log);
            }
            Answer::Refused { queue, token } if self.streams.all.contains_key(&queue) => {
                self.paging.refused = true;
                let stream = self.streams.all.get_mut(&queue)?;
                self.streams.in_flight -= stream.append_failed(token);
                self.streams.touch(queue);
            }
            Answer::Read { queue, token, runs, next } if self.streams.reads.contains_key(&token) => {
                self.read_ahead(queue, token, runs, next);
            }
            Answer::TryAgain => {
                let ids: Vec<QueueId> = self.streams.all.keys().copied().collect();
                ids.into_iter().for_each(|id| self.streams.touch(id));
                return Some(answer);
            }
            answer => return Some(answer),
        }
        None
    }

    fn append_stream(&mut self, id: QueueId) {
        let Shard { streams, usage, paging, .. } = self;
        let limits = streams.limits(paging.limits);
        let Some(stream) = streams.all.get_mut(&id).filter(|stream| !stream.closing) else { return };
        stream.shrink_cache(&limits, |run| usage.remove(run));
        streams.wanting.remove(&id);
        if streams.in_flight >= paging.limits.in_flight {
            streams.wanting.insert(id);
        } else if !paging.refused
            && let Some((runs, begins_segment)) = stream.plan_append(&limits)
        {
            let bytes = runs.iter().map(|(_, run)| run.weight()).sum();
            paging.last_token += 1;
            streams.in_flight += bytes;
            let runs = stream.appending(paging.last_token, bytes, runs);
            let order = Order::Append { queue: id, token: paging.last_token, runs, begins_segment };
            paging.orders.push_back(order);
        }
        let waits = stream.appending_bytes() > 0 || streams.wanting.contains(&id);
        if waits && stream.waiting_bytes() > paging.limits.hold {
            paging.holding.insert(id);
        } else {
            paging.holding.remove(&id);
        }
    }

    fn appended(&mut self, id: QueueId, token: u64, extent: Extent, log: &mut impl Log) {
        let Shard { streams, usage, paging, .. } = self;
        let limits = streams.limits(paging.limits);
        let Some(stream) = streams.all.get_mut(&id) else { return };
        let Some((piece, bytes)) = stream.appended(token, extent) else { return };
        streams.in_flight -= bytes;
        let position = record::append_appended(log, id, extent.segment, std::slice::from_ref(&piece));
        stream.add_piece(extent.segment, piece, position, |run, leaves| {
            if leaves { usage.remove(run) } else { usage.add(run) }
        });
        stream.shrink_cache(&limits, |run| usage.remove(run));
        stream.forget_stamps();
        self.last_append = Some(position);
        self.streams.touch(id);
        std::mem::take(&mut self.streams.wanting).into_iter().for_each(|id| self.streams.touch(id));
    }

    fn read_ahead(&mut self, id: QueueId, token: u64, runs: Vec<Page>, next: Place) {
        let Some((_, place, number)) = self.streams.reads.remove(&token) else { return };
        let Streams { all, window_bytes, .. } = &mut self.streams;
        let Some(stream) = all.get_mut(&id) else { return };
        let time_of = |run: &Page| stream.time_base(run.first).saturating_add(run.flags.into());
        let runs: Vec<(u64, Page)> = runs.into_iter().map(|run| (time_of(&run), run)).collect();
        let start = stream.bounds().start;
        let Some(reader) = stream.readers.get_mut(place).filter(|it| it.subscription.consumer == number)
        else {
            return;
        };
        let before = reader.ready_bytes() as u64;
        self.paging.lost += reader.paged_in(token, runs, next, start);
        *window_bytes = *window_bytes + reader.ready_bytes() as u64 - before;
        self.streams.touch(id);
    }

    /// Takes away what is not to be kept, and has the log hear of it.
    fn retain(&mut self, id: QueueId, log: &mut impl Log) {
        let Shard { streams, usage, .. } = self;
        let Some(stream) = streams.all.get_mut(&id).filter(|stream| !stream.closing) else { return };
        let due_before = stream.due_ms.map(|due_ms| (due_ms, id));
        let trimmed = stream.retain(streams.now_ms);
        due_before.map(|due| streams.due.remove(&due));
        streams.due.extend(stream.due_ms.map(|due_ms| (due_ms, id)));
        if trimmed.is_empty() {
            return;
        }
        trimmed.runs.iter().for_each(|run| usage.remove(run));
        stream.drop_below_start(|run| usage.remove(run));
        stream.forget_stamps();
        let position = record::append_bounds(log, id, stream.bounds());
        stream.recorded(position);
        self.last_append = Some(position);
        let doomed = trimmed.segments.into_iter().map(|segment| (position, id, segment));
        self.streams.doomed.extend(doomed);
    }

    /// The log has committed more: readers may see it, and what was trimmed may go.
    pub(super) fn streams_committed(&mut self) {
        let committed = self.committed;
        let Streams { all, uncommitted, doomed, .. } = &mut self.streams;
        let mut news = Vec::new();
        uncommitted.retain(|id| {
            let Some(stream) = all.get_mut(id) else { return false };
            if stream.committed(committed) {
                news.push(*id);
            }
            stream.has_uncommitted()
        });
        while let Some((_, queue, segment)) = doomed.pop_front_if(|(position, ..)| *position < committed) {
            self.paging.orders.push_back(Order::Remove { queue, segment });
        }
        news.into_iter().for_each(|id| self.streams.touch(id));
    }

    /// A stream is deleted: its segments go, but for the one of an append that is on its way.
    pub(super) fn drop_stream(&mut self, id: QueueId) {
        let Some(stream) = self.streams.all.remove(&id) else { return };
        stream.runs().for_each(|(_, run)| self.usage.remove(run));
        self.streams.in_flight -= stream.appending_bytes();
        self.streams.wanting.remove(&id);
        self.paging.holding.remove(&id);
        self.streams.due.retain(|(_, other)| *other != id);
        let remove = |segment| Order::Remove { queue: id, segment };
        self.paging.orders.extend(stream.segments().map(remove));
        for (_, reader) in &stream.readers {
            self.streams.window_bytes -= reader.ready_bytes() as u64;
            self.outbox.push_at(reader.connection, Effect::Cancelled(reader.subscription.consumer));
        }
    }
}

/// After a restart, and while the log is shortened.
impl Shard {
    pub(super) fn recover_stream(&mut self, position: Position, record: Record) {
        let (Record::Stamped { stream: id, .. }
        | Record::Appended { stream: id, .. }
        | Record::Bounds { stream: id, .. }
        | Record::Tracked { stream: id, .. }) = &record;
        let Shard { streams, usage, paging, .. } = self;
        let limits = streams.limits(paging.limits);
        let Some(stream) = streams.all.get_mut(id) else { return };
        match record {
            Record::Appended { segment, pieces, .. } => {
                for piece in pieces {
                    stream.add_piece(segment, piece, position, |run, leaves| {
                        if leaves { usage.remove(run) } else { usage.add(run) }
                    });
                }
                stream.shrink_cache(&limits, |run| usage.remove(run));
                return;
            }
            Record::Stamped { stamps, .. } => {
                stamps.into_iter().for_each(|(first, time_ms)| stream.recover_stamp(first, time_ms));
            }
            Record::Bounds { bounds, .. } => stream.recover_bounds(bounds, |run| usage.remove(run)),
            Record::Tracked { offsets, .. } => {
                offsets.iter().for_each(|(name, offset)| stream.track(name, *offset));
                // The log knows.
                stream.take_tracked();
            }
        }
        stream.recorded(position);
    }

    pub(super) fn forget_in_stream(&mut self, id: QueueId, span: Span) {
        if let Some(stream) = self.streams.all.get_mut(&id) {
            stream.forget(span, |run| self.usage.remove(run));
        }
    }

    /// Copies what the log holds of streams before `end`.
    pub(super) fn copy_streams<L: Log>(
        &mut self,
        end: Position,
        log: &mut L,
        copy: impl Fn(&mut Shard, (QueueId, u64), &mut Run, &mut L),
    ) {
        let mut all = std::mem::take(&mut self.streams.all);
        for (id, stream) in &mut all {
            if let Some(state) = stream.state_before(end) {
                let first = record::append_bounds(log, *id, state.bounds);
                let mut last = first;
                if !state.stamps.is_empty() {
                    last = record::append_stamped(log, *id, &state.stamps);
                }
                if !state.tracked.is_empty() {
                    last = record::append_tracked(log, *id, &state.tracked);
                }
                stream.recorded_anew(first);
                self.append_at(last);
            }
            stream.runs_mut().for_each(|(first, run)| copy(self, (*id, first), run, log));
            for (segment, pieces) in stream.segments_before(end) {
                let position = record::append_appended(log, *id, segment, &pieces);
                stream.segment_recorded_anew(segment, position);
                self.append_at(position);
            }
        }
        self.streams.all = all;
    }

    /// Panics where an invariant does not hold, or where a reader is stuck. Between rounds.
    pub(super) fn check_streams(&self) {
        let Streams { all, in_flight, window_bytes, touched, .. } = &self.streams;
        assert_eq!(*in_flight, all.values().map(Stream::appending_bytes).sum::<u64>(), "bytes of appends");
        let windows = all.values().flat_map(|stream| stream.readers.iter()).map(|(_, it)| it.ready_bytes());
        assert_eq!(*window_bytes, windows.sum::<usize>() as u64, "bytes of windows");
        for (id, stream) in all {
            stream.check();
            let looked_at = stream.closing || touched.contains(id);
            for (_, reader) in stream.readers.iter().filter(|_| !looked_at) {
                let free = reader.credit() > 0 && self.outbox.is_writable(reader.connection);
                let (_, source) = stream.find(reader.next(), reader.reading.wanted.as_ref());
                let there = reader.has_ready() || !matches!(source, Source::Nowhere);
                let stuck = free && there && !reader.is_reading();
                assert!(!stuck, "{}: a reader waits though there is more", stream.options.label);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_streams_keep_in_memory_does_not_grow_with_their_number() {
        let mut streams = Streams::default();
        for (count, kept) in [(1, 4 << 20), (16, 4 << 20), (256, 256 << 10), (4096, MEMORY_MIN)] {
            (0..count).for_each(|id| streams.open(QueueId(id), Options::new(String::new())));
            let limits = streams.limits(Limits::default());
            assert_eq!((limits.queue, limits.spill), (kept, kept / 2), "{count} streams");
        }
    }
}
