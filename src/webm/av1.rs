//! AV1 in Matroska (the codec mapping of AOMedia): OBUs with sizes, and the `av1C` record that is the track's private data.
//!
//! A block is a temporal unit: every OBU with its size, without temporal delimiters, tile lists and padding. RTP (and some
//! files) carry OBUs without sizes; [`Obu::prefix`] makes the octets that go in front of each payload, so that the payload
//! itself is not copied. A track has one sequence header: another one is another track.

use super::bits::Bits;
use super::ebml::{Put, Small};

const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

/// One OBU (AV1 §5.3), its payload apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obu<'a> {
    /// The first octet as it came; whether a size follows is its second lowest bit.
    head: u8,
    /// The second octet, with temporal and spatial id, where there is one.
    extension: Option<u8>,
    pub payload: &'a [u8],
}

impl<'a> Obu<'a> {
    /// The first OBU of some, and what follows it. One without a size takes all there is. `None`: there is none.
    pub fn parse(bytes: &'a [u8]) -> Option<(Obu<'a>, &'a [u8])> {
        let (obu, length, size) = Obu::parse_head(bytes)?;
        let rest = bytes.get(length..)?;
        let (payload, rest) = rest.split_at_checked(size.unwrap_or(rest.len()))?;
        Some((Obu { payload, ..obu }, rest))
    }

    /// An OBU without its payload, which may be elsewhere: with it the octets of its head ([`HEAD_MAX`](Self::HEAD_MAX) at
    /// most), and the size of the payload if it says one.
    pub fn parse_head(bytes: &[u8]) -> Option<(Obu<'static>, usize, Option<usize>)> {
        let (head, mut rest) = bytes.split_first()?;
        if head & 0x80 != 0 {
            return None;
        }
        let mut extension = None;
        if head & 0x04 != 0 {
            let (octet, after) = rest.split_first()?;
            (extension, rest) = (Some(*octet), after);
        }
        let mut size = None;
        if head & 0x02 != 0 {
            let (value, after) = leb128(rest)?;
            (size, rest) = (Some(value), after);
        }
        Some((Obu { head: *head, extension, payload: &[] }, bytes.len() - rest.len(), size))
    }

    /// Octets before the payload: the header, its extension, and a size of eight.
    pub const HEAD_MAX: usize = 10;

    /// obu_type.
    pub fn kind(&self) -> u8 {
        self.head >> 3 & 0x0f
    }

    pub fn is_sequence_header(&self) -> bool {
        self.kind() == SEQUENCE_HEADER
    }

    /// Whether a picture, or a part of one, begins with it: a frame header, alone or before the tiles.
    pub fn is_frame_header(&self) -> bool {
        matches!(self.kind(), FRAME_HEADER | FRAME)
    }

    /// Whether it has a place in a block.
    pub fn is_kept(&self) -> bool {
        !matches!(self.kind(), TEMPORAL_DELIMITER | TILE_LIST | PADDING)
    }

    /// What goes in front of a payload of so many octets (which may be in pieces): the head, with a size.
    pub fn prefix(&self, payload_size: u32) -> Small<7> {
        let mut prefix = Small::default();
        prefix.put(&[self.head | 0x02]);
        if let Some(extension) = self.extension {
            prefix.put(&[extension]);
        }
        let mut left = payload_size;
        while left >= 0x80 {
            prefix.put(&[left as u8 | 0x80]);
            left >>= 7;
        }
        prefix.put(&[left as u8]);
        prefix
    }
}

