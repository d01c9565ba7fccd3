//! `cargo xtask`: the command line of the checks, and of the load generators for what Leveret is compared with.

use std::process::ExitCode;

use anyhow::Result;
use xtask::load;
use xtask::tidy::{self, Tree};

const USAGE: &str = "usage: cargo xtask tidy         check the rules of the house; exits 1 if one is broken
       cargo xtask nats-load    measure a NATS server as `leveret perf` measures a broker (--help for more)
       cargo xtask disk-load    measure the bare disk: write and fdatasync (--help for more)
       cargo xtask bare-broker  serve one queue with a bare program that syncs and confirms (--help for more)";

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(),
        ["nats-load", ref options @ ..] => load::nats(options).map(|()| ExitCode::SUCCESS),
        ["disk-load", ref options @ ..] => load::disk(options).map(|()| ExitCode::SUCCESS),
        ["bare-broker", ref options @ ..] => load::bare_broker(options).map(|()| ExitCode::SUCCESS),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

fn tidy() -> Result<ExitCode> {
    let report = tidy::check(&Tree::of_workspace()?)?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    for problem in &report.problems {
        eprintln!("error: {problem}");
    }
    if report.problems.is_empty() {
        println!("tidy: {} files in order", report.files);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {} to mend", report.problems.len());
    Ok(ExitCode::FAILURE)
}
