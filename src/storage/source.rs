//! A file that is hashed while it is read, so that it need not be read again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::recording::names;

/// Everything from the beginning goes through the hash once, in order, whatever is read twice or passed over.
pub struct Hashing {
    file: File,
    /// `None`: nobody wants to know.
    sha: Option<openssl::sha::Sha256>,
    hashed: u64,
    at: u64,
}

impl Hashing {
    pub fn new(file: File, is_wanted: bool) -> Hashing {
        Hashing { file, sha: is_wanted.then(openssl::sha::Sha256::new), hashed: 0, at: 0 }
    }

    /// Octets of the whole file and its SHA-256 in hexadecimal; `None` where it was not wanted.
    pub fn finish(mut self) -> io::Result<Option<(u64, String)>> {
        self.hash_to(u64::MAX)?;
        Ok(self.sha.map(|sha| (self.hashed, names::hex(&sha.finish()))))
    }

    /// What was passed over, up to a position or the end.
    fn hash_to(&mut self, position: u64) -> io::Result<()> {
        let Some(sha) = self.sha.as_mut().filter(|_| self.hashed < position) else { return Ok(()) };
        self.file.seek(SeekFrom::Start(self.hashed))?;
        let mut left = (&self.file).take(position - self.hashed);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match left.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    sha.update(&buffer[..read]);
                    self.hashed += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        Ok(())
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hash_to(self.at)?;
        let read = self.file.read(buffer)?;
        if let Some(sha) = &mut self.sha
            && let Some(unseen) = buffer[..read].get(self.hashed.saturating_sub(self.at) as usize..)
        {
            sha.update(unseen);
            self.hashed += unseen.len() as u64;
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Hashing {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(position)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;

    #[test]
    fn every_octet_once_in_any_order() {
        let scratch = Scratch::new("hashing");
        let path = scratch.path().join("file");
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i ^ i >> 7) as u8).collect();
        std::fs::write(&path, &bytes).expect("room");
        let expected = Some((bytes.len() as u64, names::hex(&openssl::sha::sha256(&bytes))));
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut source = Hashing::new(File::open(&path).expect("a file"), true);
            for _ in 0..random.usize(0..10) {
                let at = source.seek(SeekFrom::Start(random.u64(0..310_000))).expect("any place") as usize;
                let mut buffer = vec![0; random.usize(0..100_000)];
                let read = source.read(&mut buffer).expect("a file");
                assert_eq!(buffer[..read], bytes[at.min(bytes.len())..][..read]);
            }
            assert_eq!(source.finish().expect("a file"), expected);
        }
        let source = Hashing::new(File::open(&path).expect("a file"), false);
        assert_eq!(source.finish().expect("a file"), None);
    }
}
