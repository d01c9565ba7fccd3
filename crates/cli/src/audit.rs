//! `leveret audit`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use server::audit::verify;

use crate::config::DATA_DIR;

/// Check that nobody has changed the audit log of a broker.
///
/// The log is audit.log in the data directory, one JSON object a line, with older lines in audit.log.1 and so on. Exits
/// with 1 and names the line where something was changed, taken out or put in. What is printed last is the hash of the
/// newest line: keep it elsewhere, and a later log that lacks it was cut off.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret audit /var/lib/leveret")]
pub(crate) struct Audit {
    /// Data directory of the broker, which may be running
    #[arg(value_name = "DIR", env = "LEVERET_DATA_DIR", default_value = DATA_DIR)]
    directory: PathBuf,
}

impl Audit {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let verified = verify(&self.directory)?;
        println!(
            "{} lines, all as they were written; the last has the hash {}",
            verified.lines, verified.last
        );
        Ok(ExitCode::SUCCESS)
    }
}
