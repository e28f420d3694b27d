//! H.264 in Matroska (ISO/IEC 14496-15 §5.3): the `avcC` record that is the track's private data, and NAL units behind their
//! lengths.
//!
//! A block is an access unit: each NAL unit behind four octets of length. [`nal_units`] finds them in an Annex B stream;
//! [`Lengths`] puts lengths between them as slices, so that no NAL unit is copied. Parameter sets stand in the record; new
//! ones in the middle are another track.

use super::bits::Bits;

const SPS: u8 = 7;
const PPS: u8 = 8;
const SPS_EXTENSION: u8 = 13;
/// Profiles whose parameter sets, and so records, say how colours are kept (ITU-T H.264 §7.3.2.1.1).
const HIGH_PROFILES: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 144];

/// Octets of a sequence parameter set in which its size is looked for; scaling lists and all are shorter.
const SPS_MAX: usize = 1024;
/// In one direction, less one: 16384 pixels.
const MACROBLOCKS_MAX: u32 = 1023;

/// The `avcC` record of an access unit's parameter sets; NAL units of other types are passed over. Lengths are four octets.
///
/// `None`: no sequence or no picture parameter set, more than the record can hold, or one that is cut short.
pub fn private<'a>(nal_units: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut sequence_sets, mut picture_sets, mut extensions) = (Vec::new(), Vec::new(), Vec::new());
    for nal in nal_units {
        let list = match nal.first().map(|head| head & 0x1f) {
            Some(SPS) => &mut sequence_sets,
            Some(PPS) => &mut picture_sets,
            Some(SPS_EXTENSION) => &mut extensions,
            _ => continue,
        };
        if !list.contains(&nal) {
            list.push(nal);
        }
    }
    let [_, profile, compatibility, level, ..] = **sequence_sets.first()? else { return None };
    if sequence_sets.len() > 31 || picture_sets.is_empty() {
        return None;
    }
    let mut bytes = vec![1, profile, compatibility, level, 0xfc | 3, 0xe0 | sequence_sets.len() as u8];
    let put = |bytes: &mut Vec<u8>, nal: &[u8]| {
        bytes.extend_from_slice(&u16::try_from(nal.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(nal);
        Some(())
    };
    for nal in &sequence_sets {
        put(&mut bytes, nal)?;
    }
    bytes.push(u8::try_from(picture_sets.len()).ok()?);
    for nal in &picture_sets {
        put(&mut bytes, nal)?;
    }
    if HIGH_PROFILES.contains(&profile) {
        let (chroma, luma_depth, chroma_depth) = formats(sequence_sets[0])?;
        bytes.extend([0xfc | chroma, 0xf8 | luma_depth, 0xf8 | chroma_depth]);
        bytes.push(u8::try_from(extensions.len()).ok()?);
        for nal in &extensions {
            put(&mut bytes, nal)?;
        }
    }
    Some(bytes)
}

/// chroma_format_idc, bit_depth_luma_minus8, bit_depth_chroma_minus8 of a high profile. They stand before any place where octets against
/// emulated start codes can, other than right after the level, which cannot be 0 with a profile that is not.
fn formats(sps: &[u8]) -> Option<(u8, u8, u8)> {
    let mut bits = Bits::of(sps.get(4..)?);
    bits.exp_golomb()?; // seq_parameter_set_id
    let chroma = bits.exp_golomb().filter(|chroma| *chroma <= 3)?;
    if chroma == 3 {
        bits.bit()?; // separate_colour_plane_flag
    }
    let mut depth = || bits.exp_golomb().filter(|depth| *depth <= 6);
    Some((chroma as u8, depth()? as u8, depth()? as u8))
}

/// The id of a sequence or picture parameter set. `None`: it is neither, or cut short.
pub fn set_id(nal: &[u8]) -> Option<u32> {
    let id_at = match nal.first()? & 0x1f {
        SPS => 4,
        PPS => 1,
        _ => return None,
    };
    Bits::of(nal.get(id_at..)?).exp_golomb().filter(|id| *id < 256)
}

/// Width and height in pixels that a sequence parameter set (ITU-T H.264 §7.3.2.1.1) gives, after cropping. `None`: cut short,
/// or not of this world.
pub fn size(sps: &[u8]) -> Option<(u32, u32)> {
    if sps.first()? & 0x1f != SPS {
        return None;
    }
    let clean = unescaped(sps.get(..sps.len().min(SPS_MAX))?);
    let mut bits = Bits::of(clean.get(4..)?);
    let profile = *clean.get(1)?;
    bounded(&mut bits, 31)?; // seq_parameter_set_id
    let mut chroma = 1;
    if HIGH_PROFILES.contains(&profile) {
        chroma = bounded(&mut bits, 3)?;
        let lists = if chroma == 3 { 12 } else { 8 };
        if chroma == 3 && bits.bit()? {
            chroma = 0; // separate planes are cropped like monochrome
        }
        bounded(&mut bits, 6)?; // bit_depth_luma_minus8
        bounded(&mut bits, 6)?; // bit_depth_chroma_minus8
        bits.bit()?; // qpprime_y_zero_transform_bypass_flag
        if bits.bit()? {
            for list in 0..lists {
                if bits.bit()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    skip_order(&mut bits)?;
    bounded(&mut bits, 16)?; // max_num_ref_frames
    bits.bit()?; // gaps_in_frame_num_value_allowed_flag
    let columns = bounded(&mut bits, MACROBLOCKS_MAX)? + 1;
    let rows = bounded(&mut bits, MACROBLOCKS_MAX)? + 1;
    let fields = if bits.bit()? { 1 } else { 2 };
    if fields == 2 {
        bits.bit()?; // mb_adaptive_frame_field_flag
    }
    bits.bit()?; // direct_8x8_inference_flag
    let (mut width, mut height) = (columns * 16, rows * 16 * fields);
    if bits.bit()? {
        let (unit_x, unit_y) = match chroma {
            1 => (2, 2 * fields),
            2 => (2, fields),
            _ => (1, fields),
        };
        let mut crop = |unit: u32| bits.exp_golomb()?.checked_mul(unit);
        let (left, right, top, bottom) = (crop(unit_x)?, crop(unit_x)?, crop(unit_y)?, crop(unit_y)?);
        width = width.checked_sub(left)?.checked_sub(right)?;
        height = height.checked_sub(top)?.checked_sub(bottom)?;
    }
    (width > 0 && height > 0).then_some((width, height))
}

/// Everything from log2_max_frame_num_minus4 to what the order of pictures follows from.
fn skip_order(bits: &mut Bits<'_>) -> Option<()> {
    bounded(bits, 12)?; // log2_max_frame_num_minus4
    match bounded(bits, 2)? {
        0 => {
            bounded(bits, 12)?; // log2_max_pic_order_cnt_lsb_minus4
        }
        1 => {
            bits.bit()?; // delta_pic_order_always_zero_flag
            bits.exp_golomb()?; // se(v), as the next: as long as ue(v)
            bits.exp_golomb()?;
            for _ in 0..bounded(bits, 255)? {
                bits.exp_golomb()?;
            }
        }
        _ => {}
    }
    Some(())
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            // se(v): 1, -1, 2, -2, …
            let code = i64::from(bits.exp_golomb()?);
            let delta = if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 };
            next = (last + delta).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// ue(v) that must not be larger than `max`.
fn bounded(bits: &mut Bits<'_>, max: u32) -> Option<u32> {
    bits.exp_golomb().filter(|value| *value <= max)
}

/// Without the octets against emulated start codes (§7.4.1).
fn unescaped(nal: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let mut clean = Vec::with_capacity(nal.len());
    for octet in nal {
        if zeros >= 2 && *octet == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *octet == 0 { zeros + 1 } else { 0 };
        clean.push(*octet);
    }
    clean
}

/// The NAL units of an Annex B byte stream (ITU-T H.264 Annex B), without start codes and the zeros around them.
pub fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = start_code(stream).map(|at| &stream[at + 3..]);
    std::iter::from_fn(move || {
        let unit = rest?;
        let (nal, after) = match start_code(unit) {
            Some(at) => (&unit[..at], Some(&unit[at + 3..])),
            None => (unit, None),
        };
        rest = after;
        let end = nal.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        Some(&nal[..end])
    })
    .filter(|nal| !nal.is_empty())
}

/// Where three octets 0, 0, 1 are.
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at..at + 3)? {
            [0, 0, 1] => return Some(at),
            // Past what cannot be part of one.
            [_, _, third] if *third > 1 => at += 3,
            [_, second, _] if *second > 0 => at += 2,
            _ => at += 1,
        }
    }
}

