//! H.264 payloads (RFC 6184 §5): where a key frame starts, and the size in its parameter set (ITU-T H.264 §7.3.2.1).

use super::bits::BitReader;
use super::codec::Reader;

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// What is of interest in one payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub keyframe_start: bool,
    /// Of the sequence parameter set, if there is one.
    pub size: Option<(u16, u16)>,
}

/// A single SPS or IDR NAL unit, an aggregate (STAP-A) that holds one, or the first fragment (FU-A) of one, starts a key
/// frame. `None`: cut short.
pub fn inspect(payload: &[u8]) -> Option<Facts> {
    let mut reader = Reader::new(payload);
    let starts = |nal_type: u8| nal_type == IDR || nal_type == SPS;
    match reader.octet()? & 0x1f {
        STAP_A => {
            let mut facts = Facts::default();
            while reader.remaining() > 0 {
                let size = usize::from(reader.u16()?);
                let nal = reader.take(size)?;
                let nal_type = nal.first()? & 0x1f;
                if starts(nal_type) {
                    facts.keyframe_start = true;
                    if nal_type == SPS {
                        facts.size = sps_size(nal);
                    }
                    break;
                }
            }
            Some(facts)
        }
        FU_A => {
            let head = reader.octet()?;
            let start = head & 0x80 != 0;
            let keyframe_start = start && starts(head & 0x1f) && reader.remaining() > 0;
            Some(Facts { keyframe_start, size: None })
        }
        nal_type => {
            let keyframe_start = starts(nal_type) && reader.remaining() > 0;
            let size = if nal_type == SPS { sps_size(payload) } else { None };
            Some(Facts { keyframe_start, size })
        }
    }
}

