//! One producer: writes ready-made batches as fast as the server takes them, as its confirms allow, or as they
//! are due.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use amqp::frame::{self, Kind};
use amqp::method::{Method, connection};
use anyhow::{Context, Result, bail};

use super::batch::Batch;
use super::confirms::Confirms;
use super::link::Link;
use super::measure::board::{Board, Lane};
use super::measure::latency::Latencies;
use super::measure::schedule::Schedule;
use super::scan::{Inbox, Said, method};
use super::stamp::Stamp;

/// How long a producer at a fixed rate waits before it looks again whether its window has room.
const WINDOW_PERIOD: Duration = Duration::from_micros(100);

/// What a producer is to do.
#[derive(Debug)]
pub(super) struct Producer {
    pub(super) number: u16,
    pub(super) batch: Batch,
    pub(super) board: Arc<Board>,
    pub(super) lane: Arc<Lane>,
    /// Messages to publish, unless the run ends before.
    pub(super) share: u64,
    /// Publishes that may await their confirm, if they are confirmed.
    pub(super) window: Option<u64>,
    pub(super) schedule: Option<Schedule>,
    pub(super) is_stamped: bool,
    /// Messages published so far.
    pub(super) sent: u64,
    /// From due to confirmed, if that is asked.
    pub(super) confirm: Option<Latencies>,
}

impl Producer {
    /// Publishes all, waits for what is still to be confirmed, and says goodbye.
    pub(super) fn run(&mut self, link: &Link) -> Result<()> {
        let socket = link.socket()?;
        self.board.register(&socket)?;
        match (self.schedule, self.window) {
            (None, Some(window)) => self.with_window(&socket, window),
            (schedule, _) => self.with_listener(&socket, schedule),
        }
    }

    /// Publishes whatever the window has room for, then waits for confirms, in one thread.
    fn with_window(&mut self, socket: &TcpStream, window: u64) -> Result<()> {
        let mut listener = self.listener(None);
        loop {
            let is_over = self.is_over();
            let room = window - (self.sent - listener.confirms.settled());
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

    /// Publishes without looking for answers, which a thread of their own takes.
    fn with_listener(&mut self, socket: &TcpStream, schedule: Option<Schedule>) -> Result<()> {
        let mut listener = self.listener(schedule);
        let (heard, published) = std::thread::scope(|scope| {
            let listening = scope.spawn(|| {
                let heard = listener.run(socket);
                // Wakes the publisher; after a goodbye there is nothing left to lose.
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
        // What the server said explains why nothing could be written to it.
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

    /// Writes at most so many messages.
    fn publish(&mut self, mut socket: &TcpStream, messages: u64) -> Result<()> {
        let wanted = messages.min(self.share - self.sent);
        let (sent, producer, schedule) = (self.sent, self.number, self.schedule);
        let (count, bytes) = if self.is_stamped {
            self.batch.next_stamped(wanted, |index| Stamp {
                due_ns: schedule.map_or(0, |schedule| schedule.due_at_ns(sent + index)),
                producer,
                number: sent + index,
            })
        } else {
            self.batch.next(wanted)
        };
        socket.write_all(bytes).context("cannot publish")?;
        self.sent += count;
        self.lane.set_published(self.sent);
        Ok(())
    }

    fn listener(&mut self, schedule: Option<Schedule>) -> Listener {
        Listener {
            inbox: Inbox::new(),
            board: Arc::clone(&self.board),
            lane: Arc::clone(&self.lane),
            confirms: Confirms::default(),
            schedule,
            latencies: self.confirm.take(),
        }
    }
}

/// Asks the server to close the connection when it has handled all that was sent before.
fn say_goodbye(mut socket: &TcpStream) -> Result<()> {
    let close = connection::Close { reply_code: 200, reply_text: "OK", class_id: 0, method_id: 0 };
    let mut out = Vec::new();
    frame::method(&mut out, 0, &Method::ConnectionClose(close));
    socket.write_all(&out).context("cannot say goodbye")
}

/// Takes what the server says to a producer.
#[derive(Debug)]
struct Listener {
    inbox: Inbox,
    board: Arc<Board>,
    lane: Arc<Lane>,
    confirms: Confirms,
    schedule: Option<Schedule>,
    latencies: Option<Latencies>,
}

impl Listener {
    /// Listens until the connection is closed as it should be.
    fn run(&mut self, socket: &TcpStream) -> Result<()> {
        while !self.listen(socket)? {}
        Ok(())
    }

    /// Takes what one read brings; returns whether the connection is closed as it should be.
    fn listen(&mut self, socket: &TcpStream) -> Result<bool> {
        self.inbox.read(socket)?;
        let now = self.board.now_ns();
        let mut is_closed = false;
        while let Some(frame) = self.inbox.next()? {
            if frame.kind != Kind::Method {
                continue;
            }
            match method(frame.payload)? {
                Said::Confirm { tag, multiple, accepted: true } => {
                    let (schedule, latencies) = (self.schedule, &mut self.latencies);
                    self.confirms.settle(tag, multiple, |tag| {
                        if let (Some(schedule), Some(latencies)) = (schedule, latencies.as_mut()) {
                            latencies.record(schedule.due_at_ns(tag - 1), now);
                        }
                    });
                }
                Said::Confirm { tag, accepted: false, .. } => {
                    bail!("the server refused message {tag} (basic.nack)")
                }
                Said::Goodbye => is_closed = true,
                Said::Delivery { .. } | Said::Else => {}
            }
        }
        self.lane.set_confirmed(self.confirms.settled());
        Ok(is_closed)
    }
}