/// Lengths of the NAL units of one access unit. Keep it, so that nothing is allocated for each.
#[derive(Debug, Default)]
pub struct Lengths(Vec<[u8; 4]>);

impl Lengths {
    /// Each NAL unit behind its length, as slices of a payload. A NAL unit is shorter than 4 GiB.
    pub fn interleave<'a>(&'a mut self, nal_units: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.0.clear();
        self.0.extend(nal_units.iter().map(|nal| (nal.len() as u32).to_be_bytes()));
        self.0.iter().zip(nal_units).flat_map(|(length, nal)| [length.as_slice(), nal])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASELINE: &[u8] = &[0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40];
    const PICTURE: &[u8] = &[0x68, 0xce, 0x3c, 0x80];

    #[test]
    fn units_of_a_stream() {
        let stream = [
            &[0, 0, 0, 1][..],
            BASELINE,
            &[0, 0, 0, 1],
            PICTURE,
            &[0, 0, 0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1, 0, 0, 1, 0x41],
        ]
        .concat();
        let nals: Vec<&[u8]> = nal_units(&stream).collect();
        assert_eq!(nals, [BASELINE, PICTURE, &[0x65, 0, 0, 3, 1], &[0x41]]);
        let mut lengths = Lengths::default();
        let block = lengths.interleave(&nals).collect::<Vec<_>>().concat();
        assert_eq!(block[..11], [0, 0, 0, 7, 0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40]);
        assert_eq!(block.len(), 4 * 4 + 7 + 4 + 5 + 1);
        for bad in [&[][..], &[0, 0], &[0, 0, 1], &[1, 2, 3], &[0, 0, 0, 1, 0, 0, 0]] {
            assert_eq!(nal_units(bad).count(), 0, "{bad:02x?}");
        }
    }

