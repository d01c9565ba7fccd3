//! A client that blocks: one socket, one [`Connection`], no threads.
//!
//! What is to be said gathers in a buffer and goes out in large writes. Whoever waits writes, reads and keeps up the
//! heartbeat, so neither side can block the other:
//!
//! ```text
//! open_channel, call ── a question, and its answer
//! publish, send ─────── into the buffer
//! flush ─────────────── until the buffer is written; what arrives meanwhile is heard
//! wait ──────────────── the same, then until something arrives, another descriptor is ready, or time is up
//! close ─────────────── a clean end; dropping the client is an abrupt one
//! ```
//!
//! A channel or a connection that the server closes is an error, a [`Closed`] with the server's words.

mod input;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use amqp::client::{Connection, Event, Options};
use amqp::content::{Message, Publish};
use amqp::error::Code;
use amqp::frame;
use amqp::method::Method;
use amqp::receiver::BODY_SIZE_MAX;
use amqp::uri::Uri;
use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use input::{Input, Read};

/// How long each address of the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may take to answer: a login, or a method of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server may take to answer that the connection closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a frame, unless the URI says otherwise.
const FRAME_MAX: u32 = 128 << 10;

/// Bytes that gather before they are worth a write.
const BATCH_SIZE: usize = 128 << 10;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    /// Host and port, for messages.
    server: String,
    connection: Connection,
    input: Input,
    /// What is to be written; the first `written` bytes of it are.
    output: Vec<u8>,
    written: usize,
    last_read: Instant,
    last_write: Instant,
}

/// The server closed the channel or the connection.
#[derive(Debug)]
pub(crate) struct Closed {
    code: u16,
    text: String,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

impl std::error::Error for Closed {}

impl Client {
    /// Connects, logs in and opens the virtual host. `name` is what the server shows to its operators.
    ///
    /// # Errors
    /// Says which of these steps failed, where, and for whom.
    pub(crate) fn connect(uri: &Uri, name: &str) -> Result<Client> {
        let server = match uri.host.contains(':') {
            true => format!("[{}]:{}", uri.host, uri.port),
            false => format!("{}:{}", uri.host, uri.port),
        };
        let stream = open_socket(uri).with_context(|| format!("cannot connect to {server}"))?;
        let mut output = Vec::with_capacity(BATCH_SIZE);
        let connection = Connection::start(options(uri, name), &mut output);
        let (input, now) = (Input::new(), Instant::now());
        let mut client =
            Client { stream, server, connection, input, output, written: 0, last_read: now, last_write: now };
        let opened = client.ask(|event| matches!(event, Event::Opened).then_some(()));
        opened.map_err(|error| explain_refusal(error, uri, &client.server))?;
        Ok(client)
    }

    /// Opens a channel that is not open yet.
    pub(crate) fn open_channel(&mut self, channel: u16) -> Result<()> {
        self.connection.open_channel(&mut self.output, channel);
        let opened = self.answer(channel, |method| matches!(method, Method::ChannelOpenOk(_)).then_some(()));
        opened.with_context(|| format!("cannot open channel {channel}"))
    }

