//! What a machine wants done: one request to the store, or work on local files. Blocks; nothing is held in memory but a buffer.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::sidecar;
use crate::recording::names;
use crate::storage::disk;
use crate::storage::store::{Fault, FaultKind, Object, PartTag, Range, Sent, Store, Stored, UploadId};

/// Something to be done. Names are of files of the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    Create {
        key: String,
        content_type: String,
    },
    /// These octets of a file, as a part.
    Part {
        key: String,
        content_type: String,
        upload: UploadId,
        number: u32,
        name: String,
        offset: u64,
        length: u64,
    },
    /// Whether these octets are still those that were sent.
    Check {
        name: String,
        offset: u64,
        length: u64,
        sha256: String,
    },
    Complete {
        key: String,
        content_type: String,
        upload: UploadId,
        parts: Vec<PartTag>,
    },
    /// A whole file, which is so long and has this SHA-256.
    Put {
        key: String,
        content_type: String,
        name: String,
        size: u64,
        sha256: String,
    },
    /// Whether the object is what was sent.
    Verify {
        key: String,
        name: String,
        size: u64,
        parts: Vec<PartTag>,
        etag: Option<String>,
    },
    Abort {
        key: String,
        content_type: String,
        upload: UploadId,
    },
    Delete {
        key: String,
    },
    /// Writes down where everything is, then removes local copies.
    Settle {
        sidecar: Vec<u8>,
        remove: Vec<String>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Created(UploadId),
    /// With the SHA-256 of what was sent.
    Sent(PartTag, String),
    Checked(bool),
    Stored(Stored),
    /// `None`: it is not there, or is something else.
    Verified(Option<Stored>),
    Nothing,
}

/// Does it. `directory`: that of the recording.
pub fn run(task: &Task, store: &dyn Store, directory: &Path) -> Result<Done, Fault> {
    match task {
        Task::Create { key, content_type } => store.create(Object { key, content_type }).map(Done::Created),
        Task::Part { key, content_type, upload, number, name, offset, length } => {
            let path = directory.join(name);
            let sha256 = hash(&path, *offset, *length)?;
            let range = Range { path: &path, offset: *offset, length: *length };
            let tag = store.part(Object { key, content_type }, upload, *number, range)?;
            Ok(Done::Sent(tag, sha256))
        }
        Task::Check { name, offset, length, sha256 } => match hash(&directory.join(name), *offset, *length) {
            Ok(found) => Ok(Done::Checked(found == *sha256)),
            Err(Short::Short) => Ok(Done::Checked(false)),
            Err(error) => Err(error.into()),
        },
        Task::Complete { key, content_type, upload, parts } => {
            store.complete(Object { key, content_type }, upload, parts).map(Done::Stored)
        }
        Task::Put { key, content_type, name, size, sha256 } => {
            let path = directory.join(name);
            if fs::metadata(&path).map_err(|error| local(&path, &error))?.len() != *size
                || hash(&path, 0, *size)? != *sha256
            {
                let text = format!("{name} is not the file that was recorded any more");
                return Err(Fault::new(FaultKind::Local, text));
            }
            store.put(Object { key, content_type }, Range { path: &path, offset: 0, length: *size }).map(Done::Stored)
        }
        Task::Verify { key, name, size, parts, etag } => {
            let Some(stored) = store.head(key)?.filter(|stored| stored.size == *size) else {
                return Ok(Done::Verified(None));
            };
            let path = directory.join(name);
            let agrees = store.agrees(key, Sent { size: *size, path: &path, parts, etag: etag.as_deref() })?;
            Ok(Done::Verified(agrees.then_some(stored)))
        }
        Task::Abort { key, content_type, upload } => match store.abort(Object { key, content_type }, upload) {
            Err(fault) if fault.kind != FaultKind::Missing => Err(fault),
            _ => Ok(Done::Nothing),
        },
        Task::Delete { key } => match store.delete(key) {
            Err(fault) if fault.kind != FaultKind::Missing => Err(fault),
            _ => Ok(Done::Nothing),
        },
        Task::Settle { sidecar, remove } => {
            settle(directory, sidecar, remove).map_err(|error| local(directory, &error))?;
            Ok(Done::Nothing)
        }
    }
}

fn settle(directory: &Path, sidecar: &[u8], remove: &[String]) -> io::Result<()> {
    disk::write_whole(directory, sidecar::NAME, sidecar)?;
    for name in remove {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Why octets have no hash.
#[derive(Debug)]
enum Short {
    /// The file ends before.
    Short,
    Fault(Fault),
}

impl From<Short> for Fault {
    fn from(short: Short) -> Fault {
        match short {
            Short::Short => Fault::new(FaultKind::Local, "a file is shorter than it was"),
            Short::Fault(fault) => fault,
        }
    }
}

/// SHA-256 of a piece of a file, in hexadecimal.
fn hash(path: &Path, offset: u64, length: u64) -> Result<String, Short> {
    let failed = |error: io::Error| Short::Fault(local(path, &error));
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut left = length;
    let mut buffer = vec![0; BUFFER];
    let mut sha = openssl::sha::Sha256::new();
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        match file.read(&mut buffer[..most]) {
            Ok(0) => return Err(Short::Short),
            Ok(read) => {
                sha.update(&buffer[..read]);
                left -= read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(names::hex(&sha.finish()))
}

/// Where recordings are is nobody's business who may see one.
fn local(path: &Path, error: &io::Error) -> Fault {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Fault::new(FaultKind::Local, format!("{name}: {error}"))
}

const BUFFER: usize = 256 * 1024;
