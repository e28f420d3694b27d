//! Redundant audio data (RFC 2198) where two sides of a forward differ: another payload type inside, no RED at all, or more of
//! it because the way to this subscriber loses packets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The newest frame of a RED payload; `None` when it is malformed.
pub fn primary(payload: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    let mut redundant = 0usize;
    loop {
        let first = *payload.get(at)?;
        if first & 0x80 == 0 {
            at += 1;
            break;
        }
        let header = payload.get(at..at + 4)?;
        redundant += usize::from(header[2] & 0x03) << 8 | usize::from(header[3]);
        at += 4;
    }
    payload.get(at.checked_add(redundant)?..)
}

/// The same payload with the block payload type `from` replaced by `to`. Copies: the numbers stand inside the payload,
/// and they differ only between browsers that number Opus differently. `None` when it is malformed.
pub fn renumber(payload: &[u8], from: u8, to: u8) -> Option<Arc<[u8]>> {
    primary(payload)?;
    let mut copy: Arc<[u8]> = payload.into();
    let bytes = Arc::get_mut(&mut copy)?;
    let mut at = 0;
    loop {
        let first = *bytes.get(at)?;
        if first & 0x7f == from {
            bytes[at] = first & 0x80 | to & 0x7f;
        }
        if first & 0x80 == 0 {
            return Some(copy);
        }
        at += 4;
    }
}

/// Makes redundant payloads of its own for one outgoing line, deeper than what the publisher sends: a frame is lost only when
/// every packet that carries it is. Opus is not retransmitted, since publishers negotiate no RTX for it.
///
/// Copies the frames that it repeats: they are small, and have to stand in one payload (RFC 2198 §3).
#[derive(Debug, Default)]
pub struct Redundancy {
    /// Packets in which a frame is repeated, 0 to [`Redundancy::DEPTH_MAX`]. 0: payloads pass as they come.
    depth: usize,
    /// The latest frames with their RTP times, ascending; at most [`Redundancy::KEPT`].
    frames: VecDeque<(u32, Arc<[u8]>)>,
    falls_at: Option<Instant>,
}

impl Redundancy {
    pub const DEPTH_MAX: usize = 3;
    /// Some more than are repeated, for packets that come late.
    const KEPT: usize = 8;

    /// Chooses the depth by the share of packets that get lost on the way to the client. Deeper at once; back only after
    /// `FALL_AFTER` of better times, since losses come in groups.
    pub fn on_loss(&mut self, now: Instant, loss: f32) {
        let depth = match loss {
            _ if loss >= LOSS_DEEPEST => Redundancy::DEPTH_MAX,
            _ if loss >= LOSS_DEEP => 2,
            _ => 0,
        };
        if depth >= self.depth || now >= *self.falls_at.get_or_insert(now + FALL_AFTER) {
            self.depth = depth;
            self.falls_at = None;
        }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Notes what one packet carries and makes the payload to send in its place. `payload` is RFC 2198 if `is_red`; `pt` is
    /// the number that the receiver gives to the codec inside. `None`: the payload makes no sense.
    pub fn protect(&mut self, time: u32, payload: &Arc<[u8]>, is_red: bool, pt: u8) -> Option<Arc<[u8]>> {
        let frame = if is_red {
            // What the publisher repeats may be what was lost on its way here.
            for block in blocks(payload)? {
                self.note(time.wrapping_sub(block.offset), || block.data.into());
            }
            primary(payload)?.into()
        } else {
            payload.clone()
        };
        self.note(time, || frame.clone());

        let repeated = self.frames.iter().filter(|(other, frame)| {
            let age = time.wrapping_sub(*other);
            (1..=OFFSET_MAX).contains(&age) && frame.len() <= LENGTH_MAX
        });
        let skipped = repeated.clone().count().saturating_sub(self.depth);
        let repeated = repeated.skip(skipped);
        let size: usize = repeated.clone().map(|(_, frame)| 4 + frame.len()).sum();
        if size + 1 + frame.len() > PAYLOAD_MAX {
            return Some([&[pt & 0x7f][..], &frame].concat().into());
        }
        let mut out = Vec::with_capacity(size + 1 + frame.len());
        for (other, frame) in repeated.clone() {
            let head = u32::from(0x80 | pt) << 24 | time.wrapping_sub(*other) << 10 | frame.len() as u32;
            out.extend(head.to_be_bytes());
        }
        out.push(pt & 0x7f);
        for (_, frame) in repeated {
            out.extend_from_slice(frame);
        }
        out.extend_from_slice(&frame);
        Some(out.into())
    }

    fn note(&mut self, time: u32, frame: impl FnOnce() -> Arc<[u8]>) {
        let behind =
            self.frames.iter().rev().take_while(|(other, _)| other.wrapping_sub(time).cast_signed() > 0).count();
        let at = self.frames.len() - behind;
        if at.checked_sub(1).and_then(|before| self.frames.get(before)).is_some_and(|(other, _)| *other == time) {
            return;
        }
        self.frames.insert(at, (time, frame()));
        if self.frames.len() > Redundancy::KEPT {
            self.frames.pop_front();
        }
    }
}

/// A block that repeats an earlier frame.
struct Block<'a> {
    /// Before the packet's own RTP time.
    offset: u32,
    data: &'a [u8],
}

