//! A checkpoint as text.

use std::io::Write;
use std::path::Path;

use crate::checkpoint;
use crate::disk::Disk;
use crate::error::{Error, Result};

/// Checks the checkpoint at `path`, of whatever shard, and prints it to `out`: what it is, what is wrong with
/// one of its copies, if so, and what `describe` makes of its payload. Returns whether all is sound.
pub fn print<D: Disk>(
    disk: &D,
    path: &Path,
    out: &mut impl Write,
    describe: &dyn Fn(&[u8]) -> String,
) -> Result<bool> {
    let checkpoint::Found { checkpoint, damage } = checkpoint::read_any(disk, path)?;
    let size = checkpoint.payload.len();
    let mut text =
        format!("checkpoint {} of shard {}, {size} B of payload\n", checkpoint.number, checkpoint.shard);
    if let Some(why) = &damage {
        text += &format!("damaged, the other copy is whole: {why}\n");
    }
    text += &format!("{}\n", describe(&checkpoint.payload));
    out.write_all(text.as_bytes()).map_err(|error| Error::io("print", path, &error))?;
    Ok(damage.is_none())
}
