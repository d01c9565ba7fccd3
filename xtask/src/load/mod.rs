//! What Leveret is compared with: a load generator for NATS with the options and the report of `leveret perf`,
//! how fast the bare disk is, and the least program that does for one queue what a durable broker does.

mod bare;
mod circle;
mod disk;
#[path = "../../../crates/cli/src/perf/measure/mod.rs"]
mod measure;
mod nats;

use anyhow::Result;
use clap::Parser;

/// Measures a NATS server; the arguments are those behind `cargo xtask nats-load`.
///
/// # Errors
/// When the server cannot be reached or says no, or the options make no sense.
pub fn nats(arguments: &[&str]) -> Result<()> {
    nats::Nats::parse_from(named("cargo xtask nats-load", arguments)).run()
}

/// Measures the disk; the arguments are those behind `cargo xtask disk-load`.
///
/// # Errors
/// When the file cannot be written.
pub fn disk(arguments: &[&str]) -> Result<()> {
    disk::Disk::parse_from(named("cargo xtask disk-load", arguments)).run()
}

/// Runs the bare program; the arguments are those behind `cargo xtask bare-broker`.
///
/// # Errors
/// When it cannot listen, or the file cannot be written.
pub fn bare_broker(arguments: &[&str]) -> Result<()> {
    bare::BareBroker::parse_from(named("cargo xtask bare-broker", arguments)).run()
}

fn named<'a>(name: &'a str, arguments: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    std::iter::once(name).chain(arguments.iter().copied())
}
