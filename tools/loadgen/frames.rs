//! When the first picture could be shown: the first key frame of a VP8 track of which every packet has come.

use std::collections::{BTreeSet, VecDeque};

use str0m::rtp::Vp8Descriptor;

/// Looks at the packets of one track of one publisher until its first key frame is complete.
#[derive(Debug, Clone, Default)]
pub struct FirstKeyFrame {
    /// By RTP timestamp, in the order in which they came.
    frames: VecDeque<(u32, Frame)>,
    is_complete: bool,
}

#[derive(Debug, Clone, Default)]
struct Frame {
    /// Number of the packet with which it begins, if it is a key frame.
    first: Option<u64>,
    /// Number of the packet with the marker.
    last: Option<u64>,
    seen: BTreeSet<u64>,
}

impl FirstKeyFrame {
    /// True once: with the packet that completes the first key frame. `number` is the extended sequence number.
    pub fn on_packet(&mut self, number: u64, rtp_time: u32, marker: bool, payload: &[u8]) -> bool {
        if self.is_complete {
            return false;
        }
        let index = self.frames.iter().position(|(time, _)| *time == rtp_time).unwrap_or_else(|| {
            if self.frames.len() == FRAMES_MAX {
                self.frames.pop_front();
            }
            self.frames.push_back((rtp_time, Frame::default()));
            self.frames.len() - 1
        });
        let frame = &mut self.frames[index].1;
        frame.seen.insert(number);
        if Vp8Descriptor::parse(payload).is_ok_and(|descriptor| descriptor.starts_keyframe(payload)) {
            frame.first = Some(number);
        }
        if marker {
            frame.last = Some(number);
        }
        self.is_complete = frame.is_complete_key();
        if self.is_complete {
            self.frames = VecDeque::new();
        }
        self.is_complete
    }
}

impl Frame {
    fn is_complete_key(&self) -> bool {
        let Some((first, last)) = self.first.zip(self.last) else { return false };
        (first..=last).all(|number| self.seen.contains(&number))
    }
}

/// A second of video: no packet is sent again later than that.
const FRAMES_MAX: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = &[0x10, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];
    const DELTA: &[u8] = &[0x10, 0x11, 0x02, 0x00];
    const REST: &[u8] = &[0x00, 0x55, 0x55];

    type Row<'a> = (u64, u32, bool, &'a [u8]);

    fn check(packets: &[Row<'_>], expected: &[bool]) {
        let mut first = FirstKeyFrame::default();
        let found: Vec<bool> =
            packets.iter().map(|(n, time, marker, p)| first.on_packet(*n, *time, *marker, p)).collect();
        assert_eq!(found, expected, "{packets:?}");
    }

    #[test]
    fn a_key_frame_is_complete_with_its_last_packet_whichever_that_is() {
        check(&[(5, 9, false, KEY), (6, 9, false, REST), (7, 9, true, REST)], &[false, false, true]);
        check(&[(7, 9, true, REST), (5, 9, false, KEY), (6, 9, false, REST)], &[false, false, true]);
        check(&[(5, 9, true, KEY), (6, 10, true, KEY)], &[true, false]);
        // A packet that was lost comes after the next frame has begun.
        check(
            &[(5, 9, false, KEY), (7, 9, true, REST), (8, 10, true, DELTA), (6, 9, false, REST)],
            &[false, false, false, true],
        );
    }

    #[test]
    fn other_frames_are_none_to_begin_with() {
        check(&[(4, 8, true, DELTA), (5, 9, false, REST), (6, 9, true, REST)], &[false; 3]);
        check(&[(4, 8, true, DELTA), (5, 9, false, KEY), (6, 9, true, REST)], &[false, false, true]);
        check(&[(5, 9, false, KEY), (6, 10, true, REST), (7, 10, true, DELTA)], &[false; 3]);
    }

    #[test]
    fn little_is_kept() {
        let mut first = FirstKeyFrame::default();
        for n in 0..1000 {
            assert!(!first.on_packet(n, n as u32, true, DELTA));
            assert!(first.frames.len() <= FRAMES_MAX);
        }
        assert!(first.on_packet(1000, 1000, true, KEY));
        assert!(first.frames.is_empty());
    }
}
