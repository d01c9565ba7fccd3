//! What a broker does, without the world around it: topology and routing, access and passwords, the state machine of
//! the meta shard, queues and dispatch.
//!
//! It is not a server. Nothing in here reads a clock, draws a random number, touches a disk or a socket, or waits: time
//! and random bytes are arguments, and what must happen outside comes back as data for the caller to perform.
//!
//! Start at [`topology`] for what a session routes with, and at [`meta`] for how that changes.

pub mod access;
pub mod arguments;
pub mod consuming;
pub mod dead_letter;
pub mod definitions;
pub mod error;
pub mod id;
pub mod limits;
pub mod message;
pub mod meta;
pub mod page;
pub mod password;
mod pattern;
pub mod policy;
pub mod queue;
pub mod record;
pub mod sequence;
pub mod shard;
pub mod stream;
pub mod topology;
pub mod window;