    /// However the start codes fall, every unit is found: the quick search against the plain one.
    #[test]
    fn start_codes_among_zeros_and_ones() {
        let mut random = fastrand::Rng::with_seed(0x264);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..24)).map(|_| random.u8(0..4)).collect();
            let plain = bytes.windows(3).position(|three| three == [0, 0, 1]);
            assert_eq!(start_code(&bytes), plain, "{bytes:02x?}");
        }
    }

    /// What x264 writes: baseline, high with cropping, 4:4:4, and interlaced 4:2:2.
    #[test]
    fn sizes() {
        let rows: [(&[u8], (u32, u32)); 4] = [
            (
                &[0x67, 0x42, 0xc0, 0x16, 0xd9, 0x00, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0, 3, 0],
                (640, 360),
            ),
            (&[0x67, 0x64, 0x00, 0x16, 0xac, 0xd9, 0x40, 0xa4, 0x2f, 0xe2, 0x24, 0xc0, 0x44, 0, 0, 3, 0], (642, 362)),
            (
                &[0x67, 0xf4, 0x00, 0x16, 0x91, 0x9b, 0x28, 0x14, 0x85, 0xfc, 0x7c, 0xf8, 0x08, 0x80, 0, 0, 3],
                (642, 362),
            ),
            (&[0x67, 0x7a, 0x00, 0x16, 0xbc, 0xd9, 0x40, 0xa4, 0x63, 0xc4, 0x46, 0x60, 0x22, 0, 0, 3, 0], (642, 362)),
        ];
        for (sps, expect) in rows {
            assert_eq!((size(sps), set_id(sps)), (Some(expect), Some(0)));
            for end in 0..9 {
                assert_eq!(size(&sps[..end]), None, "cut at {end}");
            }
        }
        assert_eq!((size(PICTURE), size(&[0x67]), size(&[0x67; 40])), (None, None, None));
        assert_eq!((set_id(PICTURE), set_id(&[0x68, 0x5c]), set_id(&[0x65, 0x88])), (Some(0), Some(1), None));
        // Octets against emulated start codes, in the middle of a field: 4096 reference pictures are not of this world.
        assert_eq!(unescaped(&[1, 0, 0, 3, 1, 0, 0, 0, 3, 0, 0, 3]), [1, 0, 0, 1, 0, 0, 0, 0, 0]);
        let mut random = fastrand::Rng::with_seed(0x59);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            bytes.splice(..0, rows[random.usize(0..4)].0[..random.usize(1..12)].iter().copied());
            let _ = (size(&bytes), set_id(&bytes));
        }
    }

    #[test]
    fn records() {
        let record = private([BASELINE, PICTURE, PICTURE, &[0x65, 1]]).expect("a record");
        let expect = [&[1, 0x42, 0xc0, 0x1f, 0xff, 0xe1, 0, 7][..], BASELINE, &[1, 0, 4], PICTURE].concat();
        assert_eq!(record, expect);
        // What FFmpeg puts at the end of the record for x264's high profile, and for high 4:2:2 with ten bits.
        let high: [(&[u8], [u8; 4]); 2] = [
            (&[0x67, 0x64, 0x00, 0x0d, 0xac, 0xd9, 0x41, 0x41, 0x9f, 0x9f, 0x01, 0x10], [0xfd, 0xf8, 0xf8, 0]),
            (&[0x67, 0x7a, 0x00, 0x0d, 0xb6, 0xcd, 0x94, 0x14, 0x19, 0xf8, 0xdc, 0x04], [0xfe, 0xfa, 0xfa, 0]),
        ];
        for (sps, end) in high {
            let record = private([sps, PICTURE]).expect("a record");
            assert_eq!(record[record.len() - 4..], end);
        }
        for bad in [&[BASELINE][..], &[PICTURE], &[], &[&[0x67, 0x42], PICTURE], &[&[0x67, 100, 0, 31], PICTURE]] {
            assert!(private(bad.iter().copied()).is_none());
        }
    }
}
