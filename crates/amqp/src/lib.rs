//! AMQP 0-9-1 as bytes and state machines: what a server and a client say to each other, and nothing else.
//!
//! Bytes that arrived go in, borrowed events come out; answers are appended to a `Vec<u8>` that the caller
//! writes to its socket. Everything that is read borrows from the caller's buffer, so a message that lies
//! whole in that buffer costs no allocation. Nothing here opens a socket, reads a clock, knows a queue or
//! checks a permission.
//!
//! The way in is [`server::Connection`] or [`client::Connection`]; the way out is [`content`] for messages
//! and [`frame::method`] for everything else.

pub mod capabilities;
pub mod client;
pub mod content;
pub mod error;
pub mod frame;
pub mod fuzzing;
pub mod method;
pub mod properties;
pub mod receiver;
pub mod sasl;
pub mod server;
pub mod table;
pub mod uri;
pub mod wire;
