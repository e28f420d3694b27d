//! AV1: OBUs over packets, key frames, sequence headers.

use super::senders::{AV1_SEQUENCE, leb128, sized};
use super::*;
use crate::webm;

/// A packet with all OBUs, each as an element with a size.
fn whole(obus: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![0];
    for obu in obus {
        payload.extend(leb128(obu.len()));
        payload.extend_from_slice(obu);
    }
    payload
}

fn sequence() -> Vec<u8> {
    [&[0x08][..], &AV1_SEQUENCE].concat()
}

const KEY: &[u8] = &[0x30, 0x10, 1, 2];
const OTHER: &[u8] = &[0x30, 0x30, 3, 4];

/// Every way to divide a unit into packets gives the same block.
#[test]
fn fragments_of_every_size() {
    let obus = [sequence(), [KEY, &[7; 40]].concat(), vec![0x34, 0x08, 0x30, 9]];
    let parts =
        [(vec![0x08], AV1_SEQUENCE.to_vec()), (vec![0x30], obus[1][1..].to_vec()), (vec![0x34, 0x08], vec![0x30, 9])];
    let block: Vec<u8> = parts.iter().flat_map(sized).collect();
    for size in 1..60 {
        let mut bench = Bench::new(Codec::Av1);
        for (index, obu) in obus.iter().enumerate() {
            let pieces: Vec<&[u8]> = obu.chunks(size).collect();
            for (place, piece) in pieces.iter().enumerate() {
                let is_last = place + 1 == pieces.len();
                let flags = u8::from(place > 0) << 7 | u8::from(!is_last) << 6 | 0x10;
                bench.put(7, 0, is_last && index + 1 == obus.len(), &[&[flags][..], piece].concat());
            }
        }
        assert_eq!(bench.take(), [(0, block.clone())], "in pieces of {size}");
    }
}

#[test]
fn what_has_no_place_in_a_file() {
    let delimiter: &[u8] = &[0x12, 0x00];
    let (tile_list, padding): (&[u8], &[u8]) = (&[0x40, 1, 2], &[0x78, 0, 0x80]);
    let mut bench = Bench::new(Codec::Av1);
    bench.put(7, 0, true, &whole(&[delimiter, &sequence(), KEY]));
    bench.put(7, 1, true, &whole(&[delimiter, padding, tile_list, OTHER, padding]));
    // Nothing but that: no frame, and nothing is missing.
    bench.put(7, 2, true, &whole(&[delimiter, padding]));
    bench.put(7, 3, true, &whole(&[OTHER]));
    let block = vec![0x32, 3, 0x30, 3, 4];
    assert_eq!(bench.take()[1..], [(1, block.clone()), (3, block)]);
    assert_eq!(bench.counters(), (3, 0));
}

#[test]
fn key_frames() {
    let sequence = sequence();
    let rows: [(&str, &[&[u8]], bool); 8] = [
        ("a key frame", &[&sequence, KEY], true),
        ("header and tiles apart", &[&sequence, &[0x18, 0x10], &[0x20, 1]], true),
        ("metadata in between", &[&sequence, &[0x28, 1, 2], KEY], true),
        ("without a sequence header", &[KEY], false),
        ("the sequence header comes late", &[KEY, &sequence], false),
        ("intra only", &[&sequence, &[0x30, 0x50, 1]], false),
        ("not shown", &[&sequence, &[0x30, 0x00, 1]], false),
        ("shows what is there", &[&sequence, &[0x18, 0x80]], false),
    ];
    for (name, obus, is_keyframe) in rows {
        let mut bench = Bench::new(Codec::Av1);
        bench.put(7, 0, true, &whole(obus));
        assert_eq!(bench.out.len(), usize::from(is_keyframe), "{name}");
        // Where it is none it is still a frame, unless a sequence begins.
        let mut bench = Bench::new(Codec::Av1);
        bench.put(7, 0, true, &whole(&[&sequence, KEY]));
        bench.put(7, 1, true, &whole(obus));
        let kinds: Vec<bool> = bench.out.iter().map(|frame| frame.is_keyframe).collect();
        assert_eq!(kinds, [true, is_keyframe], "{name}");
    }
}

