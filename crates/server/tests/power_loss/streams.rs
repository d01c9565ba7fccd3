//! Streams on a disk that loses power: what is confirmed stays, what retention took stays away, and at no offset does
//! anybody ever see two different messages.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amqp::properties::Properties;
use amqp::table::TableBuilder;
use broker::id::{ConnectionId, QueueId};
use broker::message::{Messages, Parts};
use broker::page::{Answer, Limits, Order as PageOrder};
use broker::queue::{Options, Subscription};
use broker::record::Span;
use broker::shard::{Batch, Command, Confirm, Delivery, Effect, Publish, Request};
use broker::stream::{self, Reading, Retention, Start, Wanted};
use broker::window::Window;
use server::ledger::{Budget, Ledger, Pending, Recovery};
use server::pager::{Journal, Pages};
use store::sim::{Fault, Random, SimDisk};
use store::{Disk, Files, Lsn, Round};

const DIR: &str = "/journal";
const SEGMENTS: &str = "/segments";
/// A queue that shares records with the streams.
const QUEUE: QueueId = QueueId(9);
const STREAMS: [QueueId; 2] = [QueueId(1), QueueId(2)];
const CLIENT: ConnectionId = ConnectionId(1);
const INSPECTOR: ConnectionId = ConnectionId(2);
/// The name under which the server keeps an offset.
const NAME: &str = "me";

/// What happened, over all seeds: what never was in danger proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lives: u64,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    pub(crate) appended: u64,
    pub(crate) windows: u64,
    pub(crate) trimmed: u64,
    pub(crate) removed: u64,
    pub(crate) shortened: u64,
    pub(crate) tracked: u64,
    pub(crate) recovered: u64,
    /// Confirmed messages that are not there, and messages that retention had taken for good.
    pub(crate) lost: u64,
    pub(crate) resurrected: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.lives += other.lives;
        self.published += other.published;
        self.confirmed += other.confirmed;
        self.delivered += other.delivered;
        self.appended += other.appended;
        self.windows += other.windows;
        self.trimmed += other.trimmed;
        self.removed += other.removed;
        self.shortened += other.shortened;
        self.tracked += other.tracked;
        self.recovered += other.recovered;
        self.lost += other.lost;
        self.resurrected += other.resurrected;
    }
}

/// A message at its offset.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    time_ms: u64,
    confirmed: bool,
    /// Where the round with its record ends, once there is such a round.
    logged: Option<Lsn>,
}

/// What must be in a stream.
#[derive(Debug, Default)]
struct Model {
    entries: Vec<Entry>,
    start: u64,
    /// Where the round ends in which the stream was trimmed up to an offset.
    trims: Vec<(Option<Lsn>, u64)>,
    /// The same of what the named reader had settled: the server keeps an offset between these two.
    tracked: Vec<(Option<Lsn>, u64, u64)>,
}

/// A reader of the client.
#[derive(Debug)]
struct Reader {
    stream: QueueId,
    next: Option<u64>,
    wanted: Option<Wanted>,
    named: bool,
    /// Offsets that were not settled.
    held: VecDeque<u64>,
}

enum Order {
    Write(Round, bool),
    Forget(Lsn),
}

struct Report {
    synced: Lsn,
    oldest: Lsn,
    buffers: Vec<Vec<u8>>,
}

pub(crate) struct World {
    random: Random,
    pub(crate) counts: Counts,
    disk: SimDisk,
    options: store::Options,
    budget: Budget,
    limits: Limits,
    retention: Retention,
    ledger: Ledger,
    files: Option<Files<SimDisk>>,
    pages: Option<Pages<SimDisk>>,
    page_orders: VecDeque<PageOrder>,
    page_answers: VecDeque<Answer>,
    orders: VecDeque<Order>,
    reports: VecDeque<Report>,
    buffers: Vec<Vec<u8>>,
    urgent: bool,
    written: Lsn,
    synced: Lsn,
    oldest: Lsn,
    now_ms: u64,
    chances: [u64; 5],
    models: BTreeMap<QueueId, Model>,
    readers: BTreeMap<u32, Reader>,
    last_reader: u32,
    last_number: u64,
    /// The disk syncs: what it holds is looked into.
    honest: bool,
    /// By confirm number: stream and offset.
    unconfirmed: BTreeMap<u64, Vec<(QueueId, u64)>>,
}

