//! Frames out of packets: the rules that all codecs share, over generated calls; what is special is in a file per codec.

mod av1;
mod h264;
mod senders;
mod sound;
mod vp8;
mod vp9;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::media::MediaKind;

use self::senders::{Sent, call};
use super::{Assembler, Counters, Frame};
use crate::recording::feed::Packet;
use crate::webm;

const VIDEO: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H264];

/// A track that is being assembled.
struct Bench {
    assembler: Assembler,
    codec: Codec,
    now: Instant,
    seq_no: u64,
    out: VecDeque<Frame>,
}

impl Bench {
    fn new(codec: Codec) -> Bench {
        let kind = if codec == Codec::Opus { MediaKind::Audio } else { MediaKind::Video };
        Bench { assembler: Assembler::new(kind), codec, now: Instant::now(), seq_no: 0, out: VecDeque::new() }
    }

    fn packet(&self, ssrc: u32, time: u32, marker: bool, payload: &[u8]) -> Packet {
        let clock_rate = if self.codec == Codec::Opus { 48_000 } else { 90_000 };
        Packet {
            track: 1,
            ssrc,
            seq_no: self.seq_no,
            time,
            clock_rate,
            codec: self.codec,
            red: false,
            marker,
            payload: payload.into(),
            arrival: self.now,
        }
    }

    fn handle(&mut self, packet: &Packet, lost: u64) {
        self.now += Duration::from_millis(1);
        self.seq_no += 1 + lost;
        self.assembler.handle(packet, lost, &mut self.out);
    }

    fn put(&mut self, ssrc: u32, time: u32, marker: bool, payload: &[u8]) {
        self.put_after(0, ssrc, time, marker, payload);
    }

    fn put_after(&mut self, lost: u64, ssrc: u32, time: u32, marker: bool, payload: &[u8]) {
        let packet = self.packet(ssrc, time, marker, payload);
        self.handle(&packet, lost);
    }

    /// All packets of a frame.
    fn put_frame(&mut self, ssrc: u32, time: u32, frame: &Sent) {
        for (index, payload) in frame.packets.iter().enumerate() {
            self.put(ssrc, time, index + 1 == frame.packets.len(), payload);
        }
    }

    /// What came out since the last time: time and payload.
    fn take(&mut self) -> Vec<(u32, Vec<u8>)> {
        self.out.drain(..).map(|frame| (frame.time, frame.payload.to_vec())).collect()
    }

    fn one(&mut self) -> Frame {
        assert_eq!(self.out.len(), 1, "{:?}", self.out);
        self.out.pop_front().expect("one")
    }

    fn counters(&self) -> (u64, u64) {
        let Counters { frames, dropped, .. } = self.assembler.counters();
        (frames, dropped)
    }
}

/// RTP time of a frame of a call, past the end of its range.
fn time(frame: usize) -> u32 {
    (u32::MAX - 10_000).wrapping_add(3000 * frame as u32)
}

#[test]
fn whole_calls_come_out_whole() {
    for codec in VIDEO {
        for seed in 0..60 {
            let call = call(codec, seed);
            let mut bench = Bench::new(codec);
            assert!(bench.assembler.wants_keyframe());
            for (index, frame) in call.iter().enumerate() {
                bench.put_frame(7, time(index), frame);
                assert_eq!(bench.out.len(), index + 1, "{codec} seed {seed}: frame {index}");
                assert!(!bench.assembler.wants_keyframe());
            }
            for (index, (frame, sent)) in bench.out.iter().zip(&call).enumerate() {
                let what = format!("{codec} seed {seed}: frame {index}");
                assert_eq!(frame.payload.to_vec(), sent.block, "{what}");
                assert_eq!(frame.is_keyframe, sent.is_keyframe, "{what}");
                assert_eq!(frame.size, sent.is_keyframe.then_some((640, 360)), "{what}");
                assert_eq!((frame.ssrc, frame.time, frame.clock_rate, frame.samples), (7, time(index), 90_000, 0));
                assert_eq!(frame.begins.is_some(), index == 0, "{what}");
            }
            assert_eq!(bench.counters(), (call.len() as u64, 0));
        }
    }
}

