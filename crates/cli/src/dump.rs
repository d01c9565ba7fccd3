//! `leveret dump`.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use store::RealDisk;

use crate::describe;

/// Print a file of a journal, a record on each line: position, kind, version, size, and what it says. Of a segment, a line
/// for each run of messages.
///
/// The journals are below DATA-DIR/journal: meta, and one for each shard. The segments, which hold what waits in deep
/// queues, are below DATA-DIR/segments. Reading does not disturb a running broker; the end
/// of a file that it is writing to may look torn.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leveret dump leveret-data/journal/meta/00000000000000000000.journal")]
pub(crate) struct Dump {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Dump {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut out = Output { out: BufWriter::new(stdout().lock()), is_closed: false };
        let printed = match self.file.extension().is_some_and(|extension| extension == "segment") {
            true => store::dump::segment::print(&RealDisk, &self.file, &mut out).map(drop),
            false => store::dump::print(&RealDisk, &self.file, &mut out, &describe::record),
        };
        let flushed = out.flush();
        if out.is_closed {
            return Ok(ExitCode::SUCCESS);
        }
        printed?;
        flushed.context("cannot write to standard output")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Standard output that remembers that nobody reads it any more.
struct Output {
    out: BufWriter<StdoutLock<'static>>,
    is_closed: bool,
}

impl Output {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_closed |= result.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.out.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.note(result)
    }
}