/// The disk failed: the broker is dead.
struct Dead;

/// The message with this number, with one of three filter values or none.
fn message(number: u64) -> Messages {
    let mut random = Random::new(number);
    let mut properties = Vec::new();
    match value(number) {
        Some(value) => {
            let headers = TableBuilder::new().with("x-stream-filter-value", value);
            Properties::EMPTY.with_headers(headers.as_table(), &mut properties);
        }
        None => properties.extend_from_slice(Properties::EMPTY.as_bytes()),
    }
    let mut body = number.to_be_bytes().to_vec();
    body.resize(8 + random.index(200), 7);
    Parts { route: b"\0\x01s", properties: &properties, body: &body }.to_messages()
}

/// An offset as an index.
fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a small stream")
}

fn value(number: u64) -> Option<&'static str> {
    [None, Some("a"), Some("b"), Some("c")][at(number / 7 % 4)]
}

fn takes(wanted: Option<&Wanted>, number: u64) -> bool {
    let Some(wanted) = wanted else { return true };
    match value(number) {
        Some(value) => wanted.values.iter().any(|it| **it == *value.as_bytes()),
        None => wanted.unfiltered,
    }
}

fn number_of(found: &Messages) -> u64 {
    let number = u64::from_be_bytes(*found.first().body().first_chunk().expect("a body has a number"));
    assert_eq!(found.as_bytes(), message(number).as_bytes(), "the bytes of message {number}");
    number
}

impl World {
    pub(crate) fn new(seed: u64, disk: SimDisk, honest: bool) -> World {
        let mut random = Random::new(seed);
        let file_size = [1024, 2048, 4096][random.index(3)];
        let unit = [300, 1000, 4000][random.index(3)];
        let some = |random: &mut Random, value: u64| (random.below(2) == 0).then_some(value);
        let retention = Retention {
            age_ms: some(&mut random, 4000),
            bytes: some(&mut random, 9000),
            count: some(&mut random, 60),
        };
        let budget = Budget { journal_size: file_size * [2, 4][random.index(2)], step: 2 * file_size };
        let mut world = World {
            chances: std::array::from_fn(|_| 15 + random.below(85)),
            random,
            counts: Counts::default(),
            disk,
            options: store::Options {
                file_size,
                zero_ahead_min: 512,
                zero_ahead_max: 4096,
                ..store::Options::default()
            },
            budget,
            limits: Limits {
                queue: 3 * unit,
                keep: unit,
                tail: unit,
                spill: 2 * unit,
                front: unit,
                in_flight: 6 * unit,
                hold: 12 * unit,
                busy: 0,
                idle: 4 * unit,
                share: unit / 2,
            },
            retention,
            ledger: Recovery::default().finish(Lsn::ZERO, Lsn::ZERO, budget),
            files: None,
            pages: None,
            page_orders: VecDeque::new(),
            page_answers: VecDeque::new(),
            orders: VecDeque::new(),
            reports: VecDeque::new(),
            buffers: Vec::new(),
            urgent: false,
            written: Lsn::ZERO,
            synced: Lsn::ZERO,
            oldest: Lsn::ZERO,
            now_ms: 1000,
            models: STREAMS.map(|id| (id, Model::default())).into(),
            readers: BTreeMap::new(),
            last_reader: 0,
            last_number: 0,
            honest,
            unconfirmed: BTreeMap::new(),
        };
        let survives = world.recover();
        world.recovered(survives);
        world
    }

