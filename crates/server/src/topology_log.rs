//! The topology in its journal.
//!
//! Each record stands there twice, for it may speak of a queue and so of all the messages in it: where a bit of one of the
//! two has flipped, nothing is missing. They stand side by side: a sector that is gone takes both.

use broker::meta::{KIND, Meta, Record};
use store::{Error, Kind, Result, Tail};

/// Appends a record, and once more.
pub fn append(tail: &mut Tail, record: &Record) {
    let payload = record.encode();
    tail.append(KIND, &[&payload]);
    tail.append(KIND, &[&payload]);
}

/// Reads it back.
#[derive(Debug, Default)]
pub struct Replay {
    meta: Meta,
    /// The record before.
    last: Vec<u8>,
}

impl Replay {
    /// The next record of the journal.
    ///
    /// # Errors
    /// When it is one that this version does not know.
    pub fn visit(&mut self, record: &store::Record<'_>) -> Result<()> {
        if record.payload == self.last {
            return Ok(());
        }
        let decoded = Record::decode(record.kind, record.version, record.payload).map_err(|error| {
            let text = format!("the record at {:?} of the meta journal: {error}", record.lsn);
            Error::new(Kind::Unsupported, text)
        })?;
        self.meta.apply(&decoded);
        self.last.clear();
        self.last.extend_from_slice(record.payload);
        Ok(())
    }

    /// What the records come to.
    pub fn finish(self) -> Meta {
        self.meta
    }
}
