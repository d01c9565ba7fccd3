//! From the protocol header to `connection.open-ok`, and the other end, from `connection.close` to its
//! answer.

use super::{Connection, Event, Negotiated, Step, limits};
use crate::capabilities::Capabilities;
use crate::error::{Error, Result as Parsed};
use crate::frame::{self, Kind, PROTOCOL_HEADER};
use crate::method::{Method, connection};
use crate::receiver::{Failure, Receiver, Side};
use crate::table::{Table, Value};

/// How clients of AMQP 0-9 say the same.
const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";

/// What is awaited. In `Start`, `Login` and `Opening` it is the caller's answer, else something from the
/// client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The protocol header.
    Header,
    /// [`Connection::send_start`].
    Start,
    /// `connection.start-ok`.
    StartOk,
    /// [`Connection::accept_login`] and its alternatives.
    Login,
    /// `connection.secure-ok`.
    SecureOk,
    /// `connection.tune-ok`.
    TuneOk,
    /// `connection.open`.
    Open,
    /// [`Connection::accept_open`].
    Opening,
    /// Anything.
    Ready,
    /// `connection.close-ok`.
    Closing,
    /// Nothing.
    Closed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Header | Self::Start | Self::StartOk => "starting",
            Self::Login | Self::SecureOk => "securing",
            Self::TuneOk => "tuning",
            Self::Open | Self::Opening => "opening",
            Self::Ready => "running",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

impl Connection {
    /// Answers [`Event::ProtocolHeader`] with `connection.start`; mechanisms are separated by spaces.
    ///
    /// # Panics
    /// Out of turn.
    pub fn send_start(&mut self, out: &mut Vec<u8>, server_properties: Table<'_>, mechanisms: &str) {
        self.advance(State::Start, State::StartOk);
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: mechanisms.as_bytes(),
            locales: b"en_US",
        };
        frame::method(out, 0, &Method::ConnectionStart(start));
    }

    /// Answers [`Event::Login`] or [`Event::Response`] with `connection.tune`.
    ///
    /// # Panics
    /// Out of turn.
    pub fn accept_login(&mut self, out: &mut Vec<u8>) {
        self.advance(State::Login, State::TuneOk);
        let tune = connection::Tune {
            channel_max: self.offer.channel_max,
            frame_max: self.offer.frame_max,
            heartbeat: self.offer.heartbeat,
        };
        frame::method(out, 0, &Method::ConnectionTune(tune));
    }

    /// Answers [`Event::Login`] or [`Event::Response`] with `connection.secure`.
    ///
    /// # Panics
    /// Out of turn.
    pub fn challenge(&mut self, out: &mut Vec<u8>, challenge: &[u8]) {
        self.advance(State::Login, State::SecureOk);
        frame::method(out, 0, &Method::ConnectionSecure(connection::Secure { challenge }));
    }

    /// Answers [`Event::Login`] or [`Event::Response`] with a 403 if the client understands that; otherwise
    /// nothing is sent and the connection [is closed](Connection::is_closed).
    ///
    /// # Panics
    /// Out of turn.
    pub fn refuse_login(&mut self, out: &mut Vec<u8>, mechanism: &str) {
        assert_eq!(self.state, State::Login, "a login is refused when there is one");
        if self.capabilities.authentication_failure_close {
            self.close(
                out,
                &Error::access_refused(format!(
                    "Login was refused using authentication mechanism {mechanism}. \
                     For details see the broker logfile."
                )),
            );
        } else {
            self.state = State::Closed;
        }
    }

    /// Answers [`Event::Open`] with `connection.open-ok`.
    ///
    /// # Panics
    /// Out of turn.
    pub fn accept_open(&mut self, out: &mut Vec<u8>) {
        self.advance(State::Opening, State::Ready);
        frame::method(out, 0, &Method::ConnectionOpenOk(connection::OpenOk {}));
    }

    fn advance(&mut self, from: State, to: State) {
        assert_eq!(self.state, from, "the answers of a handshake follow its events");
        self.state = to;
    }

    /// [`Connection::receive`] in all states but ready.
    #[cold]
    pub(super) fn receive_unready<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Step<'a>, Failure> {
        let step = match self.state {
            State::Start | State::Login | State::Opening => Ok(Step { used: 0, event: None }),
            State::Header => self.protocol_header(input, out),
            State::Closed => Ok(Step { used: input.len(), event: None }),
            State::Closing => Ok(self.drain(input, out)),
            State::StartOk | State::SecureOk | State::TuneOk | State::Open | State::Ready => {
                self.handshake_frame(input, out)
            }
        };
        step.map_err(Failure::connection)
    }

    fn protocol_header<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> Parsed<Step<'a>> {
        let Some(header) = input.first_chunk::<8>() else {
            let is_amqp = input.iter().zip(b"AMQP").all(|(byte, expected)| byte == expected);
            return if is_amqp {
                Ok(Step { used: 0, event: None })
            } else {
                Err(self.refuse_header(input, out))
            };
        };
        if *header != PROTOCOL_HEADER && *header != PROTOCOL_HEADER_0_9 {
            return Err(self.refuse_header(input, out));
        }
        self.state = State::Start;
        Ok(Step { used: header.len(), event: Some(Event::ProtocolHeader) })
    }

    /// Tells the client the version that we speak; the connection is over.
    fn refuse_header(&mut self, input: &[u8], out: &mut Vec<u8>) -> Error {
        out.extend_from_slice(&PROTOCOL_HEADER);
        self.state = State::Closed;
        Error::frame_error(describe_header(input))
    }

    fn handshake_frame<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> Parsed<Step<'a>> {
        let Some(frame) = frame::parse(input, self.negotiated.frame_max)? else {
            return Ok(Step { used: 0, event: None });
        };
        let event = match frame.kind {
            Kind::Heartbeat => Some(Event::Heartbeat),
            Kind::Method if frame.channel == 0 => {
                self.handshake_method(Method::decode(frame.payload)?, out)?
            }
            Kind::Method => {
                let text = format!("channel {} before the connection is open", frame.channel);
                return Err(Error::channel_error(text));
            }
            Kind::Header | Kind::Body => {
                return Err(Error::unexpected_frame("content before the connection is open"));
            }
        };
        Ok(Step { used: frame.size(), event })
    }

    fn handshake_method<'a>(&mut self, method: Method<'a>, out: &mut Vec<u8>) -> Parsed<Option<Event<'a>>> {
        match (self.state, method) {
            (State::StartOk, Method::ConnectionStartOk(start_ok)) => Ok(Some(self.start_ok(&start_ok))),
            (State::SecureOk, Method::ConnectionSecureOk(secure_ok)) => {
                self.state = State::Login;
                Ok(Some(Event::Response { response: secure_ok.response }))
            }
            (State::TuneOk, Method::ConnectionTuneOk(tune_ok)) => {
                self.tune_ok(tune_ok).map_err(|error| error.at(method.id()))?;
                Ok(None)
            }
            (State::Open, Method::ConnectionOpen(open)) => {
                self.state = State::Opening;
                Ok(Some(Event::Open { vhost: open.vhost }))
            }
            (_, Method::ConnectionClose(_)) => Ok(Some(self.answer_close(out))),
            _ => Err(unexpected(&method, self.state)),
        }
    }

    fn start_ok<'a>(&mut self, start_ok: &connection::StartOk<'a>) -> Event<'a> {
        let connection::StartOk { client_properties, mechanism, response, locale } = *start_ok;
        self.capabilities = Capabilities::of(client_properties);
        let name = client_properties.get("connection_name").and_then(Value::as_str);
        self.connection_name = name.map(str::to_owned);
        self.state = State::Login;
        Event::Login { mechanism, response, client_properties, locale }
    }

    fn tune_ok(&mut self, tune_ok: connection::TuneOk) -> Parsed<()> {
        let connection::TuneOk { channel_max, frame_max, heartbeat } = tune_ok;
        check_tuned("frame_max", frame::SIZE_MIN, self.offer.frame_max, frame_max)?;
        check_tuned("channel_max", 1, self.offer.channel_max.into(), channel_max.into())?;
        self.negotiated = Negotiated { frame_max, channel_max, heartbeat };
        self.receiver = Receiver::new(Side::Server, limits(self.negotiated, self.offer));
        self.state = State::Open;
        Ok(())
    }

    fn answer_close(&mut self, out: &mut Vec<u8>) -> Event<'static> {
        frame::method(out, 0, &Method::ConnectionCloseOk(connection::CloseOk {}));
        self.state = State::Closed;
        Event::Closed
    }

    /// Input after our `connection.close`: all is ignored but the answer, or a `connection.close` that
    /// crossed ours. What is no frame is ignored to the end: that we said so may be why we are here.
    fn drain<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> Step<'a> {
        let frame = match frame::parse(input, self.negotiated.frame_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Step { used: 0, event: None },
            Err(_) => {
                return Step { used: input.len(), event: None };
            }
        };
        let is_method = frame.kind == Kind::Method && frame.channel == 0;
        let event = match Method::decode(frame.payload) {
            Ok(Method::ConnectionCloseOk(_)) if is_method => {
                self.state = State::Closed;
                Some(Event::Closed)
            }
            Ok(Method::ConnectionClose(_)) if is_method => Some(self.answer_close(out)),
            _ => None,
        };
        Step { used: frame.size(), event }
    }
}

