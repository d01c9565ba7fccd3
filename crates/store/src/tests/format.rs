//! Records as bytes.

use proptest::prelude::*;

use crate::format::{self, FileHeader, MARK_SIZE, base_of, file_name, record_at};
use crate::header::HeaderRead;
use crate::scan::{self, End};
use crate::{Lsn, PAYLOAD_SIZE_MAX, Tail};

#[test]
fn a_record_is_valid_only_where_it_was_written() {
    let mut tail = Tail::new(Lsn(1000));
    let lsn = tail.append(7, &[b"pay", b"load"]);
    assert_eq!((lsn, tail.next_lsn(), tail.pending_bytes()), (Lsn(1020), Lsn(1039), 39));
    let round = tail.take();
    let record = record_at(round.bytes(), MARK_SIZE, Lsn(1000)).unwrap();
    assert_eq!((record.lsn, record.kind, record.version, record.payload), (lsn, 7, 1, &b"payload"[..]));
    assert_eq!(record_at(round.bytes(), MARK_SIZE, Lsn(1001)), None);
}

#[test]
fn a_round_begins_with_what_was_synced_when_it_was_taken() {
    let mut tail = Tail::new(Lsn(0));
    tail.append(1, &[b"x"]);
    let end = tail.take().end();
    tail.append(1, &[b"y"]);
    tail.synced(end);
    let round = tail.take();
    let mark = record_at(round.bytes(), 0, round.first()).unwrap();
    assert_eq!(mark.mark(), Some(end));
}

#[test]
fn an_empty_tail_gives_an_empty_round() {
    let mut tail = Tail::new(Lsn(5));
    let round = tail.take();
    assert!(round.is_empty());
    assert_eq!((round.first(), round.end(), tail.next_lsn()), (Lsn(5), Lsn(5), Lsn(5)));
    let mark = tail.take_mark();
    assert_eq!((mark.first(), mark.end()), (Lsn(5), Lsn(25)));
}

#[test]
fn buffers_are_recycled() {
    let mut tail = Tail::new(Lsn(0));
    tail.append(1, &[&[1; 5000]]);
    let buffer = tail.take().into_buffer();
    let place = buffer.as_ptr();
    tail.give_back(buffer);
    tail.take();
    tail.append(1, &[&[2; 4000]]);
    let buffer = tail.take().into_buffer();
    assert_eq!(buffer.as_ptr(), place);
}

#[test]
#[should_panic(expected = "at most 1073741824 fit a record")]
fn a_payload_beyond_the_limit_is_a_bug() {
    // One mebibyte, more than a thousand times.
    let part = vec![0; 1 << 20];
    Tail::new(Lsn(0)).append(1, &vec![&part[..]; (PAYLOAD_SIZE_MAX >> 20) + 1]);
}

#[test]
#[should_panic(expected = "kind 0 is the journal's own")]
fn marks_are_not_for_owners() {
    Tail::new(Lsn(0)).append(0, &[]);
}

#[test]
#[should_panic(expected = "but only bytes below 0 were taken")]
fn what_was_not_taken_cannot_be_synced() {
    Tail::new(Lsn(0)).synced(Lsn(1));
}

#[test]
fn names_are_bases() {
    assert_eq!(file_name(Lsn(42)), "00000000000000000042.journal");
    assert_eq!(base_of("00000000000000000042.journal"), Some(Lsn(42)));
    assert_eq!(base_of(&file_name(Lsn(u64::MAX))), Some(Lsn(u64::MAX)));
    for other in ["42.journal", "00000000000000000042.spare", "+0000000000000000042.journal", ".journal"] {
        assert_eq!(base_of(other), None, "{other}");
    }
    assert_eq!(base_of("99999999999999999999.journal"), None);
}

#[test]
fn zeros_are_no_record() {
    assert_eq!(record_at(&[0; 100], 0, Lsn(0)), None);
    assert_eq!(record_at(&[0; 100], 95, Lsn(0)), None);
    assert_eq!(record_at(&[0; 100], 200, Lsn(0)), None);
}

proptest! {
    #[test]
    fn what_is_appended_is_found(
        base in 0u64..1 << 60,
        records in prop::collection::vec((1u8.., prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)), 1..20),
    ) {
        let mut tail = Tail::new(Lsn(base));
        for (kind, parts) in &records {
            tail.append(*kind, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let round = tail.take();
        let mut found = Vec::new();
        let stop = scan::walk(round.bytes(), Lsn(base), End::Open, &mut |step| {
            if let scan::Found::Record(record) = step && record.kind != 0 {
                found.push((record.kind, record.payload.to_vec()));
            }
            Ok(())
        }).unwrap();
        let expected: Vec<_> = records.into_iter().map(|(kind, parts)| (kind, parts.concat())).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(stop, scan::Stop { lsn: round.end(), torn: false });
    }

    #[test]
    fn headers_come_back(journal: u32, base: u64, previous: u64, previous_end: u64) {
        let (base, previous, previous_end) = (Lsn(base), Lsn(previous), Lsn(previous_end));
        let header = FileHeader { journal, base, previous, previous_end };
        prop_assert_eq!(FileHeader::decode(&header.encode()), HeaderRead::Valid(header));
    }

    #[test]
    fn any_bytes_are_walked(bytes in prop::collection::vec(any::<u8>(), 0..400), end in prop::option::of(0usize..500)) {
        let end = end.map_or(End::Open, |end| End::At(Lsn(7).plus(end.max(bytes.len()))));
        let stop = scan::walk(&bytes, Lsn(7), end, &mut |_| Ok(())).unwrap();
        if let End::At(lsn) = end {
            prop_assert_eq!(stop.lsn, lsn);
        }
        FileHeader::decode(&bytes);
        format::record_at(&bytes, 3, Lsn(0));
    }
}
