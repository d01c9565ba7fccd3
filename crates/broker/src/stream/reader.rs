//! Who reads a stream: where it stands, what it was given, and what it wants.

use std::collections::VecDeque;

use amqp::table::{Table, Value};

use super::{Wanted, age_ms, short};
use crate::consuming;
use crate::error::{Error, Kind, precondition};
use crate::message::Messages;
use crate::page::{self, Extent, Place as PagePlace, Segment};
use crate::queue::Subscription;
use crate::record::Span;
use crate::sequence::{Sequence, Stretch};

/// A reader's place in its stream. Places are reused, so whoever keeps one also keeps the reader's number.
pub(crate) type Place = usize;

/// Less than this ahead of a reader and the next window is read, bytes.
const AHEAD: usize = 128 << 10;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message.
    First,
    /// With the youngest message.
    Last,
    /// With the next message that comes.
    Next,
    /// With this offset, or the first one above it.
    Offset(u64),
    /// With what was written at this time or later, milliseconds since 1970.
    Time(u64),
    /// With what was written so many milliseconds ago or later.
    Ago(u64),
}

/// What a reader asks for when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Where to begin, if nothing else is known.
    pub start: Start,
    /// The server keeps how far it is under this name, and goes on from there.
    pub tracked: Option<Box<str>>,
    /// Only some messages.
    pub wanted: Option<Wanted>,
}

impl Reading {
    /// Reads the arguments of basic.consume. `stream` is how errors name it; `tag` the consumer's.
    pub fn of(arguments: Table<'_>, stream: &str, tag: &str) -> Result<Reading, Error> {
        if arguments.get(consuming::PRIORITY).is_some() {
            let text = format!("invalid arg 'x-priority' for {stream} of queue type rabbit_stream_queue");
            return Err(precondition(text));
        }
        let start = match arguments.get(consuming::STREAM_OFFSET) {
            None => Start::Next,
            Some(value) => start(value).ok_or_else(|| {
                let why = format!("{{invalid_stream_offset_arg,{{{},{}}}}}", value.type_name(), term(value));
                precondition(format!("invalid arg 'x-stream-offset' for {stream}: {why}"))
            })?,
        };
        let flag = |key| match arguments.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| {
                precondition(format!(
                    "invalid arg '{key}' for {stream}: {{unacceptable_type,{}}}",
                    value.type_name()
                ))
            }),
        };
        let tracked = flag(consuming::STREAM_TRACKING)?;
        let unfiltered = flag(consuming::STREAM_MATCH_UNFILTERED)?;
        let wanted =
            arguments.get(consuming::STREAM_FILTER).and_then(|filter| Wanted::of(filter, unfiltered));
        Ok(Reading { start, tracked: tracked.then(|| tag.into()), wanted })
    }
}

fn start(value: Value<'_>) -> Option<Start> {
    match value {
        Value::Timestamp(seconds) => Some(Start::Time(seconds.saturating_mul(1000))),
        Value::LongString(_) => match value.as_str()? {
            "first" => Some(Start::First),
            "last" => Some(Start::Last),
            "next" => Some(Start::Next),
            length => age_ms(length).map(Start::Ago),
        },
        // Offsets below 0 are the beginning, as with RabbitMQ.
        _ => value.as_int().map(|offset| Start::Offset(u64::try_from(offset).unwrap_or(0))),
    }
}

fn term(value: Value<'_>) -> String {
    match value {
        Value::LongString(_) => format!("<<\"{value}\">>"),
        _ => value.to_string(),
    }
}

/// Messages that a reader has not settled.
#[derive(Clone, Copy, Debug)]
struct Held(u32);

impl Stretch for Held {
    fn count(&self) -> u32 {
        self.0
    }

    fn split_to(&mut self, count: u32) -> Held {
        self.0 -= count;
        Held(count)
    }
}

/// A running reader.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Its connection's place in the shard.
    pub(crate) connection: usize,
    pub(crate) subscription: Subscription,
    pub(crate) reading: Reading,
    /// The offset of the next message to fetch.
    next: u64,
    /// Older messages are not wanted.
    not_before_ms: Option<u64>,
    /// What was fetched and not delivered.
    ready: VecDeque<(u64, Messages)>,
    ready_bytes: usize,
    /// A read that was not answered yet, and where the last one ended.
    read: Option<(u64, Extent)>,
    cursor: Option<(Segment, PagePlace)>,
    held: Sequence<Held>,
    /// The offset behind the last message that was delivered or passed over.
    passed: u64,
}

impl Reader {
    pub(crate) fn new(
        connection: usize,
        subscription: Subscription,
        reading: Reading,
        (next, not_before_ms): (u64, Option<u64>),
    ) -> Reader {
        Reader {
            connection,
            subscription,
            reading,
            next,
            not_before_ms,
            ready: VecDeque::new(),
            ready_bytes: 0,
            read: None,
            cursor: None,
            held: Sequence::default(),
            passed: next,
        }
    }

