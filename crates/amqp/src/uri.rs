//! `amqp://user:password@host:port/vhost?heartbeat=30`, as RabbitMQ's URI specification reads it.

use std::fmt;

use crate::sasl::Credentials;

/// Where a client connects to, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    /// A name or an address, an IPv6 address without its brackets; `localhost` if absent.
    pub host: String,
    /// 5672 if absent.
    pub port: u16,
    /// `guest` and `guest` if absent.
    pub credentials: Credentials,
    /// `/` if absent.
    pub vhost: String,
    /// `heartbeat`: seconds; 0 is none.
    pub heartbeat: Option<u16>,
    /// `frame_max`: bytes; 0 is no limit.
    pub frame_max: Option<u32>,
    /// `channel_max`; 0 is no limit.
    pub channel_max: Option<u16>,
}

/// Why a text is no URI that we can connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    text: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

fn error(text: impl Into<String>) -> Error {
    Error { text: text.into() }
}

/// The parts of the URI in their percent-encoding.
struct Parts<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
    vhost: Option<&'a str>,
    query: &'a str,
}

impl Uri {
    /// Reads a URI. Parameters that are not known are ignored, as they are meant for other clients.
    ///
    /// # Errors
    /// Says what is wrong; `amqps` is not supported yet.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parts = split(text)?;
        let mut uri = Self {
            host: if parts.host.is_empty() { "localhost".to_owned() } else { decode(parts.host)? },
            port: parts.port.map_or(Ok(5672), |port| number("port", port))?,
            credentials: credentials(parts.user)?,
            vhost: parts.vhost.map_or_else(|| Ok("/".to_owned()), decode)?,
            heartbeat: None,
            frame_max: None,
            channel_max: None,
        };
        for parameter in parts.query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "heartbeat" => uri.heartbeat = Some(number(key, value)?),
                "frame_max" => uri.frame_max = Some(number(key, value)?),
                "channel_max" => uri.channel_max = Some(number(key, value)?),
                _ => {}
            }
        }
        Ok(uri)
    }
}

fn split(text: &str) -> Result<Parts<'_>, Error> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| error("expected amqp://host"))?;
    if scheme.eq_ignore_ascii_case("amqps") {
        return Err(error("amqps (TLS) is not supported yet, expected amqp://"));
    }
    if !scheme.eq_ignore_ascii_case("amqp") {
        return Err(error(format!("unknown scheme '{scheme}', expected amqp://")));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, vhost) = match rest.split_once('/') {
        Some((authority, vhost)) => (authority, Some(vhost)),
        None => (rest, None),
    };
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    let (host, port) = split_port(place)?;
    Ok(Parts { user, host, port, vhost, query })
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn split_port(place: &str) -> Result<(&str, Option<&str>), Error> {
    let Some(bracketed) = place.strip_prefix('[') else {
        return Ok(match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        });
    };
    let (host, after) =
        bracketed.split_once(']').ok_or_else(|| error("expected ] behind the IPv6 address"))?;
    match after.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if after.is_empty() => Ok((host, None)),
        None => Err(error(format!("expected a port behind the IPv6 address, found '{after}'"))),
    }
}

fn credentials(user: Option<&str>) -> Result<Credentials, Error> {
    let guest = "guest".to_owned();
    let Some(user) = user else {
        return Ok(Credentials { user: guest.clone(), password: guest });
    };
    match user.split_once(':') {
        Some((user, password)) => Ok(Credentials { user: decode(user)?, password: decode(password)? }),
        None => Ok(Credentials { user: decode(user)?, password: guest }),
    }
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, Error> {
    text.parse().map_err(|_| error(format!("{name} is '{text}', expected a number in its range")))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, Error> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>().ok_or_else(|| bad_percent(text))?;
        decoded.push(hex(*digits).ok_or_else(|| bad_percent(text))?);
        rest = tail;
    }
    String::from_utf8(decoded).map_err(|_| error(format!("'{text}' does not decode to UTF-8")))
}

fn hex([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn bad_percent(text: &str) -> Error {
    error(format!("'{text}' has a % without two hexadecimal digits"))
}
