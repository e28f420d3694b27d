//! VP8: descriptors, sizes, and what is no frame.

use super::*;

#[test]
fn descriptors_are_taken_off() {
    let frame = [0x11, 1, 2, 3];
    let rows: [(&str, &[u8]); 7] = [
        ("plain", &[0x10]),
        ("not a reference", &[0x30]),
        ("extended, nothing in it", &[0x90, 0x00]),
        ("short picture id", &[0x90, 0x80, 0x11]),
        ("long picture id", &[0x90, 0x80, 0x91, 0x22]),
        ("all fields", &[0x90, 0xf0, 0x91, 0x22, 0x07, 0x21]),
        ("TID without K", &[0x90, 0x20, 0x40]),
    ];
    for (name, descriptor) in rows {
        let mut bench = Bench::new(Codec::Vp8);
        bench.put(7, 0, true, &KEY);
        bench.put(7, 3000, true, &[descriptor, &frame].concat());
        assert_eq!(bench.take()[1..], [(3000, frame.to_vec())], "{name}");
        for cut in 1..=descriptor.len() {
            bench.put(7, 6000 + cut as u32, true, &descriptor[..cut]);
        }
        assert_eq!((bench.take().len(), bench.counters()), (0, (2, descriptor.len() as u64)), "{name}, cut");
    }
}

#[test]
fn another_size_is_no_other_track() {
    let mut bench = Bench::new(Codec::Vp8);
    let mut large = KEY;
    large[7..11].copy_from_slice(&[0x00, 0x45, 0xd0, 0x82]); // 1280x720, to be scaled up
    for (time, key) in [KEY, large, KEY].into_iter().enumerate() {
        bench.put(7, time as u32, true, &key);
    }
    let frames: Vec<_> = bench.out.iter().map(|frame| (frame.size, frame.begins.is_some())).collect();
    assert_eq!(frames, [(Some((640, 360)), true), (Some((1280, 720)), false), (Some((640, 360)), false)]);
    let first = bench.out[0].begins.clone().expect("a description");
    assert_eq!((first.codec, first.private.len()), (crate::webm::Codec::Vp8, 0));
}

#[test]
fn what_is_no_frame() {
    let rows: [(&str, &[u8]); 6] = [
        ("the middle of one", &[0x00, 0x11, 1]),
        ("another partition", &[0x11, 0x11, 1]),
        ("a key frame without start code", &[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2b, 0x80, 2, 0x68, 1, 9]),
        ("a key frame without size", &[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 2, 0x68]),
        ("a key frame without width", &[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0, 0xc0, 0x68, 1, 9]),
        ("nothing", &[0x10]),
    ];
    for (name, payload) in rows {
        let mut bench = Bench::new(Codec::Vp8);
        bench.put(7, 0, true, &KEY);
        bench.put(7, 3000, true, payload);
        bench.put(7, 6000, true, &[0x10, 0x11, 1]);
        assert!(bench.assembler.wants_keyframe(), "{name}");
        bench.put(7, 9000, true, &KEY);
        assert_eq!((bench.take().len(), bench.counters()), (2, (2, 2)), "{name}");
    }
    // A frame begins within another one.
    let mut bench = Bench::new(Codec::Vp8);
    bench.put(7, 0, false, &KEY);
    bench.put(7, 0, true, &KEY);
    assert_eq!(bench.counters(), (0, 1));
}

/// 640x360, with a descriptor of one octet.
const KEY: [u8; 12] = [0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01, 0x00];
