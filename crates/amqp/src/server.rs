//! A connection as the server sees it: handshake, channels, close.
//!
//! Bytes that arrived go into [`Connection::receive`], events come out; answers are appended to `out`, which
//! the caller writes to the socket. In order: [`Event::ProtocolHeader`] is answered by
//! [`Connection::send_start`], [`Event::Login`] by [`Connection::accept_login`], [`Connection::challenge`] or
//! [`Connection::refuse_login`], [`Event::Open`] by [`Connection::accept_open`]. While an answer is due,
//! `receive` uses nothing; after it, call again with what is left. From then on methods and messages come
//! until [`Event::Closed`]. A [`Failure`] is answered by [`Connection::fail`].

mod handshake;

use crate::capabilities::Capabilities;
use crate::error::{Code, Error};
use crate::frame;
use crate::method::{Method, basic, channel, connection};
use crate::properties::Properties;
use crate::receiver::{self, Failure, Limits, Publish, Receiver, Side};
use crate::table::Table;
use handshake::State;

/// What the server offers before it knows who the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Bytes of a frame with its overhead; 0 is no limit. Usually 131072.
    pub frame_max: u32,
    /// The highest channel number; 0 is no limit. Usually 2047.
    pub channel_max: u16,
    /// Seconds; 0 is none. Usually 60.
    pub heartbeat: u16,
    /// Bytes of a body; a larger one costs the client its channel.
    pub max_message_size: u64,
}

/// What both agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Bytes of a frame with its overhead; 0 is no limit.
    pub frame_max: u32,
    /// The highest channel number; 0 is no limit.
    pub channel_max: u16,
    /// Seconds; 0 is none.
    pub heartbeat: u16,
}

/// What [`Connection::receive`] made of its input.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step<'a> {
    /// Bytes of the input that are done with. If none, more must be read, or an answer is due; else call
    /// again.
    pub used: usize,
    /// What they said, if it concerns the caller.
    pub event: Option<Event<'a>>,
}

/// Something that the client said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event<'a> {
    /// The client speaks AMQP 0-9-1.
    ProtocolHeader,
    /// The client says who it is.
    Login {
        /// A name out of those offered, or not.
        mechanism: &'a str,
        /// See [`sasl`](crate::sasl).
        response: &'a [u8],
        /// What the client tells about itself.
        client_properties: Table<'a>,
        /// Usually `en_US`.
        locale: &'a str,
    },
    /// The client answers a [challenge](Connection::challenge).
    Response {
        /// The mechanism's next message.
        response: &'a [u8],
    },
    /// The client wants to work in this virtual host.
    Open {
        /// Its name.
        vhost: &'a str,
    },
    /// The client opened a channel; answer with [`Connection::accept_channel`].
    ChannelOpened {
        /// Its number.
        channel: u16,
    },
    /// The client closed a channel that was open, and has its answer.
    ChannelClosed {
        /// Its number.
        channel: u16,
    },
    /// A method without content that is not about opening or closing.
    Method {
        /// 0 only for `connection.update-secret`.
        channel: u16,
        /// The method; one that only servers send is for the caller to refuse.
        method: Method<'a>,
    },
    /// A message that the client publishes.
    Publish {
        /// The channel.
        channel: u16,
        /// Where to.
        method: basic::Publish<'a>,
        /// The properties.
        properties: Properties<'a>,
        /// The whole body.
        body: &'a [u8],
    },
    /// A sign of life.
    Heartbeat,
    /// The connection is over: write what is in `out`, then close the socket.
    Closed,
}

/// One connection. See the module's text for how to drive it.
#[derive(Debug)]
pub struct Connection {
    state: State,
    offer: Offer,
    negotiated: Negotiated,
    receiver: Receiver,
    capabilities: Capabilities,
    connection_name: Option<String>,
}

