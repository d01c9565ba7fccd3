//! Checkpoints: the old one or the new one, never half of one.

use std::path::Path;

use expect_test::expect;
use proptest::prelude::*;

use crate::checkpoint::{Checkpoint, Found, read, write};
use crate::sim::{Call, Fault, SimDisk};
use crate::{Disk, Kind, RealDisk, Result, dump};

const PATH: &str = "/shard/3.checkpoint";
const FIXTURE: &[u8] = include_bytes!("../../fixtures/v1.checkpoint");

fn path() -> &'static Path {
    Path::new(PATH)
}

fn checkpoint(number: u64, payload: impl Into<Vec<u8>>) -> Checkpoint {
    Checkpoint { shard: 3, number, payload: payload.into() }
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/shard")).unwrap();
    disk
}

/// What is read from a file of `bytes`.
fn read_bytes(bytes: &[u8]) -> Result<Option<Found>> {
    let disk = disk();
    disk.overwrite(path(), bytes);
    read(&disk, path(), 3)
}

fn sound(checkpoint: Checkpoint) -> Option<Found> {
    Some(Found { checkpoint, damage: None })
}

fn check_round_trip<D: Disk>(disk: &D, path: &Path) {
    assert_eq!(read(disk, path, 3).unwrap(), None, "none yet");
    for (number, size) in [0, 1, 4063, 4064, 4065, 100_000, 3].into_iter().enumerate() {
        let checkpoint = checkpoint(number as u64, vec![7; size]);
        write(disk, path, &checkpoint).unwrap();
        assert_eq!(read(disk, path, 3).unwrap(), sound(checkpoint));
    }
}

#[test]
fn both_disks_keep_the_newest() {
    check_round_trip(&disk(), path());
    let home = tempfile::tempdir().unwrap();
    check_round_trip(&RealDisk, &home.path().join("3.checkpoint"));
    assert_eq!(RealDisk.list(home.path()).unwrap(), ["3.checkpoint"]);
}

#[test]
fn a_write_costs_one_write_two_syncs_and_a_rename() {
    let disk = disk();
    write(&disk, path(), &checkpoint(1, "x")).unwrap();
    let calls = [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::SyncDir, Call::Remove];
    assert_eq!(calls.map(|call| disk.count(call)), [1, 1, 1, 1, 1, 0]);
    assert_eq!(disk.contents(path()).unwrap().len(), 8192);
}

/// At every call, with every kind of failure, on a disk that then loses its power in many ways.
#[test]
fn a_crash_at_any_point_leaves_the_old_or_the_new() {
    let (mut old, mut new) = (0, 0);
    for fault in [Fault::Io, Fault::Full, Fault::Short, Fault::PowerCut] {
        for nth in 1..8 {
            for seed in 0..200 {
                let disk = disk();
                write(&disk, path(), &checkpoint(1, vec![1; 5000])).unwrap();
                disk.fail(nth, None, fault);
                let outcome = write(&disk, path(), &checkpoint(2, vec![2; 9000]));
                assert_eq!(outcome.is_err(), !disk.is_fault_pending());
                disk.crash(seed);
                let found = read(&disk, path(), 3).unwrap();
                if found == sound(checkpoint(1, vec![1; 5000])) && outcome.is_err() {
                    old += 1;
                } else {
                    assert_eq!(found, sound(checkpoint(2, vec![2; 9000])));
                    new += 1;
                }
                // What the crash left beside it is in nobody's way.
                write(&disk, path(), &checkpoint(3, "third")).unwrap();
                disk.crash(seed);
                assert_eq!(read(&disk, path(), 3).unwrap(), sound(checkpoint(3, "third")));
            }
        }
    }
    println!("{old} old, {new} new");
    assert!(old > 1000 && new > 1000);
}