/// Width and height after cropping. `None`: cut short, absurd, or encrypted.
fn sps_size(nal: &[u8]) -> Option<(u16, u16)> {
    let mut clean = [0u8; SPS_MAX];
    let length = unescape(nal.get(1..)?, &mut clean);
    let mut reader = BitReader::new(clean.get(..length)?);

    let profile = reader.bits(8)?;
    reader.skip(16)?; // constraints, level
    bounded(&mut reader, 31)?; // seq_parameter_set_id
    let mut chroma_format = 1;
    if HIGH_PROFILES.contains(&profile) {
        chroma_format = bounded(&mut reader, 3)?;
        if chroma_format == 3 && reader.bit()? {
            chroma_format = 0; // separate planes are cropped like monochrome
        }
        bounded(&mut reader, 6)?; // bit_depth_luma_minus8
        bounded(&mut reader, 6)?; // bit_depth_chroma_minus8
        reader.skip(1)?; // qpprime_y_zero_transform_bypass
        if reader.bit()? {
            let lists = if chroma_format == 3 { 12 } else { 8 };
            for list in 0..lists {
                if reader.bit()? {
                    skip_scaling_list(&mut reader, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bounded(&mut reader, 12)?; // log2_max_frame_num_minus4
    match bounded(&mut reader, 2)? {
        0 => {
            bounded(&mut reader, 12)?; // log2_max_pic_order_cnt_lsb_minus4
        }
        1 => {
            reader.skip(1)?;
            reader.signed_exp_golomb()?;
            reader.signed_exp_golomb()?;
            for _ in 0..bounded(&mut reader, 255)? {
                reader.signed_exp_golomb()?;
            }
        }
        _ => {}
    }
    bounded(&mut reader, 16)?; // max_num_ref_frames
    reader.skip(1)?; // gaps_in_frame_num_value_allowed
    let columns = bounded(&mut reader, MACROBLOCKS_MAX)? + 1;
    let rows = bounded(&mut reader, MACROBLOCKS_MAX)? + 1;
    let is_frame_only = reader.bit()?;
    if !is_frame_only {
        reader.skip(1)?; // mb_adaptive_frame_field
    }
    reader.skip(1)?; // direct_8x8_inference
    let fields = if is_frame_only { 1 } else { 2 };
    let (mut width, mut height) = (columns * 16, rows * 16 * fields);
    if reader.bit()? {
        let (unit_x, unit_y) = match chroma_format {
            1 => (2, 2 * fields),
            2 => (2, fields),
            _ => (1, fields),
        };
        let mut crop = |unit: u32| Some(reader.exp_golomb()?.checked_mul(unit));
        let (left, right, top, bottom) = (crop(unit_x)??, crop(unit_x)??, crop(unit_y)??, crop(unit_y)??);
        width = width.checked_sub(left)?.checked_sub(right)?;
        height = height.checked_sub(top)?.checked_sub(bottom)?;
    }
    let size = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

/// ue(v) that must not be larger than `max`.
fn bounded(reader: &mut BitReader<'_>, max: u32) -> Option<u32> {
    reader.exp_golomb().filter(|value| *value <= max)
}

fn skip_scaling_list(reader: &mut BitReader<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + reader.signed_exp_golomb()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Takes out the octets that keep start codes out of a NAL unit; as much as fits. How much that is.
fn unescape(bytes: &[u8], clean: &mut [u8]) -> usize {
    let (mut length, mut zeros) = (0, 0);
    for octet in bytes {
        if zeros >= 2 && *octet == 3 {
            zeros = 0;
            continue;
        }
        let Some(place) = clean.get_mut(length) else { break };
        *place = *octet;
        length += 1;
        zeros = if *octet == 0 { zeros + 1 } else { 0 };
    }
    length
}

/// Profiles whose parameter sets have the fields of chroma format and scaling.
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];
/// Octets of a parameter set that are looked at; what is of interest is long before, scaling lists included.
const SPS_MAX: usize = 512;
/// In one direction: 16,384 pixels, more than any level allows.
const MACROBLOCKS_MAX: u32 = 1023;

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits, for parameter sets of any shape.
    struct Writer(Vec<bool>);

    impl Writer {
        fn bits(mut self, value: u32, count: u32) -> Self {
            self.0.extend((0..count).rev().map(|n| value >> n & 1 == 1));
            self
        }

        fn ue(self, value: u32) -> Self {
            let width = 31 - (value + 1).leading_zeros();
            self.bits(0, width).bits(value + 1, width + 1)
        }

        fn nal(mut self) -> Vec<u8> {
            self.0.push(true);
            let mut bytes: Vec<u8> =
                self.0.chunks(8).map(|c| c.iter().enumerate().map(|(n, b)| u8::from(*b) << (7 - n)).sum()).collect();
            bytes.insert(0, 0x67);
            bytes
        }
    }

    #[test]
    fn sizes_of_parameter_sets() {
        // Constrained baseline, level 3.1, as browsers send it; 1280x720 needs no cropping, 640x360 does.
        let baseline = || Writer(Vec::new()).bits(66, 8).bits(0xe0, 8).bits(31, 8).ue(0).ue(0).ue(2).ue(1).bits(0, 1);
        let hd = baseline().ue(79).ue(44).bits(0b11, 2).bits(0, 1).nal();
        assert_eq!(sps_size(&hd), Some((1280, 720)));
        let cropped = baseline().ue(39).ue(22).bits(0b11, 2).bits(1, 1).ue(0).ue(0).ue(0).ue(4).nal();
        assert_eq!(sps_size(&cropped), Some((640, 360)));
        let absurd_crop = baseline().ue(39).ue(22).bits(0b11, 2).bits(1, 1).ue(0).ue(0).ue(0).ue(184).nal();
        assert_eq!(sps_size(&absurd_crop), None);
        assert_eq!(sps_size(&baseline().ue(4000).ue(22).bits(0b110, 3).nal()), None, "too wide");
        // High profile with scaling lists, picture order count of type 1, and fields.
        let high = Writer(Vec::new()).bits(100, 8).bits(0, 8).bits(40, 8).ue(0).ue(1).ue(0).ue(0).bits(0b01, 2);
        // The first list is all defaults (delta -8 makes the next scale 0), the others are absent.
        let high = high.bits(1, 1).ue(16).bits(0, 7);
        let high = high.ue(0).ue(1).bits(0, 1).ue(3).ue(3).ue(2).ue(5).ue(5).ue(4).bits(0, 1);
        let high = high.ue(119).ue(33).bits(0b0, 1).bits(0b11, 2).bits(1, 1).ue(0).ue(0).ue(0).ue(2).nal();
        assert_eq!(sps_size(&high), Some((1920, 1080)));
        for nal in [&hd, &cropped, &high] {
            for end in 0..nal.len() - 1 {
                sps_size(&nal[..end]);
            }
        }
    }

    #[test]
    fn escapes_are_taken_out() {
        let mut clean = [0; 8];
        let length = unescape(&[1, 0, 0, 3, 1, 0, 0, 3, 0, 0, 3], &mut clean);
        assert_eq!(clean[..length], [1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(unescape(&[9; 20], &mut clean), 8);
    }

    #[test]
    fn a_parameter_set_in_an_aggregate() {
        let sps = Writer(Vec::new()).bits(66, 8).bits(0xe0, 8).bits(31, 8).ue(0).ue(0).ue(2).ue(1).bits(0, 1);
        let sps = sps.ue(19).ue(14).bits(0b110, 3).nal();
        let mut payload = vec![0x78, 0, sps.len() as u8];
        payload.extend(&sps);
        payload.extend([0, 2, 0x68, 0xce]);
        let expect = Facts { keyframe_start: true, size: Some((320, 240)) };
        assert_eq!(inspect(&payload), Some(expect));
        assert_eq!(inspect(&sps), Some(expect));
    }

    #[test]
    fn arbitrary_parameter_sets_are_survived() {
        let mut random = fastrand::Rng::with_seed(0x264);
        for _ in 0..40_000 {
            let mut nal: Vec<u8> = (0..random.usize(0..80)).map(|_| random.u8(..)).collect();
            if let Some(profile) = nal.get_mut(1) {
                *profile = [66, 100, 244][random.usize(0..3)];
            }
            sps_size(&nal);
        }
    }
}
