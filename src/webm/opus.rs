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

#[cfg(test)]
mod tests {
    use super::*;

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
