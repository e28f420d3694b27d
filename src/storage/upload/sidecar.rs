//! `storage.json` in the directory of a recording: where its files are. Beside `metadata.json` it is what stays of a recording that
//! is in a store, so that a database that is lost can be made again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::recording::library::{Entry, Remote};

pub const NAME: &str = "storage.json";

/// All that is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sidecar {
    version: u32,
    files: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    name: String,
    sha256: String,
    #[serde(flatten)]
    remote: Remote,
}

/// The content for a recording, all of whose files are in the store.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let place = |file: &crate::recording::library::FileEntry| {
        let remote = file.remote.clone()?;
        Some(Place { name: file.name.clone(), sha256: file.sha256.clone(), remote })
    };
    let sidecar = Sidecar { version: VERSION, files: entry.files.iter().filter_map(place).collect() };
    // Plain structures with names for keys have a form in JSON.
    serde_json::to_vec_pretty(&sidecar).unwrap_or_default()
}

/// Puts what the file says into an entry; a file that has changed since is not the one that is there. Whether all of it is in a
/// store.
pub fn apply(directory: &Path, entry: &mut Entry) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(directory.join(NAME)).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut bytes));
    let Some(sidecar) = read.ok().and_then(|_| serde_json::from_slice::<Sidecar>(&bytes).ok()) else { return false };
    for file in &mut entry.files {
        let place = sidecar.files.iter().find(|place| place.name == file.name && place.sha256 == file.sha256);
        file.remote = place.map(|place| place.remote.clone());
    }
    !entry.files.is_empty() && entry.files.iter().all(|file| file.remote.is_some())
}

const VERSION: u32 = 1;
/// Octets that are read of it: ten thousand files.
const SIZE_MAX: u64 = 8 * 1024 * 1024;
