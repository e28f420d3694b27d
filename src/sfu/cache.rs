//! The packets of one encoding since its last key frame, so that whoever comes later has a picture at once and the publisher
//! is not asked for another key frame. Payloads are shared, not copied.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::{Frame, Point};
use super::held::Content;
use super::rewrite::Numbers;

/// One kept packet.
#[derive(Debug, Clone)]
pub struct Cached {
    pub numbers: Numbers,
    pub frame: Frame,
    pub content: Content,
}

/// How much of a group is to be sent, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub octets: usize,
    pub pictures: usize,
}

/// A key frame and all that followed, in order.
#[derive(Debug, Default)]
pub struct Group {
    /// The first is the first packet of a key frame.
    packets: VecDeque<Cached>,
    bytes: usize,
    /// Since when something is missing that came not yet.
    missing_since: Option<Instant>,
}

impl Group {
    /// Takes a packet of this number and so many octets. `starts`: a group begins with it.
    pub fn push(
        &mut self,
        now: Instant,
        starts: bool,
        (seq, bytes): (u64, usize),
        bytes_max: usize,
        packet: impl FnOnce() -> Cached,
    ) {
        if starts {
            self.clear();
        } else if self.packets.front().is_none_or(|first| seq <= first.numbers.seq) {
            return;
        }
        if self.bytes + bytes > bytes_max || self.packets.len() >= PACKETS_MAX {
            self.clear();
            return;
        }
        self.bytes += bytes;
        let place = match self.packets.back() {
            Some(last) if last.numbers.seq > seq => self.packets.partition_point(|p| p.numbers.seq < seq),
            _ => self.packets.len(),
        };
        self.packets.insert(place, packet());
        if self.missing() == 0 {
            self.missing_since = None;
        } else if now.saturating_duration_since(*self.missing_since.get_or_insert(now)) > MISSING_MAX {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.packets.clear();
        self.bytes = 0;
        self.missing_since = None;
    }

    /// In order; empty when there is nothing of use.
    pub fn packets(&self, now: Instant) -> impl DoubleEndedIterator<Item = &Cached> + Clone {
        let is_lost = self.missing_since.is_some_and(|since| now.saturating_duration_since(since) > MISSING_MAX)
            || self.missing() > HOLES_MAX;
        self.packets.iter().filter(move |_| !is_lost)
    }

    /// How much belongs to a point. `None`: there is nothing of use.
    pub fn extent(&self, now: Instant, point: Point) -> Option<Extent> {
        let mut extent = Extent { octets: 0, pictures: 0 };
        let mut time = None;
        for packet in self.packets(now).filter(|p| p.frame.present & point.bit() != 0) {
            extent.octets += packet.content.payload.len();
            if time.replace(packet.numbers.time) != Some(packet.numbers.time) {
                extent.pictures += 1;
            }
        }
        (extent.pictures > 0).then_some(extent)
    }

    /// How many packets between the first and the last are not there.
    fn missing(&self) -> u64 {
        let (Some(first), Some(last)) = (self.packets.front(), self.packets.back()) else { return 0 };
        (last.numbers.seq - first.numbers.seq + 1).saturating_sub(self.packets.len() as u64)
    }
}

/// Packets are small where a picture hardly changes, so that octets alone are no bound. Half a minute at 60 a second.
const PACKETS_MAX: usize = 2048;
/// What is missing for longer was lost for good: a retransmission takes a round trip, and another one when it is lost too.
const MISSING_MAX: Duration = Duration::from_millis(600);
/// More than this is missing: the publisher was gone for a while. A receiver could only wait for what will not come.
pub const HOLES_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use str0m::format::Codec;
    use str0m::rtp::ExtensionValues;

    use super::*;

    fn push(group: &mut Group, now: Instant, seq: u64, starts: bool) {
        let numbers = Numbers {
            seq,
            time: seq as u32 * 3000,
            clock_rate: 90_000,
            arrival: now,
            vp8: None,
            vp9: None,
            frame_number: None,
        };
        let content = Content {
            ssrc: 1,
            codec: Codec::Vp8,
            red: false,
            inner_pt: 96.into(),
            marker: true,
            payload: Arc::from([0; 10]),
            ext: ExtensionValues::default(),
        };
        let frame = Frame::plain(starts, true);
        group.push(now, starts, (seq, 10), 1 << 20, || Cached { numbers, frame, content });
    }

    #[test]
    fn what_has_a_large_hole_is_of_no_use_until_it_is_filled() {
        let now = Instant::now();
        let mut group = Group::default();
        for seq in 0..5 {
            push(&mut group, now, seq, seq == 0);
        }
        push(&mut group, now, 5 + HOLES_MAX, false);
        assert_eq!(group.packets(now).count(), 6, "so much may still come");
        push(&mut group, now, 7 + HOLES_MAX, false);
        assert_eq!(group.packets(now).count(), 0);
        assert!(group.extent(now, Point::EVERYTHING).is_none());
        push(&mut group, now, 9, false);
        assert_eq!(group.packets(now).count(), 8);
    }
}
