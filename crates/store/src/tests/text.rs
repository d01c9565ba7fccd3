//! Files as people see them.

use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};

use crate::sim::SimDisk;
use crate::{Kind, dump};

const FIXTURE: &[u8] = include_bytes!("../../fixtures/v1.journal");

fn path() -> PathBuf {
    PathBuf::from("/journal/00000000000000000000.journal")
}

fn dump(path: &Path, bytes: &[u8]) -> crate::Result<String> {
    let disk = SimDisk::new();
    disk.overwrite(path, bytes);
    let mut out = Vec::new();
    dump::print(&disk, path, &mut out, &|kind, _, payload| format!("{kind} is {:?}", payload.first()))?;
    Ok(String::from_utf8(out).unwrap())
}

fn check(bytes: &[u8], expected: &Expect) {
    expected.assert_eq(&dump(&path(), bytes).unwrap());
}

#[test]
fn a_sound_file() {
    check(
        FIXTURE,
        &expect![[r#"
        journal 3, base 0, the first file
                   0  kind 0   v1         8 B  mark: synced below 0
                  20  kind 1   v1         5 B  1 is Some(104)
                  37  kind 2   v1         0 B  2 is None
                  49  kind 255 v1         2 B  255 is Some(0)
                  63  kind 0   v1         8 B  mark: synced below 63
                  83  kind 1   v1       200 B  1 is Some(0)
                 295  kind 0   v1         8 B  mark: synced below 295
                 315  end of records; 56 bytes follow
    "#]],
    );
}

#[test]
fn a_damaged_file() {
    let mut bytes = FIXTURE.to_vec();
    bytes[4] ^= 1;
    bytes[64 + 25] ^= 1;
    check(
        &bytes,
        &expect![[r#"
        header damaged; base 0 by its name
                   0  kind 0   v1         8 B  mark: synced below 0
                  20  damaged up to 37
                  37  kind 2   v1         0 B  2 is None
                  49  kind 255 v1         2 B  255 is Some(0)
                  63  kind 0   v1         8 B  mark: synced below 63
                  83  kind 1   v1       200 B  1 is Some(0)
                 295  kind 0   v1         8 B  mark: synced below 295
                 315  end of records; 56 bytes follow
    "#]],
    );
}

#[test]
fn a_torn_file() {
    let mut bytes = FIXTURE.to_vec();
    bytes[64 + 120] ^= 1;
    bytes[64 + 300..].fill(0);
    check(
        &bytes,
        &expect![[r#"
        journal 3, base 0, the first file
                   0  kind 0   v1         8 B  mark: synced below 0
                  20  kind 1   v1         5 B  1 is Some(104)
                  37  kind 2   v1         0 B  2 is None
                  49  kind 255 v1         2 B  255 is Some(0)
                  63  kind 0   v1         8 B  mark: synced below 63
                  83  288 bytes follow that are no records: torn, stale or damaged
    "#]],
    );
}

#[test]
fn what_is_no_journal_is_said() {
    let error = dump(Path::new("/etc/passwd"), b"root:x:0:0").unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert_eq!(error.text, "/etc/passwd is no journal file: neither its header nor its name is");
}
