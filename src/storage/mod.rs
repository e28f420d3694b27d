//! Recordings on disk: written while the call runs, completed after it, repaired after a crash, read for those who download.
//!
//! Everything here blocks, on threads of its own; no event loop waits for any of it.
//!
//! - [`recorder`]: starts and stops the threads, and is handed what shards send
//! - [`thread`]: one that records, with a [`machine`] and a [`live`] recording for each that runs
//! - [`finisher`]: the one that does what comes after: [`finish`] with [`parts`], [`poster`] and [`source`], and [`repair`]
//! - [`journal`]: the manifest, and the lock on a recording
//! - [`outbox`]: what the database is to know, kept until it takes it
//! - [`store`]: what a store of objects has to do, and [`cloud`]: those that there are
//! - [`upload`]: how a recording gets into one; [`uploader`]: the threads that do it
//! - [`disk`], [`files`], [`remote`]: directories and free space; octets for downloads, of files here and of objects
//!
//! ```text
//!   shards ──Feed──► thread ──► recording.webm, manifest.jsonl
//!      ▲               │ Job
//!      └──Notice─── finisher ──► files of participants, metadata.json
//!                      │ └──Update──► db ◄─────┐
//!                      └──────────► uploader ──┴─► store
//! ```

pub mod cloud;
pub mod disk;
pub mod files;
pub mod finish;
pub mod finisher;
pub mod journal;
pub mod live;
pub mod machine;
pub mod outbox;
pub mod parts;
pub mod poster;
pub mod recorder;
pub mod remote;
pub mod repair;
pub mod source;
#[cfg(test)]
mod standin;
pub mod store;
pub mod thread;
pub mod upload;
pub mod uploader;

#[cfg(test)]
pub(crate) mod tests;
