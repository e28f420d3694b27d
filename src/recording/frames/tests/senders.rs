//! Packets as senders make them, of pictures that no decoder has to understand: headers are right, the rest is random.

use std::ops::Range;

use fastrand::Rng;
use str0m::format::Codec;

/// A frame as it is sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Payloads; the last one has the marker.
    pub packets: Vec<Vec<u8>>,
    pub is_keyframe: bool,
    /// What the file gets of it.
    pub block: Vec<u8>,
}

/// Some frames of 640x360, with key frames at the beginning and in the middle.
pub fn call(codec: Codec, seed: u64) -> Vec<Sent> {
    let mut random = Rng::with_seed(seed);
    let style = random.u32(..);
    let frame = |index: u32, is_keyframe: bool, random: &mut Rng| match codec {
        Codec::Vp8 => vp8(random, is_keyframe, 640, 360, style),
        Codec::Vp9 => {
            let layers = 1 + style % 3;
            vp9(random, is_keyframe, (640, 360), layers, style, index)
        }
        Codec::Av1 => av1(random, is_keyframe, &AV1_SEQUENCE, style),
        Codec::H264 => h264(random, is_keyframe, &[H264_SPS, H264_PPS], style),
        _ => opus(random),
    };
    let second = random.u32(2..6);
    (0..8).map(|index| frame(index, index == 0 || index == second, &mut random)).collect()
}

pub fn noise(random: &mut Rng, size: Range<usize>) -> Vec<u8> {
    (0..random.usize(size)).map(|_| random.u8(..)).collect()
}

/// Where to cut so that no piece is longer than `size`.
fn pieces(bytes: &[u8], size: usize) -> Vec<&[u8]> {
    bytes.chunks(size.max(1)).collect()
}

pub fn vp8_frame(random: &mut Rng, is_keyframe: bool, width: u16, height: u16) -> Vec<u8> {
    let mut frame = vec![0x10 | u8::from(!is_keyframe), 0, 0];
    if is_keyframe {
        frame.extend([0x9d, 0x01, 0x2a]);
        frame.extend(width.to_le_bytes());
        frame.extend(height.to_le_bytes());
    }
    frame.extend(noise(random, 1..400));
    frame
}

fn vp8(random: &mut Rng, is_keyframe: bool, width: u16, height: u16, style: u32) -> Sent {
    let frame = vp8_frame(random, is_keyframe, width, height);
    let parts = pieces(&frame, random.usize(10..150));
    let packets = parts.iter().enumerate().map(|(index, part)| {
        let start = if index == 0 { 0x10 } else { 0 };
        // A second partition may begin anywhere later.
        let partition = if index > 0 { random.u8(1..8) | random.u8(0..2) << 4 } else { 0 };
        let mut payload = match style % 4 {
            0 => vec![start | partition],
            1 => vec![0x80 | start | partition, 0x80, 0x11],
            2 => vec![0x80 | start | partition, 0xe0, 0x91, 0x22, 7, 0x20],
            _ => vec![0x80 | start | partition, 0x50, 7, 0x03],
        };
        payload.extend_from_slice(part);
        payload
    });
    Sent { packets: packets.collect(), is_keyframe, block: frame.clone() }
}

/// A frame with an uncompressed header of profile 0, in which any field may be; the same one whether it is shown or not. A
/// frame that is no key frame and not `sized` is as large as what is in the slot of its layer.
pub fn vp9_frame(seed: u64, kind: Vp9Kind, spatial: u32, size: (u16, u16), is_shown: bool) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let mut header = Vec::new();
    let mut put = |count: u32, value: u64| header.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    let is_keyframe = kind == Vp9Kind::Key;
    put(6, if is_keyframe { 0b10_0000 } else { 0b10_0001 });
    let is_resilient = kind != Vp9Kind::Fragile;
    put(2, u64::from(is_shown) << 1 | u64::from(is_resilient));
    let sizes = (u64::from(size.0 - 1) << 16) | u64::from(size.1 - 1);
    if is_keyframe {
        put(24, 0x49_83_42);
        put(4, 2); // BT.601, limited range
        put(32, sizes);
    } else {
        if !is_shown {
            put(1, 0); // intra_only
        }
        if !is_resilient {
            put(2, 0); // reset_frame_context
        }
        put(8, 1 << spatial);
        for _ in 0..3 {
            put(4, u64::from(spatial) << 1);
        }
        match kind == Vp9Kind::Sized {
            true => put(35, sizes),
            false if is_resilient => put(1, 1),
            false => put(2, 1), // the second reference, which is the same
        }
    }
    let is_rendered = random.bool();
    put(1, is_rendered.into());
    if is_rendered {
        put(32, random.u64(..));
    }
    if !is_keyframe {
        put(2, [0b00, 0b01, 0b10, 0b11][random.usize(0..4)]);
        if header.last() == Some(&false) {
            header.extend([random.bool(), random.bool()]);
        }
    }
    if !is_resilient {
        header.extend([false, true]); // refresh_frame_context, frame_parallel_decoding_mode
    }
    header.extend(vp9_tail(&mut random, size.0));
    let mut frame: Vec<u8> = header
        .chunks(8)
        .map(|bits| bits.iter().enumerate().fold(0, |octet, (at, bit)| octet | u8::from(*bit) << (7 - at)))
        .collect();
    frame.extend(noise(&mut random, 1..300));
    // The last octet of a frame is never like an index.
    frame.push(0x55);
    frame
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vp9Kind {
    Key,
    Sized,
    Inter,
    /// As `Inter`, but not error resilient.
    Fragile,
}

