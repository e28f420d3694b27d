//! Opus, with and without redundancy.

use super::*;
use crate::recording::frames::opus::{SILENCE_SAMPLES, silence};
use crate::webm;

/// A RED payload: blocks with offsets, the newest last.
fn red(blocks: &[(u32, &[u8])], newest: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (offset, block) in blocks {
        payload.extend((0x80u32 << 24 | 111 << 24 | offset << 10 | block.len() as u32).to_be_bytes());
    }
    payload.push(111);
    for block in blocks.iter().map(|(_, block)| *block).chain([newest]) {
        payload.extend_from_slice(block);
    }
    payload
}

fn put_red(bench: &mut Bench, lost: u64, time: u32, blocks: &[(u32, &[u8])], newest: &[u8]) {
    let packet = Packet { red: true, ..bench.packet(7, time, false, &red(blocks, newest)) };
    bench.handle(&packet, lost);
}

#[test]
fn a_packet_is_a_frame() {
    let mut bench = Bench::new(Codec::Opus);
    bench.put(7, 960, true, &[0xfc, 1, 2]);
    bench.put(7, 1920, false, &[0x08]);
    bench.put_after(3, 8, 0, false, &[0x98, 3]);
    let frames: Vec<_> = bench.out.iter().map(|frame| (frame.time, frame.samples, frame.payload.to_vec())).collect();
    assert_eq!(frames, [(960, 960, vec![0xfc, 1, 2]), (1920, 960, vec![8]), (0, 960, vec![0x98, 3])]);
    assert!(bench.out.iter().all(|frame| frame.is_keyframe && frame.size.is_none() && frame.clock_rate == 48_000));
    let begins = bench.out[0].begins.clone().expect("a description");
    assert_eq!(begins.media, webm::Media::Audio(webm::Audio { sampling_frequency: 48_000.0, channels: 2 }));
    let head = webm::opus::Head::parse(&begins.private).expect("a head");
    assert_eq!((begins.codec, head.channels, head.pre_skip, begins.codec_delay_ns), (webm::Codec::Opus, 2, 0, 0));
    assert_eq!(begins.seek_pre_roll_ns, 80_000_000);
    assert!(bench.out.iter().skip(1).all(|frame| frame.begins.is_none()));
    assert!(!bench.assembler.wants_keyframe());
}

#[test]
fn malformed_packets_are_dropped() {
    let mut bench = Bench::new(Codec::Opus);
    bench.put(7, 0, false, &[0xfd, 1]);
    bench.put(7, 0, false, &[0xff]);
    bench.put(7, 0, false, &[]);
    for payload in [&[0x80 | 111, 0][..], &[111], &[0x80 | 111, 0, 0, 9, 111, 0xfc], &[0xef; 200]] {
        let packet = Packet { red: true, ..bench.packet(7, 0, false, payload) };
        bench.handle(&packet, 0);
    }
    assert_eq!((bench.out.len(), bench.counters()), (0, (0, 6)));
}

#[test]
fn what_was_lost_is_found_in_redundancy() {
    // Lost before the packet at 4800, its blocks (offset, first octet of the payload), and the times that come out.
    type Row<'a> = (&'a str, u64, &'a [(u32, u8)], &'a [u32]);
    let rows: [Row<'_>; 9] = [
        ("nothing was lost", 0, &[(1920, 1), (960, 2)], &[]),
        ("one was lost", 1, &[(1920, 1), (960, 2)], &[3840]),
        ("two were lost", 2, &[(1920, 1), (960, 2)], &[2880, 3840]),
        ("more were lost than there are", 5, &[(1920, 1), (960, 2)], &[2880, 3840]),
        ("some of it is there already", 9, &[(3840, 0), (2880, 1), (1920, 2), (960, 3)], &[2880, 3840]),
        ("in no order, one twice", 9, &[(960, 1), (1920, 2), (960, 1)], &[2880, 3840]),
        ("of time 0", 9, &[(0, 1), (960, 2)], &[3840]),
        ("nothing is in it", 2, &[(1920, 1), (960, 255)], &[2880]),
        ("none", 2, &[], &[]),
    ];
    for (name, lost, blocks, expect) in rows {
        let mut bench = Bench::new(Codec::Opus);
        let start = u32::MAX - 3000;
        for time in [960, 1920] {
            put_red(&mut bench, 0, start.wrapping_add(time), &[], &[0xfc, 0]);
        }
        bench.take();
        let data: Vec<(u32, Vec<u8>)> = blocks
            .iter()
            .map(|(offset, tag)| (*offset, if *tag == 255 { Vec::new() } else { vec![0xfc, *tag] }))
            .collect();
        let data: Vec<(u32, &[u8])> = data.iter().map(|(offset, block)| (*offset, block.as_slice())).collect();
        put_red(&mut bench, lost, start.wrapping_add(4800), &data, &[0xfc, 99]);
        let out = bench.take();
        let times: Vec<u32> = out.iter().map(|(time, _)| time.wrapping_sub(start)).collect();
        assert_eq!(times, [expect, &[4800]].concat(), "{name}");
        assert_eq!(bench.assembler.counters().recovered, expect.len() as u64, "{name}");
        for (time, block) in &out[..expect.len()] {
            let offset = start.wrapping_add(4800).wrapping_sub(*time);
            let (_, tag) = blocks.iter().find(|(other, _)| *other == offset).expect("a block");
            assert_eq!(*block, [0xfc, *tag], "{name}");
        }
        assert_eq!(out.last().expect("the newest").1, [0xfc, 99], "{name}");
    }
}

#[test]
fn nothing_is_found_before_a_beginning() {
    let mut bench = Bench::new(Codec::Opus);
    put_red(&mut bench, 5, 960, &[(960, &[0xfc, 1])], &[0xfc, 2]);
    bench.assembler.reset();
    put_red(&mut bench, 5, 9600, &[(960, &[0xfc, 1])], &[0xfc, 2]);
    let packet = Packet { ssrc: 8, red: true, ..bench.packet(8, 20_000, false, &red(&[(960, &[0xfc, 1])], &[0xfc])) };
    bench.handle(&packet, 5);
    // Of another codec than the newest.
    let mut payload = red(&[(960, &[0xfc, 1])], &[0xfc, 3]);
    payload[0] = 0x80 | 112;
    let packet = Packet { ssrc: 8, red: true, ..bench.packet(8, 22_000, false, &payload) };
    bench.handle(&packet, 2);
    let times: Vec<u32> = bench.take().into_iter().map(|(time, _)| time).collect();
    assert_eq!(times, [960, 9600, 20_000, 22_000]);
}

#[test]
fn silence_is_like_what_it_follows() {
    for toc in 0..=255u8 {
        let packet = silence(toc);
        assert_eq!(packet[0] & 0x04, toc & 0x04);
        assert_eq!(webm::opus::samples(packet), Some(SILENCE_SAMPLES));
    }
}
