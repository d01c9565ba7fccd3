//! Bits rot: what is hit is missing and named, the rest is served, nothing is made up.

use std::path::Path;

use proptest::prelude::*;

use super::{DIR, Fixture, append, message, path, read_sim};
use crate::segment::{Id, Options, Place, Reader, Writer};
use crate::sim::{Call, Random, SimDisk};

#[test]
fn a_sound_segment_has_no_damage() {
    let fixture = Fixture::new(1, 12, 60);
    let opened = fixture.with(&fixture.bytes());
    assert!(opened.missing.is_empty() && opened.damages.is_empty());
}

/// What a flip at `offset` of a sound file costs.
fn flip(fixture: &Fixture, bytes: &mut [u8], offset: usize, bit: u8) -> usize {
    bytes[offset] ^= bit;
    let opened = fixture.with(bytes);
    bytes[offset] ^= bit;
    let [damage] = &opened.damages[..] else { panic!("offset {offset}: {opened:?}") };
    assert!(damage.offsets.contains(&(offset as u64)), "offset {offset}: {damage}");
    // A block has at most 300 bytes of messages here, so one that is lost whole ends soon.
    assert!(damage.offsets.end - damage.offsets.start <= 32 + 8 * 40 + 300, "offset {offset}: {damage}");
    opened.missing.len()
}

#[test]
fn every_flipped_bit_of_a_small_segment_is_found() {
    let fixture = Fixture::new(2, 12, 60);
    let mut bytes = fixture.bytes();
    let (mut one, mut many, mut none) = (0, 0, 0);
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            match flip(&fixture, &mut bytes, offset, 1 << bit) {
                0 => none += 1,
                1 => one += 1,
                _ => many += 1,
            }
        }
    }
    println!("{} bits: {one} cost one message, {many} a block, {none} nothing", 8 * bytes.len());
    assert_eq!(none, 64 * 8, "only the header of the file costs nothing");
    assert!(one > many && many > 1000);
}

#[test]
fn two_hundred_flipped_bits_of_a_larger_segment_are_found() {
    let fixture = Fixture::new(3, 800, 120);
    let mut bytes = fixture.bytes();
    assert!(bytes.len() > 150_000, "{}", bytes.len());
    let mut random = Random::new(4);
    for _ in 0..200 {
        let offset = 64 + random.index(bytes.len() - 64);
        assert!(flip(&fixture, &mut bytes, offset, 1 << random.below(8)) >= 1);
    }
}

/// The bytes of a message cost that message, whoever stands beside it.
#[test]
fn a_flipped_bit_of_a_message_costs_that_message() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    let kept: Vec<_> = (0..9).zip(b'a'..).map(|(sequence, byte)| message(sequence, [byte; 20])).collect();
    let extent = append(&mut writer, 1, &kept).unwrap();
    let sound = disk.contents(&path(extent.id)).unwrap();
    for hit in 0..kept.len() {
        let at = 64 + 32 + 9 * 8 + hit * 20;
        let mut bytes = sound.clone();
        bytes[at + 7] ^= 1;
        disk.overwrite(&path(extent.id), &bytes);
        let (found, damages) = read_sim(&disk, &extent);
        assert_eq!(found, [&kept[..hit], &kept[hit + 1..]].concat());
        let [damage] = &damages[..] else { panic!("{damages:?}") };
        assert_eq!(damage.sequences, hit as u64..hit as u64 + 1);
        assert_eq!(damage.offsets, at as u64..at as u64 + 20);
        assert_eq!(damage.why, "messages do not match their checksums");
    }
}

#[test]
fn messages_lost_in_a_row_are_named_together() {
    let disk = SimDisk::new();
    let mut writer = super::writer(&disk);
    let kept: Vec<_> = (0..9).zip(b'a'..).map(|(sequence, byte)| message(sequence, [byte; 20])).collect();
    let extent = append(&mut writer, 1, &kept).unwrap();
    let mut bytes = disk.contents(&path(extent.id)).unwrap();
    let at = 64 + 32 + 9 * 8;
    for hit in [2, 3, 4, 6] {
        bytes[at + hit * 20] ^= 1;
    }
    disk.overwrite(&path(extent.id), &bytes);
    let (found, damages) = read_sim(&disk, &extent);
    assert_eq!(found, [&kept[..2], &kept[5..6], &kept[7..]].concat());
    let named: Vec<_> = damages.iter().map(|damage| damage.sequences.clone()).collect();
    assert_eq!(named, [2..5, 6..7]);
    assert_eq!(damages[0].offsets, at as u64 + 40..at as u64 + 100);
}