/// From frame_context_idx on.
fn vp9_tail(random: &mut Rng, width: u16) -> Vec<bool> {
    let mut bits = Vec::new();
    let maybe = |bits: &mut Vec<bool>, random: &mut Rng, count: usize| {
        bits.push(random.bool());
        if bits.last() == Some(&true) {
            bits.extend((0..count).map(|_| random.bool()));
        }
    };
    bits.extend((0..11).map(|_| random.bool()));
    match random.u32(0..3) {
        0 => bits.push(false),
        1 => bits.extend([true, false]),
        _ => {
            bits.extend([true, true]);
            (0..6).for_each(|_| maybe(&mut bits, random, 7));
        }
    }
    bits.extend((0..8).map(|_| random.bool()));
    (0..3).for_each(|_| maybe(&mut bits, random, 5));
    bits.push(random.bool());
    if bits.last() == Some(&true) {
        bits.push(random.bool());
        if bits.last() == Some(&true) {
            (0..7).for_each(|_| maybe(&mut bits, random, 8));
            bits.push(random.bool());
            if bits.last() == Some(&true) {
                (0..3).for_each(|_| maybe(&mut bits, random, 8));
            }
        }
        bits.push(random.bool());
        if bits.last() == Some(&true) {
            bits.push(random.bool());
            for _ in 0..8 {
                [9, 7, 2, 0].into_iter().for_each(|count| maybe(&mut bits, random, count));
            }
        }
    }
    // Columns of tiles: two are possible from 512 pixels on, four from 1024.
    let most = (width / 64 / 4).checked_ilog2().unwrap_or(0);
    for _ in 0..most {
        bits.push(random.bool());
        if bits.last() == Some(&false) {
            break;
        }
    }
    maybe(&mut bits, random, 1);
    bits.extend((0..16).map(|_| random.bool()));
    bits
}

fn vp9(random: &mut Rng, is_keyframe: bool, size: (u16, u16), layers: u32, style: u32, picture: u32) -> Sent {
    let (mut packets, mut frames) = (Vec::new(), Vec::new());
    let seed = random.u64(..);
    let is_flexible = style & 0x100 != 0;
    for spatial in 0..layers {
        let shift = layers - 1 - spatial;
        let kind = match (is_keyframe, spatial) {
            (true, 0) => Vp9Kind::Key,
            (true, _) => Vp9Kind::Sized,
            _ => Vp9Kind::Inter,
        };
        let frame = |is_shown| vp9_frame(seed, kind, spatial, (size.0 >> shift, size.1 >> shift), is_shown);
        let (frame, hidden) = (frame(true), frame(false));
        let parts = pieces(&frame, random.usize(20..150));
        for (index, part) in parts.iter().enumerate() {
            let mut flags = 0x80 | u8::from(!is_keyframe) << 6 | u8::from(is_flexible) << 4;
            flags |= u8::from(index == 0) << 3 | u8::from(index + 1 == parts.len()) << 2;
            let has_layers = layers > 1 || style & 0x200 != 0;
            let has_structure = is_keyframe && spatial == 0 && index == 0 && has_layers;
            flags |= u8::from(has_layers) << 5 | u8::from(has_structure) << 1;
            let mut payload = vec![flags];
            match style & 0x400 {
                0 => payload.extend([0x80 | (picture >> 8) as u8, picture as u8]),
                _ => payload.push(picture as u8 & 0x7f),
            }
            if has_layers {
                payload.push((spatial as u8) << 1 | u8::from(spatial > 0));
                if !is_flexible {
                    payload.push(picture as u8);
                }
            }
            if is_flexible && !is_keyframe {
                payload.extend([0x03, 0x05, 0x08].iter().skip((style >> 12) as usize % 3));
            }
            if has_structure {
                payload.extend(vp9_structure(size, layers));
            }
            payload.extend_from_slice(part);
            packets.push(payload);
        }
        frames.push(if shift == 0 { frame } else { hidden });
    }
    Sent { packets, is_keyframe, block: superframe(&frames) }
}

