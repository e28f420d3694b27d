//! What a payload says about itself without being decoded: where key frames start, and VP8's counters.
//!
//! Works on the payload descriptors alone, which end-to-end encryption leaves clear. Every read is bounds-checked; bytes
//! that make no sense are never a key frame. VP8: RFC 7741 §4.2. VP9: RFC 9628 §4.2. H.264: RFC 6184 §5. AV1: the AV1
//! RTP payload specification of AOMedia, §4.4.

use str0m::format::Codec;
use str0m::rtp::Vp8Descriptor;

/// The facts of one video payload that forwarding needs.
#[derive(Debug, Clone, Copy)]
pub struct Inspection {
    /// The payload is the first packet of a key frame: a decoder that has seen nothing can start here.
    pub keyframe_start: bool,
    /// VP8's descriptor; `None` for the other codecs.
    pub vp8: Option<Vp8Fields>,
}

/// The counters in a VP8 descriptor and where they are.
#[derive(Debug, Clone, Copy)]
pub struct Vp8Fields {
    pub descriptor: Vp8Descriptor,
    /// The picture id takes 15 bits (else 7). Meaningless without a picture id.
    pub picture_id_is_long: bool,
}

/// The payload's descriptor is cut short or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Inspects one video payload. Only VP8 can be [`Malformed`]: its counters are rewritten, the others pass untouched.
///
/// A codec that is not known here never starts a key frame, so it is never forwarded.
pub fn inspect(codec: Codec, payload: &[u8]) -> Result<Inspection, Malformed> {
    let keyframe_start = match codec {
        Codec::Vp8 => return inspect_vp8(payload),
        Codec::Vp9 => vp9_starts_keyframe(payload).unwrap_or(false),
        Codec::H264 => h264_starts_keyframe(payload).unwrap_or(false),
        Codec::Av1 => av1_starts_keyframe(payload).unwrap_or(false),
        _ => false,
    };
    Ok(Inspection { keyframe_start, vp8: None })
}

fn inspect_vp8(payload: &[u8]) -> Result<Inspection, Malformed> {
    let descriptor = Vp8Descriptor::parse(payload).map_err(|_| Malformed)?;
    let keyframe_start = descriptor.starts_keyframe(payload);
    // The picture id, when there is one, is the third octet; its top bit M announces a second octet.
    let picture_id_is_long = payload.get(2).is_some_and(|octet| octet & 0x80 != 0);
    Ok(Inspection { keyframe_start, vp8: Some(Vp8Fields { descriptor, picture_id_is_long }) })
}

/// B = 1, P = 0, spatial layer 0, and the descriptor leaves at least one octet of frame. `None`: cut short.
fn vp9_starts_keyframe(payload: &[u8]) -> Option<bool> {
    const I: u8 = 0x80;
    const P: u8 = 0x40;
    const L: u8 = 0x20;
    const F: u8 = 0x10;
    const B: u8 = 0x08;
    const V: u8 = 0x02;

    let mut reader = Reader::new(payload);
    let flags = reader.octet()?;
    if flags & B == 0 || flags & P != 0 {
        return Some(false);
    }
    if flags & I != 0 && reader.octet()? & 0x80 != 0 {
        reader.octet()?;
    }
    if flags & L != 0 {
        let layer = reader.octet()?;
        let spatial = (layer >> 1) & 0x07;
        let depends_on_lower = layer & 0x01 != 0;
        if spatial != 0 || depends_on_lower {
            return Some(false);
        }
        if flags & F == 0 {
            reader.octet()?; // TL0PICIDX
        }
    }
    // Reference indices (F and P) cannot be here, since P is 0.
    if flags & V != 0 {
        skip_vp9_scalability_structure(&mut reader)?;
    }
    Some(reader.remaining() > 0)
}

fn skip_vp9_scalability_structure(reader: &mut Reader<'_>) -> Option<()> {
    let head = reader.octet()?;
    let spatial_layers = usize::from(head >> 5) + 1;
    if head & 0x10 != 0 {
        reader.skip(spatial_layers * 4)?;
    }
    if head & 0x08 != 0 {
        for _ in 0..reader.octet()? {
            let picture = reader.octet()?;
            reader.skip(usize::from((picture >> 2) & 0x03))?;
        }
    }
    Some(())
}

