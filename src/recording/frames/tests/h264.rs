//! H.264: NAL units in every form, parameter sets, key frames.

use super::senders::{H264_PPS, H264_SPS, Sent, h264};
use super::*;
use crate::webm::avc;

const IDR: &[u8] = &[0x65, 0x88, 1, 2];
const SLICE: &[u8] = &[0x41, 0x9a, 3];

fn together(nals: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![0x78];
    for nal in nals {
        payload.extend((nal.len() as u16).to_be_bytes());
        payload.extend_from_slice(nal);
    }
    payload
}

fn key() -> Vec<u8> {
    together(&[H264_SPS, H264_PPS, IDR])
}

#[test]
fn parameter_sets_are_said_once() {
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, true, &key());
    let frame = bench.one();
    assert_eq!((frame.size, frame.payload.to_vec()), (Some((640, 360)), [&[0, 0, 0, 4][..], IDR].concat()));
    let begins = frame.begins.expect("a description");
    assert_eq!(begins.private, avc::private([H264_SPS, H264_PPS]).expect("a record"));
    // The same again, alone in their packets and in the middle of nothing.
    bench.put(7, 1, false, H264_SPS);
    bench.put(7, 1, false, H264_PPS);
    bench.put(7, 1, true, IDR);
    assert!(bench.one().begins.is_none());
    bench.put(7, 2, true, &together(&[H264_SPS, H264_PPS]));
    bench.put(7, 3, true, SLICE);
    assert_eq!(bench.take(), [(3, [&[0, 0, 0, 3][..], SLICE].concat())]);
    // They stay known for key frames without them.
    bench.put(7, 4, true, IDR);
    let frame = bench.one();
    assert!(frame.is_keyframe && frame.begins.is_none());
}

#[test]
fn other_parameter_sets_are_another_track() {
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, true, &key());
    let other = [0x68, 0xce, 0x3c, 0x80];
    bench.put(7, 1, true, &together(&[H264_SPS, &other, IDR]));
    let private: Vec<_> = bench.out.drain(..).filter_map(|frame| frame.begins).map(|begins| begins.private).collect();
    let expect = [[H264_SPS, H264_PPS], [H264_SPS, &other]].map(|sets| avc::private(sets).expect("a record"));
    assert_eq!(private, expect);
    // A slice may need what the file's record does not have.
    bench.put(7, 2, true, &together(&[H264_PPS, SLICE]));
    bench.put(7, 3, true, SLICE);
    assert!(bench.assembler.wants_keyframe());
    bench.put(7, 4, true, IDR);
    let frame = bench.one();
    assert_eq!((frame.time, frame.begins.map(|begins| begins.private)), (4, Some(expect[0].clone())));
    // One with another id is one more.
    let second = [0x68, 0x5c, 0x0f, 0xc8];
    bench.put(7, 5, true, &together(&[&second, IDR]));
    let begins = bench.one().begins.expect("a description");
    assert_eq!(begins.private, avc::private([H264_SPS, H264_PPS, &second]).expect("a record"));
}

#[test]
fn key_frames() {
    let late: &[u8] = &[0x65, 0x44, 1];
    let rows: [(&str, &[&[u8]], bool); 6] = [
        ("a key frame", &[H264_SPS, H264_PPS, IDR], true),
        ("two slices", &[H264_SPS, H264_PPS, IDR, late], true),
        ("no parameter sets", &[IDR], false),
        ("one of two", &[H264_PPS, IDR], false),
        ("the first slice is missing", &[H264_SPS, H264_PPS, late], false),
        ("no IDR picture", &[H264_SPS, H264_PPS, SLICE], false),
    ];
    for (name, nals, is_keyframe) in rows {
        let mut bench = Bench::new(Codec::H264);
        bench.put(7, 0, true, &together(nals));
        assert_eq!(bench.out.len(), usize::from(is_keyframe), "{name}");
        assert_eq!(bench.assembler.wants_keyframe(), !is_keyframe, "{name}");
    }
}