/// Sizes of all layers, and a group of two pictures.
fn vp9_structure(size: (u16, u16), layers: u32) -> Vec<u8> {
    let mut structure = vec![(layers as u8 - 1) << 5 | 0x18];
    for shift in (0..layers).rev() {
        structure.extend((size.0 >> shift).to_be_bytes());
        structure.extend((size.1 >> shift).to_be_bytes());
    }
    structure.extend([2, 0x00, 0x08, 0x01, 0x02]);
    structure
}

/// As Annex B of the VP9 bitstream specification has it.
pub fn superframe(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut block = frames.concat();
    if frames.len() > 1 {
        let octets = if frames.iter().any(|frame| frame.len() > 255) { 2 } else { 1 };
        let marker = 0xc0 | (octets as u8 - 1) << 3 | (frames.len() as u8 - 1);
        block.push(marker);
        for frame in frames {
            block.extend(&(frame.len() as u32).to_le_bytes()[..octets]);
        }
        block.push(marker);
    }
    block
}

/// What libaom writes for 640x360, without head and size.
pub const AV1_SEQUENCE: [u8; 11] = [0x00, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x36, 0xbe, 0x40, 0x10];

/// An OBU: what is in front of the payload in RTP, and the payload.
pub type ObuParts = (Vec<u8>, Vec<u8>);

/// As a file has it.
pub fn sized(obu: &ObuParts) -> Vec<u8> {
    let mut bytes = obu.0.clone();
    bytes[0] |= 0x02;
    bytes.extend(leb128(obu.1.len()));
    bytes.extend_from_slice(&obu.1);
    bytes
}

pub fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn av1(random: &mut Rng, is_keyframe: bool, sequence: &[u8], style: u32) -> Sent {
    let frame = |random: &mut Rng, head: Vec<u8>, first: u8| {
        let mut payload = vec![first];
        payload.extend(noise(random, 1..300));
        (head, payload)
    };
    let mut obus: Vec<ObuParts> = Vec::new();
    if style & 0x100 != 0 {
        obus.push((vec![0x10], Vec::new())); // temporal delimiter
    }
    if is_keyframe {
        obus.push((vec![0x08], sequence.to_vec()));
    }
    let first = if is_keyframe { 0x10 } else { 0x30 };
    match style % 3 {
        0 => obus.push(frame(random, vec![0x30], first)),
        // A frame header, tiles in two groups, and padding.
        1 => {
            obus.push((vec![0x18], vec![first, 1, 2, 3]));
            obus.push(frame(random, vec![0x20], 0));
            obus.push(frame(random, vec![0x20], 0));
            obus.push((vec![0x78], vec![0, 0, 0x80]));
        }
        // Two spatial layers; the upper one is predicted from the lower.
        _ => {
            obus.push(frame(random, vec![0x34, 0x00], first));
            obus.push(frame(random, vec![0x34, 0x08], 0x30));
        }
    }
    let kept = obus.iter().filter(|(head, _)| ![2, 15].contains(&(head[0] >> 3 & 0x0f)));
    let block = kept.flat_map(sized).collect();
    // Senders may leave sizes in.
    let has_sizes = style & 0x200 != 0;
    let elements = obus.iter().map(|obu| if has_sizes { sized(obu) } else { [&obu.0[..], &obu.1].concat() });
    let packets = av1_packets(random, &elements.collect::<Vec<_>>(), is_keyframe);
    Sent { packets, is_keyframe, block }
}

