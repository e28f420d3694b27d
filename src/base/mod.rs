//! Ids, units and small machines that every other module may use. No domain, no I/O.

pub mod id;
pub mod limit;
pub mod queue;
pub mod time;
pub mod wheel;

pub use time::rfc3339;

pub use id::{ConnKey, ParticipantKey, RecordingId, RoomId, TrackId, UserId, WorkerId};

/// What a datagram carries, in the order in which a full queue keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// STUN, DTLS and RTCP: a connection dies without them.
    Control,
    Audio,
    Video,
}
