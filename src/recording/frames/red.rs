//! Redundant audio data (RFC 2198): a packet repeats frames of those before it.

use std::ops::Range;

/// A frame in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// How much earlier than the packet's its RTP time is.
    pub offset: u32,
    /// Where it is in the payload.
    pub range: Range<usize>,
}

/// The frames of a payload that are of the same codec as the newest, which is the last; the oldest is the first, as a rule.
/// `None`: it is malformed.
pub(super) fn blocks(payload: &[u8]) -> Option<Vec<Block>> {
    let mut heads = Vec::new();
    let mut at = 0;
    while payload.get(at)? & 0x80 != 0 {
        let head = u32::from_be_bytes(*payload.get(at..)?.first_chunk()?);
        heads.push(((head >> 24 & 0x7f) as u8, head >> 10 & 0x3fff, (head & 0x3ff) as usize));
        at += 4;
        if heads.len() > BLOCKS_MAX {
            return None;
        }
    }
    let codec = payload.get(at)? & 0x7f;
    at += 1;
    let mut blocks = Vec::with_capacity(heads.len() + 1);
    for (other, offset, length) in heads {
        let range = at..at + length;
        payload.get(range.clone())?;
        at = range.end;
        if other == codec {
            blocks.push(Block { offset, range });
        }
    }
    blocks.push(Block { offset: 0, range: at..payload.len() });
    Some(blocks)
}

/// Before the newest. Browsers send one or two, our own forwarding three.
const BLOCKS_MAX: usize = 32;
