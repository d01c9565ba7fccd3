//! Frames in, methods and whole messages out: the hot path of everything that arrives.
//!
//! Call [`Receiver::receive`] with what has been read and not used yet, until it uses nothing more; then read
//! more. A message whose frames lie together in the input is borrowed from it. Otherwise its pieces gather
//! here, per channel, and never take more memory than twice what has arrived. Tell the receiver with
//! [`Receiver::close`] that `channel.close` was sent (and with [`Receiver::open`] that `channel.open` was, if
//! this is the client).

mod ahead;
mod partial;

use crate::error::{Error, Result as Parsed};
use crate::frame::{self, Frame, Kind, OVERHEAD};
use crate::method::Method;
use crate::properties::Properties;
use ahead::{Ahead, Content};
use partial::{Header, Partial};

/// Largest body in bytes whatever the configuration says (RabbitMQ: 512 MiB).
pub const BODY_SIZE_MAX: u64 = 512 * 1024 * 1024;

/// Largest encoded property list in bytes.
pub const PROPERTIES_SIZE_MAX: usize = 64 * 1024;

/// Which end of the connection receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Receives `basic.publish`; the peer opens channels.
    Server,
    /// Receives `basic.deliver`, `basic.return` and `basic.get-ok`; opens channels itself.
    Client,
}

/// What the peer must keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a frame with its overhead; 0 is no limit.
    pub frame_max: u32,
    /// Channels open at once, whatever their numbers; 0 is no limit.
    pub channel_max: u16,
    /// Bytes of a body; a larger one costs the peer its channel.
    pub max_message_size: u64,
}

/// What [`Receiver::receive`] made of its input.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step<'a> {
    /// Bytes of the input that are done with. If none, more must be read; else call again.
    pub used: usize,
    /// What they said, if it concerns anyone.
    pub event: Option<Event<'a>>,
}

/// Something that the peer said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event<'a> {
    /// A method without content.
    Method {
        /// 0 for the connection.
        channel: u16,
        /// The method.
        method: Method<'a>,
    },
    /// A method with its content.
    Content {
        /// Never 0.
        channel: u16,
        /// `basic.publish` for a server; `basic.deliver`, `basic.return` or `basic.get-ok` for a client.
        method: Method<'a>,
        /// The properties.
        properties: Properties<'a>,
        /// The whole body.
        body: &'a [u8],
    },
    /// The peer closed a channel that we had closed too; all that is left to do is answer `channel.close-ok`.
    Crossed {
        /// Its number.
        channel: u16,
    },
    /// A sign of life.
    Heartbeat,
}

/// A `basic.publish` with all of its content, not marked immediate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Publish<'a> {
    /// Bytes of the input that it took.
    pub used: usize,
    /// Never 0.
    pub channel: u16,
    /// Exchange and routing key, two adjacent short strings; whether they are UTF-8 is not yet known.
    pub exchange_and_key: &'a [u8],
    /// It comes back if it cannot be routed.
    pub mandatory: bool,
    /// The properties.
    pub properties: Properties<'a>,
    /// The whole body.
    pub body: &'a [u8],
}

/// The peer broke a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The channel to close, 0 for the connection. A channel is already [closing](Receiver::close) here.
    pub channel: u16,
    /// Bytes of the input that are done with; after a failure of a channel the receiver goes on behind them.
    pub used: usize,
    /// What to tell the peer.
    pub error: Error,
}

impl Failure {
    /// A failure of the connection, after which nothing more is received.
    #[must_use]
    #[cold]
    pub fn connection(error: Error) -> Self {
        Self { channel: 0, used: 0, error }
    }
}

impl<'a> Step<'a> {
    /// Nothing can be done before more bytes arrive.
    pub const WAIT: Step<'static> = Step { used: 0, event: None };

    #[inline]
    fn event(used: usize, event: Event<'a>) -> Self {
        Self { used, event: Some(event) }
    }

    fn silent(used: usize) -> Self {
        Self { used, event: None }
    }
}

