//! Identifiers. Past the constructors there are only valid ones.

use std::fmt;
use std::sync::Arc;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// Empty.
    Empty,
    /// More than the allowed number of characters.
    TooLong,
    /// A character that is not allowed here.
    Character,
    /// A word the server keeps for itself (`sfu`).
    Reserved,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdError::Empty => "is empty",
            IdError::TooLong => "is too long",
            IdError::Character => "has a character that is not allowed",
            IdError::Reserved => "is reserved",
        })
    }
}

impl std::error::Error for IdError {}

/// A call's id: 1–64 characters of `[A-Za-z0-9_-]`, so that it is safe in a path and a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(Arc<str>);

impl RoomId {
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > 64 {
            return Err(IdError::TooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(IdError::Character);
        }
        Ok(RoomId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user's id, the `sub` of a token: 1–128 characters, none of them a control character; `sfu` is refused.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text == "sfu" {
            return Err(IdError::Reserved);
        }
        if text.chars().count() > 128 {
            return Err(IdError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::Character);
        }
        Ok(UserId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a further session of this user: `<userId>~<number>`.
    pub fn beside(&self, number: usize) -> Self {
        UserId(format!("{}~{number}", self.0).into())
    }

    /// With everything that is not ASCII percent-encoded. Not a name by which anybody is known.
    pub fn to_ascii(&self) -> Self {
        let mut ascii = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match byte {
                0x20..=0x7e => ascii.push(char::from(byte)),
                _ => ascii.push_str(&format!("%{byte:02X}")),
            }
        }
        UserId(ascii.into())
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    };
}
text_id!(RoomId);
text_id!(UserId);
text_id!(RecordingId);

/// A recording's id: `rec_` and 24 characters of `[0-9a-v]`, the time of its making first, so that ids sort by it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordingId(Arc<str>);

impl RecordingId {
    /// `unix_ms`: when it is made. `random`: 72 bits that nobody can guess.
    pub fn new(unix_ms: u64, random: [u8; 9]) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let bytes = unix_ms.to_be_bytes()[2..]
            .iter()
            .chain(&random)
            .fold((0u128, 0), |(all, count), byte| (all << 8 | u128::from(*byte), count + 1));
        debug_assert_eq!(bytes.1 * 8, 24 * 5);
        let digits = (0..24).rev().map(|place| char::from(DIGITS[(bytes.0 >> (place * 5)) as usize & 31]));
        RecordingId("rec_".chars().chain(digits).collect::<String>().into())
    }

    /// `None` for what no recording is called.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("rec_")?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'v');
        (digits.len() == 24 && digits.bytes().all(is_digit)).then(|| RecordingId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Index of a worker, and so of its shard: 0 to `WORKERS` - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

/// A connection in its worker's table. `generation` makes a reused slot a different key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    pub slot: u32,
    pub generation: u32,
}

/// A participant (and its session and peer) in its shard's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantKey {
    pub slot: u32,
    pub generation: u32,
}

/// A published track, unique in the process for its lifetime. On the wire `tr_` and 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u64);

impl TrackId {
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("tr_")?;
        if hex.len() != 16 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u64::from_str_radix(hex, 16).ok().map(TrackId)
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tr_{:016x}", self.0)
    }
}

impl fmt::Debug for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for TrackId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
