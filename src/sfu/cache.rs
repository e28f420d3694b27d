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
        if self.is_complete() {
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
        let is_lost = self.missing_since.is_some_and(|since| now.saturating_duration_since(since) > MISSING_MAX);
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

    fn is_complete(&self) -> bool {
        let (Some(first), Some(last)) = (self.packets.front(), self.packets.back()) else { return true };
        last.numbers.seq - first.numbers.seq == self.packets.len() as u64 - 1
    }
}

/// Packets are small where a picture hardly changes, so that octets alone are no bound. Half a minute at 60 a second.
const PACKETS_MAX: usize = 2048;
/// What is missing for longer was lost for good: a retransmission takes a round trip, and another one when it is lost too.
const MISSING_MAX: Duration = Duration::from_millis(600);
