//! Makes a recording out of packets: whole frames of every track on one clock, in an order in which they can be written.
//!
//! [`Recorder`] is a machine. It is fed what [`feed`] carries from a shard to a recorder thread, and asked for [`Block`]s, for
//! key frames that are to be requested, and for [`Note`]s about what was lost. It opens no file and knows no rooms; the thread
//! around it is `storage`'s.
//!
//! ```text
//!   Packet ─► jitter: order, at most 500 ms ─► frames: whole ones, per codec ─► clock: one time for all ─► interleave ─► Block
//!   Report ────────────────────────────────────────────────────────────────────────┘
//! ```

pub mod command;

pub mod feed;

pub mod jitter;

pub mod frames;

pub mod clock;

pub mod interleave;

pub mod keyframe;

pub mod block;

pub mod recorder;

pub mod library;

pub mod manifest;
pub mod metadata;
pub mod names;
pub mod speakers;
pub mod upload;

pub use block::{Block, Description, Note, Payload, Quality};
pub use recorder::{Config, Recorder};
