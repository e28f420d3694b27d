//! Opus in Matroska (RFC 7845 §5.1 and the codec mapping of RFC 9559 §27.2): the head that is the track's private data.

/// What a player decodes before a place to seek to, until the sound is right: 80 ms.
pub const SEEK_PRE_ROLL_NS: u64 = 80_000_000;

/// The identification header, of mono or stereo (channel mapping family 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 1 or 2.
    pub channels: u8,
    /// Samples of 48 kHz that the decoder puts out before the sound begins. A stream that is relayed from its middle has none.
    pub pre_skip: u16,
    /// Of the source, Hertz; for information. 0: not known.
    pub sample_rate: u32,
    /// To be applied by the decoder, in 1/256 dB.
    pub output_gain: i16,
}

impl Head {
    /// What a relayed stream is: stereo, at 48 kHz, without a beginning of its own.
    pub fn relayed() -> Head {
        Head { channels: 2, pre_skip: 0, sample_rate: 48_000, output_gain: 0 }
    }

    pub fn encode(&self) -> [u8; 19] {
        let mut bytes = *b"OpusHead\x01\0\0\0\0\0\0\0\0\0\0";
        bytes[9] = self.channels;
        bytes[10..12].copy_from_slice(&self.pre_skip.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sample_rate.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.output_gain.to_le_bytes());
        bytes
    }

    /// `None`: it is none, of another major version, or of another mapping family.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let (magic, rest) = bytes.split_at_checked(8)?;
        let [version, channels, skip0, skip1, rate @ .., gain0, gain1, family] = rest.first_chunk::<11>()?;
        if magic != b"OpusHead" || version >> 4 != 0 || *family != 0 || !(1..=2).contains(channels) {
            return None;
        }
        Some(Head {
            channels: *channels,
            pre_skip: u16::from_le_bytes([*skip0, *skip1]),
            sample_rate: u32::from_le_bytes(*rate),
            output_gain: i16::from_le_bytes([*gain0, *gain1]),
        })
    }

    /// The pre-skip as CodecDelay, which has to agree with it.
    pub fn delay_ns(&self) -> u64 {
        u64::from(self.pre_skip) * 1_000_000_000 / 48_000
    }
}

/// How much is heard of a packet, in samples of 48 kHz (RFC 6716 §3.1): at most 5760, which is 120 ms. `None`: it is no packet
/// that a decoder takes (§3.4).
pub fn samples(packet: &[u8]) -> Option<u32> {
    let (toc, rest) = packet.split_first()?;
    let frame = frame_samples(*toc);
    let mut sizes = rest.len();
    let count = match toc & 3 {
        0 => 1,
        1 => {
            if sizes % 2 != 0 {
                return None;
            }
            sizes /= 2;
            2
        }
        2 => {
            let (first, after) = frame_size(rest)?;
            sizes = after.len().checked_sub(first)?;
            2
        }
        _ => return counted(rest, frame),
    };
    (sizes <= FRAME_MAX).then_some(count * frame)
}

/// Of a packet that says how many frames it has (§3.2.5).
fn counted(rest: &[u8], frame: u32) -> Option<u32> {
    let (head, mut rest) = rest.split_first()?;
    let count = u32::from(head & 0x3f);
    let samples = count * frame;
    if !(1..=SAMPLES_MAX).contains(&samples) {
        return None;
    }
    if head & 0x40 != 0 {
        let mut padding = 0usize;
        loop {
            let (octet, after) = rest.split_first()?;
            rest = after;
            // 255: 254 octets, and more is said of them.
            padding += usize::from(*octet).min(254);
            if *octet < 255 {
                break;
            }
        }
        rest = rest.get(..rest.len().checked_sub(padding)?)?;
    }
    let frames = usize::try_from(count).ok()?;
    if head & 0x80 == 0 {
        return (rest.len() % frames == 0 && rest.len() / frames <= FRAME_MAX).then_some(samples);
    }
    let mut before = 0;
    for _ in 1..frames {
        let (size, after) = frame_size(rest)?;
        (before, rest) = (before + size, after);
    }
    (rest.len().checked_sub(before)? <= FRAME_MAX).then_some(samples)
}