/// What was lost right before an IDR picture may have been its parameter sets; what was lost earlier was not.
#[test]
fn a_key_frame_whose_parameter_sets_may_be_lost() {
    for (lost, lost_between, frames) in [(0, 0, 2), (1, 0, 1), (0, 1, 2)] {
        let mut bench = Bench::new(Codec::H264);
        bench.put(7, 0, true, &key());
        bench.put_after(lost_between, 7, 1, true, SLICE);
        bench.take();
        bench.put_after(lost, 7, 2, true, IDR);
        bench.put_after(0, 7, 3, true, IDR);
        assert_eq!(bench.take().len(), frames, "{lost} {lost_between}");
    }
    // The first of two is missing.
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, true, &key());
    bench.put_after(1, 7, 1, true, &together(&[H264_PPS, IDR]));
    assert_eq!(bench.take().len(), 1);
    // Those of another encoding are of no use.
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, true, &key());
    bench.put(8, 1, true, IDR);
    assert_eq!(bench.take().len(), 1);
}

#[test]
fn fragments() {
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, false, &together(&[H264_SPS, H264_PPS]));
    bench.put(7, 0, false, &[0x7c, 0x85, 0x88, 1]);
    bench.put(7, 0, false, &[0x7c, 0x05, 2, 3]);
    bench.put(7, 0, true, &[0x7c, 0x45, 4]);
    assert_eq!(bench.take(), [(0, vec![0, 0, 0, 6, 0x65, 0x88, 1, 2, 3, 4])]);
    // A parameter set may come like this as well.
    bench.put(7, 1, false, &[0x7c, 0x87, 0x42]);
    bench.put(7, 1, false, &[&[0x7c, 0x47][..], &H264_SPS[2..]].concat());
    bench.put(7, 1, true, IDR);
    assert!(bench.one().begins.is_none());
}

#[test]
fn malformed_units() {
    let rows: [(&str, &[&[u8]]); 12] = [
        ("the middle of a fragmented one", &[&[0x5c, 0x01, 1]]),
        ("the end is missing", &[&[0x5c, 0x81, 0x9a]]),
        ("begins twice", &[&[0x5c, 0x81, 0x9a], &[0x5c, 0x81, 0x9a]]),
        ("another one goes on", &[&[0x5c, 0x81, 0x9a], &[0x7c, 0x45, 1]]),
        ("another one in between", &[&[0x5c, 0x81, 0x9a], SLICE, &[0x5c, 0x41, 1]]),
        ("fragments of an aggregate", &[&[0x5c, 0xd8, 1, 2]]),
        ("a fragment without its head", &[&[0x5c]]),
        ("sizes that lie", &[&[0x78, 0, 9, 0x41, 0x9a]]),
        ("an empty one", &[&[0x78, 0, 0, 0, 2, 0x41, 0x9a]]),
        ("half a size", &[&[0x78, 0, 2, 0x41, 0x9a, 0]]),
        ("an aggregate within", &[&[0x78, 0, 2, 0x78, 0x9a]]),
        ("a type of mode 2", &[&[0x5a, 0, 0, 0, 2, 0x41, 0x9a]]),
    ];
    for (name, packets) in rows {
        let mut bench = Bench::new(Codec::H264);
        bench.put(7, 0, true, &key());
        for (index, payload) in packets.iter().enumerate() {
            bench.put(7, 1, index + 1 == packets.len(), payload);
        }
        bench.put(7, 2, true, SLICE);
        bench.put(7, 3, true, &key());
        let times: Vec<u32> = bench.take().into_iter().map(|(time, _)| time).collect();
        assert_eq!((times, bench.counters()), (vec![0, 3], (2, 2)), "{name}");
    }
}

/// Parameter sets are kept: not more of them, and not longer ones, than senders have.
#[test]
fn parameter_sets_are_bounded() {
    let mut bench = Bench::new(Codec::H264);
    bench.put(7, 0, true, &key());
    bench.put(7, 1, true, &[&[0x68, 0xce][..], &[1; 2000]].concat());
    assert!(bench.assembler.wants_keyframe());
    // Ids from 1 on, in Exp-Golomb code.
    for id in 1..200u32 {
        let code = (u64::from(id) + 1) << (63 - 2 * (id + 1).ilog2());
        bench.put(7, 1 + id, true, &[&[0x68][..], &code.to_be_bytes()].concat());
    }
    let random = &mut fastrand::Rng::with_seed(1);
    let Sent { packets, .. } = h264(random, true, &[], 0);
    for (index, payload) in packets.iter().enumerate() {
        bench.put(7, 999, index + 1 == packets.len(), payload);
    }
    bench.out.pop_front();
    assert_eq!(bench.one().begins.map(|begins| begins.private[5] & 0x1f), Some(1));
}