/// What may arrive on a channel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    /// Only `channel.open`.
    #[default]
    Closed,
    /// Everything.
    Open,
    /// We sent `channel.close`: all but `channel.close` and `channel.close-ok` is discarded.
    Closing,
    /// Both sent `channel.close`: `channel.close-ok` may come, and `channel.open` may come without it.
    Crossed,
}

/// Invariant: `partial` is there only while the channel is open.
#[derive(Default, Debug)]
struct Channel {
    state: State,
    partial: Option<Box<Partial>>,
}

/// Assembles what arrives on one connection. See the module's text for how to drive it.
#[derive(Debug)]
pub struct Receiver {
    side: Side,
    limits: Limits,
    /// By number; as long as the highest number that was opened: 1 MiB at most.
    channels: Vec<Channel>,
    open_count: usize,
    /// The assembled message that the last event borrows from.
    finished: Option<Box<Partial>>,
}

impl Receiver {
    /// A receiver without channels.
    #[must_use]
    pub fn new(side: Side, limits: Limits) -> Self {
        Self { side, limits, channels: Vec::new(), open_count: 0, finished: None }
    }

    /// What the peer must keep to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes that a caller's read buffer must be able to hold: the largest tolerated frame. A `frame_max` of
    /// 0 makes this [`usize::MAX`].
    #[must_use]
    pub fn input_size_max(&self) -> usize {
        match usize::try_from(self.limits.frame_max) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(size) => size.saturating_add(OVERHEAD),
        }
    }

    /// Channels that are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Whether the channel is open.
    #[must_use]
    pub fn is_open(&self, channel: u16) -> bool {
        self.state(channel) == State::Open
    }

    /// Bytes of unfinished messages held here, over all channels. Walks the channels.
    #[must_use]
    pub fn buffered_size(&self) -> usize {
        self.channels
            .iter()
            .filter_map(|channel| channel.partial.as_ref())
            .map(|partial| partial.size())
            .sum()
    }

    /// Marks a channel as open because `channel.open` was sent.
    pub fn open(&mut self, channel: u16) {
        self.set_state(channel, State::Open);
    }

    /// Marks a channel as closing because `channel.close` was sent: its number stays taken until the peer
    /// answers, and all else that arrives on it is discarded. Does nothing if the channel is not open.
    pub fn close(&mut self, channel: u16) {
        if self.is_open(channel) {
            self.set_state(channel, State::Closing);
        }
    }

    /// What is mostly at the front of `input`, straight through: a `basic.publish` with all of its content. Nothing is
    /// an error here: what is not as expected is left to [`Receiver::receive`].
    #[inline(always)]
    #[must_use]
    pub fn receive_publish<'a>(&self, input: &'a [u8]) -> Option<Publish<'a>> {
        let &[_, c0, c1] = input.first_chunk()?;
        let channel = u16::from_be_bytes([c0, c1]);
        let open = self.channels.get(usize::from(channel))?;
        if open.state != State::Open || open.partial.is_some() || self.side != Side::Server {
            return None;
        }
        let payload = frame::expect(input, Kind::Method, channel, self.limits.frame_max)?;
        let (exchange_and_key, mandatory) = publish_arguments(payload)?;
        let Content { used, properties, body } =
            ahead::content(input, payload.len() + OVERHEAD, channel, &self.limits)?;
        Some(Publish { used, channel, exchange_and_key, mandatory, properties, body })
    }

    /// Takes the next thing from the front of `input`. The caller repeats this with the rest of the input
    /// until [`Step::used`] is 0, and then with more input.
    ///
    /// # Errors
    /// A [`Failure`] of the connection ends it; after one of a channel, go on behind [`Failure::used`].
    pub fn receive<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<'a>, Failure> {
        self.finished = None;
        let frame = match frame::parse(input, self.limits.frame_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Step::WAIT),
            Err(error) => return Err(Failure::connection(error)),
        };
        match frame.kind {
            Kind::Method if frame.channel == 0 => connection_method(frame).map_err(Failure::connection),
            Kind::Method if self.state(frame.channel) == State::Open => self.method(frame, input),
            Kind::Method => self.method_of_closed(frame).map_err(Failure::connection),
            Kind::Header => self.header(frame),
            Kind::Body => self.body(frame).map_err(Failure::connection),
            Kind::Heartbeat => Ok(Step::event(frame.size(), Event::Heartbeat)),
        }
    }

    #[inline]
    fn state(&self, channel: u16) -> State {
        self.channels.get(usize::from(channel)).map_or(State::Closed, |channel| channel.state)
    }

    fn set_state(&mut self, number: u16, state: State) {
        let index = usize::from(number);
        if index >= self.channels.len() {
            self.channels.resize_with(index + 1, Channel::default);
        }
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        self.open_count -= usize::from(channel.state == State::Open);
        self.open_count += usize::from(state == State::Open);
        *channel = Channel { state, partial: None };
    }

    fn partial(&mut self, channel: u16) -> Option<&mut Box<Partial>> {
        self.channels.get_mut(usize::from(channel))?.partial.as_mut()
    }

    /// A method on an open channel.
    fn method<'a>(&'a mut self, frame: Frame<'a>, input: &'a [u8]) -> Result<Step<'a>, Failure> {
        if let Some(partial) = self.partial(frame.channel) {
            return Err(Failure::connection(partial.unexpected_method()));
        }
        let method = Method::decode(frame.payload).map_err(Failure::connection)?;
        if method.has_content() {
            return self.content(frame, input, method);
        }
        self.plain_method(frame, method).map_err(Failure::connection)
    }

    /// A method that opens a message on an open channel.
    fn content<'a>(
        &'a mut self,
        frame: Frame<'a>,
        input: &'a [u8],
        method: Method<'a>,
    ) -> Result<Step<'a>, Failure> {
        let is_for_server = matches!(method, Method::BasicPublish(_));
        if is_for_server != (self.side == Side::Server) {
            return Err(Failure::connection(unimplemented(&method)));
        }
        let channel = frame.channel;
        match ahead::look(input, frame.size(), channel, &self.limits) {
            Ahead::Whole(Content { used, properties, body }) => {
                Ok(Step::event(used, Event::Content { channel, method, properties, body }))
            }
            Ahead::Wait => Ok(Step::WAIT),
            Ahead::Apart => {
                if let Some(open) = self.channels.get_mut(usize::from(channel)) {
                    open.partial = Some(Box::new(Partial::new(method.id(), frame.payload)));
                }
                Ok(Step::silent(frame.size()))
            }
        }
    }

    /// A method without content on an open channel.
    fn plain_method<'a>(&mut self, frame: Frame<'a>, method: Method<'a>) -> Parsed<Step<'a>> {
        match method {
            Method::ChannelOpen(_) => {
                return Err(Error::channel_error("second 'channel.open' seen").at(method.id()));
            }
            Method::ChannelClose(_) => self.set_state(frame.channel, State::Closed),
            Method::ChannelCloseOk(_) => return Err(unimplemented(&method)),
            _ if method.id().0 == 10 => return Err(unimplemented(&method)),
            _ => {}
        }
        Ok(Step::event(frame.size(), Event::Method { channel: frame.channel, method }))
    }

    /// A method on a channel that is not open.
    fn method_of_closed<'a>(&mut self, frame: Frame<'a>) -> Parsed<Step<'a>> {
        let (channel, state) = (frame.channel, self.state(frame.channel));
        let method = match Method::decode(frame.payload) {
            Err(_) if state == State::Closing => return Ok(Step::silent(frame.size())),
            decoded => decoded?,
        };
        match (state, method) {
            (State::Closed | State::Crossed, Method::ChannelOpen(_)) if self.side == Side::Server => {
                self.check_room()?;
                self.set_state(channel, State::Open);
            }
            (State::Closing, Method::ChannelClose(_)) => {
                self.set_state(channel, State::Crossed);
                return Ok(Step::event(frame.size(), Event::Crossed { channel }));
            }
            (State::Closing | State::Crossed, Method::ChannelCloseOk(_)) => {
                self.set_state(channel, State::Closed);
            }
            (State::Closing, _) | (State::Closed, Method::ChannelCloseOk(_)) => {
                return Ok(Step::silent(frame.size()));
            }
            _ => return Err(Error::channel_error("expected 'channel.open'").at(method.id())),
        }
        Ok(Step::event(frame.size(), Event::Method { channel, method }))
    }

    /// As with RabbitMQ, `channel_max` bounds how many channels are open, not their numbers.
    fn check_room(&self) -> Parsed<()> {
        let (count, max) = (self.open_count, self.limits.channel_max);
        if max == 0 || count < usize::from(max) {
            return Ok(());
        }
        let text =
            format!("number of channels opened ({count}) has reached the negotiated channel_max ({max})");
        Err(Error::not_allowed(text).at((20, 10)))
    }

    /// A content header that did not lie together with its method and body.
    fn header<'a>(&'a mut self, frame: Frame<'a>) -> Result<Step<'a>, Failure> {
        let limits = self.limits;
        match self.state(frame.channel) {
            State::Open => {}
            State::Closing => return Ok(Step::silent(frame.size())),
            State::Closed | State::Crossed => return Err(Failure::connection(not_open())),
        }
        let Some(partial) = self.partial(frame.channel) else {
            return Err(Failure::connection(expected_method()));
        };
        let header = Header::parse(frame.payload).map_err(Failure::connection)?;
        match partial.take_header(&header, &limits) {
            Ok(true) => self.finish(frame).map_err(Failure::connection),
            Ok(false) => Ok(Step::silent(frame.size())),
            Err(error) if error.is_hard() => Err(Failure::connection(error)),
            Err(error) => {
                self.close(frame.channel);
                Err(Failure { channel: frame.channel, used: frame.size(), error })
            }
        }
    }

    /// A piece of a body that did not lie together with its method and header.
    fn body<'a>(&'a mut self, frame: Frame<'a>) -> Parsed<Step<'a>> {
        match self.state(frame.channel) {
            State::Open => {}
            State::Closing => return Ok(Step::silent(frame.size())),
            State::Closed | State::Crossed => return Err(not_open()),
        }
        let partial = self.partial(frame.channel).ok_or_else(expected_method)?;
        if partial.take_body(frame.payload)? {
            return self.finish(frame);
        }
        Ok(Step::silent(frame.size()))
    }

    /// Moves an assembled message to where its event can borrow it.
    fn finish<'a>(&'a mut self, frame: Frame<'a>) -> Parsed<Step<'a>> {
        let channel = frame.channel;
        let open = self.channels.get_mut(usize::from(channel)).ok_or_else(not_open)?;
        let partial = self.finished.insert(open.partial.take().ok_or_else(expected_method)?);
        let (method, properties, body) = partial.message()?;
        Ok(Step::event(frame.size(), Event::Content { channel, method, properties, body }))
    }
}

