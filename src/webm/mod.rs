//! WebM and Matroska (RFC 9559) over EBML (RFC 8794).
//!
//! Of its own: it knows nothing of RTP, rooms or the rest of this crate, no clock, no thread and no file system.
//!
//! - [`opus`], [`vp9`], [`av1`] and [`avc`]: what has to be said about a codec, and what a block of it looks like.

pub mod ebml;
pub mod ids;

pub mod av1;
pub mod avc;
pub mod opus;
pub mod vp9;

mod bits;