/// A single SPS or IDR NAL unit, an aggregate (STAP-A) that holds one, or the first fragment (FU-A) of one.
fn h264_starts_keyframe(payload: &[u8]) -> Option<bool> {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;

    let mut reader = Reader::new(payload);
    let starts = |nal_type: u8| nal_type == IDR || nal_type == SPS;
    match reader.octet()? & 0x1f {
        STAP_A => {
            while reader.remaining() > 0 {
                let size = usize::from(reader.octet()?) << 8 | usize::from(reader.octet()?);
                let nal = reader.take(size)?;
                if starts(nal.first()? & 0x1f) {
                    return Some(true);
                }
            }
            Some(false)
        }
        FU_A => {
            let head = reader.octet()?;
            let start = head & 0x80 != 0;
            Some(start && starts(head & 0x1f) && reader.remaining() > 0)
        }
        nal_type => Some(starts(nal_type) && reader.remaining() > 0),
    }
}

/// N = 1 (first packet of a coded video sequence), Z = 0 (no continued OBU), and a first OBU element that is whole and sane.
fn av1_starts_keyframe(payload: &[u8]) -> Option<bool> {
    const Z: u8 = 0x80;
    const N: u8 = 0x08;

    let mut reader = Reader::new(payload);
    let aggregation = reader.octet()?;
    if aggregation & N == 0 || aggregation & Z != 0 {
        return Some(false);
    }
    // W is the number of elements, the last of which has no length; 0 means that each has one.
    let element = match (aggregation >> 4) & 0x03 {
        1 => reader.take(reader.remaining())?,
        _ => {
            let size = reader.leb128()?;
            reader.take(size)?
        }
    };
    let obu_forbidden_bit = element.first()? & 0x80 != 0;
    Some(!obu_forbidden_bit)
}

