//! VP9: pictures of several layers, key frames, private data.

use super::senders::{Vp9Kind, superframe, vp9_frame};
use super::*;

/// Flags, layer octet (L is set, F not), and the frame.
type Layer<'a> = (u8, u8, &'a [u8]);

/// A packet for each layer of a picture.
fn picture(bench: &mut Bench, time: u32, layers: &[Layer<'_>]) {
    for (index, (flags, layer, frame)) in layers.iter().enumerate() {
        let payload = [&[0x20 | flags, *layer, 0][..], frame].concat();
        bench.put(7, time, index + 1 == layers.len(), &payload);
    }
}

fn key() -> Vec<u8> {
    vp9_frame(1, Vp9Kind::Key, 0, (320, 180), true)
}

/// Not a key frame, of a layer as large as its last one.
fn inter(seed: u64, spatial: u32) -> Vec<u8> {
    vp9_frame(seed, Vp9Kind::Inter, spatial, (320, 180), true)
}

#[test]
fn layers_come_and_go() {
    // Of 320x180, 640x360 and 1280x720, the same frame shown and hidden.
    let layer = |seed, kind, spatial: u32| {
        let size = (320 << spatial, 180 << spatial);
        (vp9_frame(seed, kind, spatial, size, true), vp9_frame(seed, kind, spatial, size, false))
    };
    let key = layer(1, Vp9Kind::Key, 0);
    let [above, top] = [layer(2, Vp9Kind::Sized, 1), layer(3, Vp9Kind::Sized, 2)];
    let [a, b, c] = [layer(4, Vp9Kind::Inter, 0), layer(5, Vp9Kind::Inter, 1), layer(6, Vp9Kind::Inter, 2)];
    let mut bench = Bench::new(Codec::Vp9);
    picture(&mut bench, 0, &[(0x0c, 0x00, &key.0), (0x4c, 0x03, &above.0), (0x4c, 0x05, &top.0)]);
    picture(&mut bench, 1, &[(0x4c, 0x00, &a.0)]);
    picture(&mut bench, 2, &[(0x4c, 0x00, &a.0), (0x4c, 0x02, &b.0), (0x4c, 0x05, &c.0)]);
    // The base layer has another frame rate.
    picture(&mut bench, 3, &[(0x4c, 0x02, &b.0), (0x4c, 0x05, &c.0)]);
    let expect = [vec![key.1, above.1, top.0], vec![a.0], vec![a.1, b.1.clone(), c.0.clone()], vec![b.1, c.0]];
    let blocks: Vec<Vec<u8>> = bench.take().into_iter().map(|(_, block)| block).collect();
    assert_eq!(blocks, expect.map(|frames| superframe(&frames)));
}

/// A frame whose header is not understood, or that would be decoded in another way, stays as it is.
#[test]
fn not_every_layer_can_be_hidden() {
    let hidden = |seed| vp9_frame(seed, Vp9Kind::Inter, 0, (320, 180), false);
    let existing = |_| vec![0x88, 0x55];
    let same = |seed| vp9_frame(seed, Vp9Kind::Sized, 1, (320, 180), true);
    // Its reference is what the base layer has left there.
    let fragile = |seed| vp9_frame(seed, Vp9Kind::Fragile, 1, (320, 180), true);
    let rows = [(same as fn(u64) -> Vec<u8>, true), (existing, false), (fragile, false)];
    for (above, is_hidden) in rows {
        for seed in 0..100 {
            let mut bench = Bench::new(Codec::Vp9);
            let (lower, above) = (inter(seed, 0), above(seed + 100));
            picture(&mut bench, 0, &[(0x0c, 0x00, &key())]);
            picture(&mut bench, 1, &[(0x4c, 0x00, &lower), (0x4c, 0x02, &above)]);
            let lower = if is_hidden { hidden(seed) } else { lower };
            assert_eq!(bench.take()[1].1, superframe(&[lower, above]), "seed {seed}");
        }
    }
}

#[test]
fn only_the_base_layer_makes_a_key_frame() {
    let (key, other) = (key(), inter(2, 0));
    let rows: [(&str, u8, u8, &[u8], bool); 6] = [
        ("a key frame", 0x0c, 0x00, &key, true),
        ("predicted, says the descriptor", 0x4c, 0x00, &key, false),
        ("of an upper layer", 0x0c, 0x02, &key, false),
        ("not a key frame, says the frame", 0x0c, 0x00, &other, false),
        ("cut", 0x0c, 0x00, &key[..8], false),
        ("the end of one", 0x04, 0x00, &key, false),
    ];
    for (name, flags, layer, frame, is_keyframe) in rows {
        let mut bench = Bench::new(Codec::Vp9);
        picture(&mut bench, 0, &[(flags, layer, frame)]);
        assert_eq!(bench.out.len(), usize::from(is_keyframe), "{name}");
    }
}

#[test]
fn the_size_is_that_of_the_highest_layer() {
    let (key, other) = (key(), inter(2, 0));
    // Three layers, with sizes: 320x180, 640x360, 1280x720. One that is none says nothing.
    let structure = [0x50, 1, 64, 0, 180, 2, 128, 1, 104, 5, 0, 2, 208];
    let none = [0x50, 1, 64, 0, 180, 0, 0, 1, 104, 5, 0, 0, 0];
    let rows = [(1, structure, (320, 180)), (2, structure, (640, 360)), (3, structure, (1280, 720))];
    for (layers, structure, size) in rows.into_iter().chain([2, 3].map(|layers| (layers, none, (320, 180)))) {
        let mut bench = Bench::new(Codec::Vp9);
        for layer in 0..layers {
            let head: &[u8] = if layer == 0 { &[0x2e, 0, 0] } else { &[0x6c, layer << 1 | 1, 0] };
            let structure: &[u8] = if layer == 0 { &structure } else { &[] };
            let frame = if layer == 0 { &key } else { &other };
            bench.put(7, 0, layer + 1 == layers, &[head, structure, frame].concat());
        }
        let frame = bench.one();
        assert_eq!(frame.size, Some(size), "{layers}");
        let begins = frame.begins.expect("a description");
        assert_eq!(begins.private, [1, 1, 0, 3, 1, 8, 4, 1, 1]);
        let video = crate::webm::Video { width: size.0, height: size.1, display: None };
        assert_eq!(begins.media, crate::webm::Media::Video(video));
    }
}

#[test]
fn layers_out_of_place() {
    let (key, a) = (key(), inter(2, 0));
    let with_index = [&a[..], &[0xc0, 1, 0xc0]].concat();
    let rows: [(&str, &[Layer<'_>]); 6] = [
        ("the lower one comes after the upper", &[(0x4c, 0x02, &a), (0x4c, 0x00, &a)]),
        ("one comes twice", &[(0x4c, 0x00, &a), (0x4c, 0x00, &a)]),
        ("the end of another layer", &[(0x48, 0x00, &a), (0x44, 0x02, &a)]),
        ("more after its end", &[(0x4c, 0x00, &a), (0x44, 0x00, &a)]),
        ("no beginning", &[(0x44, 0x00, &a)]),
        ("a superframe within", &[(0x4c, 0x00, &with_index), (0x4c, 0x02, &a)]),
    ];
    for (name, layers) in rows {
        let mut bench = Bench::new(Codec::Vp9);
        picture(&mut bench, 0, &[(0x0c, 0x00, &key)]);
        picture(&mut bench, 1, layers);
        assert_eq!((bench.take().len(), bench.counters()), (1, (1, 1)), "{name}");
        assert!(bench.assembler.wants_keyframe(), "{name}");
    }
    // A superframe alone is one already.
    let mut bench = Bench::new(Codec::Vp9);
    picture(&mut bench, 0, &[(0x0c, 0x00, &key)]);
    picture(&mut bench, 1, &[(0x4c, 0x00, &with_index)]);
    assert_eq!(bench.take()[1].1, with_index);
}

/// The last packet of a layer's frame says so: where nothing is missing the picture is whole without a marker.
#[test]
fn the_end_of_a_picture_without_a_marker() {
    let (key, a) = (key(), inter(2, 0));
    for (flags, frames) in [(0x4c, 3), (0x48, 1)] {
        let mut bench = Bench::new(Codec::Vp9);
        picture(&mut bench, 0, &[(0x0c, 0x00, &key)]);
        bench.put(7, 1, false, &[&[0x20 | flags, 0x00, 0][..], &a].concat());
        picture(&mut bench, 2, &[(0x4c, 0x00, &a)]);
        assert_eq!(bench.take().len(), frames);
    }
}

#[test]
fn another_profile_is_another_track() {
    // Profile 1: BT.601, 4:4:4, and 4:4:0, for which there are no features.
    let bits = |bits: u64| [&[0xa2, 0x49, 0x83, 0x42][..], &(bits << 25).to_be_bytes()[..5], &[0x55]].concat();
    let size = 319 << 16 | 179;
    let frames = [key(), bits(0b001_0000 << 32 | size), bits(0b001_0010 << 32 | size)];
    let mut bench = Bench::new(Codec::Vp9);
    for (time, frame) in frames.iter().enumerate() {
        picture(&mut bench, time as u32, &[(0x0c, 0x00, frame)]);
        assert_eq!(bench.out[time].size, Some((320, 180)), "{time}");
    }
    let private: Vec<_> = bench.out.iter().map(|frame| frame.begins.clone().map(|begins| begins.private)).collect();
    assert_eq!(
        private,
        [Some(vec![1, 1, 0, 3, 1, 8, 4, 1, 1]), Some(vec![1, 1, 1, 3, 1, 8, 4, 1, 3]), Some(Vec::new())]
    );
}
