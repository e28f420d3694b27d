//! VP9 in Matroska: optional private data as the WebM container guidelines give it, a list of features, which is not the
//! `vpcC` box of ISO files; and superframes.
//!
//! A block is a superframe (VP9 bitstream specification, Annex B): some frames of which the last one is shown, and an index if
//! there are several. [`index`] makes one; [`Header::hidden`] makes a frame that is shown one that is not.

use super::bits::Bits;
use super::ebml::{Put, Small};

/// Features of a sequence. Players work without; it tells them beforehand whether they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// 0 to 3.
    pub profile: u8,
    /// Ten times the level, e.g. 31. `None`: not known.
    pub level: Option<u8>,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    /// 0: 4:2:0 vertical, 1: 4:2:0 colocated, 2: 4:2:2, 3: 4:4:4.
    pub chroma: u8,
}

impl Features {
    /// Each as its id, the length of its value, and its value.
    pub fn encode(&self) -> Vec<u8> {
        let features = [(1, Some(self.profile)), (2, self.level), (3, Some(self.bit_depth)), (4, Some(self.chroma))];
        features.into_iter().filter_map(|(id, value)| Some([id, 1, value?])).flatten().collect()
    }
}

/// What a key frame says about itself in its uncompressed header (VP9 bitstream specification, §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyframe {
    /// `None`: a chroma format that the list has no number for (4:4:0).
    pub features: Option<Features>,
    /// Pixels.
    pub width: u32,
    pub height: u32,
}

impl Keyframe {
    /// From the beginning of a frame, of which 10 octets are enough. `None`: cut short, or not a key frame.
    pub fn parse(frame: &[u8]) -> Option<Keyframe> {
        let mut bits = Bits::of(frame);
        if bits.bits(2)? != FRAME_MARKER {
            return None;
        }
        let profile = u8::from(bits.bit()?) | u8::from(bits.bit()?) << 1;
        if profile == 3 && bits.bit()? {
            return None;
        }
        if bits.bit()? || bits.bit()? {
            return None; // show_existing_frame, or not a key frame
        }
        bits.bits(2)?; // show_frame, error_resilient_mode
        if bits.bits(24)? != SYNC_CODE {
            return None;
        }
        let (bit_depth, is_subsampled) = color_config(&mut bits, profile)?;
        let chroma = match is_subsampled {
            (true, true) => Some(COLOCATED),
            (true, false) => Some(2),
            (false, false) => Some(3),
            (false, true) => None,
        };
        let features = chroma.map(|chroma| Features { profile, level: None, bit_depth, chroma });
        Some(Keyframe { features, width: bits.bits(16)? + 1, height: bits.bits(16)? + 1 })
    }
}

/// Bit depth, and how chroma is subsampled, horizontally and vertically.
fn color_config(bits: &mut Bits<'_>, profile: u8) -> Option<(u8, (bool, bool))> {
    let bit_depth = match profile {
        0 | 1 => 8,
        _ => 10 + 2 * u8::from(bits.bit()?),
    };
    let is_rgb = bits.bits(3)? == RGB;
    if !is_rgb {
        bits.bit()?; // color_range
    }
    let mut is_subsampled = (!is_rgb, !is_rgb);
    if profile & 1 == 1 {
        if !is_rgb {
            is_subsampled = (bits.bit()?, bits.bit()?);
        }
        bits.bit()?; // reserved
    }
    Some((bit_depth, is_subsampled))
}

/// What an uncompressed header says (§6.2) of a frame that is not merely shown again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub is_keyframe: bool,
    pub is_shown: bool,
    pub is_error_resilient: bool,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    profile: u8,
    /// Which of the eight references it takes the place of, a bit for each.
    refreshes: u8,
    /// In bits, without those that fill the last octet.
    length: usize,
}

/// The sizes of the pictures that a decoder keeps, which headers refer to.
#[derive(Debug, Clone, Copy, Default)]
pub struct References([Option<(u32, u32)>; 8]);

impl References {
    /// The header of the frame that is decoded next, from its beginning. `None`: cut short, not understood, or of a size that
    /// is not known; then none is known until a key frame.
    pub fn next(&mut self, frame: &[u8]) -> Option<Header> {
        let header = self.parse(&mut Bits::of(frame));
        match header {
            Some(header) => {
                let replaced = self.0.iter_mut().enumerate().filter(|(slot, _)| header.refreshes >> slot & 1 == 1);
                replaced.for_each(|(_, size)| *size = Some((header.width, header.height)));
            }
            None => *self = References::default(),
        }
        header
    }

