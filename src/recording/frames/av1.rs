//! AV1 (the RTP payload format of AOMedia): a temporal unit is the OBUs of the packets of one RTP time.
//!
//! In RTP an OBU has no size and may be spread over packets; in a file it has one and is whole. Temporal delimiters, tile
//! lists and padding have no place in a file. Layers are kept as they come.

use super::video::{Depacketizer, Key, Whole};
use super::{Fragments, Gathered, Unusable};
use crate::recording::feed::Packet;
use crate::webm::av1::{self, Obu};

#[derive(Debug, Default)]
pub(super) struct Av1 {
    unit: Unit,
    /// The payload of the last key frame's sequence header.
    sequence: Option<Vec<u8>>,
}

/// A temporal unit as it grows.
#[derive(Debug, Default)]
struct Unit {
    gathered: Gathered,
    /// The OBU that the last packet did not complete.
    open: Fragments,
    /// The payload of the sequence header in it.
    sequence: Option<Vec<u8>>,
    /// Whether the first frame is a key frame that is shown, behind a sequence header. `None`: there was none yet.
    is_keyframe: Option<bool>,
}

impl Depacketizer for Av1 {
    fn begin(&mut self, _: bool) {
        self.unit = Unit::default();
    }

    fn push(&mut self, packet: &Packet) -> Result<(), Unusable> {
        let payload = &packet.payload;
        let aggregation = *payload.first().ok_or(Unusable)?;
        let (continues, is_continued) = (aggregation & 0x80 != 0, aggregation & 0x40 != 0);
        if continues == self.unit.open.is_empty() {
            return Err(Unusable);
        }
        // W: how many elements there are, the last of which has no size; 0: each has one.
        let count = usize::from(aggregation >> 4 & 0x03);
        let (mut at, mut index) = (1, 0);
        while at < payload.len() {
            index += 1;
            let end = if index == count {
                payload.len()
            } else {
                let (size, length) = size(payload.get(at..).unwrap_or_default()).ok_or(Unusable)?;
                at += length;
                at.checked_add(size).filter(|end| *end <= payload.len()).ok_or(Unusable)?
            };
            self.unit.open.push(payload, at..end)?;
            at = end;
            if at < payload.len() || !is_continued {
                self.unit.end_obu()?;
            }
        }
        if index == 0 || index < count || (is_continued && self.unit.open.is_empty()) {
            return Err(Unusable);
        }
        Ok(())
    }

    /// A marker should be there, but need not (§4.2: the last packet is followed by one with another time).
    fn may_be_whole(&self) -> bool {
        self.unit.open.is_empty() && self.unit.is_keyframe.is_some()
    }

    fn is_keyframe(&self) -> bool {
        self.unit.sequence.is_some() && self.unit.is_keyframe != Some(false)
    }

    fn finish(&mut self) -> Result<Option<Whole>, Unusable> {
        let mut unit = std::mem::take(&mut self.unit);
        if !unit.open.is_empty() {
            return Err(Unusable);
        }
        let Some(is_keyframe) = unit.is_keyframe else { return Ok(None) };
        let is_other = unit.sequence.is_some() && unit.sequence != self.sequence;
        let mut key = None;
        if let (true, Some(sequence)) = (is_keyframe, unit.sequence) {
            let header = [&[SEQUENCE_HEADER][..], &sequence].concat();
            let (private, facts) = av1::private(&header).ok_or(Unusable)?;
            key = Some(Key { size: Some((facts.width, facts.height)), private });
            self.sequence = Some(sequence);
        } else if is_other {
            // It begins with a key frame, and there is none.
            return Err(Unusable);
        }
        Ok(Some(Whole { payload: unit.gathered.take(), key }))
    }

    fn forget(&mut self) {
        self.sequence = None;
    }
}

impl Unit {
    /// The open element is whole. It is one OBU; some senders leave their sizes in and put several there.
    fn end_obu(&mut self) -> Result<(), Unusable> {
        let open = std::mem::take(&mut self.open);
        let (mut at, mut obus) = (0, 0);
        while at < open.size {
            obus += 1;
            if obus > OBUS_MAX {
                return Err(Unusable);
            }
            let (count, head) = open.peek::<{ Obu::HEAD_MAX }>(at);
            let (obu, length, size) = head.get(..count).and_then(Obu::parse_head).ok_or(Unusable)?;
            let start = at + length;
            let end = match size {
                Some(size) => start.checked_add(size).filter(|end| *end <= open.size).ok_or(Unusable)?,
                None => open.size,
            };
            self.put(&open, &obu, start, end)?;
            at = end;
        }
        // Its room is used again.
        self.open = open;
        self.open.clear();
        Ok(())
    }

    /// Takes over an OBU whose payload is from `start` to `end`.
    fn put(&mut self, open: &Fragments, obu: &Obu<'_>, start: usize, end: usize) -> Result<(), Unusable> {
        if !obu.is_kept() {
            return Ok(());
        }
        if obu.is_sequence_header() && self.sequence.is_none() {
            if end - start > SEQUENCE_MAX {
                return Err(Unusable);
            }
            self.sequence = Some(open.copy(start, end));
        }
        if obu.kind() == TILE_GROUP && self.is_keyframe.is_none() {
            return Err(Unusable);
        }
        if obu.is_frame_header() && self.is_keyframe.is_none() {
            let (count, [first]) = open.peek::<1>(start);
            let is_keyframe = count == 1 && end > start && av1::is_keyframe(first);
            self.is_keyframe = Some(is_keyframe && self.sequence.is_some());
        }
        let size = u32::try_from(end - start).map_err(|_| Unusable)?;
        self.gathered.push_own(&obu.prefix(size))?;
        for (packet, range) in open.slices(start, end) {
            self.gathered.push(packet, range)?;
        }
        Ok(())
    }
}

/// A size in groups of seven bits (AV1 §4.10.5), and how many octets it takes. No packet is longer than 2^28.
fn size(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, octet) in bytes.iter().enumerate().take(4) {
        value |= usize::from(octet & 0x7f) << (7 * index);
        if octet & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// obu_type of tiles behind a frame header.
const TILE_GROUP: u8 = 4;
/// The first octet of a sequence header OBU without a size.
const SEQUENCE_HEADER: u8 = 0x08;
/// In one element, where there should be one: each is looked for from the beginning of the element.
const OBUS_MAX: usize = 64;
/// Octets. With operating points for every layer it is a tenth of this.
const SEQUENCE_MAX: usize = 1024;