    /// One life of the broker, its end, and what the next one finds.
    pub(crate) fn live(&mut self) {
        if self.random.below(2) == 0 {
            let nth = 1 + self.random.below(80);
            self.disk.fail(nth, None, Fault::PowerCut);
        }
        for _ in 0..self.random.below(60) {
            if self.step().is_err() {
                break;
            }
        }
        self.counts.lives += 1;
        let mut survives = self.end();
        loop {
            self.files = None;
            self.pages = None;
            if self.random.below(5) == 0 {
                let nth = 1 + self.random.below(12);
                self.disk.fail(nth, None, Fault::PowerCut);
            }
            match self.try_recover() {
                Ok(()) => break,
                Err(_) if !self.honest && !self.is_down() => {
                    // A whole segment is missing: the broker does not start.
                    self.counts.lost += 1;
                    return;
                }
                Err(error) => {
                    assert!(self.is_down(), "only the disk can keep a broker from coming back: {error}");
                }
            }
            survives = survives.min(self.end());
        }
        self.recovered(survives);
    }

    /// What is durable then.
    fn end(&mut self) -> Lsn {
        if self.random.below(3) == 0 {
            self.disk.kill();
            return self.written;
        }
        let seed = self.random.next_u64();
        self.disk.crash(seed);
        self.synced
    }

    fn is_down(&self) -> bool {
        self.disk.list(Path::new(DIR)).is_err()
    }

    fn recover(&mut self) -> Lsn {
        self.try_recover().unwrap_or_else(|error| panic!("a disk without faults: {error}"));
        self.synced
    }

    fn try_recover(&mut self) -> store::Result<()> {
        static LIVES: AtomicU64 = AtomicU64::new(1);
        let mut recovery = Recovery::default();
        recovery.limit_paging(self.limits);
        recovery.open(
            QUEUE,
            Options {
                label: "queue".to_owned(),
                durable: true,
                auto_delete: false,
                settings: broker::topology::Settings::default(),
            },
        );
        for id in STREAMS {
            let options = stream::Options::new(format!("stream {id}"));
            recovery.open(id, stream::Options { retention: self.retention, segment_size: 4000, ..options });
        }
        let (files, report) =
            Files::open(self.disk.clone(), Path::new(DIR), self.options.clone(), &mut |record| {
                recovery.replay(&record)
            })?;
        (self.oldest, self.synced, self.written) = (files.oldest(), report.next, report.next);
        self.ledger = recovery.finish(files.oldest(), report.next, self.budget);
        self.ledger.tick(self.now_ms);
        self.files = Some(files);
        self.ledger.shard().check();
        let known = self.ledger.segments();
        let options = store::segment::Options {
            segment_size: 6000,
            block_size: 700,
            ..store::segment::Options::default()
        };
        let life = || LIVES.fetch_add(1, Ordering::Relaxed);
        self.pages = Some(
            Pages::open(self.disk.clone(), Path::new(SEGMENTS), options, &known, Journal::Whole, life)?
                .with_window(4096),
        );
        Ok(())
    }

    /// Compares what was found with what must be there, and goes on with what was found.
    fn recovered(&mut self, survives: Lsn) {
        self.orders.clear();
        self.reports.clear();
        self.buffers.clear();
        self.page_orders.clear();
        self.page_answers.clear();
        self.unconfirmed.clear();
        self.readers.clear();
        self.urgent = false;
        for (id, model) in &mut self.models {
            let bounds = self.ledger.shard().stream_bounds(*id).expect("the stream was opened");
            let safe = |entry: &Entry| entry.confirmed || entry.logged.is_some_and(|end| end <= survives);
            let must = model.entries.iter().rposition(safe).map_or(0, |last| last as u64 + 1);
            self.counts.lost += must.saturating_sub(bounds.next);
            assert!(
                bounds.next <= model.entries.len() as u64 || !self.honest,
                "what was never published is not there"
            );
            let kept = |(end, _): &&(Option<Lsn>, u64)| end.is_some_and(|end| end <= survives);
            let trimmed = model.trims.iter().filter(kept).map(|(_, start)| *start).max().unwrap_or(0);
            self.counts.resurrected += trimmed.saturating_sub(bounds.start);
            assert!(bounds.start <= model.start || !self.honest, "no more is gone than what retention took");
            model.entries.truncate(at(bounds.next));
            model.entries.iter_mut().for_each(|entry| entry.logged = Some(Lsn::ZERO));
            model.start = bounds.start;
            model.trims = vec![(Some(Lsn::ZERO), bounds.start)];
            self.counts.recovered += bounds.next - bounds.start;
        }
        if self.honest {
            STREAMS.into_iter().for_each(|id| self.check_contents(id));
            STREAMS.into_iter().for_each(|id| self.check_tracked(id, survives));
        }
    }

