//! One producer: as fast as the server takes it, as its answers allow, or at a fixed rate.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::measure::board::{Board, Lane};
use super::super::measure::latency::Latencies;
use super::super::measure::schedule::Schedule;
use super::link::Link;
use super::scan::{Inbox, Said};

/// The same as `leveret perf` uses.
const BATCH_SIZE: usize = 128 * 1024;
const MESSAGES_MAX: usize = 4096;
const PONG: &[u8] = b"PONG\r\n";
const WINDOW_PERIOD: Duration = Duration::from_micros(100);

/// Ready-made publishes of one size, used in a circle.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    message_size: usize,
    body_offset: usize,
    next: usize,
}

impl Batch {
    /// Encodes as many messages as fit, to the subjects in turn, which have names of one length.
    pub(super) fn new(subjects: &[String], reply: Option<&str>, size: usize) -> Batch {
        let mut bytes = Vec::new();
        let (mut body_offset, mut messages) = (0, 0);
        loop {
            for subject in subjects {
                let line = match reply {
                    Some(reply) => format!("PUB {subject} {reply} {size}\r\n"),
                    None => format!("PUB {subject} {size}\r\n"),
                };
                body_offset = line.len();
                bytes.extend_from_slice(line.as_bytes());
                bytes.extend((0..=u8::MAX).cycle().take(size));
                bytes.extend_from_slice(b"\r\n");
                messages += 1;
            }
            let message_size = bytes.len() / messages;
            if messages >= MESSAGES_MAX || bytes.len() + message_size > BATCH_SIZE {
                return Batch { bytes, message_size, body_offset, next: 0 };
            }
        }
    }

    /// The next messages, as many as wanted or as there are up to the end of the batch, with a stamp in each
    /// body if there is one.
    fn next(&mut self, messages: u64, stamp: Option<impl Fn(u64) -> u64>) -> (u64, &[u8]) {
        let left = self.bytes.len() / self.message_size - self.next;
        let count = usize::try_from(messages).map_or(left, |messages| messages.min(left));
        let first = self.next * self.message_size;
        let range = first..first + count * self.message_size;
        self.next = if count == left { 0 } else { self.next + count };
        let bytes = self.bytes.get_mut(range).unwrap_or_default();
        if let Some(stamp) = stamp {
            for (index, message) in (0..).zip(bytes.chunks_mut(self.message_size)) {
                let place =
                    message.get_mut(self.body_offset..self.body_offset + 8).expect("the size is checked");
                place.copy_from_slice(&stamp(index).to_be_bytes());
            }
        }
        (u64::try_from(count).unwrap_or(u64::MAX), bytes)
    }
}

#[derive(Debug)]
pub(super) struct Producer {
    pub(super) batch: Batch,
    pub(super) board: Arc<Board>,
    pub(super) lane: Arc<Lane>,
    pub(super) share: u64,
    pub(super) window: Option<u64>,
    /// Where the stream's answers go.
    pub(super) reply: Option<String>,
    pub(super) schedule: Option<Schedule>,
    pub(super) sent: u64,
    pub(super) confirm: Option<Latencies>,
    /// The server wants a sign of life. Only the publisher may write: it knows where a message ends.
    pub(super) is_pong_due: Arc<AtomicBool>,
}

impl Producer {
    /// Publishes all and waits until the server has taken it.
    pub(super) fn run(&mut self, link: Link) -> Result<()> {
        let Link { stream, inbox } = link;
        stream.set_read_timeout(None)?;
        self.board.register(&stream)?;
        if let Some(reply) = &self.reply {
            (&stream).write_all(format!("SUB {reply} 1\r\n").as_bytes())?;
        }
        match (self.schedule, self.window) {
            (None, Some(window)) => self.with_window(&stream, inbox, window),
            (schedule, _) => self.with_listener(&stream, inbox, schedule),
        }
    }

    fn with_window(&mut self, socket: &TcpStream, inbox: Inbox, window: u64) -> Result<()> {
        let mut listener = self.listener(inbox, None);
        loop {
            let is_over = self.is_over();
            let room = window - (self.sent - listener.confirmed);
            if !is_over && room > 0 {
                self.publish(socket, room)?;
                continue;
            }
            if is_over && room == window {
                return say_goodbye(socket).and_then(|()| listener.run(socket));
            }
            listener.listen(socket)?;
        }
    }

    fn with_listener(&mut self, socket: &TcpStream, inbox: Inbox, schedule: Option<Schedule>) -> Result<()> {
        let mut listener = self.listener(inbox, schedule);
        let (heard, published) = std::thread::scope(|scope| {
            let listening = scope.spawn(|| {
                let heard = listener.run(socket);
                socket.shutdown(Shutdown::Both).ok();
                heard
            });
            let published = match schedule {
                Some(schedule) => self.at_rate(socket, schedule, || listening.is_finished()),
                None => self.flat_out(socket),
            };
            let published = published.and_then(|()| say_goodbye(socket));
            if published.is_err() {
                socket.shutdown(Shutdown::Both).ok();
            }
            (listening.join(), published)
        });
        self.confirm = listener.latencies;
        heard.map_err(|_| anyhow::anyhow!("a thread panicked"))?.and(published)
    }