    /// Sends a method and waits until `answer` makes something of what comes. All else that comes meanwhile is lost.
    pub(crate) fn call<T>(
        &mut self,
        channel: u16,
        method: &Method<'_>,
        answer: impl Fn(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        self.send(channel, method);
        self.answer(channel, answer)
    }

    /// Appends a method to what is to be written.
    pub(crate) fn send(&mut self, channel: u16, method: &Method<'_>) {
        self.connection.send(&mut self.output, channel, method);
    }

    /// Appends a message to what is to be written.
    #[inline]
    pub(crate) fn publish(&mut self, channel: u16, method: Publish, message: Message<'_>) {
        self.connection.publish(&mut self.output, channel, method, message);
    }

    /// Whether so much is to be written that it is time to [`Client::flush`].
    #[inline]
    pub(crate) fn has_batch(&self) -> bool {
        self.output.len() >= BATCH_SIZE
    }

    /// Writes all that was sent. What arrives meanwhile goes to `hear`, but nothing is waited for.
    pub(crate) fn flush(&mut self, mut hear: impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        while !self.write()? {
            self.turn(None, None, &mut hear)?;
        }
        Ok(())
    }

    /// Writes all that was sent, and waits: until something arrived, which goes to `hear`, until `other` can be read, or
    /// until `deadline`. Returns whether `other` can be read.
    pub(crate) fn wait(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
        mut hear: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<bool> {
        loop {
            let all_written = self.write()?;
            let woken = self.turn(other, deadline, &mut hear)?;
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if woken.other || is_late || (woken.heard && all_written) {
                return Ok(woken.other);
            }
        }
    }

    /// Closes the connection in good order: the server has then done all that was sent.
    pub(crate) fn close(mut self) -> Result<()> {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        self.connection.close(&mut self.output);
        while !self.connection.is_closed() {
            if Instant::now() >= deadline {
                bail!("{} did not answer the end of the connection in {CLOSE_TIMEOUT:?}", self.server);
            }
            self.write()?;
            self.turn(None, Some(deadline), &mut |_| Ok(()))?;
        }
        Ok(())
    }

    fn answer<T>(&mut self, channel: u16, answer: impl Fn(&Method<'_>) -> Option<T>) -> Result<T> {
        self.ask(|event| match event {
            Event::Method { channel: of, method } if *of == channel => answer(method),
            _ => None,
        })
    }

    /// Waits until `answer` makes something of an event.
    fn ask<T>(&mut self, answer: impl Fn(&Event<'_>) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answered = None;
        loop {
            self.write()?;
            self.turn(None, Some(deadline), &mut |event: Event<'_>| {
                answered = answered.take().or_else(|| answer(&event));
                Ok(())
            })?;
            if let Some(answer) = answered {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                bail!("{} did not answer in {ANSWER_TIMEOUT:?}", self.server);
            }
        }
    }

    /// Sleeps until there is something to do, and hears what has arrived.
    fn turn(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
        hear: &mut impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Woken> {
        let silent_until = self.keep_alive()?;
        let until = deadline.into_iter().chain(silent_until).chain(self.next_heartbeat()).min();
        let (socket, other) = self.sleep(other, until)?;
        if socket {
            let heard = self.read(hear)?;
            return Ok(Woken { heard, other });
        }
        // Only now, since we may have been asleep for long, with signs of life waiting to be read.
        if silent_until.is_some_and(|until| Instant::now() >= until) {
            bail!("{} has given no sign of life for {:?}", self.server, 2 * self.heartbeat());
        }
        Ok(Woken { heard: false, other })
    }

    /// Sends a heartbeat when it is time. Returns until when the server may be silent: for two intervals, of which it should
    /// not let pass a half.
    fn keep_alive(&mut self) -> Result<Option<Instant>> {
        if self.next_heartbeat().is_some_and(|next| Instant::now() >= next) {
            frame::heartbeat(&mut self.output);
            self.write()?;
        }
        let is_beating = self.connection.is_ready() && !self.heartbeat().is_zero();
        Ok(is_beating.then(|| self.last_read + 2 * self.heartbeat()))
    }

    /// When to say something; not while something waits to be written.
    fn next_heartbeat(&self) -> Option<Instant> {
        let is_beating = self.connection.is_ready() && !self.heartbeat().is_zero() && self.output.is_empty();
        is_beating.then(|| self.last_write + self.heartbeat() / 2)
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.connection.heartbeat().into())
    }

    /// Sleeps until the socket or `other` is ready, or until `until`. Returns whether there is something to read: from the
    /// socket, from `other`.
    fn sleep(&self, other: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<(bool, bool)> {
        let interest = match self.output.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let stream = self.stream.as_fd();
        let mut both = [
            PollFd::from_borrowed_fd(stream, interest),
            PollFd::from_borrowed_fd(other.unwrap_or(stream), PollFlags::IN),
        ];
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let watched = if other.is_some() { 2 } else { 1 };
        match poll(&mut both[..watched], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the socket"),
        }
        let is_ready = |index: usize| index < watched && both[index].revents().intersects(!PollFlags::OUT);
        Ok((is_ready(0), is_ready(1)))
    }

    /// Writes what the socket takes; true when that was all.
    fn write(&mut self) -> Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(size) => self.written += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.hear_why(error)),
            }
            self.last_write = Instant::now();
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }

    /// The socket failed: the server's reason, if it has arrived, says more.
    fn hear_why(&mut self, error: io::Error) -> anyhow::Error {
        loop {
            match self.read(&mut |_| Ok(())) {
                Ok(true) => {}
                Ok(false) => return anyhow!(error).context(self.lost()),
                Err(reason) => return reason,
            }
        }
    }

    /// Reads once, and hears it; true when something came.
    fn read(&mut self, hear: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<bool> {
        match self.input.read(&mut self.stream) {
            Ok(Read::Some) => {}
            Ok(Read::Nothing) => return Ok(false),
            Ok(Read::End) => bail!("{}: the server closed the socket", self.lost()),
            Err(error) => return Err(error).with_context(|| self.lost()),
        }
        self.last_read = Instant::now();
        let heard = self.parse(hear);
        if heard.is_err() {
            // Our answer to what the server said, if the socket takes it at once: it is only polite.
            let _ = self.stream.write(&self.output[self.written..]);
        }
        heard.map(|()| true)
    }

    /// Hears everything that has arrived whole.
    fn parse(&mut self, hear: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        loop {
            let step = self.connection.receive(self.input.bytes(), &mut self.output);
            let step = step.map_err(|failure| anyhow!("the server broke the protocol: {}", failure.error))?;
            match step.event {
                Some(Event::ChannelClosed { close, .. }) => bail!(closed(close.reply_code, close.reply_text)),
                Some(Event::Closed { close: Some(close) }) => {
                    bail!(closed(close.reply_code, close.reply_text))
                }
                Some(Event::Heartbeat) | None => {}
                Some(event) => hear(event)?,
            }
            if step.used == 0 {
                return Ok(());
            }
            self.input.used(step.used);
        }
    }

    fn lost(&self) -> String {
        format!("the connection to {} is lost", self.server)
    }
}

/// What a [`Client::turn`] found.
struct Woken {
    heard: bool,
    other: bool,
}

fn options(uri: &Uri, name: &str) -> Options {
    Options {
        credentials: uri.credentials.clone(),
        vhost: uri.vhost.clone(),
        connection_name: Some(name.to_owned()),
        frame_max: uri.frame_max.filter(|size| *size != 0).unwrap_or(FRAME_MAX),
        channel_max: uri.channel_max.unwrap_or_default(),
        heartbeat: uri.heartbeat.unwrap_or_default(),
        max_message_size: BODY_SIZE_MAX,
    }
}

/// A socket that never blocks, to the first address that accepts.
fn open_socket(uri: &Uri) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (uri.host.as_str(), uri.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn closed(code: u16, text: &str) -> Closed {
    Closed { code, text: text.to_owned() }
}

/// Which step of the handshake failed.
fn explain_refusal(error: anyhow::Error, uri: &Uri, server: &str) -> anyhow::Error {
    let (user, vhost) = (&uri.credentials.user, &uri.vhost);
    match error.downcast_ref::<Closed>() {
        Some(closed) if closed.code == Code::AccessRefused.value() => {
            error.context(format!("cannot log in to {server} as user '{user}'"))
        }
        Some(_) => {
            error.context(format!("cannot open the virtual host '{vhost}' at {server} as user '{user}'"))
        }
        None => error.context(format!("{server} does not complete the AMQP handshake")),
    }
}