/// Whatever is lost: a frame comes out if and only if it and everything back to a key frame is there.
#[test]
fn after_a_loss_nothing_comes_before_a_key_frame() {
    for codec in VIDEO {
        for seed in 0..12 {
            let call = call(codec, seed);
            let packets: usize = call.iter().map(|frame| frame.packets.len()).sum();
            for first in 0..packets {
                for count in [1, 2, 5] {
                    lose(codec, &call, first..first + count);
                }
            }
        }
    }
}

fn lose(codec: Codec, call: &[Sent], lost: std::ops::Range<usize>) {
    let mut bench = Bench::new(codec);
    let (mut number, mut missing) = (0, 0);
    let (mut expect, mut is_whole, mut touched) = (Vec::new(), false, 0);
    for (index, frame) in call.iter().enumerate() {
        let numbers = number..number + frame.packets.len();
        let is_hit = numbers.start < lost.end && lost.start < numbers.end;
        let is_gone = lost.start <= numbers.start && numbers.end <= lost.end;
        is_whole = !is_hit && (is_whole || frame.is_keyframe);
        if is_whole {
            expect.push((time(index), frame.block.clone()));
        } else if !is_gone {
            touched += 1;
        }
        for (payload, number) in frame.packets.iter().zip(numbers.clone()) {
            if lost.contains(&number) {
                missing += 1;
            } else {
                let marker = number + 1 == numbers.end;
                bench.put_after(std::mem::take(&mut missing), 7, time(index), marker, payload);
            }
        }
        number = numbers.end;
        if !is_gone && !is_hit {
            assert_eq!(bench.assembler.wants_keyframe(), !is_whole, "{codec} without {lost:?} at {index}");
        }
    }
    // What is still open at the end is no frame either.
    bench.assembler.reset();
    let counters = bench.counters();
    assert_eq!(bench.take(), expect, "{codec} without {lost:?}");
    // A packet that has nothing but padding of AV1 does not tell that something was there.
    let untold = touched - counters.1;
    assert!(untold == 0 || (untold == 1 && codec == Codec::Av1), "{codec} without {lost:?}: {untold} untold");
    assert_eq!(counters.0, expect.len() as u64);
}

/// Another SSRC begins in the middle of a frame, with a key frame: nothing but that frame is missing.
#[test]
fn an_encoding_is_left_in_the_middle_of_a_frame() {
    for codec in VIDEO {
        for seed in 0..20 {
            let (before, after) = (call(codec, seed), call(codec, seed + 1000));
            for (at, frame) in before.iter().enumerate().skip(1) {
                for kept in 0..frame.packets.len() {
                    let mut bench = Bench::new(codec);
                    for (index, frame) in before[..at].iter().enumerate() {
                        bench.put_frame(7, time(index), frame);
                    }
                    for payload in &frame.packets[..kept] {
                        bench.put(7, time(at), false, payload);
                    }
                    // The other one's time may be the same by chance.
                    let shift = seed as usize % 3;
                    for (index, frame) in after.iter().enumerate() {
                        bench.put_frame(8, time(at + shift + index), frame);
                    }
                    let blocks: Vec<Vec<u8>> = bench.take().into_iter().map(|(_, block)| block).collect();
                    let expect = before[..at].iter().chain(&after).map(|frame| frame.block.clone());
                    assert_eq!(blocks, expect.collect::<Vec<_>>(), "{codec} seed {seed} {at} {kept}");
                    assert_eq!(bench.counters().1, u64::from(kept > 0));
                }
            }
        }
    }
}

#[test]
fn another_encoding_without_a_key_frame_is_not_written() {
    for codec in VIDEO {
        let call = call(codec, 3);
        let mut bench = Bench::new(codec);
        bench.put_frame(7, 0, &call[0]);
        bench.put_frame(8, 3000, &call[1]);
        assert!(bench.assembler.wants_keyframe(), "{codec}");
        bench.put_frame(7, 6000, &call[1]);
        assert_eq!((bench.take().len(), bench.counters()), (1, (1, 2)), "{codec}");
        bench.put_frame(7, 9000, &call[0]);
        bench.put_frame(7, 12_000, &call[1]);
        assert_eq!(bench.take().len(), 2, "{codec}");
    }
}

