//! `leveret store`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use server::offline::{Report, Work, look};

/// Check, repair or count what a broker keeps on its disk, while it does not run.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  leveret store check leveret-data\n  leveret store stats --json leveret-data"
)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and check every byte; exits with 1 when anything is wrong
    Check(Directory),
    /// Check, and give up segments that are missing or another's, so that the broker starts; what they held is lost
    Repair(Directory),
    /// Count queues, messages and bytes
    Stats(Directory),
}

#[derive(Debug, Args)]
struct Directory {
    /// Data directory of a broker that does not run
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Store {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (arguments, work) = match self.command {
            Command::Check(directory) => (directory, Work::Check),
            Command::Repair(directory) => (directory, Work::Repair),
            Command::Stats(directory) => (directory, Work::Count),
        };
        let report = look(&arguments.directory, work)?;
        match arguments.json {
            true => println!("{}", as_json(&report)),
            false => print(&report, work),
        }
        let is_well = report.problems.is_empty() || work != Work::Check;
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(report: &Report, work: Work) {
    for problem in &report.problems {
        println!("{problem}");
    }
    for repair in &report.repairs {
        println!("repaired: {repair}");
    }
    for (number, shard) in report.shards.iter().enumerate() {
        println!(
            "shard {number}: {} queues, {} messages, journal of {} records in {} bytes, {} segments of {} bytes, {} put aside",
            shard.queues,
            shard.messages,
            shard.records,
            shard.journal_bytes,
            shard.segments,
            shard.segment_bytes,
            shard.orphans
        );
    }
    if work != Work::Count && report.problems.is_empty() {
        println!("all is well");
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let shards: Vec<_> = report
        .shards
        .iter()
        .map(|shard| {
            json!({
                "queues": shard.queues,
                "messages": shard.messages,
                "records": shard.records,
                "journal_bytes": shard.journal_bytes,
                "segments": shard.segments,
                "segment_bytes": shard.segment_bytes,
                "orphans": shard.orphans,
            })
        })
        .collect();
    json!({ "problems": report.problems, "repairs": report.repairs, "shards": shards })
}
