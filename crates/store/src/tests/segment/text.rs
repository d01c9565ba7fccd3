//! Segments as people see them.

use std::path::Path;

use expect_test::{Expect, expect};

use crate::dump::segment::{Checked, print};
use crate::sim::SimDisk;
use crate::{Kind, Result};

const FIXTURE: &[u8] = include_bytes!("../../../fixtures/v1.segment");
const PATH: &str = "/segments/0000000000000abc-0000000000001234.segment";

fn dump(path: &str, bytes: &[u8]) -> Result<(String, Checked)> {
    let disk = SimDisk::new();
    disk.overwrite(Path::new(path), bytes);
    let mut out = Vec::new();
    let checked = print(&disk, Path::new(path), &mut out)?;
    Ok((String::from_utf8(out).unwrap(), checked))
}

/// Returns how many messages, damages and unknown bytes there are.
fn check(path: &str, bytes: &[u8], expected: &Expect) -> (u64, u64, u64) {
    let (text, checked) = dump(path, bytes).unwrap();
    expected.assert_eq(&text);
    (checked.messages, checked.damages, checked.unknown_bytes)
}

#[test]
fn a_sound_segment() {
    assert_eq!(
        check(
            PATH,
            FIXTURE,
            &expect![[r#"
                segment 4660 of queue 2748 in incarnation 0x123456789abcdef
                         112        1000 to 1001       flags 0x00000000      2 messages         5 B
                         157        1005 to 1005       flags 0x00000000      1 messages         2 B
                         199        1006 to 1006       flags 0x80000001      1 messages       200 B
                         439        1007 to 1007       flags 0x00000000      1 messages         3 B
                         442  end of file
            "#]]
        ),
        (5, 0, 0)
    );
}

#[test]
fn a_damaged_segment() {
    let mut bytes = FIXTURE.to_vec();
    bytes[64 + 32 + 16] ^= 1;
    bytes[120] ^= 1;
    assert_eq!(
        check(
            PATH,
            &bytes,
            &expect![[r#"
        segment 4660 of queue 2748 in incarnation 0x123456789abcdef
                 112  damaged: bytes 112 up to 117: messages do not match their checksums; messages 1000 to 1000 are lost
                 117        1001 to 1001       flags 0x00000000      1 messages         0 B
                 117  damaged: bytes 117 up to 159: no block begins here: its header does not match its checksum; messages 1002 to 1005 are lost
                 199        1006 to 1006       flags 0x80000001      1 messages       200 B
                 439        1007 to 1007       flags 0x00000000      1 messages         3 B
                 442  end of file
    "#]]
        ),
        (3, 2, 0)
    );
}

#[test]
fn a_segment_with_a_torn_end() {
    let bytes = [FIXTURE, b"LEVB and so on"].concat();
    assert_eq!(
        check(
            PATH,
            &bytes,
            &expect![[r#"
                segment 4660 of queue 2748 in incarnation 0x123456789abcdef
                         112        1000 to 1001       flags 0x00000000      2 messages         5 B
                         157        1005 to 1005       flags 0x00000000      1 messages         2 B
                         199        1006 to 1006       flags 0x80000001      1 messages       200 B
                         439        1007 to 1007       flags 0x00000000      1 messages         3 B
                         442  14 bytes follow that are no block: torn, left over or damaged
            "#]]
        ),
        (5, 0, 14)
    );
}

#[test]
fn a_segment_under_a_wrong_name() {
    let path = "/segments/0000000000000abc-0000000000001235.segment";
    assert_eq!(
        check(
            path,
            FIXTURE,
            &expect![[r#"
                segment 4660 of queue 2748 in incarnation 0x123456789abcdef, under a wrong name
                         112        1000 to 1001       flags 0x00000000      2 messages         5 B
                         157        1005 to 1005       flags 0x00000000      1 messages         2 B
                         199        1006 to 1006       flags 0x80000001      1 messages       200 B
                         439        1007 to 1007       flags 0x00000000      1 messages         3 B
                         442  end of file
            "#]]
        ),
        (5, 1, 0)
    );
}

#[test]
fn a_segment_without_a_header() {
    let mut bytes = FIXTURE.to_vec();
    bytes[9] ^= 1;
    assert_eq!(
        check(
            PATH,
            &bytes,
            &expect![[r#"
        segment 4660 of queue 2748 by its name; header damaged, so its blocks can be checked only by who knows the incarnation
    "#]]
        ),
        (0, 1, 0)
    );
}

#[test]
fn what_is_no_segment_is_said() {
    let error = dump("/etc/passwd", b"root:x:0:0").unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert_eq!(error.text, "/etc/passwd is no segment: neither its header nor its name is");
}
