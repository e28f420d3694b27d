//! Directories and free space, files that appear whole or not at all, and what is set aside for a full disk.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::recording::names;

/// Octets that this process may still write to the disk of a path.
pub fn free(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, for which all bits zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero, and the structure is ours for the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Other systems have other widths.
    #[allow(clippy::unnecessary_cast)]
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// Whether that is for want of room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Makes a directory and those above it, for nobody else, and sees to it that they are there after a power cut.
pub fn create_dir(root: &Path, below: &Path) -> io::Result<PathBuf> {
    let directory = root.join(below);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let mut at = directory.as_path();
    while let Some(above) = at.parent().filter(|_| at != root) {
        sync_dir(above);
        at = above;
    }
    Ok(directory)
}

/// Names of files in it are on the disk. A file system that cannot is not asked twice.
pub fn sync_dir(directory: &Path) {
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

/// A file that has its name only once all of it is on the disk.
pub fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(directory, name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(name))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    sync_dir(directory);
    Ok(())
}

/// Where a file is until it has its name.
pub fn temporary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{}", names::TEMPORARY))
}

/// Removes what somebody who was killed has left. Only for who has the recording's lock.
pub fn remove_temporaries(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.as_os_str().as_bytes().ends_with(names::TEMPORARY.as_bytes()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Octets of a file, and its SHA-256 in hexadecimal. `on_octets` is told what was read, and says whether to go on.
pub fn hash(path: &Path, mut on_octets: impl FnMut(u64) -> bool) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_SIZE];
    let mut sha = openssl::sha::Sha256::new();
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, names::hex(&sha.finish()))),
            Ok(read) => {
                sha.update(&buffer[..read]);
                size += read as u64;
                if !on_octets(read as u64) {
                    return Err(ErrorKind::Interrupted.into());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Room on the disk that a recording has for its end: when there is none left, this goes, and head, cues and the last lines of
/// the manifest take its place.
#[derive(Debug)]
pub struct Ballast(PathBuf);

impl Ballast {
    pub fn create(directory: &Path) -> io::Result<Ballast> {
        let ballast = Ballast(temporary(directory, "ballast"));
        let mut file = File::create(&ballast.0)?;
        // Written, since a hole has no room; and not all zeros, which some file systems make one of.
        let piece = [0x5a; 64 * 1024];
        for _ in 0..BALLAST_SIZE / piece.len() {
            file.write_all(&piece)?;
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The cues of twelve hours with four cameras take half of it.
const BALLAST_SIZE: usize = 1024 * 1024;
const READ_SIZE: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::Scratch;
    use super::*;

    #[test]
    fn files_appear_whole() {
        let scratch = Scratch::new("disk");
        let directory = create_dir(scratch.path(), Path::new("a/b")).expect("a directory");
        let mode = fs::metadata(&directory).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(free(&directory).expect("a disk") > 0);
        assert!(free(&directory.join("not there")).is_err());
        write_whole(&directory, "file", b"abc").expect("it can be written");
        let (size, sha256) = hash(&directory.join("file"), |_| true).expect("it can be read");
        assert_eq!((size, &sha256[..16]), (3, "ba7816bf8f01cfea"));
        assert!(hash(&directory.join("file"), |_| false).is_err());
        assert!(write_whole(&directory, "no/file", b"abc").is_err());

        let ballast = Ballast::create(&directory).expect("room");
        assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 2);
        drop(ballast);
        fs::write(temporary(&directory, "x"), b"").expect("it can be written");
        remove_temporaries(&directory).expect("it can be removed");
        assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 1);
    }
}
