//! Redundant audio data (RFC 2198) where two sides of a forward differ: another payload type inside, or no RED at all.

use std::sync::Arc;

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
}