impl Connection {
    /// A connection of which nothing has arrived.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        let negotiated = Negotiated { frame_max: frame::SIZE_MAX_BEFORE_TUNE, channel_max: 0, heartbeat: 0 };
        Self {
            state: State::Header,
            offer,
            negotiated,
            receiver: Receiver::new(Side::Server, limits(negotiated, offer)),
            capabilities: Capabilities::default(),
            connection_name: None,
        }
    }

    /// What both agreed on. Before tuning: small frames, no heartbeat.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// What the client says it can do; all off before [`Event::Login`].
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The client's `connection_name`, after [`Event::Login`].
    #[must_use]
    pub fn connection_name(&self) -> Option<&str> {
        self.connection_name.as_deref()
    }

    /// The frames' side of the connection: which channels are open, how much is buffered.
    #[must_use]
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Whether the handshake is over and neither side has closed.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether nothing more is to be said or heard: the socket can be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// See [`Receiver::receive_publish`]: to be tried first by who expects many.
    #[inline(always)]
    #[must_use]
    pub fn receive_publish<'a>(&self, input: &'a [u8]) -> Option<Publish<'a>> {
        if self.is_ready() { self.receiver.receive_publish(input) } else { None }
    }

    /// Takes the next thing from the front of `input`. The caller repeats this with the rest of the input
    /// until [`Step::used`] is 0, and then with more input.
    ///
    /// # Errors
    /// Hand a [`Failure`] to [`Connection::fail`], write `out`, and go on behind [`Failure::used`].
    #[inline]
    pub fn receive<'a>(&'a mut self, input: &'a [u8], out: &mut Vec<u8>) -> Result<Step<'a>, Failure> {
        if self.state != State::Ready {
            return self.receive_unready(input, out);
        }
        let receiver::Step { used, event } = self.receiver.receive(input)?;
        let event = match event {
            None => None,
            Some(receiver::Event::Content {
                channel,
                method: Method::BasicPublish(method),
                properties,
                body,
            }) => Some(Event::Publish { channel, method, properties, body }),
            Some(receiver::Event::Method { channel, method }) if is_about_closing(&method) => {
                closing_method(&mut self.state, channel, method, out)?
            }
            Some(
                receiver::Event::Method { channel, method }
                | receiver::Event::Content { channel, method, .. },
            ) => Some(Event::Method { channel, method }),
            Some(receiver::Event::Crossed { channel }) => {
                frame::method(out, channel, &Method::ChannelCloseOk(channel::CloseOk {}));
                None
            }
            Some(receiver::Event::Heartbeat) => Some(Event::Heartbeat),
        };
        Ok(Step { used, event })
    }

    /// Answers `channel.open`.
    pub fn accept_channel(&mut self, out: &mut Vec<u8>, channel: u16) {
        frame::method(out, channel, &Method::ChannelOpenOk(channel::OpenOk {}));
    }

    /// Closes what a failure asks for: its channel, or the connection.
    pub fn fail(&mut self, out: &mut Vec<u8>, failure: &Failure) {
        if failure.channel == 0 || failure.error.is_hard() {
            self.close(out, &failure.error);
        } else {
            self.put_channel_close(out, failure.channel, &failure.error);
        }
    }

    /// Sends `connection.close`. All that arrives from now on is ignored until `connection.close-ok`, which
    /// is [`Event::Closed`]; a client may never send that, so the caller waits for a limited time. Before the
    /// protocol header, or after a close, there is nobody to tell and nothing is sent.
    pub fn close(&mut self, out: &mut Vec<u8>, error: &Error) {
        match self.state {
            State::Closed | State::Closing => return,
            State::Header | State::Start => {
                self.state = State::Closed;
                return;
            }
            _ => self.state = State::Closing,
        }
        let close = connection::Close {
            reply_code: error.code.value(),
            reply_text: &close_text(error),
            class_id: error.method.0,
            method_id: error.method.1,
        };
        frame::method(out, 0, &Method::ConnectionClose(close));
    }

    /// Sends `channel.close` on an open channel. All that arrives on it is discarded until
    /// `channel.close-ok`, of which there is no event: the channel is over for the caller now.
    pub fn close_channel(&mut self, out: &mut Vec<u8>, channel: u16, error: &Error) {
        if self.receiver.is_open(channel) {
            self.receiver.close(channel);
            self.put_channel_close(out, channel, error);
        }
    }

    fn put_channel_close(&self, out: &mut Vec<u8>, channel: u16, error: &Error) {
        debug_assert!(!self.receiver.is_open(channel), "the channel is marked as closing first");
        let close = channel::Close {
            reply_code: error.code.value(),
            reply_text: &close_text(error),
            class_id: error.method.0,
            method_id: error.method.1,
        };
        frame::method(out, channel, &Method::ChannelClose(close));
    }
}

fn limits(negotiated: Negotiated, offer: Offer) -> Limits {
    Limits {
        frame_max: negotiated.frame_max,
        channel_max: negotiated.channel_max,
        max_message_size: offer.max_message_size,
    }
}

/// A normal close says just its text.
fn close_text(error: &Error) -> String {
    if error.code == Code::ReplySuccess { error.text.clone().into_owned() } else { error.reply_text() }
}

/// Whether the connection handles the method itself: classes connection and channel, but for a new secret and
/// flow.
#[inline]
fn is_about_closing(method: &Method<'_>) -> bool {
    matches!(method.id(), (10, id) if id != 70) || matches!(method.id(), (20, id) if id != 20 && id != 21)
}

/// A method about opening or closing, in the ready state.
fn closing_method<'a>(
    state: &mut State,
    channel: u16,
    method: Method<'a>,
    out: &mut Vec<u8>,
) -> Result<Option<Event<'a>>, Failure> {
    match method {
        Method::ChannelOpen(_) => Ok(Some(Event::ChannelOpened { channel })),
        Method::ChannelClose(_) => {
            frame::method(out, channel, &Method::ChannelCloseOk(channel::CloseOk {}));
            Ok(Some(Event::ChannelClosed { channel }))
        }
        Method::ChannelCloseOk(_) => Ok(None),
        Method::ConnectionClose(_) => {
            frame::method(out, 0, &Method::ConnectionCloseOk(connection::CloseOk {}));
            *state = State::Closed;
            Ok(Some(Event::Closed))
        }
        _ => Err(Failure::connection(handshake::unexpected(&method, State::Ready))),
    }
}