#[test]
fn a_frame_without_its_marker_is_dropped_with_what_follows() {
    for codec in VIDEO {
        let call = call(codec, 5);
        let (cut, next_key) = call
            .iter()
            .enumerate()
            .skip(1)
            .find(|(_, frame)| frame.packets.len() > 2)
            .map(|(at, _)| (at, at + call[at..].iter().position(|frame| frame.is_keyframe).unwrap_or(0)))
            .expect("a long frame");
        let mut bench = Bench::new(codec);
        for (index, frame) in call.iter().enumerate() {
            match index == cut {
                true => bench.put(7, time(index), false, &frame.packets[0]),
                false => bench.put_frame(7, time(index), frame),
            }
        }
        let times: Vec<u32> = bench.take().into_iter().map(|(time, _)| time).collect();
        let next_key = if next_key > cut { next_key } else { call.len() };
        let expect: Vec<u32> = (0..cut).chain(next_key..call.len()).map(time).collect();
        assert_eq!(times, expect, "{codec}");
        assert_eq!(bench.counters().1, (next_key - cut) as u64, "{codec}");
    }
}

#[test]
fn after_a_reset_video_begins_at_a_key_frame() {
    for codec in VIDEO {
        let call = call(codec, 9);
        let mut bench = Bench::new(codec);
        bench.put_frame(7, time(0), &call[0]);
        bench.put(7, time(1), false, &call[1].packets[0]);
        bench.assembler.reset();
        assert!(bench.assembler.wants_keyframe());
        bench.put_frame(7, time(2), &call[1]);
        assert_eq!(bench.take().len(), 1, "{codec}");
        bench.put_frame(7, time(3), &call[0]);
        bench.put_frame(7, time(4), &call[1]);
        let frames: Vec<_> = bench.out.drain(..).map(|frame| (frame.time, frame.begins.is_some())).collect();
        assert_eq!(frames, [(time(3), false), (time(4), false)], "{codec}");
        assert_eq!(bench.counters(), (3, 2), "{codec}");
    }
}

/// While a key frame comes in nobody has to be asked for one, although none is there yet.
#[test]
fn a_key_frame_that_comes_in_is_not_asked_for_again() {
    for codec in VIDEO {
        for seed in 0..40 {
            let key = call(codec, seed).swap_remove(0);
            let mut bench = Bench::new(codec);
            for payload in &key.packets[..key.packets.len() - 1] {
                bench.put(7, 0, false, payload);
                // AV1's sequence header has to be there as a whole, and may be in two packets; H.264's delimiter tells nothing.
                let is_delimiter = codec == Codec::H264 && payload[0] == 0x09;
                let is_seen = codec != Codec::Av1 && !is_delimiter;
                assert!(!is_seen || !bench.assembler.wants_keyframe(), "{codec} seed {seed}");
            }
            bench.assembler.reset();
            assert!(bench.assembler.wants_keyframe());
        }
    }
}

#[test]
fn padding_belongs_to_nothing() {
    for codec in VIDEO {
        let call = call(codec, 11);
        let mut bench = Bench::new(codec);
        for (index, frame) in call.iter().enumerate() {
            for (place, payload) in frame.packets.iter().enumerate() {
                bench.put(7, time(index + 40), false, &[]);
                bench.put(7, time(index), place + 1 == frame.packets.len(), payload);
                bench.put(7, time(index), false, &[]);
            }
        }
        assert_eq!(bench.counters(), (call.len() as u64, 0), "{codec}");
    }
}

