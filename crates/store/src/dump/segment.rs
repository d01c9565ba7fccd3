//! A segment as text.

use std::io::{self, Write};
use std::path::Path;

use crate::disk::{Disk, File};
use crate::error::{Error, Kind, Result};
use crate::header::{FILE_HEADER_SIZE, HeaderRead};
use crate::segment::{Chunk, FORMAT_VERSION, FileHeader, Id, Name, Place, Reader};

/// Bytes that are read at once.
const WINDOW: usize = 1 << 20;

/// What a segment held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Messages that are whole.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parts that are damaged, the header of the file included.
    pub damages: u64,
    /// Bytes at the end that are no block: torn or left over if they lie beyond the durable end, else damaged.
    /// The file alone cannot tell.
    pub unknown_bytes: u64,
}

/// Checks the segment at `path` and prints it to `out`: its header, then a line for each run of messages (where
/// their bytes stand, sequence numbers, flags, sizes) and each damage. Reads 1 MiB at a time.
pub fn print<D: Disk>(disk: &D, path: &Path, out: &mut impl Write) -> Result<Checked> {
    let failed = |error: io::Error| Error::io("print", path, &error);
    let file = disk.open_to_read(path).map_err(|error| Error::io("open", path, &error))?;
    let len = file.len().map_err(|error| Error::io("measure", path, &error))?;
    let mut checked = Checked::default();
    let Some(id) = print_header(&file, path, &mut checked, out)? else {
        return Ok(checked);
    };
    let reader = Reader::of(file, path, id);
    let end = Place { offset: len, sequence: u64::MAX };
    let mut place = Place { offset: FILE_HEADER_SIZE as u64, sequence: 0 };
    while place.offset < len {
        let chunk = reader.read(place, end, WINDOW)?;
        print_chunk(&chunk, len, &mut checked, out).map_err(failed)?;
        place = chunk.next;
    }
    let what = match checked.unknown_bytes {
        0 => "end of file".to_owned(),
        bytes => format!("{bytes} bytes follow that are no block: torn, left over or damaged"),
    };
    writeln!(out, "{:>12}  {what}", len - checked.unknown_bytes).map_err(failed)?;
    Ok(checked)
}

/// Prints the header; returns whose file it is.
fn print_header(
    file: &impl File,
    path: &Path,
    checked: &mut Checked,
    out: &mut impl Write,
) -> Result<Option<Id>> {
    let mut bytes = [0; FILE_HEADER_SIZE];
    let read = file.read_at(0, &mut bytes).map_err(|error| Error::io("read", path, &error))?;
    let named = path.file_name().and_then(|name| Name::parse(name.to_str()?));
    let shown = path.display();
    let (text, id) = match (FileHeader::decode(&bytes[..read]), named) {
        (HeaderRead::Valid(FileHeader { id }), named) if named.is_none_or(|name| name == id.name) => {
            (id.to_string(), Some(id))
        }
        (HeaderRead::Valid(FileHeader { id }), _) => {
            checked.damages += 1;
            (format!("{id}, under a wrong name"), Some(id))
        }
        (HeaderRead::Newer(format), _) => {
            let what =
                format!("{shown} has format {format}; this version of Leveret reads format {FORMAT_VERSION}");
            return Err(Error::new(Kind::Unsupported, what));
        }
        (HeaderRead::Damaged, Some(name)) => {
            checked.damages += 1;
            let why = "its blocks can be checked only by who knows the incarnation";
            (format!("{name} by its name; header damaged, so {why}"), None)
        }
        (HeaderRead::Damaged, None) => {
            let what = format!("{shown} is no segment: neither its header nor its name is");
            return Err(Error::new(Kind::Foreign, what));
        }
    };
    writeln!(out, "{text}").map_err(|error| Error::io("print", path, &error))?;
    Ok(id)
}

fn print_chunk(chunk: &Chunk, len: u64, checked: &mut Checked, out: &mut impl Write) -> io::Result<()> {
    let mut lines = Vec::new();
    for run in &chunk.runs {
        let (count, size) = (run.count() as u64, run.bytes.len());
        checked.messages += count;
        checked.bytes += size as u64;
        let last = run.end() - 1;
        lines.push((
            run.offset,
            format!(
                "{:>10} to {last:<10} flags {:#010x}  {count:>5} messages  {size:>8} B",
                run.first, run.flags
            ),
        ));
    }
    for damage in &chunk.damages {
        let (from, to) = (damage.offsets.start, damage.offsets.end);
        if to == len && damage.sequences.end == u64::MAX {
            checked.unknown_bytes = to - from;
            continue;
        }
        checked.damages += 1;
        lines.push((from, format!("damaged: {damage}")));
    }
    lines.sort_unstable();
    lines.iter().try_for_each(|(offset, text)| writeln!(out, "{offset:>12}  {text}"))
}
