//! What comes out of a `Recorder`: blocks, and notes about them.

use std::sync::Arc;
use std::time::Duration;

use crate::webm;

/// A frame (video), a packet (sound), ready to be written.
#[derive(Debug, Clone)]
pub struct Block {
    /// The track, as [`TrackInfo::number`](super::feed::TrackInfo::number) says.
    pub source: u32,
    /// The file's track, from 1. A source has another one from where its codec or the private data changes.
    pub number: u32,
    /// With the first block of a number: what the file has to say about it, before the block is written.
    pub begins: Option<Description>,
    /// Pixels, with a key frame whose size is another than the last one's, and the first.
    pub size: Option<(u32, u32)>,
    /// Since the beginning of the recording, without what was paused.
    pub timestamp_ns: u64,
    pub is_keyframe: bool,
    /// How long it is heard. `None` for video.
    pub duration_ns: Option<u64>,
    pub payload: Payload,
}

impl Block {
    pub fn header(&self) -> webm::Block {
        webm::Block { duration_ns: None, ..webm::Block::new(self.number, self.timestamp_ns, self.is_keyframe) }
    }
}

/// What a file says about a track, apart from names.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub media: webm::Media,
    pub codec: webm::Codec,
    /// CodecPrivate.
    pub private: Vec<u8>,
    pub codec_delay_ns: u64,
    pub seek_pre_roll_ns: u64,
    pub default_duration_ns: Option<u64>,
}

/// Octets in pieces: parts of packets, by reference, and a few of our own between them.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    pieces: Vec<Piece>,
    size: usize,
}

#[derive(Debug, Clone)]
enum Piece {
    /// A part of a packet that arrived.
    Packet { packet: Arc<[u8]>, start: u16, end: u16 },
    /// What goes between: lengths of NAL units, OBU headers, an index.
    Own { bytes: [u8; 16], length: u8 },
}

impl Payload {
    /// Appends a part of a packet. Panics when it is not one: ranges come from parsing this packet.
    pub fn push(&mut self, packet: &Arc<[u8]>, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= packet.len(), "a range of this packet");
        if range.is_empty() {
            return;
        }
        self.size += range.len();
        let (start, end) = (u16::try_from(range.start), u16::try_from(range.end));
        match (start, end) {
            (Ok(start), Ok(end)) => self.pieces.push(Piece::Packet { packet: packet.clone(), start, end }),
            _ => unreachable!("a packet is a datagram"),
        }
    }

    /// Appends up to 16 octets of our own.
    pub fn push_own(&mut self, bytes: &[u8]) {
        let mut own = [0; 16];
        own[..bytes.len()].copy_from_slice(bytes);
        self.size += bytes.len();
        self.pieces.push(Piece::Own { bytes: own, length: bytes.len() as u8 });
    }

    /// Octets.
    pub fn len(&self) -> usize {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// All of it, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.pieces.iter().map(|piece| match piece {
            Piece::Packet { packet, start, end } => &packet[usize::from(*start)..usize::from(*end)],
            Piece::Own { bytes, length } => &bytes[..usize::from(*length)],
        })
    }

    /// A copy in one piece, for tests and private data.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices().flatten().copied().collect()
    }
}

/// Something that happened to a track, for the manifest. `at_ns` is time in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// From here on something is missing: packets were lost, or dropped because of a full queue. For video until the next key
    /// frame, for sound so many packets.
    Gap { source: u32, at_ns: u64, duration: Duration, packets: u64 },
    /// Another encoding, or another size of the picture.
    Changed { source: u32, at_ns: u64, size: Option<(u32, u32)> },
    /// The clock of the track was corrected by more than was to be expected, over time.
    Slewed { source: u32, at_ns: u64, by_ns: i64 },
}

/// What can be said of how well a track was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    pub packets: u64,
    /// Never came.
    pub lost: u64,
    /// Came out of order (mostly: were retransmitted), or were found in redundancy.
    pub recovered: u64,
    /// Frames that are in the file.
    pub frames: u64,
    /// Frames, or parts of such, that are not, since something they need was missing.
    pub dropped: u64,
    pub gaps: u64,
    pub keyframes: u64,
    /// The longest time without a key frame.
    pub keyframe_interval_ms: u64,
    /// By how much the sender's clock runs faster than ours.
    pub drift_ppm: i32,
}
