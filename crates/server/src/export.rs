//! Definitions of a broker that does not run.

use std::path::Path;

use broker::definitions::{Exported, export};

use crate::recovery::JournalOptions;
use crate::{Failure, boot, lock, meta};

/// Reads what is durable in a data directory, as a restart would, and writes it as definitions.
///
/// # Errors
/// When there is none, a broker is using it, or it cannot be read.
pub fn definitions(data_dir: &Path) -> Result<Exported, Failure> {
    let directory = data_dir.join("journal");
    if !directory.join("meta").is_dir() {
        return Err(Failure(format!("{} is no data directory: it has no journal/meta", data_dir.display())));
    }
    let _lock = lock::DirectoryLock::take(data_dir)
        .map_err(|error| Failure(format!("{error}; stop it first, definitions are read from its files")))?;
    let options = JournalOptions { journal: 0, file_size: boot::META_FILE_SIZE, reserve: 0 };
    let recovered = meta::recover(&directory, options)?;
    Ok(export(recovered.topology()))
}