/// Samples of 48 kHz of one frame.
fn frame_samples(toc: u8) -> u32 {
    let config = toc >> 3;
    let size = u32::from(config & 3);
    match config {
        0..12 => [480, 960, 1920, 2880][size as usize],
        12..16 => [480, 960][size as usize & 1],
        _ => 120 << size,
    }
}

/// A frame's size in one or two octets (§3.2.1), and what follows it.
fn frame_size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first < 252 {
        return Some((usize::from(*first), rest));
    }
    let (second, rest) = rest.split_first()?;
    Some((usize::from(*first) + 4 * usize::from(*second), rest))
}

/// Octets of a frame.
const FRAME_MAX: usize = 1275;
/// 120 ms.
const SAMPLES_MAX: u32 = 5760;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_is_heard() {
        // The packet, repeated so often behind it zeros, and samples.
        let rows: [(&[u8], usize, Option<u32>); 34] = [
            (&[0x00], 0, Some(480)),
            (&[0x08], 9, Some(960)),
            (&[0x10], 9, Some(1920)),
            (&[0x58], 9, Some(2880)),
            (&[0x60], 9, Some(480)),
            (&[0x68], 9, Some(960)),
            (&[0x70], 9, Some(480)),
            (&[0x78], 9, Some(960)),
            (&[0x80], 9, Some(120)),
            (&[0x88], 9, Some(240)),
            (&[0x90], 9, Some(480)),
            (&[0xfc], 1275, Some(960)),
            (&[0xfc], 1276, None),
            (&[0xf9], 0, Some(1920)),
            (&[0xf9], 4, Some(1920)),
            (&[0xf9], 5, None),
            (&[0xf9], 2552, None),
            (&[0xfa], 0, None),
            (&[0xfa, 2], 1, None),
            (&[0xfa, 2], 2, Some(1920)),
            (&[0xfa, 252, 1], 255, None),
            (&[0xfa, 252, 1], 256, Some(1920)),
            (&[0xfa, 0], 1276, None),
            (&[0xfb], 0, None),
            (&[0xfb, 0], 0, None),
            (&[0xfb, 6], 0, Some(5760)),
            (&[0xfb, 7], 0, None),
            (&[0x83, 48], 48, Some(5760)),
            (&[0xfb, 3], 4, None),
            (&[0xfb, 0x43, 4], 7, Some(2880)),
            (&[0xfb, 0x43, 4], 3, None),
            (&[0xfb, 0x41, 255, 1], 255, Some(960)),
            (&[0xfb, 0x83, 1, 2], 2, None),
            (&[0xfb, 0x83, 1, 2], 4, Some(2880)),
        ];
        for (head, zeros, expect) in rows {
            let packet = [head, &vec![0; zeros]].concat();
            assert_eq!(samples(&packet), expect, "{head:02x?} and {zeros}");
        }
        assert_eq!(samples(&[]), None);
        let mut random = fastrand::Rng::with_seed(0x0b);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..30)).map(|_| random.u8(..)).collect();
            assert!(samples(&bytes).is_none_or(|samples| (120..=5760).contains(&samples)));
        }
    }

    #[test]
    fn heads_keep_their_values() {
        let head = Head { channels: 2, pre_skip: 312, sample_rate: 48_000, output_gain: -256 };
        let bytes = head.encode();
        assert_eq!(bytes, *b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\xff\x00");
        assert_eq!(Head::parse(&bytes), Some(head));
        assert_eq!((head.delay_ns(), Head { pre_skip: 3840, ..head }.delay_ns()), (6_500_000, 80_000_000));
        for end in 0..bytes.len() {
            assert_eq!(Head::parse(&bytes[..end]), None);
        }
        let mut surround = bytes;
        surround[18] = 1;
        assert_eq!(Head::parse(&surround), None);
    }
}
