//! Recordings on disk: written while the call runs, completed after it, repaired after a crash, read for those who download.
//!
//! Everything here blocks, on threads of its own; no event loop waits for any of it.
//!
//! - [`recorder`]: the thread that takes what shards send, and [`live`]: one recording on it
//! - [`finish`]: files of participants, hashes, metadata, captions, a poster
//! - [`repair`]: what a crash cut off is completed
//! - [`disk`], [`files`]: directories and free space; octets for downloads

pub mod disk;
pub mod files;
pub mod finish;
pub mod live;
pub mod recorder;
pub mod repair;