#[test]
fn a_disk_that_lies_loses() {
    let lost = (0..100).filter(|seed| {
        let disk = SimDisk::without_sync();
        disk.create_dir(Path::new("/shard")).unwrap();
        write(&disk, path(), &checkpoint(1, vec![1; 5000])).unwrap();
        disk.crash(*seed);
        read(&disk, path(), 3).ok() != Some(sound(checkpoint(1, vec![1; 5000])))
    });
    assert!(lost.count() > 50);
}

#[test]
fn every_flipped_bit_is_named_and_costs_nothing() {
    let disk = disk();
    write(&disk, path(), &checkpoint(9, (0..100).collect::<Vec<u8>>())).unwrap();
    let bytes = disk.contents(path()).unwrap();
    let expected = read(&disk, path(), 3).unwrap().unwrap().checkpoint;
    let mut named = 0;
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[offset] ^= 1 << bit;
            let found = read_bytes(&bytes).unwrap().unwrap();
            assert_eq!(found.checkpoint, expected);
            assert_eq!(found.damage.is_some(), offset % 4096 < 132, "offset {offset}");
            named += usize::from(found.damage.is_some());
        }
    }
    assert_eq!(named, 2 * 132 * 8, "all but the zeros behind the copies");
}

#[test]
fn a_lost_sector_costs_nothing() {
    let disk = disk();
    write(&disk, path(), &checkpoint(9, vec![5; 9000])).unwrap();
    let sound = disk.contents(path()).unwrap();
    for sector in 0..sound.len() / 512 {
        let mut bytes = sound.clone();
        bytes[sector * 512..][..512].fill(0);
        assert_eq!(read_bytes(&bytes).unwrap().unwrap().checkpoint, checkpoint(9, vec![5; 9000]));
    }
}

#[test]
fn a_file_with_no_whole_copy_is_damaged_and_says_why() {
    let mut bytes = FIXTURE.to_vec();
    bytes[40] ^= 1;
    bytes[4096 + 28] ^= 1;
    let error = read_bytes(&bytes).unwrap_err();
    assert_eq!(error.kind, Kind::Damaged);
    expect!["/shard/3.checkpoint is damaged: the payload of the first copy should have checksum 0xf22af478, but has 0x2f6f5ec0; the header of the second copy says checksum 0x6715011d, its bytes have 0x6715011c"].assert_eq(&error.text);
    for bytes in [&[][..], &[0; 8192], &FIXTURE[..10]] {
        assert_eq!(read_bytes(bytes).unwrap_err().kind, Kind::Damaged);
    }
}

#[test]
fn of_two_copies_the_newer_counts() {
    let halves = [5, 6].map(|number| {
        let disk = disk();
        write(&disk, path(), &checkpoint(number, "x")).unwrap();
        disk.contents(path()).unwrap()[..4096].to_vec()
    });
    for [first, second] in [[0, 1], [1, 0]] {
        let found = read_bytes(&[&halves[first][..], &halves[second]].concat()).unwrap().unwrap();
        assert_eq!(found.checkpoint, checkpoint(6, "x"));
        let why = format!("its copies have the numbers {} and {}", 5 + first, 5 + second);
        assert_eq!(found.damage, Some(why));
    }
}

/// A file that lost its end has the first copy, or nothing that passes for one.
#[test]
fn a_file_cut_short() {
    for len in 0..FIXTURE.len() {
        match read_bytes(&FIXTURE[..len]) {
            Ok(found) => assert!(found.unwrap().damage.is_some() && len >= 32 + 12),
            Err(error) => assert!(error.kind == Kind::Damaged && len < 32 + 12),
        }
    }
}

#[test]
fn another_shards_checkpoint_is_refused() {
    let disk = disk();
    write(&disk, path(), &checkpoint(1, "x")).unwrap();
    let error = read(&disk, path(), 4).unwrap_err();
    assert_eq!(error.kind, Kind::Foreign);
    assert_eq!(error.text, "/shard/3.checkpoint is the checkpoint of shard 3, not of shard 4");
}