/// Reads octets; every method is `None` past the end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(|_| ())
    }

    /// At most four octets: no packet is longer than 2^28.
    fn leb128(&mut self) -> Option<usize> {
        let mut value = 0usize;
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(codec: Codec, payload: &[u8]) -> bool {
        inspect(codec, payload).is_ok_and(|i| i.keyframe_start)
    }

    /// A key-frame start stops being one (and never panics) when it is cut anywhere before `whole` octets.
    fn check(codec: Codec, rows: &[(&str, &[u8], bool)]) {
        for (name, payload, expect) in rows {
            assert_eq!(starts(codec, payload), *expect, "{codec} {name}: {payload:02x?}");
            for end in 0..payload.len() {
                let cut = payload.get(..end).expect("end is inside");
                let result = starts(codec, cut);
                assert!(!result || *expect, "{codec} {name} cut to {end} is a key frame");
            }
        }
        assert!(!starts(codec, &[]));
    }

    #[test]
    fn vp8() {
        check(
            Codec::Vp8,
            &[
                ("minimal key frame", &[0x10, 0x00], true),
                ("minimal inter frame", &[0x10, 0x01], false),
                ("continuation", &[0x00, 0x00], false),
                ("second partition", &[0x11, 0x00], false),
                ("no payload after the descriptor", &[0x10], false),
                ("short picture id", &[0x90, 0x80, 0x11, 0x00], true),
                ("long picture id", &[0x90, 0x80, 0x91, 0x22, 0x00], true),
                ("all fields", &[0x90, 0xf0, 0x91, 0x22, 0x07, 0x21, 0x00], true),
                ("all fields, inter frame", &[0x90, 0xf0, 0x91, 0x22, 0x07, 0x21, 0x01], false),
                ("all fields, no payload", &[0x90, 0xf0, 0x91, 0x22, 0x07, 0x21], false),
                ("TL0PICIDX without TID", &[0x90, 0x40, 0x07, 0x00], false),
            ],
        );
        assert!(inspect(Codec::Vp8, &[0x90, 0x40, 0x07, 0x00]).is_err());
        assert!(inspect(Codec::Vp8, &[0x90, 0x80, 0x91]).is_err());
        let long = inspect(Codec::Vp8, &[0x90, 0x80, 0x91, 0x22, 0x00]).unwrap().vp8.unwrap();
        assert!(long.picture_id_is_long && long.descriptor.picture_id() == Some(0x1122));
        let short = inspect(Codec::Vp8, &[0x90, 0x80, 0x11, 0x00]).unwrap().vp8.unwrap();
        assert!(!short.picture_id_is_long && short.descriptor.picture_id() == Some(0x11));
    }

    #[test]
    fn vp9() {
        check(
            Codec::Vp9,
            &[
                ("bare", &[0x08, 0x82], true),
                ("bare, nothing after", &[0x08], false),
                ("inter picture", &[0x48, 0x86], false),
                ("not the start of a frame", &[0x00, 0x82], false),
                ("long picture id, flexible", &[0x98, 0x81, 0x02, 0x82], true),
                ("layers, non-flexible: TL0PICIDX follows", &[0xa8, 0x05, 0x00, 0x33, 0x82], true),
                ("layers, flexible: no TL0PICIDX", &[0xb8, 0x05, 0x00, 0x82], true),
                ("spatial layer 1", &[0xa8, 0x05, 0x02, 0x33, 0x82], false),
                ("depends on a lower layer", &[0xa8, 0x05, 0x01, 0x33, 0x82], false),
                ("structure with one size", &[0x8a, 0x05, 0x10, 0x01, 0x40, 0x00, 0xf0, 0x82], true),
                // Two layers, sizes and a group of two pictures with 0 and 2 references.
                (
                    "structure with sizes and a group",
                    &[0x8a, 0x05, 0x38, 1, 64, 0, 240, 2, 128, 1, 224, 0x02, 0x00, 0x08, 0x01, 0x02, 0x82],
                    true,
                ),
                ("structure says more than there is", &[0x8a, 0x05, 0xf0, 0x01, 0x40, 0x82], false),
                ("group says more than there is", &[0x8a, 0x05, 0x08, 0xff, 0x00, 0x82], false),
            ],
        );
    }

    #[test]
    fn h264() {
        check(
            Codec::H264,
            &[
                ("single IDR", &[0x65, 0x88], true),
                ("single SPS", &[0x67, 0x42], true),
                ("single PPS", &[0x68, 0xce], false),
                ("single slice", &[0x41, 0x9a], false),
                ("a NAL header and nothing else", &[0x65], false),
                ("STAP-A of SPS and PPS", &[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xce], true),
                ("STAP-A of AUD and IDR", &[0x78, 0, 2, 0x09, 0x10, 0, 2, 0x65, 0x88], true),
                ("STAP-A of SEI and slice", &[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x41, 0x9a], false),
                ("STAP-A whose size lies", &[0x78, 0xff, 0xff, 0x67, 0x42], false),
                ("STAP-A with an empty unit", &[0x78, 0, 0, 0, 2, 0x67, 0x42], false),
                ("FU-A, first of an IDR", &[0x7c, 0x85, 0x88], true),
                ("FU-A, middle of an IDR", &[0x7c, 0x05, 0x88], false),
                ("FU-A, first of a slice", &[0x5c, 0x81, 0x9a], false),
                ("FU-A without data", &[0x7c, 0x85], false),
            ],
        );
    }

    #[test]
    fn av1() {
        check(
            Codec::Av1,
            &[
                ("N, one element", &[0x18, 0x0a, 0x0b], true),
                ("N, two elements", &[0x28, 0x02, 0x0a, 0x0b, 0x32], true),
                ("N, lengths everywhere", &[0x08, 0x02, 0x0a, 0x0b], true),
                ("N, two-octet length", &[0x08, 0x82, 0x00, 0x0a, 0x0b], true),
                ("N, last element continues in the next packet", &[0x58, 0x0a, 0x0b], true),
                ("no N", &[0x10, 0x32, 0x00], false),
                ("N with a continued element", &[0x98, 0x0a, 0x0b], false),
                ("length beyond the packet", &[0x28, 0x7f, 0x0a], false),
                ("length without an end", &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff], false),
                ("empty first element", &[0x28, 0x00, 0x0a], false),
                ("forbidden bit", &[0x18, 0x8a, 0x0b], false),
            ],
        );
    }

    #[test]
    fn codecs_without_inspection_never_start() {
        assert!(!starts(Codec::Opus, &[0x10, 0x00]));
        assert!(!starts(Codec::H266, &[0x65, 0x88]));
    }

    #[test]
    fn arbitrary_bytes_are_survived() {
        let mut random = fastrand::Rng::with_seed(0x5f);
        let mut payload = Vec::new();
        for _ in 0..40_000 {
            payload.clear();
            payload.resize_with(random.usize(0..40), || random.u8(..));
            for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
                let _ = inspect(codec, &payload);
            }
        }
    }
}
