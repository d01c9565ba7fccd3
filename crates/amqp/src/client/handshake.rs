//! From the server's greeting to `connection.open-ok`, and the other end, from `connection.close` to its
//! answer.

use super::{Connection, Event, Step};
use crate::capabilities::Capabilities;
use crate::error::{Error, Result};
use crate::frame::{self, Kind};
use crate::method::{Method, connection};
use crate::receiver::{Limits, Receiver, Side};
use crate::sasl;
use crate::table::TableBuilder;

/// What is awaited from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// `connection.start`.
    Start,
    /// `connection.tune`.
    Tune,
    /// `connection.open-ok`.
    OpenOk,
    /// Anything.
    Ready,
    /// `connection.close-ok`.
    Closing,
    /// Nothing.
    Closed,
}

impl Connection {
    /// [`Connection::receive`] in all states but ready.
    pub(super) fn receive_unready<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> Result<Step<'a>> {
        if self.state == State::Closed {
            return Ok(Step { used: input.len(), event: None });
        }
        if self.state == State::Start && input.starts_with(b"AMQP") {
            let version = input.get(4..8).unwrap_or_default();
            return Err(Error::not_implemented(format!("the server speaks AMQP version {version:?} only")));
        }
        let frame = match frame::parse(input, self.frame_max()) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Step { used: 0, event: None }),
            Err(_) if self.state == State::Closing => {
                return Ok(Step { used: input.len(), event: None });
            }
            Err(error) => return Err(error),
        };
        let event = match frame.kind {
            Kind::Method if frame.channel == 0 => {
                self.handshake_method(Method::decode(frame.payload)?, out)?
            }
            Kind::Heartbeat => Some(Event::Heartbeat),
            _ if self.state == State::Closing => None,
            Kind::Method | Kind::Header | Kind::Body => {
                return Err(Error::unexpected_frame("a channel before the connection is open"));
            }
        };
        Ok(Step { used: frame.size(), event })
    }

    fn handshake_method<'a>(&mut self, method: Method<'a>, out: &mut Vec<u8>) -> Result<Option<Event<'a>>> {
        match (self.state, method) {
            (_, Method::ConnectionClose(close)) => {
                return Ok(Some(answer_close(&mut self.state, close, out)));
            }
            (State::Start, Method::ConnectionStart(start)) => self.answer_start(&start, out)?,
            (State::Tune, Method::ConnectionTune(tune)) => self.answer_tune(tune, out),
            (State::OpenOk, Method::ConnectionOpenOk(_)) => {
                self.state = State::Ready;
                return Ok(Some(Event::Opened));
            }
            (State::Closing, Method::ConnectionCloseOk(_)) => {
                self.state = State::Closed;
                return Ok(Some(Event::Closed { close: None }));
            }
            (State::Closing, _) => {}
            _ => {
                let text = format!("unexpected method '{}' before the connection is open", method.name());
                return Err(Error::channel_error(text).at(method.id()));
            }
        }
        Ok(None)
    }

    fn answer_start(&mut self, start: &connection::Start<'_>, out: &mut Vec<u8>) -> Result<()> {
        if !start.mechanisms.split(|byte| *byte == b' ').any(|mechanism| mechanism == b"PLAIN") {
            return Err(Error::not_implemented("the server does not offer PLAIN").at((10, 10)));
        }
        let capabilities = Capabilities {
            publisher_confirms: true,
            exchange_exchange_bindings: true,
            basic_nack: true,
            consumer_cancel_notify: true,
            connection_blocked: true,
            authentication_failure_close: true,
            ..Capabilities::default()
        };
        let mut client_properties = TableBuilder::new()
            .with("product", "Leveret client")
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("platform", "Rust")
            .with("capabilities", capabilities.to_table().as_table());
        if let Some(name) = &self.options.connection_name {
            client_properties.insert("connection_name", name.as_str());
        }
        let start_ok = connection::StartOk {
            client_properties: client_properties.as_table(),
            mechanism: "PLAIN",
            response: &sasl::plain(&self.options.credentials.user, &self.options.credentials.password),
            locale: "en_US",
        };
        frame::method(out, 0, &Method::ConnectionStartOk(start_ok));
        self.state = State::Tune;
        Ok(())
    }

    fn answer_tune(&mut self, tune: connection::Tune, out: &mut Vec<u8>) {
        let limits = Limits {
            frame_max: lower(tune.frame_max, self.options.frame_max),
            channel_max: lower(tune.channel_max, self.options.channel_max),
            max_message_size: self.options.max_message_size,
        };
        self.heartbeat = lower(tune.heartbeat, self.options.heartbeat);
        self.receiver = Receiver::new(Side::Client, limits);
        let tune_ok = connection::TuneOk {
            channel_max: limits.channel_max,
            frame_max: limits.frame_max,
            heartbeat: self.heartbeat,
        };
        frame::method(out, 0, &Method::ConnectionTuneOk(tune_ok));
        let open = connection::Open { vhost: &self.options.vhost };
        frame::method(out, 0, &Method::ConnectionOpen(open));
        self.state = State::OpenOk;
    }
}

/// Answers the server's `connection.close`.
pub(super) fn answer_close<'a>(
    state: &mut State,
    close: connection::Close<'a>,
    out: &mut Vec<u8>,
) -> Event<'a> {
    frame::method(out, 0, &Method::ConnectionCloseOk(connection::CloseOk {}));
    *state = State::Closed;
    Event::Closed { close: Some(close) }
}

/// The lower of two limits, where 0 is none.
fn lower<N: Ord + Default>(one: N, another: N) -> N {
    let none = N::default();
    if one == none || (another != none && another < one) { another } else { one }
}