#[test]
fn another_codec_is_another_track() {
    let mut bench = Bench::new(Codec::Vp8);
    let rows = [
        (Codec::Vp8, webm::Codec::Vp8),
        (Codec::H264, webm::Codec::H264),
        (Codec::Vp8, webm::Codec::Vp8),
        (Codec::Av1, webm::Codec::Av1),
        (Codec::Vp9, webm::Codec::Vp9),
    ];
    for (index, (codec, name)) in rows.into_iter().enumerate() {
        bench.codec = codec;
        let call = call(codec, 13);
        bench.put_frame(7, time(2 * index), &call[0]);
        let frame = bench.one();
        assert_eq!(frame.begins.map(|begins| begins.codec), Some(name));
        bench.put_frame(7, time(2 * index + 1), &call[1]);
        assert!(bench.one().begins.is_none());
    }
}

#[test]
fn what_is_not_recorded_is_counted() {
    for (kind, codec) in
        [(MediaKind::Video, Codec::H265), (MediaKind::Video, Codec::Opus), (MediaKind::Audio, Codec::Vp8)]
    {
        let mut bench = Bench { assembler: Assembler::new(kind), ..Bench::new(codec) };
        for time in 0..3 {
            bench.put(7, time, true, &[0x10, 1, 2]);
        }
        assert_eq!((bench.out.len(), bench.counters()), (0, (0, 3)), "{codec}");
    }
}

/// Packets of calls with octets changed, cut and swapped, and such as never were: nothing panics, what comes out is bounded
/// by what came in, and a call that begins afterwards comes out whole.
#[test]
fn arbitrary_packets_are_survived() {
    for codec in VIDEO.into_iter().chain([Codec::Opus]) {
        let mut random = fastrand::Rng::with_seed(0xf4a);
        let mut bench = Bench::new(codec);
        for round in 0..300 {
            let call = call(codec, random.u64(..));
            let mut octets = 0;
            for (index, frame) in call.iter().enumerate() {
                for (place, payload) in frame.packets.iter().enumerate() {
                    let mut payload = payload.clone();
                    match random.u32(0..8) {
                        0 => payload = (0..random.usize(0..40)).map(|_| random.u8(..)).collect(),
                        1 => payload.truncate(random.usize(0..=payload.len())),
                        2..5 => {
                            // Where the headers are.
                            let reach = payload.len().min(20);
                            for _ in 0..random.usize(1..4).min(reach) {
                                payload[random.usize(0..reach)] = random.u8(..);
                            }
                        }
                        _ => {}
                    }
                    octets += payload.len();
                    let marker = (place + 1 == frame.packets.len()) ^ (random.u32(0..20) == 0);
                    let lost = u64::from(random.u32(0..30) == 0);
                    let mut packet = bench.packet(7 + random.u32(0..40) / 39, time(index), marker, &payload);
                    packet.red = codec == Codec::Opus && random.bool();
                    bench.handle(&packet, lost);
                }
            }
            // Own octets: at most seven for each that came, which is an OBU of its own.
            let out: usize = bench.out.drain(..).map(|frame| frame.payload.len()).sum();
            assert!(out <= 8 * octets + 40 * call.len() + 20_000, "{codec} round {round}: {out} out of {octets}");
        }
        bench.assembler.reset();
        let call = call(codec, 17);
        for (index, frame) in call.iter().enumerate() {
            bench.put_frame(9, time(1000 + index), frame);
        }
        let expect: Vec<Vec<u8>> = call.into_iter().map(|frame| frame.block).collect();
        assert_eq!(bench.take().into_iter().map(|(_, block)| block).collect::<Vec<_>>(), expect, "{codec}");
    }
}

#[test]
fn a_frame_without_an_end_is_dropped() {
    for codec in VIDEO {
        let call = call(codec, 19);
        // The middle of a frame, as long as a packet can be, or in tiny pieces.
        for (size, count) in [(60_000, 300), (3, 17_000)] {
            let middle = senders::middle(codec, size);
            let first = senders::first_of_many(codec);
            let mut bench = Bench::new(codec);
            bench.put_frame(7, 0, &call[0]);
            bench.put(7, 3000, false, &first);
            let middle = bench.packet(7, 3000, false, &middle);
            for _ in 0..count {
                bench.handle(&middle, 0);
            }
            assert_eq!((bench.take().len(), bench.counters()), (1, (1, 1)), "{codec} {size}");
            assert!(bench.assembler.wants_keyframe(), "{codec}: it has been dropped before its end");
        }
    }
}
