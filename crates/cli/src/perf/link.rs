//! A connection while it is set up and taken down: handshake, one channel, calls and their answers. The raw
//! loops of producers and consumers take its socket over in between.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use amqp::client::{Connection, Event, Options};
use amqp::content::{Message, Publish};
use amqp::method::{Method, channel};
use amqp::uri::Uri;
use anyhow::{Context, Result, bail};

/// The one channel of each connection.
pub(super) const CHANNEL: u16 = 1;
/// Bytes of a frame that we ask for: RabbitMQ's default, so that all brokers are treated alike.
const FRAME_MAX: u32 = 131_072;
/// How long a server may think about a call. RabbitMQ takes its time to delete a long queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const READ_SIZE: usize = 64 * 1024;

/// An open connection with channel 1 open.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    connection: Connection,
    inbox: Vec<u8>,
    out: Vec<u8>,
}

impl Link {
    /// Connects, logs in and opens the channel.
    pub(super) fn open(uri: &Uri, name: String) -> Result<Link> {
        let place = (uri.host.as_str(), uri.port);
        let stream = TcpStream::connect(place)
            .with_context(|| format!("cannot connect to {}:{}", uri.host, uri.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let options = Options {
            credentials: uri.credentials.clone(),
            vhost: uri.vhost.clone(),
            connection_name: Some(name),
            frame_max: uri.frame_max.unwrap_or(FRAME_MAX),
            channel_max: uri.channel_max.unwrap_or(0),
            heartbeat: uri.heartbeat.unwrap_or(0),
            max_message_size: u64::MAX,
        };
        let mut out = Vec::new();
        let connection = Connection::start(options, &mut out);
        let mut link = Link { stream, connection, inbox: Vec::new(), out };
        link.wait("the greeting", |event| matches!(event, Event::Opened).then_some(()))?;
        link.connection.open_channel(&mut link.out, CHANNEL);
        link.wait("channel.open", |event| {
            method(event, |it| matches!(it, Method::ChannelOpenOk(_)).then_some(()))
        })?;
        Ok(link)
    }

    /// Sends a method and waits for the answer that `answer` recognises.
    pub(super) fn call<T>(
        &mut self,
        request: &Method<'_>,
        answer: impl Fn(&Method<'_>) -> Option<T>,
    ) -> Result<T> {
        self.connection.send(&mut self.out, CHANNEL, request);
        self.wait(request.name(), |event| method(event, &answer))
    }

    /// Appends a whole publish as this connection splits it into frames.
    pub(super) fn encode_publish(&self, out: &mut Vec<u8>, message: Message<'_>) {
        self.connection.publish(out, CHANNEL, Publish { mandatory: false }, message);
    }

    /// Seconds between heartbeats, as agreed; 0 is none.
    pub(super) fn heartbeat(&self) -> u16 {
        self.connection.heartbeat()
    }

    /// The socket, for a raw loop. Between two calls nothing of what the server said is left in here.
    pub(super) fn socket(&self) -> Result<TcpStream> {
        let socket = self.stream.try_clone().context("cannot share a socket")?;
        socket.set_read_timeout(None)?;
        Ok(socket)
    }

    /// Reads until `wished` recognises something.
    fn wait<T>(&mut self, what: &str, wished: impl Fn(&Event<'_>) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = self.step(&wished).with_context(|| format!("{what} failed"))? {
                return Ok(found);
            }
            self.exchange(what)?;
        }
    }

    /// Writes what there is to say, then reads what there is to hear.
    fn exchange(&mut self, what: &str) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        let before = self.inbox.len();
        self.inbox.resize(before + READ_SIZE, 0);
        let read = self.stream.read(self.inbox.get_mut(before..).unwrap_or_default());
        self.inbox.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => bail!("the server closed the connection during {what}"),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("the server did not answer {what} within {} s", ANSWER_TIMEOUT.as_secs())
            }
            Err(error) => Err(error).with_context(|| format!("during {what}")),
        }
    }

    /// Takes what has been read so far, up to something that is wished for.
    fn step<T>(&mut self, wished: impl Fn(&Event<'_>) -> Option<T>) -> Result<Option<T>> {
        let mut used_in_all = 0;
        let mut found = None;
        while found.is_none() {
            let input = self.inbox.get(used_in_all..).unwrap_or_default();
            let step = self.connection.receive(input, &mut self.out);
            let step = step.map_err(|failure| {
                anyhow::anyhow!("the server said nonsense: {}", failure.error.reply_text())
            })?;
            if step.used == 0 {
                break;
            }
            used_in_all += step.used;
            if let Some(event) = &step.event {
                refuse_closing(event)?;
                found = wished(event);
            }
        }
        self.inbox.drain(..used_in_all);
        Ok(found)
    }
}

fn refuse_closing(event: &Event<'_>) -> Result<()> {
    match event {
        Event::ChannelClosed { close, .. } => Err(closed_channel(close)),
        Event::Closed { close: Some(close) } => {
            bail!("the server closed the connection: {} {}", close.reply_code, close.reply_text)
        }
        _ => Ok(()),
    }
}

/// The error of a channel that the server closed.
pub(super) fn closed_channel(close: &channel::Close<'_>) -> anyhow::Error {
    anyhow::anyhow!("the server closed the channel: {} {}", close.reply_code, close.reply_text)
}

fn method<T>(event: &Event<'_>, answer: impl Fn(&Method<'_>) -> Option<T>) -> Option<T> {
    match event {
        Event::Method { method, .. } => answer(method),
        _ => None,
    }
}