    /// Reads a stream from its beginning, and from a time.
    fn check_contents(&mut self, id: QueueId) {
        let before = self.models[&id].start;
        let found = self.read_all(id, Start::First, None, 1000);
        if self.is_down() {
            return;
        }
        let model = &self.models[&id];
        let first = found.first().map_or(model.start, |(offset, _)| *offset);
        assert!((before..=model.start).contains(&first), "stream {id} begins with {first}");
        // Retention may have gone on meanwhile.
        let mut next = first;
        for (offset, number) in found {
            assert!(
                offset == next || (next < offset && offset <= model.start),
                "stream {id}: {offset} after {next}"
            );
            assert_eq!(number, model.entries[at(offset)].number, "stream {id} at {offset}");
            next = offset + 1;
        }
        assert_eq!(next.max(model.start), model.entries.len() as u64, "the end of stream {id}");
        let Some(time_ms) = model.entries.get(model.entries.len() / 2).map(|entry| entry.time_ms) else {
            return;
        };
        let since =
            model.entries.iter().position(|entry| entry.time_ms >= time_ms).expect("there is one") as u64;
        let start = model.start;
        let found = self.read_all(id, Start::Time(time_ms), None, 1);
        let model = &self.models[&id];
        let possible = since.max(start)..=since.max(model.start);
        let found = found.first().map_or(model.entries.len() as u64, |(offset, _)| *offset);
        assert!(
            self.is_down() || possible.contains(&found),
            "stream {id} since {time_ms} ms: {found}, not {possible:?}"
        );
    }

    fn check_tracked(&mut self, id: QueueId, survives: Lsn) {
        let found = self.read_all(id, Start::First, Some(NAME), 1);
        let model = self.models.get_mut(&id).expect("a known stream");
        let durable = model.tracked.iter().rposition(|(end, ..)| end.is_some_and(|end| end <= survives));
        model.tracked.drain(..durable.unwrap_or(0));
        let Some((offset, _)) = found.first().copied() else {
            model.tracked.iter_mut().for_each(|(end, ..)| *end = None);
            return;
        };
        let begins =
            |low: u64, high: u64| (low..=high).contains(&offset) || (high < offset && offset <= model.start);
        let kept = model.tracked.iter().rev().find(|(_, low, high)| begins(*low, *high)).copied();
        let fits = kept.is_some() || (durable.is_none() && offset <= model.start);
        assert!(fits, "stream {id} goes on with {offset}: {:?}, durable {durable:?}", model.tracked);
        model.tracked = kept.map(|(_, low, high)| (Some(Lsn::ZERO), low, high)).into_iter().collect();
    }

    /// What a new reader gets, until there is no more or it has so many.
    fn read_all(&mut self, id: QueueId, start: Start, name: Option<&str>, count: u32) -> Vec<(u64, u64)> {
        self.last_reader += 1;
        let reading = Reading { start, tracked: name.map(Into::into), wanted: None };
        let read = Request::Read(id, subscription(self.last_reader, count), Box::new(reading));
        self.ledger.handle(INSPECTOR, Command::Request(0, read));
        let mut found = Vec::new();
        loop {
            self.ledger.tick(self.now_ms);
            let pending = self.ledger.finish_round();
            self.note_trims();
            pending.into_iter().for_each(|pending| self.order(pending));
            self.ledger.shard().check();
            while let Some((_, effects)) = self.ledger.poll_effects() {
                for effect in effects {
                    let Effect::Deliver(Delivery { first, messages, .. }) = effect else { continue };
                    found.extend((first..).zip(messages.singles().map(|it| number_of(&it))));
                }
            }
            let orders: Vec<PageOrder> = std::iter::from_fn(|| self.ledger.poll_page()).collect();
            let (reads, others): (Vec<_>, Vec<_>) =
                orders.into_iter().partition(|order| matches!(order, PageOrder::Read { .. }));
            self.page_orders.extend(others);
            let Some(pages) = self.pages.as_mut() else { break };
            let mut answers = Vec::new();
            pages.carry_out(reads, |answer| answers.push(answer));
            if answers.is_empty() {
                break;
            }
            answers.into_iter().for_each(|answer| self.ledger.paged(answer));
        }
        self.ledger.handle(INSPECTOR, Command::Disconnect);
        found
    }

