//! Opening journals at start, and saying what was found.

use std::path::Path;

use store::{Files, Options, RealDisk, Record, Recovered};
use tracing::{info, warn};

use crate::ledger::Budget;
use crate::pager;

/// How the node's journals use the disk.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Which of the node's journals this is: 0 meta, then the shards.
    pub journal: u32,
    /// Bytes of a journal file.
    pub file_size: u64,
    /// Bytes that are kept for when the disk is full.
    pub reserve: u64,
}

impl JournalOptions {
    /// A journal is left alone until it has four files; shortening looks at two.
    pub fn budget(self) -> Budget {
        Budget { journal_size: 4 * self.file_size, step: 2 * self.file_size }
    }
}

/// Opens the journal called `name` below `directory`, visits its records, and logs what is wrong with it.
pub(crate) fn open(
    directory: &Path,
    name: &str,
    options: JournalOptions,
    visit: &mut dyn FnMut(Record<'_>) -> store::Result<()>,
) -> store::Result<(Files<RealDisk>, Recovered)> {
    let options = Options {
        journal: options.journal,
        file_size: options.file_size,
        reserve: options.reserve,
        ..Options::default()
    };
    let (files, recovered) = Files::open(RealDisk, &directory.join(name), options, visit)?;
    if recovered.records > 0 {
        info!(journal = name, records = recovered.records, bytes = recovered.bytes, "recovered");
    }
    if let Some(torn) = &recovered.torn {
        warn!(
            journal = name,
            file = torn.file,
            offset = torn.offset,
            "the last write was cut off; nothing of it had been confirmed"
        );
    }
    for damage in &recovered.damaged {
        tracing::error!(
            journal = name,
            file = damage.file,
            offset = damage.offset,
            from = damage.from.0,
            to = damage.to.0,
            why = damage.why,
            "damaged records are missing; the rest is served"
        );
    }
    Ok((files, recovered))
}

/// Whether segments can be judged by what a journal said.
pub(crate) fn trust(report: &Recovered) -> pager::Journal {
    let is_new = report.next == store::Lsn::ZERO;
    if is_new || !report.damaged.is_empty() { pager::Journal::Damaged } else { pager::Journal::Whole }
}
