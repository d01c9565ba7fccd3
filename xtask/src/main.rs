//! `cargo xtask tidy`: the command line of the checks.

use std::process::ExitCode;

use anyhow::Result;
use xtask::tidy::{self, Tree};

const USAGE: &str = "usage: cargo xtask tidy    check the rules of the house; exits 1 if one is broken";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(),
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