    fn flat_out(&mut self, socket: &TcpStream) -> Result<()> {
        while !self.is_over() {
            self.publish(socket, u64::MAX)?;
        }
        Ok(())
    }

    /// Publishes what is due, then waits for what is still to be confirmed, unless nobody listens any more.
    fn at_rate(&mut self, socket: &TcpStream, schedule: Schedule, is_deaf: impl Fn() -> bool) -> Result<()> {
        Schedule::sharpen_sleep();
        let window = self.window.unwrap_or(u64::MAX);
        while !self.is_over() && !is_deaf() {
            let now = self.board.now_ns();
            let due = schedule.due_by(now).saturating_sub(self.sent);
            let unconfirmed = self.sent - self.lane.confirmed().min(self.sent);
            match due.min(window.saturating_sub(unconfirmed)) {
                0 if due == 0 => schedule.wait_for(self.sent, now),
                0 => std::thread::sleep(WINDOW_PERIOD),
                messages => self.publish(socket, messages)?,
            }
        }
        while self.window.is_some() && self.lane.confirmed() < self.sent && !is_deaf() {
            std::thread::sleep(WINDOW_PERIOD);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.sent >= self.share || self.board.is_publishing_ended()
    }

    fn publish(&mut self, mut socket: &TcpStream, messages: u64) -> Result<()> {
        let wanted = messages.min(self.share - self.sent);
        let sent = self.sent;
        let stamp = self.schedule.map(|schedule| move |index| schedule.due_at_ns(sent + index));
        if self.is_pong_due.swap(false, Ordering::AcqRel) {
            socket.write_all(PONG).context("cannot answer")?;
        }
        let (count, bytes) = self.batch.next(wanted, stamp);
        socket.write_all(bytes).context("cannot publish")?;
        self.sent += count;
        self.lane.set_published(self.sent);
        Ok(())
    }

    fn listener(&mut self, inbox: Inbox, schedule: Option<Schedule>) -> Listener {
        Listener {
            inbox,
            board: Arc::clone(&self.board),
            lane: Arc::clone(&self.lane),
            schedule,
            confirmed: 0,
            latencies: self.confirm.take(),
            is_pong_due: Arc::clone(&self.is_pong_due),
        }
    }
}

/// The answer comes when all that was sent before has been handled.
fn say_goodbye(mut socket: &TcpStream) -> Result<()> {
    socket.write_all(b"PING\r\n").context("cannot say goodbye")
}

/// Takes what the server says to a producer. A stream answers one connection's publishes in their order.
#[derive(Debug)]
struct Listener {
    inbox: Inbox,
    board: Arc<Board>,
    lane: Arc<Lane>,
    schedule: Option<Schedule>,
    confirmed: u64,
    latencies: Option<Latencies>,
    is_pong_due: Arc<AtomicBool>,
}

impl Listener {
    fn run(&mut self, socket: &TcpStream) -> Result<()> {
        while !self.listen(socket)? {}
        Ok(())
    }

    /// Takes what one read brings; returns whether the goodbye was answered.
    fn listen(&mut self, socket: &TcpStream) -> Result<bool> {
        self.inbox.read(socket)?;
        let now = self.board.now_ns();
        let mut is_answered = false;
        while let Some(said) = self.inbox.next()? {
            match said {
                Said::Message { payload, .. }
                    if payload.starts_with(b"{\"error\"") || !payload.starts_with(b"{") =>
                {
                    bail!("the stream refused a message: {}", String::from_utf8_lossy(payload));
                }
                Said::Message { .. } => {
                    if let (Some(schedule), Some(latencies)) = (self.schedule, self.latencies.as_mut()) {
                        latencies.record(schedule.due_at_ns(self.confirmed), now);
                    }
                    self.confirmed += 1;
                }
                Said::Ping => self.is_pong_due.store(true, Ordering::Release),
                Said::Pong => is_answered = true,
                Said::Else => {}
            }
        }
        self.lane.set_confirmed(self.confirmed);
        Ok(is_answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_STAMP: Option<fn(u64) -> u64> = None;

    #[test]
    fn a_batch_goes_in_a_circle() {
        let mut batch = Batch::new(&["a".to_owned(), "b".to_owned()], Some("r"), 1000);
        let (count, bytes) = batch.next(1, NO_STAMP);
        assert_eq!((count, &bytes[..14]), (1, &b"PUB a r 1000\r\n"[..]));
        let (rest, bytes) = batch.next(u64::MAX, NO_STAMP);
        assert!(bytes.starts_with(b"PUB b r 1000\r\n"));
        assert_eq!((rest + 1) % 2, 0);
        assert!(batch.next(1, NO_STAMP).1.starts_with(b"PUB a"));
    }

    #[test]
    fn bodies_are_stamped() {
        let mut batch = Batch::new(&["a".to_owned()], None, 8);
        let (_, bytes) = batch.next(2, Some(|index| index + 7));
        assert_eq!(bytes, b"PUB a 8\r\n\0\0\0\0\0\0\0\x07\r\nPUB a 8\r\n\0\0\0\0\0\0\0\x08\r\n");
    }
}
