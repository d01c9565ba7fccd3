//! A connection as the client sees it: handshake, channels, close.
//!
//! [`Connection::start`] says the first words. Bytes that arrived go into [`Connection::receive`], events
//! come out; answers are appended to `out`, which the caller writes to the socket. The handshake answers
//! itself, until [`Event::Opened`]. Then open channels, send methods and publish; methods and messages come
//! until [`Event::Closed`].

mod handshake;

use crate::content::{self, Message, Publish};
use crate::error::Error;
use crate::frame;
use crate::method::{Method, channel, connection};
use crate::properties::Properties;
use crate::receiver::{self, Failure, Limits, Receiver, Side};
use crate::sasl::Credentials;
use handshake::State;

/// Who the client is and what it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Login by PLAIN.
    pub credentials: Credentials,
    /// The virtual host to work in.
    pub vhost: String,
    /// What the server shows to its operators.
    pub connection_name: Option<String>,
    /// Bytes of a frame with its overhead; 0 is whatever the server offers.
    pub frame_max: u32,
    /// The highest channel number; 0 is whatever the server offers.
    pub channel_max: u16,
    /// Seconds; 0 is whatever the server offers.
    pub heartbeat: u16,
    /// Bytes of a body; a larger one costs the server its channel.
    pub max_message_size: u64,
}

/// What [`Connection::receive`] made of its input.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step<'a> {
    /// Bytes of the input that are done with. If none, more must be read; else call again.
    pub used: usize,
    /// What they said, if it concerns the caller.
    pub event: Option<Event<'a>>,
}

/// Something that the server said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event<'a> {
    /// The handshake is over; channels can be opened.
    Opened,
    /// A method without content.
    Method {
        /// 0 only for `connection.blocked`, `unblocked` and `update-secret-ok`.
        channel: u16,
        /// The method.
        method: Method<'a>,
    },
    /// A message.
    Content {
        /// The channel.
        channel: u16,
        /// `basic.deliver`, `basic.return` or `basic.get-ok`.
        method: Method<'a>,
        /// The properties.
        properties: Properties<'a>,
        /// The whole body.
        body: &'a [u8],
    },
    /// The server closed a channel, and has its answer.
    ChannelClosed {
        /// Its number.
        channel: u16,
        /// Why.
        close: channel::Close<'a>,
    },
    /// A sign of life.
    Heartbeat,
    /// The connection is over: write what is in `out`, then close the socket.
    Closed {
        /// Why, if it was the server's wish.
        close: Option<connection::Close<'a>>,
    },
}

/// One connection. See the module's text for how to drive it.
#[derive(Debug)]
pub struct Connection {
    state: State,
    options: Options,
    heartbeat: u16,
    receiver: Receiver,
}