/// The blocks before the newest, oldest first; `None` when the payload is malformed.
fn blocks(payload: &[u8]) -> Option<impl Iterator<Item = Block<'_>>> {
    let mut count = 0;
    let mut length = 0;
    while payload.get(count * 4)? & 0x80 != 0 {
        let head = payload.get(count * 4..count * 4 + 4)?;
        length += usize::from(head[2] & 0x03) << 8 | usize::from(head[3]);
        count += 1;
    }
    let begin = count * 4 + 1;
    payload.get(begin..begin + length)?;
    let mut at = begin;
    Some((0..count).filter_map(move |index| {
        let head: [u8; 4] = payload.get(index * 4..index * 4 + 4)?.try_into().ok()?;
        let head = u32::from_be_bytes(head);
        let length = (head & 0x3ff) as usize;
        let data = payload.get(at..at + length)?;
        at += length;
        Some(Block { offset: head >> 10 & OFFSET_MAX, data })
    }))
}

/// From 2 % on every frame is sent three times, so that 0.1 % is lost at 10 %; from 14 % on four times (0.2 % at 20 %).
const LOSS_DEEP: f32 = 0.02;
const LOSS_DEEPEST: f32 = 0.14;
const FALL_AFTER: Duration = Duration::from_secs(10);
/// 14 bits (RFC 2198 §3).
const OFFSET_MAX: u32 = 0x3fff;
/// 10 bits.
const LENGTH_MAX: usize = 0x3ff;
/// What fits a datagram with all its headers.
const PAYLOAD_MAX: usize = 1100;

#[cfg(test)]
mod tests {
    use super::*;

    /// One redundant block of 3 bytes, 960 ticks old, payload type 111, then a primary of 2 bytes.
    const RED: [u8; 10] = [0x80 | 111, 0x0f, 0x00, 3, 111, 1, 2, 3, 8, 9];

    #[test]
    fn primary_is_the_last_block() {
        assert_eq!(primary(&RED), Some(&[8u8, 9][..]));
        assert_eq!(primary(&[111, 7]), Some(&[7u8][..]));
        assert_eq!(primary(&[111]), Some(&[][..]));
    }

    #[test]
    fn malformed_is_refused() {
        for cut in [0, 1, 2, 3, 4, 7] {
            assert_eq!(primary(&RED[..cut]), None, "cut at {cut}");
        }
        assert_eq!(renumber(&RED[..5], 111, 109), None);
    }