#[test]
fn zeros_cost_what_they_cover() {
    let fixture = Fixture::new(5, 40, 60);
    let sound = fixture.bytes();
    for at in (0..sound.len()).step_by(512) {
        let mut bytes = sound.clone();
        let end = sound.len().min(at + 512);
        bytes[at..end].fill(0);
        let opened = fixture.with(&bytes);
        assert!(!opened.missing.is_empty() && opened.missing.len() < 60, "{}", opened.missing.len());
    }
}

#[test]
fn a_segment_cut_short_costs_its_end() {
    let fixture = Fixture::new(6, 12, 60);
    let sound = fixture.bytes();
    let mut before = usize::MAX;
    for len in 0..sound.len() {
        let opened = fixture.with(&sound[..len]);
        assert!(opened.missing.len() <= before && !opened.damages.is_empty());
        before = opened.missing.len();
        let first = opened.missing.first().map(|message| message.sequence);
        let kept =
            fixture.kept.iter().map(|message| message.sequence).filter(|sequence| first <= Some(*sequence));
        assert!(opened.missing.iter().map(|message| message.sequence).eq(kept), "an end is missing");
    }
    assert!(before <= 1, "{before}");
}

/// The header of a block is gone, and in its messages stand the whole blocks of another segment, and its own.
#[test]
fn blocks_within_messages_are_not_blocks() {
    let other = Fixture::new(7, 5, 60).bytes();
    let disk = SimDisk::new();
    let options = Options { segment_size: 1 << 20, ..super::small() };
    let mut writer = Writer::open(disk.clone(), Path::new(DIR), options, 1, []).unwrap();
    let one = append(&mut writer, 7, &[message(1, "first")]).unwrap();
    let own = disk.contents(&path(one.id)).unwrap();
    let hit = append(&mut writer, 7, &[message(2, [&other[..], &own[..]].concat())]).unwrap();
    let last = append(&mut writer, 7, &[message(3, "last")]).unwrap();
    let mut bytes = disk.contents(&path(one.id)).unwrap();
    bytes[usize::try_from(hit.from.offset).unwrap() + 9] ^= 1;
    disk.overwrite(&path(one.id), &bytes);
    let extent = writer.sync().unwrap()[0];
    let (found, damages) = read_sim(&disk, &extent);
    assert_eq!(found, [message(1, "first"), message(3, "last")]);
    let [damage] = &damages[..] else { panic!("{damages:?}") };
    assert_eq!((&damage.sequences, &damage.offsets), (&(2..3), &(hit.from.offset..last.from.offset)));
}

/// A damaged header in front of megabytes: each byte is read once, not once for each place a block could begin.
#[test]
fn the_next_block_is_found_at_linear_cost() {
    let disk = SimDisk::new();
    let mut writer = Writer::open(disk.clone(), Path::new(DIR), Options::default(), 1, []).unwrap();
    let trap = b"LEVB".repeat(1 << 20);
    let hit = append(&mut writer, 7, &[message(1, trap)]).unwrap();
    append(&mut writer, 7, &[message(2, "behind it")]).unwrap();
    let mut bytes = disk.contents(&path(hit.id)).unwrap();
    bytes[64] ^= 1;
    disk.overwrite(&path(hit.id), &bytes);
    let extent = writer.sync().unwrap()[0];
    let reads = disk.count(Call::Read);
    assert_eq!(super::read(&disk, Path::new(DIR), &extent, 256 << 10).unwrap().0, [message(2, "behind it")]);
    assert_eq!(disk.count(Call::Read) - reads, 1 + 17 + 1, "the header, the search, the block behind");
}

/// A header that begins in one window and ends in the next is found, wherever it is cut.
#[test]
fn a_block_is_found_across_windows() {
    for size in 4000..4100 {
        let disk = SimDisk::new();
        let mut writer = Writer::open(disk.clone(), Path::new(DIR), Options::default(), 1, []).unwrap();
        let hit = append(&mut writer, 7, &[message(1, vec![1; size])]).unwrap();
        append(&mut writer, 7, &[message(2, "behind it")]).unwrap();
        let extent = writer.sync().unwrap()[0];
        let mut bytes = disk.contents(&path(hit.id)).unwrap();
        bytes[70] ^= 1;
        disk.overwrite(&path(hit.id), &bytes);
        let (found, damages) = read_sim(&disk, &extent);
        assert_eq!(found, [message(2, "behind it")], "{size}");
        assert_eq!(damages[0].sequences, 1..2);
    }
}