/// Elements in packets of random sizes, with fragments wherever they fall.
pub fn av1_packets(random: &mut Rng, elements: &[Vec<u8>], is_keyframe: bool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut rest: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
    let mut continues = false;
    while !rest.is_empty() {
        let mut room = random.usize(8..160);
        let (mut parts, mut is_continued) = (Vec::new(), false);
        while let Some(element) = rest.first_mut() {
            if room < 2 {
                break;
            }
            let (part, after) = element.split_at(room.min(element.len()));
            parts.push(part);
            room -= part.len();
            is_continued = !after.is_empty();
            *element = after;
            if is_continued {
                break;
            }
            rest.remove(0);
        }
        let is_counted = parts.len() <= 3 && random.bool();
        let count = if is_counted { parts.len() as u8 } else { 0 };
        let begins = is_keyframe && packets.is_empty();
        let flags = u8::from(continues) << 7 | u8::from(is_continued) << 6 | count << 4 | u8::from(begins) << 3;
        let mut payload = vec![flags];
        for (index, part) in parts.iter().enumerate() {
            if !(is_counted && index + 1 == parts.len()) {
                payload.extend(leb128(part.len()));
            }
            payload.extend_from_slice(part);
        }
        packets.push(payload);
        continues = is_continued;
    }
    packets
}

/// What x264 writes for 640x360 (baseline), and a picture parameter set.
pub const H264_SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03,
    0x00, 0xca, 0x3c, 0x58, 0xba, 0x80,
];
pub const H264_PPS: &[u8] = &[0x68, 0xce, 0x0f, 0xc8];

pub fn h264(random: &mut Rng, is_keyframe: bool, sets: &[&[u8]], style: u32) -> Sent {
    let slice = |random: &mut Rng, is_first: bool| {
        let mut nal = vec![if is_keyframe { 0x65 } else { 0x41 }, if is_first { 0x88 } else { 0x44 }];
        nal.extend(noise(random, 1..300));
        nal
    };
    let mut nals: Vec<Vec<u8>> = Vec::new();
    if style & 0x100 != 0 {
        nals.push(vec![0x09, 0x10]);
    }
    if is_keyframe {
        nals.extend(sets.iter().map(|set| set.to_vec()));
    }
    if style & 0x200 != 0 {
        nals.push(vec![0x06, 0x05, 1, 2, 3]); // SEI
    }
    nals.push(slice(random, true));
    if style & 0x400 != 0 {
        nals.push(slice(random, false));
    }
    let kept = nals.iter().filter(|nal| ![7, 8, 9].contains(&(nal[0] & 0x1f)));
    let block = kept.flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect();
    Sent { packets: h264_packets(random, &nals), is_keyframe, block }
}

/// Single NAL units, aggregates and fragments, as they fall.
fn h264_packets(random: &mut Rng, nals: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let size = random.usize(40..160);
    let mut index = 0;
    while let Some(nal) = nals.get(index) {
        let mut together = 0;
        let mut octets = 1;
        while nals.get(index + together).is_some_and(|nal| octets + 2 + nal.len() <= size) {
            octets += 2 + nals[index + together].len();
            together += 1;
        }
        if together > 1 && random.u32(0..3) > 0 {
            let mut payload = vec![0x78];
            for nal in &nals[index..index + together] {
                payload.extend((nal.len() as u16).to_be_bytes());
                payload.extend_from_slice(nal);
            }
            packets.push(payload);
            index += together;
            continue;
        }
        index += 1;
        if nal.len() <= size {
            packets.push(nal.clone());
            continue;
        }
        let parts = pieces(&nal[1..], size);
        for (place, part) in parts.iter().enumerate() {
            let flags = u8::from(place == 0) << 7 | u8::from(place + 1 == parts.len()) << 6;
            let mut payload = vec![nal[0] & 0x60 | 28, flags | nal[0] & 0x1f];
            payload.extend_from_slice(part);
            packets.push(payload);
        }
    }
    packets
}

/// 20 ms of CELT.
fn opus(random: &mut Rng) -> Sent {
    let mut packet = vec![0xfc];
    packet.extend(noise(random, 1..120));
    Sent { packets: vec![packet.clone()], is_keyframe: true, block: packet }
}

/// The first packet of a frame (no key frame) that goes on.
pub fn first_of_many(codec: Codec) -> Vec<u8> {
    match codec {
        Codec::Vp8 => vec![0x10, 0x11, 0, 0],
        Codec::Vp9 => vec![0x48, 0x86, 0],
        Codec::Av1 => vec![0x50, 0x30, 0x30, 0],
        _ => vec![0x5c, 0x81, 0x9a],
    }
}

/// A packet out of the middle of a frame, of about so many octets.
pub fn middle(codec: Codec, size: usize) -> Vec<u8> {
    let mut payload = match codec {
        Codec::Vp8 => vec![0x00],
        Codec::Vp9 => vec![0x40],
        Codec::Av1 => vec![0xd0],
        _ => vec![0x5c, 0x01],
    };
    payload.resize(size, 0x11);
    payload
}
