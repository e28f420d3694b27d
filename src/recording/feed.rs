//! What a shard tells the thread that records, in the order in which it happened, and what comes back.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Instant, SystemTime};

use str0m::format::Codec;
use str0m::media::MediaKind;

use crate::base::{RecordingId, RoomId, TrackId, UserId, WorkerId};

/// Hands it to the thread that records, or gives it back when that has too much to do or is gone. Never waits.
pub type SendFeed = Arc<dyn Fn(Feed) -> Result<(), Box<Feed>> + Send + Sync>;

/// From a shard to the recorder thread.
#[derive(Debug)]
pub enum Feed {
    /// A recording is wanted. It is answered by [`NoticeKind::Opened`] or [`NoticeKind::Refused`]; media comes only after that.
    Begin(Box<Begin>),
    /// What happened in it since the last batch. Nothing comes after [`Item::Finish`].
    Batch { recording: RecordingId, items: Vec<Item> },
}

/// What is known of a recording before it begins.
#[derive(Debug, Clone)]
pub struct Begin {
    pub recording: RecordingId,
    pub room: RoomId,
    /// The worker of the room, to which notices go.
    pub worker: WorkerId,
    pub at: Instant,
    pub wall: SystemTime,
    /// Who asked for it. `None`: the call's settings.
    pub by: Option<UserId>,
    pub audio_only: bool,
    /// Only these. `None`: everybody.
    pub participants: Option<Vec<UserId>>,
    /// Octets of payload that are under way from the shard to the thread: added by the one, taken off by the other.
    pub backlog: Arc<AtomicUsize>,
}

/// Something that happened in a recording.
#[derive(Debug)]
pub enum Item {
    Packet(Packet),
    /// A packet that is not recorded: it came before the first key frame, or in a pause. It says how long packets are under way.
    Arrival(Arrival),
    Report(Report),
    /// Somebody is in the call: also, at the beginning, for those who are already. One name may come again after `Left`.
    Joined {
        at: Instant,
        user: UserId,
        name: Option<String>,
        role: &'static str,
    },
    Left {
        at: Instant,
        user: UserId,
        reason: &'static str,
    },
    /// Packets of this track may come from here on.
    TrackAdded {
        at: Instant,
        track: TrackInfo,
    },
    TrackRemoved {
        at: Instant,
        track: u32,
    },
    /// No packets come until it is unmuted, for whatever reason.
    Muted {
        at: Instant,
        track: u32,
        muted: bool,
    },
    /// Who speaks from here on, loudest first.
    Speakers {
        at: Instant,
        users: Vec<UserId>,
    },
    /// Packets of this track were dropped here, because the thread had too much to do.
    Overflow {
        at: Instant,
        track: u32,
        packets: u32,
    },
    Paused {
        at: Instant,
    },
    Resumed {
        at: Instant,
    },
    /// Nothing comes any more. The file is to be completed.
    Finish {
        at: Instant,
        reason: EndReason,
    },
}

/// A track as a shard knows it.
#[derive(Debug, Clone)]
pub struct TrackInfo {
    /// From 1, never used twice in a recording; what [`Packet::track`] says.
    pub number: u32,
    pub id: TrackId,
    pub user: UserId,
    pub kind: MediaKind,
    /// `camera`, `microphone`, `screen` or `screen-audio`.
    pub source: &'static str,
    /// What the publisher calls it.
    pub name: Option<String>,
}

impl TrackInfo {
    pub fn is_screen(&self) -> bool {
        self.source.starts_with("screen")
    }
}

/// One RTP packet, decrypted, of the best encoding that its track has at the time.
#[derive(Debug, Clone)]
pub struct Packet {
    pub track: u32,
    /// The publisher's. Changes with the encoding: then a key frame begins.
    pub ssrc: u32,
    /// Of the track as it is recorded: a number is missing only when a packet is. Goes on over changes of the encoding.
    pub seq_no: u64,
    /// RTP time, the publisher's own of this SSRC.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    pub codec: Codec,
    /// The payload is RFC 2198, with `codec` inside.
    pub red: bool,
    pub marker: bool,
    /// Without padding.
    pub payload: Arc<[u8]>,
    pub arrival: Instant,
}

/// The times of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub track: u32,
    pub ssrc: u32,
    /// RTP time, the publisher's own of this SSRC.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    pub arrival: Instant,
}

/// What a sender report (RFC 3550 §6.4.1) says of an SSRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub track: u32,
    pub ssrc: u32,
    /// The publisher's clock, of which nothing is known but that it is one for all its tracks.
    pub ntp: SystemTime,
    /// RTP time at that moment.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    /// When it was learned, at the latest.
    pub arrival: Instant,
}

/// Why a recording ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody asked for it.
    Requested,
    /// The call is over: ended, or nobody is in it any more.
    CallEnded,
    ServerStopped,
    /// The longest or largest that a recording may be.
    Limit,
    /// There is not enough room on the disk any more.
    DiskFull,
    /// The disk does not take what is written.
    WriteFailed,
}

impl EndReason {
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Requested => "requested",
            EndReason::CallEnded => "call-ended",
            EndReason::ServerStopped => "server-stopped",
            EndReason::Limit => "limit",
            EndReason::DiskFull => "disk-full",
            EndReason::WriteFailed => "write-failed",
        }
    }
}

/// From the recorder thread to the shard of the room.
#[derive(Debug)]
pub struct Notice {
    pub room: RoomId,
    pub recording: RecordingId,
    pub what: NoticeKind,
}

#[derive(Debug)]
pub enum NoticeKind {
    /// The file is there; what is sent from now on is recorded.
    Opened,
    /// There will be none.
    Refused(Refusal),
    /// A key frame of this track is wanted.
    KeyframeWanted {
        track: u32,
    },
    /// It ends, on the thread's own account: the disk, a limit. The shard sends nothing more.
    Ended(EndReason),
    /// Everything is in its place, or it never will be. `duration_ms`: of the recording.
    Completed {
        duration_ms: u64,
        size: u64,
    },
    Failed {
        error: String,
    },
}

/// Why no recording is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Less than the configured minimum is free.
    DiskFull,
    /// As many as there may be are under way.
    TooMany,
    /// A directory or file could not be made. The text is for the log and for people.
    Failed(String),
    /// The thread has too much to do, or is gone.
    Busy,
}