    fn parse(&self, bits: &mut Bits<'_>) -> Option<Header> {
        if bits.bits(2)? != FRAME_MARKER {
            return None;
        }
        let profile = u8::from(bits.bit()?) | u8::from(bits.bit()?) << 1;
        if (profile == 3 && bits.bit()?) || bits.bit()? {
            return None; // reserved, or show_existing_frame
        }
        let (is_keyframe, is_shown, is_error_resilient) = (!bits.bit()?, bits.bit()?, bits.bit()?);
        let is_intra_only = !is_keyframe && !is_shown && bits.bit()?;
        if !is_keyframe && !is_error_resilient {
            bits.bits(2)?; // reset_frame_context
        }
        let (mut refreshes, size);
        if is_keyframe || is_intra_only {
            if bits.bits(24)? != SYNC_CODE {
                return None;
            }
            if is_keyframe || profile > 0 {
                color_config(bits, profile)?;
            }
            refreshes = 0xff;
            if !is_keyframe {
                refreshes = bits.bits(8)? as u8;
            }
            size = frame_size(bits)?;
            skip_render_size(bits)?;
        } else {
            refreshes = bits.bits(8)? as u8;
            size = self.size_with_references(bits)?;
            bits.bit()?; // allow_high_precision_mv
            if !bits.bit()? {
                bits.bits(2)?; // raw_interpolation_filter
            }
        }
        if !is_error_resilient {
            bits.bits(2)?; // refresh_frame_context, frame_parallel_decoding_mode
        }
        bits.bits(2)?; // frame_context_idx
        skip_loop_filter(bits)?;
        skip_quantization(bits)?;
        skip_segmentation(bits)?;
        skip_tiles(bits, size.0)?;
        bits.bits(16)?; // header_size_in_bytes
        let (width, height) = size;
        let length = bits.position();
        Some(Header { is_keyframe, is_shown, is_error_resilient, width, height, profile, refreshes, length })
    }

    fn size_with_references(&self, bits: &mut Bits<'_>) -> Option<(u32, u32)> {
        let mut slots = [0; 3];
        for slot in &mut slots {
            *slot = bits.bits(3)? as usize;
            bits.bit()?; // ref_frame_sign_bias
        }
        let mut size = None;
        for slot in slots {
            if bits.bit()? {
                size = Some(self.0.get(slot).copied().flatten()?);
                break;
            }
        }
        let size = match size {
            Some(size) => size,
            None => frame_size(bits)?,
        };
        skip_render_size(bits)?;
        Some(size)
    }
}

impl Header {
    /// The same header of a frame that is not shown, of this frame: the octets that take the place of so many. They are those
    /// of a frame that is decoded in the same way, if one that is decoded next is of another size or error resilient (§7.2:
    /// UsePrevFrameMvs is all that depends on what was shown). `None`: it is not shown as it is.
    pub fn hidden(&self, frame: &[u8]) -> Option<(Vec<u8>, usize)> {
        if !self.is_shown {
            return None;
        }
        let show_at = if self.profile == 3 { 7 } else { 6 };
        let mut bits = Bits::of(frame);
        let mut hidden = Vec::with_capacity(self.length / 8 + 2);
        let mut count = 0;
        let mut put = |bit: bool| {
            if count % 8 == 0 {
                hidden.push(0);
            }
            if let Some(octet) = hidden.last_mut() {
                *octet |= u8::from(bit) << (7 - count % 8);
            }
            count += 1;
        };
        while bits.position() < self.length {
            let at = bits.position();
            let bit = bits.bit()?;
            put(bit && at != show_at);
            // Behind error_resilient_mode: intra_only, which a frame has that is no key frame and not shown.
            if at == show_at + 1 && !self.is_keyframe {
                put(false);
            }
        }
        Some((hidden, self.length.div_ceil(8)))
    }
}

fn frame_size(bits: &mut Bits<'_>) -> Option<(u32, u32)> {
    Some((bits.bits(16)? + 1, bits.bits(16)? + 1))
}

fn skip_render_size(bits: &mut Bits<'_>) -> Option<()> {
    if bits.bit()? {
        bits.bits(32)?;
    }
    Some(())
}