/// A value that the client chose: at least `min` unless 0, at most what was offered; 0 is no limit.
fn check_tuned(field: &str, min: u32, offered: u32, chosen: u32) -> Parsed<()> {
    let (than, allowed, bound) = if chosen != 0 && chosen < min {
        ("lower", min, "minimum")
    } else if offered != 0 && (chosen == 0 || chosen > offered) {
        ("higher", offered, "maximum")
    } else {
        return Ok(());
    };
    let no_limit = if chosen == 0 { " (no limit)" } else { "" };
    Err(Error::not_allowed(format!(
        "negotiated {field} = {chosen}{no_limit} is {than} than the {bound} allowed value ({allowed})"
    )))
}

#[cold]
pub(super) fn unexpected(method: &Method<'_>, state: State) -> Error {
    let text = format!("unexpected method '{}' in connection state {}", method.name(), state.name());
    Error::channel_error(text).at(method.id())
}

/// What the first bytes of a client look like, for the log.
fn describe_header(input: &[u8]) -> String {
    const VERBS: [&[u8]; 7] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC"];
    if VERBS.iter().any(|verb| input.starts_with(verb)) {
        return "the client speaks HTTP on the AMQP port".to_owned();
    }
    if input.starts_with(&[0x16, 0x03]) {
        return "the client speaks TLS on the plain AMQP port".to_owned();
    }
    match input {
        [b'A', b'M', b'Q', b'P', protocol @ (0 | 3), 1, 0, 0, ..] => {
            format!("the client speaks AMQP 1.0 (protocol {protocol}), expected AMQP 0-9-1")
        }
        [b'A', b'M', b'Q', b'P', a, b, c, d, ..] => {
            format!("the client speaks AMQP version {a} {b} {c} {d}, expected 0 0 9 1")
        }
        _ => {
            let start = input.get(..8).unwrap_or(input).escape_ascii();
            format!("the client sent \"{start}\", expected an AMQP protocol header")
        }
    }
}
