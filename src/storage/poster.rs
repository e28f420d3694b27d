//! A picture of the recording: a key frame of VP8 is what a lossy WebP is, so it need not be decoded.

/// The frame that will be it.
#[derive(Debug, Default)]
pub struct Poster {
    /// When the first one came.
    first_ns: Option<u64>,
    best: Option<(u32, Vec<u8>)>,
}

impl Poster {
    /// A frame of VP8, in the order in which they are in the file. The largest key frame of the first seconds is kept.
    pub fn offer(&mut self, timestamp_ns: u64, is_keyframe: bool, frame: &[u8]) {
        if !is_keyframe {
            return;
        }
        let Some(area) = area(frame) else { return };
        let first_ns = *self.first_ns.get_or_insert(timestamp_ns);
        let is_late = timestamp_ns.saturating_sub(first_ns) > WITHIN_NS;
        if !is_late && self.best.as_ref().is_none_or(|(best, _)| *best < area) {
            self.best = Some((area, frame.to_vec()));
        }
    }

    /// As a file: RIFF, WEBP, one chunk. `None`: there was no such frame.
    pub fn into_file(self) -> Option<Vec<u8>> {
        let (_, frame) = self.best?;
        let padding = frame.len() % 2;
        let chunk = u32::try_from(frame.len()).ok()?;
        let riff = chunk.checked_add(12 + padding as u32)?;
        let mut file = Vec::with_capacity(frame.len() + 21);
        file.extend_from_slice(b"RIFF");
        file.extend_from_slice(&riff.to_le_bytes());
        file.extend_from_slice(b"WEBPVP8 ");
        file.extend_from_slice(&chunk.to_le_bytes());
        file.extend_from_slice(&frame);
        file.resize(file.len() + padding, 0);
        Some(file)
    }
}

/// Pixels of a key frame that is shown (RFC 6386 §9.1). `None`: it is none.
fn area(frame: &[u8]) -> Option<u32> {
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = *frame.first_chunk::<10>()? else { return None };
    let is_key = tag & 1 == 0;
    let is_shown = tag & 0x10 != 0;
    let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let area = size(w0, w1) * size(h0, h1);
    (is_key && is_shown && area > 0).then_some(area)
}

/// The first picture of a camera is often dark or small.
const WITHIN_NS: u64 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(width: u16, height: u16, fill: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0x10, 0, 0, 0x9d, 0x01, 0x2a];
        frame.extend_from_slice(&width.to_le_bytes());
        frame.extend_from_slice(&height.to_le_bytes());
        frame.resize(length, fill);
        frame
    }

    #[test]
    fn the_largest_of_the_first_seconds() {
        const S: u64 = 1_000_000_000;
        let mut poster = Poster::default();
        poster.offer(3 * S, true, b"\x10\0\0 nothing like it");
        poster.offer(3 * S, false, &frame(640, 480, 9, 20));
        poster.offer(5 * S, true, &frame(160, 90, 1, 20));
        poster.offer(15 * S, true, &frame(640, 360, 2, 21));
        poster.offer(15 * S, true, &frame(640, 360, 3, 20));
        poster.offer(15 * S + 1, true, &frame(1280, 720, 4, 20));
        let file = poster.into_file().expect("a frame");
        assert_eq!(file[..20], *b"RIFF\x22\0\0\0WEBPVP8 \x15\0\0\0");
        assert_eq!((file.len(), file.len() - 8, &file[30..]), (42, 0x22, &[2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0][..]));
        assert_eq!(Poster::default().into_file(), None);
    }

    #[test]
    fn what_is_not_shown_is_no_picture() {
        let mut hidden = frame(640, 360, 1, 20);
        hidden[0] = 0;
        let mut inter = frame(640, 360, 1, 20);
        inter[0] = 0x11;
        for bad in [&hidden[..], &inter, &frame(0, 360, 1, 20), &frame(640, 360, 1, 10)[..9], b""] {
            let mut poster = Poster::default();
            poster.offer(0, true, bad);
            assert_eq!(poster.into_file(), None);
        }
    }
}