    fn step(&mut self) -> Result<(), Dead> {
        let chances = self.chances;
        let mut happens =
            (0..5).map(|nth| self.random.below(100) < chances[nth]).collect::<Vec<_>>().into_iter();
        let mut next = || happens.next().unwrap_or(false);
        let (write, sync, hear, carry_out, hear_page) = (next(), next(), next(), next(), next());
        if write {
            self.write_one()?;
        }
        if sync {
            self.sync()?;
        }
        if hear {
            self.hear();
        }
        if carry_out {
            self.carry_out()?;
        }
        if hear_page {
            self.hear_page();
        }
        self.now_ms += self.random.below(300);
        self.ledger.tick(self.now_ms);
        for _ in 0..self.random.below(4) {
            self.act();
        }
        self.finish_round();
        Ok(())
    }

    fn act(&mut self) {
        match self.random.below(10) {
            0..5 => self.publish(),
            5 => self.read(),
            6..9 => self.settle(),
            _ => {
                if self.random.below(4) == 0 {
                    self.readers.clear();
                    self.ledger.handle(CLIENT, Command::Disconnect);
                    self.unconfirmed.clear();
                }
            }
        }
    }

    fn publish(&mut self) {
        let route: &[QueueId] =
            [&STREAMS[..1], &STREAMS[1..], &STREAMS, &[STREAMS[0], QUEUE]][self.random.index(4)];
        let mut bytes = Vec::new();
        let count = 1 + self.random.below(8);
        let first = self.last_number + 1;
        for _ in 0..count {
            self.last_number += 1;
            bytes.extend_from_slice(message(self.last_number).as_bytes());
            let mut places = Vec::new();
            for id in route.iter().filter(|id| **id != QUEUE) {
                let model = self.models.get_mut(id).expect("a known stream");
                places.push((*id, model.entries.len() as u64));
                let time_ms = model.entries.last().map_or(0, |last| last.time_ms).max(self.now_ms);
                model.entries.push(Entry {
                    number: self.last_number,
                    time_ms,
                    confirmed: false,
                    logged: None,
                });
            }
            self.unconfirmed.insert(self.last_number, places);
        }
        let messages = Messages::encoded(bytes.into(), u32::try_from(count).expect("a few"));
        let batch = Batch {
            routes: vec![Arc::from(route)],
            runs: vec![Publish {
                messages,
                persistent: self.random.below(2) == 0,
                expires: false,
                route: 0,
                confirm: None,
            }],
            confirms: vec![Confirm { publisher: 1, first, last: self.last_number }],
        };
        self.counts.published += count;
        self.ledger.handle(CLIENT, Command::Publish(batch));
        self.take_effects();
    }