/// Exchange and key, and the mandatory bit, of a `basic.publish` that is not immediate.
#[inline(always)]
fn publish_arguments(payload: &[u8]) -> Option<(&[u8], bool)> {
    let &[0, 60, 0, 40, _, _, exchange_size, ..] = payload else { return None };
    let arguments = payload.get(6..)?;
    let key_at = 1 + usize::from(exchange_size);
    let end = key_at + 1 + usize::from(*arguments.get(key_at)?);
    match arguments.split_at_checked(end)? {
        (exchange_and_key, &[bits @ (0 | 1)]) => Some((exchange_and_key, bits == 1)),
        _ => None,
    }
}

/// A method on channel 0.
fn connection_method(frame: Frame<'_>) -> Parsed<Step<'_>> {
    let method = Method::decode(frame.payload)?;
    if method.id().0 != 10 {
        let text = format!("'{}' on channel 0, expected a channel", method.name());
        return Err(Error::channel_error(text).at(method.id()));
    }
    Ok(Step::event(frame.size(), Event::Method { channel: 0, method }))
}

#[cold]
fn unimplemented(method: &Method<'_>) -> Error {
    Error::command_invalid(format!("unimplemented method '{}'", method.name())).at(method.id())
}

#[cold]
fn not_open() -> Error {
    Error::channel_error("expected 'channel.open'")
}

#[cold]
fn expected_method() -> Error {
    Error::unexpected_frame("expected method frame, got non method frame instead")
}
