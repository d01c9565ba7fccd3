//! `leveret export-definitions`.

use std::fs::OpenOptions;
use std::io::{Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::config::DATA_DIR;

/// Print users, permissions, exchanges, queues and bindings as a RabbitMQ definitions document.
///
/// Reads the data directory, and changes nothing in it; a broker may be using it. What is durable is printed, so not what
/// goes with a connection. The document holds password hashes: keep it as you keep them.
/// `leveret serve --definitions FILE` imports it, and so does RabbitMQ, but for passwords that were set or used here: their
/// hashes are Argon2id, which RabbitMQ does not know.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret export-definitions --data-dir /var/lib/leveret definitions.json")]
pub(crate) struct ExportDefinitions {
    /// Directory of the broker
    #[arg(long, env = "LEVERET_DATA_DIR", value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,

    /// Where to write, readable by this user only [default: standard output]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ExportDefinitions {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let exported = server::export::definitions(&self.data_dir)?;
        match &self.file {
            None => {
                stdout().write_all(exported.json.as_bytes()).context("cannot write to standard output")?
            }
            Some(path) => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
                let written = file.and_then(|mut file| file.write_all(exported.json.as_bytes()));
                written.with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        for lost in &exported.lost {
            eprintln!("leveret: not exported: {lost}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
