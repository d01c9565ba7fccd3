//! Finding the records in the bytes of one file, damaged or torn.

use memchr::memmem;

use crate::error::Result;
use crate::format::{Lsn, MARK_SIZE, RECORD_HEADER_SIZE, RECORD_VERSION, Record, plausible_size, record_at};

/// Bytes that a search for the next valid record may put through the checksum, per byte searched. Only a
/// payload made to look like thousands of headers reaches it; then the search goes on at the next mark.
const SEARCH_EFFORT_MAX: usize = 8;

/// How far the records of a file were synced, as its surroundings tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The next file says so: all below was synced, all beyond is dead.
    At(Lsn),
    /// Only the marks in the file itself tell.
    Open,
}

/// What stands in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Record(Record<'a>),
    /// Bytes that were synced, as a mark or the next file proves, and are not valid any more.
    Damaged {
        from: Lsn,
        to: Lsn,
    },
}

/// Where the records of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The end of the last record, or of the damage after it.
    pub(crate) lsn: Lsn,
    /// Whether something was written beyond that was not whole and never synced.
    pub(crate) torn: bool,
}

/// Tells `found` what is in `bytes`, those of a file after its header, in order. `base` is the lsn of the
/// first. With [`End::At`], `bytes` must not go beyond it; they may fall short of it.
pub(crate) fn walk(
    bytes: &[u8],
    base: Lsn,
    end: End,
    found: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<Stop> {
    let mut at = 0;
    let mut proof = None;
    loop {
        if let Some(record) = record_at(bytes, at, base) {
            found(Found::Record(record))?;
            at = record.end().since(base);
            continue;
        }
        // One search serves all damage of the file: a mark speaks of bytes in front of it, so a mark that
        // was passed already says nothing about the bytes here.
        let proof = *proof.get_or_insert_with(|| proof_after(bytes, at, base, end));
        let from = base.plus(at);
        let Some(synced) = proof.filter(|synced| from < *synced) else {
            let begun = || written_at(bytes, at) || marks_after(bytes, at, base).next().is_some();
            return Ok(Stop { lsn: from, torn: end == End::Open && begun() });
        };
        let to = next_valid(bytes, at, base).map_or(synced, |next| base.plus(next));
        found(Found::Damaged { from, to })?;
        at = to.since(base);
    }
}

/// Below which lsn everything was synced, by the word of what stands after `at`.
fn proof_after(bytes: &[u8], at: usize, base: Lsn, end: End) -> Option<Lsn> {
    match end {
        End::At(lsn) => Some(lsn),
        End::Open => marks_after(bytes, at, base).map(|(_, synced)| synced).max(),
    }
}

/// The valid marks that begin after `at`: where, and what they say.
fn marks_after(bytes: &[u8], at: usize, base: Lsn) -> impl Iterator<Item = (usize, Lsn)> {
    // length 8, kind 0, the version, reserved 0
    const SIGN: [u8; 8] = [8, 0, 0, 0, 0, RECORD_VERSION, 0, 0];
    let first = at + 1;
    // A sign does not overlap with another.
    let signs = memmem::find_iter(bytes.get(first + 4..).unwrap_or_default(), &SIGN);
    signs.filter_map(move |index| {
        let record = record_at(bytes, first + index, base)?;
        let synced = record.mark()?;
        (synced <= record.lsn).then_some((first + index, synced))
    })
}

/// Where the first valid record after `at` begins. Its neighbours' lengths cannot be trusted, so every byte
/// may be its first. (So a payload that holds a record with the right checksum for the very lsn it stands at
/// would be taken for one, if its own header is damaged. Who does not know the lsn has to guess it.)
fn next_valid(bytes: &[u8], at: usize, base: Lsn) -> Option<usize> {
    let mut effort = bytes.len().saturating_sub(at).saturating_mul(SEARCH_EFFORT_MAX);
    for candidate in at + 1..bytes.len() {
        let Some(size) = plausible_size(bytes, candidate) else {
            continue;
        };
        if size != MARK_SIZE && size > effort {
            return marks_after(bytes, candidate - 1, base).next().map(|(mark, _)| mark);
        }
        effort = effort.saturating_sub(size);
        if record_at(bytes, candidate, base).is_some() {
            return Some(candidate);
        }
    }
    None
}

/// Whether a record was begun at `at`: the end of a round is followed by a header's worth of zeros.
fn written_at(bytes: &[u8], at: usize) -> bool {
    bytes.iter().skip(at).take(RECORD_HEADER_SIZE).any(|byte| *byte != 0)
}