impl Connection {
    /// Sends the protocol header.
    #[must_use]
    pub fn start(options: Options, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&frame::PROTOCOL_HEADER);
        let limits = Limits {
            frame_max: options.frame_max,
            channel_max: options.channel_max,
            max_message_size: options.max_message_size,
        };
        Self { state: State::Start, options, heartbeat: 0, receiver: Receiver::new(Side::Client, limits) }
    }

    /// Bytes of a frame with its overhead, as agreed; 0 is no limit.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.receiver.limits().frame_max
    }

    /// The highest channel number, as agreed; 0 is no limit.
    #[must_use]
    pub fn channel_max(&self) -> u16 {
        self.receiver.limits().channel_max
    }

    /// Seconds between signs of life, as agreed; 0 is none.
    #[must_use]
    pub fn heartbeat(&self) -> u16 {
        self.heartbeat
    }

    /// Whether the handshake is over and neither side has closed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether nothing more is to be said or heard: the socket can be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Takes the next thing from the front of `input`. The caller repeats this with the rest of the input
    /// until [`Step::used`] is 0, and then with more input.
    ///
    /// # Errors
    /// A [`Failure`] has been answered in `out`; write that and go on behind [`Failure::used`].
    pub fn receive<'a>(&'a mut self, input: &'a [u8], out: &mut Vec<u8>) -> Result<Step<'a>, Failure> {
        if self.state != State::Ready {
            let step = self.receive_unready(input, out).map_err(Failure::connection);
            return step.inspect_err(|failure| answer_failure(&mut self.state, failure, out));
        }
        let step = self.receiver.receive(input);
        let receiver::Step { used, event } =
            step.inspect_err(|failure| answer_failure(&mut self.state, failure, out))?;
        let event = event.and_then(|event| ready_event(&mut self.state, event, out));
        Ok(Step { used, event })
    }

    /// Sends `channel.open`.
    ///
    /// # Panics
    /// Before [`Event::Opened`], or if the number is 0, taken, or above what was agreed.
    pub fn open_channel(&mut self, out: &mut Vec<u8>, channel: u16) {
        let max = self.channel_max();
        assert!(self.is_ready(), "channels are opened on an open connection");
        assert!(channel > 0 && (max == 0 || channel <= max), "channel {channel} is not in 1 to {max}");
        assert!(!self.receiver.is_open(channel), "channel {channel} is open already");
        self.receiver.open(channel);
        frame::method(out, channel, &Method::ChannelOpen(channel::Open {}));
    }

    /// Sends `channel.close`. What arrives on the channel is discarded until `channel.close-ok`, which is an
    /// event.
    pub fn close_channel(&mut self, out: &mut Vec<u8>, channel: u16) {
        if self.receiver.is_open(channel) {
            self.receiver.close(channel);
            let close = channel::Close { reply_code: 200, reply_text: "OK", class_id: 0, method_id: 0 };
            frame::method(out, channel, &Method::ChannelClose(close));
        }
    }

    /// Sends a method without content; not one that opens or closes.
    pub fn send(&self, out: &mut Vec<u8>, channel: u16, method: &Method<'_>) {
        frame::method(out, channel, method);
    }

    /// Sends a message.
    #[inline]
    pub fn publish(&self, out: &mut Vec<u8>, channel: u16, method: Publish, message: Message<'_>) {
        content::publish(out, channel, method, message, self.frame_max());
    }

    /// Sends `connection.close`. All that arrives is ignored until [`Event::Closed`].
    pub fn close(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Start => self.state = State::Closed,
            State::Closed | State::Closing => {}
            State::Tune | State::OpenOk | State::Ready => put_close(&mut self.state, 200, "OK", (0, 0), out),
        }
    }
}

fn put_close(state: &mut State, code: u16, text: &str, method: (u16, u16), out: &mut Vec<u8>) {
    *state = State::Closing;
    let close =
        connection::Close { reply_code: code, reply_text: text, class_id: method.0, method_id: method.1 };
    frame::method(out, 0, &Method::ConnectionClose(close));
}

/// Tells the server which rule it broke.
#[cold]
fn answer_failure(state: &mut State, failure: &Failure, out: &mut Vec<u8>) {
    let Error { code, method, .. } = failure.error;
    let text = failure.error.reply_text();
    if failure.channel != 0 {
        let (class_id, method_id) = method;
        let close = channel::Close { reply_code: code.value(), reply_text: &text, class_id, method_id };
        frame::method(out, failure.channel, &Method::ChannelClose(close));
    } else if *state == State::Start {
        *state = State::Closed;
    } else if !matches!(*state, State::Closed | State::Closing) {
        put_close(state, code.value(), &text, method, out);
    }
}

/// What the receiver found, in the ready state.
fn ready_event<'a>(state: &mut State, event: receiver::Event<'a>, out: &mut Vec<u8>) -> Option<Event<'a>> {
    match event {
        receiver::Event::Content { channel, method, properties, body } => {
            Some(Event::Content { channel, method, properties, body })
        }
        receiver::Event::Method { method: Method::ConnectionClose(close), .. } => {
            Some(handshake::answer_close(state, close, out))
        }
        receiver::Event::Method { channel, method: Method::ChannelClose(close) } => {
            frame::method(out, channel, &Method::ChannelCloseOk(channel::CloseOk {}));
            Some(Event::ChannelClosed { channel, close })
        }
        receiver::Event::Method { channel, method } => Some(Event::Method { channel, method }),
        receiver::Event::Crossed { channel } => {
            frame::method(out, channel, &Method::ChannelCloseOk(channel::CloseOk {}));
            None
        }
        receiver::Event::Heartbeat => Some(Event::Heartbeat),
    }
}
