//! One consumer: counts what arrives, and looks into it only if it is to be timed or verified.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp::frame::{self, Frame, Kind};
use amqp::method::{Method, basic};
use amqp::table::{Table, TableBuilder};
use anyhow::{Context, Result};

use super::link::{CHANNEL, Link};
use super::measure::board::{Board, Lane};
use super::measure::latency::Latencies;
use super::scan::{Heard, Inbox, Said, method};
use super::stamp::Stamp;
use super::verify::Verifier;

/// What a consumer is to do.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Number and name of each queue; the number is its consumer tag.
    pub(super) queues: Vec<(usize, String)>,
    pub(super) board: Arc<Board>,
    pub(super) lane: Arc<Lane>,
    /// Acknowledge after so many; with none, the server forgets what it delivers.
    pub(super) ack_every: Option<u64>,
    /// The queues are streams, to be read from the beginning.
    pub(super) reads_stream: bool,
    /// From due to arrived, if that is asked.
    pub(super) delivery: Option<Latencies>,
    pub(super) verifier: Option<Verifier>,
    pub(super) progress: Progress,
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    consumed: u64,
    unacknowledged: u64,
    /// Of the message that is arriving: its tag, the bytes of body to come, and whether any have come.
    delivery_tag: u64,
    body_left: u64,
    body_begun: bool,
    /// Nanoseconds of the run when the last bytes came.
    now_ns: u64,
    out: Vec<u8>,
}

impl Consumer {
    /// Consumes until the run is stopped, which ends in an error.
    pub(super) fn run(&mut self, link: &Link) -> Result<()> {
        let socket = link.socket()?;
        self.board.register(&socket)?;
        let mut pulse = Pulse::new(link.heartbeat());
        socket.set_read_timeout(pulse.period)?;
        let mut out = self.consume_all();
        let mut inbox = Inbox::new();
        loop {
            if !out.is_empty() {
                (&socket).write_all(&out).context("cannot acknowledge")?;
            }
            let heard = inbox.read(&socket)?;
            self.progress.now_ns = self.board.now_ns();
            while let Some(frame) = inbox.next()? {
                self.take(frame)?;
            }
            self.lane.set_consumed(self.progress.consumed);
            out.clear();
            std::mem::swap(&mut out, &mut self.progress.out);
            pulse.beat(heard, &mut out);
        }
    }

    fn consume_all(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let first = TableBuilder::new().with("x-stream-offset", "first");
        for (number, queue) in &self.queues {
            let consume = basic::Consume {
                queue,
                consumer_tag: &number.to_string(),
                no_local: false,
                no_ack: self.ack_every.is_none(),
                exclusive: false,
                nowait: true,
                arguments: if self.reads_stream { first.as_table() } else { Table::EMPTY },
            };
            frame::method(&mut out, CHANNEL, &Method::BasicConsume(consume));
        }
        out
    }

    #[inline]
    fn take(&mut self, frame: Frame<'_>) -> Result<()> {
        match frame.kind {
            Kind::Method => self.take_method(frame.payload)?,
            Kind::Header => {
                let size = frame.payload.get(4..).and_then(|rest| rest.first_chunk::<8>());
                self.progress.body_left = u64::from_be_bytes(*size.context("a content header is too short")?);
                self.progress.body_begun = false;
                if self.progress.body_left == 0 {
                    self.take_end()?;
                }
            }
            Kind::Body => {
                self.take_body(frame.payload)?;
                let size = u64::try_from(frame.payload.len())?;
                self.progress.body_left =
                    self.progress.body_left.checked_sub(size).context("a body is too long")?;
                if self.progress.body_left == 0 {
                    self.take_end()?;
                }
            }
            Kind::Heartbeat => {}
        }
        Ok(())
    }

    #[inline]
    fn take_method(&mut self, payload: &[u8]) -> Result<()> {
        if let Said::Delivery { consumer_tag, delivery_tag } = method(payload)? {
            self.progress.delivery_tag = delivery_tag;
            if let Some(verifier) = &mut self.verifier {
                verifier.begin(consumer_tag)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn take_body(&mut self, piece: &[u8]) -> Result<()> {
        if let Some(delivery) = self.delivery.as_mut().filter(|_| !self.progress.body_begun) {
            let stamp = Stamp::parse(piece).context("a body has no stamp")?;
            delivery.record(stamp.due_ns, self.progress.now_ns);
        }
        self.progress.body_begun = true;
        if let Some(verifier) = &mut self.verifier {
            verifier.piece(piece);
        }
        Ok(())
    }

    /// A message is there, whole.
    #[inline]
    fn take_end(&mut self) -> Result<()> {
        let progress = &mut self.progress;
        progress.consumed += 1;
        progress.unacknowledged += 1;
        if self.ack_every.is_some_and(|every| progress.unacknowledged >= every) {
            progress.unacknowledged = 0;
            frame::ack(&mut progress.out, CHANNEL, progress.delivery_tag, true);
        }
        match &mut self.verifier {
            Some(verifier) => verifier.end(),
            None => Ok(()),
        }
    }
}

/// Signs of life, for a consumer that has nothing else to say.
#[derive(Debug)]
struct Pulse {
    /// Half of what was agreed; none if none are wanted.
    period: Option<Duration>,
    last: Instant,
}

impl Pulse {
    fn new(heartbeat_s: u16) -> Pulse {
        Pulse {
            period: (heartbeat_s > 0).then(|| Duration::from_secs(heartbeat_s.into()) / 2),
            last: Instant::now(),
        }
    }

    fn beat(&mut self, heard: Heard, out: &mut Vec<u8>) {
        let is_time =
            self.period.is_some_and(|period| heard == Heard::Silence || self.last.elapsed() >= period);
        if is_time {
            frame::heartbeat(out);
            self.last = Instant::now();
        }
    }
}
