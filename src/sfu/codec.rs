//! What a payload says about itself without being decoded: where key frames start, layers, sizes and counters.
//!
//! Works on what end-to-end encryption leaves clear: the payload descriptors, and the first octets of a VP8 key frame. Every
//! read is bounds-checked; bytes that make no sense are never a key frame. VP8: RFC 7741 §4.2 and RFC 6386 §9.1. VP9:
//! [`vp9`]. H.264: `h264`. AV1: the AV1 RTP payload specification of AOMedia, §4.4.

use str0m::format::Codec;
use str0m::rtp::Vp8Descriptor;

use super::{h264, vp9};

/// The facts of one video payload that forwarding needs.
#[derive(Debug, Clone, Copy)]
pub struct Inspection {
    /// The payload is the first packet of a key frame: a decoder that has seen nothing can start here.
    pub keyframe_start: bool,
    /// VP8's descriptor; `None` for the other codecs.
    pub vp8: Option<Vp8Fields>,
    /// VP9's descriptor; `None` for the other codecs, and when it is cut short.
    pub vp9: Option<vp9::Descriptor>,
    /// Width and height, when the codec's own header has them in the clear (VP8, H.264).
    pub size: Option<(u16, u16)>,
    /// The same by spatial layer, when VP9's descriptor has them.
    pub sizes: Option<vp9::Sizes>,
}

impl Inspection {
    fn of(keyframe_start: bool) -> Self {
        Inspection { keyframe_start, vp8: None, vp9: None, size: None, sizes: None }
    }
}

/// What a VP8 descriptor says.
#[derive(Debug, Clone, Copy)]
pub struct Vp8Fields {
    pub descriptor: Vp8Descriptor,
    /// The picture id takes 15 bits (else 7). Meaningless without a picture id.
    pub picture_id_is_long: bool,
    /// The first packet of a picture.
    pub starts: bool,
    /// N: no other picture needs this one.
    pub is_discardable: bool,
    /// TID; 0 when there is none.
    pub temporal: u8,
    /// Y: the picture needs nothing but the base layer's latest.
    pub is_sync: bool,
}

/// The payload's descriptor is cut short or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Inspects one video payload. Only VP8 can be [`Malformed`]: a descriptor without a frame behind it helps nobody.
///
/// A codec that is not known here never starts a key frame, so it is never forwarded.
pub fn inspect(codec: Codec, payload: &[u8]) -> Result<Inspection, Malformed> {
    match codec {
        Codec::Vp8 => inspect_vp8(payload),
        Codec::Vp9 => {
            let Some((vp9, sizes)) = vp9::Descriptor::parse(payload) else { return Ok(Inspection::of(false)) };
            Ok(Inspection { vp9: Some(vp9), sizes, ..Inspection::of(vp9.starts_keyframe()) })
        }
        Codec::H264 => {
            let facts = h264::inspect(payload).unwrap_or_default();
            Ok(Inspection { size: facts.size, ..Inspection::of(facts.keyframe_start) })
        }
        Codec::Av1 => Ok(Inspection::of(av1_starts_keyframe(payload).unwrap_or(false))),
        _ => Ok(Inspection::of(false)),
    }
}

fn inspect_vp8(payload: &[u8]) -> Result<Inspection, Malformed> {
    let descriptor = Vp8Descriptor::parse(payload).map_err(|_| Malformed)?;
    let keyframe_start = descriptor.starts_keyframe(payload);
    let (temporal, is_sync, length) = vp8_layer(payload).ok_or(Malformed)?;
    let flags = payload.first().copied().unwrap_or(0);
    let fields = Vp8Fields {
        descriptor,
        // The picture id, when there is one, is the third octet; its top bit M announces a second octet.
        picture_id_is_long: payload.get(2).is_some_and(|octet| octet & 0x80 != 0),
        starts: flags & 0x17 == 0x10,
        is_discardable: flags & 0x20 != 0,
        temporal,
        is_sync,
    };
    let size = if keyframe_start { payload.get(length..).and_then(vp8_size) } else { None };
    Ok(Inspection { vp8: Some(fields), size, ..Inspection::of(keyframe_start) })
}

/// TID, Y, and the length of the descriptor. `None`: cut short.
fn vp8_layer(payload: &[u8]) -> Option<(u8, bool, usize)> {
    let mut reader = Reader::new(payload);
    let (mut temporal, mut is_sync) = (0, false);
    if reader.octet()? & 0x80 != 0 {
        let present = reader.octet()?;
        if present & 0x80 != 0 && reader.octet()? & 0x80 != 0 {
            reader.octet()?;
        }
        if present & 0x40 != 0 {
            reader.octet()?;
        }
        if present & 0x30 != 0 {
            let octet = reader.octet()?;
            // T announces TID and Y; K alone leaves both out.
            if present & 0x20 != 0 {
                (temporal, is_sync) = (octet >> 6, octet & 0x20 != 0);
            }
        }
    }
    Some((temporal, is_sync, payload.len() - reader.remaining()))
}

/// Width and height of a key frame: behind the frame tag and the start code, 14 bits each.
fn vp8_size(frame: &[u8]) -> Option<(u16, u16)> {
    let [_, _, _, 0x9d, 0x01, 0x2a, width_low, width_high, height_low, height_high] = *frame.first_chunk::<10>()?
    else {
        return None;
    };
    let read = |low, high| u16::from_le_bytes([low, high]) & 0x3fff;
    let size = (read(width_low, width_high), read(height_low, height_high));
    (size.0 > 0 && size.1 > 0).then_some(size)
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
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Most significant octet first.
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.octet()?, self.octet()?]))
    }

    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    pub fn skip(&mut self, count: usize) -> Option<()> {
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
    fn vp8_layers_and_sizes() {
        // Payload, temporal layer, sync, first packet of the picture, discardable, size.
        type Row<'a> = (&'a [u8], u8, bool, bool, bool, Option<(u16, u16)>);
        let rows: &[Row<'_>] = &[
            (&[0x10, 0x01], 0, false, true, false, None),
            (&[0x11, 0x01], 0, false, false, false, None),
            (&[0xb0, 0xe0, 0x80, 0x01, 0x02, 0xa0, 0x01], 2, true, true, true, None),
            (&[0x80, 0x20, 0x40, 0x01], 1, false, false, false, None),
            (&[0x90, 0x10, 0xff, 0x01], 0, false, true, false, None),
            (&[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x41, 0], 0, false, true, false, Some((640, 480))),
            (&[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2b, 0x80, 0x02, 0xe0, 0x01], 0, false, true, false, None),
            (&[0x10, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0], 0, false, true, false, None),
            (&[0x10, 0x11, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01], 0, false, true, false, None),
        ];
        for (payload, temporal, is_sync, starts, is_discardable, size) in rows {
            let inspection = inspect(Codec::Vp8, payload).unwrap();
            let fields = inspection.vp8.unwrap();
            let got = (fields.temporal, fields.is_sync, fields.starts, fields.is_discardable, inspection.size);
            assert_eq!(got, (*temporal, *is_sync, *starts, *is_discardable, *size), "{payload:02x?}");
        }
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
