//! The one error of this crate: a kind that says what the caller can do, and a text that says what is wrong.

use std::fmt;

use amqp::error::Code;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Fix the name: there is no such thing.
    NotFound,
    /// Get access.
    Refused,
    /// Declare as it is, or fix the argument.
    Precondition,
    /// Wait for the connection that owns it.
    Locked,
    /// Fix the request: it makes no sense.
    Invalid,
    /// Use another virtual host, or raise the limit.
    NotAllowed,
    /// Do without: the broker does not do this.
    NotImplemented,
    /// Slow down.
    Full,
    /// Try again, maybe elsewhere.
    Unavailable,
    /// Report it: this is our bug.
    Internal,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller can do.
    pub kind: Kind,
    /// What is wrong, in RabbitMQ's words where it has some, since clients match on them.
    pub text: String,
}

impl Error {
    /// An error of `kind` with `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// The AMQP reply code. This is the only place where kinds become codes.
    pub fn amqp_code(&self) -> Code {
        match self.kind {
            Kind::NotFound => Code::NotFound,
            Kind::Refused => Code::AccessRefused,
            Kind::Precondition => Code::PreconditionFailed,
            Kind::Locked => Code::ResourceLocked,
            Kind::Invalid => Code::SyntaxError,
            Kind::NotAllowed => Code::NotAllowed,
            Kind::NotImplemented => Code::NotImplemented,
            Kind::Full => Code::ResourceError,
            Kind::Unavailable | Kind::Internal => Code::InternalError,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for Error {}

/// Shorthand for [`Error::new`] with [`Kind::Precondition`], the most frequent kind.
pub(crate) fn precondition(text: impl Into<String>) -> Error {
    Error::new(Kind::Precondition, text)
}
