//! Reads bits, most significant first. Every method is `None` past the end.

/// A position in some octets.
#[derive(Debug, Clone, Copy)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    position: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, position: 0 }
    }

    pub fn bit(&mut self) -> Option<bool> {
        let octet = *self.bytes.get(self.position / 8)?;
        let bit = octet >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// At most 32 bits.
    pub fn bits(&mut self, count: u32) -> Option<u32> {
        debug_assert!(count <= 32);
        let mut value = 0u64;
        for _ in 0..count {
            value = value << 1 | u64::from(self.bit()?);
        }
        u32::try_from(value).ok()
    }

    pub fn skip(&mut self, count: usize) -> Option<()> {
        let position = self.position.checked_add(count)?;
        if position > self.bytes.len() * 8 {
            return None;
        }
        self.position = position;
        Some(())
    }

    /// A number of `0..values`, in as few bits as that takes: ns(n) of the AV1 specification.
    pub fn below(&mut self, values: u32) -> Option<u32> {
        let width = u32::BITS - values.leading_zeros();
        let spare = (1u64 << width) - u64::from(values);
        let short = self.bits(width.checked_sub(1)?)?;
        if u64::from(short) < spare {
            return Some(short);
        }
        let long = u64::from(short) << 1 | u64::from(self.bit()?);
        u32::try_from(long - spare).ok()
    }

    /// ue(v) of ITU-T H.264 §9.1; at most 2^32 - 2.
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let suffix = self.bits(zeros)?;
        Some((1u32 << zeros) - 1 + suffix)
    }

    /// se(v) of ITU-T H.264 §9.1.1.
    pub fn signed_exp_golomb(&mut self) -> Option<i64> {
        let code = i64::from(self.exp_golomb()?);
        Some(if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_the_end() {
        let mut reader = BitReader::new(&[0b1010_0101, 0xff]);
        assert_eq!((reader.bit(), reader.bits(3), reader.bits(0)), (Some(true), Some(2), Some(0)));
        assert_eq!(reader.bits(12), Some(0b0101_1111_1111));
        assert_eq!((reader.bit(), reader.bits(1), reader.skip(1), reader.skip(0)), (None, None, None, Some(())));
    }

    #[test]
    fn numbers_below_a_bound() {
        // The table of the specification for five values.
        let rows = [(0b0000_0000, 0), (0b0100_0000, 1), (0b1000_0000, 2), (0b1100_0000, 3), (0b1110_0000, 4)];
        for (octet, expect) in rows {
            assert_eq!(BitReader::new(&[octet]).below(5), Some(expect));
        }
        assert_eq!(BitReader::new(&[]).below(1), Some(0), "one value takes no bit");
        assert_eq!(BitReader::new(&[0xff]).below(0), None);
    }

    #[test]
    fn exponential_golomb() {
        let rows: &[(&[u8], Option<u32>, Option<i64>)] = &[
            (&[0b1000_0000], Some(0), Some(0)),
            (&[0b0100_0000], Some(1), Some(1)),
            (&[0b0110_0000], Some(2), Some(-1)),
            (&[0b0010_0000], Some(3), Some(2)),
            (&[0b0011_1000], Some(6), Some(-3)),
            (&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], Some(u32::MAX - 1), None),
            (&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], None, None),
            (&[0b0001_0000], Some(7), Some(4)),
            (&[0b0001], None, None),
        ];
        for (bytes, unsigned, signed) in rows {
            assert_eq!(BitReader::new(bytes).exp_golomb(), *unsigned, "{bytes:02x?}");
            if let Some(signed) = signed {
                assert_eq!(BitReader::new(bytes).signed_exp_golomb(), Some(*signed), "{bytes:02x?}");
            }
        }
    }
}