fn skip_loop_filter(bits: &mut Bits<'_>) -> Option<()> {
    bits.bits(9)?; // level, sharpness
    if bits.bit()? && bits.bit()? {
        for _ in 0..6 {
            if bits.bit()? {
                bits.bits(7)?; // four deltas by reference, two by mode
            }
        }
    }
    Some(())
}

fn skip_quantization(bits: &mut Bits<'_>) -> Option<()> {
    bits.bits(8)?; // base_q_idx
    for _ in 0..3 {
        if bits.bit()? {
            bits.bits(5)?; // delta_q
        }
    }
    Some(())
}

fn skip_segmentation(bits: &mut Bits<'_>) -> Option<()> {
    if !bits.bit()? {
        return Some(());
    }
    let skip_probabilities = |bits: &mut Bits<'_>, count: u32| {
        for _ in 0..count {
            if bits.bit()? {
                bits.bits(8)?;
            }
        }
        Some(())
    };
    if bits.bit()? {
        skip_probabilities(bits, 7)?;
        if bits.bit()? {
            skip_probabilities(bits, 3)?; // segmentation_temporal_update
        }
    }
    if bits.bit()? {
        bits.bit()?; // segmentation_abs_or_delta_update
        for _ in 0..8 {
            // Quantizer and loop filter with a sign, reference, skip.
            for width in [9, 7, 2, 0] {
                if bits.bit()? {
                    bits.bits(width)?;
                }
            }
        }
    }
    Some(())
}

fn skip_tiles(bits: &mut Bits<'_>, width: u32) -> Option<()> {
    let columns = width.div_ceil(64);
    let least = (0..).find(|log2| 64 << log2 >= columns).unwrap_or(0);
    let most = (1..).find(|log2| columns >> log2 < 4).unwrap_or(1) - 1;
    for _ in least..most {
        if !bits.bit()? {
            break;
        }
    }
    if bits.bit()? {
        bits.bit()?; // tile_rows_log2
    }
    Some(())
}

/// The index behind the frames of a superframe (§B.2), by their sizes: how many there are, and where one ends. Of 1 to 8
/// frames; it is at most [`INDEX_MAX`] octets long.
pub fn index(sizes: &[u32]) -> Small<INDEX_MAX> {
    let mut index = Small::default();
    let width = (1..4).find(|width| sizes.iter().all(|size| size >> (8 * width) == 0)).unwrap_or(4);
    let marker = INDEX_MARKER | (width as u8 - 1) << 3 | (sizes.len() as u8 - 1) & 7;
    index.put(&[marker]);
    for size in sizes {
        index.put(&size.to_le_bytes()[..width]);
    }
    index.put(&[marker]);
    index
}

/// Whether a frame that ends with this octet is a superframe: the last octet of a plain frame is never like this.
pub fn ends_index(last: u8) -> bool {
    last & 0xe0 == INDEX_MARKER
}

/// How many frames a superframe may have.
pub const FRAMES_MAX: usize = 8;
/// Two markers, and eight sizes of four octets.
pub const INDEX_MAX: usize = 34;