    fn read(&mut self) {
        if self.readers.len() > 4 {
            return;
        }
        let stream = STREAMS[self.random.index(2)];
        let end = self.models[&stream].entries.len() as u64;
        let start = match self.random.below(4) {
            0 => Start::First,
            1 => Start::Next,
            2 => Start::Offset(self.random.below(end + 1)),
            _ => Start::Ago(self.random.below(3000)),
        };
        let wanted =
            || Wanted { values: vec![b"a"[..].into(), b"c"[..].into()], unfiltered: end.is_multiple_of(2) };
        let wanted = (self.random.below(3) == 0).then(wanted);
        let named =
            self.random.below(3) == 0 && !self.readers.values().any(|it| it.named && it.stream == stream);
        self.last_reader += 1;
        let reading = Reading { start, tracked: named.then(|| NAME.into()), wanted: wanted.clone() };
        self.readers
            .insert(self.last_reader, Reader { stream, next: None, wanted, named, held: VecDeque::new() });
        let prefetch = 1 + u32::try_from(self.random.below(20)).expect("a few");
        let read = Request::Read(stream, subscription(self.last_reader, prefetch), Box::new(reading));
        self.ledger.handle(CLIENT, Command::Request(0, read));
        self.take_effects();
    }

    /// A reader settles some of what it holds, the oldest first or not.
    fn settle(&mut self) {
        let Some(nth) = self.readers.len().checked_sub(1).map(|last| self.random.index(last + 1)) else {
            return;
        };
        let (number, reader) = self.readers.iter_mut().nth(nth).expect("one of them");
        let Some(last) = reader.held.len().checked_sub(1) else { return };
        let count = if self.random.below(4) == 0 { 1 } else { 1 + self.random.index(last + 1) };
        let from = if count == 1 { self.random.index(last + 1) } else { 0 };
        let settled: Vec<u64> = reader.held.drain(from..from + count).collect();
        let credit = settled.iter().map(|offset| (reader.stream, *number, Span::one(*offset))).collect();
        if reader.named {
            let next = reader.next.expect("something was delivered");
            let low = reader.held.front().copied().unwrap_or(next);
            let model = self.models.get_mut(&reader.stream).expect("a known stream");
            // With a filter the server may have passed over more that is not wanted.
            let open = reader.held.is_empty() && reader.wanted.is_some();
            model.tracked.push((None, low, if open { model.entries.len() as u64 } else { low }));
            self.counts.tracked += 1;
        }
        self.ledger.handle(CLIENT, Command::Credit(credit));
        self.take_effects();
    }

    fn finish_round(&mut self) {
        let pending = self.ledger.finish_round();
        self.take_effects();
        self.note_trims();
        if let Some(pending) = pending {
            self.order(pending);
        }
        self.take_pages();
        self.ledger.shard().check();
    }

    fn note_trims(&mut self) {
        for (id, model) in &mut self.models {
            let start = self.ledger.shard().stream_bounds(*id).map_or(0, |bounds| bounds.start);
            if start > model.start {
                model.start = start;
                model.trims.push((None, start));
                self.counts.trimmed += 1;
            }
        }
    }

    fn order(&mut self, pending: Pending) {
        let end = pending.round.end();
        for model in self.models.values_mut() {
            model
                .entries
                .iter_mut()
                .rev()
                .take_while(|entry| entry.logged.is_none())
                .for_each(|entry| entry.logged = Some(end));
            model.trims.iter_mut().for_each(|(logged, _)| *logged = logged.or(Some(end)));
            model.tracked.iter_mut().for_each(|(logged, ..)| *logged = logged.or(Some(end)));
        }
        self.orders.push_back(Order::Write(pending.round, pending.urgent));
    }

