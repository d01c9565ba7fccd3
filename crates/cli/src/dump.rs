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

    /// Only check: print how many parts are damaged, and exit with 1 when any is
    #[arg(long)]
    check: bool,
}

impl Dump {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.check {
            let damages = self.print(&mut io::sink())?;
            println!("{}: {damages} damaged parts", self.file.display());
            return Ok(if damages == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let mut out = Output { out: BufWriter::new(stdout().lock()), is_closed: false };
        let printed = self.print(&mut out);
        let flushed = out.flush();
        if out.is_closed {
            return Ok(ExitCode::SUCCESS);
        }
        printed?;
        flushed.context("cannot write to standard output")?;
        Ok(ExitCode::SUCCESS)
    }

    /// How many parts are damaged.
    fn print(&self, out: &mut impl Write) -> store::Result<u64> {
        match self.file.extension().is_some_and(|extension| extension == "segment") {
            true => store::dump::segment::print(&RealDisk, &self.file, out).map(|checked| checked.damages),
            false => store::dump::print(&RealDisk, &self.file, out, &describe::record),
        }
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
