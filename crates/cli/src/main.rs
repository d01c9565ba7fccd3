//! Leveret, a message broker: the one binary.

mod allocator;
mod config;
mod log;
mod serve;

mod bodies;
mod consume;
mod delayed;
mod interrupt;
mod json;
mod properties;
mod publish;
mod window;

mod client;
mod url;

mod audit;
mod describe;
mod dump;
mod export_definitions;
mod store;

mod perf;

mod completions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A message broker that speaks AMQP 0-9-1, as RabbitMQ does.
///
/// Exit codes: 0 done, 1 failed, 2 misused.
#[derive(Debug, Parser)]
#[command(name = "leveret", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Publish(publish::Publish),
    Consume(consume::Consume),
    Delayed(delayed::Delayed),
    Dump(dump::Dump),
    Audit(audit::Audit),
    ExportDefinitions(export_definitions::ExportDefinitions),
    Store(store::Store),
    Perf(perf::Perf),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Publish(publish) => publish.run(),
        Command::Consume(consume) => consume.run(),
        Command::Delayed(delayed) => delayed.run(),
        Command::Dump(dump) => dump.run(),
        Command::Audit(audit) => audit.run(),
        Command::ExportDefinitions(export) => export.run(),
        Command::Store(store) => store.run(),
        Command::Perf(perf) => perf.run(),
        Command::Completions(completions) => completions.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("leveret: {error:#}");
            ExitCode::FAILURE
        }
    }
}
