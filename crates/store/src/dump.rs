//! Files as text, for people: journals here, the others in modules of their own.

pub mod segment;

use std::io::{self, Write};
use std::path::Path;

use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};
use crate::format::{FileHeader, Lsn, RECORD_HEADER_SIZE, Record, base_of};
use crate::header::{FILE_HEADER_SIZE, HeaderRead};
use crate::scan::{self, End, Found, Stop};

/// Prints the header and the records of the journal file at `path` to `out`, one a line: lsn, kind, version, bytes of
/// payload, and what `describe` makes of kind, version and payload. Reads the whole file into memory.
///
/// Returns how many parts are damaged, the header among them. A file on its own cannot tell whether its unreadable end was
/// synced; that is for a recovery to say.
pub fn print<D: Disk>(
    disk: &D,
    path: &Path,
    out: &mut impl Write,
    describe: &dyn Fn(u8, u8, &[u8]) -> String,
) -> Result<u64> {
    let bytes = read(disk, path)?;
    let failed = |error: io::Error| Error::io("print", path, &error);
    let Some(base) = print_header(&bytes, path, out)? else {
        let what = format!("{} is no journal file: neither its header nor its name is", path.display());
        return Err(Error::new(Kind::Foreign, what));
    };
    let records = bytes.get(FILE_HEADER_SIZE..).unwrap_or_default();
    let mut damages = u64::from(FileHeader::decode(&bytes) == HeaderRead::Damaged);
    let stop = scan::walk(records, base, End::Open, &mut |found| {
        match found {
            Found::Record(record) => writeln!(out, "{}", line(&record, describe)),
            Found::Damaged { from, to } => {
                damages += 1;
                writeln!(out, "{from:>12}  damaged up to {to}")
            }
        }
        .map_err(failed)
    })?;
    print_stop(records.len(), base, stop, out).map_err(failed)?;
    Ok(damages)
}

fn read<D: Disk>(disk: &D, path: &Path) -> Result<Vec<u8>> {
    let file = disk.open_to_read(path).map_err(|error| Error::io("open", path, &error))?;
    let len = file.len().map_err(|error| Error::io("measure", path, &error))?;
    let len = usize::try_from(len).map_err(|error| Error::io("read", path, &io::Error::other(error)))?;
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes).map_err(|error| Error::io("read", path, &error))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Prints the header; returns the base by it, or by the file's name if it is damaged.
fn print_header(bytes: &[u8], path: &Path, out: &mut impl Write) -> Result<Option<Lsn>> {
    let named = path.file_name().and_then(|name| base_of(name.to_str()?));
    let (text, base) = match FileHeader::decode(bytes) {
        HeaderRead::Valid(FileHeader { journal, base, previous, previous_end }) => {
            let before = match previous == base {
                true => "the first file".to_owned(),
                false => format!("after {previous}, which ends at {previous_end}"),
            };
            (format!("journal {journal}, base {base}, {before}"), Some(base))
        }
        HeaderRead::Newer(format) => {
            let what = format!("{} has format {format}, which this version cannot read", path.display());
            return Err(Error::new(Kind::Unsupported, what));
        }
        HeaderRead::Damaged => match named {
            Some(base) => (format!("header damaged; base {base} by its name"), Some(base)),
            None => return Ok(None),
        },
    };
    writeln!(out, "{text}").map_err(|error| Error::io("print", path, &error))?;
    Ok(base)
}

fn line(record: &Record<'_>, describe: &dyn Fn(u8, u8, &[u8]) -> String) -> String {
    let Record { lsn, kind, version, payload } = *record;
    let text = match record.mark() {
        Some(synced) => format!("mark: synced below {synced}"),
        None => describe(kind, version, payload),
    };
    format!("{lsn:>12}  kind {kind:<3} v{version}  {:>8} B  {text}", payload.len())
}

fn print_stop(len: usize, base: Lsn, stop: Stop, out: &mut impl Write) -> io::Result<()> {
    let left = base.plus(len).0.saturating_sub(stop.lsn.0);
    let what = match (stop.torn, left < RECORD_HEADER_SIZE as u64) {
        (true, _) => format!("{left} bytes follow that are no records: torn, stale or damaged"),
        (false, true) => "end of file".to_owned(),
        (false, false) => format!("end of records; {left} bytes follow"),
    };
    writeln!(out, "{:>12}  {what}", stop.lsn)
}
