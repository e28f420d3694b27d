//! EBML (RFC 8794): ids, sizes and values, written and read; nothing of what they mean.
//!
//! Parsing is over slices, allocates nothing, and trusts no size: an element whose end is not in the slice is
//! [`Fault::Cut`]. How much is brought into memory is decided by the reader.

use super::ids;

/// The largest size that an element may state: one less than what eight octets of ones would mean.
pub const SIZE_MAX: u64 = (1 << 56) - 2;

/// The longest id of Matroska, in octets (EBMLMaxIDLength).
pub const ID_LENGTH_MAX: usize = 4;
/// The longest size (EBMLMaxSizeLength).
pub const SIZE_LENGTH_MAX: usize = 8;

/// A size of eight octets that says nothing (RFC 8794 §6.2), to be overwritten when it is known.
pub const SIZE_UNKNOWN: [u8; 8] = [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Why bytes are no element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They end before it does.
    Cut,
    /// No element looks like this.
    Invalid,
}

/// Octets in an id.
pub fn id_length(id: u32) -> usize {
    ID_LENGTH_MAX - id.leading_zeros() as usize / 8
}

/// The fewest octets that can hold a number as a variable-length integer: of `n` octets, `7 n` bits, not all ones.
pub fn vint_length(value: u64) -> usize {
    (1..SIZE_LENGTH_MAX).find(|length| value < (1 << (7 * length)) - 1).unwrap_or(SIZE_LENGTH_MAX)
}

/// A variable-length integer (RFC 8794 §4) of `length` octets.
///
/// Panics when it does not fit: every caller knows its bounds.
pub fn vint(value: u64, length: usize) -> [u8; 8] {
    assert!((1..=SIZE_LENGTH_MAX).contains(&length) && value < (1 << (7 * length)) - 1, "{value} in {length} octets");
    let marked = value | 1 << (7 * length);
    (marked << (64 - 8 * length)).to_be_bytes()
}

/// The fewest octets of an unsigned integer; at least one.
pub fn uint_length(value: u64) -> usize {
    (8 - value.leading_zeros() as usize / 8).max(1)
}

/// The fewest octets of a signed integer, in two's complement; at least one.
pub fn int_length(value: i64) -> usize {
    let magnitude = if value < 0 { !value } else { value };
    uint_length((magnitude as u64) << 1)
}