/// A number in groups of seven bits, lowest first (AV1 §4.10.5); at most 2^32 - 1.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, octet) in bytes.iter().enumerate().take(8) {
        value |= u64::from(octet & 0x7f) << (7 * index);
        if octet & 0x80 == 0 {
            let value = u32::try_from(value).ok()?;
            return Some((usize::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// What a sequence header says (AV1 §5.5), as far as a file has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    pub profile: u8,
    /// seq_level_idx of the first operating point.
    pub level: u8,
    pub is_high_tier: bool,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    pub is_monochrome: bool,
    /// Horizontally and vertically.
    pub is_subsampled: (bool, bool),
    pub chroma_sample_position: u8,
    /// The largest picture, in pixels.
    pub width: u32,
    pub height: u32,
}

impl Sequence {
    /// From the payload of a sequence header OBU. `None`: cut short, or not of this world.
    pub fn parse(payload: &[u8]) -> Option<Sequence> {
        let mut bits = Bits::of(payload);
        let profile = bits.bits(3)? as u8;
        if profile > 2 {
            return None;
        }
        bits.bit()?; // still_picture
        let is_reduced = bits.bit()?;
        let (mut level, mut is_high_tier) = (0, false);
        if is_reduced {
            level = bits.bits(5)? as u8;
        } else {
            let mut delay_length = None;
            if bits.bit()? {
                bits.bits(32)?; // num_units_in_display_tick
                bits.bits(32)?; // time_scale
                if bits.bit()? {
                    bits.exp_golomb()?; // num_ticks_per_picture_minus_1
                }
                if bits.bit()? {
                    delay_length = Some(bits.bits(5)? + 1);
                    bits.bits(32)?; // num_units_in_decoding_tick
                    bits.bits(10)?; // two more lengths
                }
            }
            let has_display_delay = bits.bit()?;
            let points = bits.bits(5)? + 1;
            for point in 0..points {
                bits.bits(12)?; // operating_point_idc
                let point_level = bits.bits(5)? as u8;
                let point_tier = point_level > 7 && bits.bit()?;
                if point == 0 {
                    (level, is_high_tier) = (point_level, point_tier);
                }
                if let Some(length) = delay_length
                    && bits.bit()?
                {
                    bits.bits(length)?; // decoder_buffer_delay
                    bits.bits(length)?; // encoder_buffer_delay
                    bits.bit()?; // low_delay_mode_flag
                }
                if has_display_delay && bits.bit()? {
                    bits.bits(4)?;
                }
            }
        }
        let (width_length, height_length) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
        let (width, height) = (bits.bits(width_length)? + 1, bits.bits(height_length)? + 1);
        if !is_reduced && bits.bit()? {
            bits.bits(7)?; // lengths of frame ids
        }
        bits.bits(3)?; // 128x128 superblocks, filter intra, intra edge filter
        if !is_reduced {
            bits.bits(4)?; // interintra, masked compound, warped motion, dual filter
            let has_order_hint = bits.bit()?;
            if has_order_hint {
                bits.bits(2)?; // jnt_comp, ref_frame_mvs
            }
            let may_be_screen_content = bits.bit()? || bits.bit()?;
            if may_be_screen_content && !bits.bit()? {
                bits.bit()?; // seq_force_integer_mv
            }
            if has_order_hint {
                bits.bits(3)?; // order_hint_bits_minus_1
            }
        }
        bits.bits(3)?; // superres, cdef, restoration

        // color_config()
        let is_high_depth = bits.bit()?;
        let bit_depth = match (profile, is_high_depth) {
            (2, true) => 10 + 2 * bits.bit()? as u8,
            (_, true) => 10,
            (_, false) => 8,
        };
        let is_monochrome = profile != 1 && bits.bit()?;
        let description = if bits.bit()? { (bits.bits(8)?, bits.bits(8)?, bits.bits(8)?) } else { (2, 2, 2) };
        let mut chroma_sample_position = 0;
        let is_subsampled;
        if is_monochrome {
            bits.bit()?; // color_range
            is_subsampled = (true, true);
        } else if description == SRGB {
            is_subsampled = (false, false);
        } else {
            bits.bit()?; // color_range
            is_subsampled = match (profile, bit_depth) {
                (0, _) => (true, true),
                (1, _) => (false, false),
                (_, 12) => {
                    let horizontally = bits.bit()?;
                    (horizontally, horizontally && bits.bit()?)
                }
                _ => (true, false),
            };
            if is_subsampled == (true, true) {
                chroma_sample_position = bits.bits(2)? as u8;
            }
        }
        Some(Sequence {
            profile,
            level,
            is_high_tier,
            bit_depth,
            is_monochrome,
            is_subsampled,
            chroma_sample_position,
            width,
            height,
        })
    }
}

/// The `av1C` record for a sequence header OBU, with or without a size, and what it says. `None`: it is none.
pub fn private(sequence_header: &[u8]) -> Option<(Vec<u8>, Sequence)> {
    let (obu, _) = Obu::parse(sequence_header)?;
    if !obu.is_sequence_header() {
        return None;
    }
    let sequence = Sequence::parse(obu.payload)?;
    let flag = |is_set: bool, bit: u32| u8::from(is_set) << bit;
    let mut bytes = vec![
        0x81, // marker, version 1
        sequence.profile << 5 | sequence.level,
        flag(sequence.is_high_tier, 7)
            | flag(sequence.bit_depth > 8, 6)
            | flag(sequence.bit_depth > 10, 5)
            | flag(sequence.is_monochrome, 4)
            | flag(sequence.is_subsampled.0, 3)
            | flag(sequence.is_subsampled.1, 2)
            | sequence.chroma_sample_position,
        0, // nothing said about the delay
    ];
    bytes.extend_from_slice(&obu.prefix(u32::try_from(obu.payload.len()).ok()?));
    bytes.extend_from_slice(obu.payload);
    Some((bytes, sequence))
}

/// Whether a frame header with this first octet is of a key frame that is shown (AV1 §5.9.2), in a sequence that is not a
/// still picture.
pub fn is_keyframe(first: u8) -> bool {
    // show_existing_frame, two bits of frame_type, show_frame.
    first & 0xf0 == 0x10
}

/// BT.709 primaries, sRGB transfer, identity matrix: not subsampled whatever the profile says.
const SRGB: (u32, u32, u32) = (1, 13, 0);

#[cfg(test)]
mod tests {
    use super::*;

    /// What FFmpeg puts before the header, the header, and the size of the picture.
    type Row = ([u8; 4], &'static [u8], (u32, u32));

    /// What libaom writes for 640x360 in real time, with a size: 4:2:0, the
    /// same with ten bits, and 4:4:4 at 1280x720.
    const LIBAOM: [Row; 3] = [
        (
            [0x81, 0x01, 0x0c, 0x00],
            &[0x0a, 0x0b, 0x00, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x36, 0xbe, 0x40, 0x10],
            (640, 360),
        ),
        (
            [0x81, 0x01, 0x4c, 0x00],
            &[0x0a, 0x0b, 0x00, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x36, 0xbe, 0x50, 0x10],
            (640, 360),
        ),
        (
            [0x81, 0x25, 0x00, 0x00],
            &[0x0a, 0x0e, 0x20, 0x00, 0x00, 0x2d, 0x4c, 0xff, 0xb3, 0xcd, 0xaf, 0x92, 0x02, 0x1a, 0x00, 0x40],
            (1280, 720),
        ),
    ];

    #[test]
    fn records_of_sequence_headers() {
        for (head, header, size) in LIBAOM {
            let (bytes, sequence) = private(header).expect("a sequence header");
            assert_eq!((&bytes[..4], &bytes[4..]), (&head[..], header));
            assert_eq!((sequence.width, sequence.height), size);
            // Without a size, as RTP carries it, it becomes the same.
            let mut bare = header.to_vec();
            bare.remove(1);
            bare[0] &= !0x02;
            assert_eq!(private(&bare).map(|(bytes, _)| bytes), Some(bytes));
            for end in 0..header.len() {
                assert!(private(&header[..end]).is_none());
            }
        }
        assert!(private(&[0x12, 0x00]).is_none(), "a temporal delimiter");
    }

    #[test]
    fn units_of_a_block() {
        let bytes = [0x12, 0x00, 0x0a, 0x01, 0x55, 0x36, 0x48, 0x02, 1, 2, 0x30, 7, 8, 9];
        let mut rest = &bytes[..];
        let mut kinds = Vec::new();
        while let Some((obu, after)) = Obu::parse(rest) {
            kinds.push((obu.kind(), obu.is_kept(), obu.payload.len()));
            rest = after;
        }
        assert_eq!(kinds, [(2, false, 0), (1, true, 1), (6, true, 2), (6, true, 3)]);
        let (extended, _) = Obu::parse(&bytes[5..]).expect("an OBU");
        assert_eq!(*extended.prefix(300), [0x36, 0x48, 0xac, 0x02]);
        let (bare, _) = Obu::parse(&bytes[10..]).expect("an OBU");
        assert_eq!(*bare.prefix(u32::MAX), [0x32, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        for bad in [&[][..], &[0x80], &[0x0a], &[0x0a, 0x02, 0], &[0x36], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert!(Obu::parse(bad).is_none(), "{bad:02x?}");
        }
    }

    #[test]
    fn heads_apart_from_payloads() {
        let head = |bytes: &[u8]| Obu::parse_head(bytes).map(|(obu, length, size)| (obu.kind(), length, size));
        assert_eq!(head(&[0x30, 9]), Some((6, 1, None)));
        assert_eq!(head(&[0x36, 0x48, 0xac, 0x02]), Some((6, 4, Some(300))));
        assert_eq!(head(&[0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Some((2, 9, Some(0))));
        for bad in [&[][..], &[0x80], &[0x34], &[0x32], &[0x32, 0x80], &[0x32, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert_eq!(head(bad), None, "{bad:02x?}");
        }
        assert!(is_keyframe(0x10) && is_keyframe(0x1f));
        for other in [0x00, 0x30, 0x50, 0x70, 0x90] {
            assert!(!is_keyframe(other), "{other:02x}");
        }
    }

    #[test]
    fn arbitrary_headers_are_survived() {
        let mut random = fastrand::Rng::with_seed(0xa1);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let _ = (Obu::parse(&bytes), Sequence::parse(&bytes), private(&bytes));
        }
    }
}