    /// The offset of the next message to fetch.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many messages more it may hold.
    pub(crate) fn credit(&self) -> u32 {
        self.subscription.prefetch.saturating_sub(short(self.held.len() as u64))
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.read.is_some()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Bytes of memory of what was fetched.
    pub(crate) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// Little is left of what was fetched.
    pub(crate) fn wants_more(&self) -> bool {
        self.read.is_none() && self.ready_bytes < AHEAD
    }

    /// Nothing between its place and this offset is wanted or there.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.next = self.next.max(offset);
        if self.ready.is_empty() {
            self.passed = self.next;
        }
    }

    /// Takes messages that it was given from memory or from a disk.
    pub(crate) fn fetch(&mut self, first: u64, messages: Messages) {
        self.next = first + u64::from(messages.count());
        self.ready_bytes += messages.size();
        self.ready.push_back((first, messages));
    }

    /// Where to read, of an extent whose first message is its next one.
    pub(crate) fn plan_read(&mut self, token: u64, mut extent: Extent) -> Extent {
        if let Some((segment, place)) = self.cursor
            && segment == extent.segment
            && place.sequence == extent.from.sequence
            && (extent.from.offset..extent.to.offset).contains(&place.offset)
        {
            extent.from = place;
        }
        self.read = Some((token, extent));
        extent
    }

    /// Takes a window that was read, each run with the time when it was written. Messages below `start` have gone since.
    /// How many messages are lost.
    pub(crate) fn paged_in(
        &mut self,
        token: u64,
        runs: impl IntoIterator<Item = (u64, page::Run)>,
        next: PagePlace,
        start: u64,
    ) -> u64 {
        let Some((_, extent)) = self.read.take_if(|(asked, _)| *asked == token) else {
            return 0;
        };
        let end = if next.offset >= extent.to.offset { extent.to.sequence } else { next.sequence };
        self.cursor = Some((extent.segment, PagePlace { offset: next.offset, sequence: end }));
        let mut lost = 0;
        for (time_ms, page::Run { first, mut messages, .. }) in runs {
            let behind = first + u64::from(messages.count());
            let from = self.next.max(start);
            if behind <= from {
                continue;
            }
            lost += first.saturating_sub(from);
            if self.not_before_ms.is_some_and(|not_before_ms| time_ms < not_before_ms) {
                self.skip_to(behind);
                continue;
            }
            self.not_before_ms = None;
            if first < from {
                messages.split_to(short(from - first));
            }
            self.fetch(first.max(from), messages);
        }
        lost += end.saturating_sub(self.next.max(start));
        self.skip_to(end);
        lost
    }

    /// The next messages that it wants, at most as many as it may hold, and where they begin.
    pub(crate) fn take(&mut self, start: u64) -> Option<(u64, Messages)> {
        let credit = self.credit();
        while credit > 0
            && let Some((first, mut messages)) = self.ready.pop_front()
        {
            let all = messages.count();
            self.ready_bytes -= messages.size();
            let (skip, count) = self.stretch(first, &messages, start);
            self.passed = first + u64::from(skip);
            if count == 0 {
                continue;
            }
            if skip > 0 {
                messages.split_to(skip);
            }
            let taken = if credit.min(count) < all - skip {
                let taken = messages.split_to(credit.min(count));
                let rest = first + u64::from(skip + taken.count());
                self.ready_bytes += messages.size();
                self.ready.push_front((rest, messages));
                taken
            } else {
                messages
            };
            let first = self.passed;
            self.held.insert(first, Held(taken.count()));
            self.passed += u64::from(taken.count());
            return Some((first, taken));
        }
        if self.ready.is_empty() {
            self.passed = self.next;
        }
        None
    }

    /// How many messages in front are not wanted, and how many behind them are.
    fn stretch(&self, first: u64, messages: &Messages, start: u64) -> (u32, u32) {
        let all = messages.count();
        let gone = start.saturating_sub(first).min(all.into());
        let Some(wanted) = &self.reading.wanted else {
            return (short(gone), all - short(gone));
        };
        let mut takes = messages.iter().map(|message| wanted.takes(&message)).skip(short(gone) as usize);
        let skip = short(gone) + count(takes.by_ref().take_while(|takes| !takes));
        if skip == all {
            return (all, 0);
        }
        (skip, 1 + count(takes.take_while(|takes| *takes)))
    }

    /// It is done with messages. Those that it does not hold do not count.
    pub(crate) fn settle(&mut self, span: Span) {
        if span.count > 0 {
            self.held.remove(span.first, span.end() - 1, |_| true, |_, _| ());
        }
    }

    /// It has settled everything below this.
    pub(crate) fn settled(&self) -> u64 {
        self.held.first().map_or(self.passed, |(first, _)| first)
    }

    pub(crate) fn check(&self) {
        assert!(self.held.len() <= self.subscription.prefetch as usize, "prefetch holds");
        let bytes: usize = self.ready.iter().map(|(_, messages)| messages.size()).sum();
        assert_eq!(self.ready_bytes, bytes, "bytes of what was fetched");
        assert!(self.passed <= self.next, "nothing is delivered before it is fetched");
    }
}

fn count(matching: impl Iterator<Item = bool>) -> u32 {
    short(matching.count() as u64)
}

/// RabbitMQ's refusal of what streams do not do.
pub(crate) fn not_supported(what: &str, label: &str) -> Error {
    Error::new(Kind::NotImplemented, format!("{what} not supported by stream queues {label}"))
}
