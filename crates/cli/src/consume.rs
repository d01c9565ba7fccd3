//! `leveret consume`.

use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;

use amqp::client::Event;
use amqp::method::{Method, basic};
use amqp::table::Table;
use anyhow::{Context, Result, bail};
use clap::Args;

use crate::client::Client;
use crate::interrupt::Interrupt;
use crate::json::Delivery;
use crate::url::{Url, queue_name};

const CHANNEL: u16 = 1;
const CONSUMER: &str = "leveret-consume";

/// Print the messages of a queue, as they come.
///
/// Without --ack this only looks: while it runs no other consumer gets the messages it has printed, and when it ends they
/// are back in the queue, in their old order and marked as redelivered. With --ack messages leave the queue once they were
/// printed.
///
/// Bodies go to standard output as they are, each followed by a newline. Runs until --count messages were printed, Ctrl-C,
/// or the end of whoever reads the output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    leveret consume --queue orders --count 10\n  \
    leveret consume --queue orders --ack --json | jq .body")]
pub(crate) struct Consume {
    #[command(flatten)]
    url: Url,

    /// The queue
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    queue: String,

    /// Stop after this many messages; never takes more from the queue
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Remove messages from the queue once they were printed
    #[arg(long)]
    ack: bool,

    /// Messages to take before they were printed
    #[arg(long, value_name = "COUNT", requires = "ack", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,

    /// Print each message as JSON, on a line: properties, headers, and a body that is not text in base64
    #[arg(long)]
    json: bool,
}

/// Why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All messages that were asked for are printed.
    Counted,
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The broker has cancelled the consumer.
    Cancelled,
}

impl Consume {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let interrupt = Interrupt::catch()?;
        let client = self.url.connect("leveret consume")?;
        let mut consumer =
            Consumer { client, page: Page::new(&self), acks: self.ack.then(|| Acks::new(&self)) };
        let result = consumer.open(&self).and_then(|()| consumer.run(&interrupt));
        let end = result.with_context(|| format!("consuming from queue '{}' failed", self.queue))?;
        let printed = consumer.page.printed;
        consumer.close(end)?;
        if !self.ack && printed > 0 && stderr().is_terminal() {
            eprintln!("leveret: messages are back in the queue: {printed} (--ack removes them)");
        }
        match (end, self.count) {
            (End::Cancelled, _) => bail!("the queue '{}' was deleted", self.queue),
            (End::Interrupted, Some(count)) => bail!("interrupted after {printed} of {count} messages"),
            (End::Counted | End::Interrupted | End::OutputClosed, _) => Ok(ExitCode::SUCCESS),
        }
    }

    /// Messages that the broker may send ahead; 0 is no limit. Never more than were asked for.
    fn messages_ahead(&self) -> u16 {
        let count = self.count.map(|count| u16::try_from(count).unwrap_or(u16::MAX));
        match self.ack {
            true => count.map_or(self.prefetch, |count| count.min(self.prefetch)),
            false => count.filter(|count| *count < u16::MAX).unwrap_or(0),
        }
    }
}

/// Prints what is delivered.
struct Consumer {
    client: Client,
    page: Page,
    acks: Option<Acks>,
}

impl Consumer {
    /// Opens a channel and asks for messages. A refusal comes later, as an event.
    fn open(&mut self, consume: &Consume) -> Result<()> {
        self.client.open_channel(CHANNEL)?;
        let qos = basic::Qos { prefetch_size: 0, prefetch_count: consume.messages_ahead(), global: false };
        self.client.send(CHANNEL, &Method::BasicQos(qos));
        let consume = basic::Consume {
            queue: &consume.queue,
            consumer_tag: CONSUMER,
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        self.client.send(CHANNEL, &Method::BasicConsume(consume));
        Ok(())
    }

    fn run(&mut self, interrupt: &Interrupt) -> Result<End> {
        let mut is_cancelled = false;
        loop {
            let Consumer { client, page, .. } = self;
            let is_interrupted = client.wait(Some(interrupt.as_fd()), None, |event| {
                is_cancelled |= matches!(event, Event::Method { method: Method::BasicCancel(_), .. });
                page.add(event)
            })?;
            match page.print() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(End::OutputClosed),
                Err(error) => return Err(error).context("cannot write to standard output"),
            }
            self.ack();
            if self.page.is_full() {
                return Ok(End::Counted);
            } else if is_cancelled {
                return Ok(End::Cancelled);
            } else if is_interrupted {
                return Ok(End::Interrupted);
            }
        }
    }

    fn ack(&mut self) {
        if let Some(ack) = self.acks.as_mut().and_then(|acks| acks.next(self.page.last_tag)) {
            self.client.send(CHANNEL, &Method::BasicAck(ack));
        }
    }