    #[test]
    fn every_block_is_renumbered_and_the_frames_stay() {
        let renumbered = renumber(&RED, 111, 109).unwrap();
        assert_eq!(renumbered[..], [0x80 | 109, 0x0f, 0x00, 3, 109, 1, 2, 3, 8, 9]);
        assert_eq!(renumber(&RED, 96, 97).unwrap()[..], RED);
    }

    #[test]
    fn the_depth_follows_the_loss_and_falls_late() {
        let start = Instant::now();
        let mut red = Redundancy::default();
        for (seconds, loss, depth) in [
            (0, 0.0, 0),
            (1, 0.05, 2),
            (2, 0.2, 3),
            (3, 0.0, 3),
            (12, 0.0, 3),
            (13, 0.0, 0),
            (14, 0.1, 2),
            (15, 0.3, 3),
        ] {
            red.on_loss(start + Duration::from_secs(seconds), loss);
            assert_eq!(red.depth(), depth, "after {seconds} s at {loss}");
        }
    }

    /// What a receiver finds in a payload: offsets and frames, the newest last.
    fn read(payload: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let newest = (0, primary(payload).unwrap().to_vec());
        blocks(payload).unwrap().map(|b| (b.offset, b.data.to_vec())).chain([newest]).collect()
    }

    #[test]
    fn frames_are_repeated_as_deep_as_chosen() {
        let mut red = Redundancy { depth: 2, ..Redundancy::default() };
        let mut time = u32::MAX - 960;
        let mut last = Vec::new();
        for n in 0..5u8 {
            last = read(&red.protect(time, &[n; 3].into(), false, 111).unwrap());
            time = time.wrapping_add(960);
        }
        assert_eq!(last, [(1920, vec![2; 3]), (960, vec![3; 3]), (0, vec![4; 3])]);
    }

    #[test]
    fn what_the_publisher_repeats_fills_what_was_lost_before() {
        let mut red = Redundancy { depth: 2, ..Redundancy::default() };
        red.protect(0, &[1].into(), false, 111).unwrap();
        // The packet at 960 never came; the one at 1920 repeats it.
        let payload: Arc<[u8]> = [0x80 | 100, 0x0f, 0x00, 1, 100, 2, 3].into();
        let made = red.protect(1920, &payload, true, 111).unwrap();
        assert_eq!(read(&made), [(1920, vec![1]), (960, vec![2]), (0, vec![3])]);
        assert_eq!(made[0], 0x80 | 111);
    }

    #[test]
    fn a_late_packet_repeats_only_what_is_older() {
        let mut red = Redundancy { depth: 2, ..Redundancy::default() };
        for time in [0, 1920, 2880] {
            red.protect(time, &[time as u8].into(), false, 111).unwrap();
        }
        let late = red.protect(960, &[9].into(), false, 111).unwrap();
        assert_eq!(read(&late), [(960, vec![0]), (0, vec![9])]);
        let next = red.protect(3840, &[7].into(), false, 111).unwrap();
        assert_eq!(read(&next).len(), 3);
    }

    #[test]
    fn after_a_pause_nothing_old_is_repeated() {
        let mut red = Redundancy { depth: 3, ..Redundancy::default() };
        red.protect(0, &[1].into(), false, 111).unwrap();
        assert_eq!(read(&red.protect(48_000, &[2].into(), false, 111).unwrap()), [(0, vec![2])]);
        // What a RED head has no room for is not repeated either.
        red.protect(48_960, &vec![3; 1024].into(), false, 111).unwrap();
        assert_eq!(read(&red.protect(49_920, &[4].into(), false, 111).unwrap()), [(1920, vec![2]), (0, vec![4])]);
    }

    #[test]
    fn malformed_redundancy_is_refused() {
        let mut red = Redundancy { depth: 2, ..Redundancy::default() };
        for cut in [0, 1, 3, 4, 5, 7] {
            let payload: Arc<[u8]> = RED[..cut].into();
            assert_eq!(red.protect(0, &payload, true, 111), None, "cut at {cut}");
        }
    }
}