const FRAME_MARKER: u32 = 2;
const SYNC_CODE: u32 = 0x49_83_42;
const INDEX_MARKER: u8 = 0xc0;
const RGB: u32 = 7;
/// What libvpx and FFmpeg say of 4:2:0: the stream itself does not tell where the samples are.
const COLOCATED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames() {
        // What libvpx writes: 320x180 of profile 0; 640x360 of profile 1 (4:4:4) and of profile 2 (ten bits).
        let rows = [
            ([0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0b, 0x36], (0, 8, 1), (320, 180)),
            ([0xa2, 0x49, 0x83, 0x42, 0x00, 0x04, 0xfe, 0x02, 0xce], (1, 8, 3), (640, 360)),
            ([0x92, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf8, 0x0b, 0x3b], (2, 10, 1), (640, 360)),
        ];
        for (frame, (profile, bit_depth, chroma), size) in rows {
            let key = Keyframe::parse(&frame).expect("a key frame");
            let features = Features { profile, level: None, bit_depth, chroma };
            assert_eq!((key.features, (key.width, key.height)), (Some(features), size));
            for end in 0..frame.len() {
                assert_eq!(Keyframe::parse(&frame[..end]), None, "cut at {end}");
            }
        }
        for bad in [&[0x86, 0x49, 0x83, 0x42][..], &[0x42; 12], &[0x8a; 12], &[0x82; 12], &[0xb8; 12]] {
            assert_eq!(Keyframe::parse(bad), None, "{bad:02x?}");
        }
    }

    /// Of a sequence with two spatial layers, as Chromium sends it: a key frame, one that is predicted from it, and the same
    /// with a size of its own and segmentation. Decoders show no difference between these and what they were made of, but for
    /// the layers that are hidden.
    #[test]
    fn hidden_frames() {
        type Row<'a> = (&'a [u8], (u32, u32), &'a [u8], usize);
        let rows: [Row<'_>; 3] = [
            (
                &[
                    0x83, 0x49, 0x83, 0x42, 0, 0x13, 0xf0, 0x0b, 0x30, 0xa8, 0xe0, 0x90, 0x70, 0x64, 0xc8, 0, 0x13, 0,
                    0x5f,
                ],
                (320, 180),
                &[0x81, 0x49, 0x83, 0x42, 0, 0x13, 0xf0, 0x0b, 0x30, 0xa8, 0xe0, 0x90, 0x70, 0x64, 0xc8, 0, 0x13, 0],
                18,
            ),
            (
                &[
                    0x87, 0x04, 0x04, 0, 0x02, 0x7e, 0x01, 0x66, 0x33, 0x61, 0xc1, 0x20, 0xe0, 0xcc, 0x80, 0, 0x20, 0,
                    0x7f,
                ],
                (320, 180),
                &[0x85, 0x02, 0x02, 0, 0x01, 0x3f, 0, 0xb3, 0x19, 0xb0, 0xe0, 0x90, 0x70, 0x66, 0x40, 0, 0x10, 0],
                18,
            ),
            (
                &[
                    0x87, 0, 0x24, 0, 0x04, 0xfe, 0x02, 0xce, 0x33, 0x71, 0xc1, 0x20, 0xe0, 0xcc, 0x90, 0, 0x18, 0x80,
                    0x7f,
                ],
                (640, 360),
                &[0x85, 0, 0x12, 0, 0x02, 0x7f, 0x01, 0x67, 0x19, 0xb8, 0xe0, 0x90, 0x70, 0x66, 0x48, 0, 0x0c, 0x40],
                18,
            ),
        ];
        let mut references = References::default();
        for (frame, size, hidden, length) in rows {
            for end in 0..length {
                assert_eq!({ references }.next(&frame[..end]), None, "cut at {end}");
            }
            let header = references.next(frame).expect("a header");
            assert_eq!((header.width, header.height), size);
            assert!(header.is_shown && header.is_error_resilient);
            let made = header.hidden(frame).expect("it is shown");
            assert_eq!((&made.0[..], made.1), (hidden, length));
            let header = { references }.next(&[hidden, &[0]].concat()).expect("a header");
            assert!(!header.is_shown && (header.width, header.height) == size && header.hidden(hidden).is_none());
        }
        let mut random = fastrand::Rng::with_seed(0x59);
        for _ in 0..40_000 {
            let bytes: Vec<u8> = [0x82 | random.u8(0..64)].into_iter().chain((0..60).map(|_| random.u8(..))).collect();
            let end = random.usize(..bytes.len());
            if let Some(header) = references.next(&bytes[..end]) {
                let hidden = header.hidden(&bytes[..end]);
                assert!(
                    hidden.is_none_or(|(made, length)| length <= end && (length..=length + 1).contains(&made.len()))
                );
            }
        }
    }

    #[test]
    fn indices() {
        assert_eq!(*index(&[5, 255]), [0xc1, 5, 255, 0xc1]);
        assert_eq!(*index(&[5, 256, 1]), [0xca, 5, 0, 0, 1, 1, 0, 0xca]);
        assert_eq!(*index(&[0x10000, 1]), [0xd1, 0, 0, 1, 1, 0, 0, 0xd1]);
        assert_eq!(index(&[u32::MAX; FRAMES_MAX]).len(), INDEX_MAX);
        assert!(ends_index(0xc1) && ends_index(0xdf) && !ends_index(0x55) && !ends_index(0xe0));
    }

    #[test]
    fn a_list_of_features() {
        let features = Features { profile: 0, level: Some(31), bit_depth: 8, chroma: 1 };
        assert_eq!(features.encode(), [1, 1, 0, 2, 1, 31, 3, 1, 8, 4, 1, 1]);
        assert_eq!(Features { level: None, ..features }.encode(), [1, 1, 0, 3, 1, 8, 4, 1, 1]);
    }
}