#[test]
fn what_was_not_asked_for_is_not_said_to_be_lost() {
    let fixture = Fixture::new(8, 12, 60);
    let (sound, last) = (fixture.bytes(), fixture.kept.last().unwrap());
    let from = Place { offset: 64, sequence: last.sequence };
    // In the first block: its header, its table, and its bytes, which are not even looked at.
    for (offset, damages) in [(64 + 5, 1), (64 + 33, 1), (64 + 32 + 8 * 9, 0)] {
        let mut bytes = sound.clone();
        bytes[offset] ^= 1;
        fixture.disk.overwrite(&path(fixture.extent.id), &bytes);
        let reader = Reader::open(&fixture.disk, Path::new(DIR), fixture.extent.id).unwrap();
        let chunk = reader.read(from, fixture.extent.to, 1 << 20).unwrap();
        let found: Vec<_> = chunk.runs.iter().map(|run| (run.first, run.count())).collect();
        assert_eq!((found, chunk.damages.len()), (vec![(last.sequence, 1)], damages));
        assert!(chunk.damages.iter().all(|damage| damage.sequences.is_empty()));
    }
}

/// Makes the checksums of the block at `at` match whatever its header and table say.
fn forge(bytes: &mut [u8], at: usize, id: Id) {
    let count = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap());
    let table = at + 32..at + 32 + 8 * count as usize;
    if let Some(table) = bytes.get(table) {
        let checksum = crc_fast::crc32_iscsi(table);
        bytes[at + 28..at + 32].copy_from_slice(&checksum.to_le_bytes());
    }
    let place = [id.name.queue, id.name.number, id.incarnation, at as u64].map(u64::to_le_bytes).concat();
    let checksum = crc_fast::crc32_iscsi(&[&place[..], &bytes[at + 8..at + 32]].concat());
    bytes[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// What a colliding checksum would do, or a forger with the disk in hand.
#[test]
fn a_table_that_does_not_add_up_is_damaged() {
    let fixture = Fixture::new(10, 1, 60);
    let sound = fixture.bytes();
    for length in [0, u32::MAX] {
        let mut bytes = sound.clone();
        bytes[64 + 32..64 + 36].copy_from_slice(&length.to_le_bytes());
        forge(&mut bytes, 64, fixture.extent.id);
        let opened = fixture.with(&bytes);
        assert_eq!(opened.damages[0].why, "the table of a block does not match its checksum");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a header says, with the right checksum: no panic, no memory beyond the segment.
    #[test]
    fn any_header_is_survived(
        first: u64, count in prop_oneof![any::<u32>(), 0u32..9], length in prop_oneof![any::<u32>(), 0u32..900],
        entries in prop::collection::vec(0u8..9, 0..40),
    ) {
        let fixture = Fixture::new(11, 12, 60);
        let mut bytes = fixture.bytes();
        for first in [first, 100, u64::MAX] {
            bytes[72..80].copy_from_slice(&first.to_le_bytes());
            bytes[80..84].copy_from_slice(&count.to_le_bytes());
            bytes[88..92].copy_from_slice(&length.to_le_bytes());
            bytes[96..96 + entries.len()].copy_from_slice(&entries);
            forge(&mut bytes, 64, fixture.extent.id);
            fixture.disk.overwrite(&path(fixture.extent.id), &bytes);
            let (found, _) = read_sim(&fixture.disk, &fixture.extent);
            prop_assert!(found.iter().all(|message| message.sequence < fixture.extent.to.sequence));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes anywhere: no panic, nothing made up, all that is missing named.
    #[test]
    fn any_damage_is_survived(wounds in prop::collection::vec(
        (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>(), any::<prop::sample::Index>()),
        1..6,
    )) {
        let fixture = Fixture::new(9, 12, 60);
        let mut bytes = fixture.bytes();
        for (offset, junk, cut, source) in wounds {
            let at = offset.index(bytes.len() + 1);
            if cut {
                bytes.truncate(at);
            }
            // Half of the junk is from elsewhere in the file: it looks right.
            let copied = bytes.get(source.index(bytes.len() + 1)..).unwrap_or_default();
            let junk = if junk.len() % 2 == 0 { junk } else { copied[..copied.len().min(200)].to_vec() };
            let end = bytes.len().min(at + junk.len());
            bytes.splice(at..end, junk);
        }
        fixture.with(&bytes);
    }
}
