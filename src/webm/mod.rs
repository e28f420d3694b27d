//! WebM and Matroska (RFC 9559) over EBML (RFC 8794): written while they grow, read wherever they end, repaired in place.
//!
//! Of its own: it knows nothing of RTP, rooms or the rest of this crate, no clock, no thread and no file system. What is
//! written to or read from implements [`std::io`]'s traits, or is bytes in memory.
//!
//! - [`Muxer`] says which octets go around a payload, and what completes a file; [`Writer`] does that for something that
//!   implements [`Write`](std::io::Write) and [`Seek`](std::io::Seek). Payloads are never copied.
//! - [`Reader`] gives what a file holds, block by block. It trusts no size, passes over damage, and needs memory for one
//!   element of the head or one payload.
//! - [`repair`] completes a file that was cut anywhere: every whole block is kept, head and cues are made again.
//! - [`opus`], [`vp9`], [`av1`] and [`avc`]: what has to be said about a codec, and what a block of it looks like.
//!
//! Units: nanoseconds in whatever ends in `_ns`, ticks of the file's timestamp scale (usually milliseconds) in `ticks`,
//! positions in octets from the beginning of the file unless they say otherwise.

use std::io;

pub mod ebml;
pub mod ids;

pub mod info;
pub mod track;

pub mod cues;

pub mod muxer;

pub mod writer;

pub mod reader;

pub mod repair;

pub mod av1;
pub mod avc;
pub mod opus;
pub mod vp9;

mod bits;

#[cfg(test)]
mod tests;

pub use cues::Cue;
pub use info::{Chapter, Info, Tag};
pub use muxer::{Block, Config, Finish, Frame, Muxer, Patch};
pub use reader::{Event, Reader};
pub use track::{Audio, Codec, Media, Track, Video};
pub use writer::Writer;

/// Why something was not done.
#[derive(Debug)]
pub enum Error {
    // The caller's.
    /// A head that is too small, or a scale or size that is out of range.
    Config,
    /// It is not there, it is taken, or it cannot be one.
    TrackNumber(u32),
    /// The uid is 0 or taken, or a field has no form in a file; of the track with this number.
    TrackField(u32),
    /// A payload, private data or a name is longer than what is written, or there are too many tracks.
    TooLarge,
    /// No file says that time.
    Timestamp,
    /// It lies behind, or so close that nothing fits in between.
    Position,
    // The file's.
    /// It does not begin like WebM or Matroska.
    NotMatroska,
    /// Not a single block is in it.
    NoBlocks,
    /// What would have to be written has no room in place: the blocks have to go into another file.
    NoRoom,
    // The world's.
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Config => write!(f, "the head of a Matroska file is too small, or a size is out of range"),
            Error::TrackNumber(number) => write!(f, "track number {number} is unknown, taken or out of range"),
            Error::TrackField(number) => write!(f, "track {number} says something that cannot be written"),
            Error::TooLarge => write!(f, "too large for a Matroska file"),
            Error::Timestamp => write!(f, "a timestamp is out of range"),
            Error::Position => write!(f, "the file is already as long as that, or nothing fits in between"),
            Error::NotMatroska => write!(f, "not a WebM or Matroska file"),
            Error::NoBlocks => write!(f, "the file holds no whole block"),
            Error::NoRoom => write!(f, "the file has no room for what is missing in it"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}
