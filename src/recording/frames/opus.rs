//! Opus (RFC 7587): a packet is what a file wants. What was lost is looked for in the redundancy of the next packet.

use std::collections::VecDeque;
use std::ops::Range;

use str0m::format::Codec;

use super::{Counters, Frame, red};
use crate::recording::block::{Description, Payload};
use crate::recording::feed::Packet;
use crate::webm::{self, opus};

/// 20 ms of silence that may follow a packet that begins with this octet: mono after mono, stereo after stereo. It has one
/// frame of CELT at full band, whose second octet says at once that nothing is in it.
pub fn silence(toc: u8) -> &'static [u8; 3] {
    match toc & STEREO {
        0 => &[CELT_FULL_BAND_20_MS, 0xff, 0xfe],
        _ => &[CELT_FULL_BAND_20_MS | STEREO, 0xff, 0xfe],
    }
}

/// Of [`silence`], at 48 kHz.
pub const SILENCE_SAMPLES: u32 = 960;

/// The assembler of a sound track.
#[derive(Debug, Default)]
pub(super) struct Sound {
    /// SSRC and time of the last frame that went out.
    last: Option<(u32, u32)>,
    is_described: bool,
    pub counters: Counters,
}

impl Sound {
    pub fn handle(&mut self, packet: &Packet, lost_before: u64, out: &mut VecDeque<Frame>) {
        if packet.payload.is_empty() {
            return; // padding
        }
        if packet.codec != Codec::Opus {
            self.counters.dropped += 1;
            return;
        }
        if !packet.red {
            return self.put(packet, packet.time, 0..packet.payload.len(), out);
        }
        let Some(mut blocks) = red::blocks(&packet.payload) else {
            self.counters.dropped += 1;
            return;
        };
        let newest = blocks.pop();
        if lost_before > 0 {
            self.recover(packet, lost_before, &mut blocks, out);
        }
        if let Some(block) = newest {
            self.put(packet, packet.time, block.range, out);
        }
    }

    pub fn reset(&mut self) {
        self.last = None;
    }

    /// Puts out what was lost before the packet and stands in it. Each packet that was lost had one frame that no other before
    /// it had.
    fn recover(&mut self, packet: &Packet, lost: u64, blocks: &mut Vec<red::Block>, out: &mut VecDeque<Frame>) {
        let Some((_, last)) = self.last.filter(|(ssrc, _)| *ssrc == packet.ssrc) else { return };
        let since = packet.time.wrapping_sub(last);
        blocks.retain(|block| {
            let is_sound = packet.payload.get(block.range.clone()).and_then(opus::samples).is_some();
            is_sound && (1..since).contains(&block.offset) && since < u32::MAX / 2
        });
        // Oldest first, each once.
        blocks.sort_by_key(|block| std::cmp::Reverse(block.offset));
        blocks.dedup_by_key(|block| block.offset);
        let known = blocks.len().saturating_sub(usize::try_from(lost).unwrap_or(usize::MAX));
        for block in blocks.drain(..).skip(known) {
            let before = self.counters.frames;
            self.put(packet, packet.time.wrapping_sub(block.offset), block.range, out);
            self.counters.recovered += self.counters.frames - before;
        }
    }

    fn put(&mut self, packet: &Packet, time: u32, range: Range<usize>, out: &mut VecDeque<Frame>) {
        let Some(samples) = packet.payload.get(range.clone()).and_then(opus::samples) else {
            self.counters.dropped += 1;
            return;
        };
        let mut payload = Payload::default();
        payload.push(&packet.payload, range);
        self.last = Some((packet.ssrc, time));
        self.counters.frames += 1;
        let begins = (!std::mem::replace(&mut self.is_described, true)).then(description);
        out.push_back(Frame {
            ssrc: packet.ssrc,
            time,
            clock_rate: packet.clock_rate,
            arrival: packet.arrival,
            is_keyframe: true,
            size: None,
            samples,
            payload,
            begins,
        });
    }
}

/// RTP says opus/48000/2 of mono as well, and a packet of either kind may come at any time.
fn description() -> Description {
    let head = opus::Head::relayed();
    Description {
        media: webm::Media::Audio(webm::Audio { sampling_frequency: 48_000.0, channels: u32::from(head.channels) }),
        codec: webm::Codec::Opus,
        private: head.encode().to_vec(),
        codec_delay_ns: head.delay_ns(),
        seek_pre_roll_ns: opus::SEEK_PRE_ROLL_NS,
        default_duration_ns: None,
    }
}

/// Configuration 31 of RFC 6716 §3.1, mono, one frame.
const CELT_FULL_BAND_20_MS: u8 = 31 << 3;
const STEREO: u8 = 0x04;