/// Where elements are written: memory that grows ([`Vec`]) or that does not ([`Small`]).
pub trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn id(&mut self, id: u32) {
        self.put(&id.to_be_bytes()[ID_LENGTH_MAX - id_length(id)..]);
    }

    /// A size in the fewest octets.
    fn size(&mut self, size: u64) {
        let length = vint_length(size);
        self.put(&vint(size, length)[..length]);
    }

    /// A whole element, in as few octets as possible.
    fn uint(&mut self, id: u32, value: u64) {
        self.uint_of(id, value, uint_length(value));
    }

    /// With leading zeros (RFC 8794 §7.2), for a place whose length must not depend on the value.
    fn uint_of(&mut self, id: u32, value: u64, length: usize) {
        debug_assert!((uint_length(value)..=8).contains(&length));
        self.id(id);
        self.size(length as u64);
        self.put(&value.to_be_bytes()[8 - length..]);
    }

    fn int(&mut self, id: u32, value: i64) {
        let length = int_length(value);
        self.id(id);
        self.size(length as u64);
        self.put(&value.to_be_bytes()[8 - length..]);
    }

    /// Eight octets.
    fn float(&mut self, id: u32, value: f64) {
        self.binary(id, &value.to_be_bytes());
    }

    /// As far as the first zero, which would end it for a reader (RFC 8794 §13).
    fn string(&mut self, id: u32, text: &str) {
        self.binary(id, until_zero(text.as_bytes()));
    }

    fn binary(&mut self, id: u32, bytes: &[u8]) {
        self.id(id);
        self.size(bytes.len() as u64);
        self.put(bytes);
    }

    /// An element of elements.
    fn master(&mut self, id: u32, children: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = Vec::new();
        children(&mut inner);
        self.binary(id, &inner);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A few octets in place: what stands around a payload costs no allocation.
#[derive(Debug, Clone, Copy)]
pub struct Small<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Small<N> {
    fn default() -> Self {
        Small { bytes: [0; N], length: 0 }
    }
}

impl<const N: usize> std::ops::Deref for Small<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Put for Small<N> {
    /// Panics when it is full: its size is the sum of what is ever put there.
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

/// An element that means nothing, of `size` octets altogether (RFC 8794 §11.3.2): its id and size, to be followed by
/// anything. `None`: it takes at least two octets.
pub fn void(size: u64) -> Option<Small<9>> {
    let mut head = Small::default();
    head.id(ids::VOID);
    // With eight octets of size a long one may be of any length; the shortest need one.
    if size >= 9 {
        head.put(&vint(size - 9, 8));
    } else {
        head.put(&vint(size.checked_sub(2)?, 1)[..1]);
    }
    Some(head)
}

/// Id and size of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub id: u32,
    /// Octets of data. `None`: unknown.
    pub size: Option<u64>,
    /// Octets of the id and of the size field.
    pub id_length: usize,
    pub size_length: usize,
}

impl Head {
    /// The longest.
    pub const LENGTH_MAX: usize = ID_LENGTH_MAX + SIZE_LENGTH_MAX;

    pub fn length(&self) -> usize {
        self.id_length + self.size_length
    }

    pub fn parse(bytes: &[u8]) -> Result<Head, Fault> {
        let (id, id_length) = parse_id(bytes)?;
        let (size, size_length) = parse_size(&bytes[id_length..])?;
        Ok(Head { id, size, id_length, size_length })
    }
}

/// An id and its length: one to four octets, none of which could be spared, and neither all ones nor all zeros (RFC 8794 §5).
/// ChapterDisplay is all zeros all the same (RFC 9559 §5.1.7.1.4.9).
pub fn parse_id(bytes: &[u8]) -> Result<(u32, usize), Fault> {
    let first = *bytes.first().ok_or(Fault::Cut)?;
    let length = first.leading_zeros() as usize + 1;
    if length > ID_LENGTH_MAX {
        return Err(Fault::Invalid);
    }
    let octets = bytes.get(..length).ok_or(Fault::Cut)?;
    let id = octets.iter().fold(0u32, |id, octet| id << 8 | u32::from(*octet));
    let data = u64::from(id) & ((1 << (7 * length)) - 1);
    let all_ones = (1u64 << (7 * length)) - 1;
    // What fits into fewer octets has to stand there; all ones of the shorter form are no id, so those may be longer.
    let is_shortest = length == 1 || data >= (1 << (7 * (length - 1))) - 1;
    if (data == 0 && id != ids::CHAPTER_DISPLAY) || data == all_ones || !is_shortest {
        return Err(Fault::Invalid);
    }
    Ok((id, length))
}

/// A size and the length of its field. `None`: unknown. Sizes may be longer than they need to be.
pub fn parse_size(bytes: &[u8]) -> Result<(Option<u64>, usize), Fault> {
    let (value, length) = parse_vint(bytes)?;
    Ok(((value != (1 << (7 * length)) - 1).then_some(value), length))
}

/// A variable-length integer, all ones included.
pub fn parse_vint(bytes: &[u8]) -> Result<(u64, usize), Fault> {
    let first = *bytes.first().ok_or(Fault::Cut)?;
    let length = first.leading_zeros() as usize + 1;
    if length > SIZE_LENGTH_MAX {
        return Err(Fault::Invalid);
    }
    let octets = bytes.get(..length).ok_or(Fault::Cut)?;
    let value = octets.iter().fold(0u64, |value, octet| value << 8 | u64::from(*octet));
    Ok((value & ((1 << (7 * length)) - 1), length))
}

/// An unsigned integer (RFC 8794 §7.2).
pub fn parse_uint(data: &[u8]) -> Result<u64, Fault> {
    if data.len() > 8 {
        return Err(Fault::Invalid);
    }
    Ok(data.iter().fold(0, |value, octet| value << 8 | u64::from(*octet)))
}

/// A signed integer, and a date (RFC 8794 §7.1, §7.6).
pub fn parse_int(data: &[u8]) -> Result<i64, Fault> {
    let Some(first) = data.first() else { return Ok(0) };
    let unused = 64 - 8 * data.len().min(8) as u32;
    let sign = if first & 0x80 == 0 || unused == 0 { 0 } else { u64::MAX << (64 - unused) };
    Ok((parse_uint(data)? | sign) as i64)
}

/// A number of four or eight octets (RFC 8794 §7.3). One that is not finite means nothing anywhere in Matroska.
pub fn parse_float(data: &[u8]) -> Result<f64, Fault> {
    let value = match data.len() {
        0 => 0.0,
        4 => f64::from(f32::from_be_bytes(data.try_into().map_err(|_| Fault::Invalid)?)),
        8 => f64::from_be_bytes(data.try_into().map_err(|_| Fault::Invalid)?),
        _ => return Err(Fault::Invalid),
    };
    if value.is_finite() { Ok(value) } else { Err(Fault::Invalid) }
}

/// Text as far as the first zero (RFC 8794 §13). What is not UTF-8 is replaced.
pub fn parse_string(data: &[u8]) -> String {
    String::from_utf8_lossy(until_zero(data)).into_owned()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|octet| *octet == 0).next().unwrap_or_default()
}