    /// Stops, settles what was printed and gives back the rest.
    fn close(mut self, end: End) -> Result<()> {
        if end != End::Cancelled {
            let cancel = Method::BasicCancel(basic::Cancel { consumer_tag: CONSUMER, nowait: false });
            self.client
                .call(CHANNEL, &cancel, |method| matches!(method, Method::BasicCancelOk(_)).then_some(()))
                .context("cannot cancel the consumer")?;
        }
        if let Some(acks) = &mut self.acks {
            acks.release();
        }
        self.ack();
        self.client.close()
    }
}

/// What is to be printed at once, and how much was.
struct Page {
    is_json: bool,
    /// Messages that were asked for.
    count: u64,
    bytes: Vec<u8>,
    /// Messages in `bytes`, and the delivery tag of the last.
    waiting: u64,
    waiting_tag: u64,
    printed: u64,
    last_tag: u64,
}

impl Page {
    fn new(consume: &Consume) -> Page {
        Page {
            is_json: consume.json,
            count: consume.count.unwrap_or(u64::MAX),
            bytes: Vec::new(),
            waiting: 0,
            waiting_tag: 0,
            printed: 0,
            last_tag: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.printed + self.waiting >= self.count
    }

    /// Takes a delivery, until there are enough.
    fn add(&mut self, event: Event<'_>) -> Result<()> {
        let Event::Content { method: Method::BasicDeliver(deliver), properties, body, .. } = event else {
            return Ok(());
        };
        if self.is_full() {
            return Ok(());
        }
        if self.is_json {
            let basic::Deliver { exchange, routing_key, redelivered, .. } = deliver;
            let delivery = Delivery { exchange, routing_key, redelivered, properties, body };
            serde_json::to_writer(&mut self.bytes, &delivery.to_json())?;
        } else {
            self.bytes.extend_from_slice(body);
        }
        self.bytes.push(b'\n');
        self.waiting += 1;
        self.waiting_tag = deliver.delivery_tag;
        Ok(())
    }

    /// Prints what was added.
    fn print(&mut self) -> io::Result<()> {
        if self.waiting == 0 {
            return Ok(());
        }
        let mut out = stdout().lock();
        out.write_all(&self.bytes)?;
        out.flush()?;
        self.bytes.clear();
        self.printed += self.waiting;
        self.last_tag = self.waiting_tag;
        self.waiting = 0;
        Ok(())
    }
}

/// Which messages to ack when. An ack makes the broker send another message, so the last are held back until the end:
/// whoever asks for ten messages takes ten from the queue.
#[derive(Debug)]
struct Acks {
    /// Delivery tag of the last that may be acked now.
    max: u64,
    acked: u64,
}

impl Acks {
    fn new(consume: &Consume) -> Acks {
        let ahead = u64::from(consume.messages_ahead());
        Acks { max: consume.count.map_or(u64::MAX, |count| count.saturating_sub(ahead)), acked: 0 }
    }

    /// Nothing more will be sent.
    fn release(&mut self) {
        self.max = u64::MAX;
    }

    /// The next ack, when all up to `printed` are printed.
    fn next(&mut self, printed: u64) -> Option<basic::Ack> {
        let delivery_tag = printed.min(self.max);
        if delivery_tag <= self.acked {
            return None;
        }
        self.acked = delivery_tag;
        Some(basic::Ack { delivery_tag, multiple: true })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        consume: Consume,
    }

    fn consume(arguments: &[&str]) -> Consume {
        Line::parse_from(["consume", "--queue", "q"].iter().chain(arguments)).consume
    }

    #[test]
    fn no_more_is_taken_than_was_asked_for() {
        assert_eq!(consume(&[]).messages_ahead(), 0, "no limit");
        assert_eq!(consume(&["--count", "7"]).messages_ahead(), 7);
        assert_eq!(consume(&["--count", "65535"]).messages_ahead(), 0, "too many for a prefetch");
        assert_eq!(consume(&["--ack"]).messages_ahead(), 100);
        assert_eq!(consume(&["--ack", "--count", "7"]).messages_ahead(), 7);
        assert_eq!(consume(&["--ack", "--count", "70000", "--prefetch", "9"]).messages_ahead(), 9);
    }

    #[test]
    fn the_last_acks_wait_for_the_end() {
        let mut acks = Acks::new(&consume(&["--ack", "--count", "5", "--prefetch", "3"]));
        let mut next = |printed| acks.next(printed).map(|ack| ack.delivery_tag);
        assert_eq!([next(0), next(1), next(1), next(4), next(5)], [None, Some(1), None, Some(2), None]);
        acks.release();
        assert_eq!(acks.next(5), Some(basic::Ack { delivery_tag: 5, multiple: true }));
    }
}
