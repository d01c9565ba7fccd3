//! One consumer: counts what arrives, and acknowledges it if asked.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::super::measure::board::{Board, Lane};
use super::super::measure::latency::Latencies;
use super::link::Link;
use super::scan::Said;

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) board: Arc<Board>,
    pub(super) lane: Arc<Lane>,
    /// Acknowledge all up to now after so many.
    pub(super) ack_every: Option<u64>,
    pub(super) delivery: Option<Latencies>,
    pub(super) consumed: u64,
    pub(super) unacknowledged: u64,
}

impl Consumer {
    /// Consumes until the run is stopped, which ends in an error.
    pub(super) fn run(&mut self, link: Link) -> Result<()> {
        let Link { stream, mut inbox } = link;
        stream.set_read_timeout(None)?;
        self.board.register(&stream)?;
        let mut out = Vec::new();
        loop {
            let now = self.board.now_ns();
            while let Some(said) = inbox.next()? {
                match said {
                    Said::Message { reply, payload } => self.take(reply, payload, now, &mut out)?,
                    Said::Ping => out.extend_from_slice(b"PONG\r\n"),
                    Said::Pong | Said::Else => {}
                }
            }
            self.lane.set_consumed(self.consumed);
            if !out.is_empty() {
                (&stream).write_all(&out).context("cannot acknowledge")?;
                out.clear();
            }
            inbox.read(&stream)?;
        }
    }

    #[inline]
    fn take(&mut self, reply: Option<&[u8]>, payload: &[u8], now: u64, out: &mut Vec<u8>) -> Result<()> {
        if let Some(delivery) = &mut self.delivery {
            let due = payload.first_chunk::<8>().context("a message has no stamp")?;
            delivery.record(u64::from_be_bytes(*due), now);
        }
        self.consumed += 1;
        self.unacknowledged += 1;
        if self.ack_every.is_some_and(|every| self.unacknowledged >= every) {
            self.unacknowledged = 0;
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(reply.context("a delivery cannot be acknowledged")?);
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
        Ok(())
    }
}
