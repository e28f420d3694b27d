//! H.264 (RFC 6184, packetization modes 0 and 1): an access unit is the NAL units of the packets of one RTP time.
//!
//! In a file each stands behind its length. Parameter sets go into the private data; others than those there are another
//! track, from the next IDR picture on.

use super::video::{Depacketizer, Key, Whole};
use super::{Fragments, Gathered, Unusable};
use crate::recording::feed::Packet;
use crate::webm::{avc, track::PRIVATE_MAX};

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const FILLER: u8 = 12;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

#[derive(Debug, Default)]
pub(super) struct H264 {
    unit: Unit,
    /// Parameter sets of the sender, by type and id; at most [`SETS_MAX`].
    sets: Vec<Vec<u8>>,
    /// They are not those of the last key frame.
    are_other: bool,
}

/// An access unit as it grows.
#[derive(Debug, Default)]
struct Unit {
    gathered: Gathered,
    /// The NAL unit that comes in fragments: its header, and what was there of it.
    open: Option<u8>,
    fragments: Fragments,
    follows_loss: bool,
    /// Its first slice is an IDR picture's, and the first of the picture. `None`: there was no slice yet.
    is_keyframe: Option<bool>,
    has_sps: bool,
}

impl Depacketizer for H264 {
    fn begin(&mut self, follows_loss: bool) {
        self.unit = Unit { follows_loss, ..Unit::default() };
    }

    fn push(&mut self, packet: &Packet) -> Result<(), Unusable> {
        let payload = &packet.payload;
        let head = *payload.first().ok_or(Unusable)?;
        match head & 0x1f {
            FU_A => return self.push_fragment(packet, head),
            _ if self.unit.open.is_some() => return Err(Unusable),
            1..STAP_A => {
                self.unit.fragments.push(payload, 1..payload.len())?;
                self.end_nal(head)?;
            }
            STAP_A => {
                let mut at = 1;
                while at < payload.len() {
                    let [high, low, nal] = *payload.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unusable)?;
                    let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
                    if end > payload.len() || end < at + 3 || !(1..STAP_A).contains(&(nal & 0x1f)) {
                        return Err(Unusable);
                    }
                    self.unit.fragments.push(payload, at + 3..end)?;
                    self.end_nal(nal)?;
                    at = end;
                }
            }
            _ => return Err(Unusable),
        }
        Ok(())
    }

    fn is_keyframe(&self) -> bool {
        let begins = || self.unit.has_sps || self.unit.open.is_some_and(|nal| nal & 0x1f == IDR);
        self.unit.is_keyframe.unwrap_or_else(begins)
    }

    fn finish(&mut self) -> Result<Option<Whole>, Unusable> {
        let mut unit = std::mem::take(&mut self.unit);
        if unit.open.is_some() {
            return Err(Unusable);
        }
        let Some(is_keyframe) = unit.is_keyframe else { return Ok(None) };
        let payload = unit.gathered.take();
        if !is_keyframe {
            // It may need sets that the file does not have.
            return if self.are_other { Err(Unusable) } else { Ok(Some(Whole { payload, key: None })) };
        }
        // What is missing may have been its parameter sets, the first of which this is.
        if unit.follows_loss && !unit.has_sps {
            return Err(Unusable);
        }
        let private = avc::private(self.sets.iter().map(Vec::as_slice)).filter(|p| p.len() <= PRIVATE_MAX);
        let private = private.ok_or(Unusable)?;
        let size = self.sets.iter().find_map(|nal| avc::size(nal));
        self.are_other = false;
        Ok(Some(Whole { payload, key: Some(Key { size, private }) }))
    }

    fn forget(&mut self) {
        self.sets.clear();
        self.are_other = true;
    }
}

impl H264 {
    /// §5.8.
    fn push_fragment(&mut self, packet: &Packet, indicator: u8) -> Result<(), Unusable> {
        let payload = &packet.payload;
        let head = *payload.get(1).ok_or(Unusable)?;
        let nal = indicator & 0xe0 | head & 0x1f;
        let (starts, ends) = (head & 0x80 != 0, head & 0x40 != 0);
        let is_next = if starts { self.unit.open.is_none() } else { self.unit.open == Some(nal) };
        if !is_next || !(1..STAP_A).contains(&(nal & 0x1f)) {
            return Err(Unusable);
        }
        self.unit.open = Some(nal);
        self.unit.fragments.push(payload, 2..payload.len())?;
        if ends {
            self.end_nal(nal)?;
        }
        Ok(())
    }

    /// A NAL unit with this header, and the fragments behind it, is whole.
    fn end_nal(&mut self, nal: u8) -> Result<(), Unusable> {
        let mut fragments = std::mem::take(&mut self.unit.fragments);
        self.unit.open = None;
        match nal & 0x1f {
            DELIMITER | FILLER => {}
            SPS | PPS => self.note_set(nal, &fragments)?,
            _ => self.unit.put(nal, &fragments)?,
        }
        // Its room is used again.
        fragments.clear();
        self.unit.fragments = fragments;
        Ok(())
    }

    fn note_set(&mut self, nal: u8, fragments: &Fragments) -> Result<(), Unusable> {
        if fragments.size >= SET_MAX {
            return Err(Unusable);
        }
        let set = [&[nal][..], &fragments.copy(0, fragments.size)].concat();
        let id = avc::set_id(&set).ok_or(Unusable)?;
        self.unit.has_sps |= nal & 0x1f == SPS;
        let name = |set: &[u8]| (set.first().map(|head| head & 0x1f), avc::set_id(set));
        let is_full = self.sets.len() >= SETS_MAX;
        match self.sets.iter_mut().find(|known| name(known) == (Some(nal & 0x1f), Some(id))) {
            Some(known) if *known == set => return Ok(()),
            Some(known) => *known = set,
            None if is_full => return Err(Unusable),
            None => self.sets.push(set),
        }
        self.are_other = true;
        Ok(())
    }
}

impl Unit {
    fn put(&mut self, nal: u8, fragments: &Fragments) -> Result<(), Unusable> {
        if (SLICE..=IDR).contains(&(nal & 0x1f)) && self.is_keyframe.is_none() {
            // first_mb_in_slice is 0: a one.
            let (_, [first]) = fragments.peek::<1>(0);
            self.is_keyframe = Some(nal & 0x1f == IDR && first & 0x80 != 0);
        }
        let [a, b, c, d] = u32::try_from(fragments.size + 1).map_err(|_| Unusable)?.to_be_bytes();
        self.gathered.push_own(&[a, b, c, d, nal])?;
        for (packet, range) in fragments.slices(0, fragments.size) {
            self.gathered.push(packet, range)?;
        }
        Ok(())
    }
}

/// Senders have one of each, or a few where they have layers.
const SETS_MAX: usize = 32;
/// Octets of a parameter set. With scaling lists it is a quarter of this.
const SET_MAX: usize = 1024;
