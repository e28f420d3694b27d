//! Packets that are kept while somebody waits, and what of a packet is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use str0m::format::Codec;
use str0m::media::Pt;
use str0m::rtp::ExtensionValues;

use super::encoding::Accepted;
use super::rewrite::Numbers;
use super::{DependencyDescriptor, Incoming};

/// What of a packet is the same for every subscriber.
#[derive(Debug, Clone)]
pub struct Content {
    pub ssrc: u32,
    pub codec: Codec,
    pub red: bool,
    pub inner_pt: Pt,
    pub marker: bool,
    pub payload: Arc<[u8]>,
    pub ext: ExtensionValues,
}

impl Content {
    pub fn of(packet: &Incoming<'_>) -> Self {
        Content {
            ssrc: packet.ssrc,
            codec: packet.codec,
            red: packet.red,
            inner_pt: packet.inner_pt,
            marker: packet.marker,
            payload: packet.payload.clone(),
            ext: whitelist(packet.ext),
        }
    }
}

/// The extension values a subscriber may see. The rest names things of the publisher's connection (mid, rid, transport
/// sequence numbers).
fn whitelist(ext: &ExtensionValues) -> ExtensionValues {
    let mut allowed = ExtensionValues {
        audio_level: ext.audio_level,
        voice_activity: ext.voice_activity,
        video_orientation: ext.video_orientation,
        video_content_type: ext.video_content_type,
        abs_capture_time: ext.abs_capture_time,
        play_delay_min: ext.play_delay_min,
        play_delay_max: ext.play_delay_max,
        ..ExtensionValues::default()
    };
    if let Some(descriptor) = ext.user_values.get_arc::<DependencyDescriptor>() {
        allowed.user_values.set_arc(descriptor);
    }
    allowed
}

/// The packets that came while some subscription waits to start.
///
/// The first packet of a key frame may come after the others: overtaken on the way, or lost and sent again. Without them
/// that key frame would be of no use, and on a path with much jitter so would be most. Payloads are shared, not copied.
#[derive(Debug, Default)]
pub struct Held {
    packets: VecDeque<(Numbers, Content)>,
    /// Everything that came with this number or a higher one is in `packets`, when that is not empty.
    complete_from: u64,
}

impl Held {
    /// A third of a second at 400 packets a second; the oldest goes when it is full. More only costs memory while
    /// somebody waits.
    const MAX: usize = 128;

    pub fn push(&mut self, accepted: Accepted, numbers: Numbers, packet: &Incoming<'_>) {
        if accepted.is_newest && accepted.skipped > Held::MAX as u64 {
            // A receiver that got what was before this as well could only wait for what will not come.
            self.packets.clear();
            self.complete_from = numbers.seq;
        } else if self.packets.is_empty() {
            // What is newer than this one and came before it is gone.
            if !accepted.is_newest {
                return;
            }
            // What it overtook comes after it, and is held as well.
            self.complete_from = numbers.seq.saturating_sub(accepted.skipped);
        }
        self.packets.push_back((numbers, Content::of(packet)));
        if self.packets.len() > Held::MAX
            && let Some((oldest, _)) = self.packets.pop_front()
        {
            self.complete_from = self.complete_from.max(oldest.seq + 1);
        }
    }

    pub fn clear(&mut self) {
        self.packets.clear();
    }

    /// Whether everything that came after the packet `seq` in the numbering is here.
    pub fn has_all_after(&self, seq: u64) -> bool {
        !self.packets.is_empty() && seq + 1 >= self.complete_from
    }

    /// What follows the packet `seq`, in order. Nothing is held any longer.
    pub fn take_after(&mut self, seq: u64) -> Vec<(Numbers, Content)> {
        let mut packets: Vec<_> = self.packets.drain(..).filter(|(numbers, _)| numbers.seq > seq).collect();
        packets.sort_unstable_by_key(|(numbers, _)| numbers.seq);
        packets
    }
}
