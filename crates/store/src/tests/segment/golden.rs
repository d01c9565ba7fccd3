//! Version 1 of the format as it was written once: it stays readable, and today's code writes the same bytes.

use std::path::Path;

use super::{DIR, Message, append, message, path, read_sim};
use crate::segment::{Extent, Options, Writer};
use crate::sim::SimDisk;

const FIXTURE: &[u8] = include_bytes!("../../../fixtures/v1.segment");

/// Two appends: runs of other flags, a hole, a message of no bytes, one larger than a block.
fn write() -> (Vec<u8>, Vec<Message>, Extent) {
    let disk = SimDisk::new();
    let options = Options { block_size: 64, ..Options::default() };
    let known = [super::name(9, 0x1233)];
    let mut writer =
        Writer::open(disk.clone(), Path::new(DIR), options, 0x0123_4567_89ab_cdef, known).unwrap();
    let first = [message(1000, "hello"), message(1001, ""), message(1005, [0, 0xff])];
    let second = [
        Message { flags: 0x8000_0001, ..message(1006, (0..200).collect::<Vec<u8>>()) },
        message(1007, "end"),
    ];
    append(&mut writer, 0xabc, &first).unwrap();
    append(&mut writer, 0xabc, &second).unwrap();
    let extent = writer.sync().unwrap()[0];
    (disk.contents(&path(extent.id)).unwrap(), [first.to_vec(), second.to_vec()].concat(), extent)
}

#[test]
fn today_writes_the_fixture() {
    let (bytes, _, _) = write();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1.segment");
        std::fs::write(fixture, &bytes).unwrap();
    }
    assert_eq!(bytes, FIXTURE, "a change of the format needs a new version and a new fixture");
}

#[test]
fn the_fixture_is_readable() {
    let (_, kept, extent) = write();
    let disk = SimDisk::new();
    disk.overwrite(&path(extent.id), FIXTURE);
    assert_eq!(read_sim(&disk, &extent), (kept, vec![]));
}