    fn write_one(&mut self) -> Result<(), Dead> {
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        match self.orders.pop_front() {
            Some(Order::Write(round, urgent)) => {
                files.write(&round).map_err(|_| Dead)?;
                self.written = round.end();
                self.urgent |= urgent;
                self.buffers.push(round.into_buffer());
            }
            Some(Order::Forget(before)) => files.forget(before).map_err(|_| Dead)?,
            None => {}
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Dead> {
        let Some(files) = self.files.as_mut() else { return Ok(()) };
        self.synced = files.sync().map_err(|_| Dead)?;
        self.urgent = false;
        let buffers = std::mem::take(&mut self.buffers);
        self.reports.push_back(Report { synced: self.synced, oldest: files.oldest(), buffers });
        files.prepare().map(drop).map_err(|_| Dead)
    }

    fn hear(&mut self) {
        let Some(Report { synced, oldest, buffers }) = self.reports.pop_front() else { return };
        let (forget, pending) = self.ledger.synced(synced, oldest, buffers);
        self.orders.extend(forget.map(Order::Forget));
        if let Some(pending) = pending {
            self.counts.shortened += 1;
            self.order(pending);
        }
        self.take_effects();
        self.take_pages();
    }

    fn take_pages(&mut self) {
        self.page_orders.extend(std::iter::from_fn(|| self.ledger.poll_page()));
    }

    fn carry_out(&mut self) -> Result<(), Dead> {
        let Some(pages) = self.pages.as_mut() else { return Ok(()) };
        let count = (1 + self.random.index(4)).min(self.page_orders.len());
        let orders: Vec<PageOrder> = self.page_orders.drain(..count).collect();
        let removed = orders.iter().filter(|order| matches!(order, PageOrder::Remove { .. })).count();
        let answers = &mut self.page_answers;
        pages.carry_out(orders, |answer| answers.push_back(answer));
        if self.is_down() {
            return Err(Dead);
        }
        self.counts.removed += removed as u64;
        Ok(())
    }

    fn hear_page(&mut self) {
        let Some(answer) = self.page_answers.pop_front() else { return };
        match answer {
            Answer::Spilled { .. } => self.counts.appended += 1,
            Answer::Read { .. } => self.counts.windows += 1,
            Answer::Refused { .. } | Answer::TryAgain => panic!("a disk that works refuses nothing"),
        }
        self.ledger.paged(answer);
        self.take_effects();
        self.take_pages();
    }

    fn take_effects(&mut self) {
        while let Some((connection, effects)) = self.ledger.poll_effects() {
            for effect in effects {
                match effect {
                    Effect::Deliver(delivery) if connection == CLIENT => self.delivered(&delivery),
                    Effect::Confirm(Confirm { first, last, .. }) => {
                        (first..=last).for_each(|number| self.confirmed(number))
                    }
                    Effect::Reply(_, answer) => drop(answer.expect("only what is right is asked")),
                    _ => {}
                }
            }
        }
    }

    fn confirmed(&mut self, number: u64) {
        self.counts.confirmed += 1;
        for (id, offset) in self.unconfirmed.remove(&number).unwrap_or_default() {
            let entry = &mut self.models.get_mut(&id).expect("a known stream").entries[at(offset)];
            assert!(entry.logged.is_some_and(|end| end <= self.synced), "{number} was confirmed too early");
            entry.confirmed = true;
        }
    }

    /// What a reader gets is committed, is what stands at its offset, and skips nothing that it wants.
    fn delivered(&mut self, delivery: &Delivery) {
        let Some(reader) = self.readers.get_mut(&delivery.consumer) else { return };
        let model = &self.models[&reader.stream];
        for (offset, message) in (delivery.first..).zip(delivery.messages.singles()) {
            let entry = model.entries[at(offset)];
            assert_eq!(number_of(&message), entry.number, "stream {} at {offset}", reader.stream);
            assert!(
                entry.logged.is_some_and(|end| end <= self.synced),
                "{offset} was delivered and is not committed"
            );
            assert!(takes(reader.wanted.as_ref(), entry.number), "{offset} is not wanted");
            if let Some(next) = reader.next {
                assert!(offset >= next, "offsets ascend");
                let start = self.ledger.shard().stream_bounds(reader.stream).map_or(0, |bounds| bounds.start);
                let skipped = next.max(start)..offset;
                let missing = skipped
                    .clone()
                    .find(|other| takes(reader.wanted.as_ref(), model.entries[at(*other)].number));
                assert_eq!(missing, None, "stream {}: {skipped:?} were skipped", reader.stream);
            }
            reader.next = Some(offset + 1);
            reader.held.push_back(offset);
            self.counts.delivered += 1;
        }
    }
}

fn subscription(consumer: u32, prefetch: u32) -> Subscription {
    Subscription {
        consumer,
        channel: 1,
        no_ack: false,
        exclusive: false,
        priority: 0,
        prefetch,
        timeout_ms: None,
        window: Window::default(),
    }
}
