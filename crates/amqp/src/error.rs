//! Reply codes of AMQP 0-9-1 and the error that carries one to the peer.

use std::borrow::Cow;
use std::fmt;

macro_rules! codes {
    ($($variant:ident = $value:literal $name:literal $hardness:ident;)*) => {
        /// A reply code. The names are RabbitMQ's; clients match on them.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Code {
            $(#[doc = concat!("`", $value, " ", $name, "`")] $variant,)*
        }

        impl Code {
            /// The number on the wire.
            #[must_use]
            pub const fn value(self) -> u16 {
                match self { $(Self::$variant => $value,)* }
            }

            /// The name that opens a reply text, such as `NOT_FOUND`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The code with this number, if the protocol has one.
            #[must_use]
            pub const fn from_value(value: u16) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)* _ => None }
            }

            /// Whether the code closes the connection; the others close only the channel.
            #[must_use]
            pub const fn is_hard(self) -> bool {
                match self { $(Self::$variant => codes!(@ $hardness),)* }
            }
        }
    };
    (@ hard) => { true };
    (@ soft) => { false };
}

codes! {
    ReplySuccess = 200 "REPLY_SUCCESS" soft;
    ContentTooLarge = 311 "CONTENT_TOO_LARGE" soft;
    NoRoute = 312 "NO_ROUTE" soft;
    NoConsumers = 313 "NO_CONSUMERS" soft;
    ConnectionForced = 320 "CONNECTION_FORCED" hard;
    InvalidPath = 402 "INVALID_PATH" hard;
    AccessRefused = 403 "ACCESS_REFUSED" soft;
    NotFound = 404 "NOT_FOUND" soft;
    ResourceLocked = 405 "RESOURCE_LOCKED" soft;
    PreconditionFailed = 406 "PRECONDITION_FAILED" soft;
    FrameError = 501 "FRAME_ERROR" hard;
    SyntaxError = 502 "SYNTAX_ERROR" hard;
    CommandInvalid = 503 "COMMAND_INVALID" hard;
    ChannelError = 504 "CHANNEL_ERROR" hard;
    UnexpectedFrame = 505 "UNEXPECTED_FRAME" hard;
    ResourceError = 506 "RESOURCE_ERROR" hard;
    NotAllowed = 530 "NOT_ALLOWED" hard;
    NotImplemented = 540 "NOT_IMPLEMENTED" hard;
    InternalError = 541 "INTERNAL_ERROR" hard;
}

/// Longest reply text in bytes: it travels as a short string.
pub const REPLY_TEXT_SIZE_MAX: usize = 255;

/// Why a channel or a connection ends: what `channel.close` and `connection.close` say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// The reply code; it decides whether the channel or the connection closes.
    pub code: Code,
    /// What, which, expected, found; without the name of the code.
    pub text: Cow<'static, str>,
    /// Class and method id of the method that failed, `(0, 0)` if none did.
    pub method: (u16, u16),
}

/// The result of everything that reads bytes from outside.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($name:ident $variant:ident;)*) => {
        impl Error {
            $(
                #[doc = concat!("An error with [`Code::", stringify!($variant), "`].")]
                #[must_use]
                #[cold]
                pub fn $name(text: impl Into<Cow<'static, str>>) -> Self {
                    Self::new(Code::$variant, text)
                }
            )*
        }
    };
}

constructors! {
    connection_forced ConnectionForced;
    access_refused AccessRefused;
    not_found NotFound;
    resource_locked ResourceLocked;
    precondition_failed PreconditionFailed;
    frame_error FrameError;
    syntax_error SyntaxError;
    command_invalid CommandInvalid;
    channel_error ChannelError;
    unexpected_frame UnexpectedFrame;
    resource_error ResourceError;
    not_allowed NotAllowed;
    not_implemented NotImplemented;
    internal_error InternalError;
}

impl Error {
    /// An error that no method is to blame for; see [`Error::at`].
    #[must_use]
    #[cold]
    pub fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), method: (0, 0) }
    }

    /// The same error, blamed on the method with this class and method id.
    #[must_use]
    pub fn at(mut self, method: (u16, u16)) -> Self {
        self.method = method;
        self
    }

    /// Whether the connection closes; a soft error closes only its channel.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.code.is_hard()
    }

    /// `NAME - text`, cut at a character boundary to [`REPLY_TEXT_SIZE_MAX`] bytes.
    #[must_use]
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        text.truncate(text.floor_char_boundary(REPLY_TEXT_SIZE_MAX));
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} - {}", self.code.value(), self.code.name(), self.text)
    }
}

impl std::error::Error for Error {}
