//! How one recording gets into a store of objects.
//!
//! - [`machine`]: decides what is next; knows no store, file, clock or thread
//! - [`task`]: does it, with a [`Store`](super::store::Store) and the files of the recording
//! - [`backoff`]: when to try again
//! - [`sidecar`]: the file that says where a recording is, for a database that is lost
//!
//! What has to survive a kill is in [`crate::recording::upload`]; [`super::uploader`] has the threads.
//!
//! ```text
//!   grown ─► create ─► parts 2, 3, …        while the call is recorded
//!   ended ─► parts … and 1 ─► complete ─► verify ─► next file … ─► all verified ─► local copies go ─► completed
//!            or one put ─────────────────┘
//! ```
//!
//! Before each step that changes something in the store it is written down, and after it what came of it. Whoever is killed in
//! between finds out: a put or completion that may have happened is verified before it is done again, a part that was sent twice
//! is one part. One thing remains: a multipart upload that the store has made, and whose id could not be written down any more,
//! is known to nobody. It holds no parts; stores that keep such uploads for ever should have a rule that aborts incomplete ones
//! after a few days.

pub mod backoff;
#[cfg(any(test, fuzzing))]
pub mod fake;
pub mod machine;
pub mod sidecar;
pub mod task;

#[cfg(test)]
mod tests;

use crate::recording::library::Entry;

/// The key of a file, below the store's prefix.
pub fn key(directory: &std::path::Path, name: &str) -> String {
    format!("{}/{name}", directory.to_string_lossy())
}

/// Octets of all files.
pub fn total(entry: &Entry) -> u64 {
    entry.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
}