/// The elements in the data of a master element, each with its data. Ends after the first fault.
///
/// Void and CRC-32 are passed over; checksums are not verified. An unknown size is a fault: nothing that is parsed as a
/// slice may have one.
#[derive(Debug, Clone)]
pub struct Children<'a>(&'a [u8]);

impl<'a> Children<'a> {
    pub fn of(data: &'a [u8]) -> Self {
        Children(data)
    }

    fn step(&mut self) -> Result<(u32, &'a [u8]), Fault> {
        let head = Head::parse(self.0)?;
        let size = usize::try_from(head.size.ok_or(Fault::Invalid)?).map_err(|_| Fault::Cut)?;
        let rest = &self.0[head.length()..];
        if size > rest.len() {
            return Err(Fault::Cut);
        }
        let (data, after) = rest.split_at(size);
        self.0 = after;
        Ok((head.id, data))
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = Result<(u32, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.step() {
                Ok((ids::VOID | ids::CRC_32, _)) => {}
                Ok(child) => return Some(Ok(child)),
                Err(fault) => {
                    self.0 = &[];
                    return Some(Err(fault));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_in_the_specification() {
        // RFC 8794 §4.4: the number 2 in every length; then the largest of each length, and all ones.
        let two: [&[u8]; 8] = [
            &[0x82],
            &[0x40, 2],
            &[0x20, 0, 2],
            &[0x10, 0, 0, 2],
            &[0x08, 0, 0, 0, 2],
            &[0x04, 0, 0, 0, 0, 2],
            &[0x02, 0, 0, 0, 0, 0, 2],
            &[0x01, 0, 0, 0, 0, 0, 0, 2],
        ];
        for (octets, length) in two.into_iter().zip(1..) {
            assert_eq!(parse_size(octets), Ok((Some(2), length)));
            assert_eq!(vint(2, length)[..length], *octets);
            assert_eq!(parse_size(&octets[..length - 1]), Err(Fault::Cut));
            let largest = (1u64 << (7 * length)) - 2;
            assert_eq!(vint_length(largest), length);
            assert_eq!(parse_size(&vint(largest, length)), Ok((Some(largest), length)));
            let unknown = ((1u64 << (8 * length - length + 1)) - 1) << (64 - 8 * length);
            assert_eq!(parse_size(&unknown.to_be_bytes()), Ok((None, length)));
        }
        assert_eq!((vint_length(0), vint_length(126), vint_length(127), vint_length(SIZE_MAX)), (1, 1, 2, 8));
        assert_eq!(parse_size(&SIZE_UNKNOWN), Ok((None, 8)));
        assert_eq!(parse_size(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), Err(Fault::Invalid));
    }

    #[test]
    fn ids_as_in_the_specification() {
        // RFC 8794 §5, table of valid and invalid ids, but for the first.
        type Row = (&'static [u8], Result<(u32, usize), Fault>);
        let rows: &[Row] = &[
            (&[0x80], Ok((ids::CHAPTER_DISPLAY, 1))),
            (&[0x40, 0x00], Err(Fault::Invalid)),
            (&[0x81], Ok((0x81, 1))),
            (&[0x40, 0x01], Err(Fault::Invalid)),
            (&[0xbf], Ok((0xbf, 1))),
            (&[0x40, 0x3f], Err(Fault::Invalid)),
            (&[0xff], Err(Fault::Invalid)),
            (&[0x40, 0x7f], Ok((0x407f, 2))),
            (&[0x7f, 0xff], Err(Fault::Invalid)),
            (&[0x1a, 0x45, 0xdf, 0xa3], Ok((ids::EBML, 4))),
            (&[0x1a, 0x45, 0xdf], Err(Fault::Cut)),
            (&[], Err(Fault::Cut)),
            (&[0x08, 1, 2, 3, 4], Err(Fault::Invalid)),
            (&[0x00], Err(Fault::Invalid)),
        ];
        for (octets, expect) in rows {
            assert_eq!(parse_id(octets), *expect, "{octets:02x?}");
        }
    }

    #[test]
    fn numbers_keep_their_values() {
        let ints = [0, 1, -1, 127, 128, -128, -129, 32_767, -32_768, 1 << 40, i64::MAX, i64::MIN];
        for value in ints {
            let mut bytes = Vec::new();
            bytes.int(ids::DISCARD_PADDING, value);
            let data = &bytes[3..];
            assert_eq!(parse_int(data), Ok(value));
            assert_eq!(data.len(), int_length(value));
        }
        assert_eq!((int_length(127), int_length(128), int_length(-128), int_length(-129)), (1, 2, 1, 2));
        for value in [0, 1, 255, 256, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.uint(ids::TIMESTAMP, value);
            assert_eq!(parse_uint(&bytes[2..]), Ok(value));
        }
        assert_eq!((parse_uint(&[]), parse_int(&[]), parse_float(&[])), (Ok(0), Ok(0), Ok(0.0)));
        assert_eq!((parse_uint(&[0; 9]), parse_int(&[0xff; 9])), (Err(Fault::Invalid), Err(Fault::Invalid)));
        assert_eq!((parse_float(&[0x3f, 0xc0, 0, 0]), parse_float(&[0; 3])), (Ok(1.5), Err(Fault::Invalid)));
        assert_eq!(parse_float(&f64::NAN.to_be_bytes()), Err(Fault::Invalid));
    }

    #[test]
    fn strings_end_at_zero() {
        assert_eq!(parse_string(b"webm\0\0trailing"), "webm");
        assert_eq!(parse_string(&[b'a', 0xff]), "a\u{fffd}");
        let mut bytes = Vec::new();
        bytes.string(ids::NAME, "a\0b");
        assert_eq!(bytes, [0x53, 0x6e, 0x81, b'a']);
    }

    #[test]
    fn nothing_of_every_length() {
        assert!(void(0).is_none() && void(1).is_none());
        for size in 2..300u64 {
            let head = void(size).expect("long enough");
            let parsed = Head::parse(&head).expect("an element");
            assert_eq!((parsed.id, parsed.length() as u64 + parsed.size.expect("known")), (ids::VOID, size));
        }
    }

    #[test]
    fn children_end_at_the_first_fault() {
        let mut bytes = Vec::new();
        bytes.uint(ids::TRACK_NUMBER, 7);
        bytes.extend_from_slice(&[0xec, 0x81, 0]);
        bytes.uint(ids::TRACK_TYPE, 2);
        let whole: Vec<_> = Children::of(&bytes).collect();
        assert_eq!(whole, [Ok((ids::TRACK_NUMBER, &[7][..])), Ok((ids::TRACK_TYPE, &[2][..]))]);
        let cut: Vec<_> = Children::of(&bytes[..bytes.len() - 1]).collect();
        assert_eq!(cut, [Ok((ids::TRACK_NUMBER, &[7][..])), Err(Fault::Cut)]);
        assert_eq!(Children::of(&[0xd7, 0xff, 1]).collect::<Vec<_>>(), [Err(Fault::Invalid)], "unknown size");
        let lie = [0xd7, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
        assert_eq!(Children::of(&lie).collect::<Vec<_>>(), [Err(Fault::Cut)]);
    }
}
