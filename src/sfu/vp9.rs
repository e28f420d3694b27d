//! VP9's payload descriptor (RFC 9628 §4.2), which end-to-end encryption leaves clear.

use std::sync::Arc;

use super::codec::Reader;

/// What a VP9 payload says before the frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    pub picture_id: Option<u16>,
    /// The picture id takes 15 bits (else 7). Meaningless without a picture id.
    pub picture_id_is_long: bool,
    /// P: the frame needs earlier pictures.
    pub is_predicted: bool,
    /// B: the first packet of a layer's frame.
    pub starts: bool,
    /// E: the last packet of a layer's frame.
    pub ends: bool,
    pub spatial: u8,
    pub temporal: u8,
    /// U: what follows in higher temporal layers needs nothing from before this picture in them.
    pub is_switching_point: bool,
    /// D: the frame needs the next lower spatial layer of its picture.
    pub needs_lower: bool,
    /// TL0PICIDX and where it is.
    pub tl0_pic_idx: Option<(u8, usize)>,
    /// Something follows the descriptor.
    pub has_payload: bool,
}

/// Width and height by spatial layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    of: [(u16, u16); 8],
    count: u8,
}

impl Sizes {
    pub fn as_slice(&self) -> &[(u16, u16)] {
        self.of.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

impl Descriptor {
    /// The descriptor, and the sizes of the spatial layers when it has them. `None`: cut short.
    pub fn parse(payload: &[u8]) -> Option<(Descriptor, Option<Sizes>)> {
        const I: u8 = 0x80;
        const P: u8 = 0x40;
        const L: u8 = 0x20;
        const F: u8 = 0x10;
        const B: u8 = 0x08;
        const E: u8 = 0x04;
        const V: u8 = 0x02;

        let mut reader = Reader::new(payload);
        let flags = reader.octet()?;
        let mut descriptor = Descriptor {
            picture_id: None,
            picture_id_is_long: false,
            is_predicted: flags & P != 0,
            starts: flags & B != 0,
            ends: flags & E != 0,
            spatial: 0,
            temporal: 0,
            is_switching_point: false,
            needs_lower: false,
            tl0_pic_idx: None,
            has_payload: false,
        };
        let mut sizes = None;
        if flags & I != 0 {
            let high = reader.octet()?;
            descriptor.picture_id_is_long = high & 0x80 != 0;
            let value = u16::from(high & 0x7f);
            let is_long = descriptor.picture_id_is_long;
            descriptor.picture_id = Some(if is_long { value << 8 | u16::from(reader.octet()?) } else { value });
        }
        if flags & L != 0 {
            let layer = reader.octet()?;
            descriptor.temporal = layer >> 5;
            descriptor.is_switching_point = layer & 0x10 != 0;
            descriptor.spatial = (layer >> 1) & 0x07;
            descriptor.needs_lower = layer & 0x01 != 0;
            if flags & F == 0 {
                let at = payload.len() - reader.remaining();
                descriptor.tl0_pic_idx = Some((reader.octet()?, at));
            }
        }
        if flags & (F | P) == F | P {
            // Up to three references; the lowest bit of each says that another follows.
            for _ in 0..REFERENCES_MAX {
                if reader.octet()? & 0x01 == 0 {
                    break;
                }
            }
        }
        if flags & V != 0 {
            sizes = scalability_structure(&mut reader)?;
        }
        descriptor.has_payload = reader.remaining() > 0;
        Some((descriptor, sizes))
    }

    /// The payload is the first packet of a picture with which a decoder that has seen nothing can start.
    pub fn starts_keyframe(&self) -> bool {
        self.starts && !self.is_predicted && self.spatial == 0 && !self.needs_lower && self.has_payload
    }

    /// A copy of the payload with other counters, each of the width it has. Costs an allocation and the copy.
    pub fn patched(&self, payload: &[u8], picture_id: Option<u16>, tl0_pic_idx: Option<u8>) -> Arc<[u8]> {
        let mut copy: Arc<[u8]> = payload.into();
        let Some(bytes) = Arc::get_mut(&mut copy) else { return copy };
        let mut put = |at: usize, value: u8| {
            if let Some(octet) = bytes.get_mut(at) {
                *octet = value;
            }
        };
        if let (Some(value), Some(_)) = (picture_id, self.picture_id) {
            if self.picture_id_is_long {
                put(1, 0x80 | (value >> 8) as u8);
                put(2, value as u8);
            } else {
                put(1, value as u8 & 0x7f);
            }
        }
        if let (Some(value), Some((_, at))) = (tl0_pic_idx, self.tl0_pic_idx) {
            put(at, value);
        }
        copy
    }
}

/// Reads over the structure; its sizes when it has them.
fn scalability_structure(reader: &mut Reader<'_>) -> Option<Option<Sizes>> {
    let head = reader.octet()?;
    let mut sizes = None;
    if head & 0x10 != 0 {
        let mut found = Sizes { count: (head >> 5) + 1, ..Sizes::default() };
        for size in found.of.iter_mut().take(usize::from(found.count)) {
            *size = (reader.u16()?, reader.u16()?);
        }
        sizes = Some(found);
    }
    if head & 0x08 != 0 {
        for _ in 0..reader.octet()? {
            let picture = reader.octet()?;
            reader.skip(usize::from((picture >> 2) & 0x03))?;
        }
    }
    Some(sizes)
}

/// References of one frame (RFC 9628 §4.2, P_DIFF).
const REFERENCES_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields() {
        // I, P, L, no F, B, E; long picture id; T 2, U, S 1, D; TL0PICIDX.
        let parsed = Descriptor::parse(&[0xec, 0x81, 0x02, 0x53, 0x77, 0xaa]);
        let expect = Descriptor {
            picture_id: Some(0x102),
            picture_id_is_long: true,
            is_predicted: true,
            starts: true,
            ends: true,
            spatial: 1,
            temporal: 2,
            is_switching_point: true,
            needs_lower: true,
            tl0_pic_idx: Some((0x77, 4)),
            has_payload: true,
        };
        assert_eq!(parsed, Some((expect, None)));
    }

    #[test]
    fn references_end_where_they_say() {
        for (payload, has_payload) in [
            (&[0x58_u8, 0x03, 0x05, 0x06, 0xaa][..], true),
            (&[0x58, 0x03, 0x05, 0x07, 0xaa], true),
            (&[0x58, 0x02, 0xaa], true),
            (&[0x58, 0x02], false),
        ] {
            assert_eq!(Descriptor::parse(payload).map(|(d, _)| d.has_payload), Some(has_payload), "{payload:02x?}");
        }
        assert_eq!(Descriptor::parse(&[0x58, 0x03, 0x05]), None, "another was announced");
    }

    #[test]
    fn structure_has_sizes() {
        let payload = [0x8a, 0x05, 0x38, 1, 64, 0, 240, 2, 128, 1, 224, 0x02, 0x00, 0x08, 0x01, 0x02, 0x82];
        let sizes = Descriptor::parse(&payload).unwrap().1.unwrap();
        assert_eq!(sizes.as_slice(), [(320, 240), (640, 480)]);
        assert_eq!(Descriptor::parse(&payload[..9]), None);
    }

    #[test]
    fn a_patch_changes_counters_only() {
        for payload in [&[0xec_u8, 0x81, 0x02, 0x53, 0x77, 0xaa][..], &[0xec, 0x11, 0x53, 0x77, 0xaa]] {
            let (descriptor, _) = Descriptor::parse(payload).unwrap();
            let patched = descriptor.patched(payload, Some(0x45), Some(9));
            let (read, _) = Descriptor::parse(&patched).unwrap();
            let tl0_pic_idx = descriptor.tl0_pic_idx.map(|(_, at)| (9, at));
            assert_eq!(read, Descriptor { picture_id: Some(0x45), tl0_pic_idx, ..descriptor });
            assert_eq!(*descriptor.patched(payload, None, None), *payload);
        }
        let bare = [0x08, 0x82];
        assert_eq!(*Descriptor::parse(&bare).unwrap().0.patched(&bare, Some(1), Some(1)), bare);
    }
}