#[test]
fn a_newer_format_is_refused() {
    let mut bytes = FIXTURE.to_vec();
    for at in [0, 4096] {
        bytes[at + 4] = 2;
        let checksum = crc_fast::crc32_iscsi(&bytes[at..at + 28]);
        bytes[at + 28..at + 32].copy_from_slice(&checksum.to_le_bytes());
    }
    let error = read_bytes(&bytes).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert_eq!(error.text, "/shard/3.checkpoint has format 2; this version of Leveret reads format 1");
}

#[test]
fn errors_of_the_disk_are_told() {
    let disk = disk();
    write(&disk, path(), &checkpoint(1, "x")).unwrap();
    for (call, says) in [
        (Call::Create, "cannot write /shard/3.checkpoint.new: "),
        (Call::Write, "cannot write /shard/3.checkpoint.new: "),
        (Call::Sync, "cannot write /shard/3.checkpoint.new: "),
        (Call::Rename, "cannot rename /shard/3.checkpoint.new: "),
        (Call::SyncDir, "cannot sync /shard: "),
    ] {
        disk.fail(1, Some(call), Fault::Full);
        let error = write(&disk, path(), &checkpoint(2, "y")).unwrap_err();
        assert_eq!((error.kind, error.text.starts_with(says)), (Kind::Full, true), "{error}");
    }
    disk.fail(1, Some(Call::Read), Fault::Io);
    let error = read(&disk, path(), 3).unwrap_err();
    assert_eq!(error.text, "cannot read /shard/3.checkpoint: Input/output error (os error 5)");
}

#[test]
fn today_writes_the_fixture() {
    let disk = disk();
    write(&disk, path(), &checkpoint(0x0102_0304, "twelve bytes")).unwrap();
    let bytes = disk.contents(path()).unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1.checkpoint");
        std::fs::write(fixture, &bytes).unwrap();
    }
    assert_eq!(bytes, FIXTURE, "a change of the format needs a new version and a new fixture");
}

#[test]
fn the_fixture_is_readable() {
    assert_eq!(read_bytes(FIXTURE).unwrap(), sound(checkpoint(0x0102_0304, "twelve bytes")));
}

#[test]
fn as_people_see_it() {
    let mut bytes = FIXTURE.to_vec();
    let print = |bytes: &[u8]| {
        let disk = disk();
        disk.overwrite(path(), bytes);
        let mut out = Vec::new();
        let sound =
            dump::checkpoint::print(&disk, path(), &mut out, &|payload| format!("{payload:?}")).unwrap();
        (String::from_utf8(out).unwrap(), sound)
    };
    let (text, sound) = print(&bytes);
    expect![[r#"
        checkpoint 16909060 of shard 3, 12 B of payload
        [116, 119, 101, 108, 118, 101, 32, 98, 121, 116, 101, 115]
    "#]]
    .assert_eq(&text);
    assert!(sound);
    bytes[4096 + 33] ^= 1;
    let (text, sound) = print(&bytes);
    expect![[r#"
        checkpoint 16909060 of shard 3, 12 B of payload
        damaged, the other copy is whole: the payload of the second copy should have checksum 0xf22af478, but has 0x655b03b9
        [116, 119, 101, 108, 118, 101, 32, 98, 121, 116, 101, 115]
    "#]].assert_eq(&text);
    assert!(!sound);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes: no panic, and never a payload that was not written.
    #[test]
    fn any_damage_is_survived(wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8)) {
        let mut bytes = FIXTURE.to_vec();
        for (at, byte, cut) in wounds {
            let at = at.index(bytes.len().max(1));
            match cut {
                true => bytes.truncate(at),
                false => bytes.get_mut(at).into_iter().for_each(|old| *old = byte),
            }
        }
        match read_bytes(&bytes) {
            Ok(found) => prop_assert_eq!(found.unwrap().checkpoint, checkpoint(0x0102_0304, "twelve bytes")),
            Err(error) => prop_assert_eq!(error.kind, Kind::Damaged),
        }
    }
}
