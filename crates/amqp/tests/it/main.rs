//! The protocol as stories and properties, through the public API only.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "these are tests")]

mod arbitrary;
mod client;
mod content;
mod method;
mod peer;
mod properties;
mod receiver;
mod receiver_properties;
mod sasl;
mod server;
mod table;
mod uri;
