//! Checksums of files, in the kinds that stores know: MD5, its composite for uploads in parts, and CRC32C.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use openssl::hash::{Hasher, MessageDigest};

use super::super::store::{Fault, FaultKind, Range};
use super::http::local;
use crate::recording::names;

/// Of one piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksums {
    pub md5: [u8; 16],
    pub crc32c: u32,
}

impl Checksums {
    pub fn of(range: Range<'_>) -> Result<Checksums, Fault> {
        let mut md5 = Md5::new()?;
        let mut crc = Crc32c::default();
        pieces(range, |piece| {
            crc.update(piece);
            md5.update(piece)
        })?;
        Ok(Checksums { md5: md5.finish()?, crc32c: crc.value() })
    }

    /// As in `Content-MD5`.
    pub fn md5_base64(&self) -> String {
        base64(&self.md5)
    }

    /// As in an ETag, without quotes.
    pub fn md5_hex(&self) -> String {
        names::hex(&self.md5)
    }

    /// As in `x-goog-hash`.
    pub fn crc32c_base64(&self) -> String {
        base64(&self.crc32c.to_be_bytes())
    }
}

/// The tags that S3 gives a whole file: MD5 where it came in one piece, and MD5 of the MD5s of pieces of these sizes.
pub fn tags(path: &Path, sizes: impl Iterator<Item = u64>) -> Result<(String, String), Fault> {
    let (mut whole, mut all) = (Md5::new()?, Md5::new()?);
    let (mut offset, mut count) = (0, 0);
    for length in sizes {
        let mut part = Md5::new()?;
        pieces(Range { path, offset, length }, |piece| {
            whole.update(piece)?;
            part.update(piece)
        })?;
        all.update(&part.finish()?)?;
        (offset, count) = (offset + length, count + 1);
    }
    Ok((names::hex(&whole.finish()?), format!("{}-{count}", names::hex(&all.finish()?))))
}

/// Reads a piece of a file, of which a part is in memory at a time. Error: it cannot be read, or is shorter.
pub fn pieces(range: Range<'_>, mut each: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
    let failed = |error: &std::io::Error| local(range.path, error);
    let mut file = File::open(range.path).map_err(|e| failed(&e))?;
    file.seek(SeekFrom::Start(range.offset)).map_err(|e| failed(&e))?;
    let mut buffer = vec![0; READ_SIZE];
    let mut left = range.length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(READ_SIZE);
        file.read_exact(&mut buffer[..wanted]).map_err(|e| failed(&e))?;
        each(&buffer[..wanted])?;
        left -= wanted as u64;
    }
    Ok(())
}

pub fn base64(octets: &[u8]) -> String {
    openssl::base64::encode_block(octets)
}

struct Md5(Hasher);

impl Md5 {
    fn new() -> Result<Md5, Fault> {
        Hasher::new(MessageDigest::md5()).map(Md5).map_err(|_| no_md5())
    }

    fn update(&mut self, octets: &[u8]) -> Result<(), Fault> {
        self.0.update(octets).map_err(|_| no_md5())
    }

    fn finish(mut self) -> Result<[u8; 16], Fault> {
        let digest = self.0.finish().map_err(|_| no_md5())?;
        <[u8; 16]>::try_from(&*digest).map_err(|_| no_md5())
    }
}

fn no_md5() -> Fault {
    Fault::new(FaultKind::Local, "there is no MD5 here")
}

/// CRC-32C (Castagnoli), reflected, eight octets at a time.
#[derive(Debug, Clone)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(!0)
    }
}

impl Crc32c {
    pub fn update(&mut self, octets: &[u8]) {
        let mut crc = self.0;
        let (eights, rest) = octets.as_chunks::<8>();
        for eight in eights {
            let [a, b, c, d, e, f, g, h] = *eight;
            let [a, b, c, d] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
            let entry = |table: usize, octet: u8| TABLES[table][usize::from(octet)];
            crc = entry(7, a) ^ entry(6, b) ^ entry(5, c) ^ entry(4, d);
            crc ^= entry(3, e) ^ entry(2, f) ^ entry(1, g) ^ entry(0, h);
        }
        for octet in rest {
            crc = TABLES[0][usize::from(crc as u8 ^ octet)] ^ (crc >> 8);
        }
        self.0 = crc;
    }

    pub fn value(&self) -> u32 {
        !self.0
    }
}

/// `TABLES[n][x]`: what the octet `x` does to the sum with `n` more behind it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = (at as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][at] = crc;
        at += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut at = 0;
        while at < 256 {
            let before = tables[table - 1][at];
            tables[table][at] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            at += 1;
        }
        table += 1;
    }
    tables
}

const READ_SIZE: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::super::super::tests::Scratch;
    use super::*;

    #[test]
    fn crc32c_of_known_texts() {
        for (text, expected) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (b"The quick brown fox jumps over the lazy dog", 0x2262_0404),
        ] {
            let mut crc = Crc32c::default();
            for piece in text.chunks(7) {
                crc.update(piece);
            }
            assert_eq!(crc.value(), expected);
            let mut whole = Crc32c::default();
            whole.update(text);
            assert_eq!(whole.value(), expected);
        }
    }

    #[test]
    fn sums_of_a_file() {
        let scratch = Scratch::new("checksum");
        let path = scratch.path().join("f");
        std::fs::write(&path, b"..hello world").expect("it can be written");
        let range = Range { path: &path, offset: 2, length: 11 };
        let sums = Checksums::of(range).expect("it can be read");
        assert_eq!(sums.md5_hex(), "5eb63bbbe01eeed093cb22bb8f5acdc3");
        assert_eq!(sums.md5_base64(), "XrY7u+Ae7tCTyyK7j1rNww==");
        assert_eq!(sums.crc32c_base64(), "yZRlqg==");
        let longer = Checksums::of(Range { length: 12, ..range }).expect_err("it is shorter");
        assert_eq!(longer.kind, FaultKind::Local);

        std::fs::write(&path, b"hello world").expect("it can be written");
        let (whole, composite) = tags(&path, [6, 5].into_iter()).expect("it can be read");
        assert_eq!(whole, "5eb63bbbe01eeed093cb22bb8f5acdc3");
        // MD5 of MD5("hello ") and MD5("world").
        assert_eq!(composite, "e09e4fd6265b36115fe3db32df945d84-2");
    }
}