#[test]
fn another_sequence_is_another_track() {
    let (one, mut other) = (sequence(), sequence());
    // seq_level_idx of the first operating point.
    other[3] ^= 0x04;
    let mut bench = Bench::new(Codec::Av1);
    bench.put(7, 0, true, &whole(&[&one, KEY]));
    bench.put(7, 1, true, &whole(&[&one, KEY]));
    bench.put(7, 2, true, &whole(&[&other, KEY]));
    bench.put(7, 3, true, &whole(&[&other, OTHER]));
    let begins: Vec<_> = bench.out.iter().map(|frame| frame.begins.clone().map(|begins| begins.private)).collect();
    let private = |header: &[u8]| webm::av1::private(header).map(|(private, _)| private);
    assert_eq!(begins, [private(&one), None, private(&other), None]);
    // The block keeps it: a key frame has to have one.
    assert_eq!(bench.out[1].payload.to_vec(), [&[0x0a, 11][..], &AV1_SEQUENCE, &[0x32, 3, 0x10, 1, 2]].concat());
    // A sequence cannot begin without a key frame.
    bench.put(7, 4, true, &whole(&[&one, OTHER]));
    bench.put(7, 5, true, &whole(&[OTHER]));
    assert_eq!((bench.out.len(), bench.counters()), (4, (4, 2)));
}

#[test]
fn malformed_units() {
    let key = whole(&[&sequence(), KEY]);
    let rows: [(&str, &[&[u8]]); 12] = [
        ("tiles without a header", &[&[0x10, 0x20, 1, 2]]),
        ("the middle of an OBU", &[&[0x90, 0x30, 0x30]]),
        ("an OBU without its end", &[&[0x50, 0x30, 0x30]]),
        ("an OBU goes on that does not", &[&[0x10, 0x30, 0x30], &[0x90, 1]]),
        ("an OBU does not go on", &[&[0x50, 0x30, 0x30], &[0x10, 0x30, 1]]),
        ("nothing", &[&[0x00]]),
        ("fewer elements than counted", &[&[0x20, 2, 0x30, 0x30]]),
        ("an element beyond the packet", &[&[0x00, 9, 0x30, 0x30]]),
        ("a size without an end", &[&[0x00, 0xff, 0xff, 0xff, 0xff, 0x01]]),
        ("the forbidden bit", &[&[0x10, 0xb0, 0x30]]),
        ("an OBU beyond its element", &[&[0x10, 0x32, 9, 0x30]]),
        ("no extension where there is one", &[&[0x10, 0x34]]),
    ];
    for (name, packets) in rows {
        let mut bench = Bench::new(Codec::Av1);
        bench.put(7, 0, true, &key);
        for (index, payload) in packets.iter().enumerate() {
            bench.put(7, 1, index + 1 == packets.len(), payload);
        }
        bench.put(7, 2, true, &whole(&[OTHER]));
        bench.put(7, 3, true, &key);
        let times: Vec<u32> = bench.take().into_iter().map(|(time, _)| time).collect();
        assert_eq!((times, bench.counters()), (vec![0, 3], (2, 2)), "{name}");
    }
}

/// Many OBUs with sizes in one element of many packets would cost a search for each.
#[test]
fn an_element_of_many_units_is_refused() {
    let mut bench = Bench::new(Codec::Av1);
    for (count, frames) in [(64, 1), (65, 0)] {
        let units = [&[0x0a, 11][..], &AV1_SEQUENCE, &[0x32, 3, 0x10, 1, 2], &[0x7a, 0].repeat(count - 2)].concat();
        bench.put(7, count as u32, true, &[&[0x10][..], &units].concat());
        assert_eq!(bench.take().len(), frames, "{count}");
    }
}

/// The marker should be there, but time tells as well.
#[test]
fn the_end_of_a_unit_without_a_marker() {
    let mut bench = Bench::new(Codec::Av1);
    bench.put(7, 0, false, &whole(&[&sequence(), KEY]));
    bench.put(7, 1, false, &whole(&[OTHER]));
    bench.put(7, 2, false, &[0x50, 0x30, 0x30]);
    bench.put(7, 3, false, &whole(&[OTHER]));
    assert_eq!((bench.take().len(), bench.counters()), (2, (2, 1)));
}
