//! VP8 (RFC 7741): a frame is what stands behind the payload descriptors of its packets.

use super::video::{Depacketizer, Key, Whole};
use super::{Gathered, Unusable};
use crate::recording::feed::Packet;

#[derive(Debug, Default)]
pub(super) struct Vp8 {
    gathered: Gathered,
    key: Option<Key>,
}

impl Depacketizer for Vp8 {
    fn begin(&mut self, _: bool) {
        *self = Vp8::default();
    }

    fn push(&mut self, packet: &Packet) -> Result<(), Unusable> {
        let (starts, length) = descriptor(&packet.payload).ok_or(Unusable)?;
        let data = packet.payload.get(length..).filter(|data| !data.is_empty()).ok_or(Unusable)?;
        if starts != self.gathered.is_empty() {
            return Err(Unusable);
        }
        if starts {
            self.key = key(data)?;
        }
        self.gathered.push(&packet.payload, length..packet.payload.len())
    }

    fn is_keyframe(&self) -> bool {
        self.key.is_some()
    }

    fn finish(&mut self) -> Result<Option<Whole>, Unusable> {
        if self.gathered.is_empty() {
            return Ok(None);
        }
        Ok(Some(Whole { payload: self.gathered.take(), key: self.key.take() }))
    }
}

/// Whether it is of the first packet of a frame, and its length (§4.2). `None`: cut short.
fn descriptor(payload: &[u8]) -> Option<(bool, usize)> {
    let first = *payload.first()?;
    let mut length = 1;
    if first & 0x80 != 0 {
        let present = *payload.get(1)?;
        length = 2;
        if present & 0x80 != 0 {
            length += if payload.get(2)? & 0x80 != 0 { 2 } else { 1 };
        }
        length += usize::from(present & 0x40 != 0);
        length += usize::from(present & 0x30 != 0);
    }
    // S, and PID 0.
    Some((first & 0x17 == 0x10, length))
}

/// What a frame's first octets say, if it is a key frame (RFC 6386 §9.1).
fn key(frame: &[u8]) -> Result<Option<Key>, Unusable> {
    if frame.first().is_none_or(|octet| octet & 0x01 != 0) {
        return Ok(None);
    }
    let Some([_, _, _, 0x9d, 0x01, 0x2a, size @ ..]) = frame.first_chunk::<10>() else { return Err(Unusable) };
    let [width_low, width_high, height_low, height_high] = *size;
    // Two bits above each say how to scale it.
    let read = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let size = (read(width_low, width_high), read(height_low, height_high));
    if size.0 == 0 || size.1 == 0 {
        return Err(Unusable);
    }
    Ok(Some(Key { size: Some(size), private: Vec::new() }))
}
